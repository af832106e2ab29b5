"""The graph and the backward pass: order, accumulation, freeing, hooks, leaves, writes, higher orders, threads."""

from __future__ import annotations

import gc
import threading
import weakref

import numpy as np
import pytest

from gradcheck_suite import engine
from gradcheck_suite.engine import (
    EngineError,
    Function,
    GraphFreedError,
    InplaceError,
    NotDifferentiableError,
    Tensor,
    enable_grad,
    grad,
    is_grad_enabled,
    jvp,
    no_grad,
    op_count,
    set_grad_enabled,
    vjp,
)
from gradcheck_suite.engine import ops as e


def leaf(value, **options):
    return Tensor(value, requires_grad=True, **options)


# ------------------------------------------------------------------------------------------ depth and sharing


@pytest.mark.parametrize("step", [lambda y: y + 1e-6, lambda y: y * 1.000001, e.sin, lambda y: (y + y) * 0.5])
def test_a_chain_of_100_000_operations(step):
    x = y = leaf(0.5)
    for _ in range(100_000):
        y = step(y)
    tail = weakref.ref(y.grad_fn)
    y.backward()
    assert np.isfinite(x.grad.item())
    del y  # must not recurse into the chain
    assert tail() is None


def test_a_deep_graph_that_was_never_run_backward_is_dropped_at_once():
    y = leaf(0.5)
    for _ in range(100_000):
        y = e.exp(y * 0.1)
    first = weakref.ref(y.grad_fn)
    gc.disable()
    try:
        del y
        assert first() is None  # by reference counts alone: a graph contains no cycle
    finally:
        gc.enable()


def test_create_graph_on_a_deep_chain():
    x = y = leaf(0.5)
    for _ in range(5_000):
        y = y * 1.0001
    (g,) = grad(y * y, x, create_graph=True)
    (h,) = grad(g, x)
    np.testing.assert_allclose(h.item(), 2 * 1.0001**10_000)


def test_shared_use_accumulates():
    x = leaf(3.0)
    y = x * x + x
    (y * y + x).backward()
    np.testing.assert_allclose(x.grad.item(), 2 * 12 * 7 + 1)


def test_fan_out_sums_once_per_consumer_and_leaves_shared_cotangents_alone():
    x = leaf(np.ones(4))
    a, b = leaf(np.ones(4)), leaf(np.ones(4))
    parts = [x * float(k) for k in range(10)]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    (total + a + b).sum().backward()
    assert x.grad.data.tolist() == [45.0] * 4
    assert a.grad.data.tolist() == b.grad.data.tolist() == [1.0] * 4
    a.grad.zero_()
    assert b.grad.data.tolist() == [1.0] * 4  # one cotangent, two gradients: not one buffer


def test_diamond_runs_every_node_once():
    x = leaf(0.3)
    y = e.sin(x)
    z = y * y + y * y * y + y
    with op_count() as count:
        z.backward()
    assert count.by_name["cos"] == 1
    np.testing.assert_allclose(x.grad.item(), np.cos(0.3) * (1 + 2 * np.sin(0.3) + 3 * np.sin(0.3) ** 2))


def test_backward_adds_to_grad():
    x = leaf([1.0, 2.0])
    (x * 2.0).sum().backward()
    (x * 3.0).sum().backward()
    assert x.grad.data.tolist() == [5.0, 5.0]


# ----------------------------------------------------------------------------------------- freeing, retaining


def test_second_backward_through_a_freed_graph():
    x = leaf(2.0)
    y = x * x
    y.backward()
    with pytest.raises(
        GraphFreedError, match=r"backward through multiply failed: .* freed by an earlier backward"
    ):
        y.backward()


def test_retain_graph():
    x = leaf(2.0)
    y = x * x
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad.item() == 8.0


def test_backward_drops_saved_values():
    x = leaf(np.ones(3))
    hidden = e.exp(x)
    saved = weakref.ref(hidden)
    y = (hidden * hidden).sum()
    del hidden
    assert saved() is not None
    y.backward()
    assert saved() is None
    assert y.grad_fn is not None


def test_grad_frees_only_what_it_ran():
    x, w = leaf(2.0), leaf(3.0)
    y = x * x
    z = y * w
    grad(z, w, retain_graph=True)
    grad(z, w)
    y.backward()  # untouched: it does not lead to w
    assert x.grad.item() == 4.0


# --------------------------------------------------------------------------------------------- higher orders


def test_third_order():
    x = leaf(0.7)
    g1 = grad(e.sin(x * x), x, create_graph=True)[0]
    g2 = grad(g1, x, create_graph=True)[0]
    g3 = grad(g2, x)[0]
    s, c = np.sin(0.49), np.cos(0.49)
    np.testing.assert_allclose(g1.item(), 1.4 * c)
    np.testing.assert_allclose(g2.item(), 2 * c - 4 * 0.49 * s)
    np.testing.assert_allclose(g3.item(), -12 * 0.7 * s - 8 * 0.343 * c)
    assert not g3.requires_grad


def test_backward_with_create_graph_leaves_a_differentiable_grad():
    x = leaf(2.0)
    (x**3).backward(create_graph=True)
    assert x.grad.requires_grad
    (h,) = grad(x.grad, x)
    assert h.item() == 12.0


def test_gradient_penalty():
    x, w = leaf([1.0, 2.0]), leaf([0.5, -1.0])
    (g,) = grad(e.tanh(x * w).sum(), x, create_graph=True)
    (g * g).sum().backward()

    def penalty(w):
        return np.sum((w * (1 - np.tanh([1.0, 2.0] * w) ** 2)) ** 2)

    for i in range(2):
        d = np.eye(2)[i] * 1e-6
        np.testing.assert_allclose(
            w.grad.data[i], (penalty(w.data + d) - penalty(w.data - d)) / 2e-6, rtol=1e-6
        )


# -------------------------------------------------------------------------------------------- forward mode


def test_jvp_and_its_nestings():
    f = lambda x: e.sin(x) * x
    x = leaf(0.6)
    first = np.cos(0.6) * 0.6 + np.sin(0.6)
    second = 2 * np.cos(0.6) - 0.6 * np.sin(0.6)
    out, tangent = jvp(f, (x,), (1.0,))
    np.testing.assert_allclose([out.item(), tangent.item()], [np.sin(0.6) * 0.6, first])
    np.testing.assert_allclose(grad(tangent, x)[0].item(), second)  # reverse over forward
    forward_over_reverse = jvp(lambda x: grad(f(x), x, create_graph=True)[0], (x,), (1.0,))[1]
    np.testing.assert_allclose(forward_over_reverse.item(), second)
    no_graph = jvp(lambda x: grad(f(x), x)[0], (x,), (1.0,))[1]
    np.testing.assert_allclose(no_graph.item(), second)
    twice = jvp(lambda x: jvp(f, (x,), (1.0,))[1], (x,), (1.0,))[1]
    np.testing.assert_allclose(twice.item(), second)
    through_vjp = jvp(lambda x: vjp(f, x)[1](1.0)[0], (Tensor(0.6),), (1.0,))[1]
    np.testing.assert_allclose(through_vjp.item(), second)


def test_hessian_vector_products_agree_in_all_four_orders():
    rng = np.random.default_rng(0)
    a, v = rng.normal(size=(4, 4)), rng.normal(size=4)
    f = lambda x: e.logsumexp(e.matmul(a, e.tanh(x)))
    x = leaf(rng.normal(size=4))
    gradient = lambda x: grad(f(x), x, create_graph=True)[0]
    reverse = grad(gradient(x), x, v)[0].data
    forward = jvp(gradient, (x,), (v,))[1].data
    mixed = grad(jvp(f, (x,), (v,))[1], x)[0].data
    np.testing.assert_allclose(forward, reverse, rtol=1e-12)
    np.testing.assert_allclose(mixed, reverse, rtol=1e-12)


def test_levels_are_not_confused():
    """d/dx [x * d/dy (x + y)] is 1: the tangent of x must not leak into the derivative in y."""
    inner = lambda x: x * jvp(lambda y: x + y, (Tensor(1.0),), (1.0,))[1]
    assert jvp(inner, (Tensor(2.0),), (1.0,))[1].item() == 1.0
    closure = lambda x: x * vjp(lambda y: x * y, x)[1](1.0)[0]
    x = leaf(3.0)
    assert grad(closure(x), x)[0].item() == 6.0


def test_jvp_of_a_constant_and_of_several_outputs():
    out, tangent = jvp(lambda x: (x * 2.0, Tensor([1.0, 2.0])), (Tensor(1.0),), (3.0,))
    assert [t.data.tolist() for t in out] == [2.0, [1.0, 2.0]]
    assert [t.data.tolist() for t in tangent] == [6.0, [0.0, 0.0]]
    with pytest.raises(EngineError, match=r"shapes \[\(\)\] and tangents \[\(2,\)\]"):
        jvp(lambda x: x, (Tensor(1.0),), ([1.0, 2.0],))


def test_jvp_leaves_nothing_behind_after_an_error():
    def fails(x):
        raise KeyError("inside")

    with pytest.raises(KeyError):
        jvp(fails, (Tensor(1.0),), (1.0,))
    from gradcheck_suite.engine.modes import THREAD

    assert THREAD.mode.levels == ()


# -------------------------------------------------------------------------------------------- vjp and grad


def test_vjp_pulls_back_repeatedly_and_gives_zeros_for_the_unused():
    (out, _), pullback = vjp(lambda x, y: (x * x, x + 1.0), Tensor([1.0, 2.0]), Tensor(5.0))
    assert out.data.tolist() == [1.0, 4.0]
    for _ in range(2):
        gx, gy = pullback([1.0, 1.0], [0.0, 10.0])
        assert gx.data.tolist() == [2.0, 14.0]
        assert gy.item() == 0.0
    with pytest.raises(EngineError, match="1 cotangents for 2 outputs"):
        pullback([1.0, 1.0])


def test_vjp_of_vjp():
    x = leaf(0.4)
    (second,) = vjp(lambda x: vjp(e.sin, x)[1](1.0)[0], x)[1](1.0)
    np.testing.assert_allclose(second.item(), -np.sin(0.4))


def test_grad_of_intermediate_several_outputs_and_unused():
    x, unused = leaf([1.0, 2.0]), leaf(1.0)
    y = x * 2.0
    z = y * y
    gy, gx = grad(z.sum(), [y, x], retain_graph=True)
    assert gy.data.tolist() == [4.0, 8.0]
    assert gx.data.tolist() == [8.0, 16.0]
    (both,) = grad([z.sum(), y], x, [None, [1.0, 10.0]], retain_graph=True)
    assert both.data.tolist() == [10.0, 36.0]
    assert x.grad is None
    with pytest.raises(EngineError, match=r"input 1, tensor 'spare' of shape \(\), float64, was not used"):
        grad(z.sum(), [x, leaf(1.0, label="spare")], retain_graph=True)
    assert grad(z.sum(), [unused], allow_unused=True) == (None,)


def test_piecewise_constant_gives_zeros_not_unused():
    x = leaf([0.5, 1.5])
    assert grad(e.floor(x).sum(), x)[0].data.tolist() == [0.0, 0.0]


def test_backward_into_chosen_inputs():
    x, w = leaf(2.0), leaf(3.0)
    y = x * w
    (y * y).backward(inputs=[x, y])
    assert (x.grad.item(), y.grad.item(), w.grad) == (36.0, 12.0, None)


def test_a_cotangent_is_needed_unless_a_real_scalar():
    x = leaf([1.0, 2.0])
    with pytest.raises(EngineError, match=r"of shape \(2,\), float64 failed: no cotangent was given"):
        (x * x).backward()
    (x * x).backward([1.0, 10.0])
    assert x.grad.data.tolist() == [2.0, 40.0]
    leaf([3.0]).backward()
    with pytest.raises(EngineError, match="no cotangent"):
        leaf(1j).backward()
    with pytest.raises(EngineError, match=r"cotangent has shape \(3,\)"):
        (x * x).backward([1.0, 2.0, 3.0])
    with pytest.raises(EngineError, match="cotangent is complex"):
        (x * x).backward([1j, 1.0])
    with pytest.raises(EngineError, match="does not require grad and has no grad_fn"):
        Tensor(1.0).backward()


def test_a_missing_vjp_is_loud():
    @engine.primitive(samples=lambda draw: [], registry={})
    def scale(x, factor):
        return x * factor

    scale.vjp(x=lambda g, out, x, factor: g * factor)
    x, factor = leaf(2.0), leaf(3.0)
    assert grad(scale(x, factor), x)[0].item() == 3.0
    with pytest.raises(NotDifferentiableError, match="no VJP is declared for its argument 'factor'"):
        grad(scale(x, factor), factor)


def test_a_vjp_of_the_wrong_shape_is_refused():
    @engine.primitive(samples=lambda draw: [], registry={})
    def first(x):
        return x[0]

    first.vjp(x=lambda g, out, x: g)
    with pytest.raises(
        EngineError,
        match=r"through first failed: its VJP returned shape \(\) for an argument of shape \(2,\)",
    ):
        first(leaf([1.0, 2.0])).backward()


# ------------------------------------------------------------------------------------------------ complex


def test_conjugate_convention():
    z = leaf(1.0 + 2.0j)
    e.real(z * z * (3.0 - 1.0j)).backward()
    np.testing.assert_allclose(z.grad.item(), np.conj(2 * (1 + 2j) * (3 - 1j)))
    w = leaf(3.0 - 4.0j)
    (abs(w) ** 2).backward()
    np.testing.assert_allclose(w.grad.item(), 2 * (3 - 4j))  # dL/dRe + i dL/dIm


def test_a_real_argument_gets_a_real_gradient():
    x = leaf([1.0, 2.0])
    z = Tensor([1j, 2.0 + 1j])
    e.real(x * z * (1 - 1j)).sum().backward()
    assert x.grad.dtype == np.float64
    assert x.grad.data.tolist() == [1.0, 3.0]


# ---------------------------------------------------------------------------------------- hooks, retained


def test_hooks_see_the_complete_gradient_and_may_replace_it():
    x = leaf(2.0)
    y = x * 3.0
    seen = []
    handle = y.register_hook(lambda g: seen.append(g.item()))
    y.register_hook(lambda g: g * 10.0)
    (y * y + y).backward(retain_graph=True)
    assert seen == [13.0]
    assert x.grad.item() == 390.0
    handle.remove()
    handle.remove()
    (y * y + y).backward()
    assert seen == [13.0]


def test_hook_on_a_leaf_and_a_wrong_hook():
    x = leaf([1.0, 2.0], label="w")
    handle = x.register_hook(lambda g: -g)
    (x * 2.0).sum().backward()
    assert x.grad.data.tolist() == [-2.0, -2.0]
    handle.remove()
    x.register_hook(lambda g: g.sum())
    with pytest.raises(EngineError, match=r"it returned \(\) in place of a Tensor of shape \(2,\)"):
        (x * 2.0).sum().backward()
    with pytest.raises(EngineError, match="does not require grad"):
        Tensor(1.0).register_hook(print)


def test_retain_grad():
    x = leaf(2.0)
    y, z = x * x, x * 5.0
    y.retain_grad()
    (y * y * z).backward()
    np.testing.assert_allclose(y.grad.item(), 2 * 4 * 10)
    assert z.grad is None
    with pytest.raises(EngineError, match="does not require grad"):
        Tensor(1.0).retain_grad()


def test_a_hook_may_keep_its_gradient():
    x = leaf(np.ones(2))
    kept = []
    x.register_hook(lambda g: kept.append(g))
    (x + x).sum().backward()
    (x + x).sum().backward()
    assert [k.data.tolist() for k in kept] == [[2.0, 2.0], [2.0, 2.0]]
    assert x.grad.data.tolist() == [4.0, 4.0]


# ------------------------------------------------------------------------------------------ recording off


def test_grad_modes():
    x = leaf(1.0)
    with no_grad():
        assert not (x * 2.0).requires_grad
        with enable_grad():
            assert (x * 2.0).requires_grad
        assert not is_grad_enabled()
    assert is_grad_enabled()

    @no_grad()
    def fibonacci(n):
        assert not is_grad_enabled()
        return x if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

    assert not fibonacci(5).requires_grad
    set_grad_enabled(False)
    assert not is_grad_enabled()
    set_grad_enabled(True)
    with set_grad_enabled(False):
        assert not is_grad_enabled()
    assert is_grad_enabled()
    with pytest.raises(KeyError), no_grad():
        raise KeyError
    assert is_grad_enabled()


def test_backward_restores_recording_after_an_error():
    x = leaf(1.0)
    y = x * x
    y.backward()
    with no_grad(), pytest.raises(GraphFreedError):
        y.backward(create_graph=True)
    assert is_grad_enabled()


def test_detach_cuts():
    x = leaf(3.0)
    (x * x.detach()).backward()
    assert x.grad.item() == 3.0


# ------------------------------------------------------------------------------------------ writes in place


def test_a_write_moves_the_tensor_along_in_the_graph():
    x = leaf([1.0, 2.0])
    y = x * 1.0
    y.mul_(3.0).add_(x)
    y[0] = 10.0
    (y * y).sum().backward()
    assert y.data.tolist() == [10.0, 8.0]
    assert x.grad.data.tolist() == [0.0, 64.0]


def test_augmented_assignment_is_in_place():
    x = leaf(2.0)
    y = x * 1.0
    alias = y
    y += 1.0
    y *= x
    y -= 1.0
    y /= 2.0
    assert alias is y
    assert y.version == 4
    y.backward()
    assert x.grad.item() == 2.5


def test_leaf_that_requires_grad_refuses_writes_unless_unrecorded():
    w = leaf([1.0, 2.0], label="w")
    for write in (lambda: w.add_(1.0), lambda: w.zero_(), lambda: w.__setitem__(0, 1.0)):
        with pytest.raises(
            EngineError,
            match=r"on tensor 'w' of shape \(2,\), float64 failed: it is a leaf that requires grad",
        ):
            write()
    buffer = w.data
    with no_grad():
        w -= 0.5
    assert w.data is buffer
    assert buffer.tolist() == [0.5, 1.5]
    assert w.is_leaf
    assert w.requires_grad


def test_saved_input_overwritten():
    x = leaf([1.0, 2.0])
    y = e.clone(x)
    y.label = "activation"
    z = y * y
    y.add_(1.0)
    with pytest.raises(
        InplaceError,
        match=r"through multiply failed: tensor 'activation' of shape \(2,\), float64, saved by multiply at version 0, "
        r"is at version 1. add_ overwrote it",
    ):
        z.sum().backward()


def test_saved_output_overwritten():
    x = leaf([1.0, 2.0])
    y = e.exp(x)
    y.mul_(2.0)
    with pytest.raises(InplaceError, match=r"through exp failed: its result of shape \(2,\).*mul_ overwrote"):
        y.sum().backward()


def test_overwriting_what_nobody_needs_is_fine():
    x = leaf([1.0, 2.0])
    y = x + 1.0
    z = y.sum()
    y.zero_()
    z.backward()
    assert x.grad.data.tolist() == [1.0, 1.0]


def test_write_through_a_detached_alias_is_noticed():
    x = leaf([1.0, 2.0])
    y = x * 1.0
    z = y * y
    y.detach().add_(1.0)
    with pytest.raises(InplaceError, match="add_ overwrote"):
        z.sum().backward()


def test_no_write_reaches_a_tensor_that_shares_the_buffer():
    base = Tensor(np.arange(4.0))
    for other in (
        base.reshape(2, 2),
        base[1:],
        e.real(base),
        base.astype("float64"),
        e.broadcast_to(base, (1, 4)),
    ):
        before = other.data.copy()
        base.add_(1.0)
        np.testing.assert_array_equal(other.data, before)
        if other.data.flags.writeable:
            kept = base.data.copy()
            other.zero_()
            np.testing.assert_array_equal(base.data, kept)


def test_mul_in_place_by_a_tensor_that_needs_the_old_value():
    x, w = leaf(3.0), leaf(5.0)
    y = x * 1.0
    y.mul_(w)
    y.backward()
    assert (x.grad.item(), w.grad.item()) == (5.0, 3.0)


def test_impossible_writes():
    x = Tensor([1.0, 2.0])
    with pytest.raises(EngineError, match=r"the result has shape \(2, 2\)"):
        x.add_(np.ones((2, 2)))
    with pytest.raises(EngineError, match="the result has dtype complex128"):
        x.mul_(1j)
    with pytest.raises(EngineError, match="the result has dtype float64"):
        Tensor([1, 2]).mul_(0.5)


# ------------------------------------------------------------------------------------------------ Function


class Cube(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x * x

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * 3.0 * x * x


class ExpAndScale(Function):
    @staticmethod
    def forward(ctx, x, factor):
        y = e.exp(x)
        ctx.save_for_backward(y)
        ctx.factor = factor
        return y, y * factor

    @staticmethod
    def backward(ctx, gy, gz):
        (y,) = ctx.saved_tensors
        assert ctx.needs_input_grad == (True, False)
        return y * (gy + gz * ctx.factor), None


def test_function_to_second_order():
    x = leaf(2.0)
    (g,) = grad(Cube.apply(x), x, create_graph=True)
    (h,) = grad(g, x)
    assert (g.item(), h.item()) == (12.0, 12.0)
    assert Cube.apply(x).grad_fn.name == "Cube"
    assert not Cube.apply(Tensor(1.0)).requires_grad


def test_function_with_saved_output_constant_and_two_results():
    x = leaf(0.5)
    y, z = ExpAndScale.apply(x, 3.0)
    (g,) = grad(z, x, create_graph=True)
    (h,) = grad(g, x)
    np.testing.assert_allclose([g.item(), h.item()], [3 * np.exp(0.5)] * 2)
    node = weakref.ref(y.grad_fn)
    del y, z, g, h
    assert node() is None


def test_function_errors():
    x = leaf(2.0)
    y = Cube.apply(x)
    y.backward()
    with pytest.raises(GraphFreedError, match="saved tensors of Cube failed"):
        y.backward()
    a = x * 1.0
    y = Cube.apply(a)
    a.add_(1.0)
    with pytest.raises(InplaceError, match="through Cube failed"):
        y.backward()

    class Short(Cube):
        @staticmethod
        def forward(ctx, x, y):
            return x * y

        @staticmethod
        def backward(ctx, g):
            return g

    with pytest.raises(EngineError, match="returned 1 gradients for 2 arguments"):
        Short.apply(x, x).backward()
    with pytest.raises(NotDifferentiableError, match="forward mode through Cube failed"):
        jvp(Cube.apply, (x,), (1.0,))


def test_function_that_returns_its_argument_and_a_constant_output():
    class Pass(Function):
        @staticmethod
        def forward(ctx, x):
            mask = Tensor(np.sign(x.data))
            ctx.mark_non_differentiable(mask)
            return x, mask

        @staticmethod
        def backward(ctx, g, unused):
            return g * 7.0

    x = leaf(2.0)
    y, mask = Pass.apply(x)
    assert not mask.requires_grad
    y.backward()
    assert x.grad.item() == 7.0


# ------------------------------------------------------------------------------------------ counts, threads


def test_forward_against_reverse_cost_in_operations():
    """One reverse pass gives all of a gradient; forward mode needs one pass per input."""
    x = leaf(np.ones(20))
    with op_count() as reverse:
        e.sum(e.tanh(x) * x).backward()
    with op_count() as forward:
        for i in range(20):
            jvp(lambda x: e.sum(e.tanh(x) * x), (x,), (np.eye(20)[i],))
    assert forward.total > 10 * reverse.total


def test_threads_have_their_own_modes_and_share_leaves():
    w = leaf(np.ones(3))
    found, problems = [], []

    def work(k):
        try:
            assert is_grad_enabled()
            with no_grad() if k % 2 else enable_grad():
                for _ in range(50):
                    y = (w * float(k)).sum()
                    assert y.requires_grad == (k % 2 == 0)
            with op_count() as count:
                found.append((k, grad((w * float(k) * w).sum(), w)[0].data.tolist(), count.total))
        except AssertionError as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert {(k, tuple(g)) for k, g, _ in found} == {(k, (2.0 * k,) * 3) for k in range(8)}
    assert len({total for *_, total in found}) == 1

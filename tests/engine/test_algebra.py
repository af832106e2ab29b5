"""Laws that hold for every program: linearity, adjointness, broadcasting, and complex step on random programs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gradcheck_suite import engine
from gradcheck_suite.engine import PRIMITIVES, Tensor, grad, jvp
from gradcheck_suite.engine import ops as e

quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
seeds = st.integers(0, 2**32 - 1)

# Entire functions and quotients that stay away from poles: safe for complex step everywhere.
UNARY = [
    lambda x: e.sin(x),
    lambda x: e.tanh(x * 0.3),
    lambda x: e.exp(x * 0.1),
    lambda x: 1.0 / (x * x + 2.0),
    lambda x: e.sqrt(x * x + 1.0),
    lambda x: -x,
    lambda x: x**3 * 0.1,
    lambda x: e.flip(x),
    lambda x: e.cumsum(x, axis=-1) * 0.2,
    lambda x: x - e.mean(x, axis=0, keepdims=True),
    lambda x: x * x.sum(-1, keepdims=True) * 0.1,
    lambda x: e.roll(x, shift=1, axis=-1),
    lambda x: e.concatenate([x[..., 1:], x[..., :1] * 2.0], axis=-1),
    lambda x: e.swapaxes(
        e.matmul(e.swapaxes(x, axis1=-1, axis2=-2), np.eye(x.shape[-2]) + 0.1), axis1=-1, axis2=-2
    ),
]
BINARY = [
    lambda x, y: x + y,
    lambda x, y: x - y,
    lambda x, y: x * y * 0.2,
    lambda x, y: x / (y * y + 2.0),
    lambda x, y: e.einsum("ij,kj,kl->il", x, y, x) * 0.05,
]
steps = st.lists(
    st.tuples(st.integers(0, len(UNARY) + len(BINARY) - 1), st.integers(0, 99), st.integers(0, 99)),
    min_size=1,
    max_size=12,
)


def run(program, *values):
    """A straight-line program: every step reads earlier values, so graphs share, fan out and join."""
    values = list(values)
    for op, i, j in program:
        x, y = values[i % len(values)], values[j % len(values)]
        values.append(UNARY[op](x) if op < len(UNARY) else BINARY[op - len(UNARY)](x, y))
    return values[-1] + values[len(values) // 2] * 0.5


@quick
@given(program=steps, seed=seeds)
def test_random_programs_against_complex_step(program, seed):
    rng = np.random.default_rng(seed)
    a, b, da, db, w = rng.normal(size=(5, 3, 3))
    x, y = Tensor(a, requires_grad=True), Tensor(b, requires_grad=True)
    found = grad(run(program, x, y), [x, y], w, allow_unused=True)
    actual = sum(np.sum(g.data * d) for g, d in zip(found, (da, db)) if g is not None)
    h = 1e-30
    tangent = run(program, Tensor(a + 1j * h * da), Tensor(b + 1j * h * db)).data.imag / h
    scale = np.sum(np.abs(tangent * w)) + 1e-3
    assert abs(actual - np.sum(tangent * w)) <= 1e-10 * scale
    forward = jvp(lambda x, y: run(program, x, y), (a, b), (da, db))[1].data
    np.testing.assert_allclose(forward, tangent, rtol=1e-9, atol=1e-11 * scale)


@quick
@given(program=steps, seed=seeds)
def test_hessians_of_random_programs_are_symmetric_and_agree_in_both_modes(program, seed):
    rng = np.random.default_rng(seed)
    a, u, v, w = rng.normal(size=(4, 3, 3))

    def f(x):
        return (e.sin(run(program, x, x * 0.5)) * w).sum()

    def times(direction):
        x = Tensor(a, requires_grad=True)
        (g,) = grad(f(x), x, create_graph=True)
        return grad(g, x, direction)[0].data

    hu, hv = times(u), times(v)
    scale = np.abs(hu).sum() + np.abs(hv).sum() + 1e-6
    assert abs(np.sum(v * hu) - np.sum(u * hv)) <= 1e-9 * scale * 10
    x = Tensor(a, requires_grad=True)
    forward = jvp(lambda x: grad(f(x), x)[0], (x,), (u,))[1].data
    np.testing.assert_allclose(forward, hu, atol=1e-9 * scale)


@pytest.mark.parametrize("name", sorted(PRIMITIVES))
def test_vjp_is_linear_in_the_cotangent(name):
    """VJP(a g + b h) = a VJP(g) + b VJP(h), at every sample."""
    from primitive_checks import Case, noise

    rng = np.random.default_rng(3)
    for args, kwargs in PRIMITIVES[name].draw_samples():
        case = Case(PRIMITIVES[name], args, kwargs)
        if not case.point:
            continue
        with np.errstate(all="ignore"):
            leaves = [Tensor(x, requires_grad=True) for x in case.point]
            outs = [o for o in case(*leaves) if o.requires_grad]
            first, second = ([noise(rng, o) for o in outs] for _ in range(2))
            both = [2.0 * f - 3.0 * s for f, s in zip(first, second)]
            pulled = [
                grad(outs, leaves, c, retain_graph=True, allow_unused=True) for c in (first, second, both)
            ]
        for f, s, b in zip(*pulled):
            if b is not None:
                np.testing.assert_allclose(
                    b.data,
                    2.0 * f.data - 3.0 * s.data,
                    rtol=1e-9,
                    atol=1e-10 * (1 + np.abs(b.data).max(initial=0)),
                )


@quick
@given(
    shapes=hnp.mutually_broadcastable_shapes(num_shapes=3, max_dims=4, max_side=3, min_side=0),
    seed=seeds,
)
def test_broadcasting_of_random_shapes(shapes, seed):
    rng = np.random.default_rng(seed)
    arrays = [rng.normal(size=s) for s in shapes.input_shapes]
    x, y, z = leaves = [Tensor(a, requires_grad=True) for a in arrays]
    chosen = rng.normal(size=shapes.result_shape) > 0
    out = e.where(chosen, x * y, z - x)
    assert out.shape == shapes.result_shape
    w = rng.normal(size=out.shape)
    found = grad(out, leaves, w)
    h = 1e-30
    for i, (a, g) in enumerate(zip(arrays, found)):
        assert g.shape == a.shape
        d = rng.normal(size=a.shape)
        p, q, r = (b + 1j * h * d if k == i else b for k, b in enumerate(arrays))
        tangent = np.imag(np.where(chosen, p * q, r - p)) / h
        np.testing.assert_allclose(np.sum(g.data * d), np.sum(tangent * w), rtol=1e-9, atol=1e-9)


@quick
@given(data=st.data(), seed=seeds)
def test_reading_and_writing_by_random_index_are_adjoint(data, seed):
    rng = np.random.default_rng(seed)
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=3, max_side=4))
    index = data.draw(
        st.one_of(
            hnp.basic_indices(shape, allow_newaxis=True),
            hnp.integer_array_indices(shape),
            hnp.arrays(bool, shape),
        )
    )
    a = rng.normal(size=shape)
    x = Tensor(a, requires_grad=True)
    read = x[index]
    w = rng.normal(size=read.shape)
    (g,) = grad(read, x, w)
    expected = np.zeros(shape)
    np.add.at(expected, index, w)
    np.testing.assert_allclose(g.data, expected, atol=1e-12)

    value = Tensor(rng.normal(size=read.shape), requires_grad=True)
    out = e.setitem(x, value, index=index)
    c = rng.normal(size=shape)
    gx, gv = grad(out, [x, value], c)
    written = np.ones(shape)
    written[index] = 0.0
    np.testing.assert_array_equal(gx.data, c * written)
    # The value at every written place is one of the given ones, and each counts as often as it survived.
    np.testing.assert_allclose(
        np.sum(gv.data * value.data) + np.sum(gx.data * a), np.sum(out.data * c), atol=1e-10
    )


@quick
@given(seed=seeds, n=st.integers(1, 6), m=st.integers(1, 6))
def test_the_gradient_of_a_linear_map_is_its_transpose(seed, n, m):
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(m, n)) + 1j * rng.normal(size=(m, n))
    x = Tensor(rng.normal(size=n) + 0j, requires_grad=True)
    w = rng.normal(size=m) + 1j * rng.normal(size=m)
    np.testing.assert_allclose(grad(e.matmul(a, x), x, w)[0].data, a.conj().T @ w)


@quick
@given(seed=seeds)
def test_sum_of_gradients_is_gradient_of_sum(seed):
    rng = np.random.default_rng(seed)
    x = Tensor(rng.normal(size=4), requires_grad=True)
    f, g = e.logsumexp(x), e.prod(x)
    together = grad(f + g, x, retain_graph=True)[0].data
    apart = grad(f, x)[0].data + grad(g, x)[0].data
    np.testing.assert_allclose(together, apart, rtol=1e-12)
    assert engine.is_grad_enabled()

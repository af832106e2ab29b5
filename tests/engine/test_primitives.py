"""Generated from the registry: every primitive at every sample. And liars, which the same check must refuse."""

from __future__ import annotations

import numpy as np
import pytest
from primitive_checks import Case, check_primitive

from gradcheck_suite import engine
from gradcheck_suite.engine import PRIMITIVES, Primitive, Tensor, primitive
from gradcheck_suite.engine import ops as e

CASES = [
    pytest.param(name, index, id=f"{name}-{index}")
    for name, entry in sorted(PRIMITIVES.items())
    for index in range(len(entry.draw_samples()))
]


@pytest.mark.parametrize(("name", "index"), CASES)
def test_primitive(name, index):
    args, kwargs = PRIMITIVES[name].draw_samples()[index]
    check_primitive(PRIMITIVES[name], args, kwargs)


def test_every_primitive_is_sampled_and_declared():
    for name, entry in PRIMITIVES.items():
        samples = entry.draw_samples()
        assert samples, name
        assert any(Case(entry, *sample).point for sample in samples), (
            f"{name}: no sample has a floating argument"
        )
        assert any(np.size(x) for sample in samples for x in Case(entry, *sample).point), (
            f"{name}: only empty samples"
        )
        assert entry.differentiable_arguments(), name
        assert entry.__doc__, name


def test_namespace_offers_everything():
    for name in {**PRIMITIVES, **engine.DERIVED}:
        assert callable(getattr(e, name))
    with pytest.raises(AttributeError, match="no operation 'nonsense'"):
        e.nonsense  # noqa: B018


# --------------------------------------------------------------- twins: wrong entries, and the check refuses

LIES = {
    "scaled by 1.001": lambda g, out, x: g * e.cos(x) * 1.001,
    "sign": lambda g, out, x: -(g * e.cos(x)),
    "zero": "zero",
    "one element": lambda g, out, x: g * e.cos(x) * np.array([1.0, 1.0, 0.0]),
    "cut off the graph": lambda g, out, x: g * e.cos(x.detach()),
    "cut off the cotangent": lambda g, out, x: g.detach() * e.cos(x),
}


def a_sine(registry: dict[str, Primitive], **options) -> Primitive:
    @primitive(samples=lambda draw: [(draw.real(3),)], registry=registry, **options)
    def sine(x):
        """sin"""
        return np.sin(x)

    return sine


@pytest.mark.parametrize("analytic", [False, True])
def test_check_accepts_the_truth(analytic):
    sine = a_sine({}, analytic=analytic).vjp(x=lambda g, out, x: g * e.cos(x))
    check_primitive(sine, *sine.draw_samples()[0])


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("analytic", [False, True])
def test_check_refuses_a_wrong_vjp(lie, analytic):
    sine = a_sine({}, analytic=analytic).vjp(x=LIES[lie]).jvp(x=lambda dx, out, x: dx * e.cos(x))
    with pytest.raises(AssertionError):
        check_primitive(sine, *sine.draw_samples()[0])
    assert "sine" not in PRIMITIVES


def test_check_refuses_a_wrong_jvp():
    sine = a_sine({}).vjp(x=lambda g, out, x: g * e.cos(x)).jvp(x="linear")
    with pytest.raises(AssertionError):
        check_primitive(sine, *sine.draw_samples()[0])


def test_check_refuses_a_missing_conjugate():
    @primitive(samples=lambda draw: [(draw.complex(3),)], registry={})
    def squared(x):
        """x * x"""
        return x * x

    squared.vjp(x=lambda g, out, x: g * x * 2.0)
    with pytest.raises(AssertionError):
        check_primitive(squared, *squared.draw_samples()[0])


def test_check_refuses_a_view_and_a_wrong_precision():
    @primitive(samples=lambda draw: [(draw.real(3),)], registry={})
    def view(x):
        """x itself"""
        return x

    view.vjp(x=lambda g, out, x: g)
    with pytest.raises(AssertionError, match="view"):
        check_primitive(view, *view.draw_samples()[0])

    @primitive(samples=lambda draw: [(draw.real(3),)], registry={})
    def widens(x):
        """2 x"""
        return x * np.float64(2.0)

    widens.vjp(x=lambda g, out, x: g * 2.0)
    with pytest.raises(AssertionError):
        check_primitive(widens, *widens.draw_samples()[0])


# ------------------------------------------------------------------------------------ declarations, registry


def test_duplicates_are_refused_naming_both_places():
    registry: dict[str, Primitive] = {}
    a_sine(registry)
    with pytest.raises(
        ValueError, match=r"registering 'sine' failed: it is defined in .*:\d+ and again in .*:\d+"
    ):
        a_sine(registry)
    with pytest.raises(ValueError, match="'exp'"):

        @primitive(samples=lambda draw: [])
        def exp(x):
            return x

    with pytest.raises(ValueError, match="'einsum'"):

        @engine.derived
        def einsum(x):
            return x


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"z": "zero"}, r"sine\(z\) failed: its arguments are \('x',\)"),
        ({"x": "linear"}, "none of the words"),
        ({"x": lambda g, out, x, *, axis: g}, "none of the static arguments"),
    ],
)
def test_declarations_are_checked(rules, message):
    with pytest.raises(ValueError, match=message):
        a_sine({}).vjp(**rules)


def test_a_rule_is_declared_once():
    with pytest.raises(ValueError, match="has one already"):
        a_sine({}).vjp(x="zero").vjp(x="zero")


def test_values_are_saved_only_where_a_rule_reads_them():
    x, y = Tensor([1.0, 2.0], requires_grad=True), Tensor([3.0, 4.0])
    assert e.add(x, y).grad_fn.saved == ()
    node = e.multiply(x, y).grad_fn
    assert node.saved[0] is None
    assert node.saved[1] is y
    total = e.sum(x).grad_fn
    assert not isinstance(total.saved[0], Tensor)
    assert total.saved[0].shape == (2,)
    assert total.versions is None


def test_arguments_by_name_by_place_and_missing():
    x = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(e.sum(x, 0).data, e.sum(x=x, axis=0).data)
    np.testing.assert_array_equal(e.reshape(x, (3, 2)).data, x.reshape(3, 2))
    with pytest.raises(TypeError, match="unexpected 'axes'"):
        e.sum(x, axes=0)
    with pytest.raises(TypeError, match="misses argument 'y'"):
        e.add(x)
    with pytest.raises(TypeError, match="misses argument 'shape'"):
        e.reshape(x)
    with pytest.raises(TypeError, match="got 5 arguments"):
        e.sum(x, 0, True, 1, 2)


def test_a_static_argument_that_requires_grad_is_refused():
    with pytest.raises(engine.NotDifferentiableError, match="static argument 'value'"):
        e.pad(np.ones(2), widths=((1, 1),), value=Tensor(1.0, requires_grad=True))


# -------------------------------------------------------------- choices at points without a derivative


@pytest.mark.parametrize(
    ("f", "at", "expected"),
    [
        (lambda x: e.maximum(x, 1.0), 1.0, 0.5),
        (lambda x: e.minimum(x, 1.0), 1.0, 0.5),
        (lambda x: e.clip(x, 1.0, 2.0), 1.0, 1.0),
        (lambda x: e.clip(x, 1.0, 2.0), 2.0, 1.0),
        (e.relu, 0.0, 0.0),
        (e.absolute, 0.0, 0.0),
        (e.sgn, 0.0, 0.0),
        (e.norm, 0.0, 0.0),
        (lambda x: e.hypot(x, 0.0), 0.0, 0.0),
        (lambda x: x**0.0, 0.0, 0.0),
        (lambda x: x**2, 0.0, 0.0),
        (lambda x: 0.0**x, 0.0, 0.0),
        (lambda x: e.arctan2(x, 0.0), 0.0, 0.0),
    ],
)
def test_subgradients(f, at, expected):
    x = Tensor(at, requires_grad=True)
    (g,) = engine.grad(f(x), x)
    assert g.item() == expected


def test_ties_share_equally():
    x = Tensor([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]], requires_grad=True)
    e.amax(x, axis=1).sum().backward()
    np.testing.assert_allclose(x.grad.data, [[0, 0.5, 0.5], [1 / 3] * 3])


def test_minus_infinity_is_a_limit_not_nan():
    x = Tensor([-np.inf, 0.0, 1.0], requires_grad=True)
    (g,) = engine.grad(e.logsumexp(x), x)
    np.testing.assert_allclose(g.data, [0, 1 / (1 + np.e), np.e / (1 + np.e)])
    y = Tensor([-np.inf, -np.inf], requires_grad=True)
    assert engine.grad(e.logsumexp(y), y)[0].data.tolist() == [0.0, 0.0]
    (g,) = engine.grad(e.logcumsumexp(x, axis=0)[1:].sum() + e.logaddexp(x, -np.inf)[1], x)
    np.testing.assert_allclose(g.data, [0, 2 + 1 / (1 + np.e), np.e / (1 + np.e)])


def test_product_with_zeros_to_second_order():
    x = Tensor([0.0, 2.0, 0.0, 3.0], requires_grad=True)
    (g,) = engine.grad(e.prod(x), x, create_graph=True)
    assert g.data.tolist() == [0.0, 0.0, 0.0, 0.0]
    (h,) = engine.grad(g[0], x)
    assert h.data.tolist() == [0.0, 0.0, 6.0, 0.0]


# ---------------------------------------------------------------------------------- derived functions


@pytest.mark.parametrize("ord", [0, 1, 2, 2.5, -1, np.inf, -np.inf])
def test_norm_values(ord):
    x = np.array([[1.0, -2.0, 3.0], [0.5, 4.0, -1.0]])
    np.testing.assert_allclose(e.norm(x, ord, axis=1).data, np.linalg.norm(x, ord, axis=1))


@pytest.mark.parametrize(
    ("subscripts", "shapes"),
    [
        ("ij,jk", [(2, 3), (3, 4)]),
        ("ii", [(3, 3)]),
        ("ii->i", [(3, 3)]),
        ("...ij,...jk->...ik", [(5, 2, 3), (3, 2)]),
        ("bij,bkj->", [(2, 3, 4), (2, 1, 4)]),
        ("i,j,k->kij", [(2,), (3,), (4,)]),
        ("iji,j->j", [(3, 2, 3), (2,)]),
    ],
)
def test_einsum(subscripts, shapes):
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=s) for s in shapes]
    if subscripts != "bij,bkj->":
        np.testing.assert_allclose(
            e.einsum(subscripts, *arrays).data, np.einsum(subscripts, *arrays), rtol=1e-12
        )
    leaves = [Tensor(a, requires_grad=True) for a in arrays]
    out = e.einsum(subscripts, *leaves)
    w = rng.normal(size=out.shape)
    found = engine.grad(out, leaves, w)
    for i, a in enumerate(arrays):
        d, h = rng.normal(size=a.shape), 1e-30
        moved = [x + 1j * h * d if k == i else x for k, x in enumerate(arrays)]
        np.testing.assert_allclose(
            np.sum(found[i].data * d), np.sum(e.einsum(subscripts, *moved).data.imag / h * w)
        )


def test_einsum_says_what_is_wrong():
    with pytest.raises(ValueError, match="names 2 operands and got 1"):
        e.einsum("i,i", np.ones(2))
    with pytest.raises(ValueError, match=r"operand 0 has shape \(2, 2\) and letters 'i'"):
        e.einsum("i->i", np.ones((2, 2)))


@pytest.mark.parametrize("reduce", ["sum", "mean", "prod", "amax", "amin"])
@pytest.mark.parametrize("include_self", [True, False])
def test_scatter_reduce(reduce, include_self):
    x, v = np.array([1.5, -2.0, 3.0, 0.5]), np.array([2.0, -1.0, 4.0, 0.25])
    index = np.array([0, 0, 2, 0])
    fold = {"sum": np.sum, "mean": np.mean, "prod": np.prod, "amax": np.max, "amin": np.min}[reduce]
    groups = [([x[i]] if include_self or i not in index else []) + list(v[index == i]) for i in range(4)]
    np.testing.assert_allclose(
        e.scatter_reduce(x, v, index, 0, reduce, include_self).data, [fold(g) for g in groups]
    )
    leaves = [Tensor(x, requires_grad=True), Tensor(v, requires_grad=True)]
    w = np.array([1.0, 2.0, -1.0, 0.5])
    gx, gv = engine.grad(e.scatter_reduce(*leaves, index, 0, reduce, include_self), leaves, w)
    for g, which in ((gx, 0), (gv, 1)):
        for i in range(4):
            d = np.zeros(4)
            d[i] = 1e-6
            up = e.scatter_reduce(
                x + d * (which == 0), v + d * (which == 1), index, 0, reduce, include_self
            ).data
            down = e.scatter_reduce(
                x - d * (which == 0), v - d * (which == 1), index, 0, reduce, include_self
            ).data
            np.testing.assert_allclose(g.data[i], np.sum((up - down) / 2e-6 * w), atol=1e-7)


def test_gather_scatter_and_windows():
    x = np.arange(12.0).reshape(3, 4)
    index = np.array([[0, 3], [1, 1]])
    np.testing.assert_array_equal(e.take_along_axis(x, index, 1).data, [[0, 3], [5, 5]])
    np.testing.assert_array_equal(e.scatter_set(x, -1.0, index, 1).data[1], [4, -1, 6, 7])
    np.testing.assert_array_equal(e.as_strided(x, (2, 3), (1, 2), 1).data, [[1, 3, 5], [2, 4, 6]])
    np.testing.assert_array_equal(
        e.as_strided_scatter(x, np.zeros(2), (2,), (5,)).data[:2, :2], [[0, 1], [4, 0]]
    )
    with pytest.raises(IndexError, match=r"reach elements 0\.\.12 of 12"):
        e.as_strided(x, (13,), (1,))
    np.testing.assert_array_equal(e.tile(x[0], (2, 2)).data, np.tile(x[0], (2, 2)))
    np.testing.assert_array_equal(e.stack([x, x], -1).data, np.stack([x, x], -1))
    np.testing.assert_array_equal(e.diag_embed(x[:, :2], 1).data[0], np.diag(x[0, :2], 1))
    np.testing.assert_array_equal(e.embedding(x, [[2, 2]]).data, x[[[2, 2]]])

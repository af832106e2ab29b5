"""The Tensor: dtypes, operators, conversions, labels, printouts, and the wording of its errors."""

from __future__ import annotations

import operator

import numpy as np
import pytest

from gradcheck_suite import engine
from gradcheck_suite.engine import EngineError, Tensor, grad, render
from gradcheck_suite.engine import ops as e


def test_an_ndarray_is_wrapped_not_copied():
    data = np.ones(3, np.float32)
    x = Tensor(data)
    assert x.data is data
    x.add_(1.0)
    assert data.tolist() == [2.0] * 3
    assert (x.shape, x.dtype, x.ndim, x.size, len(x)) == ((3,), np.float32, 1, 3, 3)


def test_python_numbers():
    assert engine.tensor(1.0).dtype == np.float64
    assert Tensor([1, 2]).dtype.kind == "i"
    assert Tensor(1, dtype="float32").dtype == np.float32
    assert Tensor(Tensor([1.0])).data.tolist() == [1.0]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex64", "complex128"])
def test_dtypes_that_can_require_grad(dtype):
    x = Tensor(np.ones(3), requires_grad=True, dtype=dtype)
    y = (x * 2.0 + 1.0 - x / 3.0) ** 2
    assert y.dtype == dtype
    (g,) = grad(y, x, np.ones(3))
    assert g.dtype == dtype


@pytest.mark.parametrize("dtype", ["int64", "bool", "uint8"])
def test_dtypes_that_cannot(dtype):
    with pytest.raises(
        EngineError, match=f"of shape \\(2,\\), {dtype} failed: its dtype is {dtype}. Only floating"
    ):
        Tensor([0, 1], dtype=dtype, requires_grad=True)


def test_mixed_dtypes_give_each_argument_its_own():
    x, y = Tensor(np.ones(2, np.float32), requires_grad=True), Tensor(np.ones(2), requires_grad=True)
    gx, gy = grad((x * y).sum(), [x, y])
    assert (gx.dtype, gy.dtype) == (np.float32, np.float64)


BINARY = [
    operator.add,
    operator.sub,
    operator.mul,
    operator.truediv,
    operator.pow,
    operator.mod,
    operator.floordiv,
]


@pytest.mark.parametrize("op", BINARY)
def test_operators_on_both_sides(op):
    a, b = np.array([1.5, 2.5]), np.array([0.7, 2.0])
    for other in (b, 2.0, 3, np.float64(2.0)):
        for x, y in ((Tensor(a), other), (other, Tensor(a))):
            result = op(x, y)
            assert isinstance(result, Tensor)
            bare = [v.data if isinstance(v, Tensor) else v for v in (x, y)]
            np.testing.assert_array_equal(result.data, op(*bare))


def test_unary_and_matmul():
    a = np.array([[1.0, -2.0], [3.0, 4.0]])
    x = Tensor(a)
    np.testing.assert_array_equal((-x).data, -a)
    np.testing.assert_array_equal(abs(x).data, abs(a))
    np.testing.assert_array_equal((x @ x).data, a @ a)
    np.testing.assert_array_equal((a @ x).data, a @ a)
    assert +x is x


def test_comparisons_are_plain_boolean_arrays():
    x = Tensor([1.0, 2.0], requires_grad=True)
    for op in (operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne):
        answer = op(x, Tensor([1.5, 2.0]))
        assert isinstance(answer, np.ndarray)
        assert answer.dtype == bool
        np.testing.assert_array_equal(answer, op(x.data, np.array([1.5, 2.0])))
    assert {x: 1}[x] == 1


def test_conveniences():
    a = np.arange(6.0).reshape(2, 3) + 1
    x = Tensor(a, requires_grad=True)
    np.testing.assert_array_equal(x.T.data, a.T)
    np.testing.assert_array_equal(x.mT.data, a.T)
    np.testing.assert_array_equal(x.reshape(3, 2).data, a.reshape(3, 2))
    np.testing.assert_array_equal(x.reshape((-1,)).data, a.ravel())
    np.testing.assert_array_equal(x.transpose(1, 0).data, a.T)
    np.testing.assert_array_equal(x.sum(0).data, a.sum(0))
    np.testing.assert_array_equal(x.mean((0, 1), keepdims=True).data, a.mean(keepdims=True))
    np.testing.assert_array_equal([row.data for row in x], a)
    for name in ("exp", "log", "sqrt", "square", "sin", "cos", "tanh"):
        np.testing.assert_array_equal(getattr(x, name)().data, getattr(np, name)(a))
    assert x.relu().sum().item() == a.sum()
    assert x.sigmoid().shape == (2, 3)
    assert (x[0, 0] * 2.0).item() == 2.0
    assert float(x[0, 0]) == 1.0
    assert int(x[1, 2]) == 6
    assert bool(x[0, 0])
    assert x[Tensor([0, 0])].shape == (2, 3)
    z = Tensor([1 + 2j])
    assert (z.real.item(), z.imag.item(), z.conj().item(), complex(z)) == (1.0, 2.0, 1 - 2j, 1 + 2j)
    assert x.astype("float32").dtype == np.float32
    copied = x.clone()
    assert copied.data is not x.data


def test_conversion_to_numpy_is_refused_where_it_would_cut_the_graph():
    x = Tensor([1.0, 2.0], requires_grad=True, label="w")
    for convert in (np.asarray, np.linalg.norm, lambda t: t.numpy()):
        with pytest.raises(
            EngineError, match=r"tensor 'w' of shape \(2,\), float64 to an ndarray failed: it requires grad"
        ):
            convert(x)
    np.testing.assert_array_equal(np.asarray(x.detach()), [1.0, 2.0])
    assert np.asarray(x.detach(), dtype="float32").dtype == np.float32


def test_leaf_rules():
    x = Tensor(1.0, requires_grad=True)
    y = x * 2.0
    assert x.is_leaf
    assert x.grad_fn is None
    assert not y.is_leaf
    assert y.grad_fn.name == "multiply"
    with pytest.raises(EngineError, match="made by multiply and is not a leaf"):
        y.requires_grad = False
    y.requires_grad = True
    assert x.requires_grad_(False) is x
    assert not x.requires_grad
    d = y.detach()
    assert d.is_leaf
    assert not d.requires_grad
    assert d.data is y.data


def test_scalars_only():
    with pytest.raises(TypeError, match=r"len\(\) of a 0-d"):
        len(Tensor(1.0))
    with pytest.raises(TypeError, match="iteration over a 0-d"):
        iter(Tensor(1.0))
    with pytest.raises(ValueError, match="truth value"):
        bool(Tensor([1.0, 2.0]))
    with pytest.raises(EngineError, match="making a Tensor from list failed"):
        Tensor([1.0, object()])


def test_inputs_are_checked():
    x = Tensor(1.0, requires_grad=True)
    with pytest.raises(EngineError, match="an input is a float, not a Tensor"):
        grad(x * 1.0, 2.0)
    with pytest.raises(EngineError, match=r"tensor 'c' of shape \(\), float64 does not require grad"):
        grad(x * 1.0, Tensor(1.0, label="c"))
    with pytest.raises(EngineError, match="2 cotangents for 1 outputs"):
        grad(x * 1.0, x, [1.0, 2.0])


def test_repr():
    x = Tensor([1.0, 2.0], requires_grad=True, label="x")
    assert repr(x) == "Tensor([1., 2.], label='x', requires_grad=True)"
    assert repr(x * 2.0) == "Tensor([2., 4.], grad_fn=multiply)"
    assert repr(Tensor(1, dtype="float32")) == "Tensor(1., dtype=float32)"


def test_render_reads_like_a_program():
    a, b = Tensor(2.0, requires_grad=True, label="a"), Tensor(-3.0, requires_grad=True, label="b")
    d = a * b + 10.0
    d.label = "d"
    d.retain_grad()
    loss = d * -2.0
    loss.label = "L"
    loss.backward()
    assert render(loss).splitlines() == [
        "%0  a  leaf              [] float64  = 2  grad = 6",
        "%1  b  leaf              [] float64  = -3  grad = -4",
        "%2     multiply(%0, %1)  [] float64  = -6",
        "%3  d  add(%2, .)        [] float64  = 4  grad = -2",
        "%4  L  multiply(%3, .)   [] float64  = -8",
    ]
    assert "no graph" in render(Tensor(1.0))


def test_render_of_deep_graphs_and_several_outputs():
    y = Tensor(1.0, requires_grad=True)
    for _ in range(20_000):
        y = y + 1.0
    assert len(render(y).splitlines()) == 20_001
    w, v = e.eigh(Tensor(np.diag([1.0, 2.0]), requires_grad=True))
    assert "%1[1]" in render(v.sum() + w.sum())

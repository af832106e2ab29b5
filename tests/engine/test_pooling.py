"""Pooling against its definition in plain loops, and torch's forward."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gradcheck_suite.engine import Tensor
from gradcheck_suite.engine import ops as e

rng = np.random.default_rng(5)

CASES = [
    # input, kernel, stride, padding, dilation, ceil_mode
    ((2, 3, 9), 3, 2, 1, 1, False),
    ((2, 3, 8, 7), 2, None, 0, 1, False),
    ((2, 3, 8, 7), (3, 2), (2, 1), (1, 0), 1, True),
    ((1, 2, 10, 9), 3, 2, 1, 2, True),
    ((1, 2, 6, 6), 2, 3, 1, 1, True),
    ((1, 2, 5, 6, 7), 2, (2, 1, 3), (1, 0, 1), 1, True),
    ((1, 1, 3, 3), 3, 1, 1, 1, False),
]


def naive_max(x, kernel, stride, padding, dilation, out):
    n = x.ndim - 2
    kernel, stride, padding, dilation = (np.broadcast_to(v, n) for v in (kernel, stride, padding, dilation))
    values, index = np.empty((*x.shape[:2], *out)), np.empty((*x.shape[:2], *out), dtype=np.int64)
    for plane, position in itertools.product(np.ndindex(*x.shape[:2]), np.ndindex(*out)):
        best, where = -np.inf, None
        for k in np.ndindex(*kernel):
            at = tuple(p * s + j * d - q for p, s, j, d, q in zip(position, stride, k, dilation, padding))
            if all(0 <= a < size for a, size in zip(at, x.shape[2:])):
                value = x[(*plane, *at)]
                if where is None or value > best or np.isnan(value):
                    best, where = value, np.ravel_multi_index(at, x.shape[2:])
        values[(*plane, *position)], index[(*plane, *position)] = best, where
    return values, index


@pytest.mark.parametrize(("shape", "kernel", "stride", "padding", "dilation", "ceil_mode"), CASES)
@pytest.mark.parametrize("kind", ["real", "ties", "nan", "minus infinity"])
def test_max_pool_is_its_definition(shape, kernel, stride, padding, dilation, ceil_mode, kind):
    x = rng.standard_normal(shape)
    if kind == "ties":
        x = rng.integers(0, 3, shape).astype(float)
    elif kind == "nan":
        x[rng.uniform(size=shape) < 0.2] = np.nan
    elif kind == "minus infinity":
        x[rng.uniform(size=shape) < 0.8] = -np.inf
    values, index = e.max_pool(
        x, kernel=kernel, stride=stride, padding=padding, dilation=dilation, ceil_mode=ceil_mode
    )
    step = kernel if stride is None else stride
    expected, where = naive_max(x, kernel, step, padding, dilation, values.shape[2:])
    np.testing.assert_array_equal(values.data, expected)
    np.testing.assert_array_equal(index, where)


@pytest.mark.parametrize(("shape", "kernel", "stride", "padding", "dilation", "ceil_mode"), CASES)
def test_max_pool_agrees_with_torch(shape, kernel, stride, padding, dilation, ceil_mode):
    torch = pytest.importorskip("torch")
    x = rng.standard_normal(shape)
    pool = getattr(torch.nn.functional, f"max_pool{len(shape) - 2}d")
    expected, where = pool(
        torch.tensor(x), kernel, stride, padding, dilation, ceil_mode=ceil_mode, return_indices=True
    )
    values, index = e.max_pool(
        x, kernel=kernel, stride=stride, padding=padding, dilation=dilation, ceil_mode=ceil_mode
    )
    np.testing.assert_array_equal(values.data, expected.numpy())
    np.testing.assert_array_equal(index, where.numpy())


def test_max_pool_takes_integers():
    values, index = e.max_pool(np.array([[[3, -5, 7, 1]]]), kernel=2, padding=1, stride=2)
    np.testing.assert_array_equal(values.data, [[[3, 7, 1]]])
    np.testing.assert_array_equal(index, [[[0, 2, 3]]])


def test_max_pool_gradient_adds_where_windows_share_a_maximum():
    x = Tensor(np.array([[[0.0, 5.0, 1.0]]]), requires_grad=True)
    values, _ = e.max_pool(x, kernel=2, stride=1)
    values.backward(Tensor(np.array([[[2.0, 3.0]]])))
    np.testing.assert_array_equal(x.grad.data, [[[0.0, 5.0, 0.0]]])


@pytest.mark.parametrize(("shape", "kernel", "stride", "padding", "dilation", "ceil_mode"), CASES)
@pytest.mark.parametrize("count_include_pad", [True, False])
@pytest.mark.parametrize("divisor", [None, 3])
def test_avg_pool_agrees_with_torch(
    shape, kernel, stride, padding, dilation, ceil_mode, count_include_pad, divisor
):
    torch = pytest.importorskip("torch")
    n = len(shape) - 2
    if np.any(2 * np.broadcast_to(padding, n) > np.broadcast_to(kernel, n)) or (n == 1 and divisor):
        pytest.skip("torch has no such pooling")
    x = rng.standard_normal(shape)
    pool = getattr(torch.nn.functional, f"avg_pool{n}d")
    extra = () if n == 1 else (divisor,)
    expected = pool(torch.tensor(x), kernel, stride, padding, ceil_mode, count_include_pad, *extra)
    y = e.avg_pool(
        Tensor(x),
        kernel=kernel,
        stride=stride,
        padding=padding,
        ceil_mode=ceil_mode,
        count_include_pad=count_include_pad,
        divisor_override=divisor,
    )
    np.testing.assert_allclose(y.data, expected.numpy(), atol=1e-13)


def test_avg_pool_is_the_mean_of_windows():
    x = rng.standard_normal((2, 3, 6, 4))
    expected = x.reshape(2, 3, 3, 2, 2, 2).mean(axis=(3, 5))
    np.testing.assert_allclose(e.avg_pool(Tensor(x), kernel=2).data, expected, atol=1e-14)


@pytest.mark.parametrize(
    ("shape", "size"), [((2, 3, 7), 3), ((2, 3, 7, 5), (3, 8)), ((1, 2, 4, 5, 6), (2, 3, 1))]
)
def test_adaptive_pools_are_their_definition(shape, size):
    x = rng.standard_normal(shape)
    n = len(shape) - 2
    out = tuple(np.broadcast_to(size, n))
    mean, largest = np.empty((*shape[:2], *out)), np.empty((*shape[:2], *out))
    for position in np.ndindex(*out):
        window = tuple(slice(p * s // o, -(-(p + 1) * s // o)) for p, s, o in zip(position, shape[2:], out))
        block = x[(..., *window)].reshape(*shape[:2], -1)
        mean[(..., *position)], largest[(..., *position)] = block.mean(-1), block.max(-1)
    values, index = e.adaptive_max_pool(x, output_size=size)
    np.testing.assert_allclose(e.adaptive_avg_pool(Tensor(x), output_size=size).data, mean, atol=1e-14)
    np.testing.assert_array_equal(values.data, largest)
    flat = x.reshape(*shape[:2], -1)
    np.testing.assert_array_equal(
        np.take_along_axis(flat, index.reshape(*shape[:2], -1), -1).reshape(values.shape), largest
    )


def test_adaptive_max_pool_agrees_with_torch():
    torch = pytest.importorskip("torch")
    x = rng.integers(0, 4, (2, 3, 7, 5)).astype(float)
    expected, where = torch.nn.functional.adaptive_max_pool2d(torch.tensor(x), (3, 2), return_indices=True)
    values, index = e.adaptive_max_pool(x, output_size=(3, 2))
    np.testing.assert_array_equal(values.data, expected.numpy())
    np.testing.assert_array_equal(index, where.numpy())


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"), [(2, 1, 0, 1), ((3, 2), 2, (1, 0), 1), (2, (1, 2), 1, 2)]
)
def test_im2col_and_col2im_agree_with_torch(kernel, stride, padding, dilation):
    torch = pytest.importorskip("torch")
    x = rng.standard_normal((2, 3, 6, 5))
    static = {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation}
    expected = torch.nn.functional.unfold(torch.tensor(x), kernel, dilation, padding, stride)
    columns = e.im2col(Tensor(x), **static)
    np.testing.assert_array_equal(columns.data, expected.numpy())
    folded = torch.nn.functional.fold(expected, (6, 5), kernel, dilation, padding, stride)
    np.testing.assert_allclose(
        e.col2im(columns, output_size=(6, 5), **static).data, folded.numpy(), atol=1e-13
    )


def test_windows_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="a window of 5 with dilation 1 does not fit an axis of 3"):
        e.max_pool(np.zeros((1, 1, 3)), kernel=5)

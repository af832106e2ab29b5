"""Resampling and grid sampling against plain-loop definitions and torch's forward."""

from __future__ import annotations

import numpy as np
import pytest

from gradcheck_suite.engine import Tensor, grad
from gradcheck_suite.engine import ops as e

rng = np.random.default_rng(13)

TORCH_MODE = {
    ("linear", 1): "linear",
    ("linear", 2): "bilinear",
    ("linear", 3): "trilinear",
    ("cubic", 2): "bicubic",
}


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("length", [7, 150])
def test_axis_matrix_is_a_product_along_an_axis(axis, length):
    shape = [3, 4, 5]
    shape[axis] = length
    x, matrix = rng.standard_normal(shape), rng.standard_normal((6, length))
    expected = np.moveaxis(np.tensordot(matrix, x, axes=(1, axis)), 0, axis)
    np.testing.assert_allclose(e.axis_matrix(x, matrix=matrix, axis=axis).data, expected, atol=1e-12)
    assert e.axis_matrix(x.astype(np.float32), matrix=matrix, axis=axis).dtype == np.float32


def test_linear_is_numpys_interpolation():
    x = rng.standard_normal(6)
    y = e.interpolate(Tensor(x[None, None]), size=(11,), mode="linear", align_corners=True)
    np.testing.assert_allclose(y.data[0, 0], np.interp(np.linspace(0, 5, 11), np.arange(6), x), atol=1e-13)


def test_a_cubic_reproduces_a_straight_line_inside():
    x = np.arange(8.0)
    y = e.interpolate(Tensor(x[None, None]), size=(15,), mode="cubic", align_corners=True).data[0, 0]
    np.testing.assert_allclose(y[3:-3], np.linspace(0, 7, 15)[3:-3], atol=0.1)
    np.testing.assert_allclose(y[::2], x, atol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
def test_nearest_agrees_with_torch(n, mode):
    torch = pytest.importorskip("torch")
    x = rng.standard_normal((2, 3, 5, 7, 4)[: n + 2])
    for size in ((8, 3, 9)[:n], (5, 7, 4)[-n:], (2, 14, 1)[:n]):
        expected = torch.nn.functional.interpolate(torch.tensor(x), size=size, mode=mode)
        np.testing.assert_array_equal(e.interpolate(Tensor(x), size=size, mode=mode).data, expected.numpy())


@pytest.mark.parametrize(
    ("dtype", "mode"), [("float32", "nearest"), ("float64", "nearest"), ("float64", "nearest-exact")]
)
def test_nearest_neighbours_at_every_size(dtype, mode):
    """Where size * step should be whole, the last bit decides which element is nearest."""
    torch = pytest.importorskip("torch")
    x = np.arange(21, dtype=dtype)[None, None]
    for out in range(1, 130):
        expected = torch.nn.functional.interpolate(torch.tensor(x), size=out, mode=mode)
        y = e.interpolate(Tensor(x), size=(out,), mode=mode, precision=dtype)
        np.testing.assert_array_equal(y.data, expected.numpy())


@pytest.mark.parametrize(("mode", "n"), TORCH_MODE)
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("factor", [None, 1.7, 0.6])
def test_smooth_modes_agree_with_torch(mode, n, align_corners, factor):
    torch = pytest.importorskip("torch")
    x = rng.standard_normal((2, 2, 5, 7, 4)[: n + 2])
    name = TORCH_MODE[mode, n]
    for size in ((8, 3, 9)[:n], (1, 7, 4)[:n]):
        if factor is None:
            expected = torch.nn.functional.interpolate(
                torch.tensor(x), size=size, mode=name, align_corners=align_corners
            )
            y = e.interpolate(Tensor(x), size=size, mode=mode, align_corners=align_corners)
        else:
            expected = torch.nn.functional.interpolate(
                torch.tensor(x),
                scale_factor=factor,
                mode=name,
                align_corners=align_corners,
                recompute_scale_factor=False,
            )
            y = e.interpolate(
                Tensor(x),
                size=expected.shape[2:],
                mode=mode,
                align_corners=align_corners,
                scales=(factor,) * n,
            )
        np.testing.assert_allclose(y.data, expected.numpy(), atol=1e-12)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("size", [(3, 2), (7, 13), (12, 3)])
@pytest.mark.parametrize("align_corners", [False, True])
def test_antialias_agrees_with_torch(mode, size, align_corners):
    torch = pytest.importorskip("torch")
    x = rng.standard_normal((2, 3, 9, 10))
    expected = torch.nn.functional.interpolate(
        torch.tensor(x), size=size, mode=TORCH_MODE[mode, 2], align_corners=align_corners, antialias=True
    )
    y = e.interpolate(Tensor(x), size=size, mode=mode, align_corners=align_corners, antialias=True)
    np.testing.assert_allclose(y.data, expected.numpy(), atol=1e-12)


@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("n", [2, 3])
def test_grid_sample_agrees_with_torch(mode, padding_mode, align_corners, n):
    torch = pytest.importorskip("torch")
    if mode == "bicubic" and n == 3:
        pytest.skip("torch has no such sampling")
    x = rng.standard_normal((2, 3, 5, 4, 3)[: n + 2])
    grid = rng.uniform(-2.5, 2.5, (*(2, 6, 5, 4)[: n + 1], n))
    grid[(0,) * (n + 1)] = -1
    expected = torch.nn.functional.grid_sample(
        torch.tensor(x), torch.tensor(grid), mode, padding_mode, align_corners
    )
    y = e.grid_sample(
        Tensor(x), Tensor(grid), mode=mode, padding_mode=padding_mode, align_corners=align_corners
    )
    np.testing.assert_allclose(y.data, expected.numpy(), atol=1e-12)


def test_bilinear_sampling_is_its_definition():
    x, grid = rng.standard_normal((1, 1, 4, 5)), rng.uniform(-0.9, 0.9, (1, 3, 2, 2))
    y = e.grid_sample(Tensor(x), Tensor(grid), align_corners=True).data
    for i in np.ndindex(3, 2):
        column, row = (grid[0][i] + 1) / 2 * (4, 3)
        c, r = int(column), int(row)
        u, v = column - c, row - r
        block = x[0, 0, r : r + 2, c : c + 2]
        expected = np.array([1 - v, v]) @ block @ np.array([1 - u, u])
        assert y[0, 0][i] == pytest.approx(expected)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
def test_grid_sample_gradients(mode, padding_mode):
    x, grid = rng.standard_normal((2, 2, 5, 4)), rng.uniform(-1.4, 1.4, (2, 3, 3, 2))
    weights = rng.standard_normal((2, 2, 3, 3))

    def loss(a, b):
        return e.sum(e.grid_sample(a, b, mode=mode, padding_mode=padding_mode) * weights)

    a, b = Tensor(x, requires_grad=True), Tensor(grid, requires_grad=True)
    gx, gg = grad(loss(a, b), [a, b])
    dx, dg, h = rng.standard_normal(x.shape), rng.standard_normal(grid.shape), 1e-7
    forward = loss(Tensor(x + h * dx), Tensor(grid + h * dg)).data
    backward = loss(Tensor(x - h * dx), Tensor(grid - h * dg)).data
    assert np.vdot(gx.data, dx) + np.vdot(gg.data, dg) == pytest.approx(
        (forward - backward) / (2 * h), rel=1e-6
    )


def test_positions_far_outside_or_undefined_do_not_break_sampling():
    x = Tensor(rng.standard_normal((1, 1, 3, 3)))
    grid = Tensor(np.array([[[[1e30, 0.0], [np.inf, 0.0]]]]))
    y = e.grid_sample(x, grid, mode="nearest")
    np.testing.assert_array_equal(y.data, 0)


def test_errors_say_what_does_not_fit():
    x = Tensor(np.zeros((1, 1, 3, 3)))
    with pytest.raises(ValueError, match="one coordinate per spatial axis"):
        e.grid_sample(x, Tensor(np.zeros((1, 2, 2, 3))))
    with pytest.raises(ValueError, match="for 2 spatial axes"):
        e.interpolate(x, size=(3,))

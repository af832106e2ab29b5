"""Resampling along axes: nearest, linear and cubic interpolation.

Every resampling filter is a matrix per axis, so :func:`axis_matrix`, which applies one, is the only primitive and
its derivative is the transposed matrix. Sampling at arbitrary points is in :mod:`.grid_sampling`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import scipy  # its parts are imported on first use

from ..primitive import primitive
from ..registry import derived
from ..tensor import Tensor

Array = npt.NDArray[Any]

DENSE_LIMIT = 96
"""Longest axis for which a dense product beats a sparse one (a band of 2 to 4 entries per row)."""


def _axis_matrix_samples(draw: Any) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    return [
        ((draw.real(2, 3, 4),), {"matrix": draw.real(5, 4), "axis": -1}),
        ((draw.real(2, 3, 4),), {"matrix": draw.real(2, 3), "axis": 1}),
        ((draw.complex(3, 2),), {"matrix": draw.real(4, 3), "axis": 0}),
        ((draw.real(0, 3),), {"matrix": draw.real(2, 3), "axis": 1}),
        ((draw.real(2, 130),), {"matrix": draw.real(3, 130) * (draw.real(3, 130) > 1.9), "axis": 1}),
    ]


@primitive(samples=_axis_matrix_samples)
def axis_matrix(x: Array, *, matrix: Array, axis: int) -> Array:
    """The real constant ``matrix`` (out, in) applied along ``axis`` of ``x``, which has ``in`` elements there.

    A zero of the matrix means that an element is not used: NaN and infinity reach only what they are part of.
    """
    axis %= x.ndim
    matrix = matrix.astype(x.real.dtype, copy=False)
    result = _applied(x, matrix, axis)
    if np.isfinite(result).all() or np.isfinite(x).all():
        return result
    finite = np.isfinite(x)
    reached = _applied((~finite).astype(np.float64), (matrix != 0).astype(np.float64), axis) > 0
    return np.where(
        reached, _touched(x, matrix, axis), _applied(np.where(finite, x, 0), matrix, axis)
    ).astype(x.dtype)


def _touched(x: Array, matrix: Array, axis: int) -> Array:
    """NaN, or the infinity where only infinities of one sign are part of an element; real ``x``, else NaN."""
    if x.dtype.kind == "c":
        return np.full((*x.shape[:axis], matrix.shape[0], *x.shape[axis + 1 :]), np.nan)
    use = np.sign(matrix)

    def reached_by(which: Array, sign: float) -> Array:
        return _applied(which.astype(np.float64), (use == sign).astype(np.float64), axis) > 0

    up = reached_by(x == np.inf, 1.0) | reached_by(x == -np.inf, -1.0)
    down = reached_by(x == -np.inf, 1.0) | reached_by(x == np.inf, -1.0)
    unknown = reached_by(np.isnan(x), 1.0) | reached_by(np.isnan(x), -1.0) | (up & down)
    return np.where(unknown, np.nan, np.where(up, np.inf, -np.inf))


def _applied(x: Array, matrix: Array, axis: int) -> Array:
    shape = (*x.shape[:axis], matrix.shape[0], *x.shape[axis + 1 :])
    if x.size == 0 or math.prod(shape) == 0:
        return np.zeros(shape, dtype=x.dtype)
    if max(matrix.shape) <= DENSE_LIMIT:
        if axis == x.ndim - 1:
            return np.asarray(np.matmul(x.reshape(-1, x.shape[-1]), matrix.T)).reshape(shape)
        stacked = x.reshape(*x.shape[: axis + 1], math.prod(x.shape[axis + 1 :]))
        return np.asarray(np.matmul(matrix, stacked)).reshape(shape)
    first = np.ascontiguousarray(np.moveaxis(x, axis, 0))
    product = scipy.sparse.csr_array(matrix) @ first.reshape(first.shape[0], -1)
    return np.ascontiguousarray(np.moveaxis(product.reshape(-1, *first.shape[1:]), 0, axis))


axis_matrix.vjp(x=lambda g, out, x, *, matrix, axis: axis_matrix(g, matrix=matrix.T, axis=axis))
axis_matrix.jvp(x="linear")


# --------------------------------------------------------------------------------- matrices of resampling


Mode = Literal["nearest", "nearest-exact", "linear", "cubic"]


def _cubic(distance: Array, a: float) -> Array:
    """Keys' cubic convolution kernel with parameter ``a`` at a distance (R. Keys, IEEE TASSP 29, 1981)."""
    d = np.abs(distance)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


def _triangle(distance: Array) -> Array:
    return np.asarray(np.maximum(1 - np.abs(distance), 0.0))


def _step(size: int, out: int, align_corners: bool, scale: float | None) -> float:
    """Distance between the source positions of neighbouring outputs."""
    if align_corners:
        return (size - 1) / (out - 1) if out > 1 else 0.0
    return 1 / scale if scale is not None and scale > 0 else size / out


def resize_matrix(
    size: int,
    out: int,
    mode: Mode,
    *,
    align_corners: bool = False,
    scale: float | None = None,
    antialias: bool = False,
    precision: npt.DTypeLike = np.float64,
) -> Array:
    """The (out, size) matrix that resamples one axis as torch's ``interpolate`` defines it.

    ``scale`` is an explicit scale factor, which then, and not the sizes, places the samples. ``antialias`` widens the
    linear or cubic filter where it shrinks. ``precision`` is the type in which torch computes the positions, that of
    its input: it can move a nearest neighbour.
    """
    real: Any = np.dtype(precision).type
    step = real(_step(size, out, align_corners, scale))
    index = np.arange(out)
    matrix = np.zeros((out, size))
    if mode in ("nearest", "nearest-exact"):
        shift = real(0.5 if mode == "nearest-exact" else 0)
        # Rounding to float32 before the floor, for doubles too: 41 * (2 / 82) is element 1, not 0.
        source = np.floor(((index.astype(real) + shift) * step).astype(np.float32)).astype(np.int64)
        matrix[index, np.clip(source, 0, size - 1)] = 1
        return matrix
    if antialias:
        return _antialiased(size, out, mode, float(step))
    if mode == "linear" and out == size:
        return np.eye(size)
    position = index * float(step) if align_corners else (index + 0.5) * float(step) - 0.5
    if mode == "linear":
        position = np.maximum(position, 0)
    first = np.floor(position).astype(np.int64)
    if mode == "linear":
        first = np.minimum(first, size - 1)
    fraction = np.clip(position - first, 0, 1)
    taps = (0, 1) if mode == "linear" else (-1, 0, 1, 2)
    for tap in taps:
        weight = _triangle(fraction - tap) if mode == "linear" else _cubic(fraction - tap, -0.75)
        matrix[index, np.clip(first + tap, 0, size - 1)] += weight
    return matrix


def _antialiased(size: int, out: int, mode: Mode, step: float) -> Array:
    """Filters as wide as the step, normalised over the elements inside (PIL's and torch's definition)."""
    filter_: Callable[[Array], Array] = _triangle if mode == "linear" else lambda d: _cubic(d, -0.5)
    widening = max(step, 1.0)
    support = (1 if mode == "linear" else 2) * widening
    centre = step * (np.arange(out) + 0.5)
    low = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    high = np.minimum((centre + support + 0.5).astype(np.int64), size)
    column = np.arange(size)
    weights = filter_((column - centre[:, None] + 0.5) / widening)
    weights = np.where((column >= low[:, None]) & (column < high[:, None]), weights, 0.0)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


@derived
def interpolate(
    x: Tensor,
    *,
    size: Sequence[int],
    mode: Mode = "nearest",
    align_corners: bool = False,
    scales: Sequence[float | None] | None = None,
    antialias: bool = False,
    precision: npt.DTypeLike = np.float64,
) -> Tensor:
    """Resample the spatial axes of ``x`` (batch, channels, *spatial) to ``size``.

    "linear" is bilinear or trilinear on two or three axes, "cubic" bicubic; the other arguments are those of
    :func:`resize_matrix`, ``scales`` per axis.
    """
    spatial = tuple(x.shape[2:])
    given = tuple(scales) if scales is not None else (None,) * len(spatial)
    if not len(spatial) == len(size) == len(given):
        raise ValueError(
            f"interpolate failed: size {tuple(size)} and scales {given} for {len(spatial)} spatial axes of an input "
            f"{tuple(x.shape)}. Each axis needs its own. Give {len(spatial)} of them."
        )
    for axis in reversed(range(len(spatial))):
        matrix = resize_matrix(
            spatial[axis],
            int(size[axis]),
            mode,
            align_corners=align_corners,
            scale=given[axis],
            antialias=antialias,
            precision=precision,
        )
        if spatial[axis] != size[axis] or not np.array_equal(matrix, np.eye(spatial[axis])):
            x = axis_matrix(x, matrix=matrix, axis=axis + 2)
    return x

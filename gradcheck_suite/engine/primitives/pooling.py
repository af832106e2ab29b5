"""Pooling: maxima with their positions, and averages.

A box is a product of intervals, so both kinds go axis by axis: ``k + k`` steps instead of ``k * k``. A maximum
remembers where it was found, as a flat index into the spatial plane (torch's convention), and its derivative is
a gather at that index; an average is one banded matrix per axis (:func:`.interpolation.axis_matrix`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..primitive import primitive
from ..registry import derived
from ..tensor import Tensor
from .convolution import PerAxis, per_axis
from .interpolation import axis_matrix

Array = npt.NDArray[Any]
Samples = list[tuple[tuple[Any, ...], dict[str, Any]]]

PLANE_BYTES = 1 << 21
"""Bytes of input that one sweep of the maximum handles, so that its temporaries stay in the cache."""


def pooled_size(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> int:
    """Number of windows along one axis; with ``ceil_mode`` a last, partial one counts if it starts inside."""
    span = size + 2 * padding - dilation * (kernel - 1) - 1
    count = (span + (stride - 1 if ceil_mode else 0)) // stride + 1
    if ceil_mode and (count - 1) * stride >= size + padding:
        count -= 1
    if count < 1:
        raise ValueError(
            f"pooling failed: a window of {kernel} with dilation {dilation} does not fit an axis of {size} with "
            f"padding {padding}. Pad more or shrink the window."
        )
    return count


def adaptive_intervals(size: int, out: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Starts and ends of the ``out`` intervals of adaptive pooling: they cover the axis, and may overlap."""
    index = np.arange(out, dtype=np.int64)
    return index * size // out, -((-(index + 1) * size) // out)


# ------------------------------------------------------------------------------------- gather and scatter


def _gather_samples(draw: Any) -> Samples:
    return [
        ((draw.real(2, 3, 4, 5),), {"index": draw.integer(0, 20, 2, 3, 2, 2), "leading": 2}),
        ((draw.real(2, 3, 6),), {"index": draw.integer(0, 6, 2, 1, 4), "leading": 2}),
        ((draw.real(0, 3, 6),), {"index": draw.integer(0, 6, 0, 3, 4), "leading": 2}),
        ((draw.complex(3, 3, 2),), {"index": draw.integer(0, 6, 3, 5), "leading": 1}),
    ]


def _scatter_samples(draw: Any) -> Samples:
    return [
        (
            (draw.real(2, 3, 2, 2),),
            {"index": draw.integer(0, 20, 2, 3, 2, 2), "spatial": (4, 5), "leading": 2},
        ),
        ((draw.real(2, 3, 4),), {"index": draw.integer(0, 6, 2, 1, 4), "spatial": (6,), "leading": 2}),
        ((draw.real(0, 3, 4),), {"index": draw.integer(0, 6, 0, 3, 4), "spatial": (6,), "leading": 2}),
        ((draw.complex(3, 5),), {"index": draw.integer(0, 6, 3, 5), "spatial": (3, 2), "leading": 1}),
    ]


@primitive(samples=_gather_samples, exact=True)
def gather_planes(x: Array, *, index: Array, leading: int = 2) -> Array:
    """Elements of every plane at flat positions.

    ``x`` is (*planes, *spatial) with ``leading`` plane axes, ``index`` (*planes, *out) of flat positions in a
    plane; a plane axis of ``index`` may be 1 and is then shared. Result (*planes, *out).
    """
    planes = x.reshape(*x.shape[:leading], math.prod(x.shape[leading:]))
    flat = index.reshape(*index.shape[:leading], math.prod(index.shape[leading:]))
    values = np.take_along_axis(planes, flat, axis=-1)
    return values.reshape(*x.shape[:leading], *index.shape[leading:])


@primitive(samples=_scatter_samples)
def scatter_planes(g: Array, *, index: Array, spatial: Sequence[int], leading: int = 2) -> Array:
    """The adjoint of :func:`gather_planes`: adds each element of ``g`` at its position in planes of zeros.

    ``g`` is (*planes, *out), ``index`` the same with shared plane axes of 1; result (*planes, *spatial).
    """
    shape = (*g.shape[:leading], *spatial)
    size = math.prod(spatial)
    count = math.prod(g.shape[:leading])
    if g.size == 0 or size == 0:
        return np.zeros(shape, dtype=g.dtype)
    first = (np.arange(count, dtype=np.int64) * size).reshape(*g.shape[:leading], *(1,) * (g.ndim - leading))
    positions = (index + first).ravel()

    def total(weights: Array) -> Array:
        return np.bincount(positions, weights=weights.ravel(), minlength=count * size)

    if np.iscomplexobj(g):
        return (total(g.real) + 1j * total(g.imag)).astype(g.dtype, copy=False).reshape(shape)
    return total(g).astype(g.dtype, copy=False).reshape(shape)


gather_planes.vjp(
    x=lambda g, out, x, *, index, leading=2: scatter_planes(
        g, index=index, spatial=x.shape[leading:], leading=leading
    )
)
gather_planes.jvp(x="linear")
scatter_planes.vjp(
    g=lambda h, out, g, *, index, spatial, leading=2: gather_planes(h, index=index, leading=leading)
)
scatter_planes.jvp(g="linear")


# ------------------------------------------------------------------------------------------------ maxima


def _lowest(dtype: np.dtype[Any]) -> Any:
    return -np.inf if np.issubdtype(dtype, np.floating) else np.iinfo(dtype).min


def _sweep(
    values: Array, found: Array, starts: Array, length: int, dilation: int, axis: int
) -> tuple[Array, Array]:
    """Maxima over ``length`` elements, ``dilation`` apart, from each of the evenly spaced ``starts`` on.

    ``found`` are the flat positions of ``values``. The first of equal values wins and a NaN wins always, the last
    of several: the order in which torch walks the window. Elements outside the axis count as lowest.
    """
    size, before = values.shape[axis], max(-int(starts[0]), 0)
    step = int(starts[1] - starts[0]) if len(starts) > 1 else 1
    stop = int(starts[-1]) + dilation * (length - 1) + 1
    head = (slice(None),) * axis
    if before or stop > size:
        # An outside element points at the first inside element of its window, for windows of nothing but -inf.
        outside = np.arange(-before, max(stop, size))
        inside = np.where(outside < 0, outside % dilation, np.minimum(outside, size - 1))
        found = np.take(found, inside, axis=axis)
        shape = (*values.shape[:axis], len(outside), *values.shape[axis + 1 :])
        padded = np.full(shape, _lowest(values.dtype), dtype=values.dtype)
        middle = (*head, slice(before, before + size))
        padded[middle] = values
        values = padded
    first = int(starts[0]) + before
    windows = [
        (*head, slice(first + j * dilation, first + j * dilation + (len(starts) - 1) * step + 1, step))
        for j in range(length)
    ]
    best, position = values[windows[0]].copy(), found[windows[0]].copy()
    better = np.empty(best.shape, dtype=bool)
    for window in windows[1:]:
        candidate = values[window]
        np.greater(candidate, best, out=better)
        if np.issubdtype(values.dtype, np.floating):
            np.maximum(best, candidate, out=best)
            if np.isnan(np.min(candidate, initial=np.inf)):
                better |= np.isnan(candidate)
        else:
            np.maximum(best, candidate, out=best)
        np.copyto(position, found[window], where=better)
    return best, position


def _ragged_sweep(values: Array, found: Array, starts: Array, stops: Array, axis: int) -> tuple[Array, Array]:
    """Maxima over the intervals [starts, stops): shorter ones repeat their last element, which changes nothing."""
    best, position = np.take(values, starts, axis=axis), np.take(found, starts, axis=axis)
    for j in range(1, int(np.max(stops - starts, initial=1))):
        index = np.minimum(starts + j, stops - 1)
        candidate = np.take(values, index, axis=axis)
        better = (candidate > best) | (candidate != candidate)
        np.copyto(best, candidate, where=better)
        np.copyto(position, np.take(found, index, axis=axis), where=better)
    return best, position


def _positions(shape: tuple[int, ...]) -> Array:
    return np.arange(math.prod(shape), dtype=np.int64).reshape(shape)


def _chunks(x: Array) -> Iterable[slice]:
    step = max(1, PLANE_BYTES // max(math.prod(x.shape[1:]) * x.itemsize, 1))
    return (slice(i, i + step) for i in range(0, x.shape[0], step))


def _max_pool_samples(draw: Any) -> Samples:
    return [
        ((draw.distinct(2, 2, 5, 6),), {"kernel": 2}),
        ((draw.distinct(2, 1, 7, 6),), {"kernel": (3, 2), "stride": 2, "padding": 1}),
        (
            (draw.distinct(1, 2, 9),),
            {"kernel": 3, "stride": 2, "padding": 1, "dilation": 2, "ceil_mode": True},
        ),
        ((draw.distinct(1, 1, 4, 3, 4),), {"kernel": 2, "stride": (2, 1, 2), "ceil_mode": True}),
        ((draw.real(0, 2, 4, 4),), {"kernel": 2}),
    ]


@primitive(samples=_max_pool_samples, nondifferentiable_outputs=(1,))
def max_pool(
    x: Array,
    *,
    kernel: PerAxis,
    stride: PerAxis | None = None,
    padding: PerAxis = 0,
    dilation: PerAxis = 1,
    ceil_mode: bool = False,
) -> tuple[Array, Array]:
    """Largest element of every window, and its flat position in the spatial plane (int64).

    ``x`` is (batch, channels, *spatial), real; both results are (batch, channels, *out). ``stride`` defaults to the
    kernel. The first of equal elements counts, and a NaN wins. Raises ValueError where no window fits.
    """
    n = x.ndim - 2
    kernels, paddings = per_axis(kernel, n, "kernel"), per_axis(padding, n, "padding")
    dilations = per_axis(dilation, n, "dilation")
    strides = kernels if stride is None or stride == () else per_axis(stride, n, "stride")
    out = tuple(
        pooled_size(size, k, s, p, d, ceil_mode)
        for size, k, s, p, d in zip(x.shape[2:], kernels, strides, paddings, dilations)
    )
    values = np.empty((*x.shape[:2], *out), dtype=x.dtype)
    positions = np.empty(values.shape, dtype=np.int64)
    plane = _positions(x.shape[2:])
    for part in _chunks(x):
        best, found = x[part], np.broadcast_to(plane, x[part].shape)
        for axis in reversed(range(n)):
            starts = np.arange(out[axis]) * strides[axis] - paddings[axis]
            best, found = _sweep(best, found, starts, kernels[axis], dilations[axis], axis + 2)
        values[part], positions[part] = best, found
    return values, positions


def _adaptive_max_samples(draw: Any) -> Samples:
    return [
        ((draw.distinct(2, 2, 5, 7),), {"output_size": (2, 3)}),
        ((draw.distinct(1, 2, 4),), {"output_size": 6}),
        ((draw.distinct(1, 1, 3, 4, 5),), {"output_size": (1, 2, 3)}),
    ]


@primitive(samples=_adaptive_max_samples, nondifferentiable_outputs=(1,))
def adaptive_max_pool(x: Array, *, output_size: PerAxis) -> tuple[Array, Array]:
    """Largest element of ``output_size`` intervals per spatial axis, and its flat position (int64).

    ``x`` is (batch, channels, *spatial); interval i spans floor(i n / out) to ceil((i + 1) n / out).
    """
    n = x.ndim - 2
    out = per_axis(output_size, n, "output_size")
    best, found = x, np.broadcast_to(_positions(x.shape[2:]), x.shape)
    for axis in reversed(range(n)):
        starts, stops = adaptive_intervals(x.shape[axis + 2], out[axis])
        best, found = _ragged_sweep(best, found, starts, stops, axis + 2)
    return best, np.ascontiguousarray(found)


def _max_pool_vjp(g: Any, out: Any, x: Tensor, **_: Any) -> Tensor | None:
    return None if g[0] is None else scatter_planes(g[0], index=np.asarray(out[1]), spatial=x.shape[2:])


def _max_pool_jvp(dx: Tensor, out: Any, x: Tensor, **_: Any) -> tuple[Tensor, None]:
    return gather_planes(dx, index=np.asarray(out[1])), None


for _pool in (max_pool, adaptive_max_pool):
    _pool.vjp(x=_max_pool_vjp)
    _pool.jvp(x=_max_pool_jvp)


@derived
def max_pool_at(x: Tensor, index: Array) -> Any:
    """Max pooling whose positions were already found: ``x`` (batch, channels, *spatial), ``index`` flat."""
    return gather_planes(x, index=index)


# ----------------------------------------------------------------------------------------------- averages


def box_matrix(
    size: int,
    kernel: int,
    stride: int,
    padding: int,
    out: int,
    count_include_pad: bool,
    divisor: float | None,
) -> Array:
    """The (out, size) matrix that averages windows of one axis.

    ``divisor`` replaces the number of elements; otherwise padding counts if ``count_include_pad`` (but not what
    lies beyond the padding, where ``ceil_mode`` lets a window reach).
    """
    starts = np.arange(out) * stride - padding
    stops = np.minimum(starts + kernel, size + padding)
    lows, highs = np.maximum(starts, 0), np.minimum(stops, size)
    counts = stops - starts if count_include_pad else highs - lows
    column = np.arange(size)
    inside = (column >= lows[:, None]) & (column < highs[:, None])
    return inside / (counts[:, None] if divisor is None else divisor)


@derived
def avg_pool(
    x: Tensor,
    *,
    kernel: PerAxis,
    stride: PerAxis | None = None,
    padding: PerAxis = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: float | None = None,
) -> Tensor:
    """Mean of every window of ``x`` (batch, channels, *spatial); ``stride`` defaults to the kernel.

    ``divisor_override`` divides the window's sum instead of the number of its elements. Raises ValueError where no
    window fits.
    """
    n = x.ndim - 2
    kernels, paddings = per_axis(kernel, n, "kernel"), per_axis(padding, n, "padding")
    strides = kernels if stride is None or stride == () else per_axis(stride, n, "stride")
    spatial = tuple(x.shape[2:])
    for axis in reversed(range(n)):
        out = pooled_size(spatial[axis], kernels[axis], strides[axis], paddings[axis], 1, ceil_mode)
        divisor = None if divisor_override is None else (float(divisor_override) if axis == 0 else 1.0)
        matrix = box_matrix(
            spatial[axis], kernels[axis], strides[axis], paddings[axis], out, count_include_pad, divisor
        )
        x = axis_matrix(x, matrix=matrix, axis=axis + 2)
    return x


@derived
def adaptive_avg_pool(x: Tensor, *, output_size: PerAxis) -> Any:
    """Mean of ``output_size`` intervals per spatial axis of ``x`` (batch, channels, *spatial).

    Interval i spans floor(i n / out) to ceil((i + 1) n / out).
    """
    sizes = per_axis(output_size, x.ndim - 2, "output_size")
    if len(sizes) > 1 and all(size == 1 for size in sizes):  # one interval, whatever the number of axes
        plane = math.prod(x.shape[2:])
        flat = axis_matrix(x.reshape(*x.shape[:2], plane), matrix=np.full((1, plane), 1 / plane), axis=2)
        return flat.reshape(*x.shape[:2], *sizes)
    spatial = tuple(x.shape[2:])
    for axis, out in reversed(list(enumerate(sizes))):
        starts, stops = adaptive_intervals(spatial[axis], out)
        column = np.arange(spatial[axis])
        inside = (column >= starts[:, None]) & (column < stops[:, None])
        x = axis_matrix(x, matrix=inside / (stops - starts)[:, None], axis=axis + 2)
    return x


# ----------------------------------------------------------------------------------- windows as columns


@derived
def col2im(
    columns: Tensor,
    *,
    output_size: Sequence[int],
    kernel: PerAxis,
    stride: PerAxis = 1,
    padding: PerAxis = 0,
    dilation: PerAxis = 1,
) -> Any:
    """Sum of windows where they were taken from: (batch, channels * kernel, positions) to (batch, channels,
    *output_size). The adjoint of :func:`im2col`.
    """
    index, inside = _window_index(tuple(output_size), kernel, stride, padding, dilation)
    taps = index.shape[0]
    batch, rows = columns.shape[0], columns.shape[1]
    columns = columns.reshape(batch, rows // taps, taps, index.shape[1])
    if not inside.all():
        columns = columns * inside.astype(columns.dtype)
    return scatter_planes(columns, index=index[None, None], spatial=tuple(output_size))


@derived
def im2col(
    x: Tensor, *, kernel: PerAxis, stride: PerAxis = 1, padding: PerAxis = 0, dilation: PerAxis = 1
) -> Any:
    """Windows of ``x`` (batch, channels, *spatial) as columns: (batch, channels * kernel, positions)."""
    index, inside = _window_index(tuple(x.shape[2:]), kernel, stride, padding, dilation)
    columns = gather_planes(x, index=index[None, None])
    if not inside.all():
        columns = columns * inside.astype(columns.dtype)
    return columns.reshape(x.shape[0], x.shape[1] * index.shape[0], index.shape[1])


def _window_index(
    spatial: tuple[int, ...], kernel: PerAxis, stride: PerAxis, padding: PerAxis, dilation: PerAxis
) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Flat position of every (tap, window), and which of them lie inside the plane (the others point at 0)."""
    n = len(spatial)
    flat: Array = np.zeros((1, 1), dtype=np.int64)
    inside: npt.NDArray[np.bool_] = np.ones((1, 1), dtype=bool)
    for size, k, s, p, d in zip(
        spatial,
        per_axis(kernel, n, "kernel"),
        per_axis(stride, n, "stride"),
        per_axis(padding, n, "padding"),
        per_axis(dilation, n, "dilation"),
    ):
        count = pooled_size(size, k, s, p, d, False)
        position = np.arange(k)[:, None] * d + np.arange(count) * s - p
        valid = (position >= 0) & (position < size)
        shape = (flat.shape[0] * k, flat.shape[1] * count)
        flat = (flat[:, None, :, None] * size + position[None, :, None, :]).reshape(shape)
        inside = (inside[:, None, :, None] & valid[None, :, None, :]).reshape(shape)
    return np.where(inside, flat, 0), inside

"""Data movement: shape, order, joining, padding, triangles. Exact and linear throughout.

Every entry's VJP is its adjoint (where each element came from), and its JVP is the operation itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from ..primitive import primitive
from ..registry import derived
from ..tensor import Tensor

Array = NDArray[Any]
Axes = int | Sequence[int]


def axes_tuple(axis: Axes | None, ndim: int) -> tuple[int, ...]:
    """Non-negative axes, in the order given; None means all."""
    if axis is None:
        return tuple(range(ndim))
    axes = (axis,) if isinstance(axis, (int, np.integer)) else tuple(axis)
    return tuple(int(a) + ndim if a < 0 else int(a) for a in axes)


@primitive(
    exact=True,
    analytic=True,
    samples=lambda draw: [
        ((draw.real(3, 4),), {"shape": (2, 6)}),
        ((draw.real(6),), {"shape": (2, -1)}),
        ((draw.complex(1),), {"shape": ()}),
        ((draw.real(0, 3),), {"shape": (3, 0)}),
    ],
)
def reshape(x: Array, *, shape: Any) -> Array:
    """The elements in row-major order under another shape; one length may be -1."""
    return np.reshape(x, shape)


reshape.vjp(x=lambda g, out, x: reshape(g, shape=x.shape))
reshape.jvp(x="linear")


def _inverse(axes: Sequence[int] | None) -> tuple[int, ...] | None:
    return None if axes is None else tuple(int(i) for i in np.argsort(axes_tuple(axes, len(axes))))


@primitive(
    exact=True,
    analytic=True,
    samples=lambda draw: [
        (draw.real(3, 4),),
        ((draw.real(2, 3, 4),), {"axes": (1, 2, 0)}),
        ((draw.complex(2, 3, 1),), {"axes": (-1, 0, 1)}),
        (draw.real(),),
    ],
)
def transpose(x: Array, *, axes: Any = None) -> Array:
    """Axes permuted, reversed by default."""
    return np.transpose(x, axes)


transpose.vjp(x=lambda g, out, x, *, axes: transpose(g, axes=_inverse(axes)))
transpose.jvp(x="linear")


@primitive(
    exact=True, analytic=True, samples=lambda draw: [((draw.real(2, 3, 4),), {"axis1": 0, "axis2": -1})]
)
def swapaxes(x: Array, *, axis1: int, axis2: int) -> Array:
    """Two axes exchanged."""
    return np.swapaxes(x, axis1, axis2)


swapaxes.vjp(x=lambda g, out, x, *, axis1, axis2: swapaxes(g, axis1=axis1, axis2=axis2))
swapaxes.jvp(x="linear")


@primitive(
    exact=True,
    analytic=True,
    samples=lambda draw: [
        ((draw.real(4),), {"shape": (3, 4)}),
        ((draw.complex(2, 1),), {"shape": (2, 2, 3)}),
        ((draw.real(),), {"shape": (0, 2)}),
    ],
)
def broadcast_to(x: Array, *, shape: Any) -> Array:
    """x repeated along new and length-one axes (a read-only view)."""
    return np.broadcast_to(x, shape)


broadcast_to.vjp(x=lambda g, out, x: g)  # the tape sums the repeated axes
broadcast_to.jvp(x="linear")


@primitive(
    exact=True,
    analytic=True,
    samples=lambda draw: [((draw.real(3, 4),), {"axis": 1}), ((draw.real(2),), {"axis": (0, -1)})],
)
def expand_dims(x: Array, *, axis: Any) -> Array:
    """New axes of length one at the given places of the result."""
    return np.expand_dims(x, axis)


expand_dims.vjp(x=lambda g, out, x: reshape(g, shape=x.shape))
expand_dims.jvp(x="linear")


@primitive(
    exact=True,
    analytic=True,
    samples=lambda draw: [
        (draw.real(3, 1, 2, 1),),
        ((draw.real(1, 2, 1),), {"axis": 0}),
        ((draw.real(1),), {"axis": (0,)}),
    ],
)
def squeeze(x: Array, *, axis: Any = None) -> Array:
    """Axes of length one removed: all, or the given ones."""
    return np.squeeze(x, axis)


squeeze.vjp(x=lambda g, out, x: reshape(g, shape=x.shape))
squeeze.jvp(x="linear")


@primitive(
    exact=True, analytic=True, samples=lambda draw: [(draw.real(3, 2),), ((draw.real(3, 2),), {"axis": (0,)})]
)
def flip(x: Array, *, axis: Any = None) -> Array:
    """Order reversed along the given axes, or all."""
    return np.flip(x, axis)


flip.vjp(x=lambda g, out, x, *, axis: flip(g, axis=axis))
flip.jvp(x="linear")


def _opposite(shift: Any) -> Any:
    return -shift if isinstance(shift, (int, np.integer)) else tuple(-s for s in shift)


@primitive(
    exact=True,
    analytic=True,
    samples=lambda draw: [
        ((draw.real(3, 4),), {"shift": 2}),
        ((draw.real(3, 4),), {"shift": (1, -2), "axis": (0, 1)}),
    ],
)
def roll(x: Array, *, shift: Any, axis: Any = None) -> Array:
    """Elements shifted cyclically along axes, or along the flattened order."""
    return np.roll(x, shift, axis)


roll.vjp(x=lambda g, out, x, *, shift, axis: roll(g, shift=_opposite(shift), axis=axis))
roll.jvp(x="linear")


def _pieces(g: Tensor, arrays: Sequence[Any], axis: int) -> list[Any]:
    """The slices of g that belong to each of the concatenated arrays."""
    from .indexing import getitem

    axis = axis % g.ndim
    before, start, pieces = (slice(None),) * axis, 0, []
    for array in arrays:
        stop = start + array.shape[axis]
        pieces.append(getitem(g, index=(*before, slice(start, stop))))
        start = stop
    return pieces


@primitive(
    exact=True,
    analytic=True,
    sequence="arrays",
    meta_only=("arrays",),
    samples=lambda draw: [
        (([draw.real(2, 3), draw.real(1, 3)],), {}),
        (([draw.real(2, 1), draw.complex(2, 0), draw.real(2, 2)],), {"axis": -1}),
        (([draw.real(2)],), {}),
    ],
)
def concatenate(arrays: list[Array], *, axis: int = 0) -> Array:
    """Arrays joined along an existing axis."""
    return np.concatenate(arrays, axis)


concatenate.vjp(arrays=lambda g, out, arrays, *, axis: _pieces(g, arrays, axis))
concatenate.jvp(arrays="linear")


@derived
def stack(arrays: Sequence[Any], axis: int = 0) -> Any:
    """Arrays of one shape joined along a new axis."""
    parts = [a if isinstance(a, Tensor) else Tensor(a) for a in arrays]
    at = axis if axis >= 0 else axis + parts[0].ndim + 1
    return concatenate([expand_dims(p, axis=at) for p in parts], axis=at)


def _inner(g: Tensor, widths: Any) -> Any:
    from .indexing import getitem

    return getitem(g, index=tuple(slice(low, g.shape[i] - high) for i, (low, high) in enumerate(widths)))


def _cropped(x: Array, widths: Sequence[tuple[int, int]]) -> tuple[Array, list[tuple[int, int]]]:
    index = tuple(slice(max(-lo, 0), x.shape[i] - max(-hi, 0)) for i, (lo, hi) in enumerate(widths))
    return x[index], [(max(lo, 0), max(hi, 0)) for lo, hi in widths]


@primitive(
    exact=True,
    samples=lambda draw: [
        ((draw.real(3, 4),), {"widths": ((1, 2), (0, 3))}),
        ((draw.real(5, 2),), {"widths": ((-1, 2), (1, -1)), "value": 1.5}),
        ((draw.complex(2),), {"widths": ((0, 1),)}),
    ],
)
def pad(x: Array, *, widths: Any, value: Any = 0.0) -> Array:
    """A constant frame: one (before, after) pair per axis; a negative width cuts off."""
    inner, frame = _cropped(x, widths)
    return np.pad(inner, frame, constant_values=value)


pad.vjp(x=lambda g, out, x, *, widths: pad(g, widths=tuple((-lo, -hi) for lo, hi in widths)))
pad.jvp(x=lambda dx, out, x, *, widths: pad(dx, widths=widths))


@derived
def tile(x: Any, repeats: Any) -> Any:
    """x repeated as a whole along each axis, as `np.tile`."""
    source = x if isinstance(x, Tensor) else Tensor(x)
    counts = (repeats,) if isinstance(repeats, (int, np.integer)) else tuple(repeats)
    ndim = max(source.ndim, len(counts))
    counts = (1,) * (ndim - len(counts)) + counts
    lengths = (1,) * (ndim - source.ndim) + source.shape
    apart = reshape(source, shape=tuple(n for length in lengths for n in (1, length)))
    spread = broadcast_to(apart, shape=tuple(n for pair in zip(counts, lengths) for n in pair))
    return reshape(spread, shape=tuple(c * n for c, n in zip(counts, lengths)))


@primitive(
    exact=True,
    samples=lambda draw: [
        (draw.real(3, 3),),
        ((draw.real(3, 5),), {"offset": 1}),
        ((draw.complex(2, 3, 4),), {"offset": -1, "axis1": 0, "axis2": 2}),
    ],
)
def diagonal(x: Array, *, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Array:
    """The diagonal over two axes, as a new last axis."""
    return np.diagonal(x, offset, axis1, axis2)


@primitive(
    exact=True,
    samples=lambda draw: [
        ((draw.real(3),), {"shape": (3, 3)}),
        ((draw.real(2, 3),), {"shape": (3, 2, 4), "offset": 1, "axis1": 0, "axis2": 2}),
    ],
)
def diagonal_scatter(x: Array, *, shape: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Array:
    """Zeros of `shape` with x on a diagonal: the adjoint of `diagonal`."""
    made = np.zeros(shape, x.dtype)
    view = np.moveaxis(made, (axis1, axis2), (-2, -1))
    length = x.shape[-1]
    rows = np.arange(length) + max(-offset, 0)
    view[..., rows, rows + offset] = x
    return made


diagonal.vjp(
    x=lambda g, out, x, *, offset, axis1, axis2: diagonal_scatter(
        g, shape=x.shape, offset=offset, axis1=axis1, axis2=axis2
    )
)
diagonal.jvp(x="linear")
diagonal_scatter.vjp(
    x=lambda g, out, x, *, offset, axis1, axis2: diagonal(g, offset=offset, axis1=axis1, axis2=axis2)
)
diagonal_scatter.jvp(x="linear")


@derived
def diag_embed(x: Any, offset: int = 0, axis1: int = -2, axis2: int = -1) -> Any:
    """Matrices that carry the last axis of x on a diagonal, zero elsewhere."""
    source = x if isinstance(x, Tensor) else Tensor(x)
    ndim = source.ndim + 1
    first, second = axis1 % ndim, axis2 % ndim
    side = source.shape[-1] + abs(offset)
    shape = list(source.shape[:-1])
    for axis in sorted((first, second)):
        shape.insert(axis, side)
    return diagonal_scatter(source, shape=tuple(shape), offset=offset, axis1=first, axis2=second)


@primitive(exact=True, samples=lambda draw: [(draw.real(3, 4),), ((draw.complex(2, 3, 3),), {"k": -1})])
def tril(x: Array, *, k: int = 0) -> Array:
    """Zero above the k-th diagonal of the last two axes."""
    return np.tril(x, k)


@primitive(exact=True, samples=lambda draw: [(draw.real(3, 4),), ((draw.complex(2, 3, 3),), {"k": 1})])
def triu(x: Array, *, k: int = 0) -> Array:
    """Zero below the k-th diagonal of the last two axes."""
    return np.triu(x, k)


tril.vjp(x=lambda g, out, x, *, k: tril(g, k=k)).jvp(x="linear")
triu.vjp(x=lambda g, out, x, *, k: triu(g, k=k)).jvp(x="linear")


@primitive(
    exact=True,
    samples=lambda draw: [
        ((draw.real(2, 7),), {"axis": 1, "size": 3, "step": 2}),
        ((draw.real(6, 2),), {"axis": 0, "size": 2, "step": 3}),
    ],
)
def unfold_windows(x: Array, *, axis: int, size: int, step: int) -> Array:
    """Windows of `size` every `step` along an axis; the window is a new last axis (a view)."""
    windows = sliding_window_view(x, size, axis=axis)
    return windows[(slice(None),) * (axis % x.ndim) + (slice(None, None, step),)]


@primitive(
    samples=lambda draw: [((draw.real(2, 3, 3),), {"axis": 1, "length": 7, "step": 2})],
)
def fold_windows(x: Array, *, axis: int, length: int, step: int) -> Array:
    """Windows (last axis) added back at their places on an axis of `length`: adjoint of unfold_windows."""
    axis = axis % (x.ndim - 1)
    count, size = x.shape[axis], x.shape[-1]
    shape = (*x.shape[:axis], length, *x.shape[axis + 1 : -1])
    made = np.zeros(shape, x.dtype)
    before = (slice(None),) * axis
    for offset in range(size):
        window = slice(offset, offset + (count - 1) * step + 1, step)
        made[before + (window,)] += x[..., offset]  # noqa: RUF005
    return made


unfold_windows.vjp(
    x=lambda g, out, x, *, axis, step: fold_windows(g, axis=axis % x.ndim, length=x.shape[axis], step=step)
)
unfold_windows.jvp(x="linear")
fold_windows.vjp(
    x=lambda g, out, x, *, axis, step: unfold_windows(
        g, axis=axis % (x.ndim - 1), size=x.shape[-1], step=step
    )
)
fold_windows.jvp(x="linear")


def element_count(shape: Sequence[int], axes: Sequence[int]) -> int:
    """Number of elements along the given axes."""
    return math.prod(shape[a] for a in axes)

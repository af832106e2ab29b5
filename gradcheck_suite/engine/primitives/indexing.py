"""Reading and writing by index, gathering and scattering.

An index is static: slices, ints, None, Ellipsis, integer arrays and boolean masks, as NumPy takes them.
The adjoint of reading is adding at the places read; places that occur more than once are summed with a
sparse product or `bincount`, which `np.add.at` cannot match in speed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy  # its parts are imported on first use
from numpy.typing import NDArray

from ..primitive import primitive
from ..registry import derived
from ..tensor import Tensor
from .arithmetic import divide, multiply
from .shape import pad, reshape

Array = NDArray[Any]


def _parts(index: Any) -> tuple[Any, ...]:
    return index if isinstance(index, tuple) else (index,)


def may_repeat(index: Any) -> bool:
    """Whether an index can name the same element twice: only integer arrays can."""
    for part in _parts(index):
        if isinstance(part, (list, np.ndarray)):
            array = np.asarray(part)
            if array.dtype.kind in "iu" and array.size > 1:
                return True
    return False


def places(shape: Sequence[int], index: Any) -> Array:
    """Flat positions of the elements that `index` reads, in the shape of what it reads."""
    size = int(np.prod(shape, dtype=np.int64))
    return np.asarray(np.arange(size).reshape(tuple(shape))[index])


def add_flat(size: int, positions: Array, values: Array) -> Array:
    """Zeros of length `size` with the values added at flat positions, repeats summed (in float64)."""
    where, what = positions.ravel(), np.broadcast_to(values, positions.shape).ravel()
    if what.dtype.kind == "c":
        made = np.empty(size, what.dtype)
        made.real = np.bincount(where, what.real, size)
        made.imag = np.bincount(where, what.imag, size)
        return made
    return np.bincount(where, what, size).astype(what.dtype, copy=False)


def add_rows(count: int, rows: Array, values: Array) -> Array:
    """Zeros (count, ...) with values[i] added to row rows[i], repeats summed."""
    width = values[0].size if len(values) else int(np.prod(values.shape[1:]))
    if width <= 1 or not len(values):
        flat = (
            add_flat(count * width, np.asarray(rows), values.reshape(-1))
            if width
            else np.zeros(0, values.dtype)
        )
        return flat.reshape(count, *values.shape[1:])
    exact = values.astype(np.float32) if values.dtype == np.float16 else values
    ones = np.ones(len(rows), exact.dtype)
    spread = scipy.sparse.csc_matrix(
        (ones, np.asarray(rows), np.arange(len(rows) + 1)), shape=(count, len(rows))
    )
    return (
        np.asarray(spread @ exact.reshape(len(rows), width))
        .astype(values.dtype, copy=False)
        .reshape(count, *values.shape[1:])
    )


def _rows(rows: Array, count: int) -> Array:
    """Row numbers, non-negative and checked against the number of rows."""
    wanted = np.asarray(rows)
    if wanted.size and not (-count <= wanted.min() and wanted.max() < count):
        raise IndexError(
            f"adding rows failed: indices span {wanted.min()}..{wanted.max()} for {count} rows. There are no such "
            f"rows. Pass indices from {-count} to {count - 1}."
        )
    return np.where(wanted < 0, wanted + count, wanted)


def _indices(draw: Any) -> list[Any]:
    return [
        ((draw.real(3, 4),), {"index": (slice(None), 1)}),
        ((draw.real(5, 2),), {"index": (slice(4, None, -2), None)}),
        ((draw.complex(3, 4),), {"index": (..., slice(0, 0))}),
        ((draw.real(4, 2),), {"index": np.array([[0, 3], [3, -1]])}),
        ((draw.real(3, 4),), {"index": (np.array([0, 0, 2]), np.array([1, 1, -1]))}),
        ((draw.complex(3, 4),), {"index": (slice(None), np.array([0, 0, 2]))}),
        ((draw.real(2, 3),), {"index": np.array([[True, False, True], [False, True, True]])}),
        ((draw.real(3),), {"index": 1}),
        ((draw.real(),), {"index": ()}),
        ((draw.real(3, 2),), {"index": np.zeros(0, int)}),
    ]


@primitive(exact=True, samples=_indices)
def getitem(x: Array, *, index: Any) -> Array:
    """x[index], as NumPy reads it."""
    return np.asarray(x[index])


@primitive(
    samples=lambda draw: [
        ((draw.real(3),), {"index": (slice(None), 1), "shape": (3, 4)}),
        ((draw.real(3),), {"index": (np.array([0, 0, 2]), np.array([1, 1, -1])), "shape": (3, 4)}),
        ((draw.complex(2, 2),), {"index": np.array([1, 1]), "shape": (3, 2)}),
        ((draw.real(2, 0),), {"index": np.array([1, 1]), "shape": (3, 0)}),
    ]
)
def getitem_adjoint(g: Array, *, index: Any, shape: Any) -> Array:
    """Zeros of `shape` with g added at `index`: each element of g goes where getitem read it."""
    if not may_repeat(index):
        made = np.zeros(shape, g.dtype)
        made[index] = g
        return made
    parts = _parts(index)
    if len(parts) == 1:
        rows = np.asarray(parts[0])
        return add_rows(shape[0], _rows(rows, shape[0]).ravel(), g.reshape(rows.size, *shape[1:]))
    size = int(np.prod(shape, dtype=np.int64))
    return np.reshape(add_flat(size, places(shape, index), g), shape)


getitem.vjp(x=lambda g, out, x, *, index: getitem_adjoint(g, index=index, shape=x.shape))
getitem.jvp(x="linear")
getitem_adjoint.vjp(g=lambda g, out, g_, *, index: getitem(g, index=index))
getitem_adjoint.jvp(g="linear")


def _written(g: Any, value: Any, index: Any) -> Any:
    """The part of g that the written value supplied, without what a later repeat overwrote."""
    read = getitem(g, index=index)
    if may_repeat(index):
        where = places(g.shape, index)
        last = np.zeros(g.size, np.int64)
        order = np.arange(where.size).reshape(where.shape)
        last[where] = order
        read = multiply(read, np.asarray(last[where] == order, dtype=g.dtype))
    missing = value.ndim - read.ndim
    return reshape(read, shape=(1,) * missing + read.shape) if missing > 0 else read


@primitive(
    exact=True,
    samples=lambda draw: [
        ((draw.real(3, 4), draw.real(3)), {"index": (slice(None), 1)}),
        ((draw.real(3, 4), draw.real()), {"index": ...}),
        ((draw.real(4), draw.real(3)), {"index": np.array([0, 2, 0])}),
        ((draw.complex(2, 3), draw.real(1, 3)), {"index": 0}),
        ((draw.real(2, 2), 0.0), {"index": np.array([[True, False], [True, True]])}),
    ],
)
def setitem(x: Array, value: Array, *, index: Any) -> Array:
    """A copy of x with x[index] = value; of repeated places the last value counts."""
    made = np.array(x)
    if may_repeat(index):
        # NumPy does not promise which of several values wins; writing by rank of the last does.
        where = places(made.shape, index)
        what = np.broadcast_to(value, where.shape).ravel()
        unique, first = np.unique(where.ravel()[::-1], return_index=True)
        made.reshape(-1)[unique] = what[::-1][first]
        return made
    made[index] = value
    return made


setitem.vjp(
    x=lambda g, out, x, value, *, index: setitem(g, 0.0, index=index),
    value=lambda g, out, x, value, *, index: _written(g, value, index),
)
setitem.jvp(
    x=lambda dx, out, x, value, *, index: setitem(dx, 0.0, index=index),
    value=lambda dv, out, x, value, *, index: setitem(np.zeros(out.shape, out.dtype), dv, index=index),
)


@primitive(
    samples=lambda draw: [
        ((draw.real(3, 4), draw.real(2, 4)), {"index": np.array([2, 2]), "axis": 0}),
        ((draw.complex(2, 3), draw.real(2, 4)), {"index": np.array([0, 1, 1, -1]), "axis": 1}),
        ((draw.real(3), draw.real(3)), {"index": np.array([0, 0, 1]), "axis": 0}),
    ]
)
def index_add(x: Array, values: Array, *, index: Any, axis: int = 0) -> Array:
    """x with slices of `values` added at places of one axis, repeats summed."""
    rows = _rows(np.asarray(index).reshape(-1), x.shape[axis])
    added = np.moveaxis(add_rows(x.shape[axis], rows, np.moveaxis(values, axis, 0)), 0, axis)
    return np.asarray(x + added)


def _along(index: Any, axis: int, ndim: int) -> tuple[Any, ...]:
    return (slice(None),) * (axis % ndim) + (np.asarray(index).reshape(-1),)


index_add.vjp(
    x=lambda g, out, x, values: g,
    values=lambda g, out, x, values, *, index, axis: getitem(g, index=_along(index, axis, g.ndim)),
)
index_add.jvp(
    x=lambda dx, out, x, values: dx,
    values=lambda dv, out, x, values, *, index, axis: index_add(
        np.zeros(out.shape, out.dtype), dv, index=index, axis=axis
    ),
)


def element_index(index: Array, axis: int) -> tuple[Array, ...]:
    """The full index of x[.., index[.., i, ..], ..]: `index` along `axis`, its own place elsewhere."""
    axis = axis % index.ndim
    mesh = np.ogrid[tuple(slice(0, n) for n in index.shape)]
    return tuple(index if i == axis else np.asarray(place) for i, place in enumerate(mesh))


@derived
def take(x: Any, index: Any, axis: int = 0) -> Any:
    """Slices of x at the given places of one axis (places may repeat)."""
    source = x if isinstance(x, Tensor) else Tensor(x)
    return getitem(source, index=(slice(None),) * (axis % source.ndim) + (np.asarray(index),))


@derived
def embedding(weight: Any, index: Any) -> Any:
    """Rows of `weight` (n, d) at integer places: shape (*index.shape, d)."""
    return getitem(weight, index=np.asarray(index))


@derived
def take_along_axis(x: Any, index: Any, axis: int) -> Any:
    """out[.., i, ..] = x[.., index[.., i, ..], ..]: `index` may be shorter than x on the other axes."""
    wanted = np.asarray(index)
    if not wanted.ndim:
        return getitem(reshape(x, shape=(1,)), index=(wanted,))
    return getitem(x, index=element_index(wanted, axis))


def _leading(values: Any, shape: tuple[int, ...]) -> Any:
    if tuple(np.shape(values.data if isinstance(values, Tensor) else values)) == shape or not np.ndim(
        values.data if isinstance(values, Tensor) else values
    ):
        return values
    return getitem(values, index=tuple(slice(0, n) for n in shape))


@primitive(
    samples=lambda draw: [
        ((draw.real(3, 4), draw.real(2, 3)), {"index": np.array([[0, 2, 2], [2, 2, 2]]), "axis": 0}),
        (
            (draw.real(2, 3), draw.complex(2, 5)),
            {"index": np.array([[0, 0, 1, -1], [1, 1, 1, 1]]), "axis": 1},
        ),
    ]
)
def scatter_add(x: Array, values: Array, *, index: Any, axis: int) -> Array:
    """x with values[.., i, ..] added at x[.., index[.., i, ..], ..], repeats summed.

    `index` may be shorter than x on the other axes, and than `values`, whose rest is unused.
    """
    wanted = np.asarray(index)
    where = places(x.shape, element_index(wanted, axis))
    used = (
        np.broadcast_to(values, wanted.shape)
        if not values.ndim
        else values[tuple(slice(0, n) for n in wanted.shape)]
    )
    return np.asarray(x + add_flat(x.size, where, used).reshape(x.shape))


def _gathered(g: Any, values: Any, index: Any, axis: int) -> Any:
    wanted = np.asarray(index)
    read = getitem(g, index=element_index(wanted, axis))
    if not values.ndim or values.shape == wanted.shape:
        return read
    return pad(read, widths=tuple((0, n - m) for n, m in zip(values.shape, wanted.shape)))


scatter_add.vjp(
    x=lambda g, out, x, values: g,
    values=lambda g, out, x, values, *, index, axis: _gathered(g, values, index, axis),
)
scatter_add.jvp(
    x=lambda dx, out, x, values: dx,
    values=lambda dv, out, x, values, *, index, axis: scatter_add(
        np.zeros(out.shape, out.dtype), dv, index=index, axis=axis
    ),
)


@derived
def scatter_set(x: Any, values: Any, index: Any, axis: int) -> Any:
    """x with x[.., index[.., i, ..], ..] = values[.., i, ..]; of repeated places the last value counts."""
    wanted = np.asarray(index)
    return setitem(x, _leading(values, wanted.shape), index=element_index(wanted, axis))


@derived
def scatter_reduce(x: Any, values: Any, index: Any, axis: int, reduce: str, include_self: bool = True) -> Any:
    """x with the values scattered to each place combined by `reduce`: sum, mean, prod, amax or amin.

    A place that nothing is scattered to keeps x. Without `include_self` the old value of the other
    places does not take part. Equal extremes share the gradient equally.
    """
    from .reduction import amax, amin, prod

    if reduce not in ("sum", "mean", "prod", "amax", "amin"):
        raise ValueError(f"scatter_reduce failed: reduce={reduce!r}. Pass sum, mean, prod, amax or amin.")
    target = x if isinstance(x, Tensor) else Tensor(x)
    wanted = np.asarray(index)
    used = _leading(values, wanted.shape)
    where = places(target.shape, element_index(wanted, axis)).ravel()
    count = np.bincount(where, minlength=target.size).reshape(target.shape)
    keeps = np.asarray(True) if include_self else count == 0
    start = target if include_self else multiply(target, keeps.astype(target.dtype))
    if reduce in ("sum", "mean"):
        total = scatter_add(start, used, index=wanted, axis=axis)
        number = np.maximum(count + include_self, 1)
        return total if reduce == "sum" else divide(total, number.astype(target.dtype))
    # One row per place: the old value, then everything scattered to it, then neutral elements.
    order = np.argsort(where, kind="stable")
    starts = np.cumsum(count.ravel()) - count.ravel()
    rank = np.empty(where.size, np.int64)
    rank[order] = np.arange(where.size) - starts[where[order]]
    neutral = {"prod": 1.0, "amax": -np.inf, "amin": np.inf}[reduce]
    table = np.full((target.size, int(count.max(initial=0)) + 1), neutral, target.dtype)
    kept = np.flatnonzero(np.broadcast_to(keeps, target.shape))
    flat = reshape(target, shape=(-1,))
    rows: Any = setitem(table, getitem(flat, index=kept), index=(kept, np.zeros(len(kept), np.int64)))
    rows = setitem(rows, reshape(used, shape=(-1,)), index=(where, rank + 1))
    combined = {"prod": prod, "amax": amax, "amin": amin}[reduce](rows, axis=1)
    return reshape(combined, shape=target.shape)


def strided_places(shape: Sequence[int], strides: Sequence[int], offset: int) -> Array:
    """Flat positions of a strided window, strides in elements."""
    where = np.asarray(offset)
    for length, stride in zip(shape, strides):
        where = where[..., None] + np.arange(length) * stride
    return where


def _strided(size: int, shape: Any, strides: Any, offset: int) -> Array:
    where = strided_places(shape, strides, offset)
    if where.size and not (where.min() >= 0 and where.max() < size):
        raise IndexError(
            f"as_strided failed: shape {tuple(shape)}, strides {tuple(strides)}, offset {offset} reach elements "
            f"{where.min()}..{where.max()} of {size}. There are no such elements. Correct the window."
        )
    return where


@derived
def as_strided(x: Any, shape: Any, strides: Any, offset: int = 0) -> Any:
    """A window over the elements of x in row-major order; strides and offset count elements."""
    source = x if isinstance(x, Tensor) else Tensor(x)
    return getitem(reshape(source, shape=(-1,)), index=(_strided(source.size, shape, strides, offset),))


@derived
def as_strided_scatter(x: Any, src: Any, shape: Any, strides: Any, offset: int = 0) -> Any:
    """x with `src` written to that window; of places it covers twice the last value counts."""
    source = x if isinstance(x, Tensor) else Tensor(x)
    where = _strided(source.size, shape, strides, offset)
    return reshape(setitem(reshape(source, shape=(-1,)), src, index=(where,)), shape=source.shape)

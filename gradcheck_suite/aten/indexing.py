"""Reading and writing at positions: index, gather, scatter, masks, embeddings, and reductions by group.

Everything is brought down to flat positions: read (``getitem``), write (``setitem``) or add (``index_add``) there.
"""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import math

import numpy as np

from ..engine import Tensor
from ..engine import ops as e
from .grouping import grouped
from .registry import RECORDED, MeaningUndefinedError, meaning
from .shape import slices
from .values import Array, along, axis_of, boolean, constant, raw, shape_of


def torch_index(indices):
    """Torch's list of index tensors as a NumPy index: None takes the dimension whole."""
    index: list[slice | Array] = []
    for entry in indices:
        if entry is None:
            index.append(slice(None))
        else:
            positions = raw(entry)
            index.append(positions.astype(bool) if positions.dtype == np.uint8 else positions)
    return tuple(index)


def positions_of(shape, index):
    """Flat positions that an index selects in an array of this shape."""
    return np.arange(math.prod(shape)).reshape(shape)[index]


def refuse_repeated(positions):
    """A gradient of written values exists only where each position is written once."""
    unique = np.unique(positions).size
    if unique < positions.size:
        raise MeaningUndefinedError(
            f"differentiating a write failed: {positions.size} values go to {unique} positions. torch leaves open "
            "which of several values stays, and gives each the whole gradient. Write each position once, or add."
        )


def may_repeat(index):
    """Whether an index can select a position twice: slices and masks cannot."""
    return any(isinstance(entry, np.ndarray) and entry.dtype != bool for entry in index)


def put(x, index, values, accumulate):
    """``x`` with values written, or added, at an index; values are broadcast to the index's shape."""
    positions = positions_of(shape_of(x), index)
    values = e.broadcast_to(values, shape=positions.shape) if shape_of(values) != positions.shape else values
    flat = e.reshape(x, shape=(-1,))
    values = e.reshape(values, shape=(-1,))
    if not accumulate and isinstance(values, Tensor) and values.requires_grad and may_repeat(index):
        refuse_repeated(positions)
    if accumulate:
        flat = e.index_add(flat, values, index=positions.ravel(), axis=0)
    else:
        flat = e.setitem(flat, values, index=positions.ravel())
    return e.reshape(flat, shape=shape_of(x))


@meaning("aten::index.Tensor", "aten::_unsafe_index.Tensor")
def index_tensor(self, indices):
    return e.getitem(self, index=torch_index(indices))


@meaning("aten::index_put", "aten::_unsafe_index_put")
def index_put(self, indices, values, accumulate=False):
    return put(self, torch_index(indices), values, accumulate)


@meaning("aten::_index_put_impl_")
def index_put_impl(self, indices, values, accumulate=False, unsafe=False):
    return put(self, torch_index(indices), values, accumulate)


def _inside(mask, indices):
    """Masked-off positions may be out of range: there, position 0 is read instead."""
    return [None if index is None else np.where(mask, raw(index), 0) for index in indices]


@meaning("aten::_unsafe_masked_index")
def masked_index(self, mask, indices, fill):
    mask = boolean(mask)
    values = e.getitem(self, index=torch_index(_inside(mask, indices)))
    return e.where(mask.reshape(mask.shape + (1,) * (values.ndim - mask.ndim)), values, fill)


@meaning("aten::_unsafe_masked_index_put_accumulate")
def masked_index_put(self, mask, indices, values):
    mask = boolean(mask)
    kept = e.where(mask.reshape(mask.shape + (1,) * (values.ndim - mask.ndim)), values, 0.0)
    return put(self, torch_index(_inside(mask, indices)), kept, True)


@meaning("aten::index_select")
def index_select(self, dim, index):
    return along(self, dim, lambda x, axis: e.getitem(x, index=slices(x.ndim, axis, np.atleast_1d(index))))


@meaning("aten::take")
def take(self, index):
    return e.getitem(e.reshape(self, shape=(-1,)), index=index)


@meaning("aten::put")
def put_flat(self, index, source, accumulate=False):
    flat = put(e.reshape(self, shape=(-1,)), (index.ravel(),), e.reshape(source, shape=(-1,)), accumulate)
    return e.reshape(flat, shape=shape_of(self))


@meaning("aten::select_scatter")
def select_scatter(self, src, dim, index):
    return put(self, slices(self.ndim, axis_of(dim, self.ndim), int(index)), src, False)


@meaning("aten::slice_scatter")
def slice_scatter(self, src, dim=0, start=None, end=None, step=1):
    return put(self, slices(self.ndim, axis_of(dim, self.ndim), slice(start, end, step)), src, False)


@meaning("aten::diagonal_scatter")
def diagonal_scatter(self, src, offset=0, dim1=0, dim2=1):
    places = np.arange(self.size).reshape(self.shape).diagonal(offset, dim1, dim2)
    return e.reshape(put(e.reshape(self, shape=(-1,)), (places,), src, False), shape=self.shape)


# Along one dimension -------------------------------------------------------------------------------------------


def _cropped(x, shape, axis=None):
    """The leading block of ``x`` that an index of this shape addresses, whole along ``axis``."""
    index = tuple(
        slice(None) if i == axis or size == x.shape[i] else slice(0, size) for i, size in enumerate(shape)
    )
    return x if all(s == slice(None) for s in index) else e.getitem(x, index=index)


def _scattered(shape, axis, index):
    """The NumPy index of torch's scatter: ``index`` along ``axis``, its own coordinates elsewhere."""
    grid = list(np.indices(index.shape, sparse=True))
    grid[axis] = index
    return tuple(grid)


@meaning("aten::gather")
def gather(self, dim, index, *, sparse_grad=False):
    if not self.ndim:
        return self if not index.ndim else e.getitem(e.reshape(self, shape=(1,)), index=index)
    axis = axis_of(dim, self.ndim)
    index = index if index.ndim else index.reshape(1)
    return e.take_along_axis(_cropped(self, index.shape, axis), index=index, axis=axis)


def _scatter(self, dim, index, values, write):
    """Applies ``write(x, position index, values)`` after giving 0-d tensors a dimension."""
    shape = shape_of(self)
    if not shape:
        self = e.reshape(self, shape=(1,))
    index = index if index.ndim else index.reshape(1)
    if not index.size:
        return e.reshape(self, shape=shape)
    axis = axis_of(dim, self.ndim)
    if shape_of(values):
        values = _cropped(values, index.shape)
    elif shape_of(self):
        values = e.broadcast_to(values, shape=index.shape)
    return e.reshape(write(self, _scattered(self.shape, axis, index), values), shape=shape)


@meaning("aten::scatter.src")
def scatter_src(self, dim, index, src):
    return _scatter(self, dim, index, src, lambda x, at, values: put(x, at, values, False))


@meaning("aten::scatter.value")
def scatter_value(self, dim, index, value):
    return _scatter(self, dim, index, constant(value), lambda x, at, values: put(x, at, values, False))


@meaning("aten::scatter_add")
def scatter_add(self, dim, index, src):
    return _scatter(self, dim, index, src, lambda x, at, values: put(x, at, values, True))


def _combine(x, at, values, kind, include_self):
    positions = positions_of(x.shape, at).ravel()
    flat = grouped(
        e.reshape(values, shape=(-1,)), positions, x.size, kind, e.reshape(x, shape=(-1,)), include_self
    )
    return e.reshape(flat, shape=x.shape)


@meaning("aten::scatter_reduce.two")
def scatter_reduce(self, dim, index, src, reduce, *, include_self=True):
    return _scatter(self, dim, index, src, lambda x, at, v: _combine(x, at, v, reduce, include_self))


_REDUCE = {"add": "sum", "multiply": "prod"}


@meaning("aten::scatter.reduce")
def scatter_reduce_src(self, dim, index, src, *, reduce):
    return _scatter(self, dim, index, src, lambda x, at, v: _combine(x, at, v, _REDUCE[reduce], True))


@meaning("aten::scatter.value_reduce")
def scatter_reduce_value(self, dim, index, value, *, reduce):
    return _scatter(
        self, dim, index, constant(value), lambda x, at, v: _combine(x, at, v, _REDUCE[reduce], True)
    )


def _lines(self, dim, index, source, write):
    """Applies ``write`` with the index of whole lines along ``dim``; 0-d tensors get a dimension."""
    shape = shape_of(self)
    x = self if shape else e.reshape(self, shape=(1,))
    index = np.atleast_1d(index)
    if not shape_of(source) and x.ndim == 1:
        source = e.reshape(source, shape=(1,))
    return e.reshape(write(x, slices(x.ndim, axis_of(dim, x.ndim), index), source), shape=shape)


@meaning("aten::index_add")
def index_add(self, dim, index, source, *, alpha=1):
    source = source if alpha == 1 else source * alpha
    return _lines(self, dim, index, source, lambda x, at, values: put(x, at, values, True))


@meaning("aten::index_copy")
def index_copy(self, dim, index, source):
    return _lines(self, dim, index, source, lambda x, at, values: put(x, at, values, False))


@meaning("aten::index_fill.int_Scalar", "aten::index_fill.int_Tensor")
def index_fill(self, dim, index, value):
    if not self.ndim:
        return fill(self, value) if np.size(index) else self
    filled = np.zeros(
        (self.shape[axis_of(dim, self.ndim)],) + (1,) * (self.ndim - 1 - axis_of(dim, self.ndim)), bool
    )
    filled[index] = True
    return e.where(filled, value, self)


@meaning("aten::index_reduce")
def index_reduce(self, dim, index, source, reduce, *, include_self=True):
    kind = {"prod": "prod", "mean": "mean", "amax": "amax", "amin": "amin"}[reduce]
    return _lines(self, dim, index, source, lambda x, at, v: _combine(x, at, v, kind, include_self))


# Masks ---------------------------------------------------------------------------------------------------------


@meaning("aten::masked_fill.Scalar", "aten::masked_fill.Tensor")
def masked_fill(self, mask, value):
    return e.where(boolean(mask), value, self)


@meaning("aten::masked_select")
def masked_select(self, mask):
    shape = np.broadcast_shapes(self.shape, mask.shape)
    x = self if self.shape == shape else e.broadcast_to(self, shape=shape)
    chosen = np.flatnonzero(np.broadcast_to(boolean(mask), shape))
    return e.getitem(e.reshape(x, shape=(-1,)), index=chosen)


@meaning("aten::masked_scatter")
def masked_scatter(self, mask, source):
    shape = np.broadcast_shapes(self.shape, mask.shape)
    x = self if self.shape == shape else e.broadcast_to(self, shape=shape)
    positions = np.flatnonzero(np.broadcast_to(boolean(mask), shape))
    values = e.getitem(e.reshape(source, shape=(-1,)), index=slice(0, positions.size))
    return e.reshape(put(e.reshape(x, shape=(-1,)), (positions,), values, False), shape=shape)


@meaning("aten::fill.Scalar", "aten::fill.Tensor")
def fill(self, value):
    value = value if hasattr(value, "shape") else constant(value)
    return e.broadcast_to(value, shape=shape_of(self))


@meaning("aten::zero")
def zero(self):
    return constant(np.zeros_like(raw(self)))


# Embeddings ----------------------------------------------------------------------------------------------------


def _rescaled(x, factor):
    """The value of ``x`` with its gradient scaled: what torch documents for an embedding's options."""
    cut = constant(x)
    return cut + (x - cut) * factor


@meaning("aten::embedding")
def embedding(weight, indices, padding_idx=-1, scale_grad_by_freq=False, sparse=False):
    """Rows of ``weight``; the row at ``padding_idx`` receives no gradient, as documented."""
    rows = e.embedding(weight, index=indices)
    if scale_grad_by_freq:
        counts = np.bincount(indices.ravel(), minlength=weight.shape[0])
        rows = _rescaled(rows, 1.0 / counts[indices][..., None])
    if padding_idx >= 0 and bool((indices == padding_idx).any()):
        rows = e.where((indices == padding_idx)[..., None], constant(rows), rows)
    return rows


@meaning("aten::_embedding_bag", "aten::_embedding_bag_forward_only", uses_outputs=True)
def embedding_bag(
    weight,
    indices,
    offsets,
    scale_grad_by_freq=False,
    mode=0,
    sparse=False,
    per_sample_weights=None,
    include_last_offset=False,
    padding_idx=-1,
    *,
    recorded,
):
    """Sum, mean or maximum of the embeddings of each bag; ``padding_idx`` is left out."""
    starts = offsets[:-1] if include_last_offset else offsets
    bags = len(starts)
    bag = np.searchsorted(starts, np.arange(len(indices)), side="right") - 1
    kept = np.flatnonzero(indices != padding_idx) if padding_idx >= 0 else np.arange(len(indices))
    used, bag = indices[kept], bag[kept]
    counts = np.bincount(bag, minlength=bags)
    rest = (RECORDED, RECORDED, RECORDED)
    if mode == 2:
        filled = counts > 0
        chosen = np.where(filled[:, None], recorded[3].reshape(bags, -1), 0)
        values = e.take_along_axis(weight, index=chosen, axis=0)
        return (e.where(filled[:, None], values, 0.0), *rest)
    rows = e.embedding(weight, index=used)
    if scale_grad_by_freq:
        frequency = np.bincount(indices, minlength=weight.shape[0])
        rows = _rescaled(rows, 1.0 / frequency[used][:, None])
    if per_sample_weights is not None:
        rows = rows * e.expand_dims(e.getitem(per_sample_weights, index=kept), axis=-1)
    total = e.index_add(constant(np.zeros((bags, weight.shape[1]))), rows, index=bag, axis=0)
    if mode == 1:
        total = total / np.maximum(counts, 1).astype(np.float64)[:, None]
    return (total, *rest)

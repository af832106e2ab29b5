"""Operations on sparse tensors, each with its dense value: what is not stored is zero.

Layouts and indices are the recording's business; here a sparse tensor is the dense one that it stands for.
"""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import numpy as np

from ..engine import ops as e
from .indexing import put
from .matmul import addmm
from .registry import RECORDED, MeaningUnavailableError, meaning
from .values import axes_of, axis_of, constant, convert, raw


@meaning("aten::_sparse_addmm")
def sparse_addmm(self, mat1, mat2, *, beta=1, alpha=1):
    return addmm(self, mat1, mat2, beta=beta, alpha=alpha)


@meaning("aten::_to_dense")
def to_dense(self, dtype=None, masked_grad=None):
    return convert(self, dtype)


@meaning("aten::_to_sparse")
def to_sparse(self, *, layout=None, blocksize=None, dense_dim=None):
    return self


@meaning("aten::_to_sparse.sparse_dim")
def to_sparse_dim(self, sparse_dim):
    return self


@meaning("aten::_sparse_coo_tensor_with_dims_and_tensors")
def sparse_coo_tensor(
    sparse_dim,
    dense_dim,
    size,
    indices,
    values,
    *,
    dtype=None,
    layout=None,
    device=None,
    pin_memory=False,
    is_coalesced=None,
):
    """Values at repeated positions add up."""
    zeros = constant(np.zeros(tuple(size), dtype=raw(values).dtype))
    return put(zeros, tuple(raw(indices)), values, True)


@meaning("aten::sparse_sampled_addmm")
def sampled_addmm(self, mat1, mat2, *, beta=1, alpha=1):
    """``beta * self + alpha * mat1 @ mat2`` where ``self`` stores something, zero elsewhere."""
    stored = raw(self) != 0
    return e.where(stored, self * beta + e.matmul(mat1, mat2) * alpha, 0.0)


@meaning("aten::_sparse_mm_reduce_impl")
def sparse_mm_reduce(self, other, reduce):
    """Product of a sparse matrix with a dense one, in which the products of a row are reduced.

    What is not stored is no variable: its gradient is zero.
    """
    stored = raw(self) != 0
    self = e.where(stored, self, 0.0)
    counts = np.maximum(stored.sum(axis=1), 1).astype(np.float64)[:, None]
    if reduce in ("sum", "mean"):
        product = e.matmul(self, other)
        return (product / counts if reduce == "mean" else product), RECORDED
    if reduce not in ("amax", "amin"):
        raise MeaningUnavailableError(
            f"reducing a sparse product failed: reduce={reduce!r} has no meaning here. "
            "Known are sum, mean, amax, amin. Use one of those."
        )
    lowest = -np.inf if reduce == "amax" else np.inf
    products = e.expand_dims(self, axis=2) * e.expand_dims(other, axis=0)
    masked = e.where(stored[:, :, None], products, lowest)
    empty = ~stored.any(axis=1)[:, None]
    extremum = e.amax if reduce == "amax" else e.amin
    return e.where(empty, 0.0, extremum(e.where(empty[:, :, None], 0.0, masked), axis=1)), RECORDED


# Sums, products, softmax ----------------------------------------------------------------------------------------


@meaning("aten::_sparse_sum.dim")
def sparse_sum(self, dim):
    return e.sum(self, axis=axes_of(dim, self.ndim))


@meaning("aten::_sparse_sparse_matmul")
def sparse_sparse_matmul(self, other):
    return e.matmul(self, other)


def _over_stored(x, dim, function, elsewhere):
    """A softmax over what is stored; a line that stores nothing has none."""
    stored = raw(x) != 0
    axis = axis_of(dim, x.ndim)
    empty = ~stored.any(axis=axis, keepdims=True)
    masked = e.where(empty, 0.0, e.where(stored, x, -np.inf))
    return e.where(stored, function(masked, axis=axis), elsewhere)


@meaning("aten::_sparse_softmax")
def sparse_softmax(self, dim, half_to_float):
    return _over_stored(self, dim, e.softmax, 0.0)


@meaning("aten::_sparse_log_softmax")
def sparse_log_softmax(self, dim, half_to_float):
    return _over_stored(self, dim, e.log_softmax, 0.0)


# What is stored -------------------------------------------------------------------------------------------------


@meaning("aten::_coalesce")
def coalesce(self):
    return self


@meaning("aten::values", "aten::_values", uses_outputs=True)
def stored_values(self, *, recorded):
    """The stored values, line by line."""
    where = np.nonzero(raw(self))
    if recorded[0].shape != (len(where[0]),):
        raise MeaningUnavailableError(
            f"reading stored values failed: {len(where[0])} are not zero, and torch returned {list(recorded[0].shape)}. "
            "Stored zeros and stored blocks cannot be told from the dense value. Store numbers that are not zero."
        )
    return e.getitem(self, index=where)


@meaning("aten::sparse_mask")
def sparse_mask(self, mask):
    return e.where(raw(mask) != 0, self, 0.0)


@meaning("aten::_sparse_mask_projection")
def sparse_mask_projection(self, mask, accumulate_matches=False):
    return e.where(raw(mask) != 0, self, 0.0)


@meaning("aten::_to_sparse_csr", "aten::_to_sparse_csc")
def to_sparse_compressed(self, dense_dim=None):
    return self


@meaning("aten::sparse_compressed_tensor.comp_plain_value_size")
def sparse_compressed_tensor(
    compressed_indices,
    plain_indices,
    values,
    size,
    *,
    dtype=None,
    layout=None,
    device=None,
    pin_memory=False,
):
    """Row i stores what ``compressed_indices[i]`` to ``compressed_indices[i + 1]`` count (columns with ``csc``)."""
    bounds, plain = raw(compressed_indices), raw(plain_indices)
    if bounds.ndim != 1 or values.ndim != 1 or "bs" in str(layout):
        raise MeaningUnavailableError(
            f"making a compressed matrix failed: its values have shape {list(values.shape)}, its layout is {layout}. "
            "Batches and blocks have no meaning here. Use one matrix of numbers."
        )
    lines = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
    places = (plain, lines) if "csc" in str(layout) else (lines, plain)
    return put(constant(np.zeros(tuple(size), dtype=raw(values).dtype)), places, values, True)

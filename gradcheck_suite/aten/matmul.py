"""Products of matrices and vectors."""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import numpy as np

from ..engine import ops as e
from .registry import MeaningUnavailableError, meaning
from .values import constant


def _combined(self, product, beta, alpha):
    """``beta * self + alpha * product``; with beta zero, self is not even looked at."""
    product = product if alpha == 1 else product * alpha
    if beta == 0:
        return product
    return e.add(self if beta == 1 else self * beta, product)


@meaning("aten::mm", "aten::bmm")
def mm(self, mat2):
    return e.matmul(self, mat2)


@meaning("aten::matmul")
def matmul(self, other):
    return e.matmul(self, other)


@meaning("aten::mv")
def mv(self, vec):
    return e.matmul(self, vec)


@meaning("aten::dot")
def dot(self, tensor):
    return e.matmul(self, tensor)


@meaning("aten::vdot")
def vdot(self, other):
    return e.matmul(e.conj(self), other)


@meaning("aten::addmm")
def addmm(self, mat1, mat2, *, beta=1, alpha=1):
    return _combined(self, e.matmul(mat1, mat2), beta, alpha)


@meaning("aten::_addmm_activation")
def addmm_activation(self, mat1, mat2, *, beta=1, alpha=1, use_gelu=False):
    total = _combined(self, e.matmul(mat1, mat2), beta, alpha)
    return e.multiply(total, e.ndtr(total)) if use_gelu else e.relu(total)


@meaning("aten::baddbmm")
def baddbmm(self, batch1, batch2, *, beta=1, alpha=1):
    return _combined(self, e.matmul(batch1, batch2), beta, alpha)


@meaning("aten::addbmm")
def addbmm(self, batch1, batch2, *, beta=1, alpha=1):
    return _combined(self, e.sum(e.matmul(batch1, batch2), axis=0), beta, alpha)


@meaning("aten::addmv")
def addmv(self, mat, vec, *, beta=1, alpha=1):
    return _combined(self, e.matmul(mat, vec), beta, alpha)


@meaning("aten::addr")
def addr(self, vec1, vec2, *, beta=1, alpha=1):
    return _combined(self, e.outer(vec1, vec2), beta, alpha)


@meaning("aten::linear")
def linear(input, weight, bias=None):
    product = e.matmul(input, e.swapaxes(weight, axis1=0, axis2=1) if weight.ndim == 2 else weight)
    return product if bias is None else e.add(product, bias)


@meaning("aten::_trilinear")
def trilinear(i1, i2, i3, expand1, expand2, expand3, sumdim, unroll_dim=1):
    """Product of three tensors, broadcast against each other along the expanded dimensions, then summed."""
    product = None
    for factor, expand in ((i1, expand1), (i2, expand2), (i3, expand3)):
        for dim in sorted(expand):
            factor = e.expand_dims(factor, axis=dim)
        product = factor if product is None else e.multiply(product, factor)
    return e.sum(product, axis=tuple(sumdim)) if len(sumdim) else product


@meaning("aten::_grouped_mm")
def grouped_mm(self, mat2, offs=None, bias=None, out_dtype=None):
    """Independent products of consecutive groups of rows (or of columns and rows); ``offs`` are the ends."""
    if bias is not None:
        raise MeaningUnavailableError(
            "computing a grouped product failed: it has a bias. torch does not define one yet. Add it afterwards."
        )
    if offs is None:
        return e.matmul(self, mat2)
    ends = [int(end) for end in offs]
    spans = [slice(start, end) for start, end in zip([0, *ends], ends)]

    def left(group, span):
        if self.ndim == 3:
            return e.getitem(self, index=(group,))
        return e.getitem(self, index=(span,) if mat2.ndim == 3 else (slice(None), span))

    def right(group, span):
        if mat2.ndim == 3:
            return e.getitem(mat2, index=(group,))
        return e.getitem(mat2, index=(slice(None), span) if self.ndim == 3 else (span,))

    products = [e.matmul(left(group, span), right(group, span)) for group, span in enumerate(spans)]
    if self.ndim == 2 and mat2.ndim == 2:
        return e.stack(products, axis=0)
    axis = 0 if self.ndim == 2 else 1
    covered, size = ends[-1], self.shape[0] if axis == 0 else mat2.shape[-1]
    if covered < size:
        shape = list(products[0].shape)
        shape[axis] = size - covered
        products.append(constant(np.zeros(shape)))
    return e.concatenate(products, axis=axis)

"""Sums, means, extrema, norms, cumulative operations, and the selections by rank (sort, topk, median).

Which element a selection picked is taken from torch's recorded indices rather than decided again: at a tie both
answers are right, and the gradient goes where torch's went.
"""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import numpy as np

from ..engine import ops as e
from .registry import RECORDED, meaning
from .values import along, axes_of, axis_of, constant, convert, is_complex, raw


@meaning("aten::sum")
def sum_all(self, *, dtype=None):
    return e.sum(convert(self, dtype))


@meaning("aten::sum.dim_IntList")
def sum_dim(self, dim, keepdim=False, *, dtype=None):
    return e.sum(convert(self, dtype), axis=axes_of(dim, self.ndim), keepdims=keepdim)


@meaning("aten::nansum")
def nansum(self, dim=None, keepdim=False, *, dtype=None):
    x = convert(self, dtype)
    return e.sum(e.where(np.isnan(raw(x)), 0.0, x), axis=axes_of(dim, self.ndim), keepdims=keepdim)


@meaning("aten::mean")
def mean_all(self, *, dtype=None):
    return e.mean(convert(self, dtype))


@meaning("aten::mean.dim")
def mean_dim(self, dim, keepdim=False, *, dtype=None):
    return e.mean(convert(self, dtype), axis=axes_of(dim, self.ndim), keepdims=keepdim)


@meaning("aten::prod")
def prod_all(self, *, dtype=None):
    return e.prod(convert(self, dtype))


@meaning("aten::prod.dim_int")
def prod_dim(self, dim, keepdim=False, *, dtype=None):
    return e.prod(convert(self, dtype), axis=axes_of(dim, self.ndim), keepdims=keepdim)


@meaning("aten::trace")
def trace(self):
    return e.sum(e.diagonal(self, offset=0, axis1=0, axis2=1))


# Extrema -------------------------------------------------------------------------------------------------------


@meaning("aten::amax")
def amax(self, dim=(), keepdim=False):
    return e.amax(self, axis=axes_of(dim, self.ndim), keepdims=keepdim)


@meaning("aten::amin")
def amin(self, dim=(), keepdim=False):
    return e.amin(self, axis=axes_of(dim, self.ndim), keepdims=keepdim)


@meaning("aten::max")
def max_all(self):
    return e.amax(self)


@meaning("aten::min")
def min_all(self):
    return e.amin(self)


@meaning("aten::aminmax")
def aminmax(self, *, dim=None, keepdim=False):
    axis = None if dim is None else axes_of(dim, self.ndim)
    return e.amin(self, axis=axis, keepdims=keepdim), e.amax(self, axis=axis, keepdims=keepdim)


def picked(self, index, dim, keepdim=True):
    """The elements at the recorded positions along ``dim``, with that dimension kept or dropped."""
    if not self.ndim:
        return self
    axis = axis_of(dim, self.ndim)
    positions = index if index.ndim == self.ndim and keepdim else np.expand_dims(index, axis)
    chosen = e.take_along_axis(self, index=positions, axis=axis)
    return chosen if keepdim else e.squeeze(chosen, axis=axis)


@meaning("aten::max.dim", "aten::min.dim", "aten::median.dim", "aten::nanmedian.dim", uses_outputs=True)
def selected(self, dim, keepdim=False, *, recorded):
    return picked(self, recorded[1], dim, keepdim), RECORDED


@meaning("aten::mode", uses_outputs=True)
def mode(self, dim=-1, keepdim=False, *, recorded):
    return picked(self, recorded[1], dim, keepdim), RECORDED


@meaning("aten::kthvalue", uses_outputs=True)
def kthvalue(self, k, dim=-1, keepdim=False, *, recorded):
    return picked(self, recorded[1], dim, keepdim), RECORDED


@meaning("aten::sort", uses_outputs=True)
def sort(self, dim=-1, descending=False, *, recorded):
    return picked(self, recorded[1], dim), RECORDED


@meaning("aten::sort.stable", uses_outputs=True)
def sort_stable(self, *, stable, dim=-1, descending=False, recorded):
    return picked(self, recorded[1], dim), RECORDED


@meaning("aten::topk", uses_outputs=True)
def topk(self, k, dim=-1, largest=True, sorted=True, *, recorded):
    return picked(self, recorded[1], dim), RECORDED


@meaning("aten::cummax", "aten::cummin", uses_outputs=True)
def cumulative_extremum(self, dim, *, recorded):
    return picked(self, recorded[1], dim), RECORDED


def _median(self, data):
    """The lower median of ``data``'s numbers; elements equal to it share the gradient."""
    flat = np.sort(data.ravel())
    count = int(np.count_nonzero(~np.isnan(flat)))
    if count == 0:
        return e.mean(self)
    equal = data == flat[(count - 1) // 2]
    return e.sum(e.where(equal, self, 0.0)) / int(equal.sum())


@meaning("aten::median")
def median_all(self):
    data = raw(self)
    missing = np.isnan(data)
    if bool(missing.any()):
        return e.sum(e.where(missing, self, 0.0)) / int(missing.sum())
    return _median(self, data)


@meaning("aten::nanmedian")
def nanmedian_all(self):
    return _median(self, raw(self))


# Spread --------------------------------------------------------------------------------------------------------


def _variance(self, dim, correction, keepdim):
    correction = 1 if correction is None else correction
    return e.var(self, axis=axes_of(dim, self.ndim), correction=correction, keepdims=keepdim)


def _root(variance):
    """Square root whose derivative at zero is taken as zero, as for a norm."""
    zero = raw(variance) == 0
    return e.where(zero, 0.0, e.sqrt(e.where(zero, 1.0, variance)))


@meaning("aten::var.correction")
def var_correction(self, dim=None, *, correction=None, keepdim=False):
    return _variance(self, dim, correction, keepdim)


@meaning("aten::std.correction")
def std_correction(self, dim=None, *, correction=None, keepdim=False):
    return _root(_variance(self, dim, correction, keepdim))


@meaning("aten::var_mean.correction")
def var_mean(self, dim=None, *, correction=None, keepdim=False):
    mean = e.mean(self, axis=axes_of(dim, self.ndim), keepdims=keepdim)
    return _variance(self, dim, correction, keepdim), mean


@meaning("aten::std_mean.correction")
def std_mean(self, dim=None, *, correction=None, keepdim=False):
    mean = e.mean(self, axis=axes_of(dim, self.ndim), keepdims=keepdim)
    return _root(_variance(self, dim, correction, keepdim)), mean


# Norms ---------------------------------------------------------------------------------------------------------


@meaning("aten::linalg_vector_norm")
def vector_norm(self, ord=2, dim=None, keepdim=False, *, dtype=None):
    return e.norm(convert(self, dtype), ord=float(ord), axis=axes_of(dim, self.ndim), keepdims=keepdim)


@meaning("aten::norm.Scalar")
def norm_all(self, p=2):
    return vector_norm(self, p)


@meaning("aten::norm.ScalarOpt_dim")
def norm_dim(self, p, dim, keepdim=False):
    return vector_norm(self, 2 if p is None else p, dim, keepdim)


@meaning("aten::norm.ScalarOpt_dim_dtype")
def norm_dim_dtype(self, p, dim, keepdim, *, dtype):
    return vector_norm(self, 2 if p is None else p, dim, keepdim, dtype=dtype)


@meaning("aten::norm.ScalarOpt_dtype")
def norm_dtype(self, p, *, dtype):
    return vector_norm(self, 2 if p is None else p, dtype=dtype)


@meaning("aten::dist")
def dist(self, other, p=2):
    return vector_norm(e.subtract(self, other), p)


@meaning("aten::renorm")
def renorm(self, p, dim, maxnorm):
    """Slices along ``dim`` whose p-norm exceeds ``maxnorm`` are scaled down to it."""
    axis = axis_of(dim, self.ndim)
    others = tuple(i for i in range(self.ndim) if i != axis)
    norm = e.norm(self, ord=float(p), axis=others, keepdims=True)
    long = raw(norm) > maxnorm
    # torch divides by norm + 1e-7, so that a slice just above the limit ends up just below it.
    scale = e.where(long, maxnorm / (e.where(long, norm, 1.0) + 1e-7), 1.0)
    return e.multiply(self, scale)


def _distance(difference, p):
    return e.norm(difference, ord=float(p), axis=-1)


@meaning("aten::_cdist_forward")
def cdist(x1, x2, p, compute_mode):
    return _distance(e.subtract(e.expand_dims(x1, axis=-2), e.expand_dims(x2, axis=-3)), p)


def distance_slope(difference, distance, p):
    """Derivative of the p-norm of differences (..., width) with a given norm (..., 1); zero where the norm is."""
    if p == 0:
        # The number of coordinates that differ: constant wherever it has a derivative.
        return constant(np.zeros(raw(difference).shape))
    if p == 1:
        return constant(np.sign(raw(difference)))
    if np.isinf(p):
        return constant(np.sign(raw(difference)) * (np.abs(raw(difference)) == raw(distance)))
    zero = raw(distance) == 0
    inverse = e.where(zero, 0.0, e.power(e.where(zero, 1.0, distance), 1.0 - p))
    if p == 2:
        return difference * inverse
    size = np.abs(raw(difference))
    used = size > 0
    power = e.where(used, e.power(e.absolute(e.where(used, difference, 1.0)), p - 1.0), 0.0)
    return constant(np.sign(raw(difference))) * power * inverse


@meaning("aten::_euclidean_dist")
def euclidean_dist(x1, x2):
    return cdist(x1, x2, 2.0, None)


@meaning("aten::_pdist_forward")
def pdist(self, p=2.0):
    first, second = np.triu_indices(self.shape[0], 1)
    return _distance(e.subtract(e.getitem(self, index=first), e.getitem(self, index=second)), p)


# Cumulative ----------------------------------------------------------------------------------------------------


@meaning("aten::cumsum")
def cumsum(self, dim, *, dtype=None):
    return along(convert(self, dtype), dim, lambda x, axis: e.cumsum(x, axis=axis))


@meaning("aten::cumprod")
def cumprod(self, dim, *, dtype=None):
    return along(convert(self, dtype), dim, lambda x, axis: e.cumprod(x, axis=axis))


def _complex_logsumexp(x, axes, keepdims):
    """With the imaginary part that the logarithm has: torch's, between minus and plus pi."""
    shift = raw(x).real.max(axis=axes, keepdims=True)
    total = e.log(e.sum(e.exp(x - shift), axis=axes, keepdims=keepdims))
    return total + (shift if keepdims else np.squeeze(shift, axis=axes))


def _complex_logcumsumexp(x, axis):
    """Line by line against every earlier element, each with its own shift: the range may exceed exp's."""
    last = e.swapaxes(x, axis1=axis, axis2=-1)
    length = last.shape[-1]
    earlier = np.tri(length, dtype=bool)
    rows = e.where(earlier, e.broadcast_to(e.expand_dims(last, axis=-2), shape=(*last.shape, length)), -1e30)
    return e.swapaxes(_complex_logsumexp(rows, (-1,), False), axis1=axis, axis2=-1) if length else x


@meaning("aten::logcumsumexp")
def logcumsumexp(self, dim):
    if is_complex(self):
        return along(self, dim, _complex_logcumsumexp)
    return along(self, dim, lambda x, axis: e.logcumsumexp(x, axis=axis))


@meaning("aten::logsumexp")
def logsumexp(self, dim, keepdim=False):
    if is_complex(self):
        return _complex_logsumexp(self, axes_of(dim, self.ndim), keepdim)
    if not self.ndim:
        return self
    return e.logsumexp(self, axis=axes_of(dim, self.ndim), keepdims=keepdim)

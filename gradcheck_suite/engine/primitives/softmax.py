"""Softmax and its logarithm, with their derivatives as kernels of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..modes import THREAD
from ..perturb import Perturbation
from ..primitive import primitive
from ..tensor import Tensor
from ._blocks import Scratch, blocks, merged, total, total_of_products, unbuffered
from .elementary import exp
from .reduction import sum as sum_over

Array = npt.NDArray[Any]
Samples = list[tuple[tuple[Any, ...], dict[str, Any]]]


LARGEST = {8: 300.0, 4: 40.0}
"""By item size, exponents whose exponentials can be summed over any axis without overflow."""


def _exponentials(x: Array, out: Array, where: tuple[int, ...], safe: bool) -> Array:
    """exp(x - shift) in ``out``; its sums over ``where``, kept with length one.

    The shift is the largest element of the slice, or nothing where nothing can over- or underflow: no element is
    large, and sums of at least one say that no slice has only very small ones.
    """
    if np.max(x) <= LARGEST.get(x.itemsize, -np.inf):
        sums = total(np.exp(x, out=out), where)
        if np.min(sums) >= 1:
            return sums
    largest = np.max(x, axis=where, keepdims=True)
    if safe:
        largest[np.isneginf(largest)] = 0
    np.exp(np.subtract(x, largest, out=out), out=out)
    return total(out, where)


def _softmax(x: Array, axis: int, allowed: Array | None, safe: bool) -> Array:
    if allowed is not None:
        x = np.where(allowed, x, np.asarray(-np.inf, dtype=x.dtype))
    shape, where = merged(x.shape, (axis % x.ndim,))
    values, result = x.reshape(shape), np.empty(shape, dtype=x.dtype)
    with unbuffered(shape[-1]):
        for part in blocks(shape, where, x.itemsize):
            block = result[part]
            sums = _exponentials(values[part], block, where, safe)
            if safe:
                sums[sums == 0] = 1
            block *= 1 / sums
    return result.reshape(x.shape)


def _softmax_samples(draw: Any) -> Samples:
    return [
        ((draw.real(3, 4),), {"axis": -1}),
        ((draw.real(2, 3, 2),), {"axis": 1}),
        ((draw.real(5, low=300, high=310),), {"axis": 0}),
        ((draw.real(0, 3),), {"axis": 1}),
    ]


@primitive(samples=_softmax_samples)
def softmax(x: Array, *, axis: int = -1) -> Array:
    """exp(x) divided by its sum along ``axis``. A slice of nothing but -inf gives NaN, as in torch."""
    if x.size == 0:
        return np.zeros_like(x)
    if x.ndim == 0:
        return np.ones_like(x)
    with np.errstate(invalid="ignore"):  # -inf - -inf is the NaN that was promised
        return _softmax(x, axis, None, safe=False)


def _safe_softmax_samples(draw: Any) -> Samples:
    allowed = np.array([[True, False, True], [True, True, True]])
    return [
        ((draw.real(3, 4),), {}),
        ((draw.real(2, 2, 3),), {"allowed": allowed}),
        ((draw.real(2, 3),), {"allowed": np.array([[False, False, False], [True, True, False]])}),
    ]


@primitive(samples=_safe_softmax_samples)
def safe_softmax(x: Array, *, axis: int = -1, allowed: Array | None = None) -> Array:
    """Softmax along ``axis`` over the elements where ``allowed`` (boolean, broadcast) holds; the others give zero.

    A slice with nothing allowed, or nothing but -inf, gives zeros: what attention does with a masked row.
    """
    if x.size == 0:
        return np.zeros_like(x)
    return _softmax(x, axis, allowed, safe=True)


def _softmax_gradient_samples(draw: Any) -> Samples:
    return [
        ((draw.real(3, 4), draw.positive(3, 4)), {"axis": -1}),
        ((draw.real(2, 3, 2), draw.real(2, 3, 2)), {"axis": 1}),
        ((draw.real(0, 3), draw.real(0, 3)), {"axis": 1}),
    ]


@primitive(samples=_softmax_gradient_samples)
def softmax_gradient(g: Array, p: Array, *, axis: int = -1) -> Array:
    """p (g - sum(g p)): the derivative of softmax at its value ``p``, which is symmetric."""
    if g.ndim == 0:
        return np.zeros_like(g)
    shape, where = merged(g.shape, (axis % g.ndim,))
    dtype = np.result_type(g, p)
    incoming, weights = (a.astype(dtype, copy=False).reshape(shape) for a in (g, p))
    gradient = np.empty(shape, dtype=dtype)
    with unbuffered(shape[-1]):
        for part in blocks(shape, where, dtype.itemsize):
            block = gradient[part]
            np.subtract(
                incoming[part], total_of_products(incoming[part], weights[part], where, block), out=block
            )
            block *= weights[part]
    return gradient.reshape(g.shape)


softmax.vjp(x=lambda g, out, x, *, axis=-1: softmax_gradient(g, out, axis=axis))
softmax.jvp(x=lambda dx, out, x, *, axis=-1: softmax_gradient(dx, out, axis=axis))
safe_softmax.vjp(x=lambda g, out, x, *, axis=-1, allowed=None: softmax_gradient(g, out, axis=axis))
safe_softmax.jvp(x=lambda dx, out, x, *, axis=-1, allowed=None: softmax_gradient(dx, out, axis=axis))


def _softmax_gradient_in_p(h: Tensor, out: Tensor, g: Tensor, p: Tensor, *, axis: int = -1) -> Any:
    if g.ndim == 0:
        return h * 0.0
    return h * (g - sum_over(g * p, axis=axis, keepdims=True)) - g * sum_over(h * p, axis=axis, keepdims=True)


softmax_gradient.vjp(
    g=lambda h, out, g, p, *, axis=-1: softmax_gradient(h, p, axis=axis), p=_softmax_gradient_in_p
)
softmax_gradient.jvp(
    g="linear",
    p=lambda dp, out, g, p, *, axis=-1: (
        dp * 0.0
        if g.ndim == 0
        else dp * (g - sum_over(g * p, axis=axis, keepdims=True))
        - p * sum_over(g * dp, axis=axis, keepdims=True)
    ),
)


@primitive(samples=_softmax_samples)
def log_softmax(x: Array, *, axis: int = -1) -> Array:
    """x - log(sum(exp(x))) along ``axis``, without overflow."""
    if x.size == 0 or x.ndim == 0:
        return np.zeros_like(x)
    shape, where = merged(x.shape, (axis % x.ndim,))
    values, result = x.reshape(shape), np.empty(shape, dtype=x.dtype)
    scratch = Scratch(x.dtype)
    with np.errstate(invalid="ignore"), unbuffered(shape[-1]):
        for part in blocks(shape, where, x.itemsize):
            # Always from the largest: log(1 + small) next to it is what makes a likely class's value exact.
            largest = np.max(values[part], axis=where, keepdims=True)
            block = np.subtract(values[part], largest, out=result[part])
            exponentials = np.exp(block, out=scratch(block.shape))
            sums = total(exponentials, where)
            block -= np.log(sums)
            if THREAD.mode.perturbation is not None:
                block -= _rounding_of_log_sum(largest, sums, THREAD.mode.perturbation)
    return result.reshape(x.shape)


def _rounding_of_log_sum(largest: Array, sums: Array, noisy: Perturbation) -> Array:
    """By how much simulated rounding moves ``largest + log(sums)``.

    Where one class is nearly certain its logarithm is far smaller than both, and an error relative to it alone would say
    that nobody may be off. The sum is rounded to the working precision, the logarithm in half precisions to float32.
    """
    finer = noisy if noisy.eps <= 2.0**-23 else Perturbation(2.0**-23, noisy.rng)
    exact = largest + np.log(sums)
    moved = finer(np.asarray(largest + np.log(noisy(sums))))
    return np.where(np.isfinite(exact), moved - exact, 0.0)


@primitive(samples=_softmax_gradient_samples)
def log_softmax_gradient(g: Array, out: Array, *, axis: int = -1) -> Array:
    """g - exp(out) sum(g): the VJP of log_softmax at its value ``out``."""
    if g.ndim == 0:
        return np.zeros_like(g)
    shape, where = merged(g.shape, (axis % g.ndim,))
    incoming, values = g.reshape(shape), out.reshape(shape)
    gradient = np.empty(shape, dtype=np.result_type(g, out))
    with unbuffered(shape[-1]):
        for part in blocks(shape, where, g.itemsize):
            block = np.exp(values[part], out=gradient[part])
            block *= -total(incoming[part], where)
            block += incoming[part]
    return gradient.reshape(g.shape)


def _log_softmax_tangent(dx: Tensor, out: Tensor, x: Tensor, *, axis: int = -1) -> Any:
    if x.ndim == 0:
        return dx * 0.0
    return dx - sum_over(exp(out) * dx, axis=axis, keepdims=True)


log_softmax.vjp(x=lambda g, out, x, *, axis=-1: log_softmax_gradient(g, out, axis=axis))
log_softmax.jvp(x=_log_softmax_tangent)
# The derivative in g is the tangent map above, transposed twice: itself; in `out` only exp(out) changes.
log_softmax_gradient.vjp(
    g=lambda h, gradient, g, out, *, axis=-1: _log_softmax_tangent(h, out, h, axis=axis),
    out=lambda h, gradient, g, out, *, axis=-1: (
        h * 0.0 if g.ndim == 0 else -(h * exp(out) * sum_over(g, axis=axis, keepdims=True))
    ),
)
log_softmax_gradient.jvp(
    g="linear",
    out=lambda d, gradient, g, out, *, axis=-1: (
        d * 0.0 if g.ndim == 0 else -(d * exp(out) * sum_over(g, axis=axis, keepdims=True))
    ),
)

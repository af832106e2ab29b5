"""Sums, products, extremes, norms and their running forms.

`axis` is None (all), an int or a tuple. Derivatives from the definitions; equal extremes share the gradient
equally, a norm has the subgradient 0 at 0.
"""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..primitive import primitive
from ..registry import derived
from ..tensor import Tensor
from .arithmetic import _over, add, divide, multiply, power, subtract
from .complex_parts import bar, real
from .elementary import exp
from .indexing import getitem
from .magnitude import absolute, sgn
from .selection import selected
from .shape import axes_tuple, broadcast_to, concatenate, element_count, flip, reshape, transpose

Array = NDArray[Any]


def kept_shape(shape: tuple[int, ...], axis: Any) -> tuple[int, ...]:
    """The shape with every reduced axis at length one."""
    axes = axes_tuple(axis, len(shape))
    return tuple(1 if i in axes else n for i, n in enumerate(shape))


def spread(g: Any, shape: tuple[int, ...], axis: Any, keepdims: bool) -> Any:
    """A reduced tensor laid over the shape it was reduced from: the adjoint of `sum`."""
    if not keepdims and g.shape != (kept := kept_shape(shape, axis)):
        g = reshape(g, shape=kept)
    return g if g.shape == shape else broadcast_to(g, shape=shape)


def _reductions(draw: Any) -> list[Any]:
    return [
        (draw.real(3, 4),),
        ((draw.real(2, 3, 4),), {"axis": (0, -1)}),
        ((draw.complex(2, 3),), {"axis": 1, "keepdims": True}),
        (draw.real(),),
        ((draw.real(2, 3),), {"axis": ()}),
    ]


@primitive(analytic=True, samples=lambda draw: [*_reductions(draw), ((draw.real(0, 3),), {"axis": 0})])
def sum(x: Array, *, axis: Any = None, keepdims: bool = False) -> Array:
    """Sum over axes."""
    return np.asarray(np.sum(x, axis=axis, keepdims=keepdims))


sum.vjp(x=lambda g, out, x, *, axis, keepdims: spread(g, x.shape, axis, keepdims))
sum.jvp(x="linear")


@primitive(analytic=True, samples=_reductions)
def mean(x: Array, *, axis: Any = None, keepdims: bool = False) -> Array:
    """Mean over axes; NaN of nothing."""
    if not x.size:
        # 0 / 0, and no warning of NumPy's: torch says NaN without one.
        return np.full(np.sum(x, axis=axis, keepdims=keepdims).shape, np.nan, dtype=x.dtype)
    return np.asarray(np.mean(x, axis=axis, keepdims=keepdims))


def _count(shape: tuple[int, ...], axis: Any) -> int:
    return element_count(shape, axes_tuple(axis, len(shape)))


mean.vjp(
    x=lambda g, out, x, *, axis, keepdims: spread(
        divide(g, float(_count(x.shape, axis))), x.shape, axis, keepdims
    )
)
mean.jvp(x="linear")


# --------------------------------------------------------------------------------------------- running sums


@primitive(
    analytic=True,
    samples=lambda draw: [
        ((draw.real(4),), {"axis": 0}),
        ((draw.complex(2, 3),), {"axis": -1}),
        ((draw.real(2, 0),), {"axis": 1}),
    ],
)
def cumsum(x: Array, *, axis: int) -> Array:
    """Running sum along an axis."""
    return np.cumsum(x, axis=axis)


def _cumsum_backwards(g: Any, axis: int) -> Any:
    return flip(cumsum(flip(g, axis=axis), axis=axis), axis=axis)


cumsum.vjp(x=lambda g, out, x, *, axis: _cumsum_backwards(g, axis))
cumsum.jvp(x="linear")


@primitive(
    analytic=True,
    samples=lambda draw: [
        (draw.real(2, 5), draw.real(2, 5)),
        (draw.complex(4), draw.complex(4)),
        (draw.real(2, 0), draw.real(2, 0)),
    ],
)
def linear_recurrence(a: Array, b: Array) -> Array:
    """s_i = b_i + a_i s_(i-1) along the last axis, s_(-1) = 0; a and b of one shape."""
    out = np.array(np.broadcast_to(b, np.broadcast_shapes(a.shape, b.shape)), np.result_type(a, b))
    for i in range(1, out.shape[-1] if out.size else 0):
        out[..., i] += a[..., i] * out[..., i - 1]
    return out


def _shifted(x: Any, fill: float) -> Any:
    """x moved one place towards the end of the last axis."""
    first = Tensor(np.full((*x.shape[:-1], 1), fill, x.dtype))
    return concatenate([first, getitem(x, index=(..., slice(0, -1)))], axis=-1) if x.shape[-1] else x


def _recurrence_adjoint(g: Any, a: Any) -> Any:
    """r_i = g_i + conj(a_(i+1)) r_(i+1): the same recurrence from the other end."""
    return flip(linear_recurrence(_shifted(flip(bar(a), axis=-1), 0.0), flip(g, axis=-1)), axis=-1)


linear_recurrence.vjp(
    a=lambda g, out, a, b: multiply(_recurrence_adjoint(g, a), bar(_shifted(out, 0.0))),
    b=lambda g, out, a, b: _recurrence_adjoint(g, a),
)
linear_recurrence.jvp(
    a=lambda da, out, a, b: linear_recurrence(a, multiply(da, _shifted(out, 0.0))),
    b=lambda db, out, a, b: linear_recurrence(a, db),
)


def _axis_last(x: Any, axis: int) -> tuple[Any, tuple[int, ...]]:
    """x with `axis` last, and the axes that undo it."""
    axis = axis % x.ndim
    order = (*(i for i in range(x.ndim) if i != axis), axis)
    return transpose(x, axes=order), tuple(int(i) for i in np.argsort(order))


def _running_product_pullback(g: Any, x: Any, out: Any, axis: int) -> Any:
    """sum over k >= i of g_k times the product of the others up to k.

    Without zeros that is sum_k g_k conj(out_k) / conj(x_i). With zeros: the product before i times
    s_i = g_i + x_(i+1) s_(i+1), which divides by nothing.
    """
    if np.all(x.data != 0):
        return divide(_cumsum_backwards(multiply(g, bar(out)), axis), bar(x))
    last, back = _axis_last(bar(x), axis)
    cotangent, _ = _axis_last(g, axis)
    before = _shifted(cumprod(last, axis=-1), 1.0)
    after = flip(linear_recurrence(_shifted(flip(last, axis=-1), 0.0), flip(cotangent, axis=-1)), axis=-1)
    return transpose(multiply(before, after), axes=back)


@primitive(
    analytic=True,
    samples=lambda draw: [
        ((draw.real(4),), {"axis": 0}),
        ((draw.complex(2, 3),), {"axis": 0}),
        ((np.array([[1.5, 0.0, 2.0, 0.5], [0.0, 0.0, 1.0, 2.0]]),), {"axis": 1}),
        ((draw.real(2, 0),), {"axis": 1}),
    ],
)
def cumprod(x: Array, *, axis: int) -> Array:
    """Running product along an axis."""
    return np.cumprod(x, axis=axis)


cumprod.vjp(x=lambda g, out, x, *, axis: _running_product_pullback(g, x, out, axis))


def _others_product(x: Any, out: Any, axis: Any, keepdims: bool) -> Any:
    """The product of all the other elements, for each element; divides only where nothing is zero."""
    if np.all(x.data != 0):
        return divide(spread(out, x.shape, axis, keepdims), x)
    axes = axes_tuple(axis, x.ndim)
    order = (*(i for i in range(x.ndim) if i not in axes), *axes)
    moved = transpose(x, axes=order)
    rows = reshape(moved, shape=(*moved.shape[: x.ndim - len(axes)], element_count(x.shape, axes)))
    before = _shifted(cumprod(rows, axis=-1), 1.0)
    after = flip(_shifted(cumprod(flip(rows, axis=-1), axis=-1), 1.0), axis=-1)
    return transpose(
        reshape(multiply(before, after), shape=moved.shape), axes=tuple(int(i) for i in np.argsort(order))
    )


@primitive(
    analytic=True,
    samples=lambda draw: [
        *_reductions(draw),
        ((np.array([[1.5, 0.0, 2.0], [0.0, 0.0, 1.0], [1.0, 2.0, 0.5]]),), {"axis": 1}),
        ((np.array([[1.5, 0.0, 2.0], [0.5, 3.0, 1.0]]),), {"axis": (0, 1)}),
        ((draw.real(0, 3),), {"axis": 0}),
    ],
)
def prod(x: Array, *, axis: Any = None, keepdims: bool = False) -> Array:
    """Product over axes; 1 of nothing."""
    return np.asarray(np.prod(x, axis=axis, keepdims=keepdims))


prod.vjp(
    x=lambda g, out, x, *, axis, keepdims: multiply(
        spread(g, x.shape, axis, keepdims), bar(_others_product(x, out, axis, keepdims))
    )
)
prod.jvp(
    x=lambda dx, out, x, *, axis, keepdims: sum(
        multiply(dx, _others_product(x, out, axis, keepdims)), axis=axis, keepdims=keepdims
    )
)


# -------------------------------------------------------------------------------------------------- extremes


def _distinct(draw: Any) -> list[Any]:
    return [
        (draw.distinct(3, 4),),
        ((draw.distinct(2, 3, 2),), {"axis": (0, -1)}),
        ((draw.distinct(2, 3),), {"axis": 1, "keepdims": True}),
        (draw.distinct(),),
    ]


def _extreme_share(x: Any, out: Any, axis: Any, keepdims: bool) -> Array:
    """One over the number of equal extremes at each of them, else 0."""
    kept = out.data if keepdims else np.reshape(out.data, kept_shape(x.shape, axis))
    equal = x.data == kept
    number = np.sum(equal, axis=axes_tuple(axis, x.ndim), keepdims=True)
    return np.asarray(np.where(equal, 1.0 / np.maximum(number, 1), 0.0), dtype=x.data.dtype)


@primitive(exact=True, samples=_distinct)
def amax(x: Array, *, axis: Any = None, keepdims: bool = False) -> Array:
    """Largest element over axes; equal ones share the gradient."""
    return np.array(np.max(x, axis=axis, keepdims=keepdims))


@primitive(exact=True, samples=_distinct)
def amin(x: Array, *, axis: Any = None, keepdims: bool = False) -> Array:
    """Smallest element over axes; equal ones share the gradient."""
    return np.array(np.min(x, axis=axis, keepdims=keepdims))


for _extreme in (amax, amin):
    _extreme.vjp(
        x=lambda g, out, x, *, axis, keepdims: multiply(
            spread(g, x.shape, axis, keepdims), _extreme_share(x, out, axis, keepdims)
        )
    )
    _extreme.jvp(
        x=lambda dx, out, x, *, axis, keepdims: sum(
            multiply(dx, _extreme_share(x, out, axis, keepdims)), axis=axis, keepdims=keepdims
        )
    )


def _shares(x: Any, out: Any, axis: Any, keepdims: bool) -> Any:
    """e ** (x - out): the softmax, given its logsumexp; 0 where all is -inf."""
    level = spread(out, x.shape, axis, keepdims)
    nothing = np.isneginf(level.data)
    difference = subtract(x, level)
    # No share is above one. Only errors that are simulated relative to a huge number, a stand-in for log 0, say so.
    above = difference.data > 1
    weights = exp(selected(~above, difference) if np.any(above) else difference)
    return selected(~nothing, weights) if np.any(nothing) else weights


@primitive(
    samples=lambda draw: [
        (draw.real(3, 4),),
        ((draw.real(2, 3, 2),), {"axis": (0, -1)}),
        ((draw.real(2, 3) * 300,), {"axis": 1, "keepdims": True}),
        (draw.real(),),
    ]
)
def logsumexp(x: Array, *, axis: Any = None, keepdims: bool = False) -> Array:
    """log(sum(e ** x)) over axes, without overflow; -inf of all -inf."""
    largest = np.max(x, axis=axis, keepdims=True)
    shift = np.where(np.isfinite(largest), largest, np.zeros((), x.dtype))
    with np.errstate(divide="ignore"):
        out = np.log(np.sum(np.exp(x - shift), axis=axis, keepdims=True)) + shift
    return out if keepdims else np.reshape(out, np.sum(np.empty(x.shape, bool), axis=axis).shape)


logsumexp.vjp(
    x=lambda g, out, x, *, axis, keepdims: multiply(
        spread(g, x.shape, axis, keepdims), _shares(x, out, axis, keepdims)
    )
)
logsumexp.jvp(
    x=lambda dx, out, x, *, axis, keepdims: sum(
        multiply(dx, _shares(x, out, axis, keepdims)), axis=axis, keepdims=keepdims
    )
)


def _decay(out: Any) -> Any:
    """e ** (out_i - out_(i+1)) at place i + 1 of the last axis: at most 1, and 0 after -inf."""
    before = _shifted(out, -np.inf)
    nothing = np.isneginf(before.data)
    return selected(~nothing, exp(subtract(before, out)))


def _logcumsumexp_pullback(g: Any, x: Any, out: Any, axis: int) -> Any:
    """e ** (x_i - out_i) r_i with r_i = g_i + e ** (out_i - out_(i+1)) r_(i+1): no factor above 1."""
    level, back = _axis_last(out, axis)
    cotangent, _ = _axis_last(g, axis)
    source, _ = _axis_last(x, axis)
    nothing = np.isneginf(level.data)
    share = selected(~nothing, exp(subtract(source, level)))
    return transpose(multiply(share, _recurrence_adjoint(cotangent, _decay(level))), axes=back)


@primitive(
    samples=lambda draw: [
        ((draw.real(4),), {"axis": 0}),
        ((draw.real(2, 3) * 200,), {"axis": 1}),
        ((draw.real(3, 2),), {"axis": 0}),
    ]
)
def logcumsumexp(x: Array, *, axis: int) -> Array:
    """log of the running sum of e ** x along an axis, without overflow."""
    return np.logaddexp.accumulate(x, axis=axis)


logcumsumexp.vjp(x=lambda g, out, x, *, axis: _logcumsumexp_pullback(g, x, out, axis))


# --------------------------------------------------------------------------------------------------- norms


def _norm_direction(x: Any, out: Any, ord: float, axis: Any, keepdims: bool) -> Any:
    """d norm / dx = sgn(x) (|x| / norm) ** (p - 1), and 0 where the norm is 0."""
    size = spread(out, x.shape, axis, keepdims)
    if ord == 2:
        return _over(x, size)
    if ord == 1:
        return sgn(x)
    zero = x.data == 0
    ratio = _over(absolute(x), size)
    safe = ratio if not np.any(zero) else add(ratio, np.where(zero, 1.0, 0.0).astype(ratio.dtype))
    return selected(~zero, multiply(sgn(x), power(safe, ord - 1.0)))


@primitive(
    samples=lambda draw: [
        (draw.nonzero(3, 4),),
        ((draw.nonzero(3, 4),), {"ord": 1.0, "axis": 0}),
        ((draw.nonzero(2, 3, 2),), {"ord": 3.0, "axis": (0, 2), "keepdims": True}),
        ((draw.nonzero(3) + 1j * draw.real(3),), {"ord": 2.0}),
        ((draw.nonzero(3) + 1j * draw.real(3),), {"ord": 1.5}),
        ((draw.nonzero(4),), {"ord": -1.0}),
    ]
)
def vector_norm(x: Array, *, ord: float = 2.0, axis: Any = None, keepdims: bool = False) -> Array:
    """(sum |x| ** p) ** (1 / p) for finite p != 0; real also for complex x."""
    size = np.abs(x)
    if ord == 2:
        return np.asarray(np.sqrt(np.sum(size * size, axis=axis, keepdims=keepdims)))
    if ord == 1:
        return np.asarray(np.sum(size, axis=axis, keepdims=keepdims))
    return np.asarray(np.sum(size**ord, axis=axis, keepdims=keepdims) ** (1.0 / ord))


vector_norm.vjp(
    x=lambda g, out, x, *, ord, axis, keepdims: multiply(
        spread(g, x.shape, axis, keepdims), _norm_direction(x, out, ord, axis, keepdims)
    )
)
vector_norm.jvp(
    x=lambda dx, out, x, *, ord, axis, keepdims: sum(
        real(multiply(dx, bar(_norm_direction(x, out, ord, axis, keepdims)))), axis=axis, keepdims=keepdims
    )
)


@derived
def norm(x: Any, ord: float = 2.0, axis: Any = None, keepdims: bool = False) -> Any:
    """Vector p-norm over axes: any p, inf, -inf, and 0 (the number of non-zero elements)."""
    source = x if isinstance(x, Tensor) else Tensor(x)
    if ord == 0:
        indicator = multiply(sgn(source.detach()), 0.0).data.real + (source.data != 0)
        return Tensor(np.sum(indicator, axis=axis, keepdims=keepdims))
    if np.isinf(ord):
        return (amax if ord > 0 else amin)(absolute(source), axis=axis, keepdims=keepdims)
    return vector_norm(source, ord=float(ord), axis=axis, keepdims=keepdims)


def _deviation(x: Any, axis: Any, correction: float) -> Any:
    """2 (x - mean) / (n - correction), the gradient of the variance."""
    weight = 2.0 / freedom if (freedom := builtins.max(_count(x.shape, axis) - correction, 0)) else np.inf
    return multiply(subtract(x, mean(x, axis=axis, keepdims=True)), float(weight))


@primitive(
    samples=lambda draw: [
        (draw.real(3, 4),),
        ((draw.real(2, 3, 4),), {"axis": (0, -1), "correction": 0.0}),
        ((draw.complex(3, 3),), {"axis": 1, "keepdims": True}),
        ((draw.real(5),), {"correction": 2.5}),
    ]
)
def var(x: Array, *, axis: Any = None, correction: float = 1.0, keepdims: bool = False) -> Array:
    """sum |x - mean| ** 2 / max(n - correction, 0) over axes."""
    centred = x - np.mean(x, axis=axis, keepdims=True)
    total = np.sum(
        np.square(centred.real) + (np.square(centred.imag) if x.dtype.kind == "c" else 0),
        axis=axis,
        keepdims=keepdims,
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(
            total / np.asarray(builtins.max(_count(x.shape, axis) - correction, 0), total.dtype)
        )


var.vjp(
    x=lambda g, out, x, *, axis, correction, keepdims: multiply(
        spread(g, x.shape, axis, keepdims), _deviation(x, axis, correction)
    )
)
var.jvp(
    x=lambda dx, out, x, *, axis, correction, keepdims: sum(
        real(multiply(dx, bar(_deviation(x, axis, correction)))), axis=axis, keepdims=keepdims
    )
)

"""Exponentials, logarithms, trigonometric and hyperbolic functions, and the activations made of them.

Derivatives from the definitions; a holomorphic f pulls g back to g * bar(f'), so every entry below is
given by f' alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy  # its parts are imported on first use
from numpy.typing import NDArray

from ..primitive import Primitive, primitive
from ..tensor import Tensor
from .arithmetic import add, divide, multiply, negative, reciprocal, square, subtract
from .complex_parts import bar
from .selection import selected

Array = NDArray[Any]
LN2, LN10 = math.log(2.0), math.log(10.0)


def _from_input(function: Primitive, slope: Callable[[Tensor], Any]) -> None:
    """Declare both rules of a holomorphic function by f'(x)."""
    function.vjp(x=lambda g, out, x: multiply(g, bar(slope(x))))
    function.jvp(x=lambda dx, out, x: multiply(dx, slope(x)))


def _from_output(function: Primitive, slope: Callable[[Tensor], Any]) -> None:
    """Declare both rules of a holomorphic function by f' as a function of f(x)."""
    function.vjp(x=lambda g, out, x: multiply(g, bar(slope(out))))
    function.jvp(x=lambda dx, out, x: multiply(dx, slope(out)))


def _anywhere(draw: Any) -> list[Any]:
    return [(draw.real(3, 2),), (draw.complex(2),), (draw.real(),), (draw.real(0, 2),)]


def _right_half(draw: Any) -> list[Any]:
    return [(draw.positive(3, 2),), (draw.positive(2) + 1j * draw.real(2),), (draw.positive(),)]


def _unit(draw: Any) -> list[Any]:
    return [
        (draw.real(3, 2, low=-0.9, high=0.9),),
        (draw.complex(2, low=-0.6, high=0.6),),
        (draw.real(low=-0.5, high=0.5),),
    ]


# ------------------------------------------------------------------------------ exponentials and logarithms


@primitive(analytic=True, samples=_anywhere)
def exp(x: Array) -> Array:
    """e ** x."""
    return np.exp(x)


@primitive(analytic=True, samples=_anywhere)
def expm1(x: Array) -> Array:
    """e ** x - 1, accurate near 0."""
    return np.expm1(x)


@primitive(analytic=True, samples=_anywhere)
def exp2(x: Array) -> Array:
    """2 ** x."""
    return np.exp2(x)


_from_output(exp, lambda out: out)
_from_output(expm1, lambda out: add(out, 1.0))
_from_output(exp2, lambda out: multiply(out, LN2))


@primitive(analytic=True, samples=_right_half)
def log(x: Array) -> Array:
    """Natural logarithm; NaN for negative real x."""
    return np.log(x)


@primitive(analytic=True, samples=lambda draw: [(draw.real(3, 2, low=-0.7),), (draw.complex(2, low=-0.6),)])
def log1p(x: Array) -> Array:
    """log(1 + x), accurate near 0."""
    return np.log1p(x)


@primitive(analytic=True, samples=_right_half)
def log2(x: Array) -> Array:
    """Logarithm to base 2."""
    return np.log2(x)


@primitive(analytic=True, samples=_right_half)
def log10(x: Array) -> Array:
    """Logarithm to base 10."""
    return np.log10(x)


_from_input(log, lambda x: reciprocal(x))
_from_input(log1p, lambda x: reciprocal(add(x, 1.0)))
_from_input(log2, lambda x: reciprocal(multiply(x, LN2)))
_from_input(log10, lambda x: reciprocal(multiply(x, LN10)))


@primitive(analytic=True, samples=_right_half)
def sqrt(x: Array) -> Array:
    """Square root; its derivative at 0 is inf."""
    return np.sqrt(x)


@primitive(analytic=True, samples=_right_half)
def rsqrt(x: Array) -> Array:
    """1 / sqrt(x)."""
    return np.true_divide(1, np.sqrt(x))


_from_output(sqrt, lambda out: divide(0.5, out))
_from_output(rsqrt, lambda out: multiply(multiply(square(out), out), -0.5))


# ------------------------------------------------------------------------------- trigonometric, hyperbolic


@primitive(analytic=True, samples=_anywhere)
def sin(x: Array) -> Array:
    """Sine."""
    return np.sin(x)


@primitive(analytic=True, samples=_anywhere)
def cos(x: Array) -> Array:
    """Cosine."""
    return np.cos(x)


@primitive(analytic=True, samples=_unit)
def tan(x: Array) -> Array:
    """Tangent."""
    return np.tan(x)


@primitive(analytic=True, samples=_unit)
def arcsin(x: Array) -> Array:
    """Inverse sine."""
    return np.arcsin(x)


@primitive(analytic=True, samples=_unit)
def arccos(x: Array) -> Array:
    """Inverse cosine."""
    return np.arccos(x)


@primitive(analytic=True, samples=_unit)
def arctan(x: Array) -> Array:
    """Inverse tangent."""
    return np.arctan(x)


@primitive(analytic=True, samples=_anywhere)
def sinh(x: Array) -> Array:
    """Hyperbolic sine."""
    return np.sinh(x)


@primitive(analytic=True, samples=_anywhere)
def cosh(x: Array) -> Array:
    """Hyperbolic cosine."""
    return np.cosh(x)


@primitive(
    analytic=True,
    samples=lambda draw: [(draw.real(3, 2),), (draw.complex(2, low=-0.7, high=0.7),), (draw.real(),)],
)
def tanh(x: Array) -> Array:
    """Hyperbolic tangent."""
    return np.tanh(x)


@primitive(analytic=True, samples=_unit)
def arcsinh(x: Array) -> Array:
    """Inverse hyperbolic sine."""
    return np.arcsinh(x)


@primitive(
    analytic=True,
    samples=lambda draw: [(draw.positive(3, 2) + 1.0,), (draw.positive(2) + 1.2 + 1j * draw.real(2),)],
)
def arccosh(x: Array) -> Array:
    """Inverse hyperbolic cosine, x > 1."""
    return np.arccosh(x)


@primitive(analytic=True, samples=_unit)
def arctanh(x: Array) -> Array:
    """Inverse hyperbolic tangent."""
    return np.arctanh(x)


def _one_minus_square(x: Tensor) -> Any:
    """(1 - x)(1 + x): keeps its digits near |x| = 1, where 1 - x**2 cancels."""
    return multiply(subtract(1.0, x), add(x, 1.0))


_from_input(sin, lambda x: cos(x))
_from_input(cos, lambda x: negative(sin(x)))
_from_output(tan, lambda out: add(square(out), 1.0))
_from_input(arcsin, lambda x: rsqrt(_one_minus_square(x)))
_from_input(arccos, lambda x: negative(rsqrt(_one_minus_square(x))))
_from_input(arctan, lambda x: reciprocal(add(square(x), 1.0)))
_from_input(sinh, lambda x: cosh(x))
_from_input(cosh, lambda x: sinh(x))
_from_output(tanh, lambda out: _one_minus_square(out))
_from_input(arcsinh, lambda x: rsqrt(add(square(x), 1.0)))
_from_input(arccosh, lambda x: multiply(rsqrt(subtract(x, 1.0)), rsqrt(add(x, 1.0))))
_from_input(arctanh, lambda x: reciprocal(_one_minus_square(x)))


def _sinc_series(u: Array, order: int) -> Array:
    """Derivative of sin(u) / u from its power series; fast for |u| <= order + 2."""
    total = np.zeros_like(u)
    first = (order + 1) // 2
    for k in range(first, first + 24 + 2 * order):
        power = 2 * k - order
        total = total + (-1) ** k * u**power / (math.factorial(power) * (2 * k + 1))
    return total


def _sinc_recurrence(u: Array, order: int) -> Array:
    """The same from u f^(n) + n f^(n-1) = sin(u + n pi/2) (Leibniz), stable for |u| > n."""
    value = np.sin(u) / u
    for n in range(1, order + 1):
        value = (np.sin(u + n * math.pi / 2) - n * value) / u
    return value


@primitive(
    analytic=True,
    samples=lambda draw: [
        (draw.real(3, 2),),
        (np.array([0.0, 1e-3, -2.5, 1.0]),),
        (draw.complex(2),),
        ((draw.real(4),), {"order": 1}),
    ],
)
def sinc(x: Array, *, order: int = 0) -> Array:
    """sin(pi x) / (pi x) and 1 at 0, or its derivative of the given order."""
    u = np.asarray(np.multiply(x, math.pi))
    near = np.abs(u) <= order + 2
    value = np.where(
        near, _sinc_series(np.where(near, u, 0), order), _sinc_recurrence(np.where(near, order + 3, u), order)
    )
    return np.asarray(value * math.pi**order, dtype=u.dtype)


sinc.vjp(x=lambda g, out, x, *, order: multiply(g, bar(sinc(x, order=order + 1))))
sinc.jvp(x=lambda dx, out, x, *, order: multiply(dx, sinc(x, order=order + 1)))


# -------------------------------------------------------------------------------------------- activations


@primitive(
    samples=lambda draw: [(draw.real(3, 2),), (draw.complex(2),), (draw.real(),), (np.array([-700.0, 40.0]),)]
)
def sigmoid(x: Array) -> Array:
    """1 / (1 + e ** -x), without overflow for real x."""
    if x.dtype.kind == "c":
        return np.asarray(np.true_divide(1, 1 + np.exp(-x)))
    return np.asarray(scipy.special.expit(x))


_from_output(sigmoid, lambda out: multiply(out, subtract(1.0, out)))


@primitive(
    samples=lambda draw: [(draw.real(3, 2, low=-5.0, high=5.0),), (draw.real(),), (np.array([-700.0, 40.0]),)]
)
def log_sigmoid(x: Array) -> Array:
    """log(sigmoid(x)), real x, without overflow."""
    return np.asarray(-np.logaddexp(np.zeros((), x.dtype), -x))


@primitive(
    samples=lambda draw: [(draw.real(3, 2, low=-5.0, high=5.0),), (draw.real(),), (np.array([-700.0, 40.0]),)]
)
def softplus(x: Array) -> Array:
    """log(1 + e ** x), real x, without overflow."""
    return np.logaddexp(np.zeros((), x.dtype), x)


_from_input(log_sigmoid, lambda x: sigmoid(negative(x)))
_from_input(softplus, lambda x: sigmoid(x))


@primitive(exact=True, samples=lambda draw: [(draw.nonzero(3, 2),), (draw.nonzero(),), (draw.real(0),)])
def relu(x: Array) -> Array:
    """max(x, 0); its derivative at 0 is taken as 0."""
    return np.maximum(x, np.zeros((), x.dtype))


relu.vjp(x=lambda g, out, x: selected(out > 0, g))
relu.jvp(x=lambda dx, out, x: selected(out > 0, dx))


def _weight(x: Tensor, out: Tensor) -> Any:
    """e ** (x - out), the share of x in e ** out; 0 where both are -inf."""
    nothing = np.isneginf(out.data)
    return exp(subtract(x, out)) if not np.any(nothing) else selected(~nothing, exp(subtract(x, out)))


@primitive(
    samples=lambda draw: [
        (draw.real(3, 4), draw.real(4)),
        (draw.real(), draw.real(2)),
        (draw.real(0), draw.real()),
    ]
)
def logaddexp(x: Array, y: Array) -> Array:
    """log(e ** x + e ** y), real, without overflow."""
    return np.logaddexp(x, y)


logaddexp.vjp(
    x=lambda g, out, x, y: multiply(g, _weight(x, out)), y=lambda g, out, x, y: multiply(g, _weight(y, out))
)
logaddexp.jvp(
    x=lambda dx, out, x, y: multiply(dx, _weight(x, out)),
    y=lambda dy, out, x, y: multiply(dy, _weight(y, out)),
)

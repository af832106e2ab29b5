"""Special functions: error functions, gamma family, Bessel functions, entropies.

Values are SciPy's; every derivative is stated from the function's definition (an integral, a recurrence or the
differential equation that it solves: Abramowitz and Stegun, chapters 6, 7, 9; DLMF).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy  # its parts are imported on first use

from ..primitive import Primitive, primitive
from ..registry import derived
from ..tensor import Tensor
from .arithmetic import add, divide, multiply, square
from .elementary import exp, log, log1p
from .selection import where

Array = npt.NDArray[Any]
Samples = list[Any]
Derivative = Callable[[Tensor, Tensor], Any]

SQRT_PI = math.sqrt(math.pi)
SQRT_TWO_PI = math.sqrt(2 * math.pi)


def _unary(entry: Primitive, slope: Derivative) -> None:
    """Declare the derivative ``slope(out, x)`` of an elementwise real function, for both modes."""
    entry.vjp(x=lambda g, out, x: multiply(g, slope(out, x)))
    entry.jvp(x=lambda dx, out, x: multiply(dx, slope(out, x)))


def _unary_of_x(entry: Primitive, slope: Callable[[Tensor], Any]) -> None:
    """The same where the value is of no use, so that it need not be saved."""
    entry.vjp(x=lambda g, out, x: multiply(g, slope(x)))
    entry.jvp(x=lambda dx, out, x: multiply(dx, slope(x)))


def _real(low: float = -2.0, high: float = 2.0) -> Callable[[Any], Samples]:
    return lambda draw: [
        (draw.real(3, 4, low=low, high=high),),
        (draw.real(low=low, high=high),),
        (draw.real(0),),
    ]


# ---------------------------------------------------------------------------------------- error functions


@primitive(samples=_real())
def erf(x: Array) -> Array:
    """2/sqrt(pi) times the integral of exp(-t²) from 0 to x."""
    return np.asarray(scipy.special.erf(x))


@primitive(samples=_real())
def erfc(x: Array) -> Array:
    """1 - erf(x), without cancellation."""
    return np.asarray(scipy.special.erfc(x))


@primitive(samples=_real())
def erfcx(x: Array) -> Array:
    """exp(x²) erfc(x)."""
    return np.asarray(scipy.special.erfcx(x))


@primitive(samples=_real(-0.9, 0.9))
def erfinv(x: Array) -> Array:
    """The y with erf(y) = x."""
    return np.asarray(scipy.special.erfinv(x))


@primitive(samples=_real())
def ndtr(x: Array) -> Array:
    """The standard normal distribution function."""
    return np.asarray(scipy.special.ndtr(x))


@primitive(samples=_real(-12.0, 3.0))
def log_ndtr(x: Array) -> Array:
    """log(ndtr(x)), also far in the lower tail."""
    return np.asarray(scipy.special.log_ndtr(x))


@primitive(samples=_real(0.05, 0.95))
def ndtri(x: Array) -> Array:
    """The y with ndtr(y) = x."""
    return np.asarray(scipy.special.ndtri(x))


def _log_ndtr_slope(x: Tensor) -> Any:
    """pdf / cdf = sqrt(2/pi) / erfcx(-x / sqrt(2)): no quotient of two vanishing numbers."""
    return divide(math.sqrt(2 / math.pi), erfcx(x * (-1 / math.sqrt(2))))


_unary_of_x(erf, lambda x: exp(-square(x)) * (2 / SQRT_PI))
_unary_of_x(erfc, lambda x: exp(-square(x)) * (-2 / SQRT_PI))
_unary(erfcx, lambda out, x: 2 * x * out - 2 / SQRT_PI)
_unary(erfinv, lambda out, x: exp(square(out)) * (SQRT_PI / 2))
_unary_of_x(ndtr, lambda x: exp(square(x) * -0.5) * (1 / SQRT_TWO_PI))
_unary_of_x(log_ndtr, _log_ndtr_slope)
_unary(ndtri, lambda out, x: exp(square(out) * 0.5) * SQRT_TWO_PI)


# -------------------------------------------------------------------------------------------- gamma family


def _gamma_samples(draw: Any) -> Samples:
    return [
        (draw.positive(3, 4, high=6.0),),
        (draw.real(3, low=-0.9, high=-0.1),),
        (draw.positive(),),
        (draw.real(0),),
    ]


@primitive(samples=_gamma_samples)
def gammaln(x: Array) -> Array:
    """log |Gamma(x)|."""
    return np.asarray(scipy.special.gammaln(x))


@primitive(samples=_gamma_samples)
def digamma(x: Array) -> Array:
    """The derivative of gammaln; infinite at zero (with the sign of 1/-x), NaN at negative integers."""
    return np.where(x == 0, np.copysign(np.inf, -x), scipy.special.digamma(x)).astype(
        np.result_type(x, np.float16)
    )


def _polygamma_samples(draw: Any) -> Samples:
    return [((draw.positive(3, 2, high=4.0),), {"n": n}) for n in (0, 1, 3)]


@primitive(samples=_polygamma_samples)
def polygamma(x: Array, *, n: int) -> Array:
    """The n-th derivative of digamma.

    For x <= 0 by reflection of order one; higher orders there are SciPy's (valid for x > 0).
    """
    if n == 0:
        return np.asarray(scipy.special.digamma(x))
    if n == 1:
        positive = np.where(x > 0, x, 1.0 - x)
        value = scipy.special.polygamma(1, positive)
        mirrored = (np.pi / np.sin(np.pi * np.where(x > 0, 0.5, x))) ** 2 - value
        return np.asarray(np.where(x > 0, value, mirrored), dtype=x.dtype)
    sign = 1.0 if n % 2 else -1.0
    return np.asarray(sign * scipy.special.gamma(n + 1.0) * scipy.special.zeta(n + 1.0, x), dtype=x.dtype)


_unary_of_x(gammaln, lambda x: digamma(x))
_unary_of_x(digamma, lambda x: polygamma(x, n=1))
polygamma.vjp(x=lambda g, out, x, *, n: multiply(g, polygamma(x, n=n + 1)))
polygamma.jvp(x=lambda dx, out, x, *, n: multiply(dx, polygamma(x, n=n + 1)))


def _zeta_samples(draw: Any) -> Samples:
    return [
        (draw.real(3, 2, low=1.5, high=4.0), draw.positive(3, 2)),
        (draw.real(low=2.0, high=3.0), draw.positive(4)),
    ]


@primitive(samples=_zeta_samples)
def zeta(x: Array, q: Array) -> Array:
    """Hurwitz's zeta function: the sum of (k + q)^-x over k >= 0. Differentiable in ``q`` only."""
    return np.asarray(scipy.special.zeta(x, q))


zeta.vjp(q=lambda g, out, x, q: multiply(g, -x * zeta(x + 1, q)))
zeta.jvp(q=lambda dq, out, x, q: multiply(dq, -x * zeta(x + 1, q)))


@derived
def multigammaln(x: Tensor, *, p: int) -> Tensor:
    """Logarithm of the multivariate gamma function of dimension ``p``, for x > (p - 1) / 2."""
    total: Any = p * (p - 1) / 4 * math.log(math.pi)
    for j in range(p):
        total = add(gammaln(x - j / 2), total)
    return total  # type: ignore[no-any-return]


# ------------------------------------------------------------------------------- entropies and products


@primitive(samples=lambda draw: [(draw.positive(3, 4),), (draw.positive(),)])
def entr(x: Array) -> Array:
    """-x log(x) for x > 0, 0 at 0, -inf below."""
    return np.asarray(scipy.special.entr(x))


_unary_of_x(entr, lambda x: -log(x) - 1)


def _x_log_samples(draw: Any) -> Samples:
    return [
        (draw.real(3, 4), draw.positive(4)),
        (draw.real(), draw.positive(2)),
        (draw.real(2), draw.positive()),
    ]


@primitive(samples=_x_log_samples)
def xlogy(x: Array, y: Array) -> Array:
    """x log(y), and 0 where x is 0 (unless y is NaN)."""
    return np.asarray(scipy.special.xlogy(x, y))


@primitive(samples=_x_log_samples)
def xlog1py(x: Array, y: Array) -> Array:
    """x log(1 + y), and 0 where x is 0 (unless y is NaN)."""
    return np.asarray(scipy.special.xlog1py(x, y))


def _where_counted(x: Tensor, y: Tensor, value: Tensor) -> Any:
    """Zero where x is 0 and y <= 0: there the product was defined as 0 whatever the logarithm."""
    return where((x.data == 0) & (y.data <= 0), 0.0, value)


xlogy.vjp(
    x=lambda g, out, x, y: multiply(g, _where_counted(x, y, log(y))),
    y=lambda g, out, x, y: multiply(g, divide(x, y)),
)
xlogy.jvp(
    x=lambda dx, out, x, y: multiply(dx, _where_counted(x, y, log(y))),
    y=lambda dy, out, x, y: multiply(dy, divide(x, y)),
)
xlog1py.vjp(
    x=lambda g, out, x, y: multiply(g, _where_counted(x, y + 1, log1p(y))),
    y=lambda g, out, x, y: multiply(g, divide(x, y + 1)),
)
xlog1py.jvp(
    x=lambda dx, out, x, y: multiply(dx, _where_counted(x, y + 1, log1p(y))),
    y=lambda dy, out, x, y: multiply(dy, divide(x, y + 1)),
)


# ---------------------------------------------------------------------------------------- Bessel functions


def _bessel(name: str, value: str, summary: str, samples: Callable[[Any], Samples]) -> Primitive:
    """The primitive of this name; its value is SciPy's function of the name ``value``."""

    def evaluate(x: Array) -> Array:
        return np.asarray(getattr(scipy.special, value)(x))

    evaluate.__doc__ = summary
    return primitive(samples=samples, name=name)(evaluate)


def _positive(draw: Any) -> Samples:
    return [(draw.positive(3, 4, high=5.0),), (draw.positive(),), (draw.real(0),)]


def _either_sign(draw: Any) -> Samples:
    return [(draw.nonzero(3, 4, high=5.0),), (draw.nonzero(),), (draw.real(0),)]


i0 = _bessel("i0", "i0", "Modified Bessel function of the first kind, order 0.", _either_sign)
i1 = _bessel("i1", "i1", "Modified Bessel function of the first kind, order 1.", _either_sign)
i0e = _bessel("i0e", "i0e", "exp(-|x|) i0(x).", _either_sign)
i1e = _bessel("i1e", "i1e", "exp(-|x|) i1(x).", _either_sign)
j0 = _bessel("bessel_j0", "j0", "Bessel function of the first kind, order 0.", _either_sign)
j1 = _bessel("bessel_j1", "j1", "Bessel function of the first kind, order 1.", _either_sign)
y0 = _bessel("bessel_y0", "y0", "Bessel function of the second kind, order 0.", _positive)
y1 = _bessel("bessel_y1", "y1", "Bessel function of the second kind, order 1.", _positive)
k0 = _bessel("bessel_k0", "k0", "Modified Bessel function of the second kind, order 0.", _positive)
k1 = _bessel("bessel_k1", "k1", "Modified Bessel function of the second kind, order 1.", _positive)
k0e = _bessel("bessel_k0e", "k0e", "exp(x) bessel_k0(x).", _positive)
k1e = _bessel("bessel_k1e", "k1e", "exp(x) bessel_k1(x).", _positive)


def _over_x(value: Tensor, x: Tensor, at_zero: float) -> Any:
    """value / x, which tends to ``at_zero`` where x is 0."""
    zero = x.data == 0
    if not zero.any():
        return divide(value, x)
    return where(zero, at_zero, divide(value, where(zero, 1.0, x)))


def _sign(x: Tensor) -> Array:
    return np.sign(x.data)


_unary_of_x(i0, lambda x: i1(x))
_unary(i1, lambda out, x: i0(x) - _over_x(out, x, 0.5))
_unary(i0e, lambda out, x: i1e(x) - out * _sign(x))
_unary(i1e, lambda out, x: i0e(x) - _over_x(out, x, 0.5) - out * _sign(x))
_unary_of_x(j0, lambda x: -j1(x))
_unary(j1, lambda out, x: j0(x) - _over_x(out, x, 0.5))
_unary_of_x(y0, lambda x: -y1(x))
_unary(y1, lambda out, x: y0(x) - divide(out, x))
_unary_of_x(k0, lambda x: -k1(x))
_unary(k1, lambda out, x: -k0(x) - divide(out, x))
_unary(k0e, lambda out, x: out - k1e(x))
_unary(k1e, lambda out, x: out - k0e(x) - divide(out, x))


# --------------------------------------------------------------------------------- incomplete gamma, beta


def _incomplete_samples(draw: Any) -> Samples:
    return [
        (draw.positive(3, 2, high=4.0), draw.positive(3, 2, high=4.0)),
        (draw.positive(), draw.positive(3)),
    ]


@primitive(samples=_incomplete_samples)
def gammainc(a: Array, x: Array) -> Array:
    """Regularised lower incomplete gamma function. Differentiable in ``x`` only."""
    return np.asarray(scipy.special.gammainc(a, x))


@primitive(samples=_incomplete_samples)
def gammaincc(a: Array, x: Array) -> Array:
    """Regularised upper incomplete gamma function, 1 - gammainc. Differentiable in ``x`` only."""
    return np.asarray(scipy.special.gammaincc(a, x))


def _gamma_density(a: Tensor, x: Tensor) -> Any:
    return exp(xlogy(a - 1, x) - x - gammaln(a))


gammainc.vjp(x=lambda g, out, a, x: multiply(g, _gamma_density(a, x)))
gammainc.jvp(x=lambda dx, out, a, x: multiply(dx, _gamma_density(a, x)))
gammaincc.vjp(x=lambda g, out, a, x: multiply(g, -_gamma_density(a, x)))
gammaincc.jvp(x=lambda dx, out, a, x: multiply(dx, -_gamma_density(a, x)))

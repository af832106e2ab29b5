"""Elementwise arithmetic, complex parts, selection and rounding.

Derivatives from the definitions. Where a derivative does not exist the subgradient torch documents is
taken: ties of maximum and minimum are shared in half, |x|, sgn and hypot have 0 at 0, a value on a
bound of clip belongs to the inside.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..primitive import primitive
from ..tensor import Tensor

Array = NDArray[Any]


def selected(mask: Any, g: Tensor) -> Any:
    """g where the boolean mask holds, else exactly zero (also where g is NaN)."""
    return where(mask, g, 0.0)


def bar(x: Any) -> Any:
    """The complex conjugate; a real tensor as it is, at no cost (rules conjugate everything)."""
    return conj(x) if x.data.dtype.kind == "c" else x


# ------------------------------------------------------------------------------------ the four operations


@primitive(
    exact=True, analytic=True, samples=lambda draw: [(draw.real(3, 2),), (draw.complex(2),), (draw.real(),)]
)
def negative(x: Array) -> Array:
    """-x."""
    return np.negative(x)


negative.vjp(x=lambda g, out, x: negative(g))
negative.jvp(x="linear")


@primitive(
    analytic=True,
    samples=lambda draw: [
        (draw.real(3, 4), draw.real(4)),
        (draw.real(), draw.real(2, 1)),
        (draw.complex(2), draw.real()),
        (draw.real(0, 3), draw.real(3)),
        (draw.real(3), 2.5),
    ],
)
def add(x: Array, y: Array) -> Array:
    """x + y."""
    return np.add(x, y)


add.vjp(x=lambda g, out, x, y: g, y=lambda g, out, x, y: g)
add.jvp(x=lambda dx, out, x, y: dx, y=lambda dy, out, x, y: dy)


@primitive(
    analytic=True,
    samples=lambda draw: [
        (draw.real(3, 4), draw.real(4)),
        (draw.real(3, 1), draw.complex(1, 2)),
        (1.0, draw.real(3)),
        (draw.real(0), draw.real()),
    ],
)
def subtract(x: Array, y: Array) -> Array:
    """x - y."""
    return np.subtract(x, y)


subtract.vjp(x=lambda g, out, x, y: g, y=lambda g, out, x, y: negative(g))
subtract.jvp(x=lambda dx, out, x, y: dx, y=lambda dy, out, x, y: negative(dy))


@primitive(
    analytic=True,
    samples=lambda draw: [
        (draw.real(3, 4), draw.real(4)),
        (draw.complex(2), draw.real()),
        (draw.real(2, 1), draw.complex(3)),
        (draw.real(0, 2), draw.real(2)),
        (draw.real(3), -0.5),
    ],
)
def multiply(x: Array, y: Array) -> Array:
    """x * y."""
    return np.multiply(x, y)


multiply.vjp(x=lambda g, out, x, y: multiply(g, bar(y)), y=lambda g, out, x, y: multiply(g, bar(x)))
multiply.jvp(x="linear", y="linear")


@primitive(
    analytic=True,
    samples=lambda draw: [
        (draw.real(3, 4), draw.nonzero(4)),
        (draw.complex(2), draw.nonzero()),
        (draw.real(2, 1), draw.nonzero(3) + 1j * draw.real(3)),
        (draw.real(0), draw.nonzero(1)),
        (2.0, draw.nonzero(3)),
    ],
)
def divide(x: Array, y: Array) -> Array:
    """x / y."""
    return np.true_divide(x, y)


divide.vjp(
    x=lambda g, out, x, y: divide(g, bar(y)),
    y=lambda g, out, x, y: negative(divide(multiply(g, bar(out)), bar(y))),
)
divide.jvp(x="linear", y=lambda dy, out, x, y: negative(divide(multiply(dy, out), y)))


@primitive(analytic=True, samples=lambda draw: [(draw.real(3, 2),), (draw.complex(2),), (draw.real(0),)])
def square(x: Array) -> Array:
    """x * x."""
    return np.square(x)


square.vjp(x=lambda g, out, x: multiply(g, multiply(bar(x), 2.0)))
square.jvp(x=lambda dx, out, x: multiply(dx, multiply(x, 2.0)))


@primitive(
    analytic=True,
    samples=lambda draw: [(draw.nonzero(3, 2),), (draw.nonzero(2) + 1j * draw.real(2),), (draw.nonzero(),)],
)
def reciprocal(x: Array) -> Array:
    """1 / x."""
    return np.true_divide(1, x)


reciprocal.vjp(x=lambda g, out, x: negative(multiply(g, bar(square(out)))))
reciprocal.jvp(x=lambda dx, out, x: negative(multiply(dx, square(out))))


def _power_by_base(base: Tensor, exponent: Tensor) -> Any:
    """d x**y / dx = y x**(y-1), and 0 for 0**0, where the formula says 0 * inf."""
    if not np.any(exponent.data == 0):
        return multiply(exponent, power(base, subtract(exponent, 1.0)))
    corner = np.asarray((base == 0) & (exponent == 0))
    return selected(~corner, multiply(exponent, power(base, subtract(where(corner, 1.0, exponent), 1.0))))


def _power_by_exponent(out: Tensor, base: Tensor, exponent: Tensor) -> Any:
    """d x**y / dy = x**y log x, and 0 at x = 0 for y >= 0 (the limit, or torch's choice at 0**0)."""
    from .elementary import log

    zero = base.data == 0
    if not np.any(zero):
        return multiply(out, log(base))
    corner = np.asarray(zero & (exponent.data.real >= 0))
    return selected(~corner, multiply(out, log(where(corner, 1.0, base))))


@primitive(
    analytic=True,
    samples=lambda draw: [
        (draw.positive(3, 4), draw.real(4)),
        (draw.nonzero(3), 3),
        (draw.nonzero(2, 2), -2.0),
        (draw.positive(2) + 1j * draw.real(2), draw.complex(3, 2)),
        (draw.positive(), draw.real()),
        (draw.real(0), 2.0),
    ],
)
def power(x: Array, y: Array) -> Array:
    """x ** y, for negative x at integral y only."""
    return np.power(x, y)


power.vjp(
    x=lambda g, out, x, y: multiply(g, bar(_power_by_base(x, y))),
    y=lambda g, out, x, y: multiply(g, bar(_power_by_exponent(out, x, y))),
)
power.jvp(
    x=lambda dx, out, x, y: multiply(dx, _power_by_base(x, y)),
    y=lambda dy, out, x, y: multiply(dy, _power_by_exponent(out, x, y)),
)


# ---------------------------------------------------------------------------------- remainders and rounding


def _away_from_steps(draw: Any, *shape: int) -> tuple[Array, Array]:
    """x and y whose quotient is at least 0.2 from every integer."""
    y = draw.nonzero(*shape, low=0.7, high=1.5)
    return np.asarray((draw.integer(-3, 3, *shape) + draw.real(*shape, low=0.2, high=0.8)) * y), y


@primitive(exact=True, samples=lambda draw: [_away_from_steps(draw, 3, 2), _away_from_steps(draw)])
def floor_divide(x: Array, y: Array) -> Array:
    """floor(x / y); piecewise constant."""
    return np.floor_divide(x, y)


floor_divide.vjp(x="zero", y="zero")
floor_divide.jvp(x="zero", y="zero")


@primitive(
    samples=lambda draw: [
        _away_from_steps(draw, 3, 2),
        _away_from_steps(draw),
        (draw.real(3, low=0.1, high=0.9), 1.0),
    ]
)
def remainder(x: Array, y: Array) -> Array:
    """x - y floor(x / y): the sign of y, as Python's %."""
    return np.remainder(x, y)


remainder.vjp(x=lambda g, out, x, y: g, y=lambda g, out, x, y: negative(multiply(g, floor_divide(x, y))))
remainder.jvp(x=lambda dx, out, x, y: dx, y=lambda dy, out, x, y: negative(multiply(dy, floor_divide(x, y))))


def _between_integers(draw: Any, *shape: int) -> Array:
    fraction = np.where(
        draw.bool(*shape), draw.real(*shape, low=0.1, high=0.4), draw.real(*shape, low=0.6, high=0.9)
    )
    return np.asarray(draw.integer(-3, 3, *shape) + fraction)


@primitive(exact=True, samples=lambda draw: [(_between_integers(draw, 3, 2),), (_between_integers(draw),)])
def trunc(x: Array) -> Array:
    """x without its fraction; piecewise constant."""
    return np.trunc(x)


@primitive(
    samples=lambda draw: [
        _away_from_steps(draw, 3, 2),
        _away_from_steps(draw),
        (draw.real(3, low=0.1, high=0.9), 1.0),
    ]
)
def fmod(x: Array, y: Array) -> Array:
    """x - y trunc(x / y): the sign of x, as C's fmod."""
    return np.fmod(x, y)


fmod.vjp(x=lambda g, out, x, y: g, y=lambda g, out, x, y: negative(multiply(g, trunc(divide(x, y)))))
fmod.jvp(x=lambda dx, out, x, y: dx, y=lambda dy, out, x, y: negative(multiply(dy, trunc(divide(x, y)))))


@primitive(exact=True, samples=lambda draw: [(_between_integers(draw, 3, 2),), (_between_integers(draw),)])
def floor(x: Array) -> Array:
    """Largest integer not above x; piecewise constant."""
    return np.floor(x)


@primitive(exact=True, samples=lambda draw: [(_between_integers(draw, 3, 2),), (_between_integers(draw),)])
def ceil(x: Array) -> Array:
    """Smallest integer not below x; piecewise constant."""
    return np.ceil(x)


@primitive(exact=True, samples=lambda draw: [(_between_integers(draw, 3, 2),), (_between_integers(draw),)])
def round(x: Array) -> Array:
    """Nearest integer, halves to even; piecewise constant."""
    return np.round(x)


@primitive(exact=True, samples=lambda draw: [(draw.nonzero(3, 2),), (draw.nonzero(),)])
def sign(x: Array) -> Array:
    """-1, 0 or 1 (real x); piecewise constant."""
    return np.sign(x)


for _step in (floor, ceil, round, trunc, sign):
    _step.vjp(x="zero").jvp(x="zero")


# ------------------------------------------------------------------------------------------ complex parts


@primitive(exact=True, samples=lambda draw: [(draw.complex(3, 2),), (draw.real(2),), (draw.complex(),)])
def conj(x: Array) -> Array:
    """Complex conjugate; a real x is returned as it is."""
    return np.conjugate(x) if x.dtype.kind == "c" else x


conj.vjp(x=lambda g, out, x: conj(g))
conj.jvp(x="linear")


@primitive(exact=True, samples=lambda draw: [(draw.complex(3, 2),), (draw.real(2),), (draw.complex(),)])
def real(x: Array) -> Array:
    """Real part."""
    return x.real


real.vjp(x=lambda g, out, x: g)
real.jvp(x="linear")


@primitive(exact=True, samples=lambda draw: [(draw.complex(3, 2),), (draw.real(2),), (draw.complex(),)])
def imag(x: Array) -> Array:
    """Imaginary part (zeros for real x)."""
    return x.imag


imag.jvp(x="linear")


@primitive(
    exact=True,
    samples=lambda draw: [(draw.real(3, 2), draw.real(2)), (draw.real(), draw.real(2)), (0.0, draw.real(2))],
)
def make_complex(re: Array, im: Array) -> Array:
    """re + i im, from real parts of equal precision."""
    dtype = np.result_type(re, im)
    made = np.empty(np.broadcast_shapes(np.shape(re), np.shape(im)), np.result_type(dtype, np.complex64))
    made.real, made.imag = re, im
    return made


imag.vjp(x=lambda g, out, x: make_complex(0.0, g))
make_complex.vjp(re=lambda g, out, re, im: real(g), im=lambda g, out, re, im: imag(g))
make_complex.jvp(re=lambda dx, out, re, im: dx, im=lambda dy, out, re, im: make_complex(0.0, dy))


@primitive(
    samples=lambda draw: [
        (draw.nonzero(3),),
        (draw.nonzero(2, 2) + 1j * draw.real(2, 2),),
        (draw.complex(0),),
    ]
)
def sgn(x: Array) -> Array:
    """x / |x|, and 0 at 0."""
    if x.dtype.kind != "c":
        return np.sign(x)
    size = np.abs(x)
    return np.asarray(np.where(size == 0, 0, x / np.where(size == 0, 1, size)), dtype=x.dtype)


@primitive(
    samples=lambda draw: [(draw.nonzero(3, 2),), (draw.nonzero(2) + 1j * draw.real(2),), (draw.nonzero(),)]
)
def absolute(x: Array) -> Array:
    """|x|, real also for complex x."""
    return np.abs(x)


absolute.vjp(x=lambda g, out, x: multiply(g, sgn(x)))
absolute.jvp(x=lambda dx, out, x: real(multiply(dx, bar(sgn(x)))))


def _sgn_derivative(t: Tensor, x: Tensor) -> Any:
    """Self-adjoint: the component of t across x, over |x|; 0 at 0, and for real x."""
    if x.data.dtype.kind != "c":
        return multiply(t, 0.0)
    zero = x.data == 0
    size = where(zero, 1.0, absolute(where(zero, 1.0, x)))
    direction = sgn(x)
    along = multiply(direction, real(multiply(bar(direction), t)))
    return selected(~zero, divide(subtract(t, along), size))


sgn.vjp(x=lambda g, out, x: _sgn_derivative(g, x))
sgn.jvp(x=lambda dx, out, x: _sgn_derivative(dx, x))


def _angle_direction(x: Tensor) -> Any:
    """i x / |x|**2, the gradient of the angle; 0 at 0."""
    if x.data.dtype.kind != "c":
        return multiply(x, 0.0)
    zero = x.data == 0
    safe = where(zero, 1.0, x)
    return selected(~zero, multiply(divide(1.0, bar(safe)), 1j))


@primitive(samples=lambda draw: [(draw.positive(3, 2) + 1j * draw.real(3, 2),), (draw.nonzero(3),)])
def angle(x: Array) -> Array:
    """Argument of x in (-pi, pi]; 0 or pi for real x."""
    return np.asarray(np.angle(x), dtype=x.real.dtype)


angle.vjp(x=lambda g, out, x: multiply(g, _angle_direction(x)))
angle.jvp(x=lambda dx, out, x: real(multiply(dx, bar(_angle_direction(x)))))


# ---------------------------------------------------------------------------------------------- selection


def _lead(x: Tensor, y: Tensor) -> Array:
    """1 where x > y, 1/2 at ties, else 0: the share of x in maximum(x, y)."""
    share = np.where(x.data > y.data, 1.0, np.where(x.data == y.data, 0.5, 0.0))
    return share.astype(np.result_type(x.data, y.data))


def _apart(draw: Any) -> list[tuple[Any, ...]]:
    x = draw.distinct(4, 3)
    return [
        (x, draw.rng.permutation(x.ravel()[:3] + 0.03)),
        (draw.distinct(2, 1), 0.01),
        (draw.real(0), draw.real()),
    ]


@primitive(exact=True, samples=_apart)
def maximum(x: Array, y: Array) -> Array:
    """The larger one; NaN where either is."""
    return np.maximum(x, y)


maximum.vjp(x=lambda g, out, x, y: multiply(g, _lead(x, y)), y=lambda g, out, x, y: multiply(g, _lead(y, x)))
maximum.jvp(
    x=lambda dx, out, x, y: multiply(dx, _lead(x, y)), y=lambda dy, out, x, y: multiply(dy, _lead(y, x))
)


@primitive(exact=True, samples=_apart)
def minimum(x: Array, y: Array) -> Array:
    """The smaller one; NaN where either is."""
    return np.minimum(x, y)


minimum.vjp(x=lambda g, out, x, y: multiply(g, _lead(y, x)), y=lambda g, out, x, y: multiply(g, _lead(x, y)))
minimum.jvp(
    x=lambda dx, out, x, y: multiply(dx, _lead(y, x)), y=lambda dy, out, x, y: multiply(dy, _lead(x, y))
)


def _clip_part(part: str, x: Tensor, low: Tensor | None, high: Tensor | None) -> Array:
    """Where the result is x, low or high. `high` wins when the bounds cross, as min(max(x, low), high)."""
    above = np.asarray(False)
    if high is not None:
        raised = x.data if low is None else np.maximum(x.data, low.data)
        above = np.asarray(raised > high.data)
    below = np.asarray(False) if low is None else np.asarray(x.data < low.data) & ~above
    return above if part == "high" else below if part == "low" else ~(above | below)


def _clip_samples(draw: Any) -> list[Any]:
    x = draw.distinct(4, 3)
    return [
        (x, np.asarray(-0.205), np.asarray(0.305)),
        (x, np.asarray([-0.4, -0.2, 0.0]) + 0.005, None),
        (x, None, 0.205),
        (np.asarray(0.3), np.asarray([0.1, 0.4]), np.asarray([0.2, 0.2])),
    ]


@primitive(exact=True, samples=_clip_samples)
def clip(x: Array, low: Array | None = None, high: Array | None = None) -> Array:
    """min(max(x, low), high); a bound may be None."""
    raised = np.array(x) if low is None else np.maximum(x, low)
    return raised if high is None else np.minimum(raised, high)


clip.vjp(
    x=lambda g, out, x, low, high: selected(_clip_part("x", x, low, high), g),
    low=lambda g, out, x, low, high: selected(_clip_part("low", x, low, high), g),
    high=lambda g, out, x, low, high: selected(_clip_part("high", x, low, high), g),
)
clip.jvp(
    x=lambda dx, out, x, low, high: selected(_clip_part("x", x, low, high), dx),
    low=lambda dx, out, x, low, high: selected(_clip_part("low", x, low, high), dx),
    high=lambda dx, out, x, low, high: selected(_clip_part("high", x, low, high), dx),
)


@primitive(
    exact=True,
    analytic=True,
    samples=lambda draw: [
        (draw.bool(3, 4), draw.real(3, 4), draw.real(4)),
        (draw.bool(2, 1), draw.complex(3), draw.real()),
        (draw.bool(3), draw.real(3), 0.0),
        (draw.bool(0), draw.real(0), draw.real()),
    ],
)
def where(cond: Array, x: Array, y: Array) -> Array:
    """x where cond holds, else y; Python numbers take the other's dtype."""
    if isinstance(x, (int, float, complex)) or isinstance(y, (int, float, complex)):
        dtype = np.result_type(x, y)
        x, y = np.asarray(x, dtype), np.asarray(y, dtype)
    return np.where(np.asarray(cond, bool), x, y)


where.vjp(x=lambda g, out, cond, x, y: where(cond, g, 0.0), y=lambda g, out, cond, x, y: where(cond, 0.0, g))
where.jvp(
    x=lambda dx, out, cond, x, y: where(cond, dx, 0.0), y=lambda dy, out, cond, x, y: where(cond, 0.0, dy)
)


def _copysign_factor(x: Tensor, y: Tensor) -> Array:
    return np.asarray(np.sign(x.data) * np.copysign(1.0, y.data), dtype=x.data.dtype)


@primitive(
    exact=True,
    samples=lambda draw: [(draw.nonzero(3, 4), draw.nonzero(4)), (draw.nonzero(), draw.nonzero(2))],
)
def copysign(x: Array, y: Array) -> Array:
    """|x| with the sign of y."""
    return np.copysign(x, y)


copysign.vjp(x=lambda g, out, x, y: multiply(g, _copysign_factor(x, y)), y="zero")
copysign.jvp(x=lambda dx, out, x, y: multiply(dx, _copysign_factor(x, y)), y="zero")


def _over(numerator: Tensor, denominator: Tensor) -> Any:
    """The quotient, and 0 where the denominator is 0."""
    zero = denominator.data == 0
    if not np.any(zero):
        return divide(numerator, denominator)
    return selected(~zero, divide(numerator, where(zero, 1.0, denominator)))


@primitive(samples=lambda draw: [(draw.nonzero(3, 4), draw.nonzero(4)), (draw.nonzero(), draw.nonzero(2))])
def hypot(x: Array, y: Array) -> Array:
    """sqrt(x**2 + y**2)."""
    return np.hypot(x, y)


hypot.vjp(
    x=lambda g, out, x, y: multiply(g, _over(x, out)), y=lambda g, out, x, y: multiply(g, _over(y, out))
)
hypot.jvp(
    x=lambda dx, out, x, y: multiply(dx, _over(x, out)), y=lambda dy, out, x, y: multiply(dy, _over(y, out))
)


@primitive(samples=lambda draw: [(draw.real(3, 4), draw.positive(4)), (draw.positive(2), draw.nonzero())])
def arctan2(y: Array, x: Array) -> Array:
    """The angle of the point (x, y)."""
    return np.arctan2(y, x)


def _radius(x: Tensor, y: Tensor) -> Any:
    return add(square(x), square(y))


arctan2.vjp(
    y=lambda g, out, y, x: multiply(g, _over(x, _radius(x, y))),
    x=lambda g, out, y, x: negative(multiply(g, _over(y, _radius(x, y)))),
)
arctan2.jvp(
    y=lambda dy, out, y, x: multiply(dy, _over(x, _radius(x, y))),
    x=lambda dx, out, y, x: negative(multiply(dx, _over(y, _radius(x, y)))),
)


# --------------------------------------------------------------------------------------------- conversion


@primitive(
    exact=True,
    samples=lambda draw: [
        ((draw.real(3),), {"dtype": "complex128"}),
        ((draw.complex(2),), {"dtype": "float64"}),
        ((draw.real(2, 2),), {"dtype": "float64"}),
    ],
)
def cast(x: Array, *, dtype: str) -> Array:
    """x in another dtype, as it is when it has that dtype; complex to real keeps the real part."""
    wanted = np.dtype(dtype)
    x = np.asarray(x)
    return (x.real if x.dtype.kind == "c" and wanted.kind != "c" else x).astype(wanted, copy=False)


cast.vjp(x=lambda g, out, x: g)
cast.jvp(x="linear")


@primitive(
    exact=True, analytic=True, samples=lambda draw: [(draw.real(3, 2),), (draw.complex(),), (draw.real(0),)]
)
def clone(x: Array) -> Array:
    """A copy with a buffer of its own."""
    return np.array(x)


clone.vjp(x=lambda g, out, x: g)
clone.jvp(x="linear")

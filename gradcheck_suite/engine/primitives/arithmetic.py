"""Elementwise arithmetic: the four operations, powers, the larger and the smaller of two.

Derivatives from the definitions. Where a derivative does not exist the subgradient torch documents is
taken: ties of maximum and minimum are shared in half.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..modes import THREAD
from ..primitive import primitive
from ..tensor import Tensor
from .complex_parts import bar
from .selection import selected, where

Array = NDArray[Any]


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
    noisy = THREAD.mode.perturbation
    if noisy is not None and np.asarray(y).dtype.kind == "f":
        # An integral exponent is exact, and so is its predecessor: beside it, negative numbers have no power.
        # The room is for a perturbed exponent from which 1 was taken up to three times.
        whole, room = np.rint(y), np.minimum(4 * noisy.eps * (np.abs(y) + 2), 0.05)
        y = np.where(np.abs(y - whole) <= room, whole, y)
    return np.power(x, y)


power.vjp(
    x=lambda g, out, x, y: multiply(g, bar(_power_by_base(x, y))),
    y=lambda g, out, x, y: multiply(g, bar(_power_by_exponent(out, x, y))),
)
power.jvp(
    x=lambda dx, out, x, y: multiply(dx, _power_by_base(x, y)),
    y=lambda dy, out, x, y: multiply(dy, _power_by_exponent(out, x, y)),
)


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


def _over(numerator: Tensor, denominator: Tensor) -> Any:
    """The quotient, and 0 where the denominator is 0."""
    zero = denominator.data == 0
    if not np.any(zero):
        return divide(numerator, denominator)
    return selected(~zero, divide(numerator, where(zero, 1.0, denominator)))

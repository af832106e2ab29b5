"""Rounding to whole numbers, and the remainders of division.

Rounding is piecewise constant: its derivative is zero, at the steps as well.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..primitive import primitive
from .arithmetic import divide, multiply, negative

Array = NDArray[Any]


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

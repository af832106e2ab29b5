"""Size, sign and direction of numbers, real and complex.

Derivatives from the definitions. Where a derivative does not exist the subgradient torch documents is
taken: |x|, sgn and hypot have 0 at 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..primitive import primitive
from ..tensor import Tensor
from .arithmetic import _over, add, divide, multiply, negative, square, subtract
from .complex_parts import bar, real
from .selection import selected, where

Array = NDArray[Any]


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

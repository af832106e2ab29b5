"""Choosing elements by a mask or by bounds.

Derivatives from the definitions; a value on a bound of clip belongs to the inside.
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

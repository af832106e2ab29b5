"""A finite difference of one node's forward along one element, with its own error and both one-sided slopes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..evidence import Array

__all__ = ["LocalDifference", "difference_along"]


@dataclass(frozen=True)
class LocalDifference:
    """A finite difference of one node's forward along one element of one input.

    Attributes:
        value: the central estimate.
        error: its own error estimate.
        left, right: one-sided slopes.
        kink: whether they stay apart as the step shrinks; of a smooth function their distance shrinks with it.
    """

    value: float
    error: float
    left: float
    right: float
    kink: bool = False


def difference_along(
    projected: Callable[[Array], float],
    base: Array,
    index: tuple[int, ...],
    unit: complex,
    *,
    terms: float = 0.0,
) -> LocalDifference | None:
    """Central differences on four step sizes with Richardson extrapolation.

    Args:
        projected: <cotangent, forward> with the input replaced by its argument.
        base: the input.
        index: the element that is moved.
        unit: 1, or 1j for the imaginary part of a complex input.
        terms: sum of the magnitudes of what ``projected`` adds up, which is what its rounding is relative to.

    Returns:
        The estimate with the smallest error; None when the forward has no finite value near the point.
    """
    typical = float(np.sqrt(np.mean(np.abs(base) ** 2))) if base.size else 0.0
    scale = max(abs(complex(base[index])), 0.1 * typical, 1e-8)
    centre = projected(base)
    estimates: list[LocalDifference] = []
    roundings: list[float] = []
    for exponent in (3, 4, 5, 6):
        h = scale * 10.0**-exponent
        plus, minus = (projected(_moved(base, index, sign * h * unit)) for sign in (1.0, -1.0))
        if not np.isfinite([plus, minus, centre]).all():
            continue
        roundings.append(4 * np.finfo(np.float64).eps * max(abs(plus), abs(minus), abs(centre), terms) / h)
        estimates.append(
            LocalDifference((plus - minus) / (2 * h), 0.0, (centre - minus) / h, (plus - centre) / h)
        )
    best: LocalDifference | None = None
    for (coarse, fine), rounding in zip(itertools.pairwise(estimates), roundings[1:]):
        value = (100.0 * fine.value - coarse.value) / 99.0
        error = abs(fine.value - coarse.value) / 10.0 + rounding
        if best is None or error < best.error:
            apart, before = abs(fine.right - fine.left), abs(coarse.right - coarse.left)
            kink = apart > 0.5 * before and apart > 8 * rounding
            best = LocalDifference(value, error, fine.left, fine.right, kink)
    return best


def _moved(base: Array, index: tuple[int, ...], step: complex) -> Array:
    moved: Array = base.copy()
    moved[index] += step if base.dtype.kind == "c" else step.real
    return moved

"""Monte-Carlo arithmetic: random relative errors on every result, to measure sensitivity to rounding.

Method: D. S. Parker, "Monte Carlo Arithmetic", UCLA CSD-970002, 1997 (random rounding of every result).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .modes import THREAD

_TABLE_SIZE = 1 << 16
# Twice the same numbers, so that a block of the table's length can begin anywhere in the first half.
_TABLE = np.tile(np.random.default_rng(0).uniform(-1.0, 1.0, _TABLE_SIZE), 2)


class Perturbation:
    """Relative size of the errors, and what chooses them.

    The errors are read from a fixed table, from a place drawn at random: drawing one number per element of every result
    would cost more than the arithmetic that is perturbed. Larger arrays are done in blocks, each from another place.
    """

    __slots__ = ("eps", "rng", "smallest")

    def __init__(self, eps: float, rng: np.random.Generator, smallest: float = 0.0) -> None:
        self.eps = eps
        self.rng = rng
        self.smallest = smallest

    def __call__(self, value: NDArray[Any]) -> NDArray[Any]:
        """`value * (1 + eps * u)`, u uniform in [-1, 1] per element; real and imaginary part on their own."""
        if value.dtype.kind == "c":
            noisy = np.empty_like(value)
            noisy.real = self(value.real)
            noisy.imag = self(value.imag)
            return noisy
        if value.dtype.kind != "f":
            return value
        flat = np.ascontiguousarray(value).reshape(-1)
        result = np.empty(flat.shape, flat.dtype)
        for start in range(0, flat.size, _TABLE_SIZE):
            block = flat[start : start + _TABLE_SIZE]
            place = int(self.rng.integers(_TABLE_SIZE))
            errors = _TABLE[place : place + block.size] * self.eps
            errors += 1.0
            noisy = result[start : start + block.size]
            np.multiply(block, errors, out=noisy, casting="same_kind")
            if self.smallest:
                # Below the smallest normal number the distance between neighbours is the same for all.
                low = (block != 0) & (np.abs(block) < self.smallest)
                if low.any():
                    noisy[low] += (self.smallest * self.eps) * _TABLE[place : place + block.size][low]
        return result.reshape(value.shape)


@contextmanager
def perturbed(eps: float, rng: np.random.Generator, smallest: float = 0.0) -> Iterator[None]:
    """Inside, every primitive's floating result is multiplied by (1 + eps * u), in forwards and backwards.

    Operations that only move data (reshape, getitem, concatenate, negative, ...) stay exact. `eps` is
    relative, for example `np.finfo(np.float32).eps`; the spread of the results over a few runs
    measures how strongly rounding moves them. `smallest` is the smallest normal number: results below it get
    an absolute error of `eps * smallest`, as numbers do that lose digits there.
    """
    if not eps >= 0:
        raise ValueError(
            f"perturbed(eps={eps!r}) failed: a relative error size is >= 0. Pass for example 1e-7."
        )
    mode = THREAD.mode
    outer = mode.perturbation
    mode.perturbation = Perturbation(eps, rng, smallest)
    try:
        yield
    finally:
        mode.perturbation = outer

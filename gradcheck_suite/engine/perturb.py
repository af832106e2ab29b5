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


class Perturbation:
    """Relative size of the errors, and where their random numbers come from."""

    __slots__ = ("eps", "rng")

    def __init__(self, eps: float, rng: np.random.Generator) -> None:
        self.eps = eps
        self.rng = rng


def perturb(perturbation: Perturbation, value: NDArray[Any]) -> NDArray[Any]:
    """`value * (1 + eps * u)`, u uniform in [-1, 1] per element; real and imaginary part on their own."""
    if value.dtype.kind == "f":
        error = perturbation.rng.uniform(-perturbation.eps, perturbation.eps, value.shape)
        return np.asarray(value + value * error.astype(value.dtype))
    if value.dtype.kind == "c":
        noisy = np.empty_like(value)
        noisy.real = perturb(perturbation, value.real)
        noisy.imag = perturb(perturbation, value.imag)
        return noisy
    return value


@contextmanager
def perturbed(eps: float, rng: np.random.Generator) -> Iterator[None]:
    """Inside, every primitive's floating result is multiplied by (1 + eps * u), in forwards and backwards.

    Operations that only move data (reshape, getitem, concatenate, negative, ...) stay exact. `eps` is
    relative, for example `np.finfo(np.float32).eps`; the spread of the results over a few runs
    measures how strongly rounding moves them.
    """
    if not eps >= 0:
        raise ValueError(
            f"perturbed(eps={eps!r}) failed: a relative error size is >= 0. Pass for example 1e-7."
        )
    mode = THREAD.mode
    outer = mode.perturbation
    mode.perturbation = Perturbation(eps, rng)
    try:
        yield
    finally:
        mode.perturbation = outer

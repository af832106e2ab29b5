"""How far perturbed evaluations lie from the exact one: the noise that a tolerance is measured against."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..evidence import Array

__all__ = ["measured_spread"]


def measured_spread(samples: Sequence[Array], exact: Array) -> Array:
    """Largest distance of the samples from the exact value, per element, and never less than the tensor's usual one.

    A few samples of one element may all be small by chance; its neighbours tell what is usual.
    """
    spread: Array = np.asarray(
        np.abs(samples[0] - exact)
    )  # NumPy makes a 0-d array a scalar, which out= refuses
    for sample in samples[1:]:
        np.maximum(spread, np.abs(sample - exact), out=spread)
    if not spread.size:
        return spread
    flat = spread.reshape(-1)
    square = float(np.dot(flat, flat))
    if not np.isfinite(square):
        finite = flat[np.isfinite(flat)]
        square = float(np.dot(finite, finite))
    result: Array = np.maximum(spread, np.sqrt(square / flat.size))
    return result

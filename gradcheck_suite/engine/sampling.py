"""Draws the sample arguments that state a primitive's domain and from which its tests are generated."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Draw:
    """Random float64, complex128, integer and boolean arrays of a stated domain, from one seed.

    `draw.rng` is the `numpy.random.Generator` for anything else.
    """

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)

    def real(self, *shape: int, low: float = -2.0, high: float = 2.0) -> Array:
        """Uniform in [low, high)."""
        return np.asarray(self.rng.uniform(low, high, size=shape))

    def positive(self, *shape: int, low: float = 0.25, high: float = 2.25) -> Array:
        """Uniform, away from zero."""
        return self.real(*shape, low=low, high=high)

    def nonzero(self, *shape: int, low: float = 0.25, high: float = 2.0) -> Array:
        """Either sign, |x| in [low, high): for functions with a kink or pole at zero."""
        sign = np.where(self.rng.uniform(size=shape) < 0.5, -1.0, 1.0)
        return np.asarray(sign * self.rng.uniform(low, high, size=shape))

    def complex(self, *shape: int, low: float = -2.0, high: float = 2.0) -> Array:
        """Real and imaginary part uniform in [low, high)."""
        return np.asarray(self.real(*shape, low=low, high=high) + 1j * self.real(*shape, low=low, high=high))

    def integer(self, low: int, high: int, *shape: int) -> Array:
        """Integers in [low, high)."""
        return np.asarray(self.rng.integers(low, high, size=shape))

    def distinct(self, *shape: int, gap: float = 0.1) -> Array:
        """Values in random order, no two closer than 0.6 `gap`, none closer than 0.2 `gap` to zero."""
        size = int(np.prod(shape, dtype=np.int64))
        grid = (np.arange(size) - size // 2 + 0.5) * gap
        grid = grid + self.rng.uniform(-0.2 * gap, 0.2 * gap, size=size)
        return np.asarray(self.rng.permutation(grid).reshape(shape))

    def spd(self, n: int, *batch: int) -> Array:
        """Symmetric positive definite (*batch, n, n), eigenvalues above 0.5."""
        a = self.real(*batch, n, n)
        return np.asarray(a @ np.swapaxes(a, -1, -2) / max(n, 1) + 0.5 * np.eye(n))

    def bool(self, *shape: int) -> Array:
        """Booleans, each with probability one half."""
        return np.asarray(self.rng.uniform(size=shape) < 0.5)


Sample = tuple[tuple[Any, ...], dict[str, Any]]


def normalise_sample(sample: Any) -> Sample:
    """`(args, kwargs)` from any of the forms a sampler may return: array, args tuple, (args, kwargs)."""
    if not isinstance(sample, tuple):
        return (sample,), {}
    if len(sample) == 2 and isinstance(sample[0], tuple) and isinstance(sample[1], dict):
        return sample[0], sample[1]
    return sample, {}

"""Hypothesis strategies for tensors, for ``check_gradients(function, strategy)`` and for tests under ``@given``.

They draw what breaks a backward: empty and size-one dimensions, large batches, transposed, sliced, expanded and offset
memory, zeros of both signs, ties, huge, tiny and subnormal values, and matrices that stay on their manifold. Needs
Hypothesis, which the extra ``test`` installs.
"""

from __future__ import annotations

from .capture.strategies import (
    LAYOUTS,
    broadcastable,
    broadcastable_shapes,
    dtypes,
    indices,
    layouts,
    numbers,
    shapes,
    tensors,
)
from .capture.structured import (
    lower_triangular,
    orthogonal,
    positive_definite,
    simplex,
    symmetric,
    upper_triangular,
)

__all__ = [
    "LAYOUTS",
    "broadcastable",
    "broadcastable_shapes",
    "dtypes",
    "indices",
    "layouts",
    "lower_triangular",
    "numbers",
    "orthogonal",
    "positive_definite",
    "shapes",
    "simplex",
    "symmetric",
    "tensors",
    "upper_triangular",
]

"""Cutting arrays into parts that stay in the cache while a kernel takes several steps over them."""

from __future__ import annotations

import math
from collections.abc import Iterator

BLOCK_BYTES = 1 << 19
"""Bytes of input that are taken through all steps of a kernel at once."""


def blocks(shape: tuple[int, ...], reduced: tuple[int, ...], itemsize: int) -> Iterator[tuple[slice, ...]]:
    """Slices that cut an array into cache-sized parts, across the longest axis that is not reduced."""
    kept = [i for i in range(len(shape)) if i not in reduced]
    if not kept:
        yield ()
        return
    axis = max(kept, key=lambda i: shape[i])
    per_index = math.prod(shape) // max(shape[axis], 1) * itemsize
    step = max(1, BLOCK_BYTES // max(per_index, 1))
    for start in range(0, shape[axis], step):
        yield (*(slice(None),) * axis, slice(start, start + step))


def merged(shape: tuple[int, ...], reduced: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shape with neighbouring axes of one kind (reduced or kept) as one, and which of those are reduced."""
    sizes: list[int] = []
    kinds: list[bool] = []
    for i, n in enumerate(shape):
        kind = i in reduced
        if kinds and kinds[-1] == kind:
            sizes[-1] *= n
        else:
            sizes.append(n)
            kinds.append(kind)
    return tuple(sizes), tuple(i for i, kind in enumerate(kinds) if kind)


def kept_shape(shape: tuple[int, ...], reduced: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of statistics: reduced axes have length one."""
    return tuple(1 if i in reduced else n for i, n in enumerate(shape))

"""Walking through arrays fast: in parts that stay in the cache, without NumPy's buffers, summing with BLAS."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

BLOCK_BYTES = 1 << 19
"""Bytes of input that are taken through all steps of a kernel at once."""


def blocks(shape: tuple[int, ...], reduced: tuple[int, ...], itemsize: int) -> Iterator[tuple[slice, ...]]:
    """Slices that cut an array into cache-sized parts, across the axes that are not reduced, the first ones first."""
    part, room = list(shape), math.prod(shape) * itemsize
    for axis in range(len(shape)):
        if room <= BLOCK_BYTES:
            break
        if axis not in reduced:
            per_index = room // part[axis]
            part[axis] = max(1, BLOCK_BYTES // per_index)
            room = per_index * part[axis]
    counts = [-(-n // max(size, 1)) for n, size in zip(shape, part)]
    for index in np.ndindex(*counts):
        yield tuple(slice(i * size, (i + 1) * size) for i, size in zip(index, part))


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


def kept(part: tuple[slice, ...], reduced: tuple[int, ...]) -> tuple[slice, ...]:
    """The same part of statistics, whose reduced axes have length one."""
    return tuple(slice(None) if i in reduced else s for i, s in enumerate(part))


class Scratch:
    """Room for temporaries, allocated when first asked for and used again: fresh memory costs page faults."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.dtype, self.buffer = dtype, np.empty(0, dtype=dtype)

    def __call__(self, shape: tuple[int, ...]) -> Array:
        size = math.prod(shape)
        if self.buffer.size < size:
            self.buffer = np.empty(size, dtype=self.dtype)
        return self.buffer[:size].reshape(shape)


LONG = 64
"""Innermost length from which one call per row costs less than what it saves."""


@contextmanager
def unbuffered(inner: int) -> Iterator[None]:
    """Element-wise operations with broadcast or strided operands read them where they are.

    NumPy copies such operands through a buffer of 8192 elements, to lengthen its inner loop; where rows have
    ``inner`` >= 64 elements that takes two to three times as long as the operation itself (NumPy 2.4). Rows longer
    than the buffer are not copied.
    """
    if inner < LONG:
        yield
        return
    before = np.setbufsize(16)
    try:
        yield
    finally:
        np.setbufsize(before)


def total(a: Array, reduced: tuple[int, ...]) -> Array:
    """The sum over the ``reduced`` axes, kept with length one, of an array in :func:`merged` form.

    A product with a vector of ones: BLAS reads the array once, at the speed of memory.
    """
    last = a.ndim - 1
    if not reduced or reduced[-1] < last - 1 or a.dtype.kind not in "fc" or a.itemsize < 4:
        return np.asarray(np.sum(a, axis=reduced, keepdims=True))
    ones = np.ones(a.shape[reduced[-1]], dtype=a.dtype)
    if reduced[-1] == last:
        sums = np.expand_dims(np.matmul(a, ones), last)
    else:  # the last axis is kept, the one before it is not
        sums = np.expand_dims(np.matmul(ones, a), last - 1)
    return np.asarray(np.sum(sums, axis=reduced[:-1], keepdims=True) if len(reduced) > 1 else sums)


def total_of_products(a: Array, b: Array, reduced: tuple[int, ...], scratch: Array) -> Array:
    """:func:`total` of ``a * b``, arrays of one shape and dtype in :func:`merged` form; may overwrite ``scratch``."""
    last = a.ndim - 1
    if reduced and reduced[-1] == last and a.shape[last] >= LONG and a.dtype.kind in "fc" and a.itemsize > 2:
        sums = np.matmul(a[..., np.newaxis, :], b[..., np.newaxis])[..., 0]
        return np.asarray(np.sum(sums, axis=reduced[:-1], keepdims=True) if len(reduced) > 1 else sums)
    return total(np.multiply(a, b, out=scratch), reduced)


def weighted_total(a: Array, weight: Array, reduced: tuple[int, ...]) -> Array:
    """:func:`total` of ``a * weight``, where every axis of ``weight`` has length one or that of ``a``."""
    last = a.ndim - 1
    plain = tuple(i for i in reduced if weight.shape[i] == 1)
    rest = tuple(i for i in reduced if weight.shape[i] != 1)
    if plain:
        a = total(a, plain)
    if rest and weight.size == weight.shape[rest[0]]:  # a vector
        if rest == (last,):
            return np.asarray(np.matmul(a, weight.ravel())[..., np.newaxis])
        if rest == (last - 1,):
            return np.asarray(np.matmul(weight.ravel(), a)[..., np.newaxis, :])
    return np.asarray(np.sum(a * weight, axis=rest, keepdims=True))

"""Walking through arrays fast: in parts that stay in the cache, without NumPy's buffers, summing with BLAS."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, wraps
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

BLOCK_BYTES = 1 << 21
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


class _Room(threading.local):
    """Memory for temporaries of one thread, kept between calls: fresh memory costs more page faults than work."""

    def __init__(self) -> None:
        self.buffers: dict[int, Array] = {}


_ROOM = _Room()


class Scratch:
    """Temporaries of parts of an array. What it returned is overwritten by the next call with the same ``slot``.

    A kernel that needs two at a time takes two slots, and hands none of them out.
    """

    def __init__(self, dtype: np.dtype[Any], slot: int = 0) -> None:
        self.dtype, self.slot = dtype, slot

    def __call__(self, shape: tuple[int, ...]) -> Array:
        size = math.prod(shape) * self.dtype.itemsize
        if size > BLOCK_BYTES:  # one slice alone is larger than a part should be: not worth keeping
            return np.empty(shape, dtype=self.dtype)
        buffer = _ROOM.buffers.get(self.slot)
        if buffer is None:
            buffer = _ROOM.buffers[self.slot] = np.empty(BLOCK_BYTES, dtype=np.uint8)
        return buffer[:size].view(self.dtype).reshape(shape)


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


@lru_cache(maxsize=64)
def _ones(n: int, dtype: np.dtype[Any]) -> Array:
    made = np.ones(n, dtype=dtype)
    made.flags.writeable = False  # everybody's
    return made


@lru_cache(maxsize=256)
def _row_length(n: int) -> int:
    """The longest divisor of ``n`` for which the vector of ones stays in the first-level cache; else ``n``."""
    return next((n // d for d in range(1, n // LONG + 1) if n % d == 0 and n // d <= 1024), n)


def _row_sums(a: Array) -> Array:
    """Sums over the last axis."""
    n = a.shape[-1]
    if not a.flags.c_contiguous:
        return np.asarray(np.matmul(a, _ones(n, a.dtype)))
    length = _row_length(n)
    sums = np.matmul(a.reshape(a.size // length if length else 0, length), _ones(length, a.dtype))
    return np.asarray((sums if length == n else sums.reshape(-1, n // length).sum(1)).reshape(a.shape[:-1]))


def total(a: Array, reduced: tuple[int, ...]) -> Array:
    """The sum over the ``reduced`` axes, kept with length one, of an array in :func:`merged` form.

    A product with a vector of ones: BLAS reads the array once, at the speed of memory.
    """
    last = a.ndim - 1
    if not reduced or reduced[-1] < last - 1 or a.dtype.kind not in "fc" or a.itemsize < 4:
        return np.asarray(np.sum(a, axis=reduced, keepdims=True))
    if reduced[-1] == last:
        sums = _row_sums(a)[..., np.newaxis]
    else:  # the last axis is kept, the one before it is not
        sums = np.matmul(_ones(a.shape[last - 1], a.dtype), a)[..., np.newaxis, :]
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


def widened(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """The kernel, computed in single precision where an array is of half: sums of halves overflow and round early."""

    @wraps(kernel)
    def run(*args: Any, **static: Any) -> Any:
        arrays = args[0] if isinstance(args[0], list) else args
        dtype = np.result_type(*arrays)
        if dtype.itemsize > 2:
            return kernel(*args, **static)
        wide = [a.astype(np.float32) for a in arrays]
        out = kernel(wide, **static) if isinstance(args[0], list) else kernel(*wide, **static)
        return tuple(o.astype(dtype) for o in out) if isinstance(out, tuple) else out.astype(dtype)

    return run

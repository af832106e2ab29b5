"""How the values that a meaning receives are read: raw arrays, axes, dtypes, constants.

No meaning is declared here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..engine import Tensor
from ..engine import ops as e

__all__ = [
    "Array",
    "Value",
    "along",
    "axes_of",
    "axis_of",
    "boolean",
    "broadcast_dims",
    "constant",
    "convert",
    "is_complex",
    "is_floating",
    "raw",
    "reduced",
    "shape_of",
]

Value: TypeAlias = Any
"""An engine Tensor, an ndarray of integers or booleans, or a Python number: engine operations take all of them."""

Array: TypeAlias = NDArray[Any]

_INTEGERS = frozenset({"int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"})


def raw(x: Value) -> Array:
    """The numbers of a value, cut from the graph."""
    return x.data if isinstance(x, Tensor) else np.asarray(x)


def constant(x: Value) -> Tensor:
    """The value as a Tensor that carries no gradient; integers and booleans become float64."""
    data = raw(x)
    return Tensor(data if data.dtype.kind in "fc" else data.astype(np.float64))


def shape_of(x: Value) -> tuple[int, ...]:
    """Sizes of a Tensor, an ndarray or a number."""
    return tuple(x.shape) if hasattr(x, "shape") else ()


def is_complex(x: Value) -> bool:
    """Whether the value has an imaginary part."""
    return raw(x).dtype.kind == "c"


def is_floating(x: Value) -> bool:
    """Whether the value is real or complex rather than integer or boolean."""
    return raw(x).dtype.kind in "fc"


def boolean(mask: Value) -> Array:
    """A mask as booleans (torch also takes uint8)."""
    return raw(mask).astype(bool, copy=False)


def axis_of(dim: int, ndim: int) -> int:
    """Non-negative axis of torch's ``dim``."""
    return dim % ndim if ndim else 0


def axes_of(dim: Sequence[int] | int | None, ndim: int) -> tuple[int, ...]:
    """Non-negative axes of torch's ``dim``: None and the empty list mean all of them."""
    if dim is None:
        return tuple(range(ndim))
    if isinstance(dim, int):
        dim = [dim]
    if not len(dim):
        return tuple(range(ndim))
    return tuple(axis_of(d, ndim) for d in dim) if ndim else ()


def along(x: Value, dim: int, f: Callable[[Value, int], Value]) -> Value:
    """``f(x, axis)``; torch lets a 0-d tensor have a dimension 0, so that one is given an axis for the while."""
    if shape_of(x):
        return f(x, axis_of(dim, len(shape_of(x))))
    return e.reshape(f(e.reshape(x, shape=(1,)), 0), shape=())


def convert(x: Value, dtype: str | None) -> Value:
    """The value in another kind of number: integers truncate, complex to real drops the imaginary part.

    Between floating dtypes this is the identity: the engine computes in double precision and rounds nothing.
    """
    if dtype is None:
        return x
    kind = raw(x).dtype.kind
    if dtype == "bool":
        return raw(x) != 0
    if dtype in _INTEGERS:
        data = raw(x)
        return np.trunc(data.real if kind == "c" else data).astype(dtype)
    if dtype.startswith("complex"):
        return x if kind == "c" else e.cast(constant(x) if kind not in "f" else x, dtype="complex128")
    if kind == "c":
        return e.real(x)
    return x if kind == "f" else constant(x)


def reduced(total: Value, reduction: int) -> Value:
    """Torch's loss reduction: 0 none, 1 mean, 2 sum."""
    if reduction == 1:
        return e.mean(total)
    if reduction == 2:
        return e.sum(total)
    return total


def broadcast_dims(vector: Value, ndim: int, axis: int) -> Value:
    """A vector shaped so that it broadcasts along ``axis`` of an ``ndim``-dimensional value."""
    shape = [1] * ndim
    shape[axis] = shape_of(vector)[0]
    return e.reshape(vector, shape=tuple(shape))

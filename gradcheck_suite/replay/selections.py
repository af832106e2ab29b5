"""Which elements an operation selects for values other than the recorded ones.

Where torch's choice is still one of the largest (of the right rank, ...), it stays: at a tie every choice has the same value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..engine import Tensor
from ..engine.primitives.pooling import adaptive_max_pool, max_pool
from ..evidence import Array

__all__ = ["positions_anew", "selected_anew"]


def selected_anew(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Array | None:
    """The positions that ``recorded[1]`` would hold for the arguments as they are now; None for other operations.

    Args:
        name: of the overload.
        args: the arguments, tensors as the engine's or as arrays.
        kwargs: of the meaning, ``recorded`` among them.
    """
    choose = _CHOICES.get(name)
    if choose is None:
        return None
    x = _plain(args[0])
    known = np.asarray(kwargs["recorded"][1])
    rest = {key: value for key, value in kwargs.items() if key != "recorded"}
    if not x.ndim or not x.size or x.dtype.kind not in "fiu":
        return known
    return choose(x, known, *args[1:], **rest)


def positions_anew(name: str, args: Sequence[Any], known: Array) -> Array | None:
    """The result of ``argmax`` or ``argmin`` for the arguments as they are now; None where it cannot be told."""
    x = _plain(args[0])
    if not x.ndim or not x.size or x.dtype.kind not in "fiu":
        return None
    if len(args) < 2 or args[1] is None:
        flat = x.reshape(-1)
        place = known.reshape(-1)
        return _extreme(flat, place, 0, name == "argmax").reshape(known.shape)
    axis = int(args[1])
    kept = known if known.ndim == x.ndim else np.expand_dims(known, axis)
    return _extreme(x, kept, axis, name == "argmax").reshape(known.shape)


def _plain(value: Any) -> Array:
    return value.data if isinstance(value, Tensor) else np.asarray(value)


def _extreme(x: Array, known: Array, axis: int, largest: bool) -> Array:
    """Positions of the extreme along an axis that is kept with extent 1."""
    found = (np.argmax if largest else np.argmin)(x, axis=axis, keepdims=True).reshape(known.shape)
    same = np.take_along_axis(x, known, axis) == np.take_along_axis(x, found, axis)
    return np.where(same, known, found)


def _of_rank(x: Array, known: Array, axis: int, first: int, count: int, descending: bool) -> Array:
    """Positions of the ranks ``first`` to ``first + count`` along an axis; rows stay where their values do."""
    order = np.argsort(-x if descending else x, axis=axis, kind="stable")
    found = np.take(order, np.arange(first, first + count), axis=axis)
    values = np.take_along_axis(x, known, axis)
    same = np.all(values == np.take_along_axis(x, found, axis), axis=axis, keepdims=True)
    return np.where(same, known, found)


def _along(largest: bool) -> Callable[..., Array]:
    def choose(x: Array, known: Array, dim: int, keepdim: bool = False) -> Array:
        kept = known if keepdim else np.expand_dims(known, dim)
        return _extreme(x, kept, dim, largest).reshape(known.shape)

    return choose


def _sort(x: Array, known: Array, dim: int = -1, descending: bool = False, stable: Any = None) -> Array:
    return _of_rank(x, known, dim, 0, x.shape[dim], descending)


def _topk(x: Array, known: Array, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Array:
    if not sorted:
        return known  # in no order that could be told
    return _of_rank(x, known, dim, 0, k, largest)


def _kthvalue(x: Array, known: Array, k: int, dim: int = -1, keepdim: bool = False) -> Array:
    kept = known if keepdim else np.expand_dims(known, dim)
    return _of_rank(x, kept, dim, k - 1, 1, False).reshape(known.shape)


def _median(x: Array, known: Array, dim: int, keepdim: bool = False) -> Array:
    return _kthvalue(x, known, (x.shape[dim] + 1) // 2, dim, keepdim)


def _running(largest: bool) -> Callable[..., Array]:
    def choose(x: Array, known: Array, dim: int) -> Array:
        values = (np.maximum if largest else np.minimum).accumulate(x, axis=dim)
        moved = np.moveaxis(values == x, dim, -1)
        steps = np.where(moved, np.arange(x.shape[dim]), 0)
        found = np.moveaxis(np.maximum.accumulate(steps, axis=-1), -1, dim)
        same = np.take_along_axis(x, known, dim) == values
        return np.where(same, known, found)

    return choose


def _pooled(
    spatial: int, pool: Callable[..., tuple[Array, Array]], names: Sequence[str]
) -> Callable[..., Array]:
    """Flat positions in the plane of the largest of each window."""

    def choose(x: Array, known: Array, *settings: Any, **further: Any) -> Array:
        named = dict(zip(names, settings)) | {
            {"kernel_size": "kernel"}.get(name, name): value for name, value in further.items()
        }
        named = {name: tuple(value) if isinstance(value, list) else value for name, value in named.items()}
        planes = x if x.ndim == spatial + 2 else x[None]
        values, found = (np.asarray(result) for result in pool(planes, **named))
        found = found.reshape(known.shape)
        elements = planes.reshape(*known.shape[:-spatial], -1)
        kept = known.reshape(*known.shape[:-spatial], -1)
        same = np.take_along_axis(elements, kept, -1) == values.reshape(kept.shape)
        return np.where(same.reshape(known.shape), known, found)

    return choose


_WINDOWS = ("kernel", "stride", "padding", "dilation", "ceil_mode")
_CHOICES: Mapping[str, Callable[..., Array]] = {
    "aten::max.dim": _along(True),
    "aten::min.dim": _along(False),
    "aten::median.dim": _median,
    "aten::kthvalue": _kthvalue,
    "aten::sort": _sort,
    "aten::sort.stable": _sort,
    "aten::topk": _topk,
    "aten::cummax": _running(True),
    "aten::cummin": _running(False),
    "aten::max_pool2d_with_indices": _pooled(2, max_pool.value, _WINDOWS),
    "aten::max_pool3d_with_indices": _pooled(3, max_pool.value, _WINDOWS),
    "aten::adaptive_max_pool2d": _pooled(2, adaptive_max_pool.value, ("output_size",)),
    "aten::adaptive_max_pool3d": _pooled(3, adaptive_max_pool.value, ("output_size",)),
}

"""Tensors that share memory, as engine values.

torch's tensors are windows on memory; the engine's are values. This module keeps, for every memory number, the engine
value of its current contents, so that a write through one window is seen through every other, with its gradient.
Views made by recorded operations keep the value that the operation's meaning gave them (cheap); only after a write
are stale windows read again from memory (a gather), and only a write through a partial window costs a scatter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

import numpy as np

from ..engine import Tensor
from ..engine import ops as e
from ..evidence import Array, TensorRef

__all__ = ["Memory", "as_recorded", "is_as_recorded", "is_differentiable", "meets_itself", "to_engine_array"]

Geometry = tuple[tuple[int, ...], tuple[int, ...], int]


def is_differentiable(dtype: str) -> bool:
    """Whether tensors of this dtype arrive in the engine as Tensors (floating or complex)."""
    return dtype.startswith(("float", "bfloat", "complex"))


_AS_RECORDED: ContextVar[bool] = ContextVar("gradcheck_suite_as_recorded", default=False)


@contextmanager
def as_recorded() -> Iterator[None]:
    """While it lasts, the engine computes in the precision of what was recorded."""
    token = _AS_RECORDED.set(True)
    try:
        yield
    finally:
        _AS_RECORDED.reset(token)


def is_as_recorded() -> bool:
    """Whether the engine computes in the precision of what was recorded."""
    return _AS_RECORDED.get()


def to_engine_array(ref: TensorRef) -> Array:
    """The recorded contents in the engine's precision: float64 or complex128; integers and booleans as they are."""
    return ref.source.array() if _AS_RECORDED.get() else ref.source.wide()


def _value(array: Array) -> Any:
    return Tensor(array) if array.dtype.kind in "fc" else array


class _Cell:
    """The contents of one memory: the value seen through the window ``geometry``, plus windows that agree with it."""

    __slots__ = ("extent", "geometry", "lazy", "master", "windows")

    def __init__(self, master: Any, geometry: Geometry) -> None:
        self.master = master
        self.geometry = geometry
        self.extent = _extent(geometry)
        self.windows: dict[Geometry, Any] = {geometry: master}
        self.lazy: dict[tuple[Geometry, str], Any] = {}


def _extent(geometry: Geometry) -> int:
    """One past the last element of memory that the window reaches."""
    shape, strides, offset = geometry
    if 0 in shape:
        return offset
    return offset + sum((n - 1) * s for n, s in zip(shape, strides)) + 1


def _memory_order(geometry: Geometry) -> list[int] | None:
    """The axis order in which a window walks all of its memory without gaps, or None when it does not."""
    shape, strides, offset = geometry
    if offset:
        return None
    order = sorted((a for a in range(len(shape)) if shape[a] != 1), key=lambda a: -strides[a])
    expected = 1
    for axis in reversed(order):
        if strides[axis] != expected:
            return None
        expected *= shape[axis]
    return [a for a in range(len(shape)) if shape[a] == 1] + order


class Memory:
    """Engine values of memory, by memory number.

    Reading a window that no recorded operation explains gives its recorded contents, as a constant; how many of
    those there were, and which, is kept in ``constants``.
    """

    def __init__(self) -> None:
        self._cells: dict[int, _Cell] = {}
        self.constants: list[TensorRef] = []

    def bind(self, ref: TensorRef, value: Any) -> None:
        """Say what a window holds, without changing what other windows of the same memory hold."""
        cell = self._cells.get(ref.storage)
        if ref.lazy:
            if cell is None:
                cell = self._cells[ref.storage] = _Cell(_apply_lazy(value, ref.lazy), ref.geometry)
            cell.lazy[ref.geometry, ref.lazy] = value
        elif cell is None:
            self._cells[ref.storage] = _Cell(value, ref.geometry)
        else:
            cell.windows[ref.geometry] = value

    def read(self, ref: TensorRef) -> Any:
        """The engine value of a window: a Tensor for floating dtypes, an ndarray otherwise."""
        if _is_sparse(ref):
            sparse = self._cells.get(ref.storage)
            known = None if sparse is None else sparse.windows.get(ref.geometry)
            return self._recorded(ref) if known is None else known
        if ref.lazy:
            known = self._cells.get(ref.storage)
            if known is None or not isinstance(known.master, Tensor):
                return self._recorded(ref)
            value = known.lazy.get((ref.geometry, ref.lazy))
            if value is None:
                value = _apply_lazy(self.read(replace(ref, lazy="")), ref.lazy)
                known.lazy[ref.geometry, ref.lazy] = value
            return value
        cell = self._cells.get(ref.storage)
        if cell is None:
            value = self._recorded(ref)
            self._cells[ref.storage] = _Cell(value, ref.geometry)
            return value
        value = cell.windows.get(ref.geometry)
        if value is None:
            if not isinstance(cell.master, Tensor):
                value = self._recorded(ref)
            else:
                extent = max(_extent(ref.geometry), cell.extent)
                value = self._filled(cell, ref, self._gather(cell, ref.geometry, extent), extent)
            if isinstance(value, Tensor) != is_differentiable(ref.dtype) or _dtype_kind(value) != _kind(
                ref.dtype
            ):
                value = self._recorded(ref)  # the same bytes under another dtype
            cell.windows[ref.geometry] = value
        return value

    def write(self, ref: TensorRef, value: Any) -> None:
        """Overwrite a window; every other window of this memory is stale from here on."""
        if ref.lazy:
            ref, value = replace(ref, lazy=""), _apply_lazy(value, ref.lazy)
        cell = self._cells.get(ref.storage)
        if _is_sparse(ref):
            self._cells[ref.storage] = _Cell(value, ref.geometry)
            return
        extent = _extent(ref.geometry)
        covers = _memory_order(ref.geometry) is not None and (cell is None or extent >= cell.extent)
        if cell is None or covers or not isinstance(value, Tensor) or not isinstance(cell.master, Tensor):
            self._cells[ref.storage] = _Cell(value, ref.geometry)
            return
        flat = self._flat(cell, max(extent, cell.extent))
        if value.dtype != flat.dtype:
            value = e.cast(value, dtype=str(flat.dtype))
        shape, strides, offset = ref.geometry
        flat = e.as_strided_scatter(flat, value, shape=shape, strides=strides, offset=offset)
        fresh = _Cell(flat, ((flat.size,), (1,), 0))
        fresh.windows[ref.geometry] = value
        self._cells[ref.storage] = fresh

    def holds_another_kind(self, ref: TensorRef) -> bool:
        """Whether this memory holds complex numbers and ``ref`` looks at them as real ones, or the other way round."""
        cell = self._cells.get(ref.storage)
        return cell is not None and _dtype_kind(cell.master) != _kind(ref.dtype)

    def forget(self, storage: int) -> None:
        """Fresh memory begins at this number."""
        self._cells.pop(storage, None)

    def _recorded(self, ref: TensorRef) -> Any:
        self.constants.append(ref)
        return _value(to_engine_array(ref))

    def _filled(self, cell: _Cell, ref: TensorRef, value: Any, extent: int) -> Any:
        """With the recorded contents where a window reaches memory that the cell's own window leaves out."""
        if extent == cell.extent and _memory_order(cell.geometry) is not None:
            return value
        touched = np.zeros(extent, dtype=bool)
        _window(touched, cell.geometry)[...] = True
        seen = _window(touched, ref.geometry)
        if seen.all():
            return value
        recorded = self._recorded(ref)
        return e.where(seen, value, recorded) if seen.any() and isinstance(recorded, Tensor) else recorded

    @staticmethod
    def _flat(cell: _Cell, extent: int) -> Any:
        """The memory as one dimension of at least ``extent`` elements."""
        shape, strides, offset = cell.geometry
        order = _memory_order(cell.geometry)
        master = cell.master
        if order is not None:
            if order != sorted(order):
                master = e.transpose(master, axes=tuple(order))
            flat = e.reshape(master, shape=(master.size,))
            missing = extent - flat.size
            return flat if missing <= 0 else e.concatenate([flat, np.zeros(missing, flat.dtype)], axis=0)
        extent = max(extent, cell.extent)
        if any(step == 0 and n > 1 for n, step in zip(shape, strides)):
            return _meeting(master, cell.geometry, extent)
        empty = Tensor(np.zeros(extent, master.dtype))
        return e.as_strided_scatter(empty, master, shape=shape, strides=strides, offset=offset)

    def _gather(self, cell: _Cell, geometry: Geometry, extent: int) -> Any:
        shape, strides, offset = geometry
        order = _memory_order(geometry)
        flat = self._flat(cell, extent)
        size = int(np.prod(shape, dtype=np.int64))
        if order is not None and size == flat.size:
            moved = e.reshape(flat, shape=tuple(shape[a] for a in order))
            inverse = tuple(int(i) for i in np.argsort(order))
            return e.transpose(moved, axes=inverse) if inverse != tuple(range(len(inverse))) else moved
        return e.as_strided(flat, shape=shape, strides=strides, offset=offset)


def _meeting(value: Any, geometry: Geometry, extent: int) -> Any:
    """The memory behind an expanded window, whose elements meet in one place: the mean of what they say.

    They say the same, so the mean is that; it is the one that favours none of them, and what torch returns to each.
    """
    where = _window(np.arange(extent), geometry).ravel()
    counts = np.bincount(where, minlength=extent)
    shares = e.reshape(value, shape=(value.size,)) / counts[where].astype(np.float64)
    return e.index_add(Tensor(np.zeros(extent, value.dtype)), shares, index=where, axis=0)


def meets_itself(ref: TensorRef) -> bool:
    """Whether two elements of a window may lie in one place (``unfold`` with a small step, ``expand``)."""
    reach = 0
    for step, n in sorted((step, n) for step, n in zip(ref.strides, ref.shape) if n > 1):
        if step <= reach:
            return True
        reach += step * (n - 1)
    return False


def _is_sparse(ref: TensorRef) -> bool:
    """Whether a tensor has no strides: no memory that another could look at."""
    return not ref.strides and bool(ref.shape)


def _apply_lazy(value: Any, bits: str) -> Any:
    """Conjugate or negate; its own inverse."""
    if not isinstance(value, Tensor):
        return value
    if "conj" in bits:
        value = e.conj(value)
    return e.negative(value) if "neg" in bits else value


def _window(memory: Array, geometry: Geometry) -> Array:
    """The elements of a one-dimensional memory that a window looks at."""
    shape, strides, offset = geometry
    size = memory.itemsize
    return np.lib.stride_tricks.as_strided(memory[offset:], shape, [size * n for n in strides])


def _kind(dtype: str) -> str:
    if dtype.startswith(("float", "bfloat")):
        return "f"
    return "c" if dtype.startswith("complex") else "i"


def _dtype_kind(value: Any) -> str:
    kind = (value.data if isinstance(value, Tensor) else np.asarray(value)).dtype.kind
    return kind if kind in "fc" else "i"


def shapes_agree(value: Any, shape: Sequence[int]) -> bool:
    """Whether an engine value has the recorded shape."""
    return tuple(np.shape(value.data if isinstance(value, Tensor) else value)) == tuple(shape)

"""A tensor's contents as they were at one moment, held without a copy until somebody overwrites them."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import _disable_current_modes

from ..evidence import Array

__all__ = ["PRUNE_EVERY", "CopyOnWrite", "TensorValue", "copied", "dtype_name", "to_array"]

PRUNE_EVERY = 128
"""After so many values of one memory, those that are gone are forgotten."""

_DTYPE_NAMES: dict[torch.dtype, str] = {}


def dtype_name(dtype: torch.dtype) -> str:
    """``"float32"`` for ``torch.float32``."""
    name = _DTYPE_NAMES.get(dtype)
    if name is None:
        name = _DTYPE_NAMES[dtype] = str(dtype).removeprefix("torch.")
    return name


def to_array(tensor: torch.Tensor) -> Array:
    """The tensor as a NumPy array: no copy for CPU tensors of a dtype that NumPy has.

    float16, bfloat16 and float8 come back as float32 (exactly), quantised tensors dequantised, sparse ones dense.
    """
    if not torch._C._len_torch_dispatch_stack():
        return _converted(tensor)
    with _disable_current_modes():
        return _converted(tensor)


def _converted(tensor: torch.Tensor) -> Array:
    t = tensor.detach() if tensor.requires_grad else tensor
    if t.is_quantized:
        t = t.dequantize()
    if t.layout is not torch.strided:
        t = t.to_dense()
    if t._is_zerotensor():  # zeros that torch never wrote: its memory holds anything
        t = t.clone()
    if t.is_conj():
        t = t.resolve_conj()
    if t.is_neg():
        t = t.resolve_neg()
    if t.device.type != "cpu":
        t = t.cpu()
    if t.dtype.is_floating_point and t.dtype not in (torch.float32, torch.float64):
        t = t.to(torch.float32)
    elif t.dtype is torch.complex32:
        t = t.to(torch.complex64)
    return _as_numpy(t)


def _as_numpy(tensor: torch.Tensor) -> Array:
    # Tensor.numpy() would forbid the user's tensor to be resized from then on; DLPack leaves it as it is.
    try:
        return np.from_dlpack(tensor)
    except (BufferError, RuntimeError, TypeError):
        return np.asarray(tensor.clone().numpy())


class TensorValue:
    """An :class:`~gradcheck_suite.evidence.ArraySource` over a torch tensor.

    It holds an alias that carries no graph. :class:`CopyOnWrite` replaces the alias by a copy before a recorded
    operation writes into its memory.

    Args:
        tensor: the contents, without history.
        keep_wide: remember the double-precision copy, for values that several witnesses ask for (parameters).
    """

    __slots__ = ("__weakref__", "_keep_wide", "_wide", "geometry", "shared", "tensor", "unsaved")

    def __init__(self, tensor: torch.Tensor, *, keep_wide: bool = False, geometry: Any = None) -> None:
        self.tensor = tensor
        # How it looks at its memory, if whoever looks at the same memory in the same way may share it.
        self.geometry = geometry
        self.shared = False  # it is what a later operation was given, too
        self.unsaved = False  # an operation's result that its node has not saved for the backward
        self._keep_wide = keep_wide
        self._wide: Array | None = None

    def array(self) -> Array:
        return to_array(self.tensor)

    def wide(self) -> Array:
        if self._wide is not None:
            return self._wide
        array = to_array(self.tensor)
        kind = array.dtype.kind
        if (kind == "f" and array.dtype != np.float64) or (kind == "c" and array.dtype != np.complex128):
            array = array.astype(np.float64 if kind == "f" else np.complex128)
            if self._keep_wide:
                array.flags.writeable = False
                self._wide = array
        return array

    def identity(self) -> object:
        tensor = self.tensor
        if tensor.layout is not torch.strided:
            return id(tensor)
        return (
            tensor.data_ptr(),
            tensor.shape,
            tensor.stride(),
            tensor.dtype,
            tensor.is_conj(),
            tensor.is_neg(),
        )


class CopyOnWrite:
    """Keeps recorded values as they were: copies them just before their memory is overwritten."""

    def __init__(self) -> None:
        self._live: dict[int, list[weakref.ref[Any]]] = {}

    def watch(self, storage: int, value: Any) -> None:
        """Protect a value, or what it will be made of, which lives in memory number ``storage``."""
        known = self._live.get(storage)
        if known is None:
            self._live[storage] = [weakref.ref(value)]
        else:
            known.append(weakref.ref(value))
            if not len(known) % PRUNE_EVERY:
                self._live[storage] = [reference for reference in known if reference() is not None]

    def find(self, storage: int, geometry: Any) -> TensorValue | None:
        """A live value of this memory, as it is now, that looks at it in the same way."""
        references = self._live.get(storage)
        if references:
            # The latest two: a parameter and its transpose take turns.
            for reference in references[:-3:-1]:
                value = reference()
                if isinstance(value, TensorValue) and value.geometry == geometry:
                    return value
        return None

    def before_write(self, storage: int) -> list[TensorValue]:
        """Copy every live value of this memory; returns the values that were copied."""
        references = self._live.pop(storage, None)
        if not references:
            return []
        copies: dict[Any, torch.Tensor] = {}
        saved = []
        for reference in references:
            value = reference()
            if value is None:
                continue
            if isinstance(value, TensorValue):
                value.tensor = copied(value.tensor, copies)
                saved.append(value)
            else:
                saved.extend(value.protect(storage, copies))  # seen, and not looked at so far
        return saved


def copied(alias: torch.Tensor, copies: dict[Any, torch.Tensor]) -> torch.Tensor:
    """A copy of a tensor's contents, the same for all that look at one memory in the same way.

    Args:
        alias: the tensor.
        copies: those of its memory that were made already; gets the new one.
    """
    geometry = (alias.shape, alias.stride(), alias.storage_offset(), alias.dtype)
    copy = copies.get(geometry)
    if copy is None:
        copy = copies[geometry] = alias.clone()
    return copy

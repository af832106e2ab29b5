"""A tensor as an operation saw it, described only when somebody asks: most operations that are watched go well."""

from __future__ import annotations

from typing import Any

import torch

from ..evidence import ArraySource, TensorRef
from .values import TensorValue, copied, dtype_name

__all__ = ["SeenRef"]

_DEVICE_NAMES: dict[torch.device, str] = {}


class SeenRef(TensorRef):
    """A :class:`~gradcheck_suite.evidence.TensorRef` whose shape, strides, types and contents are read from an alias.

    Which memory it is, its epoch and its edge change with what happens next, and are noted at once.

    Attributes:
        alias: the tensor without history; None when its memory was let go.
        unsaved: see :class:`~gradcheck_suite.capture.values.TensorValue`.
    """

    __slots__ = ("__weakref__", "alias", "unsaved")

    alias: torch.Tensor | None
    unsaved: bool

    def __getattr__(self, name: str) -> Any:
        # Called for a slot that was not filled yet.
        if name == "source":
            value = self.source = TensorValue(self._alias())
            value.unsaved = self.unsaved
            return value
        if name in _DESCRIBED:
            self._describe(self._alias())
            return getattr(self, name)
        raise AttributeError(f"'SeenRef' object has no attribute {name!r}")

    def _alias(self) -> torch.Tensor:
        if self.alias is None:
            raise LookupError(
                "describing a recorded tensor failed: its graph was freed. Describe it before that."
            )
        return self.alias

    def _describe(self, alias: torch.Tensor) -> None:
        strided = alias.layout is torch.strided
        self.shape = tuple(alias.shape)
        self.strides = alias.stride() if strided else ()
        self.offset = int(alias.storage_offset()) if strided else 0
        self.dtype = dtype_name(alias.dtype)
        self.device = "cpu" if alias.is_cpu else device_name(alias.device)
        self.lazy = ("conj" if alias.is_conj() else "") + ("neg" if alias.is_neg() else "")

    def protect(self, storage: int, copies: dict[Any, torch.Tensor]) -> list[TensorValue]:
        """Its memory is about to be overwritten: copy what it holds; see :meth:`.values.CopyOnWrite.before_write`."""
        value = self.source
        if not isinstance(value, TensorValue):
            return []  # let go
        value.tensor = copied(value.tensor, copies)
        return [value]

    def let_go(self, instead: ArraySource) -> None:
        """Keep what it looked like, and nothing of its memory.

        Args:
            instead: what its contents are from now on.
        """
        alias = self.alias
        if alias is not None:
            self.shape, self.dtype = tuple(alias.shape), dtype_name(alias.dtype)
            self.strides, self.offset, self.lazy = (), 0, ""  # of what is there no more
            self.device = "cpu" if alias.is_cpu else device_name(alias.device)
        self.alias, self.source = None, instead


_DESCRIBED = frozenset(("shape", "strides", "offset", "dtype", "device", "lazy"))


def device_name(device: torch.device) -> str:
    """``"cuda:0"``."""
    return _DEVICE_NAMES.get(device) or _DEVICE_NAMES.setdefault(device, str(device))

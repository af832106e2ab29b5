"""Numbers for what torch has no names for: memory, its epochs, autograd nodes and leaves.

What is known about a node is kept on the node itself (``node.metadata``), so that it dies with the graph.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Mapping
from typing import Any

import torch

from ..evidence import TensorRef
from .origins import NodeOrigin, Segment, UnrecordableError
from .values import _DTYPE_NAMES, CopyOnWrite, TensorValue, dtype_name

__all__ = ["Identities"]

_RECORDERS = itertools.count(1)
_DEVICE_NAMES: dict[torch.device, str] = {}


class Identities:
    """Which memory a tensor lives in, which node made it, and its contents now.

    The part of the recorder that knows nothing of operations.
    """

    def __init__(self) -> None:
        super().__init__()
        self.values = CopyOnWrite()
        self._storages: dict[int, int] = {}
        self._storage_count = 0
        self._known: set[int] = set()
        self._epochs: dict[int, int] = {}
        # Unique per recorder: a node may live through several recordings.
        self._mark = f"gradcheck_suite:{next(_RECORDERS)}"
        self._node_count = 0
        self._leaves: dict[int, tuple[int, weakref.ref[torch.Tensor]]] = {}
        self._leaf_count = 0
        self._segment: Segment | None = None
        self._keep: list[torch.Tensor] = []
        # One value for all uses of a parameter or input, so that it is converted once.
        self._shared_values: dict[int, tuple[int, Any, TensorValue]] = {}

    def register(self, tensor: torch.Tensor) -> TensorRef:
        """Declare that this tensor's memory existed before the run; returns its value now."""
        storage = self._storage(tensor)
        value = TensorValue(tensor.detach(), keep_wide=True)
        self.values.watch(storage, value)
        self._shared_values[storage] = (self._epochs.get(storage, 0), _geometry(tensor), value)
        ref = self._ref(tensor)
        self._known.add(ref.storage)
        ref.known = True
        self._keep.append(tensor)
        return ref

    def node_key(self, node: Any) -> int:
        """A number for an autograd node, stable while the node lives; negative for the node of a leaf."""
        # A custom Function's node is its context, which may carry an attribute of any name.
        if type(node).__name__ == "AccumulateGrad":
            return self.leaf_key(node.variable)
        return self._entry(node)[0]  # type: ignore[no-any-return]

    def _entry(self, node: Any) -> list[Any]:
        """What is kept on a node that is no leaf's: its number, and where it comes from."""
        metadata = node.metadata
        known: list[Any] | None = metadata.get(self._mark)
        if known is None:
            self._node_count += 1
            known = metadata[self._mark] = [self._node_count, None]
        return known

    def origin_of(self, node: Any) -> NodeOrigin | None:
        """Which operations a node differentiates, or None when the recorder saw none."""
        known = node.metadata.get(self._mark)
        return None if known is None else known[1]

    def _set_origin(self, node: Any, origin: NodeOrigin) -> bool:
        """Remember where a node comes from, unless that is known already."""
        entry = self._entry(node)
        if entry[1] is not None:
            return False
        entry[1] = origin
        return True

    def leaf_key(self, tensor: torch.Tensor) -> int:
        """A negative number for a leaf tensor, equal to the key of its AccumulateGrad node."""
        known = self._leaves.get(id(tensor))
        if known is None or known[1]() is not tensor:
            self._leaf_count += 1
            known = self._leaves[id(tensor)] = (-self._leaf_count, weakref.ref(tensor))
        return known[0]

    def _storage(self, tensor: torch.Tensor) -> int:
        try:
            pointer = tensor.untyped_storage()._cdata
        except (NotImplementedError, RuntimeError):  # sparse and opaque layouts have no storage
            pointer = -id(tensor)
            self._keep.append(tensor)
        number = self._storages.get(pointer)
        if number is None:
            self._storage_count += 1
            number = self._storages[pointer] = self._storage_count
        return number

    def _ref(self, tensor: torch.Tensor) -> TensorRef:
        if tensor.is_nested:
            raise UnrecordableError("nested tensor")
        strided = tensor.layout is torch.strided
        storage = self._storage(tensor)
        epoch = self._epochs.get(storage, 0)
        shared = self._shared_values.get(storage) if self._shared_values else None
        if shared is not None and shared[0] == epoch and shared[1] == _geometry(tensor):
            value = shared[2]
        else:
            value = TensorValue(tensor.detach())
            self.values.watch(storage, value)
        edge: tuple[int, int] | None = None
        requires_grad = tensor.requires_grad
        if requires_grad:
            try:
                node = tensor.grad_fn
                # A tensor's grad_fn is never the node of a leaf.
                edge = (
                    (self.leaf_key(tensor), 0) if node is None else (self._entry(node)[0], tensor.output_nr)
                )
            except RuntimeError:
                # A view from under no_grad whose base was written to (torch.nn.init.orthogonal_): nobody can track it.
                requires_grad = False
        device, dtype = tensor.device, tensor.dtype
        # By position, in the order of the fields.
        return TensorRef(
            storage,
            epoch,
            tuple(tensor.shape),
            tensor.stride() if strided else (),
            int(tensor.storage_offset()) if strided else 0,
            _DTYPE_NAMES.get(dtype) or dtype_name(dtype),
            _DEVICE_NAMES.get(device) or _DEVICE_NAMES.setdefault(device, str(device)),
            requires_grad,
            value,
            self._segment is None or storage in self._known or not strided or _owned_by_torch(tensor),
            edge,
            _lazy_bits(tensor) if tensor.is_conj() or tensor.is_neg() else "",
        )

    def _record_value(self, value: Any, tensors: list[tuple[torch.Tensor, TensorRef]]) -> Any:
        if isinstance(value, torch.Tensor):
            ref = self._ref(value)
            tensors.append((value, ref))
            return ref
        if value is None or isinstance(value, (bool, int, float, complex, str)):
            return value
        if isinstance(value, (list, tuple)):
            return [self._record_value(item, tensors) for item in value]
        if isinstance(value, Mapping):
            return {key: self._record_value(item, tensors) for key, item in value.items()}
        if isinstance(value, torch.dtype):
            return dtype_name(value)
        if isinstance(value, torch.SymInt):
            return int(value)
        if isinstance(value, torch.SymFloat):
            return float(value)
        return str(value)


def _geometry(tensor: torch.Tensor) -> Any:
    if tensor.layout is not torch.strided:
        return id(tensor)
    return tensor.shape, tensor.stride(), tensor.storage_offset(), tensor.dtype, _lazy_bits(tensor)


def _lazy_bits(tensor: torch.Tensor) -> str:
    return ("conj" if tensor.is_conj() else "") + ("neg" if tensor.is_neg() else "")


def _owned_by_torch(tensor: torch.Tensor) -> bool:
    """Whether the memory came from torch's allocator, rather than from NumPy or C++ behind its back."""
    return tensor.untyped_storage().resizable()

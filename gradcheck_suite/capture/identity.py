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
from .seen import SeenRef, device_name
from .values import _DTYPE_NAMES, CopyOnWrite, TensorValue, dtype_name

__all__ = ["Identities"]

_RECORDERS = itertools.count(1)
_new = object.__new__
_COMPLEX = frozenset((torch.complex32, torch.complex64, torch.complex128))
_storage_address = torch._C._storage_address  # type: ignore[attr-defined]  # missing in torch's stubs


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
        # Few of the tensors are ever described when nothing is kept for a replay.
        self._describes_later = False

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
            pointer = _storage_address(tensor)
        except (NotImplementedError, RuntimeError):  # sparse and opaque layouts have no storage
            pointer = -id(tensor)
            self._keep.append(tensor)
        number = self._storages.get(pointer)
        if number is None:
            self._storage_count += 1
            number = self._storages[pointer] = self._storage_count
        return number

    def _ref(self, tensor: torch.Tensor, storage: int | None = None, *, share: bool = False) -> TensorRef:
        """A tensor as it is now.

        Args:
            tensor: the tensor.
            storage: the number of its memory, where that is known already.
            share: it is what an operation reads, and may be held together with what the operation before has made.
        """
        later = self._describes_later and not self._shared_values
        if later and tensor.layout is torch.strided and not tensor.is_nested:
            return self._seen(tensor, storage)
        try:
            # A nested tensor says that it is strided, and has no sizes.
            shape = tuple(tensor.shape)
        except RuntimeError:
            if tensor.is_nested:
                raise UnrecordableError("nested tensor") from None
            raise
        strided = tensor.layout is torch.strided
        if not strided and tensor.is_nested:
            raise UnrecordableError("nested tensor")
        if storage is None:
            storage = self._storage(tensor)
        strides: tuple[int, ...] = ()
        offset = 0
        if strided:
            strides, offset = tensor.stride(), int(tensor.storage_offset())
        dtype = tensor.dtype
        lazy = ""
        if tensor.is_neg() or (dtype in _COMPLEX and tensor.is_conj()):
            lazy = _lazy_bits(tensor)
        epoch = self._epochs.get(storage, 0)
        shared = self._shared_values.get(storage) if self._shared_values else None
        value: TensorValue | None
        if shared is not None and shared[0] == epoch and shared[1] == _geometry(tensor):
            value = shared[2]
        else:
            geometry = (shape, strides, offset, dtype, lazy) if strided else None
            value = self.values.find(storage, geometry) if share and strided else None
            if value is None:
                value = TensorValue(tensor.detach(), geometry=geometry)
                self.values.watch(storage, value)
            else:
                value.shared, value.unsaved = True, False
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
        device = "cpu" if tensor.is_cpu else device_name(tensor.device)
        # By position, in the order of the fields.
        return TensorRef(
            storage,
            epoch,
            shape,
            strides,
            offset,
            _DTYPE_NAMES.get(dtype) or dtype_name(dtype),
            device,
            requires_grad,
            value,
            self._segment is None or storage in self._known or not strided or _owned_by_torch(tensor),
            edge,
            lazy,
        )

    def _seen(self, tensor: torch.Tensor, storage: int | None) -> TensorRef:
        """A tensor as it is now, described when somebody asks."""
        if storage is None:
            pointer = _storage_address(tensor)
            storage = self._storages.get(pointer)
            if storage is None:
                self._storage_count += 1
                storage = self._storages[pointer] = self._storage_count
        ref = _new(SeenRef)
        ref.storage = storage
        ref.epoch = self._epochs.get(storage, 0)
        ref.alias = tensor.detach()
        ref.unsaved = False
        ref.known = self._segment is None or storage in self._known or _owned_by_torch(tensor)
        ref.edge = None
        ref.requires_grad = requires_grad = tensor.requires_grad
        if requires_grad:
            try:
                node = tensor.grad_fn
                # A tensor's grad_fn is never the node of a leaf.
                ref.edge = (
                    (self.leaf_key(tensor), 0) if node is None else (self._entry(node)[0], tensor.output_nr)
                )
            except RuntimeError:
                # A view from under no_grad whose base was written to (torch.nn.init.orthogonal_): nobody can track it.
                ref.requires_grad = False
        self.values.watch(storage, ref)
        return ref

    def _record_value(
        self, value: Any, tensors: list[tuple[torch.Tensor, TensorRef]], *, share: bool = False
    ) -> Any:
        if isinstance(value, torch.Tensor):
            ref = self._ref(value, share=share)
            tensors.append((value, ref))
            return ref
        if value is None or isinstance(value, (bool, int, float, complex, str)):
            return value
        if isinstance(value, (list, tuple)):
            return [self._record_value(item, tensors, share=share) for item in value]
        if isinstance(value, Mapping):
            return {key: self._record_value(item, tensors, share=share) for key, item in value.items()}
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

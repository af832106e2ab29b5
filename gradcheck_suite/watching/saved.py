"""What autograd has saved for a backward, and which of the recorded values may differ from it by now.

A recorded value is copied just before an operation overwrites its memory. Memory that others can write to without an
operation (NumPy, a kernel that was handed an address) is copied before they get hold of it.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.autograd.function import BackwardCFunction

from ..capture.layer_calls import LayerCall, LayerOrigin
from ..capture.origins import NodeOrigin
from ..capture.seen import SeenRef
from ..capture.traits import tensors_of
from ..capture.values import CopyOnWrite, TensorValue
from ..evidence import Array, Location, TensorRef

__all__ = ["Copies", "is_foreign", "is_released", "refs_of", "release", "saved_tensors"]

_MOST_BYTES = 256 * 2**20
_MOST_MEMORIES = 4_096

_RAW = "_raw_saved_"
_OF_FUNCTION = "_raw_saved_tensors"  # in a custom Function's node
_RUNNING = frozenset(("running_mean", "running_var"))
_RESULT = re.compile(r"result(\d*)")
_results_of: dict[tuple[type, str], Sequence[int] | None] = {}
_names_of: dict[type, tuple[str, ...]] = {}


class Copies(CopyOnWrite):
    """Copies recorded values before they are overwritten, and remembers which memory that concerned."""

    def __init__(self) -> None:
        super().__init__()
        self._copied: dict[int, list[weakref.ref[TensorValue] | weakref.ref[LayerCall]]] = {}
        self._exposed: dict[int, Location | None] = {}

    def before_write(self, storage: int) -> list[TensorValue]:
        saved = super().before_write(storage)
        if saved:
            # What no node has saved may be overwritten by anybody.
            held = [weakref.ref(value) for value in saved if not value.unsaved]
            if held:
                self._copied.setdefault(storage, []).extend(held)
        return saved

    def expose(self, storage: int, location: Location | None) -> None:
        """Memory number ``storage`` is handed to somebody who can write to it unseen."""
        if len(self._exposed) < _MOST_MEMORIES:
            self._exposed.setdefault(storage, location)
        self.before_write(storage)

    def set_aside(self, storage: int, value: TensorValue) -> None:
        """Copy a value now: its memory is not torch's own."""
        alias = value.tensor
        if alias.numel() * alias.element_size() <= _MOST_BYTES:
            value.tensor = alias.clone()
            value.geometry = None  # a later operation may be given something else
            self._copied.setdefault(storage, []).append(weakref.ref(value))

    def set_aside_of_call(
        self, storage: int, call: LayerCall, alias: torch.Tensor | None
    ) -> torch.Tensor | None:
        """Copy what a layer was given now: its memory is not torch's own. None where it is too much."""
        if alias is None or alias.numel() * alias.element_size() > _MOST_BYTES:
            return None
        self._copied.setdefault(storage, []).append(weakref.ref(call))
        return alias.clone()

    def is_exposed(self, storage: int) -> bool:
        """Whether somebody was seen to get hold of this memory."""
        return storage in self._exposed

    def exposed_at(self, storage: int) -> Location | None:
        """Where somebody got hold of it, if that was seen."""
        return self._exposed.get(storage)

    def remembered(self) -> set[int]:
        """Numbers of the memory that was exposed, or that a value was copied from."""
        return self._exposed.keys() | self._copied.keys()

    def touched(self) -> set[int]:
        """Numbers of the memory that a value was copied from which somebody still holds."""
        if not self._copied:
            return set()
        self._copied = {
            storage: living
            for storage, references in self._copied.items()
            if (living := [r for r in references if r() is not None])
        }
        return set(self._copied)


def is_foreign(tensor: torch.Tensor) -> bool:
    """Whether a tensor's memory belongs to, or is shared with, NumPy or whoever else made it."""
    return tensor.is_cpu and tensor.layout is torch.strided and not tensor.untyped_storage().resizable()


def saved_tensors(node: Any, *, packs: bool) -> Iterator[torch.Tensor]:
    """What a node has saved and still holds, as its backward would read it.

    Nothing is unpacked that a user's hook packed (checkpointing computes in there), and what torch itself will refuse
    is left out: freed tensors, and those whose version was advanced.

    Args:
        node: the node.
        packs: whether hooks that pack have been seen; older torch does not say of a saved tensor whether one has it.
    """
    kind = type(node)
    names = _names_of.get(kind)
    if names is None:
        names = _names_of[kind] = tuple(name for name in dir(node) if name.startswith(_RAW))
    # In training mode batch norm saves its running statistics and does not use them.
    training = getattr(node, "_saved_training", getattr(node, "_saved_train", False))
    for name in names:
        if training and name.removeprefix(_RAW) in _RUNNING:
            continue
        try:
            raw = getattr(node, name)
            packed = raw if isinstance(raw, list | tuple) else (raw,)
            if any(one is not None and _is_packed(one, packs) for one in packed):
                continue
            value = getattr(
                node,
                "saved_tensors"
                if name == _OF_FUNCTION and isinstance(node, BackwardCFunction)
                else name.removeprefix("_raw"),
            )
        except RuntimeError:
            continue
        yield from tensors_of(value if isinstance(value, list | tuple) else (value,))


def _is_packed(saved: Any, packs: bool) -> bool:
    return getattr(saved, "unpack_hook", None) is not None if hasattr(saved, "unpack_hook") else packs


def results_saved(node: Any, operation: str) -> Sequence[int] | None:
    """Which of its operation's results a node saves, by position; None where that cannot be told.

    A node calls what it saves as the operation's schema does: arguments by their names, results ``result``, ``result1``.

    Args:
        node: of torch's own.
        operation: its operation's name with the overload.
    """
    key = (type(node), operation)
    if key not in _results_of:
        _results_of[key] = _read_results(node, operation)
    return _results_of[key]


def _read_results(node: Any, operation: str) -> Sequence[int] | None:
    if isinstance(node, BackwardCFunction):
        return None
    name, _, overload = operation.partition(".")
    try:
        schema = torch._C._get_schema(name, overload)
    except RuntimeError:  # no operator of that name
        return None
    arguments = {argument.name for argument in schema.arguments}
    saved = [n.removeprefix(_RAW) for n in dir(node) if n.startswith(_RAW)]
    found = [_RESULT.fullmatch(n) for n in saved if n not in arguments]
    positions = [int(match[1] or 0) for match in found if match is not None]
    if len(positions) < len(found) or any(position >= len(schema.returns) for position in positions):
        return None
    return positions


class _Released:
    """Stands for a value that nobody needs any more."""

    def array(self) -> Array:
        raise LookupError("reading a recorded value failed: its graph was freed. Read it before that.")

    def wide(self) -> Array:
        return self.array()

    def identity(self) -> object:
        return self


_RELEASED = _Released()


def release(origin: NodeOrigin) -> None:
    """Let go of what a node's operations worked on; what they were called, made and where they ran stays known."""
    if type(origin) is LayerOrigin:
        written_out = origin.is_written_out
        origin.call.let_go(_RELEASED)
        if not written_out:
            return
    for op in origin.ops:
        op.args, op.kwargs, op.written = (), {}, ()
        for ref in op.outputs:
            if type(ref) is SeenRef:
                ref.let_go(_RELEASED)
            elif isinstance(ref, TensorRef | list | tuple):
                for inner in refs_of((ref,)):
                    if type(inner) is SeenRef:
                        inner.let_go(_RELEASED)
                    else:
                        inner.source = _RELEASED
    if origin.role != "op":
        origin.arguments, origin.returned = None, []
        origin.base_before = origin.base_after = origin.view = None


def is_released(origin: NodeOrigin) -> bool:
    """Whether :func:`release` was called for it."""
    if type(origin) is LayerOrigin:
        return origin.call.aliases is None
    first = origin.ops[0].outputs if origin.ops else ()
    if len(first) == 1 and type(first[0]) is SeenRef:
        return first[0].alias is None
    return any(ref.source is _RELEASED for op in origin.ops[:1] for ref in refs_of(op.outputs))


def refs_of(values: Any) -> Iterator[TensorRef]:
    """Every tensor among values, however nested."""
    for value in values:
        if isinstance(value, TensorRef):
            yield value
        elif isinstance(value, list | tuple | type({}.values())):
            yield from refs_of(value)

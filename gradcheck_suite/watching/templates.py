"""Which operations a layer runs: a template made from one call of it that was recorded operation by operation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..capture.identity import _storage_address
from ..capture.layer_calls import LayerOperation, LayerTemplate, Slot, Strided
from ..capture.origins import HalfRecorded
from ..capture.seen import SeenRef
from ..capture.values import dtype_name
from ..evidence import Location, TensorRef

__all__ = ["Learning", "learn"]

_MOST_OPERATIONS = 8
_SAVED = "_saved_"
_CONSTANTS = (bool, int, float, str, type(None))


@dataclass(eq=False, slots=True)
class Learning:
    """What happens in a call.

    Attributes:
        recorded: operations with what they returned.
        written: operations that write to something, with what they write to.
        left_out: something ran that a template cannot say.
    """

    recorded: list[tuple[HalfRecorded, Any]] = field(default_factory=list)
    written: list[tuple[str, list[torch.Tensor]]] = field(default_factory=list)
    left_out: bool = False

    def cut(self, args: Sequence[Any]) -> None:
        """History is left behind: by autograd, which saves the result of an operation, or by the layer."""
        made = (m for _, m in self.recorded)
        flat = [t for m in made for t in (m if isinstance(m, list | tuple) else (m,))]
        if not args or not any(args[0] is tensor for tensor in flat):
            self.left_out = True


@dataclass(eq=False, slots=True)
class _Tensor:
    """A tensor among the arguments and results of a call's operations.

    Attributes:
        tensor: itself.
        ref: how it was recorded.
        given: which of the call's own tensors it is, or None.
        made_by: operation and output number, or None.
        saved: operation and attribute of its node, where only that holds it.
        strided: what memory it looks at, where it is a view.
        number: its slot.
        read: an operation has worked on it, whose node may have saved it.
    """

    tensor: torch.Tensor
    ref: TensorRef
    given: int | None = None
    made_by: tuple[int, int] | None = None
    saved: tuple[int, str] | None = None
    strided: _Tensor | None = None
    number: int = -1
    read: bool = False


class _NoTemplate(Exception):
    """A call cannot be told in advance."""


def learn(
    learning: Learning,
    given: Sequence[torch.Tensor | None],
    out: Any,
    count: int,
    location: Location | None,
) -> LayerTemplate | None:
    """The template of a call, or None where there is none.

    Args:
        learning: what was seen of the call; all of it is settled.
        given: its arguments, parameters and buffers.
        out: its result.
        count: how many arguments there are.
        location: the line of the user's that made the call.
    """
    if learning.left_out or not 0 < len(learning.recorded) <= _MOST_OPERATIONS:
        return None
    if type(out) is not torch.Tensor or any(t is not None and t.is_complex() for t in (out, *given)):
        return None
    if any(call.op.location != location for call, _ in learning.recorded):
        return None  # somebody's own function runs inside
    known = [id(t) for t in given if t is not None]
    if len(set(known)) < len(known):
        return None  # which of two equal ones an operation works on cannot be told
    try:
        return _Reader(learning, given, out, count).template()
    except (_NoTemplate, RuntimeError):  # torch refuses to show what a node has saved
        return None


class _Reader:
    def __init__(
        self, learning: Learning, given: Sequence[torch.Tensor | None], out: torch.Tensor, count: int
    ) -> None:
        self._learning = learning
        self._given = given
        self._out = out
        self._count = count
        self._tensors: list[_Tensor] = []
        self._by_ref: dict[int, _Tensor] = {}

    def template(self) -> LayerTemplate:
        recorded = self._learning.recorded
        nodes = [_node_of(made) for _, made in recorded]
        paths = self._paths(nodes)
        self._take_tensors()
        returned = [t for t in self._tensors if t.made_by is not None and t.tensor is self._out]
        if len(returned) != 1:
            raise _NoTemplate
        written = self._written(returned[0])
        counted = self._counted()
        shares = self._resolve(returned[0], nodes, written)
        self._tensors.sort(
            key=lambda t: (t.given is None, t is not returned[0], t.saved is None, t.strided is None)
        )
        for number, tensor in enumerate(self._tensors):
            tensor.number = number
        operations = tuple(
            LayerOperation(
                call.op.name,
                tuple([self._spec(a) for a in call.op.args]),
                {name: self._spec(value) for name, value in call.op.kwargs.items()},
                tuple([self._spec(o) for o in call.op.outputs]),
                call.op.random,
                type(node),
                path,
            )
            for (call, _), node, path in zip(recorded, nodes, paths)
        )
        return LayerTemplate(
            operations=operations,
            count=self._count,
            given=tuple(t.given for t in self._tensors if t.given is not None),
            tracked=tuple(t.ref.requires_grad for t in self._tensors),
            unsaved=tuple(
                t is written or (not t.read and type(t.ref) is SeenRef and t.ref.unsaved)
                for t in self._tensors
            ),
            made_by=tuple(t.made_by for t in self._tensors),
            returned=returned[0].number,
            shares=None if shares is None else shares.number,
            saved=tuple(t.saved for t in self._tensors if t.saved is not None),
            strided=tuple(
                _strided(t.tensor, t.strided.tensor, t.strided.number)
                for t in self._tensors
                if t.strided is not None
            ),
            written=None if written is None else written.number,
            counted=counted,
            described=tuple(
                (tuple(t.tensor.shape), dtype_name(t.tensor.dtype), str(t.tensor.device))
                for t in self._tensors
            ),
        )

    def _paths(self, nodes: list[Any]) -> list[tuple[int, ...]]:
        """The way to each operation's node from the result's; nothing else may lie between it and what was given."""
        ends = {id(t.grad_fn) for t in self._given if t is not None and t.grad_fn is not None}
        if len(nodes) == 1 and self._learning.recorded[0][0].before:
            # What is written to in place has another node by now: its earlier one comes next.
            ends.update(id(parent) for parent, _ in nodes[0].next_functions)
        own = {id(node) for node in nodes}
        found: dict[int, tuple[int, ...]] = {}
        waiting: list[tuple[Any, tuple[int, ...]]] = [(self._out.grad_fn, ())]
        while waiting:
            node, path = waiting.pop(0)
            if node is None or id(node) in found or type(node).__name__ == "AccumulateGrad":
                continue
            if id(node) not in own:
                if id(node) in ends:
                    continue
                raise _NoTemplate
            found[id(node)] = path
            waiting += [(parent, (*path, step)) for step, (parent, _) in enumerate(node.next_functions)]
        if len(own) != len(nodes) or len(found) != len(nodes):
            raise _NoTemplate
        return [found[id(node)] for node in nodes]

    def _take_tensors(self) -> None:
        positions: dict[int, int] = {}
        for position, tensor in enumerate(self._given):
            positions.setdefault(id(tensor), position)
        latest: dict[int, _Tensor] = {}
        for position, (call, made) in enumerate(self._learning.recorded):
            op = call.op
            if call.segment is not None or call.bases or call.relooks or not op.grad_enabled:
                raise _NoTemplate
            for tensor, ref in call.inputs:
                known = latest.get(id(tensor))
                if known is None:
                    known = latest[id(tensor)] = _Tensor(tensor, ref, given=positions.get(id(tensor)))
                    self._tensors.append(known)
                elif known.ref.requires_grad != ref.requires_grad:
                    raise _NoTemplate
                known.read = True
                self._by_ref[id(ref)] = known
            flat = made if isinstance(made, list | tuple) else (made,)
            for item, ref in zip(flat, op.outputs):
                if item is None:
                    continue
                if not isinstance(item, torch.Tensor) or not isinstance(ref, TensorRef):
                    raise _NoTemplate
                own = _Tensor(item, ref, made_by=(position, item.output_nr))
                latest[id(item)] = self._by_ref[id(ref)] = own
                self._tensors.append(own)

    def _written(self, returned: _Tensor) -> _Tensor | None:
        """What the only operation writes to in place, if it does: the argument that the layer returns."""
        if not any(call.before for call, _ in self._learning.recorded):
            return None
        call, _ = self._learning.recorded[0]
        if len(self._learning.recorded) != 1 or len(call.before) != 1 or len(call.op.written) != 1:
            raise _NoTemplate
        before, after = call.op.written[0]
        written = self._by_ref.get(id(before))
        if written is None or written.given is None or self._by_ref.get(id(after)) is not returned:
            raise _NoTemplate
        return written

    def _counted(self) -> tuple[tuple[int, str], ...]:
        """What else is written to: counters among the buffers, and what nobody else can know."""
        positions = {id(t): number for number, t in enumerate(self._given) if t is not None}
        memory = {_storage_address(t) for t in self._given if t is not None}
        own = {id(t) for call, _ in self._learning.recorded for t, _ in call.before}
        counted = []
        for name, targets in self._learning.written:
            for target in targets:
                if id(target) in own:
                    continue
                position = positions.get(id(target))
                if position is not None and position >= self._count and not target.is_floating_point():
                    counted.append((position, name))
                elif _storage_address(target) in memory:
                    raise _NoTemplate
        return tuple(counted)

    def _resolve(self, returned: _Tensor, nodes: list[Any], written: _Tensor | None) -> _Tensor | None:
        """How each tensor that is neither given nor returned is found; what the result shares its memory with."""
        given = [t for t in self._tensors if t.given is not None]
        by_memory = {_storage_address(t.tensor): t for t in reversed(given)}
        if len(by_memory) != len({id(t.tensor) for t in given}):
            raise _NoTemplate  # arguments that look at one memory
        shares = by_memory.get(_storage_address(returned.tensor))
        by_memory.setdefault(_storage_address(returned.tensor), returned)
        for tensor in self._tensors:
            if tensor.given is not None or tensor is returned:
                continue
            tensor.strided = by_memory.get(_storage_address(tensor.tensor))
            if tensor.strided is not None:
                if written is not None:
                    raise _NoTemplate
                continue
            if tensor.made_by is None and tensor.ref.requires_grad:
                raise _NoTemplate
            tensor.saved = _found_on(nodes, tensor.tensor)
            by_memory[_storage_address(tensor.tensor)] = tensor
        return None if written is not None else shares

    def _spec(self, value: Any) -> Any:
        if isinstance(value, TensorRef):
            known = self._by_ref.get(id(value))
            if known is None:
                raise _NoTemplate
            return Slot(known.number)
        if isinstance(value, list):
            return [self._spec(item) for item in value]
        if not isinstance(value, _CONSTANTS):
            raise _NoTemplate
        return value


def _node_of(made: Any) -> Any:
    """The node that differentiates an operation with these results."""
    for item in made if isinstance(made, list | tuple) else (made,):
        if isinstance(item, torch.Tensor) and item.requires_grad and item.grad_fn is not None:
            return item.grad_fn
    raise _NoTemplate


def _found_on(nodes: list[Any], tensor: torch.Tensor) -> tuple[int, str]:
    """Operation and attribute of the node that has saved a tensor."""
    for position, node in enumerate(nodes):
        for name in dir(node):
            if not name.startswith(_SAVED):
                continue
            value = getattr(node, name)
            if isinstance(value, torch.Tensor) and _is_same(value, tensor):
                return position, name
    raise _NoTemplate


def _is_same(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.dtype is not other.dtype or not one.layout is torch.strided is other.layout:
        return False
    return _place(one) == _place(other)


def _place(tensor: torch.Tensor) -> tuple[int, tuple[int, ...], tuple[int, ...], int]:
    return _storage_address(tensor), tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset())


def _strided(tensor: torch.Tensor, source: torch.Tensor, number: int) -> Strided:
    offset = int(tensor.storage_offset()) - int(source.storage_offset())
    return Strided(number, tuple(tensor.shape), tuple(tensor.stride()), offset)

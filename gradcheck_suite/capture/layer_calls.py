"""One call of a layer of torch's own, recorded as a whole: its operations are written out when somebody asks for them.

Which operations a layer runs is known from an earlier call that was recorded operation by operation
(:mod:`gradcheck_suite.watching.layers`). Of every other call only what differs is noted: which memory the tensors live in,
what it held, where in the graph they come from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..evidence import ArraySource, Location, OpRecord
from .origins import NodeOrigin
from .seen import SeenRef
from .values import TensorValue, copied

__all__ = ["LayerCall", "LayerOperation", "LayerOrigin", "LayerTemplate", "Slot", "Strided"]

_new = object.__new__


@dataclass(frozen=True, slots=True)
class Slot:
    """Stands for the tensor of this number among the arguments and results of a layer's operations."""

    number: int


@dataclass(frozen=True, slots=True)
class Strided:
    """A tensor that looks at the memory of another one.

    Attributes:
        source: number of that one.
        shape: sizes.
        strides: in elements.
        offset: in elements, from where the other one begins.
    """

    source: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int

    def of(self, source: torch.Tensor) -> torch.Tensor:
        """This tensor, without history."""
        return source.as_strided(self.shape, self.strides, int(source.storage_offset()) + self.offset)


@dataclass(frozen=True, slots=True)
class LayerOperation:
    """An operation that a layer runs, with :class:`Slot` for each tensor.

    Attributes:
        name: with the overload.
        args, kwargs, outputs: as in :class:`~gradcheck_suite.evidence.OpRecord`.
        random: it draws random numbers.
        node: type of its autograd node.
        path: the way to that node from the one of the layer's result, as positions in ``next_functions``.
    """

    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outputs: tuple[Any, ...]
    random: bool
    node: type[Any]
    path: tuple[int, ...]


@dataclass(frozen=True, eq=False, slots=True)
class LayerTemplate:
    """What every call of a layer with equal arguments has in common.

    Attributes:
        operations: those that make nodes, in the order in which they run.
        count: how many arguments a call has.
        given: for the first slots, which of a call's tensors they are: arguments, parameters, buffers, in this order.
        tracked: by slot, whether autograd tracks it.
        unsaved: by slot, see :class:`~gradcheck_suite.capture.values.TensorValue`.
        made_by: by slot, operation and output number that made it; None for others.
        returned: the slot of the layer's result, the first after those.
        shares: a slot that the result shares its memory with, or None.
        saved: for the next slots, which only a node holds: operation, attribute of its node.
        strided: for the last slots, what memory they look at.
        written: the slot that is written to in place, or None; the result is the same tensor, later.
        counted: what else it writes to, of a call's tensors: which, and the operation's name.
        described: shape and dtype by slot, for when the memory is let go.
        glances: filled by whoever looks at nodes; by operation.
    """

    operations: tuple[LayerOperation, ...]
    count: int
    given: tuple[int, ...]
    tracked: tuple[bool, ...]
    unsaved: tuple[bool, ...]
    made_by: tuple[tuple[int, int] | None, ...]
    returned: int
    shares: int | None
    saved: tuple[tuple[int, str], ...]
    strided: tuple[Strided, ...]
    written: int | None
    counted: tuple[tuple[int, str], ...]
    described: tuple[tuple[tuple[int, ...], str, str], ...]
    glances: dict[int, int | None] = field(default_factory=dict)


class LayerCall:
    """One call. Its attributes are lists with one entry per slot.

    Attributes:
        template: what it has in common with others.
        location: the user's line.
        module: path of the layer.
        index: number of its first operation.
        aliases: tensors without history; None where they are made from another one's. None when memory was let go.
        storages: numbers of their memory.
        epochs: of that memory.
        edges: of those that it was given.
        numbers: of the nodes, by operation.
        copies: what was in memory that was overwritten since.
    """

    __slots__ = (
        "__weakref__",
        "_instead",
        "_operations",
        "_refs",
        "aliases",
        "copies",
        "edges",
        "epochs",
        "index",
        "location",
        "module",
        "numbers",
        "storages",
        "template",
    )

    template: LayerTemplate
    location: Location | None
    module: str
    index: int
    aliases: list[torch.Tensor | None] | None
    storages: list[int]
    epochs: list[int]
    edges: list[tuple[int, int] | None]
    numbers: list[int]
    copies: dict[int, torch.Tensor] | None
    _refs: list[SeenRef] | None
    _operations: list[OpRecord] | None
    _instead: ArraySource | None

    def operation(self, position: int) -> OpRecord:
        """An operation of this call, written out."""
        if self._operations is None:
            self._operations = self._written_out()
        return self._operations[position]

    def refs(self) -> list[SeenRef]:
        """Its tensors, by slot."""
        if self._refs is None:
            self._refs = [self._ref(number) for number in range(len(self.storages))]
        return self._refs

    def protect(self, storage: int, copies: dict[Any, torch.Tensor]) -> list[TensorValue]:
        """Memory is about to be overwritten: keep what its tensors hold.

        Args:
            storage: number of that memory.
            copies: those that were made already, by geometry.

        Returns:
            The values that were copied and that some node has saved.
        """
        if self.aliases is None:
            return []
        held: list[TensorValue] = []
        for number, own in enumerate(self.storages):
            if own != storage or (self.copies is not None and number in self.copies):
                continue
            copy = copied(self._alias(number), copies)
            if self.copies is None:
                self.copies = {}
            self.copies[number] = copy
            if self._refs is None and self.template.unsaved[number]:
                continue
            value = self.refs()[number].source
            if isinstance(value, TensorValue):
                value.tensor = copy
                if not value.unsaved:
                    held.append(value)
        return held

    def let_go(self, instead: ArraySource) -> None:
        """Its graph was freed: keep what it looked like, and nothing of its memory.

        Args:
            instead: what the contents are from now on.
        """
        self.aliases = self.copies = self._refs = None
        self._instead = instead

    def _alias(self, number: int) -> torch.Tensor:
        assert self.aliases is not None
        alias = self.aliases[number]
        if alias is None:
            views = self.template.strided
            strided = views[number - len(self.aliases) + len(views)]
            alias = self.aliases[number] = strided.of(self._alias(strided.source))
        return alias

    def _ref(self, number: int) -> SeenRef:
        template = self.template
        ref = _new(SeenRef)
        ref.storage = self.storages[number]
        ref.epoch = self.epochs[number]
        ref.unsaved = template.unsaved[number]
        ref.known = True
        ref.requires_grad = template.tracked[number]
        made = template.made_by[number]
        if made is not None:
            ref.edge = (self.numbers[made[0]], made[1]) if ref.requires_grad else None
        else:
            ref.edge = self.edges[number] if number < len(self.edges) else None
        if self.aliases is None:
            ref.alias = None
            ref.shape, ref.dtype, ref.device = template.described[number]
            ref.strides, ref.offset, ref.lazy = (), 0, ""
            assert self._instead is not None
            ref.source = self._instead
            return ref
        ref.alias = self._alias(number)
        if self.copies is not None and number in self.copies:
            value = ref.source = TensorValue(self.copies[number])
            value.unsaved = ref.unsaved
        return ref

    def _written_out(self) -> list[OpRecord]:
        template = self.template
        gone = self.aliases is None
        refs = self.refs() if not gone else [self._ref(number) for number in range(len(self.storages))]
        operations = []
        for position, operation in enumerate(template.operations):
            written = template.written
            operations.append(
                OpRecord(
                    self.index + position,
                    operation.name,
                    () if gone else tuple([_filled(a, refs) for a in operation.args]),
                    {} if gone else {k: _filled(v, refs) for k, v in operation.kwargs.items()},
                    tuple([_filled(o, refs) for o in operation.outputs]),
                    () if gone or written is None else ((refs[written], refs[template.returned]),),
                    self.location,
                    self.module,
                    None,
                    True,
                    operation.random,
                )
            )
        return operations


def _filled(value: Any, refs: Sequence[SeenRef]) -> Any:
    if type(value) is Slot:
        return refs[value.number]
    return [_filled(item, refs) for item in value] if isinstance(value, list) else value


class LayerOrigin(NodeOrigin):
    """Where the node of a layer's operation comes from.

    Attributes:
        call: of the layer.
        position: of the operation in it.
    """

    __slots__ = ("call", "position")

    call: LayerCall
    position: int

    def __getattr__(self, name: str) -> Any:
        # Called for a slot that was not filled.
        if name == "ops":
            self.ops = [self.call.operation(self.position)]
            return self.ops
        if name in _AS_ANY_OPERATION:
            return _AS_ANY_OPERATION[name]
        if name == "returned":
            self.returned = []
            return self.returned
        raise AttributeError(f"'LayerOrigin' object has no attribute {name!r}")

    @property
    def is_written_out(self) -> bool:
        """Whether somebody has asked for its operation."""
        return self.call._operations is not None


_AS_ANY_OPERATION: dict[str, Any] = {
    "role": "op",
    "function": None,
    "function_class": None,
    "base_before": None,
    "base_after": None,
    "view": None,
    "opaque": "",
    "arguments": None,
}

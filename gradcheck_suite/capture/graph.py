"""The autograd graph behind a loss, and what flows through it in a backward.

``record_backward`` hooks every reachable node, runs the backward and joins what each node received and returned with
the operations the recorder saw. The hooks are gone afterwards, also after an exception.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import combinations
from typing import Any

import numpy as np
import torch

from ..evidence import Edge, NodeRecord, OpRecord, Root, TensorRef, Trace
from .origins import NodeOrigin, UnrecordableError
from .recorder import Recorder
from .values import TensorValue

__all__ = ["GraphRecording", "walk"]


def walk(roots: Sequence[Any]) -> list[Any]:
    """Every autograd node reachable from ``roots``, each once; iterative, so that depth does not matter."""
    seen: dict[int, Any] = {}
    waiting = [node for node in roots if node is not None]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen[id(node)] = node
        waiting.extend(parent for parent, _ in node.next_functions if parent is not None)
    return list(seen.values())


class GraphRecording:
    """Observes one backward: what every node received and returned.

    Args:
        recorder: what recorded the forward; its forward must be finished.
        outputs: tensors the backward starts from.
    """

    def __init__(self, recorder: Recorder, outputs: Sequence[torch.Tensor]) -> None:
        self._recorder = recorder
        self._outputs = outputs
        self.nodes: list[Any] = walk([o.grad_fn for o in outputs])
        self.by_key: dict[int, Any] = {recorder.node_key(node): node for node in self.nodes}
        self.refused: UnrecordableError | None = None
        self._received: dict[int, tuple[TensorValue | None, ...]] = {}
        self._returned: dict[int, tuple[TensorValue | None, ...]] = {}
        self._started: tuple[TensorValue | None, ...] = ()

    @contextmanager
    def observing(self, cotangents: Sequence[torch.Tensor | None] = ()) -> Iterator[None]:
        """Hooks on every node while the block runs the backward.

        Args:
            cotangents: what it starts from, one per output; a backward that writes into its argument may overwrite them.
        """
        recorder = self._recorder
        handles = []
        self._started = self._hold(cotangents)

        def before(key: int) -> Any:
            def hook(cotangents: Sequence[torch.Tensor | None]) -> None:
                if recorder.observed_by[-1] is not self:
                    return  # another backward runs inside this one (re-entrant checkpointing) and shares the leaf
                self._received[key] = self._hold(cotangents)

            return hook

        def after(key: int) -> Any:
            def hook(gradients: Sequence[torch.Tensor | None], _: Any) -> None:
                self._returned[key] = self._hold(gradients)

            return hook

        try:
            for key, node in self.by_key.items():
                handles.append(node.register_prehook(before(key)))
                if key > 0:
                    handles.append(node.register_hook(after(key)))
            recorder.observed_by.append(self)
            try:
                with recorder.backward_phase():
                    yield
            finally:
                recorder.observed_by.pop()
        finally:
            for handle in handles:
                handle.remove()

    def _hold(self, tensors: Sequence[torch.Tensor | None]) -> tuple[TensorValue | None, ...]:
        try:
            return tuple(None if t is None else self._recorder.hold(t) for t in tensors)
        except UnrecordableError as error:
            # Not here, in the middle of somebody's backward.
            self.refused = error
            return (None,) * len(tensors)

    def trace(
        self,
        cotangents: Sequence[torch.Tensor],
        leaf_names: Mapping[int, str],
        leaf_gradients: Mapping[str, torch.Tensor | None],
        leaf_values: Mapping[str, TensorRef],
        targets: Sequence[Any] | None = None,
    ) -> Trace:
        """Join the observation with the recorded operations.

        Args:
            cotangents: what the backward started with, one per output.
            leaf_names: name by leaf key.
            leaf_gradients: what torch returned, by leaf name.
            leaf_values: the leaf's value when the forward began, by name.
            targets: the tensors (or graph edges) whose gradients alone were asked for; None for all leaves. torch leaves
                out gradients that lead to none of them.
        """
        if self.refused is not None:
            raise self.refused
        recorder = self._recorder
        needed = None if targets is None else self._leading_to(targets)
        values = self._values_by_edge()
        nodes: dict[int, NodeRecord] = {}
        for key, node in self.by_key.items():
            nodes[key] = self._node_record(key, node, values, leaf_names)
        if needed is not None:
            for record in nodes.values():
                record.edges = tuple(e if e is not None and e.node in needed else None for e in record.edges)
        roots = []
        for number, (output, cotangent) in enumerate(zip(self._outputs, cotangents)):
            started = self._started[number] if number < len(self._started) else None
            node = output.grad_fn
            place = (
                (recorder.leaf_key(output), 0)
                if node is None
                else (recorder.node_key(node), output.output_nr)
            )
            if place[0] not in nodes:  # an output that is itself a leaf
                nodes[place[0]] = NodeRecord(
                    key=place[0], name="AccumulateGrad", role="leaf", leaf_name=leaf_names.get(place[0], "")
                )
            roots.append(Root(*place, started or recorder.hold(cotangent), values.get(place)))
        return Trace(
            ops=recorder.ops,
            nodes=nodes,
            roots=tuple(roots),
            leaves={leaf_names[k]: k for k in nodes if k in leaf_names},
            leaf_gradients={n: None if g is None else recorder.hold(g) for n, g in leaf_gradients.items()},
            leaf_values=dict(leaf_values),
        )

    def _leading_to(self, targets: Sequence[Any]) -> set[int]:
        """Keys of the nodes from which a path leads to one of the targets."""
        recorder = self._recorder
        sources: dict[int, list[int]] = {}
        for key, node in self.by_key.items():
            for parent, _ in node.next_functions:
                if parent is not None:
                    sources.setdefault(recorder.node_key(parent), []).append(key)
        waiting = []
        for target in targets:
            node = target.grad_fn if isinstance(target, torch.Tensor) else target.node
            waiting.append(recorder.leaf_key(target) if node is None else recorder.node_key(node))
        needed: set[int] = set()
        while waiting:
            key = waiting.pop()
            if key not in needed:
                needed.add(key)
                waiting.extend(sources.get(key, ()))
        return needed

    def _values_by_edge(self) -> dict[tuple[int, int], TensorRef]:
        """The value each node produced at each slot, from whoever produced or consumed it."""
        values: dict[tuple[int, int], TensorRef] = {}
        operations: dict[int, OpRecord] = {op.index: op for op in self._recorder.ops}
        origins = [
            self._recorder.origin_of(node) for node in self.nodes if getattr(node, "variable", None) is None
        ]
        if not operations:
            for origin in origins:
                if origin is not None:
                    operations.update((op.index, op) for op in origin.ops)
        for origin in origins:
            if origin is not None:
                values.update((ref.edge, ref) for ref in origin.returned if ref.edge is not None)
        for _, op in sorted(operations.items()):
            for ref in _refs((op.outputs, [after for _, after in op.written])):
                if ref.edge is None:
                    continue
                if op.function is not None:
                    # A Function may write into its output before returning it: the last value is what it returned.
                    values[ref.edge] = ref
                else:
                    # A later write under no_grad changes the tensor and leaves it its node.
                    values.setdefault(ref.edge, ref)
            for ref in _refs((op.args, tuple(op.kwargs.values()))):
                if ref.edge is not None:
                    values.setdefault(ref.edge, ref)
        return values

    def _node_record(
        self,
        key: int,
        node: Any,
        values: Mapping[tuple[int, int], TensorRef],
        leaf_names: Mapping[int, str],
    ) -> NodeRecord:
        recorder = self._recorder
        name = node.name().rsplit("::", 1)[-1]
        edges = tuple(
            None if parent is None else Edge(recorder.node_key(parent), slot)
            for parent, slot in node.next_functions
        )
        received = self._received.get(key, ())
        returned = self._returned.get(key, ())
        if key < 0:
            return NodeRecord(
                key=key,
                name=name,
                role="leaf",
                outputs=(values.get((key, 0)),),
                cotangents=received,
                ran=key in self._received,
                leaf_name=leaf_names.get(key, ""),
            )
        origin = recorder.origin_of(node)
        if origin is None:
            view = values.get((key, 0))
            base = values.get((edges[0].node, edges[0].slot)) if edges and edges[0] is not None else None
            origin = recorder.origin_of_view(node, view, base) if view is not None else None
        record = NodeRecord(
            key=key,
            name=name,
            edges=edges,
            cotangents=received,
            gradients=returned,
            ran=key in self._returned or key in self._received,
            sequence=key,
        )
        slots = (
            max(len(received), 1 + max((s for k, s in values if k == key), default=-1))
            if origin is None
            else len(received)
        )
        record.outputs = tuple(values.get((key, slot)) for slot in range(slots))
        if origin is not None:
            _fill_from_origin(record, origin, values)
        else:
            record.inputs = tuple(None if e is None else values.get((e.node, e.slot)) for e in edges)
        return record


def _fill_from_origin(
    record: NodeRecord, origin: NodeOrigin, values: Mapping[tuple[int, int], TensorRef]
) -> None:
    record.role = origin.role
    record.ops = tuple(origin.ops)
    record.function = origin.function
    first = origin.ops[0] if origin.ops else None
    if first is not None:
        record.module = first.module
        record.sequence = first.index
        record.location = first.location
    if origin.function is not None:
        record.location = origin.function.location or record.location
        origin.function.shared_memory = _shared_memory(record.name, origin)
    if origin.role == "write-through-view":
        record.base = origin.base_before
        record.outputs = (origin.base_after,)
    elif origin.role == "view-of-written":
        record.base = origin.base_after
        record.outputs = (origin.view,)
        record.inputs = (origin.base_after,)
        return
    record.inputs = _match_inputs(record, origin, values)


def _shared_memory(name: str, origin: NodeOrigin) -> str:
    """Which inputs of a custom Function cannot be told apart inside its forward, where nothing is tracked, or "".

    ``Product.apply(x, x.detach())`` reads one window twice, and only one of the reads carries a gradient.
    """
    inputs: dict[Any, TensorRef] = {}
    for ref in _refs(origin.arguments or ()):
        inputs.setdefault((ref.edge, ref.storage, ref.geometry), ref)
    for one, other in combinations(inputs.values(), 2):
        if one.storage == other.storage and (one.edge or other.edge) and _overlap(one, other):
            return (
                f"two inputs of {name}, {one.describe()} and {other.describe()}, look at the same memory with "
                "different histories"
            )
    return ""


def _overlap(one: TensorRef, other: TensorRef) -> bool:
    """Whether two windows of one memory have an element in common."""
    reach = [r.offset + sum((n - 1) * s for n, s in zip(r.shape, r.strides)) + 1 for r in (one, other)]
    ground = np.empty(max(reach), np.int8)  # never touched: only its addresses are looked at
    first, second = (
        np.lib.stride_tricks.as_strided(ground[r.offset :], r.shape, r.strides) for r in (one, other)
    )
    try:
        # NumPy's stubs know only the two special values of max_work.
        return bool(np.shares_memory(first, second, max_work=10_000))  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True


def _match_inputs(
    record: NodeRecord, origin: NodeOrigin, values: Mapping[tuple[int, int], TensorRef]
) -> tuple[TensorRef | None, ...]:
    """For each gradient edge, the argument it belongs to.

    Autograd collects edges from the differentiable tensor arguments in schema order, so each edge belongs to the
    first argument, not yet taken, that holds it. ``x * x`` has the same edge twice, for its first and second
    argument.
    """
    if origin.role == "function":
        candidates = list(_refs(origin.arguments or ()))
        candidates.extend(ref for op in origin.ops for ref in _refs((op.args, tuple(op.kwargs.values()))))
        matched: list[TensorRef | None] = []
        for edge in record.edges:
            wanted = None if edge is None else (edge.node, edge.slot)
            matched.append(next((r for r in candidates if wanted is not None and r.edge == wanted), None))
        return tuple(matched)
    op = origin.ops[0]
    candidates = list(_refs((op.args, tuple(op.kwargs.values()))))
    if origin.role == "write-through-view":
        # The first edge is the base before the write; the rest are the operation's other arguments.
        candidates = candidates[1:]
    taken: set[int] = set()
    result: list[TensorRef | None] = []
    for position, edge in enumerate(record.edges):
        if origin.role == "write-through-view" and position == 0:
            result.append(origin.base_before)
            continue
        found = None
        if edge is not None:
            for index, ref in enumerate(candidates):
                if index not in taken and ref.edge == (edge.node, edge.slot):
                    taken.add(index)
                    found = ref
                    break
        result.append(found)
    for position, edge in enumerate(record.edges):
        if edge is not None and result[position] is None:
            # A lazily conjugated or negated argument reaches the operation as a resolved copy without history.
            unresolved = values.get((edge.node, edge.slot))
            if unresolved is None:
                continue
            for index, ref in enumerate(candidates):
                alike = (ref.shape, ref.dtype) == (unresolved.shape, unresolved.dtype)
                if index not in taken and ref.edge is None and alike:
                    taken.add(index)
                    result[position] = ref
                    break
    return tuple(result)


def _refs(values: Any) -> Iterator[TensorRef]:
    for value in values:
        if isinstance(value, TensorRef):
            yield value
        elif isinstance(value, list | tuple):
            yield from _refs(value)
        elif isinstance(value, dict):
            yield from _refs(value.values())

"""Gradients that become NaN or Inf while a program trains, and the operation that made the first of them.

A look at every leaf's gradient after each backward is cheap; the recording holds the values of the forward until that
look is over, and where no cotangents were recorded, the engine computes them from the root on. Whether it matters shows
later: somebody who looks, and skips the step, as a gradient scaler does, knows.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ..capture.graph import GraphRecording
from ..compare.blame import backward_order
from ..evidence import Array, ArrayValue, Finding, Location, NodeRecord, OpRecord, TensorRef, Trace
from ..replay import Unexplained, local_gradients
from ..rules.nan_gradient import NanGradient
from .collector import Collector
from .contributions import Contributions, Leaf, Token
from .names import Names
from .recorder import WatchingRecorder
from .saved import refs_of

__all__ = ["NonFinite"]

_MOST_ANALYSES = 4
_MOST_PENDING = 64
_SECONDS = 20.0
_LARGE = 32_768
_WIDE = (torch.float32, torch.float64)


@dataclass(eq=False, slots=True)
class _Pending:
    """A leaf with a gradient that is not finite, which nobody has used yet."""

    leaf: Leaf
    finding: Finding
    number: int
    used: bool = False


class NonFinite:
    """Looks at gradients after each backward, and tells of those that a step uses."""

    def __init__(
        self, recorder: WatchingRecorder, contributions: Contributions, findings: Collector, names: Names
    ) -> None:
        self._recorder = recorder
        self._contributions = contributions
        self._findings = findings
        self._names = names
        self._pending: list[_Pending] = []
        self._analyses = 0
        self._scaled = False

    # -- after a backward ----------------------------------------------------------------------------------------

    def look(
        self,
        token: Token,
        roots: Sequence[torch.Tensor],
        given: Sequence[torch.Tensor | None] | None,
        targets: Sequence[Any] | None,
        number: int,
        location: Location | None,
        observed: Trace | None,
    ) -> None:
        """A backward has ended; its recording is at hand still.

        Args:
            token: the leaves that it has contributed to.
            roots, given, targets: what it started from, with which cotangents, and what was asked for.
            number, location: of the backward.
            observed: what was recorded of it, if it was.
        """
        if self._scaled:
            return
        self.cleared()
        reached = [(leaf, t) for leaf, t in ((leaf, leaf.tensor()) for leaf, _, _ in token) if t is not None]
        gradients = [(leaf, t, t.grad) for leaf, t in reached if t.grad is not None]
        if all_finite([g for _, _, g in gradients]):
            if self._pending:
                cleared = {id(leaf) for leaf, _, _ in gradients}
                self._pending = [p for p in self._pending if id(p.leaf) not in cleared]
            return
        waiting = {id(p.leaf) for p in self._pending}
        spoilt = [(leaf, t) for leaf, t, g in gradients if not all_finite([g]) and id(leaf) not in waiting]
        if not spoilt or self._analyses >= _MOST_ANALYSES or len(self._pending) >= _MOST_PENDING:
            return
        if not all_finite([t.detach() for _, t in reached]):
            return  # the values themselves are spoilt: what made them so has been told, or came with them
        finding = self._explained([t for _, t in spoilt], roots, given, targets, location, observed)
        self._analyses += 1
        self._pending += [_Pending(leaf, finding, number) for leaf, _ in spoilt[:_MOST_PENDING]]

    def _explained(
        self,
        victims: list[torch.Tensor],
        roots: Sequence[torch.Tensor],
        given: Sequence[torch.Tensor | None] | None,
        targets: Sequence[Any] | None,
        location: Location | None,
        observed: Trace | None,
    ) -> Finding:
        names = self._names.of(victims)
        trace = observed
        if trace is None:
            graph = GraphRecording(self._recorder, roots)
            cotangents = [
                torch.ones_like(root) if given is None or given[i] is None else given[i]
                for i, root in enumerate(roots)
            ]
            trace = graph.trace([c for c in cotangents if c is not None], {}, {}, {}, targets)
            _note_outputs(trace, _operations(trace))
            _propagate(trace, time.monotonic() + _SECONDS)
        trace = replace(
            trace,
            ops=_operations(trace),
            leaf_gradients={name: ArrayValue(np.array([np.nan])) for name in names},
            leaf_values={},
        )
        found = NanGradient.from_trace(trace) or NanGradient.from_reader(trace)
        return found[0] if found else NanGradient.from_nowhere(names, location)

    # -- what came of it -----------------------------------------------------------------------------------------

    def before_step(self, optimizer: torch.optim.Optimizer) -> None:
        """An optimizer begins to step: which of the gradients in question are as they were?"""
        if not self._pending:
            return
        if getattr(optimizer, "found_inf", None) is not None:
            self.deliberate()  # a gradient scaler has told it to look by itself
            return
        for pending in self._pending:
            tensor = pending.leaf.tensor()
            pending.used = tensor is not None and tensor.grad is not None and not all_finite([tensor.grad])

    def after_step(self, written: set[int]) -> None:
        """It has stepped, and written to these leaves."""
        for pending in self._pending:
            if pending.used and id(pending.leaf) in written:
                self._tell(pending)
        if self._pending:
            self._pending = [p for p in self._pending if id(p.leaf) not in written]

    def updated(self, leaf: Leaf) -> None:
        """A leaf was changed by hand, by what was computed from its gradient."""
        for pending in [p for p in self._pending if p.leaf is leaf]:
            self._pending.remove(pending)
            self._tell(pending)

    def deliberate(self) -> None:
        """A gradient scaler looks for what is not finite, and leaves such steps out."""
        self._scaled = True
        self._pending.clear()

    def cleared(self) -> None:
        """Forget gradients that were cleared before anybody used them: they hurt nobody."""
        if self._pending:
            self._pending = [p for p in self._pending if _is_waiting(p)]

    def findings(self) -> list[Finding]:
        """Gradients that no step was to use, so that they were made to be looked at."""
        found = {
            id(p.finding): p.finding
            for p in self._pending
            if not p.leaf.stepped and not p.leaf.by_hand and _is_waiting(p) and _is_there(p.leaf)
        }
        return list(found.values())

    def _tell(self, pending: _Pending) -> None:
        finding = pending.finding
        self._findings.add(("GC601", finding.location, finding.op), pending.number, lambda: finding)


def all_finite(tensors: Sequence[torch.Tensor]) -> bool:
    """Whether no element of any of them is NaN or infinite; tensors of a kind that cannot be looked at count as finite."""
    groups: dict[tuple[torch.device, torch.dtype], list[torch.Tensor]] = {}
    for tensor in tensors:
        if (
            tensor.layout is torch.strided
            and not tensor.is_meta
            and tensor.dtype.is_floating_point
            and tensor.numel()
        ):
            groups.setdefault((tensor.device, tensor.dtype), []).append(tensor)
    for (_, dtype), group in groups.items():
        # The sum and the length are NaN or infinite if any element is, and take a fiftieth of the time of looking at each;
        # they may overflow by themselves. Of what is large the sum is the faster one.
        many = [t for t in group if t.numel() >= _LARGE] if dtype in _WIDE else []
        few = [t for t in group if t.numel() < _LARGE] if many else group
        told = [t.sum() for t in many]
        if few:
            told += torch._foreach_norm(few)
        if not bool(torch.isfinite(torch.stack(told)).all()) and not all(
            bool(torch.isfinite(t).all()) for t in group
        ):
            return False
    return True


def _is_waiting(pending: _Pending) -> bool:
    """Whether what the backward in question has contributed is neither used nor cleared."""
    fresh = pending.leaf.fresh
    return fresh is not None and fresh.number <= pending.number


def _is_there(leaf: Leaf) -> bool:
    """Whether the gradient is there still, or was when the leaf died, and is as it was."""
    tensor = leaf.tensor()
    if tensor is None:
        return True
    return tensor.grad is not None and not all_finite([tensor.grad])


def _operations(trace: Trace) -> list[OpRecord]:
    """Every operation behind the nodes whose values are at hand still, in the order in which they ran."""
    operations = {op.index: op for node in trace.nodes.values() for op in node.ops if op.args or op.kwargs}
    return [operations[index] for index in sorted(operations)]


def _note_outputs(trace: Trace, operations: Sequence[OpRecord]) -> None:
    """What each node produced; a recording notes it where a cotangent was seen, and here none was."""
    produced: dict[int, dict[int, TensorRef]] = {}
    for op in operations:
        for ref in refs_of((op.outputs, [after for _, after in op.written])):
            if ref.edge is not None:
                produced.setdefault(ref.edge[0], {})[ref.edge[1]] = ref
    for key, slots in produced.items():
        if key in trace.nodes and not trace.nodes[key].outputs:
            trace.nodes[key].outputs = tuple(slots.get(s) for s in range(1 + max(slots)))


def _propagate(trace: Trace, deadline: float) -> None:
    """Compute by the engine what arrives at each node, up to the first that makes something non-finite of finite values.

    Args:
        trace: its nodes get cotangents and gradients.
        deadline: ``time.monotonic()`` at which it gives up.
    """
    arriving: dict[int, dict[int, Array]] = {}

    def send(node: int, slot: int, value: Array) -> None:
        slots = arriving.setdefault(node, {})
        slots[slot] = slots[slot] + value if slot in slots else value

    for root in trace.roots:
        send(root.node, root.slot, root.cotangent.array())
    with np.errstate(all="ignore"):
        for key in backward_order(trace):
            node = trace.nodes[key]
            received = arriving.get(key)
            if key < 0 or received is None:
                continue
            if time.monotonic() > deadline:
                return
            slots = range(max(len(node.outputs), 1 + max(received)))
            node.cotangents = tuple(ArrayValue(received[s]) if s in received else None for s in slots)
            gradients = _gradients(node)
            node.gradients = tuple(None if g is None else ArrayValue(g) for g in gradients)
            node.ran = True
            finite = all(bool(np.isfinite(v).all()) for v in received.values())
            if finite and not all(g is None or bool(np.isfinite(g).all()) for g in gradients):
                return
            for edge, gradient in zip(node.edges, gradients):
                if edge is not None and gradient is not None:
                    send(edge.node, edge.slot, gradient)


def _gradients(node: NodeRecord) -> list[Array | None]:
    """What a node returns, per edge, in the precision of its inputs; nothing where the engine cannot say."""
    found: list[Array | None] = [None] * len(node.edges)
    try:
        local = local_gradients(node, node.cotangents)
    except (Unexplained, LookupError):
        return found
    for group, gradient in zip(local.groups, local.gradients):
        ref = node.inputs[group[0]] if group[0] < len(node.inputs) else None
        narrow = {"float16": np.float16, "float32": np.float32, "bfloat16": np.float32}
        kind = None if ref is None else narrow.get(ref.dtype)
        found[group[0]] = gradient if kind is None or gradient.dtype.kind == "c" else gradient.astype(kind)
    return found

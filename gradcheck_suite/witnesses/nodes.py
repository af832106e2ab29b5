"""Every node of a recording, one after the other; within a budget the most telling ones first.

Custom Functions are always checked, whatever the budget: nobody else looks at them. Then comes one node of every kind
(operation, shapes, dtypes), the cheap ones first, and then all others from the output backwards, since the gradients of the
last layers are proved by the fewest nodes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from ..compare.tolerance import TENSOR_FLOAT, working_in
from ..evidence import NodeRecord, NodeVerdict, Outcome, TensorRef, Testimony, Trace
from .budget import Budget
from .engine import EdgeOutcomes, Fallback, Probe, check_node
from .reduced_precision import tensor_float_nodes
from .sums import node_name

__all__ = ["CheckedNodes", "check_nodes"]

_Kind = tuple[object, ...]


@dataclass(frozen=True)
class CheckedNodes:
    """What was found out, node by node.

    Attributes:
        verdicts: by key, in the order of the graph; nodes that did not fit are inconclusive and say so.
        left_out: how many those are.
        estimate: seconds that all nodes take, or would take.
    """

    verdicts: dict[int, tuple[NodeVerdict, EdgeOutcomes]]
    left_out: int = 0
    estimate: float = 0.0


def check_nodes(
    trace: Trace,
    probe: Probe | None = None,
    *,
    seed: int = 0,
    fallback: Fallback | None = None,
    budget: Budget | None = None,
    share: float = 1.0,
    step: Callable[[], None] = lambda: None,
) -> CheckedNodes:
    """Check every node that ran in the backward, as far as the budget goes.

    Args:
        trace: the recording.
        probe, seed, fallback: see :func:`~gradcheck_suite.witnesses.engine.check_node`.
        budget: of the whole check.
        share: of what is left of it, how much may be spent here.
        step: called after every node.
    """
    nodes = {key: node for key, node in trace.nodes.items() if key > 0 and node.ran}
    coarse = tensor_float_nodes(nodes.values())
    deadline = float("inf")
    if budget is not None and budget.limited:
        deadline = time.monotonic() + max(0.0, budget.left()) * share
    pace = _Pace()
    found: dict[int, tuple[NodeVerdict, EdgeOutcomes]] = {}
    left_out = 0
    for node in nodes.values() if deadline == float("inf") else _most_telling(list(nodes.values())):
        expected = pace.expected(node)
        if node.function is None and time.monotonic() + expected > deadline:
            assert budget is not None
            found[node.key] = _left_out(node, budget.reason)
            left_out += 1
            pace.missed += expected
        else:
            started = time.monotonic()
            with working_in(TENSOR_FLOAT) if node.key in coarse else nullcontext():
                found[node.key] = check_node(node, probe, seed=seed, fallback=fallback)
            pace.took(node, time.monotonic() - started)
        step()
    return CheckedNodes({key: found[key] for key in nodes}, left_out, pace.spent + pace.missed)


class _Pace:
    """How long a node takes, from those that were checked already: of its kind, of its operation, of any."""

    def __init__(self) -> None:
        self.spent = 0.0
        self.missed = 0.0
        self._by_kind: dict[_Kind, float] = {}
        self._rates: dict[str, float] = {}
        self._seconds = 0.0
        self._work = 0
        self._cold = True

    def expected(self, node: NodeRecord) -> float:
        known = self._by_kind.get(_kind(node))
        if known is not None:
            return known
        rate = self._rates.get(node.name)
        if rate is None:
            rate = self._seconds / max(self._work, 1)
        return rate * _work(node)

    def took(self, node: NodeRecord, seconds: float) -> None:
        self.spent += seconds
        if self._cold:
            # The first node also pays for what is imported and built once.
            self._cold = False
            return
        work = _work(node)
        self._seconds += seconds
        self._work += work
        self._by_kind[_kind(node)] = seconds
        self._rates[node.name] = seconds / work


def _most_telling(nodes: Sequence[NodeRecord]) -> Iterator[NodeRecord]:
    late_first = sorted(nodes, key=lambda node: -node.sequence)
    yield from (node for node in late_first if node.function is not None)
    rest = [node for node in late_first if node.function is None]
    kinds: dict[_Kind, NodeRecord] = {}
    for node in rest:
        kinds.setdefault(_kind(node), node)
    chosen = {node.key for node in kinds.values()}
    yield from sorted(kinds.values(), key=_work)
    yield from (node for node in rest if node.key not in chosen)


def _kind(node: NodeRecord) -> _Kind:
    def shapes(refs: Sequence[TensorRef | None]) -> tuple[str, ...]:
        return tuple("" if ref is None else ref.describe() for ref in refs)

    return node.name, tuple(op.name for op in node.ops), shapes(node.inputs), shapes(node.outputs)


# What every node costs, in elements.
_OVERHEAD = 50_000


def _work(node: NodeRecord) -> int:
    """Elements that go in and out, more or less proportional to the time."""
    total = _OVERHEAD
    for ref in (*node.inputs, *node.outputs):
        if ref is not None:
            size = 1
            for extent in ref.shape:
                size *= extent
            total += size
    return total


def _left_out(node: NodeRecord, reason: str) -> tuple[NodeVerdict, EdgeOutcomes]:
    verdict = NodeVerdict(
        key=node.key,
        name=node.name,
        op=", ".join(dict.fromkeys(op.name for op in node.ops)),
        location=node.location,
        module=node.module,
        outcome=Outcome.INCONCLUSIVE,
        how="",
        testimonies=(
            Testimony("engine", f"backward of {node_name(node)}", Outcome.INCONCLUSIVE, reason=reason),
        ),
        inputs=tuple("" if ref is None else ref.describe() for ref in node.inputs),
        outputs=tuple("" if ref is None else ref.describe() for ref in node.outputs),
    )
    edges = {i: Outcome.INCONCLUSIVE for i, edge in enumerate(node.edges) if edge is not None}
    return verdict, edges

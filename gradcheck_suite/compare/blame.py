"""From local facts to a verdict per gradient: which parameters are proved, and which node spoils the others.

The gradient that arrived at a leaf is right if, along every path from the outputs, each node returned the right thing
and each sum was right. One pass from the outputs to the leaves carries the worst outcome along.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..aten.quantization import STRAIGHT_THROUGH
from ..evidence import NodeRecord, Outcome, Testimony, Trace

__all__ = ["Arrival", "arrivals", "backward_order", "behind_surrogates"]

_RANK = {Outcome.AGREE: 0, Outcome.INCONCLUSIVE: 1, Outcome.DISAGREE: 2}


@dataclass(frozen=True)
class Arrival:
    """What is known about the gradient that arrived at a node or leaf.

    Attributes:
        outcome: worst of everything on its paths.
        nodes: how many nodes lie on its paths.
        culprit: key of a node with that worst outcome (0 when it agrees): the one nearest to the outputs.
    """

    outcome: Outcome
    nodes: int
    culprit: int = 0


def backward_order(trace: Trace) -> list[int]:
    """Keys of the nodes so that each comes before the nodes it sends gradients to."""
    waiting: dict[int, int] = dict.fromkeys(trace.nodes, 0)
    for node in trace.nodes.values():
        for edge in node.edges:
            if edge is not None and edge.node in waiting:
                waiting[edge.node] += 1
    ready = [key for key, count in waiting.items() if not count]
    order: list[int] = []
    while ready:
        key = ready.pop()
        order.append(key)
        for edge in trace.nodes[key].edges:
            if edge is not None and edge.node in waiting:
                waiting[edge.node] -= 1
                if not waiting[edge.node]:
                    ready.append(edge.node)
    return order


def arrivals(
    trace: Trace,
    edges: Mapping[int, Mapping[int, Outcome]],
    sums: Mapping[tuple[int, int], Testimony],
) -> dict[int, Arrival]:
    """What is known about the gradient at every node and leaf.

    Args:
        trace: the recording.
        edges: by node key: outcome of each returned gradient by its position.
        sums: testimony by (node key, slot).
    """
    state: dict[int, tuple[Outcome, int]] = dict.fromkeys(trace.nodes, (Outcome.AGREE, 0))
    # Which nodes lie on the paths to a node, as the bits of an integer: one OR per edge.
    ancestors: dict[int, int] = dict.fromkeys(trace.nodes, 0)
    position = {key: number for number, key in enumerate(trace.nodes)}
    result: dict[int, Arrival] = {}
    by_key: dict[int, list[tuple[int, Testimony]]] = {}
    for (key, slot), testimony in sums.items():
        by_key.setdefault(key, []).append((slot, testimony))
    for key in backward_order(trace):
        node = trace.nodes[key]
        for _, testimony in by_key.get(key, ()):
            state[key] = _worse(state[key], (testimony.outcome, key))
        outcome, culprit = state[key]
        result[key] = Arrival(outcome, ancestors[key].bit_count(), culprit)
        if not node.ran and node.role != "leaf":
            continue
        own = edges.get(key, {})
        passed_on = ancestors[key] | (1 << position[key])
        for number, edge in enumerate(node.edges):
            if edge is None or edge.node not in state:
                continue
            ancestors[edge.node] |= passed_on
            mine = own.get(number, Outcome.INCONCLUSIVE)
            state[edge.node] = _worse(state[edge.node], _worse(state[key], (mine, key)))
    return result


def behind_surrogates(trace: Trace) -> set[str]:
    """Names of the leaves whose gradient is meant to be no derivative.

    It went through a declared surrogate, through fake quantisation, whose gradient passes rounding by, or through an
    embedding that by definition gives padding no gradient or scales it by frequency. Padding rows of a leaf itself are
    told apart: see :mod:`~gradcheck_suite.compare.padding`.
    """
    waiting = [n.key for n in trace.nodes.values() if n.ran and _is_meant(n)]
    reached: set[int] = set()
    while waiting:
        for edge in trace.nodes[waiting.pop()].edges:
            if edge is not None and edge.node in trace.nodes and edge.node not in reached:
                reached.add(edge.node)
                waiting.append(edge.node)
    return {name for name, key in trace.leaves.items() if key in reached} | _renormalised(trace)


def _renormalised(trace: Trace) -> set[str]:
    """Names of the leaves that an embedding with ``max_norm`` cuts back in its forward: the gradient is that at the weights
    it leaves behind, by definition, and knows nothing of the cut."""
    written = [before for op in trace.ops if op.name == "aten::embedding_renorm_" for before, _ in op.written]
    storages = {ref.storage for ref in written}
    return {name for name, ref in trace.leaf_values.items() if ref.storage in storages}


def _is_meant(node: NodeRecord) -> bool:
    if node.function is not None:
        return bool(node.function.surrogate)
    if any(op.name in STRAIGHT_THROUGH for op in node.ops):
        return True
    if len(node.ops) != 1 or node.ops[0].name != "aten::embedding":
        return False
    op = node.ops[0]
    padding, by_frequency = (
        op.kwargs.get(name, op.args[position] if len(op.args) > position else default)
        for name, position, default in (("padding_idx", 2, -1), ("scale_grad_by_freq", 3, False))
    )
    of_leaf = node.edges[0] is not None and node.edges[0].node < 0
    return bool(by_frequency) or (int(padding) >= 0 and not of_leaf)


def _worse(a: tuple[Outcome, int], b: tuple[Outcome, int]) -> tuple[Outcome, int]:
    return b if _RANK[b[0]] > _RANK[a[0]] else a

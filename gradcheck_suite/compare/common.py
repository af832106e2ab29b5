"""Which node can explain that some gradients are wrong and others are not."""

from __future__ import annotations

from collections.abc import Collection

from ..evidence import NodeRecord, Trace
from .blame import backward_order

__all__ = ["suspects"]


def suspects(trace: Trace, wrong: Collection[str], right: Collection[str]) -> list[NodeRecord]:
    """Nodes that every wrong gradient and no right one passes through, from the outputs on.

    A backward that is wrong in one place spoils what lies behind that place, and nothing else.

    Args:
        trace: the recording.
        wrong, right: names of leaves.
    """
    numbers = {trace.leaves[name]: number for number, name in enumerate(trace.leaves)}
    behind: dict[int, int] = {}
    order = backward_order(trace)
    for key in reversed(order):
        bits = 1 << numbers[key] if key in numbers else 0
        for edge in trace.nodes[key].edges:
            if edge is not None:
                bits |= behind.get(edge.node, 0)
        behind[key] = bits
    spoiled, clean = (
        sum(1 << number for number, name in enumerate(trace.leaves) if name in names)
        for names in (wrong, right)
    )
    if not spoiled:
        return []
    found = [trace.nodes[key] for key in order if key > 0 and trace.nodes[key].ran]
    return [n for n in found if behind[n.key] & spoiled == spoiled and not behind[n.key] & clean]

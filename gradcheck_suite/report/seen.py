"""Which operations reports have seen, and how well the engine understood them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from ..evidence import NodeVerdict, Outcome, Report

__all__ = ["SeenOperation", "operations_seen"]

_UNDERSTOOD = ("meaning", "exact")


@dataclass(frozen=True)
class SeenOperation:
    """One operation, or custom Function, over all backwards that were looked at.

    Attributes:
        name: ``"aten::addmm"``, or the class of a Function.
        nodes: how many nodes it had.
        how: nodes by what spoke for them: ``"meaning"``, ``"decomposition"``, ``"numerical"``, or ``""`` for none.
        reason: why nothing spoke for one of them, or "".
    """

    name: str
    nodes: int
    how: dict[str, int]
    reason: str

    @property
    def understood(self) -> bool:
        """The engine knew, by itself, what every one of them means."""
        return all(kind in _UNDERSTOOD for kind in self.how)


def operations_seen(reports: Iterable[Report]) -> list[SeenOperation]:
    """Every operation of some reports: first those that the engine does not understand, each group by frequency."""
    how: dict[str, Counter[str]] = {}
    reasons: dict[str, str] = {}
    for report in reports:
        for node in report.nodes:
            for name in node.op.split(", ") if node.op else [node.name]:
                how.setdefault(name, Counter())[node.how] += 1
                if not node.how:
                    reasons.setdefault(name, _reason(node))
    found = [
        SeenOperation(name, kinds.total(), dict(kinds), reasons.get(name, "")) for name, kinds in how.items()
    ]
    return sorted(found, key=lambda seen: (seen.understood, -seen.nodes, seen.name))


def _reason(node: NodeVerdict) -> str:
    return next((t.reason for t in node.testimonies if t.outcome is Outcome.INCONCLUSIVE), "")

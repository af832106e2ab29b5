"""Outputs that autograd knows nothing about, beside others that it does: do they depend on what is differentiated?

A loss that uses such an output gets no gradient through it, silently. An output that was detached in so many words is meant; one
that came through a Python number, ``.data`` or NumPy may be a metric or a mistake, so it is a warning and no error.
"""

from __future__ import annotations

from typing import Protocol

from ..capture.outputs import random_projection
from ..compare.cuts import module_at
from ..evidence import Finding, Location, Outcome, Supplement
from .case import Case
from .finite_difference import finite_difference

__all__ = ["untracked_outputs"]


class Accuser(Protocol):
    """The rule that words an output which lost its history."""

    def from_output(
        self, outputs: tuple[str, ...], depends_on: tuple[str, ...], cut: Location | None, *, module: str
    ) -> Finding:
        """One finding per line where values left the graph."""
        ...


def untracked_outputs(case: Case, rule: Accuser) -> Supplement:
    """Move the leaves and look whether such an output follows; empty where there is none.

    Args:
        case: the verified run.
        rule: words what is found.
    """
    outputs = list(case.run.untracked)
    if not outputs:
        return Supplement()
    case.restore()
    left = case.seconds_left()
    difference = finite_difference(
        case.model,
        case.prepared,
        case.leaves,
        list(zip((path for path, _ in outputs), random_projection(outputs, case.seed))),
        loss=case.loss,
        budget=None if left == float("inf") else max(left, 0.0),
        seed=case.seed,
    )
    case.restore()
    if not difference.disagreeing or not any(t.outcome is Outcome.DISAGREE for t in difference.testimonies):
        return Supplement()
    names = tuple(path for path, _ in outputs)
    places = [cut.location for cut in difference.cuts] or [None]
    return Supplement(
        findings=tuple(
            rule.from_output(
                names, tuple(difference.disagreeing), place, module=module_at(case.run.trace, place)
            )
            for place in places
        )
    )

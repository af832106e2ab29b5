"""No witness could speak about a part of the computation.

Why: a check that stays silent about what it could not see would be taken for a proof. What is named here was
    neither found right nor found wrong; the reason says what would make it verifiable.

Bad::

    import torch
    from gradcheck_suite import check_gradients, surrogate_gradient

    @surrogate_gradient("straight-through")
    class Round(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.round()

        @staticmethod
        def backward(ctx, grad_output):
            return grad_output

    report = check_gradients(lambda x: Round.apply(x) * x, torch.linspace(-1.2, 1.2, 5))

Good::

    import torch
    from gradcheck_suite import check_gradients

    report = check_gradients(lambda x: x.sin() * x, torch.linspace(-1, 1, 5))

Misses: nothing that was recorded; what ran outside the recording (another process, another backward) is not
    part of the report at all.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..evidence import Finding, Severity
from ..evidence import Unverified as Entry
from ..wording import listing, plural
from .registry import Rule, rule

__all__ = ["Unverified"]


@rule("GC190", "unverified", Severity.NOTE)
class Unverified(Rule):
    """Turns the list of what was not verified into notes."""

    @classmethod
    def from_entries(cls, entries: Iterable[Entry]) -> list[Finding]:
        """One note per reason, in order of first appearance, naming what the reason concerns."""
        by_reason: dict[str, list[Entry]] = {}
        for entry in entries:
            by_reason.setdefault(entry.reason, []).append(entry)
        findings = []
        for reason, group in by_reason.items():
            subjects = [entry.subject for entry in group]
            total = sum(entry.count for entry in group)
            times = f" ({plural(total, 'time')})" if total > len(group) else ""
            findings.append(
                cls.finding(
                    [f"not verified: {listing(subjects)}{times}", reason],
                    evidence={"subjects": subjects, "reason": reason},
                    count=total,
                )
            )
        return findings

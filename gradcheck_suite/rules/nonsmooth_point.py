"""The run was evaluated on a kink or a tie, where several gradients are right.

Why: at ``relu(0)``, for equal maxima or at a clamp's bound there is no derivative, only a set of slopes (the
    subdifferential); autograd returns one of them, and that is right. But what it chooses is a convention: another
    framework, the next release or a fused kernel may choose otherwise, finite differences cannot confirm it, and a value
    that sits on a kink by construction (a bias and an input that are both zero) gets no gradient at all from a relu. A
    gradient outside the set is a mismatch (GC101), not this note.

Bad::

    import torch
    from gradcheck_suite import check_gradients

    def model(x):
        return torch.relu(x) * 2  # <-

    report = check_gradients(model, torch.tensor([-1.0, 0.0, 0.0, 1.0]))

Bad::

    import torch
    from gradcheck_suite import check_gradients

    def model(x):
        return x.amax(1) * 3  # <-

    report = check_gradients(model, torch.tensor([[1.0, 1.0, 0.0], [2.0, 1.0, 0.0]]))

Good::

    import torch
    from gradcheck_suite import check_gradients

    def model(x):
        return torch.relu(x) * 2

    report = check_gradients(model, torch.tensor([-1.0, 0.5, 1.0]))

Good::

    import torch
    from gradcheck_suite import check_gradients

    def model(x):
        return torch.relu(torch.relu(x)) * 2  # zeros, but no gradient passes back through the first

    report = check_gradients(model, torch.tensor([-1.0, -0.5, 1.0]))

Good::

    import torch
    from gradcheck_suite import check_gradients

    def model(x):
        return x.clamp(0, 1).sum() + x.abs().max()

    report = check_gradients(model, torch.tensor([-1.0, 0.5, 2.0]))

Misses: ties inside pooling windows and sorted values where the engine makes autograd's choice; kinks of a Function's
    forward that is right there; points that are near a kink.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..evidence import Finding, Location, Severity
from ..wording import element, listing, plural
from .registry import Rule, rule

__all__ = ["NonsmoothPoint"]


@rule("GC604", "nonsmooth-point", Severity.NOTE)
class NonsmoothPoint(Rule):
    """Turns evaluations on kinks and ties into notes."""

    @classmethod
    def from_line(
        cls,
        ops: Sequence[str],
        remarks: Sequence[str],
        *,
        elements: int = 1,
        index: Sequence[int] = (),
        location: Location | None = None,
        module: str = "",
    ) -> Finding:
        """One line whose operations have no derivative where they were evaluated.

        Args:
            ops: their names.
            remarks: what was seen of each.
            elements: how many elements lie there.
            index: of the first.
        """
        place = element(index)
        where = f" at {place}" if place else ""
        more = f" and {plural(elements - 1, 'further element')}" if elements > 1 else ""
        return cls.finding(
            [
                f"{listing(list(ops))} {'is' if len(ops) == 1 else 'are'} evaluated on a kink or tie{where}{more}",
                *(f"{op}: {remark}" for op, remark in zip(ops, remarks)),
                "autograd's choice lies inside the subdifferential: it is one of the right gradients",
            ],
            location=location,
            module=module,
            op=ops[0] if ops else "",
            evidence={
                "subject": "nonsmooth point",
                "elements": elements,
                "element": list(index),
                "ops": list(ops),
            },
            hint="nothing is wrong; if such points are common by construction (zeros, equal values), move them apart or "
            "choose a smooth function",
        )

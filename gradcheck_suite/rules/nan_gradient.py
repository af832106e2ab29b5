"""A gradient holds NaN or Inf, made by one operation from finite values.

Why: one NaN spreads to every parameter with the next step, and where it is noticed is rarely where it was made.
    The operation named here is the first, forward or backward, that turned finite values into a non-finite one;
    the others only passed it on. A classic: ``torch.where`` hides the bad value in the forward, while the backward
    still multiplies zero by infinity.

Bad::

    import torch
    from gradcheck_suite import check_gradients

    def model(x):
        logs = torch.log(x)  # <-
        return torch.where(x > 0, logs, torch.zeros_like(x))

    report = check_gradients(model, torch.tensor([0.0, 1.0, 2.0]))

Good::

    import torch
    from gradcheck_suite import check_gradients

    def model(x):
        safe = torch.where(x > 0, x, torch.ones_like(x))
        return torch.where(x > 0, torch.log(safe), torch.zeros_like(x))

    report = check_gradients(model, torch.tensor([0.0, 1.0, 2.0]))

Misses: a non-finite value that no gradient ever meets.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..evidence import Finding, Location, RelatedLocation, Severity
from ..wording import listing, plural
from .registry import Rule, rule

__all__ = ["NanGradient"]


@rule("GC601", "nan-gradient", Severity.ERROR)
class NanGradient(Rule):
    """Turns the first non-finite value into a finding."""

    @classmethod
    def from_producer(
        cls,
        *,
        op: str,
        phase: str,
        nans: int,
        infinities: int,
        elements: int,
        location: Location | None = None,
        module: str = "",
        victims: Sequence[str] = (),
        propagators: Sequence[RelatedLocation] = (),
        origin: str = "",
    ) -> Finding:
        """The operation that made a non-finite value from finite ones.

        Args:
            op: operation or node name.
            phase: ``"forward"`` or ``"backward"``.
            nans, infinities: how many of its ``elements`` are NaN or infinite.
            victims: gradients that became non-finite because of it.
            propagators: lines that passed it on.
            origin: what the values were that it failed on ("the input is 0 there"), or "".
        """
        parts = [text for count, text in ((nans, f"{nans:,} NaN"), (infinities, f"{infinities:,} Inf")) if count]
        lines = [
            f"{op} makes {' and '.join(parts) or 'non-finite values'} in its {phase} from finite values "
            f"({plural(elements, 'element')})"
        ]
        if origin:
            lines.append(origin)
        if victims:
            lines.append(f"it reaches the gradient of {listing(list(victims))}")
        if phase == "backward":
            hint = "replace the offending value before the operation (a second torch.where), not only after it"
        else:
            hint = "keep the operation's input inside its domain: clamp it, or add a small constant"
        return cls.finding(
            lines,
            location=location,
            related=tuple(propagators),
            module=module,
            op=op,
            evidence={
                "phase": phase,
                "nan": nans,
                "inf": infinities,
                "elements": elements,
                "victims": list(victims),
            },
            hint=hint,
        )

    @classmethod
    def from_input(cls, name: str, *, nans: int, infinities: int, elements: int) -> Finding:
        """A parameter or input that was non-finite before anything ran: every NaN after it is inherited.

        Args:
            name: of the parameter or input.
        """
        return cls.finding(
            [
                f"{name} holds {nans:,} NaN and {infinities:,} Inf among {plural(elements, 'element')} "
                "before the forward; no operation made them"
            ],
            evidence={"nan": nans, "inf": infinities, "elements": elements, "victims": [name]},
            hint="check how it is initialised or loaded",
        )

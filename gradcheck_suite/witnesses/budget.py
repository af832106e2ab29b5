"""Seconds that a check may take: what is left of them, and what is said where they ran out.

The model's own run cannot be cut, and no step is interrupted: what would not fit is not begun. So a check ends within its
budget, or within one indivisible step of it (the recording, one node, one run of the model).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Budget"]


@dataclass(frozen=True)
class Budget:
    """A deadline, or none.

    Attributes:
        seconds: what was asked for, or None for no limit.
        started: ``time.monotonic()`` when the check began.
        reserve: seconds at the end that belong to putting everything back and to the report.
    """

    seconds: float | None
    started: float
    reserve: float = 0.0

    @classmethod
    def begin(cls, seconds: float | None) -> Budget:
        """It runs from now on."""
        return cls(seconds, time.monotonic())

    def reserving(self, seconds: float) -> Budget:
        """The same, with so much kept back for the end."""
        return Budget(self.seconds, self.started, seconds)

    @property
    def limited(self) -> bool:
        """Whether there is a deadline at all."""
        return self.seconds is not None

    @property
    def deadline(self) -> float | None:
        """``time.monotonic()`` after which nothing optional is begun, or None."""
        return None if self.seconds is None else self.started + self.seconds - self.reserve

    @property
    def reason(self) -> str:
        """Why something was left out."""
        return "" if self.seconds is None else f"the budget of {self.seconds:g} s ran out"

    def kept_by(self, stages: Mapping[str, float]) -> tuple[str, ...]:
        """What is to be said where the model's own run alone takes most of the budget: no budget cuts that.

        Args:
            stages: seconds by stage, ``"inputs"`` and ``"recording"`` among them.
        """
        fixed = {name: stages.get(name, 0.0) for name in ("inputs", "recording")}
        total = sum(fixed.values())
        if self.seconds is None or total <= 0.5 * self.seconds:
            return ()
        shown = ", ".join(f"{name} {seconds:.2g} s" for name, seconds in fixed.items() if seconds >= 0.005)
        verb = "exceeds" if total > self.seconds else "takes most of"
        return (
            f"the model's own run, recorded once, {verb} the budget of {self.seconds:g} s by itself ({shown}): a budget "
            "cannot cut it, nor what custom Functions need; a smaller input or model can",
        )

    def left(self) -> float:
        """Seconds; infinite without a deadline."""
        deadline = self.deadline
        return float("inf") if deadline is None else deadline - time.monotonic()

    def fits(self, seconds: float) -> bool:
        """Whether a step that is expected to take so long may begin."""
        return self.left() > seconds

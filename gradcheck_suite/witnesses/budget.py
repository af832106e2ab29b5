"""Seconds that a check may take: what is left of them, and what is said where they ran out.

The model's own run cannot be cut, and no step is interrupted: what would not fit is not begun. So a check ends within its
budget, or within one indivisible step of it (the recording, one node, one run of the model).
"""

from __future__ import annotations

import time
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

    def left(self) -> float:
        """Seconds; infinite without a deadline."""
        deadline = self.deadline
        return float("inf") if deadline is None else deadline - time.monotonic()

    def fits(self, seconds: float) -> bool:
        """Whether a step that is expected to take so long may begin."""
        return self.left() > seconds

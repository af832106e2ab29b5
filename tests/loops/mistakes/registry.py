"""Where the mistakes are kept: a function, the rule that has to name its line, and the error that it ends with."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["MISTAKES", "Mistake", "mistake"]

Loop = Callable[[], None]


@dataclass(frozen=True)
class Mistake:
    """A loop with a mistake.

    Attributes:
        code: of the rule that finds it, alone.
        run: the loop.
        raises: the error with which it ends by itself.
    """

    code: str
    run: Loop
    raises: type[Exception] | None

    @property
    def name(self) -> str:
        return self.run.__name__

    @property
    def blamed(self) -> tuple[str, int] | None:
        """File and line of the marked line; None if none is marked."""
        lines, first = inspect.getsourcelines(self.run)
        marked = [first + number for number, line in enumerate(lines) if line.rstrip().endswith("# <-")]
        assert len(marked) <= 1, f"{self.name} marks {len(marked)} lines"
        return (inspect.getfile(self.run), marked[0]) if marked else None


MISTAKES: dict[str, Mistake] = {}


def mistake(code: str, *, raises: type[Exception] | None = None) -> Callable[[Loop], Loop]:
    """Add the decorated function."""

    def add(run: Loop) -> Loop:
        assert run.__name__ not in MISTAKES, f"there are two mistakes {run.__name__}"
        MISTAKES[run.__name__] = Mistake(code, run, raises)
        return run

    return add

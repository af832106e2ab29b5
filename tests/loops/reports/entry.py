"""What an entry is: a loop that somebody reported as wrong, with its twin, and the rule that has to name the line.

The rewritten loops keep what made the reported one wrong and little else: small shapes, made-up data. The line to be
blamed ends in ``# <-``; an entry whose rule names no line has no such mark.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["ENTRIES", "Entry", "reported"]


@dataclass(frozen=True)
class Entry:
    """One report.

    Attributes:
        name: of the class that holds the loops.
        rule: the code that has to be found in ``fault``, and no other above a note.
        source: where it was reported.
        fault: the loop as it was reported.
        twin: the same loop, mended.
        raises: the error with which ``fault`` ends, by itself; what torch raises has to come through.
        beside: other codes that may be found too, wherever they are.
        by_checking: the functions return a model and its inputs for ``check_gradients``, instead of training.
        open: why the rule does not yet do what it should here; empty if it does.
    """

    name: str
    rule: str
    source: str
    fault: Callable[[], Any]
    twin: Callable[[], Any]
    raises: type[Exception] | None = None
    beside: tuple[str, ...] = ()
    by_checking: bool = False
    open: str = ""

    @property
    def blamed(self) -> tuple[str, int] | None:
        """File and line of the marked line."""
        lines, first = inspect.getsourcelines(self.fault)
        marked = [first + number for number, line in enumerate(lines) if line.rstrip().endswith("# <-")]
        assert len(marked) <= 1, f"{self.name} marks {len(marked)} lines"
        return (inspect.getfile(self.fault), marked[0]) if marked else None


ENTRIES: list[Entry] = []


def reported(rule: str, source: str, **more: Any) -> Callable[[type], type]:
    """Add the decorated class, with its functions ``fault`` and ``twin``, to the entries."""

    def add(cls: Any) -> type:
        assert all(entry.name != cls.__name__ for entry in ENTRIES), f"there are two entries {cls.__name__}"
        ENTRIES.append(Entry(cls.__name__, rule, source, cls.fault, cls.twin, **more))
        return cls  # type: ignore[no-any-return]

    return add

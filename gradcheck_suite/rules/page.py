"""A rule's page, read from the docstring of its module.

The first paragraph says what the rule finds; then come the sections ``Why:``, ``Bad::``, ``Good::`` and
``Misses:``. The code of ``Bad`` and ``Good`` runs as a test; in ``Bad`` the line to be blamed ends in ``# <-``.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from dataclasses import dataclass

__all__ = ["BLAME_MARK", "Page"]

BLAME_MARK = "# <-"

_SECTION = re.compile(r"^(Why|Bad|Good|Misses)::?(?:\s+(.*))?$")


@dataclass(frozen=True)
class Page:
    """The parts of a rule's docstring.

    Attributes:
        summary: what the rule finds, one paragraph.
        why: why it bites.
        bad: code on which the rule fires.
        good: code on which it stays silent.
        misses: what it knowingly does not see.
        text: the whole, as written.
    """

    summary: str
    why: str
    bad: tuple[str, ...]
    good: tuple[str, ...]
    misses: str
    text: str

    @classmethod
    def parse(cls, docstring: str) -> Page:
        """Split a docstring into its sections; sections that are absent are empty."""
        text = inspect.cleandoc(docstring)
        parts: list[tuple[str, list[str]]] = [("", [])]
        for line in text.splitlines():
            header = _SECTION.match(line)
            if header:
                parts.append((header[1], [header[2]] if header[2] else []))
            else:
                parts[-1][1].append(line)

        def blocks(name: str) -> tuple[str, ...]:
            return tuple(
                textwrap.dedent("\n".join(lines)).strip("\n") for head, lines in parts if head == name
            )

        def prose(name: str) -> str:
            # Only the paragraph's own continuation lines are indented; dedenting must not see the first line.
            return "\n\n".join(inspect.cleandoc("\n".join(lines)) for head, lines in parts if head == name)

        return cls(
            summary=" ".join(prose("").split("\n\n")[0].split()),
            why=prose("Why"),
            bad=blocks("Bad"),
            good=blocks("Good"),
            misses=prose("Misses"),
            text=text,
        )

    @staticmethod
    def blamed_line(code: str) -> int | None:
        """1-based number of the line of ``code`` that ends in ``# <-``, or None."""
        marked = [n for n, line in enumerate(code.splitlines(), 1) if line.rstrip().endswith(BLAME_MARK)]
        return marked[0] if marked else None

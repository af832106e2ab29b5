"""The findings of a session: one per line and cause, counted, however often a loop runs into it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace

from ..evidence import Finding

__all__ = ["Collector"]

_MOST = 200


@dataclass(slots=True)
class _Entry:
    finding: Finding
    count: int
    first: int
    last: int


class Collector:
    """Keeps the first finding of each cause and counts the others; its memory does not grow with a loop."""

    def __init__(self) -> None:
        self._entries: dict[Hashable, _Entry] = {}

    def add(self, key: Hashable, moment: int, make: Callable[[], Finding]) -> Finding | None:
        """Count an occurrence; ``make`` is called for the first one only.

        Args:
            key: line and cause.
            moment: number of the backward or step in which it occurred.
            make: builds the finding.

        Returns:
            The finding of this cause, or None when there are too many already.
        """
        entry = self._entries.get(key)
        if entry is not None:
            entry.count += 1
            entry.last = moment
        elif len(self._entries) >= _MOST:
            return None
        else:
            entry = self._entries[key] = _Entry(make(), 1, moment, moment)
        return entry.finding

    def findings(self) -> list[Finding]:
        """Each with its count and, where it occurred again, its first and last occurrence."""
        found = []
        for entry in self._entries.values():
            finding = entry.finding
            if entry.count > 1:
                evidence = {**finding.evidence, "first": entry.first, "last": entry.last}
                finding = replace(finding, count=entry.count, evidence=evidence)
            found.append(finding)
        return found

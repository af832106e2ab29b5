"""The baseline: findings that are known, so that an old code base can begin today and only new ones fail.

A finding is known by its fingerprint (rule, file, function, text of the line, operation), which lines inserted above
do not change. Each entry also names the tests that made it: an entry is gone only if all of them ran without it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradcheck_suite.errors import ConfigurationError

if TYPE_CHECKING:
    from gradcheck_suite.evidence import Finding

__all__ = ["Baseline", "Entry", "entry_of"]

_FORMAT = 1


@dataclass(frozen=True)
class Entry:
    """A known finding: its fingerprint, what a person needs to recognise it, and the tests that made it."""

    fingerprint: str
    rule: str
    severity: str
    file: str
    function: str
    source: str
    message: str
    tests: tuple[str, ...] = ()


def entry_of(finding: Finding, root: Path, tests: Iterable[str] = ()) -> Entry:
    """The entry by which a finding will be known."""
    from gradcheck_suite.report.fingerprint import blamed_source, fingerprint, path_below

    place = finding.location
    return Entry(
        fingerprint=fingerprint(finding, root),
        rule=f"{finding.code} {finding.rule}",
        severity=finding.severity.label,
        file=path_below(place.file, root) if place is not None else "",
        function=place.function if place is not None else "",
        source=blamed_source(finding),
        message=finding.message.split("\n", 1)[0],
        tests=tuple(sorted(tests)),
    )


class Baseline:
    """The entries of one file."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self.entries: dict[str, Entry] = {entry.fingerprint: entry for entry in entries}

    @classmethod
    def read(cls, path: Path, *, missing_is_empty: bool = False) -> Baseline:
        """Read a file.

        Args:
            missing_is_empty: whether a file that is not there yet has no entries.

        Raises:
            ConfigurationError: there is no such file, or it is not a baseline.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            if missing_is_empty:
                return cls()
            raise ConfigurationError(
                f"reading the baseline failed: there is no file {path}. "
                "Run once with --gradcheck-update-baseline to write it, and commit it."
            ) from None
        except OSError as error:
            raise ConfigurationError(f"reading the baseline failed: {error}. Check the path.") from error
        try:
            return cls(_entries(json.loads(text)))
        except (ValueError, TypeError, KeyError) as error:
            raise ConfigurationError(
                f"reading the baseline failed: {path} is no baseline ({error}). "
                "Restore it, or delete it and run with --gradcheck-update-baseline."
            ) from error

    def knows(self, fingerprint: str) -> bool:
        """Whether a finding is known."""
        return fingerprint in self.entries

    def gone(self, seen: Iterable[str], ran: Iterable[str]) -> list[Entry]:
        """The entries that no longer occur: all tests that made them ran, and none made them again.

        Args:
            seen: fingerprints of this run.
            ran: the tests that ran to their end.
        """
        occurred, done = set(seen), set(ran)
        return [
            entry
            for entry in self.entries.values()
            if entry.fingerprint not in occurred and entry.tests and done.issuperset(entry.tests)
        ]

    def updated(self, found: Mapping[str, Entry], ran: Iterable[str], *, complete: bool) -> Baseline:
        """What the file should say after this run.

        Args:
            found: what occurred, by fingerprint.
            ran: the tests that ran to their end.
            complete: whether no test was left out, so that whatever did not occur is gone.
        """
        if complete:
            return Baseline(found.values())
        done = set(ran)
        gone = {entry.fingerprint for entry in self.gone(found, done)}
        merged = {key: entry for key, entry in self.entries.items() if key not in gone}
        for key, entry in found.items():
            before = merged[key].tests if key in merged else ()
            # A test of the earlier run that has run again without it no longer makes it.
            tests = {*entry.tests, *(test for test in before if test not in done)}
            merged[key] = Entry(**{**asdict(entry), "tests": tuple(sorted(tests))})
        return Baseline(merged.values())

    def write(self, path: Path) -> None:
        """Write the file: sorted, one field per line, so that a review shows what was added."""
        ordered = sorted(self.entries.values(), key=lambda e: (e.file, e.rule, e.source, e.fingerprint))
        data = {"gradcheck_baseline": _FORMAT, "findings": [asdict(entry) for entry in ordered]}
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.tmp")
        temporary.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(temporary, path)


def _entries(data: Any) -> list[Entry]:
    if not isinstance(data, Mapping) or data.get("gradcheck_baseline") != _FORMAT:
        raise ValueError(f'"gradcheck_baseline": {_FORMAT} is missing')
    names = {item.name for item in fields(Entry)}
    entries = []
    for found in data["findings"]:
        if not isinstance(found, Mapping) or set(found) != names:
            raise ValueError(f"an entry has not the fields {', '.join(sorted(names))}")
        entries.append(Entry(**{**found, "tests": tuple(found["tests"])}))
    return entries

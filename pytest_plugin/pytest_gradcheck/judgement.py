"""What a finding means for its test: new, known from the baseline, expected, or caught by the test itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from .baseline import Baseline
from .marker import Wishes
from .options import Options

if TYPE_CHECKING:
    from gradcheck_suite.evidence import Finding, Report

__all__ = ["Aside", "Judge"]

# Findings that exist only because torch raised: a test that went on after it has caught the exception.
_RAISED = frozenset({"GC201", "GC401"})


@dataclass
class Aside:
    """Findings of one phase that are set aside, because nobody needs to be told.

    Attributes:
        expected: by code, those that the test's marker expects, or whose exception the test caught.
        known: fingerprints of those that the baseline lists.
    """

    expected: Counter[str] = field(default_factory=Counter)
    known: Counter[str] = field(default_factory=Counter)


class Judge:
    """Sorts the findings of each phase by the options, the baseline and the test's markers."""

    def __init__(self, options: Options, root: Path) -> None:
        """Read the baseline, if there is one.

        Raises:
            ConfigurationError: the file is missing or is no baseline.
        """
        self._options = options
        self._root = root
        self._baseline = Baseline()
        if options.baseline is not None and not options.update_baseline:
            self._baseline = Baseline.read(options.baseline)

    def sort(self, report: Report, wishes: Wishes, *, passed: bool, aside: Aside) -> Report:
        """The report with the findings that count; the others are noted in ``aside``.

        Args:
            passed: whether the phase ended without an exception.
        """
        wanted = self._options.wanted(report)
        kept = []
        for finding in wanted.findings:
            if finding.code in wishes.expected or (passed and finding.code in _RAISED):
                aside.expected[finding.code] += finding.count
            elif self._known(finding):
                aside.known[self._fingerprint(finding)] += finding.count
            else:
                kept.append(finding)
        return replace(wanted, findings=tuple(kept))

    def missing(self, wishes: Wishes, found: Sequence[str]) -> list[str]:
        """Which of the expected names have not occurred, although they could have.

        Args:
            found: codes of all that occurred in the test.
        """
        codes = frozenset(found)
        return [
            name
            for name, meant in wishes.expect
            if not meant & codes and any(self._options.looks_for(code) for code in meant)
        ]

    def _known(self, finding: Finding) -> bool:
        return bool(self._baseline.entries) and self._baseline.knows(self._fingerprint(finding))

    def _fingerprint(self, finding: Finding) -> str:
        from gradcheck_suite.report.fingerprint import fingerprint

        return fingerprint(finding, self._root)

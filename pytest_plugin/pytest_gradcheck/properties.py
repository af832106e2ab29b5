"""Findings as properties of the test in JUnit XML."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .transport import PhaseEvidence

if TYPE_CHECKING:
    from gradcheck_suite.evidence import Finding

__all__ = ["note_properties"]

_PREFIX = "gradcheck"


def note_properties(item: pytest.Item, when: str, evidence: PhaseEvidence, root: Path) -> None:
    """Add what a phase found to the properties of its test, from where pytest writes them.

    ``gradcheck.nodes`` is how many nodes were verified in the phase, ``gradcheck.finding`` stands once per finding.
    A test that ran no backward and in which nothing was found has none.
    """
    if when == "setup":  # of an earlier run, when a test is run again
        item.user_properties[:] = [p for p in item.user_properties if not p[0].startswith(_PREFIX)]
    for report in evidence.reports:
        nodes = report.counts.get("nodes", 0) - report.counts.get("nodes_unverified", 0)
        if nodes > 0:
            item.user_properties.append((f"{_PREFIX}.nodes", str(nodes)))
        # What was not verified is no finding about a line; GC190 stands in the summary.
        for finding in (f for f in report.findings if f.code != "GC190"):
            item.user_properties.append((f"{_PREFIX}.finding", _line(finding, root)))


def _line(finding: Finding, root: Path) -> str:
    from gradcheck_suite.report.fingerprint import path_below

    place = finding.location
    where = f" {path_below(place.file, root)}:{place.line}" if place is not None else ""
    first = finding.message.split("\n", 1)[0]
    return f"{finding.severity.label} {finding.code} {finding.rule}{where}: {first}"

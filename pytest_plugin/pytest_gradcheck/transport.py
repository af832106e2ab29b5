"""What travels with the report of a test: text, so that pytest-xdist and others can carry it anywhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from gradcheck_suite.evidence import Report

__all__ = ["WORKER_ERRORS", "PhaseEvidence", "attach", "read", "says_something"]

WORKER_ERRORS = "gradcheck_internal_errors"
"""Where a worker of pytest-xdist leaves its internal errors, in what it hands its controller at the end."""

_ATTRIBUTE = "gradcheck"


@dataclass(frozen=True)
class PhaseEvidence:
    """What one phase of one test brought to light.

    Attributes:
        reports: of the watched phase, and of each check that the ``gradcheck`` fixture made in it.
        skip: why the test was not watched, or "".
        worker: the process it comes from, as pytest-xdist calls it; "" without, or where there is nothing to tell.
        expected: how often each rule found what the test expects or has caught.
        known: how often each fingerprint of the baseline occurred.
    """

    reports: tuple[Report, ...] = ()
    skip: str = ""
    worker: str = ""
    expected: Mapping[str, int] = field(default_factory=dict)
    known: Mapping[str, int] = field(default_factory=dict)

    @property
    def tells(self) -> bool:
        """Whether anything happened in the phase that is worth telling."""
        happened = any(report.findings or report.counts.get("backwards") for report in self.reports)
        return happened or bool(self.skip or self.expected or self.known)


def says_something(report: Report) -> bool:
    """Whether a report is worth carrying: most set-ups, and tests without a gradient, have nothing to tell."""
    counted = any(count for name, count in report.counts.items() if name != "distinct_nodes")
    return counted or bool(report.findings or report.unverified or report.gradients or report.notes)


def attach(evidence: PhaseEvidence, report: pytest.TestReport) -> None:
    """Put the evidence on pytest's report of the phase.

    It becomes an attribute: pytest writes every attribute when it serialises a report, and other than
    ``user_properties`` it does not end up in JUnit XML. It is JSON text, no object: pytest-xdist ends the
    whole run over a value whose type it does not know, such as the subclass of ``str`` that ``torch.__version__`` is.

    Raises:
        TypeError, ValueError: the evidence holds something that JSON has no form for.
    """
    if not (evidence.reports or evidence.skip or evidence.expected or evidence.known):
        setattr(report, _ATTRIBUTE, "")  # a test without torch should cost nothing
        return
    data = {
        "reports": [_lighter(entry).to_dict() for entry in evidence.reports],
        "skip": evidence.skip,
        "worker": evidence.worker,
        "expected": dict(evidence.expected),
        "known": dict(evidence.known),
    }
    setattr(report, _ATTRIBUTE, json.dumps(data, allow_nan=False))


def read(report: pytest.TestReport) -> PhaseEvidence | None:
    """The evidence on a report, from this process or another; None if it carries none.

    Raises:
        ValueError: what it carries is malformed; the field is named.
    """
    text: str | None = getattr(report, _ATTRIBUTE, None)
    if text is None:
        return None
    if not text:
        return PhaseEvidence()
    data = json.loads(text)
    reports: tuple[Report, ...] = ()
    if data["reports"]:
        # Where no test uses torch there is no report, and nothing of the package need be imported.
        from gradcheck_suite.evidence import Report

        reports = tuple(Report.from_dict(entry) for entry in data["reports"])
    return PhaseEvidence(reports, data["skip"], data["worker"], data["expected"], data["known"])


def _lighter(report: Report) -> Report:
    """Without what only the page about one single check shows: the graph and its nodes, which the counts sum up."""
    from gradcheck_suite.evidence import Outcome

    gradients = (replace(g, testimonies=()) if g.outcome is Outcome.AGREE else g for g in report.gradients)
    return replace(
        report,
        nodes=(),
        gradients=tuple(gradients),
        graph_nodes=(),
        graph_edges=(),
        graph_dot="",
        testimonies=(),
    )

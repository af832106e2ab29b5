"""The evidence of all tests as one report: equal findings once, with the tests in which they were made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gradcheck_suite.wording import plural

from .transport import PhaseEvidence

if TYPE_CHECKING:
    from gradcheck_suite.evidence import Finding, GradientVerdict, Report, Unverified

__all__ = ["FoundFinding", "RunTotals", "run_report", "totals"]

_MOST_VERIFIED = 1000  # verified gradients listed; the others of a long run are counted


@dataclass(frozen=True)
class FoundFinding:
    """A finding and the tests in which it was made, in the order of the run."""

    finding: Finding
    tests: tuple[str, ...]


@dataclass(frozen=True)
class RunTotals:
    """What the evidence of a run sums up to.

    Attributes:
        tests: how many were watched.
        tests_with_backward: in how many of them a backward ran.
        skipped: how many were not watched, by the reason.
        findings: the most severe first.
        unverified: what no witness could speak about, the most frequent first.
        counts: sums of the counts of all reports.
        distinct: how many different nodes were verified, added up over processes and single checks.
        distinct_at_most: whether some of them may be equal: processes and single checks know nothing of each other.
        seconds: what verifying took.
        expected: how many findings their tests expect, or have caught the exception of.
        known: how often each fingerprint of the baseline occurred.
    """

    tests: int
    tests_with_backward: int
    skipped: Mapping[str, int]
    findings: tuple[FoundFinding, ...]
    unverified: tuple[Unverified, ...]
    counts: Mapping[str, int]
    distinct: int
    distinct_at_most: bool
    seconds: float
    expected: int
    known: Mapping[str, int]


Evidence = Mapping[tuple[str, str], PhaseEvidence]


def totals(evidence: Evidence) -> RunTotals:
    """Sum up what was found, by (test, phase)."""
    tests = {test for test, _ in evidence}
    skipped = {test: phase.skip for (test, _), phase in evidence.items() if phase.skip}
    counts: Counter[str] = Counter()
    seconds = 0.0
    expected = 0
    known: Counter[str] = Counter()
    backward = set()
    # A ledger counts on from test to test, so the largest of its numbers is the last.
    distinct: dict[str, int] = {}
    checked = 0
    for phase in evidence.values():
        expected += sum(phase.expected.values())
        known.update(phase.known)
        for report in phase.reports:
            seen = report.counts.get("distinct_nodes", 0)
            distinct[phase.worker] = max(distinct.get(phase.worker, 0), seen)
            if "distinct_nodes" not in report.counts:  # a single check, which knows of no other
                checked += report.counts.get("nodes", 0)
    unverified: Counter[tuple[str, str]] = Counter()
    for (test, _), report in _reports(evidence):
        # A single check runs one backward and does not count it.
        own = {"backwards": 1, **report.counts} if report.counts.get("nodes") else report.counts
        counts.update({name: n for name, n in own.items() if name != "distinct_nodes"})
        seconds += sum(_own_time(report).values())
        unverified.update({(u.subject, u.reason): u.count for u in report.unverified})
        if own.get("backwards"):
            backward.add(test)
    return RunTotals(
        tests=len(tests) - len(skipped),
        tests_with_backward=len(backward),
        skipped=Counter(skipped.values()),
        findings=_merge(evidence),
        unverified=_unverified(unverified),
        counts=counts,
        distinct=sum(distinct.values()) + checked,
        distinct_at_most=checked > 0 or sum(n > 0 for n in distinct.values()) > 1,
        seconds=seconds,
        expected=expected,
        known=known,
    )


def _unverified(counted: Counter[tuple[str, str]]) -> tuple[Unverified, ...]:
    if not counted:  # a run without torch, which has not imported the evidence either
        return ()
    from gradcheck_suite.evidence import Unverified

    return tuple(Unverified(subject, reason, n) for (subject, reason), n in counted.most_common())


def run_report(title: str, evidence: Evidence, summed: RunTotals, arguments: Sequence[str]) -> Report:
    """One report about the whole run, for the files.

    Args:
        arguments: pytest's command line.
    """
    from gradcheck_suite.evidence import Report

    gradients, left = _gradients(evidence)
    notes = [
        f"{plural(summed.tests, 'test')} watched, {summed.tests_with_backward:,} of them ran a backward",
        *(f"{plural(n, 'test')} not watched: {reason}" for reason, n in summed.skipped.items()),
    ]
    if left:
        notes.append(f"{plural(left, 'more verified gradient')} not listed")
    timings: Counter[str] = Counter()
    environment: dict[str, str] = {}
    for _, report in _reports(evidence):
        for name, value in report.environment.items():
            environment.setdefault(name, value)
        for name, spent in _own_time(report).items():
            timings[name] += spent  # type: ignore[assignment]  # a Counter of seconds
    return Report(
        title=title,
        findings=tuple(_with_tests(found) for found in summed.findings),
        gradients=gradients,
        unverified=summed.unverified,
        notes=tuple(notes),
        environment=environment,
        timings=dict(timings),
        counts={
            **summed.counts,
            "distinct_nodes": summed.distinct,
            "tests": summed.tests,
            "tests_with_backward": summed.tests_with_backward,
        },
        reproduction=" ".join(["pytest", *arguments]),
    )


def _reports(evidence: Evidence) -> Iterable[tuple[tuple[str, str], Report]]:
    return (((test, when), report) for (test, when), phase in evidence.items() for report in phase.reports)


def _own_time(report: Report) -> dict[str, float]:
    """Seconds by stage; not the total, which for a session is how long the test itself took."""
    return {name: spent for name, spent in report.timings.items() if name != "total"}


def _merge(evidence: Evidence) -> tuple[FoundFinding, ...]:
    """The same rule at the same line about the same thing is one finding, however many tests ran into it."""
    merged: dict[tuple[object, ...], FoundFinding] = {}
    for (test, _), report in _reports(evidence):
        for finding in report.findings:
            subject = str(finding.evidence.get("subject", finding.message))
            key = (finding.code, finding.location, finding.op, subject)
            known = merged.get(key)
            if known is None:
                merged[key] = FoundFinding(finding, (test,))
                continue
            tests = known.tests if test in known.tests else (*known.tests, test)
            merged[key] = FoundFinding(
                replace(known.finding, count=known.finding.count + finding.count), tests
            )
    return tuple(sorted(merged.values(), key=lambda found: -found.finding.severity))


def _with_tests(found: FoundFinding) -> Finding:
    # The node's number belongs to a graph that the page of a whole run does not show.
    evidence = {key: value for key, value in found.finding.evidence.items() if key != "node"}
    return replace(found.finding, evidence={**evidence, "tests": list(found.tests)})


def _gradients(evidence: Evidence) -> tuple[tuple[GradientVerdict, ...], int]:
    """All that are not verified and the first that are, named by their test; and how many were left out."""
    from gradcheck_suite.evidence import Outcome

    verdicts = [
        replace(verdict, name=f"{test}: {verdict.name}")
        for (test, _), report in _reports(evidence)
        for verdict in report.gradients
    ]
    verified = sum(v.outcome is Outcome.AGREE for v in verdicts)
    if verified <= _MOST_VERIFIED:
        return tuple(verdicts), 0
    rest = [v for v in verdicts if v.outcome is not Outcome.AGREE]
    return (
        *rest,
        *[v for v in verdicts if v.outcome is Outcome.AGREE][:_MOST_VERIFIED],
    ), verified - _MOST_VERIFIED

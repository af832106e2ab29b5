"""The report in a few lines: the headline, the facts below it, and one witness's statement in words."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..evidence import Finding, NodeVerdict, Outcome, Report, Severity, Testimony
from ..wording import element, pair, plural, seconds, small

__all__ = ["HOW", "MARKS", "TestimonyRow", "facts", "headline", "local", "node_status", "testimony_row"]

# Statuses as they appear in class names and legends, with the sign and the word for each; colour only repeats them.
MARKS: Mapping[str, tuple[str, str]] = {
    "agree": ("✓", "verified"),
    "disagree": ("✗", "wrong"),
    "inconclusive": ("?", "inconclusive"),
    "unverified": ("–", "not verified"),
}

HOW = {
    "meaning": "by their meaning in the engine",
    "decomposition": "by decomposition",
    "numerical": "numerically",
    "exact": "with nothing to compute",
}
_WITNESSES = {
    "engine": "engine",
    "sum": "sums",
    "replay": "replay in the engine",
    "finite_difference": "finite differences",
    "torch_reverse": "torch",
}


@dataclass(frozen=True)
class TestimonyRow:
    """One witness's statement: words, and the numbers of the worst element."""

    __test__ = False  # not a test class, whatever its name suggests to pytest

    witness: str
    subject: str
    status: str
    mark: str
    word: str
    numbers: str
    reason: str


def node_status(verdict: NodeVerdict) -> str:
    """``"unverified"`` when nothing could be computed for the node, otherwise its outcome."""
    if verdict.outcome is Outcome.INCONCLUSIVE and not verdict.how:
        return "unverified"
    return verdict.outcome.value


def headline(report: Report, status: str) -> str:
    """The verdict in one sentence."""
    total, verified = len(report.gradients), len(report.verified)
    some = f"{verified:,} of {plural(total, 'gradient')} verified"
    if status == "nothing":
        what = f"0 of {plural(total, 'gradient')} verified" if total else "there was no gradient to verify"
        return f"{what}; that is not a pass, the reasons are below"
    everything = f"every element of {plural(total, 'gradient')} verified"
    seen = everything if verified == total else some
    if status == "fail":
        return f"{_severities(report.findings)}; {some}"
    others = _severities(report.findings)
    return f"{seen}; {others}" if others else seen


def _severities(findings: Iterable[Finding]) -> str:
    counts = Counter(f.severity for f in findings if f.severity > Severity.NOTE)
    return ", ".join(plural(counts[s], s.label) for s in sorted(counts, reverse=True))


def facts(report: Report) -> Iterable[tuple[str, str]]:
    """What was checked, how and with which result, as (name, value)."""
    outcomes = Counter(g.outcome for g in report.gradients)
    if report.gradients:
        yield (
            "gradients",
            _join(
                f"{outcomes[Outcome.AGREE]:,} of {len(report.gradients):,} verified",
                (outcomes[Outcome.DISAGREE], "wrong"),
                (outcomes[Outcome.INCONCLUSIVE], "inconclusive"),
            ),
        )
    if report.nodes:
        statuses = Counter(map(node_status, report.nodes))
        how = Counter(n.how for n in report.nodes if n.outcome is Outcome.AGREE)
        ways = ", ".join(f"{how[key]:,} {text}" for key, text in HOW.items() if how[key])
        yield (
            "nodes",
            _join(
                f"{statuses['agree']:,} of {len(report.nodes):,} verified" + (f" ({ways})" if ways else ""),
                (statuses["disagree"], "wrong"),
                (statuses["inconclusive"], "inconclusive"),
                (statuses["unverified"], "not verified"),
            ),
        )
    elements = report.counts.get("elements", sum(n.elements for n in report.nodes))
    if elements:
        yield "elements", f"{elements:,} compared one by one"
    yield from _whole_model(report.testimonies)
    if report.unverified:
        reasons = plural(len({u.reason for u in report.unverified}), "reason")
        yield "not verified", f"{sum(u.count for u in report.unverified):,}, for {reasons}"
    if report.counts.get("suppressed"):
        yield "silenced", f"{plural(report.counts['suppressed'], 'finding')} by ignore"
    if report.timings:
        # A total, where there is one, is not a stage of its own.
        stages = {name: value for name, value in report.timings.items() if name != "total"}
        total = report.timings.get("total", sum(stages.values()))
        parts = ", ".join(f"{name} {seconds(value)}" for name, value in stages.items())
        yield "time", f"{seconds(total)} ({parts})" if parts else seconds(total)


def _whole_model(testimonies: Sequence[Testimony]) -> Iterable[tuple[str, str]]:
    """One line per witness; where it spoke several times, how often it agreed and its weightiest statement."""
    by_witness: dict[str, list[Testimony]] = {}
    for testimony in testimonies:
        by_witness.setdefault(testimony.witness, []).append(testimony)
    order = (Outcome.DISAGREE, Outcome.INCONCLUSIVE, Outcome.AGREE)
    for group in by_witness.values():
        counts = Counter(t.outcome for t in group)
        worst = min(group, key=lambda t: (order.index(t.outcome), -_severeness(t)))
        row = testimony_row(worst)
        if len(group) == 1:
            yield row.witness, "; ".join(filter(None, (row.word, row.numbers, row.reason)))
            continue
        words = {Outcome.AGREE: "agree", Outcome.DISAGREE: "disagree", Outcome.INCONCLUSIVE: "inconclusive"}
        tally = ", ".join(f"{counts[o]:,} of {len(group):,} {words[o]}" for o in order if counts[o])
        detail = row.numbers or row.reason
        yield (
            row.witness,
            f"{tally}; {'largest ' if detail.startswith('error') else 'worst: '}{detail}"
            if detail
            else tally,
        )


def _severeness(testimony: Testimony) -> float:
    """How far beyond its tolerance the worst element lies."""
    numbers = testimony.comparison
    if numbers is None or not numbers.tolerance > 0:
        return 0.0
    ratio = numbers.error / numbers.tolerance
    return ratio if ratio == ratio else math.inf


def local(text: str) -> str:
    """A text with the working directory taken out of the paths in it, as :func:`relative_path` does for one."""
    return text.replace(os.path.join(os.getcwd(), ""), "")


def _join(head: str, *counted: tuple[int, str]) -> str:
    return ", ".join([head, *(f"{count:,} {word}" for count, word in counted if count)])


def testimony_row(testimony: Testimony) -> TestimonyRow:
    """Put one statement into words."""
    status = testimony.outcome.value
    mark, word = MARKS[status]
    if status == "agree":
        word = "agrees"
    elif status == "disagree":
        word = "disagrees"
    return TestimonyRow(
        witness=_WITNESSES.get(testimony.witness, testimony.witness.replace("_", " ")),
        subject=local(testimony.subject),
        status=status,
        mark=mark,
        word=word,
        numbers=_comparison(testimony),
        reason=local(testimony.reason),
    )


def _comparison(testimony: Testimony) -> str:
    numbers = testimony.comparison
    if numbers is None:
        return ""
    if testimony.outcome is Outcome.DISAGREE:
        actual, expected = pair(numbers.actual, numbers.expected)
        place = f" at {element(numbers.index)}" if numbers.index else ""
        return (
            f"{actual} instead of {expected}{place}; {numbers.differing:,} of {numbers.elements:,} differ, "
            f"tolerance {small(numbers.tolerance)}"
        )
    return f"error {small(numbers.max_error)}, tolerance {small(numbers.tolerance)}"

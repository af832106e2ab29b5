"""What every format shows: the report's facts put into words, rounded and ordered, as plain dataclasses."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..evidence import (
    Finding,
    GradientVerdict,
    Location,
    NodeVerdict,
    Report,
)
from ..rules import find_rule
from ..wording import number, relative_path, seconds, small
from .summary import HOW, MARKS, TestimonyRow, facts, headline, local, node_status, testimony_row

__all__ = [
    "MARKS",
    "ExcerptView",
    "FindingView",
    "GradientRow",
    "NodeRow",
    "ReportView",
    "TestimonyRow",
    "UnverifiedRow",
    "node_status",
    "view_of",
]

_MOST_NODES = (
    1500  # rows of the node table; wrong and unverified nodes come first, so that none of them is cut
)


@dataclass(frozen=True)
class ExcerptView:
    """Source lines with the one that matters marked: ``lines`` holds (number, text, is the line)."""

    role: str
    where: str
    function: str
    lines: tuple[tuple[int, str, bool], ...]


@dataclass(frozen=True)
class FindingView:
    """A finding, ready to be shown."""

    code: str
    rule: str
    severity: str
    where: str
    context: str
    lines: tuple[str, ...]
    hint: str
    count: str
    excerpts: tuple[ExcerptView, ...]
    numbers: tuple[tuple[str, str], ...]
    reproduction: str
    summary: str
    why: str
    anchor: str
    node: int | None


@dataclass(frozen=True)
class GradientRow:
    """One parameter or input. ``bar`` is the place of its scale between the smallest and largest, 0 to 100."""

    name: str
    kind: str
    shape: str
    dtype: str
    status: str
    mark: str
    word: str
    scale: str
    bar: int | None
    error: str
    nodes: int
    reason: str
    testimonies: tuple[TestimonyRow, ...]


@dataclass(frozen=True)
class NodeRow:
    """One autograd node."""

    key: int
    name: str
    op: str
    where: str
    module: str
    status: str
    mark: str
    word: str
    how: str
    inputs: str
    outputs: str
    elements: str
    testimonies: tuple[TestimonyRow, ...]


@dataclass(frozen=True)
class UnverifiedRow:
    """What was not verified, and why; ``count`` is "" for one."""

    subject: str
    reason: str
    count: str


@dataclass(frozen=True)
class ReportView:
    """The whole report, ready to be arranged.

    ``status`` is ``"pass"``, ``"fail"`` or ``"nothing"``; ``verdict`` the word for it.
    """

    title: str
    status: str
    verdict: str
    headline: str
    facts: tuple[tuple[str, str], ...]
    findings: tuple[FindingView, ...]
    gradients: tuple[GradientRow, ...]
    nodes: tuple[NodeRow, ...]
    nodes_left_out: int
    testimonies: tuple[TestimonyRow, ...]
    unverified: tuple[UnverifiedRow, ...]
    notes: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    timings: tuple[tuple[str, str], ...]
    reproduction: str


def view_of(report: Report) -> ReportView:
    """Turn a report's facts into what is shown."""
    status = "fail" if report.errors else "pass" if report.verified else "nothing"
    order = {"disagree": 0, "inconclusive": 1, "unverified": 2, "agree": 3}
    nodes = (
        sorted(report.nodes, key=lambda n: order[node_status(n)])
        if len(report.nodes) > _MOST_NODES
        else report.nodes
    )
    # What GC190 says stands in the section of its own; saying it twice would bury the rest.
    findings = [f for f in report.findings if not (f.code == "GC190" and report.unverified)]
    return ReportView(
        title=report.title,
        status=status,
        verdict={"pass": "PASS", "fail": "FAIL", "nothing": "NOTHING VERIFIED"}[status],
        headline=headline(report, status),
        facts=tuple(facts(report)),
        findings=tuple(
            _finding(f, place) for place, f in enumerate(sorted(findings, key=lambda f: -f.severity), 1)
        ),
        gradients=_gradients(report.gradients),
        nodes=tuple(map(_node, nodes[:_MOST_NODES])),
        nodes_left_out=max(0, len(nodes) - _MOST_NODES),
        testimonies=tuple(map(testimony_row, report.testimonies)),
        unverified=tuple(
            UnverifiedRow(local(u.subject), local(u.reason), f"{u.count:,} times" if u.count > 1 else "")
            for u in report.unverified
        ),
        notes=report.notes,
        environment=tuple(report.environment.items()),
        timings=tuple((name, seconds(value)) for name, value in report.timings.items()),
        reproduction=report.reproduction,
    )


# ------------------------------------------------------------------------------------------------ findings


def _finding(finding: Finding, place: int) -> FindingView:
    info = find_rule(finding.code)
    node = finding.evidence.get("node")
    return FindingView(
        code=finding.code,
        rule=finding.rule,
        severity=finding.severity.label,
        where=where(finding.location),
        context=_context(finding),
        lines=tuple(local(finding.message).splitlines()),
        hint=local(finding.hint),
        count=f"seen {finding.count:,} times" if finding.count > 1 else "",
        excerpts=tuple(_excerpts(finding)),
        numbers=tuple(
            (key.replace("_", " "), _evidence_value(value)) for key, value in finding.evidence.items()
        ),
        reproduction=finding.reproduction,
        summary=info.page.summary if info else "",
        why=info.page.why if info else "",
        anchor=f"finding-{place}",
        node=node if isinstance(node, int) else None,
    )


def _context(finding: Finding) -> str:
    if finding.module and finding.op:
        return f"in {finding.module} ({finding.op})"
    return f"in {finding.module or finding.op}" if finding.module or finding.op else ""


def _excerpts(finding: Finding) -> Iterable[ExcerptView]:
    places = [("blamed", finding.location), *((r.role, r.location) for r in finding.related)]
    for role, location in places:
        if location is None:
            continue
        taken = finding.excerpts.get(str(location))
        numbered = enumerate(taken.lines, taken.first_line) if taken else ()
        yield ExcerptView(
            role=role,
            where=where(location),
            function=location.function,
            lines=tuple((n, text, n == location.line) for n, text in numbered),
        )


def _evidence_value(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, (float, complex)):
        return number(value, 7)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_evidence_value, value))}]"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_evidence_value(entry)}" for key, entry in value.items())
    return str(value)


def where(location: Location | None) -> str:
    """``model.py:31``, relative to the working directory; "" without a location."""
    return f"{relative_path(location.file)}:{location.line}" if location else ""


# ------------------------------------------------------------------------------------------------ tables


def _gradients(verdicts: Sequence[GradientVerdict]) -> tuple[GradientRow, ...]:
    logs = [math.log10(g.scale) for g in verdicts if 0 < g.scale < math.inf]
    low, high = (min(logs), max(logs)) if logs else (0.0, 0.0)

    def bar(scale: float) -> int | None:
        if not 0 < scale < math.inf:
            return None
        # At least one decade is shown, so that equal layers do not look far apart.
        width = max(high - low, 1.0)
        return round(100 * (1 - (high - math.log10(scale)) / width))

    rows = []
    for verdict in verdicts:
        status = verdict.outcome.value
        mark, word = MARKS[status]
        rows.append(
            GradientRow(
                name=verdict.name,
                kind=verdict.kind,
                shape=shape_text(verdict.shape),
                dtype=verdict.dtype,
                status=status,
                mark=mark,
                word=word,
                scale=small(verdict.scale),
                bar=bar(verdict.scale),
                error="" if verdict.error is None else small(verdict.error),
                nodes=verdict.nodes,
                reason=local(verdict.reason),
                testimonies=tuple(map(testimony_row, verdict.testimonies)),
            )
        )
    return tuple(rows)


def shape_text(shape: Sequence[int]) -> str:
    """``64 x 3 x 7``; ``scalar`` for a 0-d tensor."""
    return " x ".join(map(str, shape)) or "scalar"


def _node(verdict: NodeVerdict) -> NodeRow:
    status = node_status(verdict)
    mark, word = MARKS[status]
    return NodeRow(
        key=verdict.key,
        name=verdict.name,
        op=verdict.op,
        where=where(verdict.location),
        module=verdict.module,
        status=status,
        mark=mark,
        word=word,
        how=HOW.get(verdict.how, verdict.how).replace("their", "its"),
        inputs=", ".join(verdict.inputs),
        outputs=", ".join(verdict.outputs),
        elements=f"{verdict.elements:,}",
        testimonies=tuple(map(testimony_row, verdict.testimonies)),
    )

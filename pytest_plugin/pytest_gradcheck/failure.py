"""Findings in pytest's failure output, in the form and colours of any other failure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import pytest
from _pytest._code.code import (  # pytest has no public way to build a failure of one's own
    ReprEntry,
    ReprExceptionInfo,
    ReprFileLocation,
    ReprTraceback,
)

from gradcheck_suite.evidence import CodeExcerpt, Finding, Report, Severity
from gradcheck_suite.report.text import finding_text
from gradcheck_suite.report.view import FindingView, view_of
from gradcheck_suite.wording import plural, relative_path

__all__ = ["add_findings", "as_failure", "failure_message"]

_MOST = 10  # findings shown for one test; a loop with a new fault in every step would fill the screen
_AROUND = 1
_SECTION = "gradcheck: found in this test"


def failure_message(findings: Sequence[Finding]) -> str:
    """What the exception says that makes a test fail."""
    return f"{plural(len(findings), 'finding')}\n\n{_text(findings)}"


def as_failure(findings: Sequence[Finding], item: pytest.Item, style: str) -> ReprExceptionInfo:
    """The findings as the reason why a test failed.

    Args:
        findings: at least one.
        item: the test; it stands for the place of a finding that has none.
        style: pytest's ``--tb``.
    """
    shown, left = findings[:_MOST], len(findings) - _MOST
    entries = [_entry(finding, view, style) for finding, view in zip(shown, _views(shown))]
    first = findings[0]
    more = f" (and {plural(len(findings) - 1, 'more finding')})" if len(findings) > 1 else ""
    message = f"{first.code} {first.rule}: {_first_line(first)}{more}"
    if first.location is not None:
        crash = ReprFileLocation(first.location.file, first.location.line, message)
    else:
        path, line, _ = item.reportinfo()
        crash = ReprFileLocation(str(path), (line or 0) + 1, message)
    extra = f"... and {plural(left, 'more finding')}" if left > 0 else None
    form: Literal["short", "long"] = "short" if style in ("short", "line") else "long"
    traceback = ReprTraceback(entries, extraline=extra, style=form)
    return ReprExceptionInfo(reprtraceback=traceback, reprcrash=crash)


def add_findings(report: pytest.TestReport, findings: Sequence[Finding], style: str) -> None:
    """Add the findings to a test that failed by itself: they are often the reason."""
    told = [f for f in findings if f.severity > Severity.NOTE]
    if not told:
        return
    text = (
        "\n".join(f"{f.location or ''} {f.code} {f.rule}".lstrip() for f in told)
        if style == "line"
        else _text(told)
    )
    add = getattr(report.longrepr, "addsection", None)
    if add is not None:
        add(_SECTION, text)
    else:  # a text or nothing, as other plugins make it
        report.sections.append((_SECTION, text))


def _views(findings: Sequence[Finding]) -> Sequence[FindingView]:
    # The view puts the most severe first and leaves out notes that stand elsewhere; one at a time, all are there.
    return [view_of(Report("", findings=(finding,))).findings[0] for finding in findings]


def _text(findings: Sequence[Finding]) -> str:
    text = "\n".join(map(finding_text, _views(findings[:_MOST])))
    left = len(findings) - _MOST
    return f"{text}\n... and {plural(left, 'more finding')}" if left > 0 else text.rstrip()


def _first_line(finding: Finding) -> str:
    return finding.message.split("\n", 1)[0]


def _entry(finding: Finding, view: FindingView, style: str) -> ReprEntry:
    excerpt = finding.excerpts.get(str(finding.location))
    source = (
        [] if excerpt is None or finding.location is None else _source(excerpt, finding.location.line, style)
    )
    if style == "line":  # newer versions of pytest show it above the line that is made of the crash
        line = f"E   {view.code} {view.rule}: {_first_line(finding)}"
        return ReprEntry([line], None, None, None, style="short")
    if source:  # then the blamed line stands there already
        view = replace(view, excerpts=tuple(e for e in view.excerpts if e.role != "blamed"))
    message = [f"E   {line}".rstrip() for line in finding_text(view).splitlines()]
    # An empty line inside the message must keep the mark, or it would end up among the source lines.
    message = [line if line != "E" else "E   " for line in message]
    place = None
    if finding.location is not None:
        path = relative_path(finding.location.file)
        what = f"{view.code} {view.rule}"
        if style == "short":
            what = f"in {finding.location.function}" if finding.location.function else what
        place = ReprFileLocation(path, finding.location.line, what)
    return ReprEntry([*source, *message], None, None, place, style="short" if style == "short" else "long")


def _source(excerpt: CodeExcerpt, line: int, style: str) -> list[str]:
    """The blamed line, marked as pytest marks it, with its neighbours unless the style is short."""
    around = 0 if style == "short" else _AROUND
    numbered = [(n, t) for n, t in enumerate(excerpt.lines, excerpt.first_line) if abs(n - line) <= around]
    texts = [text for _, text in numbered if text.strip()]
    indent = min((len(text) - len(text.lstrip()) for text in texts), default=0)
    if style == "short":
        return [f"    {text[indent:]}" for _, text in numbered]
    return [f"{'>' if n == line else ' '}   {text[indent:]}".rstrip() for n, text in numbered]

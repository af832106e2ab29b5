"""The report as text: plain in files, logs and exceptions, coloured on a terminal.

The plain form is ASCII except for what the user's own names contain, so that no console encoding refuses it.
"""

from __future__ import annotations

import io
from collections.abc import Iterable

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ..evidence import Report
from .view import FindingView, GradientRow, ReportView, view_of

__all__ = ["FORMATS", "finding_text", "print_report", "write_text"]

_WIDTH = 100
_FEW_GRADIENTS = 12
_MOST_ROWS = 30

_STYLES = {
    "pass": "bold green",
    "fail": "bold red",
    "nothing": "bold yellow",
    "error": "bold red",
    "warning": "bold yellow",
    "note": "bold cyan",
    "agree": "green",
    "disagree": "red",
    "inconclusive": "yellow",
}


def write_text(report: Report, width: int = _WIDTH) -> str:
    """The report without colour, at most ``width`` columns wide where words allow it."""
    return _plain(_render(view_of(report)), width)


def print_report(report: Report, console: Console | None = None) -> None:
    """Print to a console: coloured and as wide as the terminal if it is one, plain otherwise."""
    console = console or Console(highlight=False)
    if console.is_terminal:
        console.print(_render(view_of(report)), highlight=False)
    else:
        # Not through rich: it pads lines to the full width, and 80 columns is its guess for a file.
        console.file.write(write_text(report))


def finding_text(finding: FindingView, width: int = _WIDTH) -> str:
    """One finding as plain text, for a test's failure output."""
    return _plain(_finding(finding), width)


def _plain(what: RenderableType, width: int) -> str:
    stream = io.StringIO()
    console = Console(
        file=stream,
        width=width,
        color_system=None,
        force_terminal=False,
        highlight=False,
        emoji=False,
        markup=False,
    )
    console.print(what)
    # Rich pads the cells of tables; trailing blanks would only make diffs noisy.
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


def _render(view: ReportView) -> RenderableType:
    parts: list[RenderableType] = [_head(view)]
    for finding in view.findings:
        parts += ["", _finding(finding)]
    table = _gradients(view)
    if table is not None:
        parts += ["", table]
    if view.unverified:
        parts += [
            "",
            Text("not verified", style="bold"),
            Padding(_unverified(view), (0, 0, 0, 2), expand=False),
        ]
    if view.notes:
        parts += ["", *(_line("note: ", note, "cyan") for note in view.notes)]
    if view.reproduction and view.status != "pass":
        parts += [
            "",
            Text("to repeat this check", style="bold"),
            Padding(Text(view.reproduction), (0, 0, 0, 2), expand=False),
        ]
    if view.environment:
        facts = ", ".join(f"{name} {value}" for name, value in view.environment)
        parts += ["", Text(facts, style="dim")]
    return Group(*parts)


def _head(view: ReportView) -> RenderableType:
    head = Text.assemble(
        (view.verdict, _STYLES[view.status]), "  ", (view.title, "bold"), ": ", view.headline
    )
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in view.facts:
        table.add_row(name, Text(value))
    return Group(head, Padding(table, (0, 0, 0, 2), expand=False))


def _finding(finding: FindingView) -> RenderableType:
    head = Text.assemble((f"{finding.code} {finding.rule}", _STYLES[finding.severity]))
    for text in (finding.where, finding.context, finding.count):
        if text:
            head.append(f"  {text}")
    body: list[RenderableType] = [Text(line) for line in finding.lines]
    body += _code(finding)
    if finding.hint:
        body.append(_line("hint: ", finding.hint, "green"))
    return Group(head, Padding(Group(*body), (0, 0, 0, 2), expand=False))


def _code(finding: FindingView) -> Iterable[RenderableType]:
    """The blamed line and the other lines involved, one each: the report's file shows their surroundings."""
    for excerpt in finding.excerpts:
        marked = [(n, text) for n, text, is_line in excerpt.lines if is_line]
        # A related line is worth naming even where its source cannot be read; the blamed one stands in the head.
        if marked:
            yield Text(f"{excerpt.role}: {excerpt.where}: {marked[0][1].strip()}", style="dim")
        elif excerpt.role != "blamed":
            yield Text(f"{excerpt.role}: {excerpt.where}", style="dim")


def _line(label: str, text: str, style: str) -> RenderableType:
    table = Table.grid()
    table.add_column(no_wrap=True, style=style)
    table.add_column(overflow="fold")
    table.add_row(label, Text(text))
    return table


def _gradients(view: ReportView) -> RenderableType | None:
    """The rows with a problem; all of them when they are few."""
    problems = [row for row in view.gradients if row.status != "agree"]
    few = len(view.gradients) <= _FEW_GRADIENTS
    rows: list[GradientRow] = list(view.gradients) if few else problems
    if not rows:
        return None
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("gradient of", overflow="fold")
    table.add_column("shape", overflow="fold")
    table.add_column("verdict", no_wrap=True)
    table.add_column("largest", justify="right", no_wrap=True)
    if any(row.error for row in rows):
        table.add_column("replay error", justify="right", no_wrap=True)
    if any(row.reason for row in rows):
        table.add_column("why", overflow="fold")
    for row in rows[:_MOST_ROWS]:
        cells = [Text(row.name), Text(row.shape), Text(row.word, style=_STYLES[row.status]), Text(row.scale)]
        if any(r.error for r in rows):
            cells.append(Text(row.error))
        if any(r.reason for r in rows):
            cells.append(Text(row.reason))
        table.add_row(*cells)
    left = len(rows) - _MOST_ROWS
    rest = len(view.gradients) - len(rows)
    remarks = [f"... and {left:,} more"] if left > 0 else []
    remarks += [f"{rest:,} more verified"] if rest else []
    return Group(table, Text("; ".join(remarks), style="dim")) if remarks else table


def _unverified(view: ReportView) -> RenderableType:
    by_reason: dict[str, list[str]] = {}
    for row in view.unverified:
        by_reason.setdefault(row.reason, []).append(row.subject + (f" ({row.count})" if row.count else ""))
    lines = []
    for reason, subjects in by_reason.items():
        shown = ", ".join(subjects[:4]) + (f" and {len(subjects) - 4} more" if len(subjects) > 4 else "")
        lines.append(Text(f"{shown}: {reason}"))
    return Group(*lines)


FORMATS = {"": write_text, ".txt": write_text}

"""The section at the end of pytest's output."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pytest

from gradcheck_suite._version import __version__
from gradcheck_suite.wording import listing, plural, relative_path, seconds

from .aggregate import FoundFinding, RunTotals
from .baseline import Entry

__all__ = ["write_internal_errors", "write_summary"]

_MOST_REASONS = 5
_COLOURS = {"error": "red", "warning": "yellow", "note": "cyan"}


@dataclass(frozen=True)
class Epilogue:
    """What was done with the findings of a run.

    Attributes:
        written: the files.
        gone: entries of the baseline that no longer occur.
        baseline: what was done to the baseline file, or "".
    """

    written: tuple[str, ...] = ()
    gone: tuple[Entry, ...] = ()
    baseline: str = ""


def write_summary(terminal: pytest.TerminalReporter, summed: RunTotals, epilogue: Epilogue) -> None:
    """Counts, what was not verified, findings by rule, where they are, what was silenced, the time and the files.

    With ``-q`` it is one line; with ``-v`` nothing is shortened.
    """
    verbosity: int = terminal.config.getoption("verbose")
    if verbosity < 0:
        findings = _severities(summed.findings)
        terminal.write_line(f"gradcheck: {_verified(summed)}; {findings or 'no finding'}")
        return
    terminal.write_sep("=", "gradcheck")
    backwards = summed.counts.get("backwards", 0)
    if backwards:
        terminal.write_line(
            f"{plural(summed.tests, 'test')} watched, {summed.tests_with_backward:,} ran a backward "
            f"({plural(backwards, 'backward')})"
        )
    else:
        terminal.write_line(f"{plural(summed.tests, 'test')} watched")
    terminal.write_line(_verified(summed), yellow=not _verified_nodes(summed))
    for reason, count in summed.skipped.items():
        terminal.write_line(f"not watched: {plural(count, 'test')}, {reason}")
    _write_unverified(terminal, summed, verbosity)
    if summed.findings or backwards:
        _write_findings(terminal, summed.findings, verbosity)
    suppressed = summed.counts.get("suppressed", 0)
    if suppressed:
        terminal.write_line(f"silenced: {plural(suppressed, 'finding')}")
    if summed.expected:
        terminal.write_line(f"expected by their tests: {plural(summed.expected, 'finding')}")
    _write_baseline(terminal, summed, epilogue, verbosity)
    if backwards:
        terminal.write_line(f"time spent verifying: {seconds(summed.seconds)}")
    for path in epilogue.written:
        terminal.write_line(f"written: {relative_path(path)}")


def _write_baseline(
    terminal: pytest.TerminalReporter, summed: RunTotals, epilogue: Epilogue, verbosity: int
) -> None:
    if summed.known:
        times = sum(summed.known.values())
        seen = f" ({times:,} times)" if times > len(summed.known) else ""
        terminal.write_line(f"known from the baseline: {plural(len(summed.known), 'finding')}{seen}")
    if epilogue.gone:
        terminal.write_line(
            f"no longer found, though in the baseline: {plural(len(epilogue.gone), 'finding')} "
            "(--gradcheck-update-baseline takes them out)"
        )
        shown = epilogue.gone if verbosity > 0 else epilogue.gone[:3]
        for entry in shown:
            place = " ".join(part for part in (entry.file, entry.function) if part)
            terminal.write_line(f"    {entry.rule}  {place}: {entry.source or entry.message}".rstrip())
        if len(epilogue.gone) > len(shown):
            terminal.write_line(f"    and {len(epilogue.gone) - len(shown):,} more (-v shows all)")
    if epilogue.baseline:
        terminal.write_line(epilogue.baseline)


def write_internal_errors(terminal: pytest.TerminalReporter, errors: Sequence[str]) -> None:
    """Errors of our own, each once, so that nobody takes the run for a clean one."""
    terminal.write_sep("=", "gradcheck: internal error", red=True, bold=True)
    terminal.write_line(
        f"gradcheck-suite {__version__} failed {plural(len(errors), 'time')}. The tests keep their own outcomes; what "
        "failed below was not verified. Please report it with this text."
    )
    for text, count in Counter(errors).items():
        terminal.write_line("")
        terminal.write_line(f"{text}\n(seen {count:,} times)" if count > 1 else text)


def _verified_nodes(summed: RunTotals) -> int:
    return summed.counts.get("nodes", 0) - summed.counts.get("nodes_unverified", 0)


def _verified(summed: RunTotals) -> str:
    counts = summed.counts
    if not counts.get("backwards"):
        return "nothing verified: no test ran a backward"
    unverified = counts.get("nodes_unverified", 0)
    distinct = f"{'up to ' if summed.distinct_at_most else ''}{summed.distinct:,} distinct"
    parts = [
        f"{plural(_verified_nodes(summed), 'node')} verified ({distinct})",
        f"{plural(counts.get('elements', 0), 'element')} compared",
    ]
    if unverified:
        parts.append(f"{unverified:,} not verified")
    return ", ".join(parts)


def _write_unverified(terminal: pytest.TerminalReporter, summed: RunTotals, verbosity: int) -> None:
    by_reason: defaultdict[str, list[str]] = defaultdict(list)
    times: Counter[str] = Counter()
    for entry in summed.unverified:
        by_reason[entry.reason].append(entry.subject)
        times[entry.reason] += entry.count
    if not by_reason:
        return
    terminal.write_line("not verified:", yellow=True)
    reasons = times.most_common() if verbosity > 0 else times.most_common(_MOST_REASONS)
    for reason, count in reasons:
        subjects = listing(by_reason[reason], len(by_reason[reason]) if verbosity > 0 else 3)
        terminal.write_line(f"  {count:,} x {reason}: {subjects}")
    if len(times) > len(reasons):
        terminal.write_line(f"  and {plural(len(times) - len(reasons), 'more reason')} (-v shows all)")


def _write_findings(
    terminal: pytest.TerminalReporter, findings: Sequence[FoundFinding], verbosity: int
) -> None:
    rules: defaultdict[tuple[str, str], list[FoundFinding]] = defaultdict(list)
    for found in findings:
        # What was not verified stands above, reason by reason.
        if found.finding.code != "GC190":
            rules[found.finding.severity.label, f"{found.finding.code} {found.finding.rule}"].append(found)
    if not rules:
        terminal.write_line("no finding", green=True)
        return
    terminal.write_line("findings:")
    for (severity, rule), group in rules.items():
        tests = {test for found in group for test in found.tests}
        terminal.write(f"  {severity} {rule}", **{_COLOURS[severity]: True})
        terminal.write_line(f": {len(group):,} in {plural(len(tests), 'test')}")
        shown = group if verbosity > 0 or severity == "error" else group[:3]
        for found in shown:
            location = found.finding.location
            place = (
                f"{relative_path(location.file)}:{location.line}" if location is not None else "no line known"
            )
            where = listing([_short(test) for test in found.tests], len(found.tests) if verbosity > 0 else 2)
            terminal.write_line(f"    {place}  {where}")
        if len(group) > len(shown):
            terminal.write_line(f"    and {len(group) - len(shown):,} more (-v shows all)")


def _short(test: str) -> str:
    return test.replace(os.sep, "/")


def _severities(findings: Iterable[FoundFinding]) -> str:
    counts = Counter(found.finding.severity for found in findings if found.finding.code != "GC190")
    return ", ".join(plural(counts[severity], severity.label) for severity in sorted(counts, reverse=True))

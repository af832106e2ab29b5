"""Every planted lie is caught by the witness that is responsible for it, and blamed on the line that tells it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from lies import LIES, Lie
from reported_lies import REPORTED_LIES
from unusual_lies import UNUSUAL_LIES

from gradcheck_suite import Finding, Severity, check_gradients, watch

ALL = (*LIES, *REPORTED_LIES, *UNUSUAL_LIES)
LINES = {
    text.rsplit("# lie: ", 1)[1].strip(): (name, number)
    for name in ("lies.py", "reported_lies.py", "unusual_lies.py")
    for number, text in enumerate(Path(__file__).with_name(name).read_text(encoding="utf-8").splitlines(), 1)
    if "# lie: " in text
}
CODES = {"engine": ("GC101",), "sum": ("GC101",), "graph": ("GC501",), "difference": ("GC101", "GC501")}
UNPLACED = ("CTC of what is no log_softmax",)
"""Caught, but on no line: torch's convention of a node is the engine's too, and only the whole function disagrees."""


def marked(*lies: Lie) -> list[object]:
    """The lies for ``parametrize``; one that is known to be missed must be, until it is not."""
    return [
        pytest.param(lie, marks=pytest.mark.xfail(strict=True, reason=lie.missed)) if lie.missed else lie
        for lie in lies
    ]


def guilty(findings: tuple[Finding, ...], lie: Lie) -> list[Finding]:
    """The findings that say what there is to say about this lie."""
    return [f for f in findings if f.code in CODES[lie.witness] and f.severity == lie.severity]


@pytest.mark.parametrize("lie", marked(*ALL), ids=lambda lie: lie.name)
def test_is_caught_and_blamed_on_its_line(lie: Lie) -> None:
    report = check_gradients(lie.function, lie.inputs())
    found = guilty(report.findings, lie)
    assert found, str(report)
    assert report.ok is (lie.severity < Severity.ERROR)
    if lie.witness == "difference":
        name, line = LINES[lie.name]
        assert (f"{name}:{line}" in str(report)) is (lie.name not in UNPLACED)
        return
    for finding in found:
        assert finding.location is not None
        assert (Path(finding.location.file).name, finding.location.line) == LINES[lie.name]
        if lie.witness != "graph":
            assert finding.evidence["witness"] == lie.witness
            assert finding.evidence["differing"] >= 1


@pytest.mark.parametrize(
    "lie", marked(*(x for x in ALL if x.witness in ("engine", "sum"))), ids=lambda lie: lie.name
)
def test_is_caught_by_a_watcher_too(lie: Lie) -> None:
    """``watch`` sees every backward that a program runs; what flows around autograd is not in any backward."""
    inputs = [tensor.requires_grad_() for tensor in lie.inputs()]
    with watch() as session:
        output = lie.function(*inputs)
        generator = torch.Generator().manual_seed(5)
        output.backward(torch.randn(output.shape, dtype=output.dtype, generator=generator))
    assert not session.internal_errors
    found = guilty(session.report.findings, lie)
    # What overwrites a saved tensor is blamed itself, and the line that saved it is named beside it.
    hazards = [f for f in session.report.findings if f.code == "GC202"]
    assert found or hazards, str(session.report)
    lines = {f.location.line for f in found if f.location is not None}
    lines |= {near.location.line for f in hazards for near in f.related if near.role == "saved by"}
    assert lines == {LINES[lie.name][1]}


def test_only_the_element_that_is_wrong_is_accused() -> None:
    lie = next(x for x in LIES if x.name == "one element of 100,000")
    report = check_gradients(lie.function, lie.inputs())
    (finding,) = guilty(report.findings, lie)
    assert finding.evidence["element"] == [777, 77]
    assert (finding.evidence["differing"], finding.evidence["elements"]) == (1, 100_000)


def test_there_are_lies_enough_and_each_has_its_own_name() -> None:
    assert len(ALL) >= 100
    assert len({lie.name for lie in ALL}) == len(ALL)
    assert {lie.name for lie in ALL} == set(LINES)


def test_what_was_reported_says_where_and_each_thread_once() -> None:
    cites = [lie.cite for lie in ALL if lie.cite]
    assert len(cites) >= 25
    assert len(set(cites)) == len(cites)
    assert all(lie.cite for lie in REPORTED_LIES)
    assert all(re.fullmatch(r"[\w.-]+/[\w.-]+#\d+", cite) for cite in cites)

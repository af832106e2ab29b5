"""Each reported fault is found, by its rule alone and on the line that is to blame; its twin is left in peace."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections import Counter

import pytest
import torch

from gradcheck_suite import check_gradients, watch
from gradcheck_suite.evidence import Severity
from gradcheck_suite.rules import find_rule
from gradcheck_suite.watching import Ledger

from .entry import ENTRIES

for _group in (
    "overwritten",
    "stale_gradients",
    "freed_graphs",
    "lost_gradients",
    "bad_numbers",
    "misuse",
):
    importlib.import_module(f"{__package__}.{_group}")

LEDGER = Ledger()


def _cases(*, of_fault):
    cases = []
    for entry in ENTRIES:
        marks = []
        if entry.open and of_fault:
            marks.append(pytest.mark.xfail(strict=True, reason=entry.open, raises=AssertionError))
        cases.append(pytest.param(entry, id=f"{entry.rule}-{entry.name}", marks=marks))
    return cases


def _report_of(entry, function):
    torch.manual_seed(0)
    if entry.by_checking:
        model, *inputs = function()
        return check_gradients(model, tuple(inputs)), None
    error = kept = None
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        session = watch(shared=LEDGER)
        try:
            with session:
                kept = function()
        except Exception as raised:  # it leaves the session, as it leaves the user's program
            error = raised
    del kept  # what the loop returned has lived as long as the session
    assert session.internal_errors == []
    return session.report, error


def _told(report, code=""):
    return [f for f in report.findings if f.severity > Severity.NOTE or f.code == code]


@pytest.fixture(autouse=True)
def modes_of_torch():
    """Some of the faults leave a global mode of torch changed."""
    yield
    torch.set_grad_enabled(True)


@pytest.mark.parametrize("entry", _cases(of_fault=True))
def test_the_fault_is_found_on_its_line(entry):
    report, error = _report_of(entry, entry.fault)
    assert type(error) is (entry.raises or type(None)), repr(error)
    told = _told(report, entry.rule)
    rule = find_rule(entry.rule)
    if rule is not None and rule.severity > Severity.NOTE:
        told = [f for f in told if f.severity > Severity.NOTE]
    told = [f for f in told if f.code not in entry.beside]
    assert {f.code for f in told} == {entry.rule}, str(report)
    if entry.blamed is not None:
        assert {(f.location.file, f.location.line) for f in told if f.location} == {entry.blamed}, str(report)
    if error is not None and sys.version_info >= (3, 11):
        assert any(entry.rule in note for note in getattr(error, "__notes__", ())), (
            "the error carries no note"
        )


@pytest.mark.parametrize("entry", _cases(of_fault=False))
def test_the_twin_is_silent(entry):
    report, error = _report_of(entry, entry.twin)
    assert error is None
    assert _told(report, entry.rule) == [], str(report)


def test_there_are_enough_and_each_says_where_it_comes_from():
    assert len(ENTRIES) >= 40
    assert all(entry.source.startswith("https://") for entry in ENTRIES)
    per_rule = Counter(entry.rule for entry in ENTRIES)
    assert all(find_rule(code) for code in per_rule)


def test_twin_what_is_marked_is_really_looked_for():
    """The comparison above can fail: a finding on another line is not the one that was marked."""
    entry = next(e for e in ENTRIES if e.rule == "GC301")
    report, _ = _report_of(entry, entry.fault)
    (finding,) = _told(report)
    assert entry.blamed is not None
    assert (finding.location.file, finding.location.line + 1) != entry.blamed
    assert (finding.location.file, finding.location.line) == entry.blamed

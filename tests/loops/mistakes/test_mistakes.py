"""Each mistake is found by its rule alone and on its line, with and without verification, and ends as it ends unwatched."""

from __future__ import annotations

import importlib
import sys
import warnings

import pytest
import torch

from gradcheck_suite import watch
from gradcheck_suite.evidence import Severity
from gradcheck_suite.watching import Ledger

from .registry import MISTAKES

for _group in ("graphs_and_values", "unused_and_stale", "writers_and_values"):
    importlib.import_module(f"{__package__}.{_group}")

LEDGER = Ledger()


@pytest.fixture(autouse=True)
def modes_of_torch():
    """One of the mistakes leaves a global mode changed."""
    yield
    torch.set_grad_enabled(True)


@pytest.mark.parametrize("verify", [True, False], ids=["verified", "hazards"])
@pytest.mark.parametrize("mistake", [pytest.param(m, id=f"{m.code}-{name}") for name, m in MISTAKES.items()])
def test_a_mistake_is_found_on_its_line(mistake, verify):
    torch.manual_seed(0)
    error = None
    session = watch(verify=verify, shared=LEDGER)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        try:
            with session:
                mistake.run()
        except Exception as raised:  # it leaves the session, as it leaves the user's program
            error = raised
    assert session.internal_errors == []
    assert type(error) is (mistake.raises or type(None)), repr(error)
    told = [f for f in session.report.findings if f.severity > Severity.NOTE]
    assert {f.code for f in told} == {mistake.code}, str(session.report)
    if mistake.blamed is not None:
        assert {(f.location.file, f.location.line) for f in told if f.location} == {mistake.blamed}
    if error is not None and sys.version_info >= (3, 11):
        assert any(mistake.code in note for note in getattr(error, "__notes__", ()))


def test_there_are_enough():
    assert len(MISTAKES) >= 75
    assert sum(m.blamed is not None for m in MISTAKES.values()) >= 60

"""Workflow commands of GitHub Actions: one line each, everything escaped."""

from __future__ import annotations

import pytest

from gradcheck_suite.evidence import Finding, Location, Severity
from gradcheck_suite.report.annotations import workflow_commands


def test_one_line_each_the_most_severe_first(tmp_path):
    place = Location(str(tmp_path / "src" / "a, b%.py"), 12, "forward")
    error = Finding(
        "GC101", "gradient-mismatch", Severity.ERROR, "off by 100 %\r\nat :: [2, 7]", place, hint="look"
    )
    warning = Finding("GC502", "unused-parameter", Severity.WARNING, "no gradient")
    note = Finding("GC604", "nonsmooth-point", Severity.NOTE, "on a kink")
    assert workflow_commands([note, warning, error], tmp_path) == [
        "::error file=src/a%2C b%25.py,line=12,title=GC101 gradient-mismatch::"
        "off by 100 %25%0D%0Aat :: [2, 7]%0Ahint: look",
        "::warning title=GC502 unused-parameter::no gradient",
        "::notice title=GC604 nonsmooth-point::on a kink",
    ]


@pytest.mark.parametrize("text", ["%0A", "a\nb", "::set-output name=x::y", "100%"])
def test_nothing_breaks_out_of_its_command(text):
    (line,) = workflow_commands([Finding("GC101", text, Severity.ERROR, text)])
    assert "\n" not in line
    head, _, data = line.removeprefix("::error ").partition("::")
    assert ":" not in head
    assert data.replace("%0A", "\n").replace("%0D", "\r").replace("%25", "%") == text

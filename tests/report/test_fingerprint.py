"""Fingerprints: what makes two findings the same one."""

from __future__ import annotations

import os
from dataclasses import replace

from gradcheck_suite.evidence import Finding, Location, Severity
from gradcheck_suite.report.fingerprint import fingerprint, path_below


def test_paths(tmp_path):
    assert path_below(str(tmp_path / "a" / "b.py"), tmp_path) == "a/b.py"
    assert path_below("b.py", None) == "b.py"
    assert path_below(os.path.join("x", "site-packages", "torch", "nn.py"), "/elsewhere").endswith(
        "torch/nn.py"
    )
    assert path_below("/somewhere/else.py", tmp_path) == "/somewhere/else.py"


def test_the_same_in_another_checkout(tmp_path):
    def at(folder):
        place = Location(str(folder / "net.py"), 3, "forward")
        return fingerprint(Finding("GC101", "gradient-mismatch", Severity.ERROR, "m", place), folder)

    assert at(tmp_path / "one") == at(tmp_path / "two")


def test_without_a_line_the_subject_decides_and_numbers_do_not():
    first = Finding("GC502", "unused-parameter", Severity.WARNING, "linear.1.bias gets none of 12 gradients")
    other = replace(first, message="linear.1.bias gets none of 13 gradients")
    another = replace(first, message="linear.2.bias gets none of 12 gradients")
    assert fingerprint(first) == fingerprint(other)
    assert fingerprint(first) != fingerprint(another)
    assert fingerprint(first) != fingerprint(replace(first, code="GC503"))
    assert len(fingerprint(first)) == 20

"""Annotations are printed where GitHub Actions reads them, and nowhere else."""

from __future__ import annotations

import pytest

from .conftest import Suite

CASE = """
    import pytest
    from scripted import find

    def layer():
        find(message="off by 100 %\\nin each step")

    @pytest.mark.parametrize("n", [1, 2])
    def test_wrong(n):
        layer()

    def test_other():
        find("unused-parameter", "GC502", "warning")
        find("nonsmooth-point", "GC604", "note")
"""


def test_one_command_per_finding_of_the_run(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    suite.scripted()
    suite.write(test_a=CASE)
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_WORKSPACE", str(suite.path.parent))
    result = suite.run("--gradcheck", "-q")
    commands = [line for line in result.outlines if line.startswith("::")]
    # From the checkout, which is above the root directory here.
    file = f"{suite.path.name}/test_a.py"
    assert len(commands) == 2
    assert commands[0].startswith(
        f"::error file={file},line=5,title=GC101 gradient-mismatch::off by 100 %25%0Ain"
    )
    assert commands[1].startswith(f"::warning file={file},line=12,title=GC502 unused-parameter::")


def test_nothing_elsewhere(suite: Suite) -> None:
    suite.scripted()
    suite.write(test_a=CASE)
    suite.run("--gradcheck").stdout.no_fnmatch_line("::*")

"""Every rule of a session can be silenced by a comment on its line, by ``ignore=`` and is counted then."""

from __future__ import annotations

import linecache
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

from gradcheck_suite.rules import Page, all_rules

CASES = [
    pytest.param(rule, code, id=rule.slug)
    for rule in all_rules()
    for code in rule.page.bad[:1]
    if "import watch" in code and "with watch(" in code and Page.blamed_line(code) is not None
]


def report_of(code: str, folder: Path) -> Any:
    script = folder / "page.py"
    script.write_text(code + "\n", encoding="utf-8")
    linecache.checkcache(str(script))
    try:
        return runpy.run_path(str(script))["report"]
    finally:
        torch.set_grad_enabled(True)


def test_there_are_rules_to_silence() -> None:
    assert {"GC201", "GC202", "GC301", "GC403", "GC504", "GC602", "GC703"} <= {
        c.values[0].code for c in CASES
    }


@pytest.mark.parametrize(("rule", "code"), CASES)
def test_a_comment_on_the_line_silences_it(rule: Any, code: str, tmp_path: Path) -> None:
    commented = code.replace("# <-", f"# gradcheck: ignore[{rule.slug}]")
    report = report_of(commented, tmp_path)
    assert [f for f in report.findings if f.code == rule.code] == []
    assert report.counts["suppressed"] >= 1


@pytest.mark.parametrize(("rule", "code"), CASES)
def test_ignore_silences_it(rule: Any, code: str, tmp_path: Path) -> None:
    ignoring = code.replace("with watch(", f"with watch(ignore=('{rule.code}',), ").replace(", )", ")")
    report = report_of(ignoring, tmp_path)
    assert [f for f in report.findings if f.code == rule.code] == []
    assert report.counts["suppressed"] >= 1

"""Every rule's page is complete, and its code does what the page says: Bad fires on the marked line, Good is silent."""

from __future__ import annotations

import linecache
import runpy

import pytest

from gradcheck_suite.evidence import Severity
from gradcheck_suite.rules import Page, all_rules, explain

RULES = all_rules()
BAD = [pytest.param(r, code, id=f"{r.slug}-{i}") for r in RULES for i, code in enumerate(r.page.bad)]
GOOD = [pytest.param(r, code, id=f"{r.slug}-{i}") for r in RULES for i, code in enumerate(r.page.good)]


def run(code, folder):
    """Run a page's code as a script; it leaves its report in the name ``report``."""
    script = folder / "page.py"
    script.write_text(code + "\n", encoding="utf-8")
    linecache.checkcache(str(script))
    return script, runpy.run_path(str(script))["report"]


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.slug)
def test_page_is_complete(rule):
    page = rule.page
    assert page.summary.endswith(".")
    assert page.why
    assert page.bad
    assert page.good
    assert page.misses
    assert rule.code in explain(rule.slug)
    assert page.text in explain(rule.code.lower())


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.slug)
def test_bad_code_marks_one_line_at_most(rule):
    for code in rule.page.bad:
        assert sum(line.rstrip().endswith("# <-") for line in code.splitlines()) <= 1


@pytest.mark.parametrize(("rule", "code"), BAD)
def test_bad_code_fires_this_rule_alone_on_the_marked_line(rule, code, tmp_path):
    script, report = run(code, tmp_path)
    told = [f for f in report.findings if f.severity > Severity.NOTE or f.code == rule.code]
    if rule.severity > Severity.NOTE:
        told = [f for f in told if f.severity > Severity.NOTE]
    assert {f.code for f in told} == {rule.code}, str(report)
    marked = Page.blamed_line(code)
    if marked is not None:
        assert {(f.location.file, f.location.line) for f in told} == {(str(script), marked)}, str(report)


@pytest.mark.parametrize(("rule", "code"), GOOD)
def test_good_code_is_silent(rule, code, tmp_path):
    _, report = run(code, tmp_path)
    assert [f for f in report.findings if f.severity > Severity.NOTE or f.code == rule.code] == [], str(
        report
    )
    assert report.ok, str(report)

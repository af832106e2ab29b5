"""The page and the JSON file about the whole run, with and without pytest-xdist."""

from __future__ import annotations

import json

import pytest

from gradcheck_suite import Report, Severity

from .conftest import Suite

CASE = """
    import pytest
    from scripted import backward, find, unverified

    def layer():
        find()

    @pytest.mark.parametrize("n", range(8))
    def test_wrong(n):
        backward(nodes=2)
        layer()

    def test_other():
        unverified()
        find("unused-parameter", "GC502", "warning", "no gradient <ever> arrives")
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_one_report_with_all_findings(suite: Suite, workers: int) -> None:
    suite.scripted()
    suite.write(test_a=CASE)
    distributed = ("-n", str(workers)) if workers else ()
    result = suite.run("--gradcheck", "--gradcheck-json=out/run.json", "--gradcheck-html", *distributed)
    result.assert_outcomes(passed=1, failed=8)

    report = Report.from_dict(json.loads((suite.path / "out" / "run.json").read_text(encoding="utf-8")))
    mismatch, unused = (f for f in report.findings if f.severity > Severity.NOTE)
    # None lost, none doubled: the same line in eight tests is one finding, seen eight times.
    assert (mismatch.code, mismatch.count) == ("GC101", 8)
    assert sorted(mismatch.evidence["tests"]) == [f"test_a.py::test_wrong[{n}]" for n in range(8)]
    assert unused.evidence["tests"] == ["test_a.py::test_other"]
    assert report.counts["tests"] == report.counts["tests_with_backward"] == 9
    assert report.counts["nodes"] == 8 * 2 + 1
    assert [(u.subject, u.count) for u in report.unverified] == [("aten::mystery", 1)]
    assert "9 tests watched, 9 of them ran a backward" in report.notes
    # The node numbers of single graphs mean nothing on a page about all of them.
    assert "node" not in mismatch.evidence

    page = (suite.path / "reports" / "gradcheck.html").read_text(encoding="utf-8")
    assert "gradient-mismatch" in page
    assert "no gradient &lt;ever&gt; arrives" in page
    failure = [">       find()", "E   GC101 gradient-mismatch  test_a.py:5  in net.block.3 (CubeBackward)"]
    result.stdout.fnmatch_lines([*failure, "written: reports/gradcheck.html", "written: out/run.json"])


def test_a_worker_that_crashes_takes_nothing_along(suite: Suite) -> None:
    suite.scripted()
    suite.write(
        test_a="""
        import os
        from scripted import find

        def test_before():
            find()

        def test_crash():
            os._exit(1)

        def test_after():
            find()
        """
    )
    result = suite.run("--gradcheck", "-n", "1")
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines(
        [
            "  error GC101 gradient-mismatch: 2 in 2 tests",
            "    test_a.py:5  *::test_before",
            "    test_a.py:11  *",
        ]
    )


def test_collecting_alone_writes_nothing(suite: Suite) -> None:
    suite.scripted()
    suite.write(test_a=CASE)
    suite.run("--gradcheck", "--gradcheck-html", "--co")
    assert not (suite.path / "reports").exists()


def test_junit_gets_the_reason_and_not_the_evidence(suite: Suite) -> None:
    suite.scripted()
    suite.write(test_a=CASE)
    suite.run("--gradcheck", "--junitxml=junit.xml")
    text = (suite.path / "junit.xml").read_text(encoding="utf-8")
    assert 'failure message="GC101 gradient-mismatch: the backward of Cube disagrees' in text
    assert "schema_version" not in text

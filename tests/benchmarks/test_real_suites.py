"""The benchmark of real suites reads what pytest wrote and tells a changed outcome from a finding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.real_suites import QUICK, Run, Suite, compare, outcomes, suites

JUNIT = """<testsuites><testsuite>
<testcase classname="tests.test_a" name="test_one" />
<testcase classname="tests.test_a.TestB" name="test_two[3]"><failure message="" /></testcase>
<testcase classname="tests.test_a" name="test_three"><skipped /></testcase>
<testcase classname="tests.test_a" name="test_four" />
<testcase classname="tests.test_a" name="test_four"><error /></testcase>
</testsuite></testsuites>"""

SUITE = Suite("some", "1.0", "kind", ("tests",))


def report(*, severity: str = "error", test: str = "tests/test_a.py::test_one") -> dict[str, Any]:
    finding = {
        "code": "GC101",
        "rule": "gradient-mismatch",
        "severity": severity,
        "message": "wrong",
        "location": {"file": "/somewhere/model.py", "line": 7},
        "op": "CubeBackward",
        "evidence": {"tests": [test]},
    }
    return {
        "findings": [finding],
        "unverified": [
            {"subject": "a", "reason": "why", "count": 2},
            {"subject": "b", "reason": "why", "count": 1},
        ],
        "counts": {"backwards": 4, "nodes": 10, "nodes_unverified": 3, "elements": 99},
    }


def run(cpu: float = 1.0, *, code: int = 0, found: dict[str, Any] | None = None, **ends: str) -> Run:
    return Run({f"tests.test_a::{name}": end for name, end in ends.items()}, cpu, cpu, code, found)


def test_the_table_names_six_suites_with_pinned_versions() -> None:
    known = suites()
    assert len(known) >= 6
    assert set(QUICK) <= set(known)
    for suite in known.values():
        assert suite.version[0].isdigit()
        assert suite.tests
        assert suite.kind
        assert all("==" in requirement for requirement in suite.requirements)


def test_an_unknown_key_in_the_table_is_refused(tmp_path: Path) -> None:
    table = tmp_path / "table.toml"
    table.write_text('[suites.x]\nversion = "1"\nkind = "k"\ntests = ["t"]\nkeywrod = "not slow"\n')
    with pytest.raises(TypeError, match="keywrod"):
        suites(table)


def test_outcomes_are_read_from_junit_and_the_worst_counts() -> None:
    assert outcomes(JUNIT) == {
        "tests.test_a::test_one": "passed",
        "tests.test_a.TestB::test_two[3]": "failed",
        "tests.test_a::test_three": "skipped",
        "tests.test_a::test_four": "error",
    }


def test_counts_and_the_fastest_rounds_are_summed_up() -> None:
    result = compare(
        SUITE,
        [run(3.0, test_one="passed"), run(2.0, test_one="passed")],
        [run(5.0, found=report(severity="warning"), test_one="passed"), run(4.0, test_one="passed")],
    )
    assert (result.tests, result.backwards, result.nodes, result.not_verified) == (1, 4, 7, 3)
    assert result.unverified == {"why": 3}
    assert result.slowdown == 2.0
    assert result.findings[0]["place"] == "model.py:7"
    assert not result.changed
    assert not result.internal_error


def test_a_failure_by_an_error_found_in_the_test_is_no_change() -> None:
    result = compare(SUITE, [run(test_one="passed")], [run(code=1, found=report(), test_one="failed")])
    assert not result.changed


@pytest.mark.parametrize(
    "found",
    [None, report(severity="warning"), report(test="tests/test_a.py::test_other")],
    ids=["none", "warning", "other"],
)
def test_any_other_failure_is_a_change(found: dict[str, Any] | None) -> None:
    result = compare(SUITE, [run(test_one="passed")], [run(code=1, found=found, test_one="failed")])
    assert result.changed == ("tests.test_a::test_one: passed, with the flag failed",)


def test_a_test_that_is_missing_with_the_flag_is_a_change() -> None:
    assert compare(SUITE, [run(test_one="passed")], [run()]).changed


def test_an_unstable_test_says_nothing() -> None:
    result = compare(
        SUITE, [run(test_one="passed"), run(test_one="failed")], [run(code=1, test_one="failed")]
    )
    assert result.unstable == 1
    assert not result.changed


def test_a_test_in_a_class_is_found_by_the_id_of_its_finding() -> None:
    found = report(test="tests/test_a.py::TestB::test_two[3]")
    name = "tests.test_a.TestB::test_two[3]"
    result = compare(SUITE, [Run({name: "passed"}, 1, 1, 0)], [Run({name: "failed"}, 1, 1, 1, found)])
    assert not result.changed


def test_an_internal_error_is_told() -> None:
    assert compare(SUITE, [run()], [run(code=3)]).internal_error

"""``--gradcheck-sarif``: one result per finding of the whole run, at paths below the root directory."""

from __future__ import annotations

import json

from .conftest import Suite


def test_results_of_all_workers(suite: Suite) -> None:
    suite.scripted()
    suite.write(
        test_a="""
        import pytest
        from scripted import find, unverified

        def layer():
            find()

        @pytest.mark.parametrize("n", range(4))
        def test_wrong(n):
            layer()

        def test_other():
            find("unused-parameter", "GC502", "warning")
            unverified()
        """
    )
    result = suite.run("--gradcheck", "--gradcheck-sarif=out/x.sarif", "-n", "2")
    result.assert_outcomes(passed=1, failed=4)
    result.stdout.fnmatch_lines(["written: out/x.sarif"])
    run = json.loads((suite.path / "out" / "x.sarif").read_text(encoding="utf-8"))["runs"][0]
    wrong, unused = run["results"]
    assert (wrong["ruleId"], wrong["occurrenceCount"], wrong["level"]) == ("GC101", 4, "error")
    place = wrong["locations"][0]["physicalLocation"]
    assert place["artifactLocation"] == {"uri": "test_a.py", "uriBaseId": "SRCROOT"}
    assert place["region"] == {"startLine": 5, "snippet": {"text": "    find()"}}
    assert len(wrong["properties"]["evidence"]["tests"]) == 4
    assert unused["level"] == "warning"


def test_no_finding_makes_a_file_without_results(suite: Suite) -> None:
    suite.scripted()
    suite.write(test_a="from scripted import backward\n\ndef test_right():\n    backward()\n")
    suite.run("--gradcheck", "--gradcheck-sarif=x.sarif").assert_outcomes(passed=1)
    data = json.loads((suite.path / "x.sarif").read_text(encoding="utf-8"))
    assert data["version"] == "2.1.0"
    assert data["runs"][0]["results"] == []

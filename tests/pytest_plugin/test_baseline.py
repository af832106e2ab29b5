"""``--gradcheck-baseline``: known findings fail nothing, new ones do, those that are gone are told."""

from __future__ import annotations

import json

import pytest

from .conftest import Suite

OLD = """
    import pytest
    from scripted import backward, find

    def layer():
        find()

    @pytest.mark.parametrize("n", [1, 2])
    def test_old(n):
        layer()

    def test_warned():
        find("unused-parameter", "GC502", "warning")

    def test_right():
        backward()
"""


@pytest.fixture
def old(suite: Suite) -> Suite:
    """A project whose findings are in its baseline."""
    suite.scripted()
    suite.write(test_a=OLD)
    result = suite.run("--gradcheck", "--gradcheck-baseline=known.json", "--gradcheck-update-baseline")
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["gradcheck: every backward is verified, what is found becomes the baseline"])
    result.stdout.fnmatch_lines(["baseline: 2 known, 2 new, 0 gone", "*", "written: known.json"])
    assert result.ret == 0
    return suite


def _entries(suite: Suite, name: str = "known.json") -> list[dict[str, object]]:
    return json.loads((suite.path / name).read_text(encoding="utf-8"))["findings"]


def test_the_file_can_be_reviewed(old: Suite) -> None:
    first, second = _entries(old)
    assert (first["rule"], first["file"], first["function"], first["source"]) == (
        "GC101 gradient-mismatch",
        "test_a.py",
        "layer",
        "find()",
    )
    assert first["tests"] == ["test_a.py::test_old[1]", "test_a.py::test_old[2]"]
    assert second["severity"] == "warning"
    assert not any(isinstance(value, int) for entry in (first, second) for value in entry.values())


@pytest.mark.parametrize("workers", [0, 2])
def test_only_new_findings_fail(old: Suite, workers: int) -> None:
    # Lines above have been inserted, another test runs into the old finding, and one is new.
    more = """
    def test_meets_the_old_one():
        layer()

    def test_new():
        find("nan-gradient", "GC601")
"""
    old.write(test_a="\n\n# a comment\n\nimport os\n" + _dedented(OLD + more))
    distributed = ("-n", "2") if workers else ()
    result = old.run("--gradcheck", "--gradcheck-baseline=known.json", "-v", *distributed)
    result.assert_outcomes(passed=5, failed=1)
    result.stdout.fnmatch_lines(["gradcheck: every backward is verified, a new finding from error up fails*"])
    result.stdout.fnmatch_lines(
        ["  error GC601 nan-gradient: 1 in 1 test", "*", "known from the baseline: 2 findings (4 times)"]
    )
    result.stdout.no_fnmatch_line("*GC101*")
    result.stdout.no_fnmatch_line("no longer found*")


def test_what_is_gone_is_told_and_taken_out(old: Suite) -> None:
    old.write(
        test_a=_dedented(
            OLD.replace("    def layer():\n        find()", "    def layer():\n        backward()")
        )
    )
    # One of the two tests that made it says nothing yet about the other.
    part = old.run("--gradcheck", "--gradcheck-baseline=known.json", "-k", "old and 1")
    part.stdout.no_fnmatch_line("no longer found*")
    result = old.run("--gradcheck", "--gradcheck-baseline=known.json")
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(
        [
            "known from the baseline: 1 finding",
            "no longer found, though in the baseline: 1 finding (--gradcheck-update-baseline takes them out)",
            "    GC101 gradient-mismatch  test_a.py layer: find()",
        ]
    )
    old.run("--gradcheck", "--gradcheck-baseline=known.json", "--gradcheck-update-baseline", "-n", "2")
    assert [entry["rule"] for entry in _entries(old)] == ["GC502 unused-parameter"]


def test_a_part_of_the_tests_updates_its_part(old: Suite) -> None:
    old.write(test_a=_dedented(OLD + "\n    def test_new():\n        find('nan-gradient', 'GC601')\n"))
    update = ("--gradcheck", "--gradcheck-baseline=known.json", "--gradcheck-update-baseline")
    old.run(*update, "-k", "new").stdout.fnmatch_lines(["baseline: 3 known, 1 new, 0 gone"])
    # Another line, another finding; the old one is gone, for the whole project was run.
    old.write(test_a=_dedented(OLD.replace("find()", "find(message='x')")))
    old.run(*update).stdout.fnmatch_lines(["baseline: 2 known, 1 new, 2 gone"])


def test_setting_and_default_place(suite: Suite) -> None:
    suite.scripted()
    suite.write(test_a=OLD)
    suite.run("--gradcheck", "--gradcheck-update-baseline").assert_outcomes(passed=4)
    assert len(_entries(suite, "gradcheck-baseline.json")) == 2
    suite.pytester.makepyprojecttoml('[tool.gradcheck]\nbaseline = "gradcheck-baseline.json"\n')
    suite.run("--gradcheck").assert_outcomes(passed=4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "*there is no file *known.json. Run once with --gradcheck-update-baseline*"),
        ("{", "*known.json is no baseline (*"),
        ('{"gradcheck_baseline": 2, "findings": []}', '*"gradcheck_baseline": 1 is missing*'),
        ('{"gradcheck_baseline": 1, "findings": [{"rule": 3}]}', "*an entry has not the fields*"),
    ],
)
def test_no_baseline(suite: Suite, content: str | None, message: str) -> None:
    suite.scripted()
    suite.write(test_a=OLD)
    if content is not None:
        (suite.path / "known.json").write_text(content)
    result = suite.run("--gradcheck", "--gradcheck-baseline=known.json")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])


def _dedented(text: str) -> str:
    return text.replace("\n    ", "\n")

"""An error of our own never changes a test's outcome; it is shown once, and the exit code says so."""

from __future__ import annotations

import pytest

from .conftest import Suite

CASE = """
    from scripted import find

    def test_passes():
        pass

    def test_fails():
        assert 1 == 2
"""


@pytest.mark.parametrize(
    ("broken", "doing", "error"),
    [
        ("begin", "while beginning to watch", "ZeroDivisionError: scripted to fail at the beginning"),
        ("inside", "while watching", "Traceback: scripted to fail inside"),
        ("end", "while ending to watch", "ZeroDivisionError: scripted to fail at the end"),
    ],
)
def test_tests_keep_their_outcomes(suite: Suite, broken: str, doing: str, error: str) -> None:
    suite.scripted(broken)
    suite.write(test_a=CASE)
    result = suite.run("--gradcheck")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*= gradcheck: internal error =*",
            "gradcheck-suite * failed 4 times. *Please report it*",
            f"{doing} test_a.py::test_passes:",
            f"*{error}",
        ]
    )
    assert result.ret == pytest.ExitCode.INTERNAL_ERROR


def test_errors_of_workers_arrive(suite: Suite) -> None:
    suite.scripted("end")
    suite.write(test_a=CASE)
    result = suite.run("--gradcheck", "-n", "2")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        ["gradcheck-suite * failed 4 times. *", "*ZeroDivisionError: scripted to fail at the end"]
    )
    assert result.ret == pytest.ExitCode.INTERNAL_ERROR


def test_a_file_that_cannot_be_written_is_told(suite: Suite) -> None:
    suite.scripted()
    suite.write(test_a="def test_passes(): pass")
    (suite.path / "reports").write_text("a file where a folder is needed")
    result = suite.run("--gradcheck", "--gradcheck-html")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["while summing up the run:", "*Error: *reports*"])
    assert result.ret == pytest.ExitCode.INTERNAL_ERROR

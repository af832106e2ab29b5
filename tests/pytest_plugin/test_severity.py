"""``[tool.gradcheck.severity]``: other weights than the rules' own."""

from __future__ import annotations

import pytest

from .conftest import Suite

CASE = """
    from scripted import find

    def test_error():
        find()

    def test_warning():
        find("needless-retain-graph", "GC402", "warning")
"""


def test_weights(suite: Suite) -> None:
    suite.scripted()
    suite.write(test_a=CASE)
    suite.pytester.makepyprojecttoml(
        '[tool.gradcheck.severity]\nGC402 = "error"\ngradient-mismatch = "note"\nGC4 = "note"\n'
    )
    result = suite.run("--gradcheck", "-v")
    result.stdout.fnmatch_lines(["*::test_error PASSED*", "*::test_warning FAILED*"])
    result.stdout.fnmatch_lines(
        [
            "  error GC402 needless-retain-graph: 1 in 1 test",
            "*",
            "  note GC101 gradient-mismatch: 1 in 1 test",
        ]
    )


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ('GC402 = "fatal"', "*severity.GC402 is 'fatal'. Use one of error, warning, note*"),
        ('needles-retain-graph = "error"', "*Did you mean 'needless-retain-graph'?*"),
    ],
)
def test_mistakes(suite: Suite, setting: str, message: str) -> None:
    suite.write(test_a=CASE)
    suite.pytester.makepyprojecttoml(f"[tool.gradcheck.severity]\n{setting}\n")
    result = suite.run("--gradcheck")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])

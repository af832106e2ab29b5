"""``--gradcheck-budget``: when it is spent, hazards are still looked for, and what was not verified is said."""

from __future__ import annotations

import pytest

from .conftest import Suite


def test_later_tests_are_watched_for_hazards_only(suite: Suite) -> None:
    suite.scripted()
    suite.write(
        test_a="""
        import pytest
        from scripted import backward, find

        @pytest.mark.parametrize("n", range(4))
        def test_trains(n):
            backward(nodes=3)

        def test_hazard():
            find("unzeroed-grad", "GC301", message="a stale gradient")

        @pytest.mark.gradcheck(expect=["GC101"])
        def test_cannot_be_judged():
            backward()
        """
    )
    # Each scripted verification takes a quarter of a second.
    result = suite.run("--gradcheck", "--gradcheck-budget=0.4")
    result.assert_outcomes(passed=5, failed=1)
    result.stdout.fnmatch_lines(
        [
            "6 tests watched, 5 ran a backward (5 backwards)",
            "6 nodes verified *",
            "  3 x the budget of this run was spent (--gradcheck-budget): a backward",
            "  error GC301 unzeroed-grad: 1 in 1 test",
            "time spent verifying: 0.50 s",
        ]
    )


@pytest.mark.parametrize("value", ["0", "-1", "soon", "nan"])
def test_no_number_of_seconds(suite: Suite, value: str) -> None:
    result = suite.run("--gradcheck", f"--gradcheck-budget={value}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*'{value}' is no positive number of seconds.*"])

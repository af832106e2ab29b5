"""What is printed: the failure in pytest's styles, and the summary at each verbosity."""

from __future__ import annotations

from .conftest import Suite

CASE = """
    from scripted import backward, find, unverified

    class Model:
        def forward(self, x):
            y = x
            find()
            return y

    def test_wrong():
        backward(nodes=4)
        Model().forward(1)

    def test_partly():
        unverified()
        unverified("aten::riddle")
        find("unused-parameter", "GC502", "warning", "no gradient ever arrives")

    def test_clean():
        backward(nodes=5)
"""


def _case(suite: Suite) -> None:
    suite.scripted()
    suite.write(test_a=CASE)


def test_a_failure_reads_like_any_other_of_pytest(suite: Suite) -> None:
    _case(suite)
    result = suite.run("--gradcheck")
    result.stdout.fnmatch_lines(
        [
            "*_ test_wrong _*",
            "",
            "    y = x",
            ">   find()",
            "    return y",
            "E   GC101 gradient-mismatch  test_a.py:6  in net.block.3 (CubeBackward)",
            "E     the backward of Cube disagrees with the derivative of its forward",
            "E     ratio 2/3 everywhere",
            "E     backward: test_a.py:1: from scripted import backward, find, unverified",
            "E     hint: a factor is missing in backward",
            "",
            "test_a.py:6: GC101 gradient-mismatch",
        ],
        consecutive=True,
    )
    result.stdout.fnmatch_lines(
        ["FAILED test_a.py::test_wrong - GC101 gradient-mismatch: the backward of Cube disagrees with the*"]
    )
    # Nothing of how the plugin lets a test fail is shown.
    result.stdout.no_fnmatch_line("*pytest_gradcheck*")


def test_short_and_line_and_no_traceback(suite: Suite) -> None:
    _case(suite)
    short = suite.run("--gradcheck", "--tb=short")
    short.stdout.fnmatch_lines(
        ["test_a.py:6: in forward", "    find()", "E   GC101 gradient-mismatch*"], consecutive=True
    )
    line = suite.run("--gradcheck", "--tb=line")
    line.stdout.fnmatch_lines([f"{suite.path}/test_a.py:6: GC101 gradient-mismatch: the backward of Cube*"])
    # A line or two for each failure, like for those of pytest's own.
    line.stdout.no_fnmatch_line("E     *")
    line.stdout.no_fnmatch_line("test_a.py:6: *")
    none = suite.run("--gradcheck", "--tb=no", "-q")
    none.stdout.no_fnmatch_line("E   *")
    none.stdout.fnmatch_lines(["FAILED test_a.py::test_wrong - GC101 gradient-mismatch*"])


def test_what_is_left_out_is_not_watched(suite: Suite) -> None:
    suite.scripted()
    suite.write(
        test_a="""
        import pytest
        from scripted import backward

        def test_runs():
            backward()

        def test_skips_halfway():
            backward()
            pytest.skip("enough")

        @pytest.mark.skip(reason="no")
        def test_skipped():
            backward()

        @pytest.mark.xfail(run=False)
        def test_not_run():
            backward()
        """
    )
    result = suite.run("--gradcheck")
    result.stdout.fnmatch_lines(["2 tests watched, 2 ran a backward (2 backwards)"])


def test_summary(suite: Suite) -> None:
    _case(suite)
    result = suite.run("--gradcheck")
    result.stdout.fnmatch_lines(
        [
            "*= gradcheck =*",
            "3 tests watched, 3 ran a backward (4 backwards)",
            "9 nodes verified (2 distinct), 90 elements compared, 2 not verified",
            "not verified:",
            "  2 x no meaning is known for it: aten::mystery, aten::riddle",
            "findings:",
            "  error GC101 gradient-mismatch: 1 in 1 test",
            "    test_a.py:6  test_a.py::test_wrong",
            "  warning GC502 unused-parameter: 1 in 1 test",
            "    test_a.py:16  test_a.py::test_partly",
            "time spent verifying: 0.75 s",
        ],
        consecutive=True,
    )
    quiet = suite.run("--gradcheck", "-q")
    quiet.stdout.fnmatch_lines(
        ["gradcheck: 9 nodes verified (2 distinct), 90 elements compared, 2 not verified; 1 error, 1 warning"]
    )
    quiet.stdout.no_fnmatch_line("*= gradcheck =*")


def test_many_findings_of_one_test_are_cut_and_counted(suite: Suite) -> None:
    suite.scripted()
    suite.write(
        test_a="""
        from scripted import find

        def test_loop():
            for step in range(14):
                find(message=f"wrong in step {step}")
        """
    )
    result = suite.run("--gradcheck")
    result.stdout.fnmatch_lines(["E     wrong in step 9", "... and 4 more findings"])
    result.stdout.fnmatch_lines(["FAILED *wrong in step 0 (and 13 more findings)"])
    result.stdout.no_fnmatch_line("E     wrong in step 10")


def test_nothing_verified_is_said(suite: Suite) -> None:
    suite.scripted()
    suite.write(test_a="def test_plain(): pass")
    result = suite.run("--gradcheck")
    result.stdout.fnmatch_lines(
        ["1 test watched", "nothing verified: no test ran a backward"], consecutive=True
    )
    assert result.ret == 0

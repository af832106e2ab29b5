"""What the ``gradcheck`` fixture is told by markers and the command line."""

from __future__ import annotations

import pytest

from .conftest import Suite

CASE = """
    import pytest
    import scripted

    def right():
        return ()

    @pytest.mark.gradcheck(order=2, devices=["cpu", "cuda:1"])
    def test_marker(gradcheck):
        gradcheck(right, 7)
        said = {k: v for k, v in scripted.calls[-1].items() if k != "ignore"}
        assert said == {"inputs": 7, "order": 2, "devices": ("cpu", "cuda:1")}

    @pytest.mark.gradcheck(order=2)
    class TestClass:
        @pytest.mark.gradcheck(order=3)
        def test_the_nearest_counts(self, gradcheck):
            gradcheck(right)
            assert scripted.calls[-1]["order"] == 3

        def test_an_argument_counts_more(self, gradcheck):
            gradcheck(right, order=1)
            assert scripted.calls[-1]["order"] == 1

    @pytest.mark.gradcheck(ignore=["GC101"])
    def test_ignore(gradcheck):
        assert gradcheck(lambda: [scripted.finding()]).ok

    @pytest.fixture(scope="module")
    def checked(gradcheck):
        gradcheck(right)
        return scripted.calls[-1]

    @pytest.mark.gradcheck(order=2)
    def test_of_wider_scope(checked):
        assert checked["order"] == 2
"""


@pytest.mark.parametrize("flag", [["--gradcheck"], []])
def test_markers(suite: Suite, flag: list[str]) -> None:
    suite.scripted()
    suite.write(test_a=CASE)
    suite.run(*flag).assert_outcomes(passed=5)


def test_command_line_over_settings_and_marker_over_both(suite: Suite) -> None:
    suite.scripted()
    suite.pytester.makepyprojecttoml('[tool.gradcheck]\ndevices = ["mps"]\nbudget = 30\n')
    suite.write(
        test_a="""
        import pytest
        import scripted

        @pytest.mark.parametrize("n", [1])
        def test_run(gradcheck, n):
            gradcheck(lambda: ())
            print("SAID", scripted.calls[-1]["devices"], scripted.calls[-1]["budget"])

        @pytest.mark.gradcheck(devices=["xpu"])
        def test_marked(gradcheck):
            gradcheck(lambda: ())
            assert scripted.calls[-1]["devices"] == ("xpu",)
        """
    )
    suite.run("--gradcheck", "-s").stdout.fnmatch_lines(["*SAID ('mps',) 30.0*"])
    result = suite.run("--gradcheck", "-s", "--gradcheck-devices=cpu,cuda:0", "--gradcheck-budget=7.5")
    result.stdout.fnmatch_lines(["*SAID ('cpu', 'cuda:0') 7.5*"])
    result.assert_outcomes(passed=2)


def test_expected_findings_of_a_check(suite: Suite) -> None:
    suite.scripted()
    suite.write(
        test_a="""
        import pytest
        from scripted import finding
        from gradcheck_suite import GradientError

        @pytest.mark.gradcheck(expect=["GC101"])
        def test_expected(gradcheck):
            report = gradcheck(lambda: [finding()])
            assert [f.code for f in report.findings] == ["GC101"]

        @pytest.mark.gradcheck(expect=["GC101"])
        def test_missing(gradcheck):
            gradcheck(lambda: [])

        @pytest.mark.gradcheck(expect=["GC101"])
        def test_another(gradcheck):
            gradcheck(lambda: [finding(), finding("GC501", "detached-graph")])

        def test_caught(gradcheck):
            with pytest.raises(GradientError, match="GC101"):
                gradcheck(lambda: [finding()])
        """
    )
    result = suite.run("--gradcheck", "-v")
    result.stdout.fnmatch_lines(["*test_expected PASSED*", "*test_missing FAILED*", "*test_another FAILED*"])
    result.assert_outcomes(passed=2, failed=2)

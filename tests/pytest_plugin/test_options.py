"""Each option does what its help says, the command line wins over pyproject.toml, and mistakes are usage errors."""

from __future__ import annotations

import pytest

from .conftest import Suite

ERROR_AND_WARNING = """
    from scripted import find

    def test_error():
        find()

    def test_warning():
        find("unused-parameter", "GC502", "warning", "no gradient ever arrives")

    def test_clean():
        pass
"""


@pytest.fixture
def findings(suite: Suite) -> Suite:
    suite.scripted()
    suite.write(test_a=ERROR_AND_WARNING)
    return suite


def test_help_has_a_line_for_each_option(suite: Suite) -> None:
    text = suite.run("--help").stdout.str()
    for option in ("gradcheck ", "html", "json", "select", "ignore", "fail-on"):
        line = f"--{option}" if option == "gradcheck " else f"--gradcheck-{option}"
        assert line in text
    assert "Verify every gradient that the tests compute; a wrong one fails its test." in text


def test_off_by_default_even_where_options_are_given(findings: Suite) -> None:
    result = findings.run("--gradcheck-fail-on=warning", "--gradcheck-html")
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(
        ["gradcheck: off; --gradcheck-html, --gradcheck-fail-on without --gradcheck has no effect"]
    )
    assert not (findings.path / "reports").exists()


def test_an_error_fails_by_default(findings: Suite) -> None:
    findings.run("--gradcheck").assert_outcomes(passed=2, failed=1)


@pytest.mark.parametrize(("threshold", "failed"), [("warning", 2), ("never", 0)])
def test_fail_on(findings: Suite, threshold: str, failed: int) -> None:
    result = findings.run("--gradcheck", f"--gradcheck-fail-on={threshold}")
    result.assert_outcomes(passed=3 - failed, failed=failed)
    # What fails nothing is told all the same.
    result.stdout.fnmatch_lines(["  error GC101 gradient-mismatch: 1 in 1 test"])


def test_ignore_and_select(findings: Suite) -> None:
    result = findings.run("--gradcheck", "--gradcheck-ignore=GC502,gradient-mismatch")
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["silenced: 2 findings"])
    result = findings.run("--gradcheck", "--gradcheck-select=GC5", "--gradcheck-fail-on=warning")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.no_fnmatch_line("*GC101*")


def test_settings_of_the_project_and_the_command_line_over_them(findings: Suite) -> None:
    findings.pytester.makepyprojecttoml(
        """
        [tool.gradcheck]
        fail-on = "never"
        html = "out/page.html"
        """
    )
    findings.run("--gradcheck").assert_outcomes(passed=3)
    assert (findings.path / "out" / "page.html").is_file()
    findings.run("--gradcheck", "--gradcheck-fail-on=error").assert_outcomes(passed=2, failed=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gradcheck-html", "tests"], "*'tests' does not end in .html. Write --gradcheck-html=FILE.html;*"),
        (["--gradcheck-ignore=gradient-missmatch"], "*Did you mean 'gradient-mismatch'?*"),
    ],
)
def test_a_mistake_on_the_command_line_is_a_usage_error(
    suite: Suite, arguments: list[str], message: str
) -> None:
    result = suite.run("--gradcheck", *arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])


def test_a_mistake_in_the_project_settings_is_a_usage_error(suite: Suite) -> None:
    suite.pytester.makepyprojecttoml("[tool.gradcheck]\nfailon = 'error'")
    result = suite.run("--gradcheck")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*there is no setting 'failon'. Did you mean 'fail-on'?*"])

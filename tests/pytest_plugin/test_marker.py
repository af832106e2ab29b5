"""``@pytest.mark.gradcheck``."""

from __future__ import annotations

import pytest

from .conftest import Suite


def test_ignore_and_skip(suite: Suite) -> None:
    suite.scripted()
    suite.write(
        test_a="""
        import pytest
        from scripted import backward, find

        @pytest.mark.gradcheck(ignore=["gradient-mismatch"])
        def test_ignored():
            find()

        @pytest.mark.gradcheck(ignore=["GC5"])
        class TestClass:
            @pytest.mark.gradcheck(ignore=["GC1"])
            def test_of_class_and_function(self):
                find()
                find("unused-parameter", "GC502", "warning")

            def test_of_class_only(self):
                find()

        @pytest.mark.gradcheck(skip="compares with a reference")
        def test_skipped():
            find()
        """
    )
    result = suite.run("--gradcheck", "--strict-markers")
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(["*_ TestClass.test_of_class_only _*"])
    result.stdout.fnmatch_lines(
        ["3 tests watched", "*", "not watched: 1 test, marked skip: compares with a reference", "*"]
    )
    result.stdout.fnmatch_lines(["silenced: 3 findings"])
    # The marker alone switches nothing on.
    suite.run("--strict-markers").assert_outcomes(passed=4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "ignores=['GC101']",
            "*test_a.py::test_it: * there is no argument 'ignores'. Did you mean 'ignore'?*",
        ),
        ("ignore=['unused-parametre']", "*Did you mean 'unused-parameter'?*"),
        ("skip=True", "*skip is True. Say why*"),
    ],
)
def test_a_mistake_is_a_usage_error(suite: Suite, arguments: str, message: str) -> None:
    suite.write(
        test_a=f"""
        import pytest

        @pytest.mark.gradcheck({arguments})
        def test_it():
            pass
        """
    )
    result = suite.run("--gradcheck")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])


def test_a_mistake_under_xdist_is_an_error_of_its_test(suite: Suite) -> None:
    suite.write(
        test_a="""
        import pytest

        @pytest.mark.gradcheck(skip="")
        def test_wrong():
            pass

        def test_right():
            pass
        """
    )
    result = suite.run("--gradcheck", "-n", "2")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["test_a.py::test_wrong: reading @pytest.mark.gradcheck failed: skip is ''*"])

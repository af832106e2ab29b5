"""``@pytest.mark.gradcheck(expect=[...])``: a finding that must be there, and a finding that its test caught."""

from __future__ import annotations

import pytest

from .conftest import Suite

CASE = """
    import pytest
    from scripted import backward, find

    def stale(severity="error"):
        find("unzeroed-grad", "GC301", severity, "a stale gradient")

    @pytest.mark.gradcheck(expect=["GC301"])
    def test_occurs():
        stale()

    @pytest.mark.gradcheck(expect=["unzeroed-grad"])
    def test_does_not_occur():
        backward()

    @pytest.mark.gradcheck(expect=["GC3"])
    def test_group():
        stale()

    @pytest.mark.gradcheck(expect=["GC301"])
    def test_another_fails_all_the_same():
        stale()
        find()

    @pytest.mark.gradcheck(expect=["GC301"])
    class TestClass:
        def test_occurs(self):
            stale()

        @pytest.mark.gradcheck(expect=["GC502"])
        def test_both_are_needed(self):
            stale()

    @pytest.fixture
    def trained():
        stale()

    @pytest.mark.gradcheck(expect=["GC301"])
    def test_occurs_in_a_fixture(trained):
        pass
"""


def test_what_is_expected_fails_nothing_and_its_absence_does(suite: Suite) -> None:
    suite.scripted()
    suite.write(test_a=CASE)
    result = suite.run("--gradcheck", "-v")
    failed = ("test_does_not_occur", "test_another_fails_all_the_same", "TestClass::test_both_are_needed")
    result.stdout.fnmatch_lines([f"*::{name} FAILED*" for name in failed])
    result.assert_outcomes(passed=4, failed=3)
    result.stdout.fnmatch_lines(
        ["gradcheck: unzeroed-grad was expected here and not found (found: nothing). If the fault is mended*"]
    )
    result.stdout.fnmatch_lines(["gradcheck: GC502 was expected here and not found (found: GC301)*"])
    result.stdout.fnmatch_lines(["  error GC101 gradient-mismatch: 1 in 1 test"])
    result.stdout.fnmatch_lines(["expected by their tests: 6 findings"])
    result.stdout.no_fnmatch_line("*error GC301*")
    result.stdout.no_fnmatch_line("*traceback entries are hidden*")
    # Without the flag nobody looks, so nobody can miss anything.
    suite.run().assert_outcomes(passed=7)


def test_what_is_silenced_everywhere_cannot_be_missed(suite: Suite) -> None:
    suite.scripted()
    suite.write(
        test_a="""
        import pytest

        @pytest.mark.gradcheck(expect=["GC301"])
        def test_it():
            pass
        """
    )
    suite.run("--gradcheck", "--gradcheck-ignore=GC301").assert_outcomes(passed=1)
    suite.run("--gradcheck", "--gradcheck-select=GC1").assert_outcomes(passed=1)
    suite.run("--gradcheck").assert_outcomes(failed=1)


def test_nobody_is_blamed_where_nobody_could_look(suite: Suite) -> None:
    suite.scripted("begin")
    suite.write(
        test_a="""
        import pytest

        @pytest.mark.gradcheck(expect=["GC301"])
        def test_it():
            pass
        """
    )
    result = suite.run("--gradcheck")
    result.assert_outcomes(passed=1)
    assert result.ret == pytest.ExitCode.INTERNAL_ERROR


def test_an_exception_that_the_test_expects(suite: Suite) -> None:
    suite.scripted()
    suite.write(
        test_a="""
        import unittest

        import pytest
        from scripted import find

        def overwrite():
            find("inplace-saved", "GC201", message="a saved tensor was overwritten")
            raise RuntimeError("modified by an inplace operation")

        def test_expects_it():
            with pytest.raises(RuntimeError, match="inplace"):
                overwrite()

        class TestUnit(unittest.TestCase):
            def test_expects_it(self):
                with self.assertRaisesRegex(RuntimeError, "inplace"):
                    overwrite()

        @pytest.mark.xfail(raises=RuntimeError, strict=True)
        def test_is_marked():
            overwrite()

        def test_does_not():
            overwrite()

        def test_silent_faults_are_no_exceptions():
            with pytest.raises(RuntimeError):
                find("inplace-silent", "GC202", message="overwritten behind the back of autograd")
                overwrite()
        """
    )
    result = suite.run("--gradcheck")
    result.assert_outcomes(passed=2, xfailed=1, failed=2)
    result.stdout.fnmatch_lines(["expected by their tests: 3 findings"])
    result.stdout.fnmatch_lines(["FAILED *::test_does_not - RuntimeError: modified by*"])
    result.stdout.fnmatch_lines(["FAILED *::test_silent_faults_are_no_exceptions - GC202*"])

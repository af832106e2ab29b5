"""What a finding does to the outcome of its test, for every way to write a test."""

from __future__ import annotations

from .conftest import Suite

TESTS = """
    import unittest

    import pytest
    from scripted import backward, find

    def test_clean():
        backward()

    def test_wrong():
        find()

    @pytest.mark.parametrize("n", [1, 2])
    def test_parametrised(n):
        if n == 2:
            find()

    class TestClass:
        def test_wrong(self):
            find()

    class TestUnit(unittest.TestCase):
        def test_clean(self):
            backward()

        def test_wrong(self):
            find()

    def test_raises_wrong():
        with pytest.raises(ValueError):
            find()
            raise ValueError
"""

OWN_OUTCOMES = """
    import unittest

    import pytest
    from scripted import find

    def test_fails_itself():
        find()
        assert 1 == 2

    class TestUnit(unittest.TestCase):
        def test_fails_itself(self):
            find()
            self.assertEqual(3, 4)

    def test_skips_itself():
        find()
        pytest.skip("half way")

    @pytest.mark.xfail(raises=AssertionError)
    def test_expected():
        find()

    @pytest.mark.xfail(raises=ZeroDivisionError)
    def test_otherwise_expected():
        find()
"""

FIXTURES = """
    import pytest
    from scripted import backward, find

    @pytest.fixture(scope="module")
    def trained():
        find(message="found while a fixture trained")

    def test_pays_for_the_fixture(trained):
        print("the test itself did run")

    def test_uses_it_again(trained):
        backward()

    @pytest.fixture
    def broken():
        find(message="found before the fixture failed")
        raise RuntimeError("no data")

    def test_cannot_start(broken):
        pass

    @pytest.fixture
    def leaves():
        yield
        print("torn down")

    def test_leaves(leaves):
        find()
"""


def test_a_finding_fails_its_test_and_no_other(suite: Suite) -> None:
    suite.scripted()
    suite.write(test_a=TESTS)
    result = suite.run("--gradcheck", "-v")
    result.assert_outcomes(passed=3, failed=5)
    result.stdout.fnmatch_lines(
        [
            "test_a.py::test_clean PASSED*",
            "test_a.py::test_wrong FAILED*",
            "test_a.py::test_parametrised[[]1[]] PASSED*",
            "test_a.py::test_parametrised[[]2[]] FAILED*",
            "test_a.py::TestClass::test_wrong FAILED*",
            "test_a.py::TestUnit::test_clean PASSED*",
            "test_a.py::TestUnit::test_wrong FAILED*",
            "test_a.py::test_raises_wrong FAILED*",
        ]
    )
    assert result.ret == 1


def test_a_test_with_an_outcome_of_its_own_keeps_it(suite: Suite) -> None:
    suite.scripted()
    suite.write(test_a=OWN_OUTCOMES)
    result = suite.run("--gradcheck", "-rA")
    result.assert_outcomes(failed=3, skipped=1, xfailed=1)
    result.stdout.fnmatch_lines(
        [
            "E       assert 1 == 2",
            "*gradcheck: found in this test*",
            "GC101 gradient-mismatch  test_a.py:7 *",
            "E       AssertionError: 3 != 4",
            "*gradcheck: found in this test*",
            "GC101 gradient-mismatch  test_a.py:12 *",
            "FAILED test_a.py::test_fails_itself - assert 1 == 2",
        ]
    )
    result.stdout.fnmatch_lines(["FAILED test_a.py::test_otherwise_expected - GC101*"])


def test_what_a_fixture_does_is_answered_for_by_the_test_that_set_it_up(suite: Suite) -> None:
    suite.scripted()
    suite.write(test_a=FIXTURES)
    result = suite.run("--gradcheck", "-v", "-s")
    result.assert_outcomes(passed=1, failed=2, errors=1)
    result.stdout.fnmatch_lines(
        [
            "*the test itself did run*",
            "*::test_uses_it_again PASSED*",
            "*::test_cannot_start ERROR*",
            "*torn down*",
            "E       RuntimeError: no data",
            "*gradcheck: found in this test*",
            "  found before the fixture failed",
            "E     found while a fixture trained",
        ]
    )

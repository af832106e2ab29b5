"""Models as tests of their own, from the command line, the settings and a hook."""

from __future__ import annotations

import pytest

from .conftest import Suite

NET = """
    import scripted

    def right(x=None):
        return []

    def wrong(x=None):
        return [scripted.finding()]

    right_inputs = 7
"""

HOOK = """
    import scripted

    def pytest_gradcheck_models(config):
        return {
            "by hook": lambda: [],
            "with inputs": (lambda: [], 3, {"order": 2}),
            "by target": "net.py:wrong",
        }
"""


@pytest.fixture
def models(suite: Suite) -> Suite:
    # Resolving a target freezes torch's random generators, which are not there.
    suite.scripted(
        more="""
        import contextlib, types, sys
        state = types.ModuleType("gradcheck_suite.capture.state")
        state.rng_frozen = lambda seed: contextlib.nullcontext()
        sys.modules["gradcheck_suite.capture.state"] = state
        """
    )
    suite.write(net=NET)
    return suite


TARGETS = ("--gradcheck-model=net.py:right", "--gradcheck-model=net.py:wrong")


def test_without_any_test_file(models: Suite) -> None:
    result = models.run("--gradcheck", *TARGETS, "-v", "--durations=2", "-vv")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*collected 2 items",
            "gradcheck::net.py:right <- net.py PASSED*",
            "gradcheck::net.py:wrong <- net.py FAILED*",
            "*_ gradients of net.py:wrong _*",
            "E   GC101 gradient-mismatch",
            "2 tests watched, 2 ran a backward (2 backwards)",
            "*slowest 2 durations*",
            "*call     gradcheck::net.py:*",
            "FAILED gradcheck::net.py:wrong - GC101 gradient-mismatch: found by GC101",
        ]
    )


def test_choosing_among_them(models: Suite) -> None:
    models.write(test_a="def test_wrong_too(): pass")
    models.run("--gradcheck", *TARGETS, "-k", "wrong").assert_outcomes(passed=1, failed=1, deselected=1)
    listed = models.run("--gradcheck", *TARGETS, "--co", "-q")
    listed.stdout.fnmatch_lines(
        ["test_a.py::test_wrong_too", "gradcheck::net.py:right", "gradcheck::net.py:wrong", "", "3 tests*"],
        consecutive=True,
    )


def test_the_failed_ones_again(models: Suite) -> None:
    models.run("--gradcheck", *TARGETS, cache=True).assert_outcomes(passed=1, failed=1)
    again = models.run("--gradcheck", *TARGETS, "--lf", cache=True)
    again.assert_outcomes(failed=1, deselected=1)


def test_settings_and_workers(models: Suite) -> None:
    models.pytester.makepyprojecttoml('[tool.gradcheck]\nmodels = ["net.py:wrong", "net.py:right"]\n')
    models.run("--gradcheck", "-n", "2").assert_outcomes(passed=1, failed=1)
    models.run("--gradcheck", "--gradcheck-model=net.py:right").assert_outcomes(passed=1)
    assert models.run().ret == pytest.ExitCode.NO_TESTS_COLLECTED


def test_hook(models: Suite) -> None:
    models.write(test_a="def test_it(): pass")
    (models.path / "sub").mkdir()
    conftest = models.path / "conftest.py"
    conftest.write_text(conftest.read_text() + HOOK.replace("\n    ", "\n"))
    result = models.run("--gradcheck", "-v")
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(["gradcheck::by hook PASSED*", "gradcheck::with inputs PASSED*"])
    models.run("-v").assert_outcomes(passed=1)


def test_baseline_and_options_hold_for_them(models: Suite) -> None:
    models.run("--gradcheck", *TARGETS, "--gradcheck-ignore=GC101").assert_outcomes(passed=2)
    models.run("--gradcheck", *TARGETS, "--gradcheck-fail-on=never").assert_outcomes(passed=2)
    models.run("--gradcheck", *TARGETS, "--gradcheck-update-baseline").assert_outcomes(passed=2)
    models.run("--gradcheck", *TARGETS, "--gradcheck-baseline=gradcheck-baseline.json").assert_outcomes(
        passed=2
    )


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        ("[1]", "*pytest_gradcheck_models returned list. Return a dict of models by name*"),
        ("{'net': 3}", "*the model 'net' of pytest_gradcheck_models is 3. Give a model*"),
        ("{'net.py:right': 'net.py:wrong'}", "*two models are named 'net.py:right'*"),
    ],
)
def test_what_no_hook_may_return(models: Suite, hook: str, message: str) -> None:
    conftest = models.path / "conftest.py"
    conftest.write_text(f"{conftest.read_text()}\ndef pytest_gradcheck_models(config):\n    return {hook}\n")
    result = models.run("--gradcheck", "--gradcheck-model=net.py:right")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])


def test_a_target_that_is_none_fails_its_test(models: Suite) -> None:
    result = models.run("--gradcheck", "--gradcheck-model=net.py:rihgt")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*net has no 'rihgt'. Did you mean 'right'?*"])
    result.stdout.no_fnmatch_line("*resolve_target*")

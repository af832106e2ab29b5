"""What the plugin costs where it has nothing to do."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import pytest

from .conftest import Suite

LOAD = """
import sys, time
import pytest
began = time.process_time()
import pytest_gradcheck.plugin
print(time.process_time() - began)
assert not {"torch", "numpy", "gradcheck_suite"} & set(sys.modules)
"""


def test_loading_the_inactive_plugin_takes_less_than_ten_milliseconds(suite: Suite) -> None:
    def once() -> float:
        done = subprocess.run([sys.executable, "-c", LOAD], capture_output=True, text=True, check=True)
        return float(done.stdout)

    # The best of some: what else runs on the machine is no cost of ours. The first may still have to compile.
    assert min(once() for _ in range(5)) < 0.010


def test_an_active_run_without_torch_imports_nothing_heavy(suite: Suite) -> None:
    suite.write(
        test_a="""
        import sys

        def test_light():
            heavy = {"torch", "numpy", "scipy", "rich", "jinja2", "gradcheck_suite.evidence"}
            assert not heavy & set(sys.modules)

        def test_twin():
            import gradcheck_suite.report
            assert {"numpy", "rich", "jinja2", "gradcheck_suite.evidence"} <= set(sys.modules)
        """
    )
    suite.run("--gradcheck").assert_outcomes(passed=2)


@pytest.mark.slow
def test_an_active_run_without_torch_is_hardly_slower(suite: Suite) -> None:
    suite.write(
        test_a="""
        import time

        import pytest

        @pytest.mark.parametrize("n", range(200))
        def test_works(n):
            until = time.process_time() + 0.015
            while time.process_time() < until:
                pass
        """
    )

    def seconds(*arguments: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "pytest_gradcheck.plugin",
        ]
        subprocess.run(
            [*command, *arguments], check=True, cwd=suite.path, stdout=subprocess.DEVNULL, env=os.environ
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    without = min(seconds() for _ in range(2))
    active = min(seconds("--gradcheck") for _ in range(2))
    print(
        f"{without:.3f} s without, {active:.3f} s with --gradcheck: {100 * (active / without - 1):.1f} % more"
    )
    assert active < 1.03 * without

"""What the plugin imports where it has nothing to do; what it costs is measured by ``benchmarks.plugin_overhead``."""

from __future__ import annotations

import subprocess
import sys

from .conftest import Suite

LOAD = """
import sys
import pytest
import pytest_gradcheck.plugin
heavy = {"torch", "numpy", "scipy", "rich", "jinja2", "gradcheck_suite"}
print(sorted(heavy & set(sys.modules)))
"""


def test_loading_the_inactive_plugin_imports_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-c", LOAD], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


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

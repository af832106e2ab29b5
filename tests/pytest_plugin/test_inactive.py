"""Without ``--gradcheck`` nothing heavy is imported; each claim has a twin that shows how it would fail."""

from __future__ import annotations

import pytest

from .conftest import Suite

HEAVY = ("torch", "numpy", "scipy", "rich", "jinja2", "gradcheck_suite")

CASE = f"""
    import sys

    def test_light():
        assert not [name for name in {HEAVY!r} if name in sys.modules]
"""


def test_an_inactive_plugin_imports_nothing_heavy(suite: Suite) -> None:
    suite.write(test_a=CASE)
    suite.run().assert_outcomes(passed=1)


def test_its_twin_fails_when_the_plugin_is_active(suite: Suite) -> None:
    suite.write(test_a=CASE)
    result = suite.run("--gradcheck")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E *'gradcheck_suite'*"])


def test_an_active_plugin_leaves_torch_to_the_tests(suite: Suite) -> None:
    suite.write(test_a="import sys\n\ndef test_no_torch():\n    assert 'torch' not in sys.modules")
    suite.run("--gradcheck").assert_outcomes(passed=1)


@pytest.mark.slow
def test_its_twin_fails_when_a_test_imports_torch(suite: Suite) -> None:
    suite.write(
        test_a="import sys\nimport torch\n\ndef test_no_torch():\n    assert 'torch' not in sys.modules"
    )
    suite.run("--gradcheck").assert_outcomes(failed=1)

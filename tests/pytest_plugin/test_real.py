"""The plugin with real sessions and real gradients."""

from __future__ import annotations

import json

import pytest

from gradcheck_suite import Report

from .conftest import Suite

MODEL = """
    import torch

    class Cube(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx, grad_output):
            (x,) = ctx.saved_tensors
            return grad_output * 2 * x**2  # 3 is right

    class Net(torch.nn.Module):
        def __init__(self, wrong):
            super().__init__()
            self.linear = torch.nn.Linear(4, 3)
            self.cube = Cube.apply if wrong else lambda x: x**3

        def forward(self, x):
            y = self.linear(x)
            return self.cube(y)

    def train(wrong):
        net = Net(wrong)
        net(torch.randn(5, 4)).sum().backward()
"""

TESTS = """
    import unittest

    import pytest
    import torch
    from model import Net, train

    @pytest.fixture(scope="module")
    def trained():
        train(wrong=True)

    def test_clean():
        train(wrong=False)

    def test_wrong():
        train(wrong=True)

    def test_of_trained(trained):
        pass

    def test_no_gradient():
        assert torch.ones(2).sum() == 2

    class TestUnit(unittest.TestCase):
        def setUp(self):
            train(wrong=False)

        def test_clean(self):
            train(wrong=False)
"""

FIXTURE = """
    import pytest
    import torch
    from gradcheck_suite import GradientError
    from model import Net, train

    def test_checks(gradcheck):
        report = gradcheck(Net(wrong=False), torch.randn(5, 4))
        assert report.ok and len(report.verified) == 3

    def test_fails(gradcheck):
        gradcheck(Net(wrong=True), torch.randn(5, 4))

    def test_expects(gradcheck):
        with pytest.raises(GradientError, match="GC101"):
            gradcheck(Net(wrong=True), torch.randn(5, 4))

    def test_watches(gradcheck):
        with gradcheck.watch() as session:
            train(wrong=False)
        assert session.report.counts["backwards"] == 1

    def test_watch_fails(gradcheck):
        with gradcheck.watch():
            train(wrong=True)

    def test_watch_expects(gradcheck):
        with pytest.raises(GradientError, match="GC101"), gradcheck.watch():
            train(wrong=True)

    def test_error_of_the_block_comes_first(gradcheck):
        with pytest.raises(ZeroDivisionError), gradcheck.watch():
            train(wrong=True)
            1 / 0

    @pytest.fixture(scope="module")
    def checked(gradcheck):
        return gradcheck(Net(wrong=False), torch.randn(5, 4))

    def test_of_any_scope(checked):
        assert checked.ok
"""

MODES = """
    import pytest
    import torch
    from model import train
    from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    @pytest.fixture(scope="module")
    def mode_of_module():
        with Mode() as mode:
            yield mode

    @pytest.fixture
    def mode():
        with Mode() as mode:
            yield mode

    def test_of_module(mode_of_module):
        train(wrong=False)
        assert mode_of_module in _get_current_dispatch_mode_stack()

    def test_of_both(mode_of_module, mode):
        train(wrong=False)
        stack = _get_current_dispatch_mode_stack()
        assert stack.index(mode_of_module) < stack.index(mode)

    def test_asked_for_in_the_call(request):
        mode = request.getfixturevalue("mode")
        train(wrong=False)
        assert mode in _get_current_dispatch_mode_stack()

    def test_of_module_again(mode_of_module):
        assert mode_of_module in _get_current_dispatch_mode_stack()

"""

LAZY = """
    import sys

    def test_imports_torch_itself():
        assert "torch" not in sys.modules
        from model import train
        train(wrong=True)
"""


def test_a_wrong_backward_fails_its_test_at_the_line(suite: Suite) -> None:
    suite.write(model=MODEL, test_a=TESTS)
    # Warnings of our own code would become exceptions in a suite that asks for it.
    result = suite.run("--gradcheck", "--gradcheck-json=run.json", "-W", "error", "-v")
    result.assert_outcomes(passed=3, failed=2)
    result.stdout.fnmatch_lines(["*::test_wrong FAILED*", "*::test_of_trained FAILED*"])
    result.stdout.fnmatch_lines(
        [
            ">   return self.cube(y)",
            "E   GC101 gradient-mismatch  model.py:22  in Net (CubeBackward)",
            "E     the backward of Cube disagrees with the derivative of its forward",
            "E     d loss / d input*autograd*engine*",
            "E     backward: model.py:*",
            "E     hint: the ratio is 2/3 everywhere: a factor is missing in backward*",
            "model.py:22: GC101 gradient-mismatch",
            "5 tests watched, 4 ran a backward (5 backwards)",
            "  error GC101 gradient-mismatch: 1 in 2 tests",
        ]
    )
    report = Report.from_dict(json.loads((suite.path / "run.json").read_text(encoding="utf-8")))
    assert [f.code for f in report.errors] == ["GC101"]
    assert report.counts["nodes"] > 0
    assert "test_a.py::test_clean: linear.weight" in {g.name for g in report.verified}


def test_fixture(suite: Suite) -> None:
    suite.write(model=MODEL, test_a=FIXTURE)
    result = suite.run("--gradcheck", "-v")
    # What a block found that raised before it could be asserted is not lost: the session of the test has it.
    failed = ("test_fails", "test_watch_fails", "test_error_of_the_block_comes_first")
    result.stdout.fnmatch_lines([f"*::{name} FAILED*" for name in failed])
    result.assert_outcomes(passed=5, failed=3)
    # The line of the test, and not how the plugin asserts.
    result.stdout.fnmatch_lines([">       gradcheck(Net(wrong=True), torch.randn(5, 4))"])
    result.stdout.no_fnmatch_line("*def raise_for_findings*")
    # What a check has found is not found once more by the session around it.
    result.stdout.no_fnmatch_line("*gradcheck: found in this test*")


@pytest.mark.slow
def test_fixture_without_the_flag(suite: Suite) -> None:
    suite.write(model=MODEL, test_a=FIXTURE)
    suite.run().assert_outcomes(passed=6, failed=2)


def test_torch_modes_of_fixtures_stay_where_they_are(suite: Suite) -> None:
    suite.write(model=MODEL, test_a=MODES)
    suite.run("--gradcheck").assert_outcomes(passed=4)


@pytest.mark.slow
def test_torch_that_is_imported_by_a_test(suite: Suite) -> None:
    suite.write(model=MODEL, test_a=LAZY)
    result = suite.run("--gradcheck")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E   GC101 gradient-mismatch*"])


def test_with_two_workers(suite: Suite) -> None:
    suite.write(model=MODEL, test_a=TESTS)
    result = suite.run("--gradcheck", "-n", "2", "--gradcheck-html")
    result.assert_outcomes(passed=3, failed=2)
    result.stdout.fnmatch_lines(["  error GC101 gradient-mismatch: 1 in 2 tests"])
    assert "gradient-mismatch" in (suite.path / "reports" / "gradcheck.html").read_text(encoding="utf-8")


EXPECTED = """
    import pytest
    import torch
    from model import train

    def overwrite():
        x = torch.ones(3, requires_grad=True)
        y = x.exp()
        y.mul_(2)
        y.sum().backward()

    def test_expects_the_error():
        with pytest.raises(RuntimeError, match="inplace operation"):
            overwrite()

    def test_expects_a_second_backward_to_fail():
        loss = (torch.ones(3, requires_grad=True) ** 2).sum()
        loss.backward()
        with pytest.raises(RuntimeError, match="second time"):
            loss.backward()

    def test_does_not():
        overwrite()

    @pytest.mark.gradcheck(expect=["gradient-mismatch"])
    def test_expects_a_finding():
        train(wrong=True)
"""


def test_expected_errors_and_findings(suite: Suite) -> None:
    suite.write(model=MODEL, test_a=EXPECTED)
    result = suite.run("--gradcheck", "-v")
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(["*gradcheck: found in this test*", "GC201 inplace-saved *"])
    result.stdout.fnmatch_lines(
        ["  error GC201 inplace-saved: 1 in 1 test", "expected by their tests: 3 findings"]
    )
    # How a backward is watched does not stand in the traceback of what it raises.
    result.stdout.no_fnmatch_line("*gradcheck_suite*watching*")


def test_models_and_a_baseline(suite: Suite) -> None:
    suite.write(
        model=MODEL,
        net="""
        import torch
        from model import Net

        right, wrong = Net(wrong=False), Net(wrong=True)
        inputs = torch.ones(5, 4)
        """,
    )
    targets = ("--gradcheck-model=net.py:right", "--gradcheck-model=net.py:wrong")
    result = suite.run("--gradcheck", *targets, "-v", "--gradcheck-sarif=x.sarif")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "gradcheck::net.py:wrong FAILED*",
            "E   GC101 gradient-mismatch  model.py:22*",
            "2 tests watched, 2 ran a backward (2 backwards)",
        ]
    )
    results = json.loads((suite.path / "x.sarif").read_text(encoding="utf-8"))["runs"][0]["results"]
    assert [r["ruleId"] for r in results if r["level"] == "error"] == ["GC101"]
    suite.run("--gradcheck", *targets, "--gradcheck-update-baseline").assert_outcomes(passed=2)
    # The same line, met by a test this time.
    suite.write(test_a="from model import train\n\ndef test_it():\n    train(wrong=True)\n")
    known = suite.run("--gradcheck", *targets, "--gradcheck-baseline=gradcheck-baseline.json")
    known.assert_outcomes(passed=3)
    known.stdout.fnmatch_lines(["known from the baseline: *"])

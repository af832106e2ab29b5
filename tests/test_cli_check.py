"""The options of ``gradcheck check``: each reaches the check, and misuse is a usage error."""

from __future__ import annotations

import pytest

from gradcheck_suite import cli
from gradcheck_suite.config import find_settings, read_settings
from gradcheck_suite.errors import ConfigurationError

PROGRAM = """
import torch

class Slightly(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, grad_output):
        (x,) = ctx.saved_tensors
        return 1.001 * x.cos() * grad_output

def slightly(x):
    return Slightly.apply(x)

slightly_inputs = torch.linspace(0.1, 1, 8)

class Right(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(3, 2)

    def forward(self, x):
        return self.inner(x).tanh()
"""


@pytest.fixture
def gradcheck(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(PROGRAM)

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["gradcheck", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        told = capsys.readouterr()
        return ended.value.code, told.out, " ".join(told.err.split())

    return call


def test_what_other_options_ask_for_is_in_the_report(gradcheck):
    code, out, err = gradcheck(
        "check",
        "own.py:Right",
        "--backend",
        "aot_eager",
        "--device",
        "cpu",
        "--order",
        "2",
        "--forward-mode",
        "--budget",
        "300",
        "--no-progress",
    )
    assert code == 0, out + err
    assert "torch.compile with aot_eager: 1 graph" in out
    for stage in ("order 2", "forward mode", "devices", "backends"):
        assert stage in " ".join(out.split()), out


@pytest.mark.parametrize(("tolerance", "expected"), [("1e-2", 0), ("1e-4", 1)])
def test_a_tolerance_from_the_command_line(gradcheck, tolerance, expected):
    code, out, _ = gradcheck("check", "own.py:slightly", "--tolerance", tolerance)
    assert code == expected, out


def test_a_tolerance_from_the_settings(gradcheck, tmp_path):
    (tmp_path / "pyproject.toml").write_text("[tool.gradcheck.tolerance]\nfloat32 = 1e-2\n")
    code, out, _ = gradcheck("check", "own.py:slightly")
    assert code == 0, out
    assert "passes only because of it" in " ".join(out.split())


def test_progress_is_told_where_it_is_wanted(gradcheck):
    _, out, err = gradcheck("check", "own.py:Right", "--progress")
    assert "gradcheck: node by node" in err
    assert "gradcheck: node by node" not in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--device", "gpu"), "'gpu' is no device of torch"),
        (("--backend", "inducter"), "Did you mean 'inductor'"),
        (("--tolerance", "-1"), "tolerance is -1.0"),
        (("--budget", "0"), "budget is 0.0"),
        (("--budget", "soon"), "--budget"),
        (("--order", "9"), "--order"),
    ],
)
def test_misuse_is_a_usage_error(gradcheck, arguments, said):
    code, _, err = gradcheck("check", "own.py:Right", *arguments)
    assert code == 2
    assert said in err


def test_settings_of_tolerance():
    assert read_settings({"tolerance": 1e-3}).tolerance == 1e-3
    nested = {"float32": 1e-4, "GC105": {"bfloat16": 0.2}}
    assert read_settings({"tolerance": nested}).tolerance == nested
    assert find_settings("/").tolerance is None
    for wrong in (0, -1, True, "much", {}, {"float32": "much"}, {"GC105": {"float32": 0}}):
        with pytest.raises(ConfigurationError, match="positive number"):
            read_settings({"tolerance": wrong})

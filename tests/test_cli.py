"""The command line: what it prints, what it writes, and its exit codes 0, 1, 2 and 3."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gradcheck_suite import cli
from gradcheck_suite.evidence import Finding, GradientVerdict, Outcome, Report, Severity

ROOT = Path(__file__).parent.parent

MODEL = """
import torch

class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x * x

    @staticmethod
    def backward(ctx, grad_output):
        (x,) = ctx.saved_tensors
        return 2 * x * x * grad_output

class Right(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(3, 2)

    def forward(self, x):
        return self.inner(x).tanh()

class Unused(Right):
    def __init__(self):
        super().__init__()
        self.spare = torch.nn.Linear(2, 2)

class Needs(Right):
    def __init__(self, width, *, depth):
        super().__init__()

class Raises(Right):
    def __init__(self):
        raise RuntimeError("no such device")

def wrong(x):
    return Cube.apply(x)

def constant(x):
    return x.detach() * 2

def wrong_inputs():
    return torch.linspace(-2, 2, 6)

def constant_inputs(rng):
    return rng.standard_normal(3)

model = Right()
number = 3
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "own.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def gradcheck(*arguments):
    """Run the command in this process; returns its exit code."""
    before, path = sys.argv, list(sys.path)
    sys.argv = ["gradcheck", *arguments]
    try:
        with pytest.raises(SystemExit) as stop:
            cli.main()
    finally:
        sys.argv, sys.path[:] = before, path
        sys.modules.pop("own", None)
    return stop.value.code


def test_a_right_model_is_clean(here, capsys):
    assert gradcheck("check", "own.py:Right", "--seed", "3") == 0
    out = capsys.readouterr().out
    assert out.startswith("PASS  own.py:Right: every element of 3 gradients verified")
    assert "Right was instantiated without arguments" in out


def test_a_wrong_function_is_a_finding_and_is_written(here, capsys):
    assert gradcheck("check", "own.py:wrong", "--html", "out/r.html", "--json", "out/r.json") == 1
    out = capsys.readouterr().out
    lines = MODEL.splitlines()
    call, backward = (
        lines.index(t) + 1 for t in ("    return Cube.apply(x)", "    def backward(ctx, grad_output):")
    )
    assert f"GC101 gradient-mismatch  own.py:{call}" in out
    assert f"the ratio is 2/3 everywhere: a factor is missing in backward (own.py:{backward})" in out
    assert "gradcheck check own.py:wrong --html out/r.html" in out
    assert "GC101" in (here / "out" / "r.html").read_text(encoding="utf-8")
    assert json.loads((here / "out" / "r.json").read_text(encoding="utf-8"))["ok"] is False


def test_ignoring_and_failing_on_less(here, capsys):
    assert gradcheck("check", "own.py:wrong", "--ignore", "GC101", "--ignore", "GC5") != 1
    assert gradcheck("check", "own.py:wrong", "--fail-on", "never") == 3  # nothing was verified all the same
    assert gradcheck("check", "own.py:Unused") == 0
    assert gradcheck("check", "own.py:Unused", "--fail-on", "warning") == 1
    capsys.readouterr()


def test_settings_of_the_project_are_used(here, capsys):
    (here / "pyproject.toml").write_text('[tool.gradcheck]\nfail-on = "warning"\njson = "r.json"\n')
    assert gradcheck("check", "own.py:Unused") == 1
    assert (here / "r.json").exists()
    (here / "pyproject.toml").write_text('[tool.gradcheck]\nfail_on = "warning"\n')
    assert gradcheck("check", "own.py:Unused") == 2
    assert "Did you mean 'fail-on'?" in " ".join(capsys.readouterr().err.split())


def test_nothing_verified_is_no_pass(here, capsys):
    assert gradcheck("check", "own.py:constant") == 3
    capsys.readouterr()


@pytest.mark.parametrize(
    "options", [("--inputs", "5,3"), ("--dtype", "float64"), ("--inputs", "4,3", "--seed", "1")]
)
def test_inputs_and_dtype_are_taken(here, capsys, options):
    assert gradcheck("check", "own.py:model", "--json", "r.json", *options) == 0
    report = Report.from_dict(json.loads((here / "r.json").read_text(encoding="utf-8")))
    gradient = next(g for g in report.gradients if g.kind == "input")
    if "5,3" in options:
        assert gradient.shape == (5, 3)
    if "--dtype" in options:
        assert {g.dtype for g in report.gradients} == {"float64"}
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("check", "own.py"), "it has no form PLACE:NAME"),
        (("check", "gone.py:x"), "there is no file 'gone.py'"),
        (("check", "own.py:Rigth"), "own has no 'Rigth'. Did you mean 'Right'"),
        (("check", "own.py:number"), "number is int, which cannot be called"),
        (("check", "own.py:Needs"), "Needs needs 2 arguments (width, depth)"),
        (("check", "own.py:Raises"), "calling Raises() raised RuntimeError: no such device"),
        (("check", "nowhere.at.all:x"), "there is no module 'nowhere.at.all'"),
        (("check", "torchvison:resnet18"), "Did you mean 'torchvision'?"),
        (("check", "own.py:model", "--inputs", "2,three"), "'2,three' is no shape"),
        (("check", "own.py:model", "--inputs", "2:int"), "whole-number inputs need a bound"),
        (("check", "own.py:model", "--dtype", "float8"), "'float8' is none of float64"),
        (("check", "own.py:constant", "--dtype", "float64"), "Provide `inputs` as tensors"),
        (("check", "own.py:model", "--html", "r.pdf"), "does not end in .html"),
        (("check", "own.py:model", "--fail-on", "info"), "none of error, warning, never"),
        (("check", "own.py:model", "--ignore", "GC9999"), "'GC9999' is no rule's code or name"),
        (("check", "own.py:model", "--order", "4"), "order"),
        (("explain", "gradient-mismach"), "Did you mean 'gradient-mismatch'"),
        (("ops", "matmull"), "Did you mean 'matmul'?"),
        (("report", "gone.json"), "No such file"),
        (("report", "own.py"), "reading the report 'own.py' failed"),
        (("check",), "Missing argument"),
        (("chekc",), "No such command"),
    ],
)
def test_usage_errors_exit_with_two_and_say_what_to_do(here, capsys, arguments, said):
    assert gradcheck(*arguments) == 2
    captured = capsys.readouterr()
    assert said in " ".join(captured.err.replace("│", " ").split())
    assert captured.out == ""


def test_a_file_that_does_not_run_is_named(here, capsys):
    (here / "own.py").write_text("import torch\n1 / 0\n")
    assert gradcheck("check", "own.py:model") == 2
    assert "running own.py raised ZeroDivisionError" in " ".join(capsys.readouterr().err.split())
    assert "own" not in sys.modules


def test_saved_reports_are_shown_and_turned_into_html(here, capsys):
    verified = GradientVerdict("w", "parameter", (1,), "float32", Outcome.AGREE)
    Report("fine", gradients=(verified,)).save("fine.json")
    Report("bad", (Finding("GC101", "gradient-mismatch", Severity.ERROR, "m"),), (verified,)).save("bad.json")
    Report("none").save("none.json")
    assert [gradcheck("report", f"{name}.json") for name in ("fine", "bad", "none")] == [0, 1, 3]
    assert gradcheck("report", "bad.json", "--html", "bad.html") == 1
    assert "GC101" in (here / "bad.html").read_text(encoding="utf-8")
    assert "wrote bad.html" in capsys.readouterr().out


def test_looking_up(capsys):
    assert gradcheck("rules") == 0
    assert "gradient-mismatch" in capsys.readouterr().out
    assert gradcheck("explain", "GC101") == 0
    assert capsys.readouterr().out.startswith("GC101 gradient-mismatch (error)")
    assert gradcheck("ops") == 0
    assert "matmul" in capsys.readouterr().out
    assert gradcheck("ops", "matmul") == 0
    assert "aten::addmm" in capsys.readouterr().out.split()
    assert gradcheck("--version") == 0
    assert capsys.readouterr().out.startswith("gradcheck_suite ")


def test_demo_shows_a_pass_and_a_finding_and_writes_a_page(here, capsys):
    assert gradcheck("demo") == 0
    out = capsys.readouterr().out
    assert "PASS  RightModel" in out
    assert "FAIL  WrongModel" in out
    assert "the ratio is 2/3 everywhere: a factor is missing in backward" in out
    assert "gradcheck explain GC101" in out
    assert "CubeBackward" in (here / "reports" / "demo.html").read_text(encoding="utf-8")


def test_nothing_heavy_is_imported_before_it_is_needed():
    code = "import sys, gradcheck_suite.cli; print(sorted({'torch', 'numpy', 'scipy', 'jinja2'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
@pytest.mark.parametrize(
    "target", ["transformers:bert", "transformers:GPT2LMHeadModel", "torchvision:squeezenet1_1"]
)
def test_models_of_the_zoos(here, capsys, target):
    pytest.importorskip(target.partition(":")[0])
    assert gradcheck("check", target) in (0, 1)
    assert "with random weights" in " ".join(capsys.readouterr().out.split())


def test_unknown_models_of_the_zoos_are_answered_with_the_nearest(here, capsys):
    pytest.importorskip("torchvision")
    assert gradcheck("check", "torchvision:resnet19") == 2
    assert "Did you mean 'resnet18'" in " ".join(capsys.readouterr().err.split())

"""The page on own operations does what it says; and ``gradcheck ops --seen`` tells what is not understood."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gradcheck_suite.aten import registry
from gradcheck_suite.cli import app

PAGE = Path(__file__).parents[1] / "docs" / "own-operations.md"


def test_the_example_of_the_page_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    registry.lookup("aten::add.Tensor")  # everything is loaded before the table is copied
    monkeypatch.setattr(registry, "_MEANINGS", dict(registry._MEANINGS))
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    exec(compile(example, str(PAGE), "exec"), {"__name__": "example"})


def test_what_is_seen_and_not_understood_is_listed_first(tmp_path: Path) -> None:
    model = tmp_path / "model.py"
    model.write_text(
        "import torch\n"
        "class Opaque(torch.autograd.Function):\n"
        "    @staticmethod\n"
        "    def forward(ctx, x):\n"
        "        ctx.save_for_backward(x)\n"
        "        return torch.from_numpy(x.detach().numpy() ** 3)\n"
        "    @staticmethod\n"
        "    def backward(ctx, g):\n"
        "        return 3 * g * ctx.saved_tensors[0] ** 2\n"
        "def f(x: torch.Tensor):\n"
        "    return Opaque.apply(x.double()).sin()\n"
        "def f_inputs():\n"
        "    return torch.linspace(1, 2, 5)\n"
    )
    saved = tmp_path / "report.json"
    runner = CliRunner()
    made = runner.invoke(app, ["check", f"{model}:f", "--json", str(saved)])
    assert made.exit_code == 0, made.output
    result = runner.invoke(app, ["ops", "--seen", str(saved)])
    lines = [line.split() for line in result.output.splitlines()]
    assert lines[1] == ["Opaque", "1", "numerical"]
    assert lines[-1][:5] == [str(len(lines) - 2), "operations,", "1", "of", "them"]

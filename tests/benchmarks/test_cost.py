"""The benchmark of cost measures what it says, and notices a checker that is wrong."""

from __future__ import annotations

import io
import json

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from benchmarks import cost
from benchmarks.models import Case, MissingPackageError, cases, mlp, mlp_case


class Wrong(torch.autograd.Function):
    """Three times x, with the backward of twice x."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return 3 * x

    @staticmethod
    def backward(ctx: object, cotangent: Tensor) -> Tensor:
        return 2 * cotangent


class WrongModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = Wrong.apply(self.layer(x))
        return out


@pytest.mark.parametrize("parameters", [1000, 10_000, 100_000, 1_000_000])
def test_an_mlp_has_about_as_many_parameters_as_asked(parameters: int) -> None:
    count = sum(p.numel() for p in mlp(parameters).parameters())
    assert abs(count - parameters) < 0.05 * parameters


def test_growth_exponent_of_known_powers() -> None:
    sizes = [10, 100, 1000]
    assert cost.growth_exponent(sizes, [3 * s**1.5 for s in sizes]) == pytest.approx(1.5)
    assert cost.growth_exponent(sizes, [7.0, 7.0, 7.0]) == pytest.approx(0.0)


def test_fastest_counts_after_one_call() -> None:
    calls = []
    assert cost.fastest(lambda: calls.append(1), seconds=0.0, least=3) >= 0
    assert len(calls) == 4


def test_a_small_case_is_measured_and_shown() -> None:
    row = cost.measure(Case("tiny", mlp_case(1000).make, slow_mode_quick=True), quick=True)
    assert row.ours.ok
    assert row.ours_float64.ok
    assert row.fast.ok
    assert row.slow.ok
    assert row.ours.elements == row.parameters + 64 * 16 == row.slow.elements
    assert row.ours.ratio is not None
    assert row.ours.seconds == pytest.approx(row.ours.ratio * row.forward_backward)
    stream = io.StringIO()
    grown = {"parameters": [1, 10], "seconds": [1.0, 2.0], "exponent": 0.3}
    cost.show([row], ["left: skipped"], grown, Console(file=stream, width=120))
    assert "tiny" in stream.getvalue()
    assert "left: skipped" in stream.getvalue()
    assert json.loads(json.dumps(cost._rounded(cost.asdict(row))))["name"] == "tiny"


def test_twin_a_wrong_model_is_reported_by_both() -> None:
    model = WrongModel()
    inputs = (torch.randn(3, 2),)
    mine, _ = cost.ours(model, inputs, 1.0, 0.0)
    assert mine.ok is False
    assert "GC101" in mine.remark
    theirs = cost.gradcheck(model.double(), [inputs[0].double()], 1.0, fast=True, seconds=0.0)
    assert theirs.ok is False
    assert theirs.remark


def test_a_missing_package_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.models.importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match="torchvision"):
        cases()[-1].make()

"""Outputs without history beside others: a warning where they follow the inputs by accident, nothing where they are meant."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradcheck_suite import Severity, check_gradients

X = torch.linspace(0.5, 2, 6, dtype=torch.float64).reshape(2, 3)
HERE = Path(__file__).read_text(encoding="utf-8").splitlines()


def through_numpy(x: Tensor) -> Any:
    logits = x.sin()
    weights = torch.from_numpy(x.detach().numpy() ** 2)  # cut
    return {"logits": logits, "weights": weights}


def through_a_number(x: Tensor) -> Any:
    y = x.exp()
    scale = torch.tensor(y.sum().item(), dtype=x.dtype)  # cut
    return y, scale


def through_data(x: Tensor) -> Any:
    return x.sin(), x.data.cos()  # cut


@pytest.mark.parametrize("function", [through_numpy, through_a_number, through_data])
def test_an_output_that_lost_its_history_by_accident_is_a_warning(function: Callable[..., Any]) -> None:
    report = check_gradients(function, X)
    (finding,) = report.findings
    assert (finding.code, finding.severity) == ("GC501", Severity.WARNING), str(report)
    assert finding.location is not None
    assert HERE[finding.location.line - 1].endswith("# cut")
    assert report.ok
    assert len(report.verified) == 1


def detached(x: Tensor) -> Any:
    return x.sin(), x.detach().cos()


def measured_without_gradients(x: Tensor) -> Any:
    with torch.no_grad():
        norm = x.norm()
    return {"loss": x.sin().sum(), "norm": norm}


def number_said_to_be_one(x: Tensor) -> Any:
    loss = x.square().sum()
    return loss, torch.tensor(loss.detach().item(), dtype=x.dtype)


def of_nothing(x: Tensor) -> Any:
    return x.sin(), torch.ones(3, dtype=x.dtype), torch.arange(3)


def accuracy(x: Tensor) -> Any:
    return x.softmax(-1), (x.argmax(-1) == 2).to(x.dtype).mean()


@pytest.mark.parametrize(
    "function", [detached, measured_without_gradients, number_said_to_be_one, of_nothing, accuracy]
)
def test_an_output_that_is_meant_is_not_mentioned(function: Callable[..., Any]) -> None:
    report = check_gradients(function, X)
    assert report.findings == (), str(report)
    assert report.ok


def test_the_model_is_left_as_it_was() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Any:
            self.calls += 1
            return self.layer(x), self.calls.clone(), x.data * 2

    model = Counting()
    report = check_gradients(model, X.float())
    assert model.calls.item() == 0
    assert [f.code for f in report.findings] == ["GC501"], str(report)

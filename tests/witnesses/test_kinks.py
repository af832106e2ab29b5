"""Notes about kinks and ties: where several gradients are right, and where nothing depends on the choice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F

from gradcheck_suite import Finding, Severity, check_gradients
from gradcheck_suite.evidence import Outcome
from gradcheck_suite.rules.nonsmooth_point import NonsmoothPoint

F64 = torch.float64
KINKS = torch.tensor([-1.0, 0.0, 0.0, 1.0], dtype=F64)
TIES = torch.tensor([[1.0, 1.0, 0.0], [2.0, 2.0, 2.0]], dtype=F64)


def notes(function: Callable[..., Any], *inputs: Tensor) -> list[Finding]:
    report = check_gradients(function, inputs)
    assert report.ok, str(report)
    return [f for f in report.findings if f.code == NonsmoothPoint.code]


class Half(Function):
    """A relu whose slope at zero is one half: another right choice than the engine's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.relu(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return g * torch.where(x == 0, 0.5, (x > 0).to(g.dtype))


class Beyond(Function):
    """The same with a slope at zero that is none of the right ones."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.relu(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return g * torch.where(x == 0, 1.5, (x > 0).to(g.dtype))


ON_A_KINK = {
    "relu": (lambda x: torch.relu(x), KINKS, 2),
    "relu in place": (lambda x: (x * 1).relu_(), KINKS, 2),
    "abs": (lambda x: x.abs(), KINKS, 2),
    "leaky relu": (lambda x: F.leaky_relu(x), KINKS, 2),
    "clamp": (lambda x: x.clamp(0, 1), KINKS, 3),
    "clamp from below": (lambda x: x.clamp_min(0), KINKS, 2),
    "hardtanh": (lambda x: F.hardtanh(x), KINKS, 2),
    "threshold": (lambda x: F.threshold(x, 0.0, 0.0), KINKS, 2),
    "softshrink": (lambda x: F.softshrink(x, 1.0), KINKS, 2),
    "maximum": (lambda x: torch.maximum(x, 0 * KINKS), KINKS, 2),
    "max": (lambda x: x.max(), TIES, 3),
    "amax": (lambda x: x.amax(1), TIES, 5),
    "max of a dimension": (lambda x: x.max(1).values, TIES, 5),
    "median": (lambda x: x.median(), torch.tensor([1.0, 2.0, 2.0, 3.0], dtype=F64), 2),
    "norm": (lambda x: x.norm(), torch.zeros(3, dtype=F64), 3),
}


@pytest.mark.parametrize("name", ON_A_KINK)
def test_is_noted(name: str) -> None:
    function, x, count = ON_A_KINK[name]
    (note,) = notes(function, x)
    assert note.severity is Severity.NOTE
    assert note.evidence["elements"] == count
    assert note.location is not None
    assert note.location.file == __file__
    assert "subdifferential" in note.message


def test_the_element_and_the_operation_are_named() -> None:
    (note,) = notes(lambda x: torch.relu(x), KINKS)
    assert note.op == "aten::relu"
    assert note.evidence["element"] == [1]
    assert "aten::relu is evaluated on a kink or tie at [1] and 1 further element" in note.message
    assert "its input is 0" in note.message


def test_another_choice_than_the_engines_is_noted_too() -> None:
    (note,) = notes(lambda x: Half.apply(x), KINKS)
    assert note.op == "Half"
    assert "torch's choice" in note.message
    assert "lies between the one-sided slopes" in note.message


def test_what_lies_outside_is_a_mismatch_and_no_note() -> None:
    report = check_gradients(lambda x: Beyond.apply(x), (KINKS,))
    assert {f.code for f in report.findings} == {"GC101"}, str(report)


def test_one_note_per_line() -> None:
    (note,) = notes(lambda x: torch.relu(x) + x.abs() + x.clamp(0, 1), KINKS)
    assert note.evidence["ops"] == ["aten::relu", "aten::abs", "aten::clamp"]
    assert note.evidence["elements"] == 7


SMOOTH = {
    "no element on the kink": (lambda x: torch.relu(x) + x.abs(), KINKS + 0.3),
    "a relu behind a relu": (lambda x: torch.relu(torch.relu(x)), KINKS - 0.3),
    "a relu behind a mask": (lambda x: torch.relu(x * (x > 0)), KINKS - 0.3),
    "zeros that come from outside": (lambda x: x + torch.relu(torch.zeros(4, dtype=F64)), KINKS),
    "a cotangent of zero": (lambda x: torch.relu(x) * x.detach().sign().abs(), KINKS),
    "one largest value": (lambda x: x.max() + x.amax(0), KINKS),
    "pooling over zeros of a relu": (
        lambda x: F.max_pool1d(torch.relu(x - 0.3)[None], 2),
        KINKS,
    ),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_is_not_noted(name: str) -> None:
    function, x = SMOOTH[name]
    report = check_gradients(function, (x,))
    assert not report.errors, str(report)
    assert not [f for f in report.findings if f.code == NonsmoothPoint.code], str(report)


def test_dropout_in_front_of_a_relu_is_not_noted() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.5), nn.ReLU(), nn.Linear(16, 2))
    assert not notes(model, torch.randn(5, 4))


def test_a_whole_that_is_smooth_where_its_parts_are_not_is_no_error() -> None:
    """``x.sign() * x.abs()`` is x; at 0 autograd can only say 0, and differences say 1."""
    report = check_gradients(lambda x: x.sign() * x.abs(), (KINKS,))
    assert report.ok, str(report)
    assert {f.code for f in report.findings} == {"GC190"}
    doubted = [t for t in report.testimonies if t.witness == "finite_difference"]
    assert {t.outcome for t in doubted} == {Outcome.INCONCLUSIVE}
    assert all("agrees" in t.reason and "kink" in t.reason for t in doubted)


def test_what_goes_around_autograd_is_found_beside_a_kink() -> None:
    report = check_gradients(lambda x: x.sign() * x.abs() + x * x.max().item(), (KINKS,))
    assert "GC501" in {f.code for f in report.errors}, str(report)

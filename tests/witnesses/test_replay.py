"""The free-running replay's testimony: it informs, is judged against measured sensitivity, and abstains aloud."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradcheck_suite import surrogate_gradient
from gradcheck_suite.evidence import Outcome
from gradcheck_suite.witnesses.replay import ReplayTestimony, check_replay
from gradcheck_suite.witnesses.torch_reverse import record_reverse


def replay(function: Callable[..., Any], *inputs: Tensor) -> ReplayTestimony:
    named = {f"x{i}": tensor.requires_grad_() for i, tensor in enumerate(inputs)}
    return check_replay(record_reverse(function, inputs, {}, named_leaves=named).trace)


def draw(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(2))


class Tripled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * 3


@surrogate_gradient("on purpose")
class Declared(Tripled):
    pass


def test_agrees_with_the_last_digit() -> None:
    found = replay(lambda x, w: (x @ w).sin().square(), draw(4, 3), draw(3, 2))
    assert {t.outcome for t in found.gradients.values()} == {Outcome.AGREE}
    assert [t.outcome for t in found.outputs] == [Outcome.AGREE]
    assert max(found.errors.values()) < 1e-13
    assert found.operations >= 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sensitive_model_is_given_the_room_that_it_needs(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 8), nn.BatchNorm1d(8)
    ).to(dtype)
    found = replay(model, draw(6, 4, dtype=dtype))
    assert Outcome.DISAGREE not in {t.outcome for t in found.gradients.values()}


@pytest.mark.parametrize(
    "layer",
    [nn.Hardsigmoid(), nn.Hardswish(), nn.Dropout(0.3), nn.LogSoftmax(1), lambda x: x / torch.tensor(3)],
)
def test_what_meets_a_constant_in_double_precision_is_still_replayed_in_float32(layer: Any) -> None:
    """A bias between two normalisations has no gradient: what torch finds is rounding, and of the model's precision."""
    torch.manual_seed(0)
    first, second = (
        nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8)),
        nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)),
    )
    bias = torch.randn(8)
    rest = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))

    def run(x: Tensor, bias: Tensor) -> Tensor:
        return rest(second(layer(first(x))) + bias)

    found = replay(run, draw(64, 4, dtype=torch.float32), bias)
    assert {t.outcome for t in found.gradients.values()} == {Outcome.AGREE}, found.gradients


def test_a_wrong_backward_shows_at_the_leaves_only() -> None:
    found = replay(lambda x: Tripled.apply(x).sum(), draw(3))
    assert found.gradients["x0"].outcome is Outcome.DISAGREE
    assert found.outputs[0].outcome is Outcome.AGREE


def test_says_why_it_abstains() -> None:
    assert "declared surrogate: Declared" in replay(lambda x: Declared.apply(x).sum(), draw(3)).reason


def test_nothing_arrives_where_no_path_leads() -> None:
    found = replay(lambda x, y: x * 2 + 0 * y.detach(), draw(3), draw(3))
    assert {t.outcome for t in found.gradients.values()} == {Outcome.AGREE}

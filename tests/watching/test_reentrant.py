"""Re-entrant checkpoints: what a backward computes in a forward that it runs again is recorded and verified."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gradcheck_suite import check_gradients, watch


class Scaled(torch.autograd.Function):
    """``factor`` 1 is right."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, factor: float) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.factor = factor
        return x * w

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None]:
        x, w = ctx.saved_tensors
        return g * w, ctx.factor * (g * x).sum(0), None


class Model(nn.Module):
    def __init__(self, factor: float, *, first: bool) -> None:
        super().__init__()
        self.linear, self.weight = nn.Linear(3, 4), nn.Parameter(torch.randn(4))
        self.factor, self.first = factor, first

    def inside(self, y: Tensor) -> Tensor:
        y = y if self.first else y.sin()
        return Scaled.apply(y, self.weight, self.factor).tanh()  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.inside, self.linear(x), use_reentrant=True)  # type: ignore[no-any-return]


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_a_function_inside_is_verified_under_watch(factor: float, first: bool) -> None:
    torch.manual_seed(0)
    model = Model(factor, first=first)
    with watch() as session:
        model(torch.randn(2, 3)).pow(2).sum().backward()
    assert session.internal_errors == []
    report = session.report
    assert [f.code for f in report.errors] == ([] if factor == 1.0 else ["GC101"]), str(report)
    assert not [u for u in report.unverified if "Scaled" in u.subject], str(report)
    names = {g.name for g in report.gradients}
    assert names == {
        "linear.weight",
        "linear.bias",
        "weight",
    }  # and none of the tensors that a checkpoint cuts off
    assert all(g.scale > 0 for g in report.gradients)


@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_and_by_a_check(factor: float) -> None:
    torch.manual_seed(0)
    report = check_gradients(Model(factor, first=True), torch.randn(2, 3))
    assert [f.code for f in report.errors] == ([] if factor == 1.0 else ["GC101"]), str(report)
    verified = {g.name for g in report.verified}
    assert ("weight" in verified) == (factor == 1.0), str(report)


def test_a_function_whose_backward_calls_functions_is_no_forward() -> None:
    class Outer(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            return Scaled.apply(2 * g, x, 1.0)  # type: ignore[no-any-return]

    x = torch.randn(3, requires_grad=True)
    with watch() as session:
        Outer.apply(x).sin().sum().backward()
    assert session.internal_errors == []
    assert list(session.report.errors) == []
    assert [g.name for g in session.report.verified] == ["leaf (3)"]

"""Functions that call ``backward`` in their backward and so add to parameters that are none of their inputs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gradcheck_suite import Severity, check_gradients


class Reversible(torch.autograd.Function):
    """Halves that are added to one another; its backward recomputes them. ``factor`` 1 is right."""

    @staticmethod
    def forward(ctx, x, block, factor):
        ctx.block, ctx.factor = block, factor
        with torch.no_grad():
            one, two = x.chunk(2, dim=-1)
            one = one + block.first(two)
            two = two + block.second(one)
        ctx.save_for_backward(one.detach(), two.detach())
        return torch.cat([one, two], dim=-1)

    @staticmethod
    def backward(ctx, cotangent):
        one, two = ctx.saved_tensors
        d_one, d_two = cotangent.chunk(2, dim=-1)
        with torch.enable_grad():
            one = one.detach().requires_grad_()
            moved = ctx.block.second(one)
            moved.backward(ctx.factor * d_two, retain_graph=True)
        with torch.no_grad():
            two = two - moved
            d_one = d_one + one.grad / ctx.factor
        with torch.enable_grad():
            two = two.detach().requires_grad_()
            ctx.block.first(two).backward(d_one, retain_graph=True)
        return torch.cat([d_one, d_two + two.grad], dim=-1), None, None


class Swapped(Reversible):
    """Gives the halves back in the wrong order, as released code does: right as long as both are the same tensor."""

    @staticmethod
    def backward(ctx, cotangent):
        gradient, _, _ = Reversible.backward(ctx, cotangent)
        d_one, d_two = gradient.chunk(2, dim=-1)
        return torch.cat([d_two, d_one], dim=-1), None, None


class Block(nn.Module):
    def __init__(self, function=Reversible, factor=1.0, shared=False):
        super().__init__()
        self.function, self.factor = function, factor
        self.before = nn.Linear(4, 4)
        self.first = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
        self.second = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
        if shared:
            self.second[0].weight = self.before.weight

    def forward(self, x):
        x = self.before(x)
        return self.function.apply(torch.cat([x, x.sin()], dim=-1), self, self.factor)


def examined(*, dtype=torch.float64, **options):
    torch.manual_seed(0)
    model = Block(**options).to(dtype)
    inputs = torch.randn(3, 4, dtype=dtype)
    model.first[0].weight.grad = before = torch.ones(4, 4, dtype=dtype)
    report = check_gradients(model, inputs)
    assert model.first[0].weight.grad is before
    assert torch.equal(before, torch.ones(4, 4, dtype=dtype))
    assert all(p.grad is None for n, p in model.named_parameters() if n != "first.0.weight")
    return model, report


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shared", [False, True])
def test_right_ones_are_verified_with_the_parameters_inside(dtype, shared):
    model, report = examined(dtype=dtype, shared=shared)
    assert [f for f in report.findings if f.severity > Severity.NOTE] == [], str(report)
    assert {g.name for g in report.gradients} == {"inputs[0]", *(n for n, _ in model.named_parameters())}
    assert report.unverified == (), str(report)
    assert len(report.verified) == len(report.gradients), str(report)


def test_a_wrong_cotangent_of_the_inner_backward_is_found_by_differences():
    _, report = examined(factor=2.0)
    assert [f.code for f in report.errors] == ["GC101"], str(report)
    wrong = {g.name for g in report.gradients if g.outcome.name == "DISAGREE"}
    assert wrong == {"second.0.weight", "second.0.bias"}
    assert "Reversible" in report.errors[0].hint


def test_a_wrong_returned_gradient_is_blamed_on_the_function():
    _, report = examined(function=Swapped)
    (finding,) = report.errors
    assert finding.code == "GC101"
    assert "Swapped" in finding.message


def test_what_was_not_asked_for_is_not_reported():
    torch.manual_seed(0)
    report = check_gradients(Block().double(), torch.randn(3, 4, dtype=torch.float64), wrt=["before.*"])
    assert {g.name for g in report.gradients} == {"before.weight", "before.bias"}
    assert report.ok, str(report)

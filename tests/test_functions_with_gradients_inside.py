"""Custom Functions whose forward turns gradients on again, or differentiates inside itself."""

from __future__ import annotations

import pytest
import torch

from gradcheck_suite import check_gradients, watch


class Square(torch.autograd.Function):
    """``factor`` 2 is right."""

    @staticmethod
    def forward(ctx, x, factor):
        ctx.save_for_backward(x)
        ctx.factor = factor
        with torch.enable_grad():
            inner = x.detach().requires_grad_()
            value = inner * inner
        with torch.no_grad():
            value = value * 1.0
        return value.detach()

    @staticmethod
    def backward(ctx, cotangent):
        return ctx.factor * ctx.saved_tensors[0] * cotangent, None


class Differentiated(torch.autograd.Function):
    """Keeps the gradient that it computed in its forward."""

    @staticmethod
    def forward(ctx, x, factor):
        with torch.enable_grad():
            inner = x.detach().requires_grad_()
            value = (inner * inner).sin()
            (gradient,) = torch.autograd.grad(value.sum(), inner)
        ctx.gradient = gradient * factor / 2.0
        return value.detach()

    @staticmethod
    def backward(ctx, cotangent):
        return ctx.gradient * cotangent, None


@pytest.mark.parametrize("function", [Square, Differentiated])
@pytest.mark.parametrize("factor", [2.0, 1.9])
def test_check(function, factor):
    report = check_gradients(lambda x: function.apply(x.cos(), factor) * 2, torch.randn(4))
    assert [f.code for f in report.findings] == ([] if factor == 2.0 else ["GC101"]), str(report)
    assert report.ok == (factor == 2.0)


@pytest.mark.parametrize("function", [Square, Differentiated])
@pytest.mark.parametrize("factor", [2.0, 1.9])
def test_watch(function, factor):
    x = torch.randn(4, requires_grad=True)
    with watch() as session:
        (function.apply(x.cos(), factor) * 2).sum().backward()
    assert session.internal_errors == []
    assert [f.code for f in session.report.findings] == ([] if factor == 2.0 else ["GC101"]), str(
        session.report
    )

"""What running the test suites of other packages brought to light (``docs/real-suites.md``)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gradcheck_suite import watch


class IntoItself(torch.autograd.Function):
    """2 a / b, by operations whose ``out=`` is one of their arguments."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        out = torch.empty_like(a)
        torch.div(a, b, out=out)
        torch.mul(out, 2, out=out)
        return out

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        return 2 * cotangent / b, -2 * cotangent * a / b**2


def test_out_may_be_one_of_the_arguments() -> None:
    with watch() as session:
        a, b = (torch.rand(3).add(1).requires_grad_() for _ in range(2))
        IntoItself.apply(a, b).sum().backward()
    assert not session.internal_errors
    assert session.report.ok
    assert session.report.counts["nodes"] == session.report.counts["nodes_meaning"]


class CalledItsOwnWay(nn.Module):
    """A base class that replaces ``__call__``, as Gaussian process libraries do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def __call__(self, *args: Tensor) -> Tensor:
        return self.forward(*args)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x).relu()
        return out


def test_a_module_may_call_its_own_forward_in_a_call_of_its_own() -> None:
    torch.manual_seed(0)
    model = CalledItsOwnWay()
    with watch() as session:
        model(torch.randn(3, 2)).sum().backward()
    assert not session.report.findings
    with watch() as session:
        model.forward(torch.randn(3, 2)).sum().backward()
    assert [finding.code for finding in session.report.findings] == ["GC702"]

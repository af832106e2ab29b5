"""What arrives is the sum of what was sent, unless a hook changes it; and what a wrong node means for the leaves behind it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import Function

from gradcheck_suite import check_gradients
from gradcheck_suite.evidence import Outcome
from gradcheck_suite.witnesses.sums import MODULE_HOOK


class Hooked(nn.Module):
    """A layer with a backward hook and a backward pre-hook that scale; 1 changes nothing."""

    def __init__(self, before: float, after: float) -> None:
        super().__init__()
        self.head, self.layer = nn.Linear(2, 2), nn.Linear(3, 2)
        self.layer.register_full_backward_pre_hook(lambda module, given: (given[0] * before,))
        self.layer.register_full_backward_hook(lambda module, found, given: (found[0] * after,))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x.sin()))


@pytest.mark.parametrize(("before", "after"), [(0.5, 1.0), (1.0, 0.5), (-1.0, 2.0)])
def test_what_a_module_hook_changes_on_purpose_is_open_and_not_wrong(before: float, after: float) -> None:
    torch.manual_seed(0)
    report = check_gradients(Hooked(before, after), torch.randn(4, 3))
    assert not report.errors, str(report)
    assert MODULE_HOOK in {u.reason for u in report.unverified}
    outcomes = {g.name: g.outcome for g in report.gradients}
    assert outcomes["head.weight"] is Outcome.AGREE
    assert outcomes["inputs[0]"] is Outcome.INCONCLUSIVE


def test_a_module_hook_that_changes_nothing_leaves_nothing_open() -> None:
    torch.manual_seed(0)
    report = check_gradients(Hooked(1.0, 1.0), torch.randn(4, 3))
    assert report.ok, str(report)
    assert not report.unverified, str(report)


def scaled(forward: float, backward: float) -> Callable[..., Tensor]:
    class Scaled(Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x * forward

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return g * backward

    return Scaled.apply


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_what_cancels_on_the_way_is_not_called_wrong_where_it_arrives(dtype: torch.dtype) -> None:
    """As in the reversible layers of released code: one node halves what the other doubles."""
    up, down = scaled(2.0, 4.0), scaled(3.0, 1.5)
    weight = torch.randn(3, 3, dtype=dtype, generator=torch.Generator().manual_seed(0))
    x = torch.linspace(0, 1, 6, dtype=dtype).reshape(2, 3)
    report = check_gradients(lambda x, w: down(up(x) @ w).sin(), (x, weight))
    assert sum(f.count for f in report.errors) == 2
    verdicts = {g.name: g for g in report.gradients}
    assert verdicts["inputs[0]"].outcome is Outcome.INCONCLUSIVE
    assert "has the right value" in verdicts["inputs[0]"].reason
    assert verdicts["inputs[1]"].outcome is Outcome.DISAGREE
    assert not report.ok


class Unsteady(Function):
    """Right in its first call, and then more every time."""

    calls = 0

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        Unsteady.calls += 1
        return g * x.cos() * Unsteady.calls


def test_a_backward_that_changes_from_call_to_call_is_no_lost_history(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Unsteady, "calls", 0)
    report = check_gradients(lambda x: Unsteady.apply(x) * 2, torch.linspace(0, 1, 4, dtype=torch.float64))
    assert [f.code for f in report.errors] == ["GC107"], str(report)

"""An undeclared surrogate is told how to declare itself; other wrong backwards are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import Function

from gradcheck_suite import check_gradients


class Rounded(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g


class Spike(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return g / (1 + x.abs()) ** 2


class Reversed(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return -0.1 * g


class Doubled(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g


def hint(function: Callable[[Tensor], Tensor]) -> str:
    (finding,) = check_gradients(lambda x: function(x) + 0 * x, torch.linspace(-2, 2, 8)).errors
    return finding.hint


@pytest.mark.parametrize(
    ("function", "kind"),
    [(Rounded, "straight-through"), (Spike, "straight-through"), (Reversed, "gradient reversal")],
)
def test_how_to_declare_it_is_said(function: Any, kind: str) -> None:
    said = hint(function.apply)
    assert f'@surrogate_gradient("{kind}") on {function.__name__}' in said
    assert f"surrogates=({function.__name__},)" in said


def test_a_missing_factor_is_no_surrogate() -> None:
    assert "declare" not in hint(Doubled.apply)

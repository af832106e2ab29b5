"""A jvp inside a jvp through a custom Function gives 0 for the second derivative of ``x * x``."""

from typing import Any

import torch


class Square(torch.autograd.Function):
    @staticmethod
    def forward(x: torch.Tensor) -> torch.Tensor:
        return x * x

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:
        return 2 * ctx.saved_tensors[0] * g

    @staticmethod
    def jvp(ctx: Any, tangent: torch.Tensor) -> torch.Tensor:
        return 2 * ctx.saved_tensors[0] * tangent


one = torch.ones((), dtype=torch.float64)


def slope(x: torch.Tensor) -> torch.Tensor:
    return torch.func.jvp(Square.apply, (x,), (one,))[1]


_, second = torch.func.jvp(slope, (3 * one,), (one,))
print("second derivative", second.item(), "instead of 2")
SHOWN = second.item() == 0.0

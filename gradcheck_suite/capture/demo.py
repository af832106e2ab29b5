"""Two small models for ``gradcheck demo``: one that is right, one whose custom backward lacks a factor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["RightModel", "WrongModel", "demo_inputs", "demo_models"]


class Cube(torch.autograd.Function):
    """x ** 3 with a backward as somebody might write it in a hurry."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x * x

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        gradient: Tensor = 2 * x * x * grad_output  # the derivative of x ** 3 is 3 * x ** 2
        return gradient


class RightModel(nn.Module):
    """Two layers with a cube in between, differentiated by autograd itself."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 16)
        self.norm = nn.LayerNorm(16)
        self.last = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(self.first(x))
        out: Tensor = self.last(hidden * hidden * hidden)
        return out.log_softmax(-1)


class WrongModel(RightModel):
    """The same function through ``Cube``: equal outputs, equal loss, wrong gradients."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(self.first(x))
        out: Tensor = self.last(Cube.apply(hidden))
        return out.log_softmax(-1)


def demo_models(seed: int = 0) -> tuple[RightModel, WrongModel]:
    """Both models with the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        right, wrong = RightModel(), WrongModel()
    wrong.load_state_dict(right.state_dict())
    return right, wrong


def demo_inputs(seed: int = 0) -> Tensor:
    """A batch of four."""
    return torch.randn(4, 8, generator=torch.Generator().manual_seed(seed))

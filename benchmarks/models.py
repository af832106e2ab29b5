"""The models that are measured: each a name and a function that makes the model and its inputs, always the same."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["Case", "MissingPackageError", "cases", "mlp", "mlp_case"]

Made = tuple[nn.Module, tuple[Tensor, ...]]

BATCH = 64
"""Examples per batch of the MLPs."""


class MissingPackageError(RuntimeError):
    """A package that a case needs is not installed."""


@dataclass(frozen=True)
class Case:
    """One model to be measured.

    Attributes:
        name: shown in the table.
        make: makes a fresh float32 model in train mode and its positional inputs, from fixed seeds.
        slow_mode: whether gradcheck's slow mode ends within a minute or so here.
        slow_mode_quick: whether it does so within seconds.
    """

    name: str
    make: Callable[[], Made]
    slow_mode: bool = False
    slow_mode_quick: bool = False


class CNN(nn.Module):
    """Two convolutions with pooling and a linear head, for images of 3 x 32 x 32."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.head = nn.Linear(32 * 8 * 8, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of shape (batch, 10)."""
        out: Tensor = self.head(self.features(x).flatten(1))
        return out


class Recurrent(nn.Module):
    """A two-layer LSTM whose last state is classified."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(32, 64, num_layers=2, batch_first=True)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of shape (batch, 10) for a sequence of shape (batch, time, 32)."""
        states, _ = self.lstm(x)
        out: Tensor = self.head(states[:, -1])
        return out


def mlp(parameters: int) -> nn.Module:
    """Two hidden layers of equal width, 16 inputs, 10 outputs; the width that comes nearest to so many parameters."""
    # width ** 2 + (16 + 1 + 1 + 10) * width + 10 = parameters
    width = max(1, round(-14 + math.sqrt(14**2 + parameters - 10)))
    return nn.Sequential(
        nn.Linear(16, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
    )


def mlp_case(parameters: int) -> Case:
    """The case of an MLP of about so many parameters."""
    number = f"{parameters // 1_000_000}M" if parameters >= 1_000_000 else f"{parameters // 1000}k"
    return Case(
        f"MLP {number}",
        lambda: _made(lambda: mlp(parameters), (BATCH, 16)),
        slow_mode=parameters <= 100_000,
        slow_mode_quick=parameters <= 1000,
    )


def _made(make: Callable[[], nn.Module], *shapes: tuple[int, ...]) -> Made:
    torch.manual_seed(0)
    model = make().train()
    generator = torch.Generator().manual_seed(1)
    return model, tuple(torch.randn(shape, generator=generator) for shape in shapes)


def _encoder() -> nn.Module:
    # Without dropout: gradcheck cannot hold it still and would reject every model that has it.
    layer = nn.TransformerEncoderLayer(64, nhead=4, dim_feedforward=128, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False)


def _resnet18() -> Made:
    if importlib.util.find_spec("torchvision") is None:
        raise MissingPackageError("torchvision is not installed: pip install '.[zoo]'")
    from torchvision.models import resnet18

    return _made(lambda: resnet18(weights=None), (2, 3, 32, 32))


def cases() -> list[Case]:
    """Every case, small to large."""
    return [
        *(mlp_case(parameters) for parameters in (1000, 10_000, 100_000, 1_000_000)),
        Case("small CNN", lambda: _made(CNN, (8, 3, 32, 32))),
        Case("transformer encoder", lambda: _made(_encoder, (4, 16, 64))),
        Case("LSTM", lambda: _made(Recurrent, (8, 12, 32))),
        Case("resnet18", _resnet18),
    ]

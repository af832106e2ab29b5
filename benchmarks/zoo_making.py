"""How the models of the zoo are made: from the configurations of torchvision, timm and transformers, random weights.

One function per kind of model; each returns a :class:`Model` that is made when it is its turn, from torch's current seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .zoo_layers import HANDWRITTEN

Made = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Model:
    """One model: its name, and how to make it with its arguments, from torch's current seed."""

    name: str
    make: Callable[[], Made]


def torchvision(name: str, size: int = 32, batch: int = 2, **config: Any) -> Model:
    def make() -> Made:
        from torchvision import models

        model = models.get_model(name, weights=None, **config)
        return model, (torch.randn(batch, 3, size, size),), {}

    return Model(f"torchvision {name}", make)


def segmentation(name: str, size: int = 33) -> Model:
    return torchvision(name, size=size, weights_backbone=None, num_classes=4, aux_loss=None)


def detection(name: str, **config: Any) -> Model:
    def make() -> Made:
        from torchvision import models

        model = models.get_model(
            name, weights=None, weights_backbone=None, num_classes=3, min_size=64, max_size=64, **config
        )
        image = torch.rand(3, 64, 64)
        target = {"boxes": torch.tensor([[8.0, 8.0, 40.0, 48.0]]), "labels": torch.tensor([1])}
        if "mask" in name:
            target["masks"] = (torch.rand(1, 64, 64) > 0.5).to(torch.uint8)
        return model, ([image], [target]), {}

    return Model(f"torchvision {name}", make)


def video(name: str, frames: int = 4, size: int = 32) -> Model:
    def make() -> Made:
        from torchvision import models

        return models.get_model(name, weights=None), (torch.randn(1, 3, frames, size, size),), {}

    return Model(f"torchvision {name}", make)


def timm(name: str, size: int = 64, batch: int = 2, **config: Any) -> Model:
    def make() -> Made:
        from timm import create_model

        model = create_model(name, pretrained=False, num_classes=5, **config)
        return model, (torch.randn(batch, 3, size, size),), {}

    return Model(f"timm {name}", make)


SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 61,
    "max_position_embeddings": 64,
}


def text(family: str, head: str, *, labels: str = "tokens", small: bool = True, **config: Any) -> Model:
    """A text model with its loss: ``labels`` "tokens" (one per position) or "class"."""

    def make() -> Made:
        import transformers

        settings = getattr(transformers, f"{family}Config")(**{**(SMALL if small else {}), **config})
        settings._attn_implementation = "eager"
        model = getattr(transformers, f"{family}{head}")(settings)
        tokens = torch.randint(3, 60, (2, 8))
        wanted = tokens if labels == "tokens" else torch.tensor([0, 1])
        return model, (), {"input_ids": tokens, "labels": wanted}

    return Model(f"transformers {family}{head}", make)


def other(family: str, head: str, inputs: Callable[[], dict[str, Any]], **config: Any) -> Model:
    def make() -> Made:
        import transformers

        settings = getattr(transformers, f"{family}Config")(**config)
        return getattr(transformers, f"{family}{head}")(settings), (), inputs()

    return Model(f"transformers {family}{head}", make)


def written(name: str) -> Model:
    def make() -> Made:
        model, args = HANDWRITTEN[name]()
        return model, args, {}

    return Model(f"hand-written {name}", make)


SEQUENCE: dict[str, Any] = {
    "vocab_size": 61,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
}
SPEECH: dict[str, Any] = {
    **SMALL,
    "conv_dim": (16, 16),
    "conv_kernel": (10, 4),
    "conv_stride": (5, 4),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "mask_time_prob": 0.0,
    "vocab_size": 32,
}


def speech() -> dict[str, Any]:
    return {"input_values": torch.randn(2, 800), "labels": torch.randint(1, 30, (2, 5))}

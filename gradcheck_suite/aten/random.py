"""Operations that draw random numbers.

What was drawn is taken from the recording; what the draw does *to* differentiable values is stated here. A draw
from a distribution with parameters (normal, bernoulli, ...) is a constant: torch documents it as a sample, with a
zero derivative, and leaves reparameterisation to ``torch.distributions``.
"""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import numpy as np

from ..engine import ops as e
from .registry import RECORDED, meaning
from .values import raw


@meaning("aten::native_dropout", uses_outputs=True)
def native_dropout(input, p, train, *, recorded):
    """Keeps the recorded elements, scaled by ``1 / (1 - p)``."""
    if train is False:
        return input, RECORDED
    scale = 1.0 / (1.0 - p) if p < 1 else 0.0
    return e.multiply(input, recorded[1].astype(np.float64) * scale), RECORDED


@meaning("aten::_fused_dropout", uses_outputs=True)
def fused_dropout(self, p, generator=None, *, recorded):
    """Keeps the recorded elements, scaled by ``1 / p``: here p is the probability to be kept."""
    return e.multiply(self, recorded[1].astype(np.float64) / p), RECORDED


@meaning("aten::native_dropout_backward")
def native_dropout_backward(grad_output, mask, scale):
    return e.multiply(grad_output, raw(mask).astype(np.float64) * scale)


@meaning("aten::bernoulli")
def bernoulli(self, *, generator=None):
    return RECORDED


@meaning("aten::bernoulli.p", "aten::bernoulli.Tensor")
def bernoulli_with(self, p, *, generator=None):
    return RECORDED


@meaning("aten::bernoulli_.float")
def bernoulli_fill(self, p=0.5, *, generator=None):
    return RECORDED


@meaning("aten::normal.Tensor_float")
def normal_about(mean, std=1.0, *, generator=None):
    return RECORDED


@meaning("aten::normal.float_Tensor", "aten::normal.Tensor_Tensor")
def normal_of(mean, std, *, generator=None):
    return RECORDED


@meaning("aten::normal_")
def normal_fill(self, mean=0.0, std=1.0, *, generator=None):
    return RECORDED


@meaning("aten::exponential_")
def exponential_fill(self, lambd=1.0, *, generator=None):
    return RECORDED


@meaning("aten::poisson")
def poisson(self, generator=None):
    return RECORDED


@meaning("aten::rand_like", "aten::randn_like")
def random_like(self, *, dtype=None, layout=None, device=None, pin_memory=None, memory_format=None):
    return RECORDED

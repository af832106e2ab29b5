"""Activation functions, each from its definition, with torch's documented choice at its kinks.

Where a branch would overflow or be undefined, its argument is replaced before the branch is taken: a selected-away
infinity would still poison the gradient with 0 * inf.
"""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import math

import numpy as np

from ..engine import ops as e
from .registry import RECORDED, meaning
from .values import along, constant, convert, raw


def _only(mask, x):
    return e.where(mask, x, 0.0)


@meaning("aten::relu")
def relu(self):
    return e.relu(self)


@meaning("aten::silu")
def silu(self):
    return e.multiply(self, e.sigmoid(self))


@meaning("aten::gelu")
def gelu(self, *, approximate="none"):
    """``x * Phi(x)``, or the tanh approximation (Hendrycks and Gimpel, 2016, section 2)."""
    if approximate == "none":
        return e.multiply(self, e.ndtr(self))
    inner = math.sqrt(2.0 / math.pi) * (self + 0.044715 * (self * self * self))
    return 0.5 * self * (1.0 + e.tanh(inner))


@meaning("aten::mish")
def mish(self):
    return e.multiply(self, e.tanh(e.softplus(self)))


@meaning("aten::elu")
def elu(self, alpha=1, scale=1, input_scale=1):
    positive = raw(self) > 0
    negative_part = (alpha * scale) * e.expm1(_only(~positive, self) * input_scale)
    return e.where(positive, self * scale, negative_part)


@meaning("aten::celu")
def celu(self, alpha=1.0):
    positive = raw(self) > 0
    return e.where(positive, self, alpha * e.expm1(_only(~positive, self) / alpha))


@meaning("aten::leaky_relu")
def leaky_relu(self, negative_slope=0.01):
    return e.where(raw(self) > 0, self, self * negative_slope)


@meaning("aten::_prelu_kernel")
def prelu(self, weight):
    return e.where(raw(self) > 0, self, e.multiply(weight, self))


@meaning("aten::rrelu_with_noise", uses_outputs=True)
def rrelu_with_noise(self, noise, lower=0.125, upper=1.0 / 3.0, training=False, generator=None, *, recorded):
    """Leaky relu whose slopes were drawn at random: the drawn slope is the recorded output over the input."""
    data = raw(self)
    if not training:
        return e.where(data > 0, self, self * ((lower + upper) / 2))
    slope = np.divide(recorded[0], data, out=np.ones_like(data), where=data < 0)
    return e.multiply(self, constant(np.where(data <= 0, slope, 1.0)))


@meaning("aten::hardtanh")
def hardtanh(self, min_val=-1, max_val=1):
    """The identity strictly between the bounds; at a bound it is constant."""
    data = raw(self)
    return e.where((data > min_val) & (data < max_val), self, constant(np.clip(data, min_val, max_val)))


@meaning("aten::hardsigmoid")
def hardsigmoid(self):
    data = raw(self)
    sloped = (data > -3) & (data < 3)
    return e.where(sloped, self / 6.0 + 0.5, constant((data > 0).astype(data.dtype)))


@meaning("aten::hardswish")
def hardswish(self):
    data = raw(self)
    return e.where(data >= 3, self, e.where(data > -3, self * (self + 3.0) / 6.0, 0.0))


@meaning("aten::hardshrink")
def hardshrink(self, lambd=0.5):
    return _only(np.abs(raw(self)) > lambd, self)


@meaning("aten::softshrink")
def softshrink(self, lambd=0.5):
    data = raw(self)
    return _only(np.abs(data) > lambd, self - constant(np.sign(data) * lambd))


@meaning("aten::threshold")
def threshold(self, threshold, value):
    return e.where(raw(self) > threshold, self, float(value))


@meaning("aten::softplus")
def softplus(self, beta=1, threshold=20):
    """``log(1 + exp(beta x)) / beta``, and the identity where ``beta x`` exceeds the threshold."""
    return e.where(raw(self) * beta > threshold, self, e.softplus(self * beta) / beta)


@meaning("aten::log_sigmoid_forward")
def log_sigmoid(self):
    return e.log_sigmoid(self), RECORDED


@meaning("aten::glu")
def glu(self, dim=-1):
    def gated(x, axis):
        half = x.shape[axis] // 2
        lead = (slice(None),) * axis
        value, gate = (
            e.getitem(x, index=(*lead, slice(0, half))),
            e.getitem(x, index=(*lead, slice(half, None))),
        )
        return e.multiply(value, e.sigmoid(gate))

    return along(self, dim, gated)


@meaning("aten::_softmax")
def softmax(self, dim, half_to_float):
    return along(self, dim, lambda x, axis: e.softmax(x, axis=axis))


@meaning("aten::_log_softmax")
def log_softmax(self, dim, half_to_float):
    return along(self, dim, lambda x, axis: e.log_softmax(x, axis=axis))


@meaning("aten::_safe_softmax")
def safe_softmax(self, dim, dtype=None):
    """Softmax that is zero, not NaN, along a line where everything is masked with minus infinity."""

    def safe(x, axis):
        masked = (raw(x) == -np.inf).all(axis=axis, keepdims=True)
        if not bool(masked.any()):
            return e.softmax(x, axis=axis)
        return e.where(masked, 0.0, e.softmax(e.where(masked, 0.0, x), axis=axis))

    return along(convert(self, dtype), dim, safe)

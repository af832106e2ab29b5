"""Fake quantisation: rounding to a grid of ``quant_max - quant_min + 1`` points, as trained through.

Its derivative is a convention and not the one of the rounding (which is zero): straight through, as if rounding did
nothing, inside the grid, and zero outside (Bengio, Leonard, Courville, "Estimating or propagating gradients through
stochastic neurons", 2013; for scale and zero point Esser et al., "Learned step size quantization", 2020). torch
documents it so. Here ``round(x)`` is ``x`` plus a constant, from which all of that follows. Finite differences of the
function see the steps; :data:`STRAIGHT_THROUGH` names the operations for which they have no say.
"""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

from typing import Any

import numpy as np

from ..engine import ops as e
from .registry import RECORDED, meaning
from .values import Array, Value, broadcast_dims, constant, raw

__all__ = ["STRAIGHT_THROUGH"]

STRAIGHT_THROUGH = frozenset(
    {
        "aten::fake_quantize_per_tensor_affine_cachemask",
        "aten::_fake_quantize_per_tensor_affine_cachemask_tensor_qparams",
        "aten::fake_quantize_per_channel_affine_cachemask",
        "aten::_fake_quantize_learnable_per_tensor_affine",
        "aten::_fake_quantize_learnable_per_channel_affine",
        "aten::_fused_moving_avg_obs_fq_helper",
    }
)

_HALF = 0.5 + 1e-3
"""How far from its argument a rounded number may be: half, and what float32 makes of a tie."""


def _rounded(x: Value, recorded: Array) -> Any:
    """``round(x)`` passed straight through; at a tie as torch did."""
    data = raw(x)
    nearest = np.where(np.abs(recorded - data) <= _HALF, recorded, np.round(data))
    return x + constant(nearest - data)


def _quantized(x: Value, scale: Value, zero_point: Value, low: int, high: int, recorded: Array) -> Any:
    """``(clamp(round(x / scale) + zero_point, low, high) - zero_point) * scale``; the bounds are inside."""
    steps = np.round(np.asarray(recorded, dtype=np.float64) / raw(scale))
    place = _rounded(e.divide(x, scale), steps) + zero_point
    data = raw(place)
    inside = (data >= low) & (data <= high)
    return (e.where(inside, place, constant(np.clip(data, low, high))) - zero_point) * scale


@meaning("aten::fake_quantize_per_tensor_affine_cachemask", uses_outputs=True)
def per_tensor(self, scale, zero_point, quant_min, quant_max, *, recorded):
    return _quantized(self, scale, zero_point, quant_min, quant_max, recorded[0]), RECORDED


@meaning("aten::_fake_quantize_per_tensor_affine_cachemask_tensor_qparams", uses_outputs=True)
def per_tensor_with_tensors(self, scale, zero_point, fake_quant_enabled, quant_min, quant_max, *, recorded):
    """The parameters are buffers of an observer: no gradient goes there."""
    if not raw(fake_quant_enabled).ravel()[0]:
        return self, RECORDED
    one, point = float(raw(scale).ravel()[0]), float(raw(zero_point).ravel()[0])
    return _quantized(self, one, point, quant_min, quant_max, recorded[0]), RECORDED


@meaning("aten::fake_quantize_per_channel_affine_cachemask", uses_outputs=True)
def per_channel(self, scale, zero_point, axis, quant_min, quant_max, *, recorded):
    scales, points = (constant(broadcast_dims(constant(v), self.ndim, axis)) for v in (scale, zero_point))
    return _quantized(self, scales, points, quant_min, quant_max, recorded[0]), RECORDED


@meaning("aten::_fused_moving_avg_obs_fq_helper", uses_outputs=True)
def observed(
    self,
    observer_on,
    fake_quant_on,
    running_min,
    running_max,
    scale,
    zero_point,
    averaging_const,
    quant_min,
    quant_max,
    ch_axis,
    per_row_fake_quant=False,
    symmetric_quant=False,
    *,
    recorded,
):
    """The observer sets scale and zero point in the same call, so its mask says what lies inside of the grid."""
    if not raw(fake_quant_on).ravel()[0]:
        return self, RECORDED
    passed = e.where(recorded[1].astype(bool), self, 0.0)
    return passed + constant(recorded[0] - raw(passed)), RECORDED


def _damped(x: Value, factor: float) -> Any:
    """The value, with ``factor`` times its gradient."""
    return x if factor == 1 else x * factor + constant(raw(x) * (1.0 - factor))


def _learnable(x, scale, zero_point, low, high, factor, recorded):
    """The zero point is rounded and clamped to the grid, and that is passed straight through as well."""
    point = raw(zero_point)
    nearest = np.clip(np.floor(point + 0.5), low, high)
    zero_point = _damped(zero_point + constant(nearest - point), factor)
    return _quantized(x, _damped(scale, factor), zero_point, low, high, recorded)


@meaning("aten::_fake_quantize_learnable_per_tensor_affine", uses_outputs=True)
def learnable(self, scale, zero_point, quant_min, quant_max, grad_factor=1.0, *, recorded):
    return _learnable(self, scale, zero_point, quant_min, quant_max, grad_factor, recorded[0])


@meaning("aten::_fake_quantize_learnable_per_channel_affine", uses_outputs=True)
def learnable_per_channel(self, scale, zero_point, axis, quant_min, quant_max, grad_factor=1.0, *, recorded):
    scales, points = (broadcast_dims(v, self.ndim, axis) for v in (scale, zero_point))
    return _learnable(self, scales, points, quant_min, quant_max, grad_factor, recorded[0])

"""Addition to powers, comparisons that pass values through, and complex parts."""

# The parameters are those of the schemas (a test compares them), of types that torch knows: hence no annotations.
# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import math

import numpy as np

from ..engine import ops as e
from .registry import meaning
from .values import boolean, constant, is_complex, is_floating, raw


def _scaled(x, factor):
    return x if isinstance(factor, (int, float)) and factor == 1 else x * factor


@meaning("aten::add.Tensor")
def add(self, other, *, alpha=1):
    return e.add(self, _scaled(other, alpha))


@meaning("aten::add.Scalar")
def add_scalar(self, other, alpha=1):
    return e.add(self, alpha * other)


@meaning("aten::sub.Tensor")
def sub(self, other, *, alpha=1):
    return e.subtract(self, _scaled(other, alpha))


@meaning("aten::sub.Scalar")
def sub_scalar(self, other, alpha=1):
    return e.subtract(self, alpha * other)


@meaning("aten::rsub.Tensor")
def rsub(self, other, *, alpha=1):
    return e.subtract(other, _scaled(self, alpha))


@meaning("aten::rsub.Scalar")
def rsub_scalar(self, other, alpha=1):
    return e.subtract(other, _scaled(self, alpha))


@meaning("aten::mul.Tensor", "aten::mul.Scalar")
def mul(self, other):
    return e.multiply(self, other)


@meaning("aten::div.Tensor", "aten::div.Scalar")
def div(self, other):
    return e.divide(self, other)


@meaning("aten::div.Tensor_mode", "aten::div.Scalar_mode")
def div_mode(self, other, *, rounding_mode):
    if rounding_mode is None:
        return e.divide(self, other)
    if rounding_mode == "floor":
        return e.floor_divide(self, other)
    return e.trunc(e.divide(self, other))


@meaning("aten::floor_divide", "aten::floor_divide.Scalar")
def floor_divide(self, other):
    return e.floor_divide(self, other)


@meaning("aten::remainder.Tensor", "aten::remainder.Scalar", "aten::remainder.Scalar_Tensor")
def remainder(self, other):
    return e.remainder(self, other)


@meaning("aten::fmod.Tensor", "aten::fmod.Scalar")
def fmod(self, other):
    return e.fmod(self, other)


@meaning("aten::neg", "aten::_neg_view")
def neg(self):
    return e.negative(self)


@meaning("aten::reciprocal")
def reciprocal(self):
    return e.reciprocal(self)


@meaning("aten::pow.Tensor_Tensor", "aten::pow.Tensor_Scalar", "aten::pow.Scalar")
def power(self, exponent):
    if isinstance(exponent, (int, float)):
        if exponent == 1:
            return self
        if exponent == 2:
            return e.square(self)
    return e.power(self, exponent)


@meaning("aten::abs")
def absolute(self):
    return e.absolute(self)


@meaning("aten::sign")
def sign(self):
    return e.sign(self)


@meaning("aten::sgn")
def sgn(self):
    return e.sgn(self) if is_complex(self) else e.sign(self)


@meaning("aten::maximum")
def maximum(self, other):
    return e.maximum(self, other)


@meaning("aten::minimum")
def minimum(self, other):
    return e.minimum(self, other)


@meaning("aten::fmax")
def fmax(self, other):
    """The larger one; of a number and a NaN the number; of equals the first."""
    return e.where((raw(self) >= raw(other)) | np.isnan(raw(other)), self, other)


@meaning("aten::fmin")
def fmin(self, other):
    """The smaller one; of a number and a NaN the number; of equals the first."""
    return e.where((raw(self) <= raw(other)) | np.isnan(raw(other)), self, other)


def _clamped_by_numbers(x, low, high):
    """Constant from a bound on: torch's choice at the bound itself."""
    data = raw(x)
    inside = np.ones(data.shape, dtype=bool)
    if low is not None:
        inside &= ~(data <= low)
    if high is not None:
        inside &= ~(data >= high)
    return x if bool(inside.all()) else e.where(inside, x, constant(np.clip(data, low, high)))


@meaning("aten::clamp")
def clamp(self, min=None, max=None):
    return _clamped_by_numbers(self, min, max)


@meaning("aten::clamp_min")
def clamp_min(self, min):
    return _clamped_by_numbers(self, min, None)


@meaning("aten::clamp_max")
def clamp_max(self, max):
    return _clamped_by_numbers(self, None, max)


@meaning("aten::clamp.Tensor")
def clamp_between(self, min=None, max=None):
    """``minimum(maximum(self, min), max)``: of equal values each takes half of the gradient."""
    raised = self if min is None else e.maximum(self, min)
    return raised if max is None else e.minimum(raised, max)


@meaning("aten::clamp_min.Tensor")
def clamp_from(self, min):
    return e.maximum(self, min)


@meaning("aten::clamp_max.Tensor")
def clamp_to(self, max):
    return e.minimum(self, max)


@meaning("aten::where.self")
def where(condition, self, other):
    return e.where(boolean(condition), self, other)


@meaning("aten::lerp.Tensor", "aten::lerp.Scalar")
def lerp(self, end, weight):
    return e.add(self, e.multiply(weight, e.subtract(end, self)))


@meaning("aten::addcmul")
def addcmul(self, tensor1, tensor2, *, value=1):
    return e.add(self, _scaled(e.multiply(tensor1, tensor2), value))


@meaning("aten::addcdiv")
def addcdiv(self, tensor1, tensor2, *, value=1):
    return e.add(self, _scaled(e.divide(tensor1, tensor2), value))


@meaning("aten::hypot")
def hypot(self, other):
    return e.hypot(self, other)


@meaning("aten::atan2")
def atan2(self, other):
    return e.arctan2(self, other)


@meaning("aten::copysign.Tensor", "aten::copysign.Scalar")
def copysign(self, other):
    return e.copysign(self, other)


@meaning("aten::ldexp.Tensor")
def ldexp(self, other):
    """``self * 2**other``: differentiable in both when ``other`` is floating."""
    if is_floating(other):
        return e.multiply(self, e.exp2(other))
    return e.multiply(self, np.exp2(raw(other).astype(np.float64)))


@meaning("aten::frexp.Tensor")
def frexp(self):
    """Mantissa and exponent; away from powers of two the exponent is constant."""
    exponent = np.frexp(raw(self))[1]
    return e.multiply(self, np.exp2(-exponent.astype(np.float64))), exponent


@meaning("aten::nextafter", uses_outputs=True)
def nextafter(self, other, *, recorded):
    """The neighbour of ``self`` towards ``other``: one unit in the last place away, in torch's own precision."""
    step = recorded[0].astype(np.float64) - raw(self)
    return e.add(self, constant(np.where(np.isfinite(step), step, 0.0)))


@meaning("aten::heaviside")
def heaviside(self, values):
    """A step in ``self``; where ``self`` is exactly zero it is ``values``."""
    step = constant((raw(self) > 0).astype(np.float64))
    return e.where(raw(self) == 0, values, e.add(step, e.multiply(self, 0.0)))


@meaning("aten::nan_to_num", uses_outputs=True)
def nan_to_num(self, nan=None, posinf=None, neginf=None, *, recorded):
    """Replaces what is not finite; the default for infinities, the largest number of torch's dtype, is recorded."""
    finite = np.isfinite(raw(self))
    if bool(finite.all()):
        return self
    replacement = np.where(finite, 0.0, recorded[0].astype(np.float64))
    return e.where(finite, self, constant(replacement))


@meaning("aten::_conj", "aten::_conj_physical")
def conj(self):
    return e.conj(self)


@meaning("aten::complex")
def make_complex(real, imag):
    return e.make_complex(real, imag)


@meaning("aten::polar")
def polar(abs, angle):
    return e.make_complex(e.multiply(abs, e.cos(angle)), e.multiply(abs, e.sin(angle)))


@meaning("aten::angle")
def angle(self):
    return e.angle(self)


@meaning("aten::view_as_real")
def view_as_real(self):
    return e.stack([e.real(self), e.imag(self)], axis=-1)


@meaning("aten::view_as_complex")
def view_as_complex(self):
    return e.make_complex(e.getitem(self, index=(..., 0)), e.getitem(self, index=(..., 1)))


@meaning("aten::deg2rad")
def deg2rad(self):
    return e.multiply(self, math.pi / 180.0)


@meaning("aten::rad2deg")
def rad2deg(self):
    return e.multiply(self, 180.0 / math.pi)

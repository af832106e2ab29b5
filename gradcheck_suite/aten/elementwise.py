"""Functions of one number, applied to each element."""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import math

import numpy as np

from ..engine import ops as e
from .registry import meaning
from .values import is_complex, raw


def _unary(name, function):
    @meaning(f"aten::{name}")
    def of_self(self):
        return function(self)


for _name, _function in {
    "exp": e.exp,
    "exp2": e.exp2,
    "expm1": e.expm1,
    "log": e.log,
    "log2": e.log2,
    "log10": e.log10,
    "log1p": e.log1p,
    "sqrt": e.sqrt,
    "rsqrt": e.rsqrt,
    "sin": e.sin,
    "cos": e.cos,
    "tan": e.tan,
    "asin": e.arcsin,
    "acos": e.arccos,
    "atan": e.arctan,
    "sinh": e.sinh,
    "cosh": e.cosh,
    "tanh": e.tanh,
    "asinh": e.arcsinh,
    "acosh": e.arccosh,
    "atanh": e.arctanh,
    "sigmoid": e.sigmoid,
    "sinc": e.sinc,
    "floor": e.floor,
    "ceil": e.ceil,
    "round": e.round,
    "trunc": e.trunc,
}.items():
    _unary(_name, _function)


@meaning("aten::frac")
def frac(self):
    return e.subtract(self, e.trunc(self))


@meaning("aten::round.decimals")
def round_decimals(self, *, decimals):
    scale = 10.0**decimals
    return e.divide(e.round(e.multiply(self, scale)), scale)


@meaning("aten::logit")
def logit(self, eps=None):
    """``log(x / (1 - x))`` with ``x`` clamped to ``[eps, 1 - eps]`` when eps is given; where eps is above 1/2 the lower
    bound is looked at first."""
    x = self
    if eps is not None:
        value = raw(self)
        x = e.where(value < eps, eps, e.where(value > 1.0 - eps, 1.0 - eps, self))
    return e.subtract(e.log(x), e.log1p(e.negative(x)))


@meaning("aten::logaddexp")
def logaddexp(self, other):
    if is_complex(self) or is_complex(other):
        shift = np.maximum(raw(self).real, raw(other).real)
        return e.add(e.log(e.add(e.exp(self - shift), e.exp(other - shift))), shift)
    return e.logaddexp(self, other)


@meaning("aten::logaddexp2")
def logaddexp2(self, other):
    ln2 = math.log(2.0)
    return e.divide(e.logaddexp(e.multiply(self, ln2), e.multiply(other, ln2)), ln2)

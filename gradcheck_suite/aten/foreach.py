"""``_foreach_*``: one operation on each tensor of a list, as fused optimizers and hand-written inner loops call them.

Each is the operation of its name, tensor by tensor; scalars come as one number, one per tensor or a tensor of them.
"""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..engine import ops as e
from . import arithmetic, matmul, reduction
from .registry import meaning
from .values import constant, convert, raw

_Of = Callable[..., Any]


def _unary(name: str, function: _Of) -> None:
    @meaning(f"aten::_foreach_{name}")
    def of_each(self):
        return [function(x) for x in self]


for _name, _function in {
    "exp": e.exp,
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
    "sigmoid": e.sigmoid,
    "erf": e.erf,
    "erfc": e.erfc,
    "lgamma": e.gammaln,
    "floor": e.floor,
    "ceil": e.ceil,
    "round": e.round,
    "trunc": e.trunc,
    "neg": e.negative,
    "abs": arithmetic.absolute,
    "sign": arithmetic.sign,
    "reciprocal": arithmetic.reciprocal,
    "frac": lambda x: e.subtract(x, e.trunc(x)),
    "max": reduction.max_all,
    "zero": lambda x: constant(np.zeros_like(raw(x))),
}.items():
    _unary(_name, _function)


@meaning("aten::_foreach_clone")
def clone(self, *, memory_format=None):
    return list(self)


@meaning("aten::_foreach_copy")
def copy(self, src, non_blocking=False):
    return list(src)


def _with_number(name: str, function: _Of) -> None:
    """``Scalar``: one number for all; ``ScalarList``: one for each."""

    @meaning(f"aten::_foreach_{name}.Scalar")
    def with_one(self, scalar):
        return [function(x, scalar) for x in self]

    @meaning(f"aten::_foreach_{name}.ScalarList")
    def with_each(self, scalars):
        return [function(x, scalar) for x, scalar in zip(self, scalars)]


def _with_tensors(name: str, function: _Of) -> None:
    @meaning(f"aten::_foreach_{name}.List")
    def with_list(self, other):
        return [function(x, y) for x, y in zip(self, other)]


for _name, _function in {
    "add": e.add,
    "sub": e.subtract,
    "mul": e.multiply,
    "div": e.divide,
    "clamp_min": arithmetic.clamp_min,
    "clamp_max": arithmetic.clamp_max,
    "maximum": arithmetic.clamp_min,
    "minimum": arithmetic.clamp_max,
}.items():
    _with_number(_name, _function)

for _name, _function in {
    "mul": e.multiply,
    "div": e.divide,
    "clamp_min": arithmetic.maximum,
    "clamp_max": arithmetic.minimum,
    "maximum": arithmetic.maximum,
    "minimum": arithmetic.minimum,
}.items():
    _with_tensors(_name, _function)


@meaning("aten::_foreach_add.List")
def add_list(self, other, *, alpha=1):
    return [x + alpha * y for x, y in zip(self, other)]


@meaning("aten::_foreach_sub.List")
def sub_list(self, other, *, alpha=1):
    return [x - alpha * y for x, y in zip(self, other)]


@meaning("aten::_foreach_add.Tensor")
def add_tensor(self, other, *, alpha=1):
    return [x + alpha * other for x in self]


@meaning("aten::_foreach_mul.Tensor")
def mul_tensor(self, other):
    return [x * other for x in self]


@meaning("aten::_foreach_div.Tensor")
def div_tensor(self, other):
    return [x / other for x in self]


@meaning("aten::_foreach_mm")
def mm(self, mat2):
    return [matmul.mm(x, y) for x, y in zip(self, mat2)]


@meaning("aten::_foreach_pow.Scalar")
def pow_scalar(self, exponent):
    return [arithmetic.power(x, exponent) for x in self]


@meaning("aten::_foreach_pow.ScalarList", "aten::_foreach_pow.List")
def pow_each(self, exponent):
    return [arithmetic.power(x, n) for x, n in zip(self, exponent)]


@meaning("aten::_foreach_pow.ScalarAndTensor")
def pow_of_number(self, exponent):
    return [arithmetic.power(self, x) for x in exponent]


@meaning("aten::_foreach_lerp.Scalar")
def lerp_scalar(self, tensors1, weight):
    return [arithmetic.lerp(x, y, weight) for x, y in zip(self, tensors1)]


@meaning("aten::_foreach_lerp.ScalarList")
def lerp_numbers(self, tensors1, weight):
    return [arithmetic.lerp(x, y, w) for x, y, w in zip(self, tensors1, weight)]


@meaning("aten::_foreach_lerp.List")
def lerp_list(self, tensors1, weights):
    return [arithmetic.lerp(x, y, w) for x, y, w in zip(self, tensors1, weights)]


def _fused(name: str, function: _Of) -> None:
    """``self + value * f(tensor1, tensor2)``."""

    @meaning(f"aten::_foreach_{name}.Scalar")
    def with_one(self, tensor1, tensor2, value=1):
        return [x + value * function(y, z) for x, y, z in zip(self, tensor1, tensor2)]

    @meaning(f"aten::_foreach_{name}.ScalarList")
    def with_each(self, tensor1, tensor2, scalars):
        return [x + value * function(y, z) for x, y, z, value in zip(self, tensor1, tensor2, scalars)]

    @meaning(f"aten::_foreach_{name}.Tensor")
    def with_tensor(self, tensor1, tensor2, scalars):
        numbers = raw(scalars)  # torch reads them as numbers: no gradient goes there
        return [
            x + value * function(y, z) for x, y, z, value in zip(self, tensor1, tensor2, numbers.tolist())
        ]


_fused("addcmul", e.multiply)
_fused("addcdiv", e.divide)


@meaning("aten::_foreach_norm.Scalar")
def norm(self, ord=2, dtype=None):
    return [reduction.vector_norm(x, ord, dtype=dtype) for x in self]


@meaning("aten::_foreach_powsum.Scalar")
def powsum(self, ord=2, dtype=None):
    return [_power_sum(x, ord, None, False, dtype) for x in self]


@meaning("aten::linalg__powsum")
def linalg_powsum(self, ord=2, dim=None, keepdim=False, *, dtype=None):
    return _power_sum(self, ord, dim, keepdim, dtype)


def _power_sum(x, ord, dim, keepdim, dtype):
    """The sum that the ``ord``-norm is the root of."""
    axes = None if dim is None or not len(dim) else tuple(dim)
    return e.sum(e.power(e.absolute(convert(x, dtype)), ord), axis=axes, keepdims=keepdim)

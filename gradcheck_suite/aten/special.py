"""Special functions: error and gamma functions, entropies, Bessel functions, zeta."""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import numpy as np

from ..engine import ops as e
from .registry import meaning


def _unary(name, function):
    @meaning(f"aten::{name}")
    def of_self(self):
        return function(self)


def _of_x(name, function):
    @meaning(f"aten::{name}")
    def of_x(x):
        return function(x)


for _name, _function in {
    "erf": e.erf,
    "erfc": e.erfc,
    "erfinv": e.erfinv,
    "lgamma": e.gammaln,
    "digamma": e.digamma,
    "i0": e.i0,
    "special_erfcx": e.erfcx,
    "special_ndtri": e.ndtri,
    "special_log_ndtr": e.log_ndtr,
    "special_ndtr": e.ndtr,
    "special_entr": e.entr,
    "special_i0e": e.i0e,
    "special_i1": e.i1,
    "special_i1e": e.i1e,
    "special_bessel_j0": e.bessel_j0,
    "special_bessel_j1": e.bessel_j1,
    "special_bessel_y0": e.bessel_y0,
    "special_bessel_y1": e.bessel_y1,
    "special_modified_bessel_i0": e.i0,
    "special_modified_bessel_i1": e.i1,
    "special_modified_bessel_k0": e.bessel_k0,
    "special_modified_bessel_k1": e.bessel_k1,
}.items():
    _unary(_name, _function)

_of_x("special_scaled_modified_bessel_k0", e.bessel_k0e)
_of_x("special_scaled_modified_bessel_k1", e.bessel_k1e)


@meaning("aten::special_spherical_bessel_j0")
def spherical_bessel_j0(x):
    return e.sinc(x / np.pi)


@meaning("aten::polygamma")
def polygamma(n, self):
    return e.digamma(self) if n == 0 else e.polygamma(self, n=n)


@meaning("aten::polygamma_")
def polygamma_in_place(self, n):
    return polygamma(n, self)


@meaning("aten::mvlgamma")
def mvlgamma(self, p):
    return e.multigammaln(self, p=p)


@meaning("aten::xlogy.Tensor", "aten::xlogy.Scalar_Self", "aten::xlogy.Scalar_Other")
def xlogy(self, other):
    return e.xlogy(self, other)


@meaning("aten::special_xlog1py", "aten::special_xlog1py.self_scalar", "aten::special_xlog1py.other_scalar")
def xlog1py(self, other):
    return e.xlog1py(self, other)


@meaning("aten::special_zeta", "aten::special_zeta.self_scalar", "aten::special_zeta.other_scalar")
def zeta(self, other):
    return e.zeta(self, other)


@meaning("aten::igamma")
def igamma(self, other):
    return e.gammainc(self, other)


@meaning("aten::igammac")
def igammac(self, other):
    return e.gammaincc(self, other)

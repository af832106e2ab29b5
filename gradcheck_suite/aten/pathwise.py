"""Samples of the gamma and the Dirichlet distribution, which move with their parameter.

With the uniform number u behind a sample held fixed, ``F(x; a) = u`` for the distribution function F. Differentiated
implicitly that is ``dx/da = -(dF/da) / (dF/dx)`` (Figurnov, Mohamed, Mnih, "Implicit Reparameterization Gradients",
2018). SciPy knows F; its derivative along the parameter is taken by differences of its logarithm, or of the logarithm
of ``1 - F`` in the upper tail, to about nine digits. torch itself fits polynomials to it, to about three.
"""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy  # its parts are imported on first use
from numpy.typing import NDArray

from ..engine import Tensor
from ..engine import ops as e
from .registry import RECORDED, MeaningUndefinedError, meaning
from .values import constant, raw

Array = NDArray[Any]

_STEP = 1e-3


def _log_slope(function: Callable[[Array], Array], a: Array) -> Array:
    """``d log f / d a`` by a five-point difference; the step is relative to ``a``, which is positive."""
    h = _STEP * a
    with np.errstate(all="ignore"):
        near = np.log(function(a + h)) - np.log(function(a - h))
        far = np.log(function(a + 2 * h)) - np.log(function(a - 2 * h))
        return np.asarray((8.0 * near - far) / (12.0 * h))


def _implicit(
    lower: Callable[[Array], Array], upper: Callable[[Array], Array], log_density: Array, a: Array
) -> Array:
    """``-(dF/da) / f`` from F, 1 - F and log f as functions of the parameter at the sample."""
    with np.errstate(all="ignore"):
        below, above = lower(a), upper(a)
        small = below <= above
        tail = np.exp(np.log(np.where(small, below, above)) - log_density)
        slope = np.where(small, -_log_slope(lower, a), _log_slope(upper, a))
        return np.asarray(tail * slope)


def gamma_slope(x: Array, a: Array) -> Array:
    """``dx/da`` of a sample x of the gamma distribution of shape a and rate 1; elementwise."""
    with np.errstate(all="ignore"):
        log_density = (a - 1.0) * np.log(x) - x - scipy.special.gammaln(a)
    return _implicit(
        lambda s: scipy.special.gammainc(s, x), lambda s: scipy.special.gammaincc(s, x), log_density, a
    )


def beta_slope(x: Array, a: Array, b: Array) -> Array:
    """``dx/da`` of a sample x of the beta distribution with parameters a and b; elementwise."""
    with np.errstate(all="ignore"):
        log_density = (a - 1.0) * np.log(x) + (b - 1.0) * np.log1p(-x) - scipy.special.betaln(a, b)
    return _implicit(
        lambda s: scipy.special.betainc(s, b, x), lambda s: scipy.special.betaincc(s, b, x), log_density, a
    )


def _moves_with(parameter: Any) -> bool:
    return isinstance(parameter, Tensor) and parameter.requires_grad


def _finite(slope: Array, name: str) -> Array:
    if not np.isfinite(slope).all():
        raise MeaningUndefinedError(
            f"differentiating a sample of {name} failed: {int((~np.isfinite(slope)).sum())} of {slope.size} samples are "
            "so far out in a tail that the distribution function is 0 or 1 there. torch's own number there is fitted. "
            "Compare such gradients with a Monte-Carlo estimate instead."
        )
    return slope


@meaning("aten::_standard_gamma", uses_outputs=True, accuracy=1e-3)
def standard_gamma(self, generator=None, *, recorded):
    sample = recorded[0]
    if sample is None or not _moves_with(self):
        return RECORDED
    a = raw(self)
    slope = _finite(gamma_slope(sample, a), "the gamma distribution")
    return constant(sample) + constant(slope) * (self - constant(a))


@meaning("aten::_sample_dirichlet", uses_outputs=True, accuracy=5e-3)
def sample_dirichlet(self, generator=None, *, recorded):
    """Each component by itself is a beta variable. When it moves, the others share what is left as they did."""
    sample = recorded[0]
    if sample is None or not _moves_with(self):
        return RECORDED
    a = raw(self)
    own = _finite(beta_slope(sample, a, a.sum(axis=-1, keepdims=True) - a), "the Dirichlet distribution")
    shares = -sample[..., :, None] / (1.0 - sample[..., None, :])
    diagonal = np.eye(sample.shape[-1], dtype=bool)
    jacobian = np.where(diagonal, 1.0, shares) * own[..., None, :]
    moved = e.matmul(constant(jacobian), e.expand_dims(self - constant(a), axis=-1))
    return constant(sample) + e.squeeze(moved, axis=-1)

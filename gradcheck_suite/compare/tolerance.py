"""The one place where it is decided how far two correctly rounded gradients may lie apart.

The tolerance of an element is

    ``ULPS[dtype] * eps(dtype) * scale  +  SPREAD * noise``

``scale`` is the largest expected magnitude in the tensor: rounding errors of a sum are relative to its terms, not to
its result, and terms of one gradient share a scale. ``noise`` is *measured*: the same backward evaluated in
Monte-Carlo arithmetic (every input, cotangent and intermediate result perturbed by a relative eps of the model's own
dtype, see Parker, "Monte Carlo Arithmetic", 1997), so ill-conditioned operations get the room that they really need
and no other operation does. It is only measured when the first term alone does not settle the matter.

Nothing here grows with the number of elements.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from ..evidence import Array, Comparison, Outcome
from .patterns import describe

__all__ = ["EPS", "SPREAD", "ULPS", "coarsest_eps", "is_differentiable_dtype", "judge"]

EPS: Mapping[str, float] = {
    "float64": 2.0**-52,
    "complex128": 2.0**-52,
    "float32": 2.0**-23,
    "complex64": 2.0**-23,
    "float16": 2.0**-10,
    "complex32": 2.0**-10,
    "bfloat16": 2.0**-7,
    "float8_e5m2": 2.0**-2,
    "float8_e4m3fn": 2.0**-3,
}
"""Machine epsilon (distance from 1 to the next number) by dtype name."""

ULPS: Mapping[str, float] = {"float64": 64.0, "float32": 64.0, "complex128": 64.0, "complex64": 64.0}
"""Units in the last place that any single operation is granted, relative to the tensor's scale.

torch's own nodes were measured within 13 in float32. Half precisions accumulate in float32 and round once, which
stays below one; they are granted four."""

_HALF_ULPS = 4.0

SPREAD = 16.0
"""How many times the measured noise an error may be: two samples estimate a spread only roughly."""

# Smallest normal number by dtype: below it, results are flushed or lose digits, whatever the operation.
_TINY: Mapping[str, float] = {"float32": 2.0**-126, "complex64": 2.0**-126, "float16": 2.0**-14, "bfloat16": 2.0**-126}
_LARGEST: Mapping[str, float] = {
    "float32": float(np.finfo(np.float32).max),
    "complex64": float(np.finfo(np.float32).max),
    "float16": 65504.0,
    "bfloat16": 3.3895313892515355e38,
}


def is_differentiable_dtype(dtype: str) -> bool:
    """Whether tensors of this dtype can carry a gradient."""
    return dtype.startswith(("float", "bfloat", "complex"))


def coarsest_eps(dtypes: Iterable[str]) -> tuple[float, str]:
    """The largest epsilon among these dtypes and the dtype it belongs to; float64 when none is floating."""
    best = (EPS["float64"], "float64")
    for dtype in dtypes:
        eps = EPS.get(dtype)
        if eps is not None and eps > best[0]:
            best = (eps, dtype)
    return best


def judge(
    expected: Array,
    actual: Array | None,
    *,
    dtype: str,
    noise: Callable[[], Array] | None = None,
    input_value: Callable[[], Array] | None = None,
    slack: float = 1.0,
) -> tuple[Outcome, Comparison]:
    """Compare every element of an actual gradient with the expected one.

    Args:
        expected: by the witness, float64 or complex128.
        actual: what torch returned; None means that it returned none, which is right only for zeros.
        dtype: the coarsest dtype the operation worked in.
        noise: measures the elementwise noise (same shape as ``expected``); called only when needed.
        input_value: value of the tensor that the gradient belongs to, for describing a pattern; called only on
            disagreement.
        slack: multiplies the first term, for quantities that went through several operations.

    Returns:
        The outcome and the comparison (of the worst element by error over tolerance). Elements where the witness
        itself has no finite value while torch has one make the outcome inconclusive, unless others disagree.
    """
    expected = np.asarray(expected)
    if actual is None:
        actual = np.zeros(expected.shape)
    if actual.shape != expected.shape:
        comparison = Comparison(
            elements=int(expected.size),
            differing=int(expected.size),
            index=(),
            expected=float("nan"),
            actual=float("nan"),
            error=float("inf"),
            tolerance=0.0,
            scale=0.0,
            max_error=float("inf"),
            pattern=f"the shape is {list(actual.shape)} where {list(expected.shape)} is expected",
        )
        return Outcome.DISAGREE, comparison
    if expected.size == 0:
        return Outcome.AGREE, Comparison(0, 0, (), 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    eps = EPS.get(dtype, EPS["float64"])
    with np.errstate(all="ignore"):
        error = np.abs(actual - expected)
        magnitude = np.abs(expected)
        unknown: Array | None = None
        scale = float(magnitude.max())
        if not np.isfinite(scale) or not np.isfinite(error).all():
            error, unknown = _settle_nonfinite(expected, actual, error, dtype)
            finite = magnitude[np.isfinite(magnitude)]
            scale = float(finite.max()) if finite.size else 0.0
        tolerance: Array | float = slack * ULPS.get(dtype, _HALF_ULPS) * eps * scale + 4 * _TINY.get(dtype, 2.0**-1022)
        wrong = error > tolerance
        if wrong.any() and noise is not None:
            measured = noise()
            measured = np.where(np.isfinite(measured), measured, np.inf)
            tolerance = tolerance + SPREAD * measured
            wrong = error > tolerance
        if unknown is not None:
            wrong = wrong & ~unknown
        differing = int(np.count_nonzero(wrong))
        ratio = error / tolerance
        if unknown is not None:
            ratio = np.where(unknown, -1.0, ratio)
        flat = int(np.argmax(np.where(wrong, ratio, -1.0) if differing else np.nan_to_num(ratio, nan=-1.0)))
    index = tuple(int(i) for i in np.unravel_index(flat, expected.shape))
    known_error = error if unknown is None else np.where(unknown, 0.0, error)
    pattern = ""
    if differing:
        pattern = describe(expected, actual, wrong, input_value=input_value() if input_value is not None else None)
    comparison = Comparison(
        elements=int(expected.size),
        differing=differing,
        index=index,
        expected=_number(expected[index]),
        actual=_number(actual[index]),
        error=float(error[index]),
        tolerance=float(tolerance if isinstance(tolerance, float) else tolerance[index]),
        scale=scale,
        max_error=float(known_error.max()),
        pattern=pattern,
    )
    if differing:
        return Outcome.DISAGREE, comparison
    if unknown is not None and unknown.any():
        return Outcome.INCONCLUSIVE, comparison
    return Outcome.AGREE, comparison


def _settle_nonfinite(expected: Array, actual: Array, error: Array, dtype: str) -> tuple[Array, Array]:
    """Errors at elements with NaN or infinity, and the mask of elements about which nothing can be said."""
    both_nan = np.isnan(expected) & np.isnan(actual)
    same_infinity = np.isinf(expected) & (expected == actual)
    # A value beyond the dtype's range is rightly infinite there.
    overflow = np.isinf(actual) & (np.abs(expected) > 0.999 * _LARGEST.get(dtype, np.inf))
    settled = both_nan | same_infinity | overflow
    error = np.where(settled, 0.0, error)
    unknown = ~np.isfinite(expected) & ~settled
    error = np.where(np.isnan(error), np.inf, error)
    return np.where(unknown, 0.0, error), unknown


def _number(value: object) -> float | complex:
    number = complex(value)  # type: ignore[call-overload]
    return number.real if number.imag == 0 else number

"""The one place where it is decided how far two correctly rounded gradients may lie apart.

The tolerance of an element is

    ``ULPS[dtype] * eps(dtype) * scale  +  SPREAD * accumulation(n) * noise``

``scale`` is the largest expected magnitude in the tensor: rounding errors of a sum are relative to its terms, not to
its result, and terms of one gradient share a scale. ``noise`` is *measured*: the same backward evaluated in
Monte-Carlo arithmetic (every input, cotangent and intermediate result perturbed by a relative eps of the model's own
dtype, see Parker, "Monte Carlo Arithmetic", 1997), so ill-conditioned operations get the room that they really need
and no other operation does. It is only measured when the first term alone does not settle the matter.

``accumulation(n) = 1 + sqrt(n) / 8`` for a sum of n terms: a sum that runs from left to right rounds each partial sum,
and where terms cancel (the gradient of a bias in front of a batch norm) partial sums are ``sqrt(n)`` times larger than
the terms that were perturbed; blocked and vectorised sums earn the 8. Where the terms do not cancel, partial sums are
as large as the result, and ``sqrt(n)`` roundings of it are more than ``ULPS`` from 4,096 terms on: the first term then
grows to ``sqrt(n)``, at most tenfold (``long_sum``; torch's float32 gradient of a 3D convolution's kernel with 176,000
terms is off by 200 units). Both are bounded, and nothing here grows with the number of elements of a tensor.

In half precisions it is the larger of the two terms, and ``accumulation`` is 1: torch adds up in float32 there, and the
measured noise already holds the one rounding of the result that the first term stands for. TensorFloat-32 (``"tfloat32"``:
float32 whose matrix products round their operands to 10 bits) is such a precision; ``working_in`` says where it is at work.

**What the user sets** (``tolerance=``, :mod:`~gradcheck_suite.compare.overrides`) is relative to ``scale`` and *replaces the
first term*, in both directions. A larger value loosens: an error of that share of the largest entry passes. A smaller one
tightens, but only as far as the arithmetic at hand allows: the measured noise is still granted, so that no setting makes
correctly rounded code an error. A comparison that agrees only because it was loosened is counted, and the report says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Protocol

import numpy as np

from ..evidence import Array, Comparison, Outcome
from .patterns import describe

__all__ = [
    "EPS",
    "HALF_SPREAD",
    "SPREAD",
    "ULPS",
    "accumulation",
    "coarsest_eps",
    "granted",
    "in_any_order",
    "is_differentiable_dtype",
    "judge",
    "long_sum",
    "settles",
    "settles_beside",
]

EPS: Mapping[str, float] = {
    "float64": 2.0**-52,
    "complex128": 2.0**-52,
    "float32": 2.0**-23,
    "complex64": 2.0**-23,
    "tfloat32": 2.0**-10,
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

HALF_SPREAD = 2.0
"""The same for half precisions, where sixteen would let a gradient pass that is wrong by a fifth.

The samples move every input and every result by up to eps. Rounding to nearest moves a result by half of that at most and
an input not at all, and torch computes in float32 in between; the largest of twelve samples is already two of their
deviations. Of 6,798 right gradients of real models in bfloat16 and float16 none was further off than 0.73 of this."""

# Smallest normal number by dtype: below it, results are flushed or lose digits, whatever the operation.
_TINY: Mapping[str, float] = {
    "float32": 2.0**-126,
    "complex64": 2.0**-126,
    "tfloat32": 2.0**-126,
    "float16": 2.0**-14,
    "bfloat16": 2.0**-126,
}
_LARGEST: Mapping[str, float] = {
    "float32": float(np.finfo(np.float32).max),
    "complex64": float(np.finfo(np.float32).max),
    "tfloat32": float(np.finfo(np.float32).max),
    "float16": 65504.0,
    "bfloat16": 3.3895313892515355e38,
}


TENSOR_FLOAT: Mapping[str, str] = {"float32": "tfloat32", "complex64": "tfloat32"}
"""For ``working_in``: the precision of float32 where tensor cores take over its matrix products."""


class Chosen(Protocol):
    """What the user grants instead of the derived first term."""

    def relative(self, dtype: str) -> float | None:
        """The share of the largest expected magnitude that an error may be, or None where nothing was set."""
        ...

    def noted(self, dtype: str, derived: float, forgiven: bool) -> None:
        """One comparison was made with it instead of ``derived``; ``forgiven``: it agrees only therefore."""
        ...


_chosen: ContextVar[Chosen | None] = ContextVar("gradcheck_chosen_tolerance", default=None)
_precision: ContextVar[Mapping[str, str] | None] = ContextVar("gradcheck_precision", default=None)


@contextmanager
def granting(chosen: Chosen | None) -> Iterator[None]:
    """Comparisons inside take the first term from ``chosen``; None: the derived one."""
    token = _chosen.set(chosen)
    try:
        yield
    finally:
        _chosen.reset(token)


@contextmanager
def working_in(precision: Mapping[str, str]) -> Iterator[None]:
    """Comparisons inside judge a dtype as the precision that its operations really work in, ``TENSOR_FLOAT``."""
    token = _precision.set(precision)
    try:
        yield
    finally:
        _precision.reset(token)


_MOST_ACCUMULATION = 40.0
_MOST_OF_A_LONG_SUM = 10.0


def accumulation(terms: float, dtype: str = "float64") -> float:
    """How much larger than the noise of its terms the rounding of a sum of ``terms`` terms may be; at most 41.

    1 in half precisions, which torch adds up in float32.
    """
    if dtype not in ULPS:
        return 1.0
    return 1.0 + min(float(np.sqrt(max(terms, 0.0))) / 8.0, _MOST_ACCUMULATION)


def in_any_order(terms: float) -> float:
    """How much larger than the noise of its terms the rounding of a sum may be if they come in the worst order, at four sigma.

    Terms of size t that come sorted by sign and cancel have partial sums of up to ``n t / 2``, of mean square ``(0.29 n t)**2``;
    rounding each by a third of a unit gives ``0.1 n`` times the ``sqrt(n) eps t`` that perturbing the terms shows. torch's
    float32 gradients of sorted batches were measured at up to ``0.09 n``. Only forward values are granted it, of which
    nobody is accused; a gradient is asked a second question (:mod:`~gradcheck_suite.witnesses.rounding`).
    """
    return 1.0 + max(terms, 0.0) / 2.0


def long_sum(terms: float, dtype: str = "float64") -> float:
    """By how much ``sqrt(terms)`` exceeds ``ULPS``; from 1 to 10. The ``slack`` of a gradient that is such a sum.

    Source: a sum from left to right rounds n partial sums by up to half a unit each, independently (Higham, "Accuracy and
    Stability of Numerical Algorithms", 2002, section 4.2 and the rule of thumb after it).
    """
    if dtype not in ULPS:
        return 1.0
    return min(max(float(np.sqrt(max(terms, 0.0))) / ULPS[dtype], 1.0), _MOST_OF_A_LONG_SUM)


def granted(dtype: str) -> float:
    """The tolerance's first term, relative to the scale, before any slack."""
    return ULPS.get(dtype, _HALF_ULPS) * EPS.get(dtype, EPS["float64"])


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
    spread: float | None = None,
    explain: bool = True,
) -> tuple[Outcome, Comparison]:
    """Compare every element of an actual gradient with the expected one.

    Args:
        expected: by the witness, float64 or complex128.
        actual: what torch returned; None means that it returned none, which is right only for zeros.
        dtype: the coarsest dtype the operation worked in; ``working_in`` may know better, and ``granting`` replaces the
            first term.
        noise: measures the elementwise noise (same shape as ``expected``); called only when needed.
        input_value: value of the tensor that the gradient belongs to, for describing a pattern; called only on
            disagreement.
        slack: multiplies the first term, for quantities that went through several operations.
        spread: how many times the measured noise an error may be; default: ``SPREAD``, or ``HALF_SPREAD`` for half
            precisions.
        explain: look for a pattern when they disagree.

    Returns:
        The outcome and the comparison (of the worst element by error over tolerance). Elements where the witness
        itself has no finite value while torch has one, or the noise has none, make the outcome inconclusive, unless
        others disagree.
    """
    precision = (_precision.get() or {}).get(dtype, dtype)
    if precision != dtype and noise is not None:
        # Noise is proportional to the eps that it was measured with.
        measured, growth = noise, EPS[precision] / EPS[dtype]

        def noise() -> Array:
            return measured() * growth

    derived = _derived(precision, slack)
    chosen = _chosen.get()
    relative = None if chosen is None else chosen.relative(dtype)

    def with_first(first: float, explain: bool) -> tuple[Outcome, Comparison]:
        return _judge(expected, actual, precision, noise, input_value, first, spread, explain)

    if chosen is None or relative is None:
        return with_first(derived, explain)
    outcome, comparison = with_first(relative, explain)
    forgiven = outcome is Outcome.AGREE and relative > derived
    forgiven = forgiven and with_first(derived, False)[0] is Outcome.DISAGREE
    chosen.noted(dtype, derived, forgiven)
    return outcome, comparison


def _judge(
    expected: Array,
    actual: Array | None,
    dtype: str,
    noise: Callable[[], Array] | None,
    input_value: Callable[[], Array] | None,
    first: float,
    spread: float | None,
    explain: bool,
) -> tuple[Outcome, Comparison]:
    """See :func:`judge`; ``first`` times the scale is the first term of the tolerance."""
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
    settled = _settled(expected, actual, dtype, first)
    if settled is not None:
        return Outcome.AGREE, settled
    floor = 4 * _TINY.get(dtype, 2.0**-1022)
    with np.errstate(all="ignore"):
        error = np.abs(actual - expected)
        max_error = float(error.max())
        scale = _largest(expected)
        tolerance: Array | float = first * scale + floor
        unknown: Array | None = None
        if not np.isfinite(scale) or not np.isfinite(max_error):
            error, unknown = _settle_nonfinite(expected, actual, error, dtype)
            magnitude = np.abs(expected)
            finite = magnitude[np.isfinite(magnitude)]
            scale = float(finite.max()) if finite.size else 0.0
            tolerance = first * scale + floor
        wrong = error > tolerance
        if noise is not None and wrong.any():
            measured = noise()
            # A perturbed argument left the function's domain there: how far off is too far cannot be told.
            lost = wrong & ~np.isfinite(measured) & np.isfinite(expected)
            if lost.any():
                unknown = lost if unknown is None else unknown | lost
            if spread is not None or dtype in ULPS:
                tolerance = measured * (SPREAD if spread is None else spread) + tolerance
            else:
                tolerance = np.maximum(measured * HALF_SPREAD, tolerance)
            wrong = error > tolerance
            if unknown is None and not wrong.any():
                worst = int(np.argmax(error))
                return Outcome.AGREE, _comparison(
                    expected, actual, error, worst, tolerance, scale, 0, max_error
                )
        if unknown is not None:
            wrong = wrong & ~unknown
        differing = int(np.count_nonzero(wrong))
        ratio = error / tolerance
        if unknown is not None:
            ratio = np.where(unknown, -1.0, ratio)
        worst = int(np.argmax(np.where(wrong, ratio, -1.0) if differing else np.nan_to_num(ratio, nan=-1.0)))
        max_error = float((error if unknown is None else np.where(unknown, 0.0, error)).max())
    comparison = _comparison(expected, actual, error, worst, tolerance, scale, differing, max_error)
    if differing:
        if explain:
            value = input_value() if input_value is not None else None
            comparison = replace(comparison, pattern=describe(expected, actual, wrong, input_value=value))
        return Outcome.DISAGREE, comparison
    if unknown is not None and unknown.any():
        return Outcome.INCONCLUSIVE, comparison
    return Outcome.AGREE, comparison


def settles(expected: Array, actual: Array | None, *, dtype: str, slack: float = 1.0) -> Comparison | None:
    """The comparison where the tolerance's first term alone shows that every element agrees; None where not.

    The common case, and so the one that must be cheap: it goes through the memory once, in pieces that stay in the
    cache, and makes no temporary of the tensor's size. Arguments as in :func:`judge`.
    """
    if actual is None or actual.shape != expected.shape or not expected.size:
        return None
    precision = (_precision.get() or {}).get(dtype, dtype)
    derived = _derived(precision, slack)
    chosen = _chosen.get()
    relative = None if chosen is None else chosen.relative(dtype)
    if chosen is None or relative is None:
        return _settled(expected, actual, precision, derived)
    # What only a loosened tolerance lets pass is no common case.
    comparison = _settled(expected, actual, precision, min(relative, derived))
    if comparison is not None:
        chosen.noted(dtype, derived, False)
    return comparison


def _derived(dtype: str, slack: float) -> float:
    """The first term of the tolerance, relative to the scale."""
    return slack * granted(dtype)


def _settled(expected: Array, actual: Array, dtype: str, granted: float) -> Comparison | None:
    """See :func:`settles`; ``granted`` times the scale is the first term."""
    floor = 4 * _TINY.get(dtype, 2.0**-1022)
    max_error, scale, worst = 0.0, 0.0, 0
    pieces = _pieces(expected, actual)
    with np.errstate(all="ignore"):
        for number, (e, a) in enumerate(pieces):
            here = _largest(e - a)
            scale = max(scale, _largest(e))
            if not here <= _LARGEST_FINITE:  # NaN, too
                return None
            if here > max_error:
                max_error, worst = here, number
        tolerance = granted * scale + floor
        if not (max_error <= tolerance and scale <= _LARGEST_FINITE):
            return None
        # Which element it is only matters to whoever reads the numbers of an agreement.
        e, a = pieces[worst]
        place = int(np.argmax(np.abs(e - a)))
    index = _index_in(expected, pieces, worst, place)
    return _settled_comparison(expected, actual, index, max_error, tolerance, scale)


def settles_beside(
    expected: Array, actual: Array | None, sample: Array | None, *, dtype: str, slack: float, spread: float
) -> Comparison | None:
    """As :func:`settles`, with the noise that one noisy ``sample`` of the expected values shows; None where not.

    The noise of an element is what :func:`~gradcheck_suite.replay.spread.measured_spread` makes of one sample: its own
    distance, and never less than the tensor's root mean square. Where the latter settles it the memory is gone through
    once.
    """
    if actual is None or sample is None or not expected.size or dtype not in ULPS:
        return None
    if not expected.shape == actual.shape == sample.shape:
        return None
    chosen = _chosen.get()
    precision = (_precision.get() or {}).get(dtype, dtype)
    if precision != dtype or (chosen is not None and chosen.relative(dtype) is not None):
        return None
    max_error, scale, worst, squares = 0.0, 0.0, 0, 0.0
    pieces = _pieces(expected, actual, sample)
    with np.errstate(all="ignore"):
        for number, (e, a, s) in enumerate(pieces):
            here = _largest(e - a)
            scale = max(scale, _largest(e))
            distance = (s - e).reshape(-1)
            squares += float(np.vdot(distance, distance).real)
            if not here <= _LARGEST_FINITE:  # NaN, too
                return None
            if here > max_error:
                max_error, worst = here, number
        if not (scale <= _LARGEST_FINITE and squares <= _LARGEST_FINITE):
            return None
        usual = float(np.sqrt(squares / expected.size))
        first = _derived(dtype, slack) * scale + 4 * _TINY.get(dtype, 2.0**-1022)
        tolerance = first + spread * usual
        if max_error > tolerance:
            for e, a, s in pieces:
                if np.any(np.abs(e - a) > first + spread * np.maximum(np.abs(s - e), usual)):
                    return None
        e, a, s = pieces[worst]
        place = int(np.argmax(np.abs(e - a)))
        if max_error > tolerance:
            tolerance = first + spread * float(np.abs(s - e).reshape(-1)[place])
    index = _index_in(expected, pieces, worst, place)
    return _settled_comparison(expected, actual, index, max_error, tolerance, scale)


def _settled_comparison(
    expected: Array, actual: Array, index: tuple[int, ...], max_error: float, tolerance: float, scale: float
) -> Comparison:
    return Comparison(
        elements=int(expected.size),
        differing=0,
        index=index,
        expected=_number(expected[index]),
        actual=_number(actual[index]),
        error=max_error,
        tolerance=tolerance,
        scale=scale,
        max_error=max_error,
    )


_PIECE = 1 << 15
_LARGEST_FINITE = float(np.finfo(np.float64).max)


def _pieces(*arrays: Array) -> list[tuple[Array, ...]]:
    """Arrays of one shape cut alike along their first axis, as views."""
    first = arrays[0]
    if first.size <= _PIECE:
        return [arrays]
    if all(array.flags.c_contiguous for array in arrays):
        arrays = tuple(array.reshape(-1) for array in arrays)
    elif all(array.flags.f_contiguous for array in arrays):
        arrays = tuple(array.T.reshape(-1) for array in arrays)
    length = len(arrays[0])
    rows = max(1, _PIECE * length // first.size)
    return [tuple(array[i : i + rows] for array in arrays) for i in range(0, length, rows)]


def _index_in(expected: Array, pieces: list[tuple[Array, ...]], number: int, place: int) -> tuple[int, ...]:
    """The index in the whole array of an element of one piece."""
    first = pieces[0][0]
    if len(pieces) == 1 or first.ndim > 1 or expected.ndim == 1:
        index = [int(i) for i in np.unravel_index(place, pieces[number][0].shape)]
        if index:
            index[0] += number * len(first)
        return tuple(index)
    flat = number * len(first) + place
    if expected.flags.c_contiguous:
        return tuple(int(i) for i in np.unravel_index(flat, expected.shape))
    return tuple(int(i) for i in np.unravel_index(flat, expected.shape[::-1]))[::-1]


def _largest(values: Array) -> float:
    """Largest magnitude, without a temporary for real values; NaN if there is one."""
    if values.dtype.kind == "c":
        return float(np.abs(values).max())
    return max(float(values.max()), -float(values.min()))


def _comparison(
    expected: Array,
    actual: Array,
    error: Array,
    worst: int,
    tolerance: Array | float,
    scale: float,
    differing: int,
    max_error: float,
) -> Comparison:
    index = tuple(int(i) for i in np.unravel_index(worst, expected.shape))
    return Comparison(
        elements=int(expected.size),
        differing=differing,
        index=index,
        expected=_number(expected[index]),
        actual=_number(actual[index]),
        error=float(error[index]),
        tolerance=float(tolerance if isinstance(tolerance, float) else tolerance[index]),
        scale=scale,
        max_error=max_error,
    )


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
    number: complex = complex(value)  # type: ignore[call-overload]
    return number.real if number.imag == 0 else number

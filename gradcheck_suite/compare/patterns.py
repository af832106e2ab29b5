"""What a colleague would say after looking at a wrong gradient next to the right one.

Each entry of ``_OBSERVATIONS`` looks for one typical slip and returns a sentence, or "". They are asked in order,
from the statement that says most to the one that says least; the first answer is given. Every statement must hold
for *all* finite elements it speaks of, to far better than the size of the error, so that noise is never described
as a pattern.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..wording import element, fraction, listing, number, pair

__all__ = ["describe"]

Array = NDArray[Any]
Mask = NDArray[np.bool_]

_MATCH = 5e-3  # per element, relative: what rounding in bfloat16 leaves of an exact pattern
_EXPLAINED = 1e-2  # the part of the whole disagreement that may stay unexplained
_EXACT = 1e-5  # how exact a ratio must be to mean something when only one or two elements show it
_FEWEST = 3  # a pattern that fewer elements follow may be chance


@dataclass(frozen=True)
class _Case:
    """Both gradients, which elements are wrong, and the sizes against which closeness is judged.

    ``scale`` is the largest entry of either gradient, ``error`` the Euclidean norm of their difference.
    """

    expected: Array
    actual: Array
    wrong: Mask
    input_value: Array | None
    cotangent: Array | None
    scale: float
    error: float

    def same(self, first: Array, second: Array) -> bool:
        """Whether two gradients are equal up to far less than the disagreement that is to be explained.

        The second condition is what keeps noise from being a pattern: a gradient that is wrong by 1e-4 is within
        a small relative distance of almost anything one might claim about it.
        """
        if first.shape != second.shape or not first.size:
            return False
        rest = np.abs(first - second)
        if np.linalg.norm(rest) > _EXPLAINED * self.error:
            return False
        return bool(np.all(rest <= _MATCH * np.maximum(np.abs(second), 1e-2 * self.scale)))


def describe(
    expected: Array,
    actual: Array,
    wrong: Mask,
    *,
    input_value: Array | None = None,
    cotangent: Array | None = None,
) -> str:
    """One sentence about how ``actual`` departs from ``expected``, or "" when nothing stands out.

    Args:
        expected: the right gradient; real or complex, any shape.
        actual: the gradient under suspicion, of the same shape.
        wrong: bool mask of the elements outside their tolerance.
        input_value: the value the gradient belongs to (same shape), to tell "only where the input is negative".
        cotangent: what was delivered to the node, to tell "the cotangent is ignored".

    Raises:
        ValueError: the three arrays differ in shape.
    """
    expected, actual, wrong = np.asarray(expected), np.asarray(actual), np.asarray(wrong, dtype=bool)
    if not expected.shape == actual.shape == wrong.shape:
        raise ValueError(
            f"describing a disagreement failed: expected has shape {expected.shape}, actual {actual.shape}, "
            f"wrong {wrong.shape}. The three belong to the same elements; give them one shape."
        )
    if not wrong.any():
        return ""
    finite = np.isfinite(expected) & np.isfinite(actual)
    if not finite.all():
        return _non_finite(expected, actual, finite)
    wide = np.complex128 if np.iscomplexobj(expected) or np.iscomplexobj(actual) else np.float64
    expected, actual = expected.astype(wide), actual.astype(wide)
    case = _Case(
        expected=expected,
        actual=actual,
        wrong=wrong,
        input_value=_usable(input_value, expected.shape),
        cotangent=None if cotangent is None else np.asarray(cotangent),
        scale=float(max(np.abs(expected).max(), np.abs(actual).max())),
        error=float(np.linalg.norm(actual - expected)),
    )
    for observe in _OBSERVATIONS:
        sentence = observe(case)
        if sentence:
            return sentence
    return ""


def _usable(value: Array | None, shape: tuple[int, ...]) -> Array | None:
    """The input's value when signs can be read from it."""
    if value is None:
        return None
    array = np.asarray(value)
    if array.shape != shape or array.dtype.kind not in "fiu":
        return None
    return array


def _non_finite(expected: Array, actual: Array, finite: Mask) -> str:
    bad_actual = ~np.isfinite(actual)
    bad_expected = ~np.isfinite(expected)
    if bad_actual.any() and not bad_expected.any():
        what = "NaN" if np.isnan(actual).any() else "infinite"
        return f"{_count(bad_actual)} {what} where a finite value is expected"
    if bad_expected.any() and not bad_actual.any():
        return f"{_count(bad_expected)} finite where the derivative is not"
    return ""


def _count(mask: Mask) -> str:
    number_of = int(mask.sum())
    if number_of == mask.size:
        return "every element is" if mask.size > 1 else "the element is"
    return f"{number_of:,} of {mask.size:,} elements {'is' if number_of == 1 else 'are'}"


# ------------------------------------------------------------------------------------------------ all of it


def _all_zero(case: _Case) -> str:
    if case.actual.any():
        return ""
    return "the gradient is zero everywhere: backward returns None or zeros for this input"


def _constant_ratio(case: _Case) -> str:
    """One factor between the two everywhere (a single element proves nothing, unless the factor is telling)."""
    large = np.abs(case.expected) > 1e-3 * case.scale
    if not large.any():
        return ""
    ratios = case.actual[large] / case.expected[large]
    ratio = np.median(ratios.real) + (1j * np.median(ratios.imag) if np.iscomplexobj(ratios) else 0.0)
    if ratio == 0 or not case.same(case.actual, ratio * case.expected):
        return ""
    enough = int(large.sum()) >= _FEWEST
    if abs(np.imag(ratio)) > _MATCH * abs(ratio):
        return _complex_ratio(complex(ratio)) if enough else ""
    value = float(np.real(ratio))
    everywhere = " everywhere" if case.wrong.size > 1 else ""
    rtol = 1e-3 if enough else _EXACT
    if abs(value + 1) <= rtol:
        return f"the sign is flipped{everywhere}"
    exact = fraction(value, largest=6, rtol=rtol)
    size = _dimension(case, value, rtol)
    if exact == "1":  # closer to 1 than a slip in a formula would be
        exact = ""
    if size:
        return f"the ratio is {size}{everywhere}: {_average(value)} over a dimension of that size"
    if exact:
        return f"the ratio is {exact}{everywhere}: {_missing_factor(value)} in backward"
    if not enough:
        return ""
    text = pair(value, 1.0, 4)[0]
    return f"the ratio is {text}{everywhere}: a constant factor is wrong in backward"


def _missing_factor(ratio: float) -> str:
    exact, inverse = fraction(ratio, largest=6), fraction(1 / ratio, largest=6)
    if inverse.lstrip("-").isdigit():
        return f"a factor {inverse} is missing"
    if exact.lstrip("-").isdigit():
        return f"there is a factor {exact} too many"
    return "a factor is missing"


def _complex_ratio(ratio: complex) -> str:
    for value, text in ((1j, "i"), (-1j, "-i")):
        if abs(ratio - value) <= _MATCH:
            return f"the ratio is {text} everywhere: a factor {text} too much in backward"
    return f"the ratio is {number(ratio, 4)} everywhere: a constant factor is wrong in backward"


def _dimension(case: _Case, ratio: float, rtol: float) -> str:
    """``"8"`` or ``"1/8"`` when the ratio is the size of a dimension larger than what a formula would hold."""
    sizes = set(case.expected.shape) | {case.expected.size}
    if case.cotangent is not None:
        sizes |= set(case.cotangent.shape) | {case.cotangent.size}
    for size in sorted(s for s in sizes if s > 4):
        if abs(ratio - size) <= rtol * size:
            return str(size)
        if abs(ratio * size - 1) <= rtol:
            return f"1/{size}"
    return ""


def _average(ratio: float) -> str:
    return "a sum stands where an average is due" if ratio > 1 else "an average stands where a sum is due"


def _conjugated(case: _Case) -> str:
    if case.expected.dtype.kind != "c" or not np.abs(case.expected.imag).max() > 1e-3 * case.scale:
        return ""
    if case.same(case.actual, case.expected.conj()):
        return "the gradient is conjugated: a conj() is missing or too much in backward"
    if case.same(case.actual, case.expected.real + 0j):
        return "the imaginary part is missing: the gradient was made real on the way"
    return ""


def _transposed(case: _Case) -> str:
    shape = case.expected.shape
    if case.wrong.size < 4 or len(shape) < 2:
        return ""
    for first, second in itertools.combinations(range(len(shape)), 2):
        swapped = np.swapaxes(case.expected, first, second)
        if shape[first] == shape[second] > 1 and case.same(case.actual, swapped):
            axes = "" if len(shape) == 2 else f" (dimensions {first} and {second} swapped)"
            return f"the gradient is transposed{axes}"
    if case.same(case.actual.reshape(-1), case.expected.T.reshape(-1)) and min(shape) > 1:
        return "the gradient is transposed and then reshaped: reshape was used where a transpose is due"
    return ""


def _shifted(case: _Case) -> str:
    """Equal after moving one or two steps along an axis, whatever fills the freed end."""
    for axis, length in enumerate(case.expected.shape):
        if length < 4:
            continue
        for step in (1, -1, 2, -2):
            moved = np.roll(case.expected, step, axis=axis)
            inner = [slice(None)] * case.expected.ndim
            inner[axis] = slice(abs(step), None) if step > 0 else slice(None, step)
            kept = tuple(inner)
            if (
                case.expected[kept].size < _FEWEST + 1
                or np.ptp(np.abs(case.expected[kept])) <= _MATCH * case.scale
            ):
                continue
            if case.same(case.actual[kept], moved[kept]):
                return f"the gradient is shifted by {abs(step)} along dimension {axis}"
    return ""


def _reversed(case: _Case) -> str:
    for axis, length in enumerate(case.expected.shape):
        if length >= 4 and case.same(case.actual, np.flip(case.expected, axis)):
            return f"the gradient is reversed along dimension {axis}"
    return ""


def _cotangent_ignored(case: _Case) -> str:
    """``actual`` is the local derivative: multiplied by what was delivered it would be right."""
    if case.cotangent is None or case.cotangent.shape != case.expected.shape or case.wrong.size < _FEWEST:
        return ""
    if not np.isfinite(case.cotangent).all() or np.ptp(np.abs(case.cotangent)) == 0:
        return ""
    if case.same(case.actual * case.cotangent, case.expected):
        return "backward ignores grad_output: multiplied by it, the gradient would be right"
    if case.same(case.actual, case.cotangent.astype(case.actual.dtype)):
        return "backward passes grad_output through unchanged"
    return ""


def _unreduced(case: _Case) -> str:
    """Along an axis the expected gradient is constant and each element is the sum of the actual ones."""
    for axis, length in enumerate(case.expected.shape):
        if length < 2:
            continue
        total = np.broadcast_to(case.actual.sum(axis, keepdims=True), case.expected.shape)
        if case.same(total, case.expected) and not case.same(case.actual, case.expected):
            return f"a sum over dimension {axis} is missing: the gradients along it add up to the right one"
    return ""


def _axis_ratio(case: _Case) -> str:
    """The ratio depends on the position along one axis only."""
    shape = case.expected.shape
    if len(shape) < 2:
        return ""
    large = np.abs(case.expected) > 1e-3 * case.scale
    ratios = np.divide(case.actual, case.expected, out=np.full_like(case.actual, np.nan), where=large)
    for axis, length in enumerate(shape):
        others = tuple(i for i in range(len(shape)) if i != axis)
        counts = large.sum(axis=others)
        if length < 2 or counts.min() < _FEWEST:
            continue
        along = np.nanmedian(ratios.real, axis=others, keepdims=True)
        if np.ptp(along) > 0.02 * np.abs(along).max() and case.same(case.actual, along * case.expected):
            where = _same_values(along.reshape(-1))
            return f"the ratio depends on dimension {axis} alone: a factor along it is wrong{where}"
    return ""


def _same_values(values: Array) -> str:
    texts = [number(float(v), 3) for v in values[:4]]
    return f" ({listing(texts, 3)}{', ...' if values.size > 4 else ''})" if values.size <= 4 else ""


def _constant_offset(case: _Case) -> str:
    if case.wrong.size < _FEWEST or not case.wrong.all():
        return ""
    offset = np.median((case.actual - case.expected).real)
    varies = np.ptp(case.expected.real) > 0.05 * case.scale
    if not varies or offset == 0 or not case.same(case.actual - offset, case.expected):
        return ""
    return f"every element is off by the same amount, {number(float(offset), 4)}"


# ------------------------------------------------------------------------------------------------ parts of it


def _one_element(case: _Case) -> str:
    if case.wrong.size < 2 or case.wrong.sum() != 1:
        return ""
    place = tuple(int(i) for i in np.argwhere(case.wrong)[0])
    return f"one element alone is wrong, {element(place)}{_there(case)}"


def _one_slice(case: _Case) -> str:
    """All wrong elements lie at one position of one axis."""
    shape = case.expected.shape
    if case.wrong.all() or case.wrong.sum() < 2:
        return ""
    for axis, length in enumerate(shape):
        others = tuple(i for i in range(len(shape)) if i != axis)
        hit = case.wrong.any(axis=others)
        if length < 3 or hit.sum() != 1:
            continue
        at = int(np.flatnonzero(hit)[0])
        inside = np.take(case.wrong, at, axis=axis)
        # A slice with only a few wrong elements is not "the row is wrong".
        if inside.mean() < 0.5:
            continue
        name = f"{('row', 'column')[axis]} {at}" if len(shape) == 2 else f"index {at} of dimension {axis}"
        return f"only {name} is wrong{_there(case)}"
    return ""


def _where_input(case: _Case) -> str:
    """The wrong elements are those where the input has one sign (or is zero, or is large)."""
    value = case.input_value
    if value is None or case.wrong.all():
        return ""
    wrong, right = value[case.wrong], value[~case.wrong]
    if min(wrong.size, right.size) < _FEWEST or value.size < 8:
        return ""
    if not (np.isfinite(wrong).all() and np.isfinite(right).all()):
        return ""
    signs = (("is negative", np.less), ("is positive", np.greater), ("is zero", np.equal))
    for text, holds in signs:
        if holds(wrong, 0).all() and not holds(right, 0).any():
            return f"wrong only where the input {text}{_there(case)}"
    low, high = (wrong, right) if wrong.max() < right.min() else (right, wrong)
    if high.min() > low.max() and min(wrong.size, right.size) > _FEWEST and value.size >= 24:
        side = "above" if high is wrong else "below"
        bound = (float(low.max()) + float(high.min())) / 2
        return f"wrong only where the input lies {side} about {number(bound, 2)}{_there(case)}"
    return ""


def _where_zero(case: _Case) -> str:
    """Part of the gradient is zero although it should not be: a mask that hides too much, or a lost part."""
    if case.wrong.all() or case.actual[case.wrong].any():
        return ""
    return f"the wrong elements, {int(case.wrong.sum()):,} of {case.wrong.size:,}, are all zero: something masks them"


def _where_not_zero(case: _Case) -> str:
    if case.expected[case.wrong].any() or case.wrong.sum() < _FEWEST or case.wrong.all():
        return ""
    return "the wrong elements should all be zero: a mask is missing in backward"


def _there(case: _Case) -> str:
    """What the wrong elements have in common, as an appendix: ``; there the sign is flipped``."""
    expected, actual = case.expected[case.wrong], case.actual[case.wrong]
    if not actual.any():
        return "; it is zero there" if actual.size == 1 else "; they are zero there"
    if case.same(actual, -expected):
        return "; the sign is flipped there"
    if actual.size < _FEWEST or not expected.all():
        return ""
    ratio = float(np.median((actual / expected).real))
    exact = fraction(ratio, largest=6)
    return f"; the ratio is {exact} there" if exact and case.same(actual, ratio * expected) else ""


_OBSERVATIONS: tuple[Callable[[_Case], str], ...] = (
    _all_zero,
    _constant_ratio,
    _conjugated,
    _transposed,
    _cotangent_ignored,
    _unreduced,
    _reversed,
    _shifted,
    _constant_offset,
    _one_element,
    _where_input,
    _one_slice,
    _axis_ratio,
    _where_zero,
    _where_not_zero,
)

"""Before a node is accused: is it at a kink, beyond the domain, or off by a hair?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..compare.tolerance import coarsest_eps, is_differentiable_dtype
from ..evidence import Array, Comparison, NodeRecord, Outcome, TensorRef, Testimony
from ..replay import LocalDifference, LocalGradients, Unexplained
from ..wording import plural
from .joint_choice import MOST_PLACES, NO_CHOICE, one_choice

__all__ = [
    "AT_A_KINK",
    "CONTRADICTED",
    "NOT_TOGETHER",
    "Accusation",
    "among_the_choices",
    "beyond_the_domain",
    "second_opinion",
]

AT_A_KINK = "at a kink"
"""How the reason begins where torch's choice is one of several that are right."""

CONTRADICTED = "the engine and a finite difference of the forward contradict each other here"
"""The reason where nobody is accused: of a bisection, say, whose recorded branches do not follow the input."""

NOT_TOGETHER = (
    "at a kink its elements together are no mixture of the gradients right beside: no choice gives them"
)

# torch's algorithm may lose a few more digits than the engine's (a product of reflectors that is undone by their
# inverses): below this many units in the last place a disagreement needs a second witness.
_HAIR = 1e3
# Of the gap between the slopes at a kink: what lies closer to the engine's choice is no other one (of several tied elements
# each gets its share), but the same one and an error.
_ANOTHER = 1e-4
# Elements at kinks that are looked at one by one.
_MOST_KINKS = 32


@dataclass(frozen=True)
class Accusation:
    """A gradient that differs from the engine's.

    Attributes:
        local, number: the engine's answer, and which of its groups it is about.
        subject, reason: for the testimony.
        dtype: the coarsest dtype the operation worked in.
        expected, actual: by the engine, and by torch.
        again: compares torch's gradient with another expectation.
        base: the input's value, float64 or complex128.
    """

    local: LocalGradients
    number: int
    subject: str
    reason: str
    dtype: str
    expected: Array
    actual: Array
    again: Callable[[Array], tuple[Outcome, Comparison]]
    base: Callable[[], Array] | None = None

    def testimony(
        self, outcome: Outcome, comparison: Comparison, reason: str = "", value: float | None = None
    ) -> Testimony:
        """The engine's statement; with the accusation's own reason unless there is a better one."""
        return Testimony(
            "engine", self.subject, outcome, comparison, reason=reason or self.reason, value=value
        )


def second_opinion(case: Accusation, comparison: Comparison) -> Testimony:
    """Ask a finite difference of the forward at the worst element, and after each kink at the next worst.

    Args:
        case: what differs.
        comparison: of ``case.expected`` with torch's gradient.
    """
    settled: Array | None = None
    first = comparison
    indices: list[tuple[int, ...]] = []
    for kinks in range(_MOST_KINKS):
        testimony, at_a_kink = _look(case, comparison)
        if not at_a_kink:
            return testimony
        indices.append(comparison.index)
        if settled is None:
            settled = np.array(case.expected, dtype=np.result_type(case.expected, case.actual, np.float64))
        settled[comparison.index] = case.actual[comparison.index]
        outcome, further = case.again(settled)
        if outcome is not Outcome.DISAGREE:
            if _one_choice(case, indices) is False:
                return case.testimony(Outcome.DISAGREE, first, NOT_TOGETHER)
            more = f" and at {kinks} more" if kinks else ""
            return case.testimony(outcome, comparison, testimony.reason + more)
        comparison = further
    if _one_choice(case, _apart(case, first)) is False:
        return case.testimony(Outcome.DISAGREE, first, NOT_TOGETHER)
    return case.testimony(
        Outcome.INCONCLUSIVE,
        comparison,
        f"more than {_MOST_KINKS} elements are at kinks, and others were not looked at",
    )


def among_the_choices(case: Accusation, comparison: Comparison) -> Testimony | None:
    """Look again at an agreement that rests on noise as large as the gradient; None where it does not, or is no kink's.

    Where numbers are tied, the smallest perturbation picks another of them, and the noise would excuse any choice.
    """
    if case.actual.shape != case.expected.shape:
        return None
    error = np.abs(case.actual - case.expected)
    if not comparison.max_error > NO_CHOICE * comparison.scale or not np.isfinite(error).all():
        return None
    indices = _apart(case, comparison)
    if not indices:
        return None
    worst = max(indices, key=lambda index: error[index])
    if _one_choice(case, indices) is not False:
        seen = None if case.actual.dtype.kind == "c" else _difference(case, worst, 1)
        if seen is None or not seen.kink:
            return None
        return case.testimony(
            Outcome.AGREE, comparison, _a_choice(case.actual[worst].item(), seen, comparison, worst)
        )
    exact = replace(
        comparison,
        index=worst,
        differing=len(indices),
        expected=case.expected[worst].item(),
        actual=case.actual[worst].item(),
        error=float(error[worst]),
        tolerance=NO_CHOICE * comparison.scale,
    )
    return case.testimony(Outcome.DISAGREE, exact, NOT_TOGETHER)


def _apart(case: Accusation, comparison: Comparison) -> list[tuple[int, ...]]:
    """The elements that differ by more than rounding and curvature could explain."""
    apart = np.abs(case.actual - case.expected) > NO_CHOICE * comparison.scale
    return [tuple(int(i) for i in index) for index in np.argwhere(apart)]


def _one_choice(
    case: Accusation, indices: Sequence[tuple[int, ...]], *, by_themselves: bool = True
) -> bool | None:
    """Whether the gradient's elements at kinks can be one choice together; None where that cannot be told.

    ``by_themselves``: only of elements each of which shows a kink when it is moved alone.
    """
    if not indices or case.base is None or case.actual.shape != case.expected.shape:
        return None
    base = case.base()
    if base.shape != case.actual.shape or base.dtype.kind == "c":
        return None
    for index in indices[:_MOST_KINKS] if by_themselves else ():
        seen = _difference(case, index, 1)
        if seen is None or not seen.kink:
            return None
    where = np.array([np.ravel_multi_index(index, base.shape) for index in indices], dtype=np.int64)
    eps, _ = coarsest_eps([case.dtype])
    return one_choice(case.local, {case.number: base}, {case.number: case.actual}, {case.number: where}, eps)


def _look(case: Accusation, comparison: Comparison) -> tuple[Testimony, bool]:
    """What a finite difference at the worst element says, and whether torch's choice is one of several at a kink."""
    expected, actual = complex(comparison.expected), complex(comparison.actual)
    if not np.isfinite([expected, actual]).all():  # also when the shapes differ: no element is the worst
        return case.testimony(Outcome.DISAGREE, comparison), False
    unit = 1j if abs((expected - actual).imag) > abs((expected - actual).real) else 1
    difference = _difference(case, comparison.index, unit)
    ulp = coarsest_eps([case.dtype])[0] * comparison.scale
    unsettled = difference is None or difference.error >= abs(expected - actual) / 4
    if unsettled and comparison.error <= _HAIR * ulp:
        reason = (
            f"they differ by {comparison.error / ulp:.0f} units in the last place of the largest element: more than "
            "the operation's own noise, too little for a finite difference to settle"
        )
        return case.testimony(Outcome.INCONCLUSIVE, comparison, reason), False
    if difference is None:
        return case.testimony(Outcome.DISAGREE, comparison), False
    e, a = (expected.imag, actual.imag) if unit == 1j else (expected.real, actual.real)
    low, high = sorted((difference.left, difference.right))
    # Relative to the gap: one-sided slopes that differ by rounding alone excuse nothing.
    margin = 0.05 * (high - low)
    another = abs(e - a) > _ANOTHER * (high - low)
    if difference.kink and another and low - margin <= a <= high + margin:
        reason = _a_choice(a, difference, comparison)
        return case.testimony(Outcome.AGREE, comparison, reason), True
    if difference.kink:
        # Of three equal numbers that are sorted, the one that is taken for the middle gets a gradient that it has on no side.
        indices = _apart(case, comparison)
        together = _one_choice(case, indices)
        if together:
            reason = (
                f"{AT_A_KINK}: torch's gradient{_at(comparison.index)} is a mixture of those right beside"
            )
            return case.testimony(Outcome.AGREE, comparison, reason), False
        if together is None and len(indices) > MOST_PLACES:
            reason = f"{plural(len(indices), 'element')} at kinks differ, too many to be looked at together"
            return case.testimony(Outcome.INCONCLUSIVE, comparison, reason), False
    if difference.kink and low - margin <= e <= high + margin:
        return case.testimony(Outcome.DISAGREE, comparison), False
    contradicted = abs(difference.value - e) > 3 * difference.error + abs(e - a) / 2
    if contradicted and _one_choice(case, _apart(case, comparison), by_themselves=False):
        # The median of three equal numbers stays where it is whichever of them moves.
        reason = f"{AT_A_KINK}: torch's gradient{_at(comparison.index)} is a mixture of those right beside"
        return case.testimony(Outcome.AGREE, comparison, reason), False
    if contradicted:
        reason = CONTRADICTED
        return case.testimony(Outcome.INCONCLUSIVE, comparison, reason, difference.value), False
    confirmed = difference.error < abs(e - a) / 4
    return case.testimony(Outcome.DISAGREE, comparison, value=difference.value if confirmed else None), False


def _a_choice(
    chosen: float, seen: LocalDifference, comparison: Comparison, index: tuple[int, ...] | None = None
) -> str:
    place = comparison.index if index is None else index
    low, high = sorted((seen.left, seen.right))
    return f"{AT_A_KINK}: torch's choice {chosen:.4g}{_at(place)} lies between the one-sided slopes {low:.4g} and {high:.4g}"


def _at(index: tuple[int, ...]) -> str:
    return f" at {list(index)}" if index else ""


def _difference(case: Accusation, index: tuple[int, ...], unit: complex) -> LocalDifference | None:
    try:
        return case.local.difference(case.number, index, unit)
    except Unexplained:
        return None


def beyond_the_domain(node: NodeRecord, ref: TensorRef | None, actual: Array | None) -> Array | None:
    """Where an input is NaN, or infinite and torch returned NaN, and the operation's own value is not finite.

    The slope of ``logsumexp`` where all its inputs are -inf is as undefined as its value is infinite. A softmax that
    gets -inf beside finite numbers has a finite value, and zero is its slope.
    """
    if ref is None or actual is None or actual.shape != ref.shape:
        return None
    base = ref.source.array()
    if base.dtype.kind in "fc" and np.isnan(base).any():
        return np.asarray(np.isnan(base))
    beyond = ~np.isfinite(base) & np.isnan(actual)
    values = [r.source.array() for r in node.outputs if r is not None and is_differentiable_dtype(r.dtype)]
    if not beyond.any() or all(np.isfinite(v).all() for v in values):
        return None
    return np.asarray(beyond)

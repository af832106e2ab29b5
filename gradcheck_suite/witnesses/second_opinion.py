"""Before a node is accused: is it at a kink, beyond the domain, or off by a hair?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..compare.tolerance import coarsest_eps, is_differentiable_dtype
from ..evidence import Array, Comparison, NodeRecord, Outcome, TensorRef, Testimony
from ..replay import LocalDifference, LocalGradients, Unexplained

__all__ = ["AT_A_KINK", "Accusation", "beyond_the_domain", "second_opinion"]

AT_A_KINK = "at a kink"
"""How the reason begins where torch's choice is one of several that are right."""

# torch's algorithm may lose a few more digits than the engine's (a product of reflectors that is undone by their
# inverses): below this many units in the last place a disagreement needs a second witness.
_HAIR = 1e3
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
    """

    local: LocalGradients
    number: int
    subject: str
    reason: str
    dtype: str
    expected: Array
    actual: Array
    again: Callable[[Array], tuple[Outcome, Comparison]]

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
    for kinks in range(_MOST_KINKS):
        testimony, at_a_kink = _look(case, comparison)
        if not at_a_kink:
            return testimony
        if settled is None:
            settled = np.array(case.expected, dtype=np.result_type(case.expected, case.actual, np.float64))
        settled[comparison.index] = case.actual[comparison.index]
        outcome, further = case.again(settled)
        if outcome is not Outcome.DISAGREE:
            more = f" and at {kinks} more" if kinks else ""
            return case.testimony(outcome, comparison, testimony.reason + more)
        comparison = further
    return case.testimony(
        Outcome.INCONCLUSIVE,
        comparison,
        f"more than {_MOST_KINKS} elements are at kinks, and others were not looked at",
    )


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
    if difference.kink and low - margin <= a <= high + margin:
        reason = f"{AT_A_KINK}: torch's choice {a:.4g}{_at(comparison)} lies between the one-sided slopes {low:.4g} and {high:.4g}"
        return case.testimony(Outcome.AGREE, comparison, reason), True
    if difference.kink and low - margin <= e <= high + margin:
        return case.testimony(Outcome.DISAGREE, comparison), False
    if abs(difference.value - e) > 3 * difference.error + abs(e - a) / 2:
        reason = "the engine and a finite difference of the forward contradict each other here"
        return case.testimony(Outcome.INCONCLUSIVE, comparison, reason, difference.value), False
    confirmed = difference.error < abs(e - a) / 4
    return case.testimony(Outcome.DISAGREE, comparison, value=difference.value if confirmed else None), False


def _at(comparison: Comparison) -> str:
    return f" at {list(comparison.index)}" if comparison.index else ""


def _difference(case: Accusation, index: tuple[int, ...], unit: complex) -> LocalDifference | None:
    try:
        return case.local.difference(case.number, index, unit)
    except Unexplained:
        return None


def beyond_the_domain(node: NodeRecord, ref: TensorRef | None, actual: Array | None) -> Array | None:
    """Where torch returned NaN for an input that is NaN or infinite, if the operation's own value is not finite.

    The slope of ``logsumexp`` where all its inputs are -inf is as undefined as its value is infinite. A softmax that
    gets -inf beside finite numbers has a finite value, and zero is its slope.
    """
    if ref is None or actual is None or actual.shape != ref.shape:
        return None
    beyond = ~np.isfinite(ref.source.array()) & np.isnan(actual)
    values = [r.source.array() for r in node.outputs if r is not None and is_differentiable_dtype(r.dtype)]
    if not beyond.any() or all(np.isfinite(v).all() for v in values):
        return None
    return np.asarray(beyond)

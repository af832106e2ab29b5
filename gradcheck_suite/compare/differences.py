"""Directional differences: a slope from function values with its own error, and what it says of a gradient.

Knows numbers only; who evaluates the function, and where, is the witness's business.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..evidence import Comparison, Outcome

__all__ = ["Difference", "Slope", "estimate_slope", "judge_slope", "meets"]

# The error estimate below is a spread between neighbouring steps. Over right models it was never exceeded by
# this factor; a wrong gradient is not excused by it because the spread of a smooth function is about 1e-9 of
# its slope.
_SAFETY = 20.0
# The one-sided slopes of a smooth function differ by about the relative step; at a kink by much more.
_SMOOTH = 1e-3


@dataclass(frozen=True)
class Difference:
    """How much the function changed over one step to either side.

    Attributes:
        step: h > 0.
        plus: f(h) - f(0).
        minus: f(-h) - f(0).
    """

    step: float
    plus: float
    minus: float

    @property
    def central(self) -> float:
        """The central difference quotient."""
        return (self.plus - self.minus) / (2.0 * self.step)

    @property
    def jump(self) -> float:
        """Forward minus backward difference quotient: of order h where smooth, constant at a kink."""
        return (self.plus + self.minus) / self.step


@dataclass(frozen=True)
class Slope:
    """A derivative along a direction, by differences.

    Attributes:
        value: the slope.
        error: its own estimate of its error.
        step: the step it comes from.
        kink: difference of the one-sided slopes where they do not meet, else 0.
        flat: the function did not change at all, at any step.
        restless: its change does not shrink with the step: it varies faster than the smallest one, or jumps.
    """

    value: float
    error: float
    step: float
    kink: float = 0.0
    flat: bool = False
    restless: bool = False


def estimate_slope(differences: Sequence[Difference], noise: float) -> Slope | None:
    """The slope at 0 from differences over shrinking steps, with an estimate of its error.

    Central quotients D(h) = D + c h^2 + ... are extrapolated once (Richardson). Truncation falls with h and
    rounding grows as 1/h, so a step is trusted as far as the quotients of its *two* neighbours confirm it,
    not one: two numbers of pure noise may meet by chance. The step with the least error is taken. From the
        definition of the derivative.

    Args:
        differences: at least two, the largest step first.
        noise: uncertainty of one function value.

    Returns:
        None when there are fewer than two differences.
    """
    if len(differences) < 2:
        return None
    quotients = [d.central for d in differences]
    last = len(differences) - 1
    best: Slope | None = None
    for k in range(1, last + 1):
        step = differences[k].step
        ratio = differences[k - 1].step / step
        value = quotients[k] + (quotients[k] - quotients[k - 1]) / (ratio * ratio - 1.0)
        before = abs(quotients[k] - quotients[k - 1])
        if k < last:
            # Noise grows by the ratio from here to the finer step: this overstates it, which is the safe
            # side.
            beside = abs(quotients[k + 1] - quotients[k]) / 2.0
        else:
            beside = abs(quotients[k - 1] - quotients[k - 2]) / 64.0 if k >= 2 else 0.0
        error = max(before, beside) + noise / step
        if best is None or error < best.error:
            best = Slope(value, error, step, _kink(differences, k, noise))
    assert best is not None
    flat = all(d.plus == 0.0 and d.minus == 0.0 for d in differences)
    return Slope(best.value, best.error, best.step, best.kink, flat, _restless(differences, noise))


def _restless(differences: Sequence[Difference], noise: float) -> bool:
    """Whether a step that is shorter by a factor shows nearly the same change, well above the noise, to the last."""
    if len(differences) < 3:
        return False
    changes = [max(abs(d.plus), abs(d.minus)) for d in differences]
    ratio = differences[-2].step / differences[-1].step
    shrunk = [before / max(after, 1e-300) for before, after in zip(changes[-3:], changes[-2:])]
    # A smooth function's change shrinks by the ratio each time; that of one which oscillates does so twice only by chance.
    return changes[-1] > _SAFETY * noise and min(shrunk) < 0.5 * ratio


def _kink(differences: Sequence[Difference], k: int, noise: float) -> float:
    """Difference of the one-sided slopes at step ``k``, or 0 where it shrinks with the step (no kink)."""
    now, before = differences[k].jump, differences[k - 1].jump
    uncertainty = _SAFETY * noise / differences[k].step
    if abs(now) <= uncertainty or abs(now) <= 0.5 * abs(before):
        return 0.0
    return now


def meets(difference: Difference, expected: float, terms: float, close: float) -> Comparison | None:
    """Whether one central quotient already comes so near to the gradient's number that no more are needed.

    A quotient has no error estimate of its own; but nothing except the right slope would meet a number that was
    computed by other means to five digits.

    Args:
        difference: over one step.
        expected, terms: as in :func:`judge_slope`.
        close: how near, relative to the slope's scale.

    Returns:
        The numbers where it does; None where only more steps can tell, which is also so at a kink.
    """
    value = difference.central
    if not all(map(math.isfinite, (value, expected, terms))):
        return None
    scale = max(terms, abs(value))
    flat = difference.plus == 0.0 and difference.minus == 0.0
    if flat and expected != 0.0:
        return None
    error = abs(value - expected)
    if error > close * scale or abs(difference.jump) > _SMOOTH * scale:
        return None
    return Comparison(1, 0, (), value, expected, error, close * scale, scale, error)


def judge_slope(
    slope: Slope | None, expected: float, terms: float, *, floor: float, limit: float
) -> tuple[Outcome, Comparison | None, str]:
    """Whether a slope by differences and the gradient's inner product with the direction are one number.

    Disagreement is claimed only when it is several times what the differences' own error explains; agreement
    only when that error is small enough for the agreement to mean something.

    Args:
        slope: from :func:`estimate_slope`.
        expected: the gradient's inner product with the direction.
        terms: root of the sum of squares of the products' terms: the size the sum has when nothing cancels.
        floor: tolerance relative to the slope's scale that is allowed in any case: autograd rounds too.
        limit: largest tolerance, relative to the slope's scale, at which agreement is still claimed.

    Returns:
        (outcome, numbers, reason); the reason is "" unless the outcome is inconclusive.
    """
    if slope is None:
        return (
            Outcome.INCONCLUSIVE,
            None,
            "the function could be evaluated at fewer than two steps to both sides",
        )
    scale = max(terms, abs(slope.value))
    difference = abs(slope.value - expected)
    tolerance = _SAFETY * slope.error + floor * scale
    if not all(map(math.isfinite, (slope.value, slope.error, expected, terms))):
        return Outcome.INCONCLUSIVE, None, "a slope is not finite"
    comparison = Comparison(
        elements=1,
        differing=int(difference > tolerance),
        index=(),
        expected=slope.value,
        actual=expected,
        error=difference,
        tolerance=tolerance,
        scale=scale,
        max_error=difference,
    )
    if slope.flat and expected != 0.0:
        return (
            Outcome.INCONCLUSIVE,
            comparison,
            "the output did not change at all over any step: it is piecewise constant here (rounding, "
            "argmax, comparison), or the step is lost in rounding",
        )
    if abs(slope.kink) > tolerance:
        return (
            Outcome.INCONCLUSIVE,
            comparison,
            f"the function has a kink here: the slopes to both sides differ by {abs(slope.kink):.3g}",
        )
    if difference <= tolerance:
        if tolerance <= limit * scale or scale == 0.0 or slope.flat:
            return Outcome.AGREE, comparison, ""
        return (
            Outcome.INCONCLUSIVE,
            comparison,
            f"the differences' own error allows {tolerance:.3g}, too much beside a slope of {scale:.3g}",
        )
    if slope.restless:
        return (
            Outcome.INCONCLUSIVE,
            comparison,
            "the output changes by nearly as much however small the step is: it varies faster than the smallest one",
        )
    if difference > 3.0 * tolerance and tolerance <= 0.1 * scale:
        return Outcome.DISAGREE, comparison, ""
    return (
        Outcome.INCONCLUSIVE,
        comparison,
        f"the slopes differ by {difference:.3g}, and the differences' own error allows {tolerance:.3g}: "
        "too close to blame the gradient",
    )

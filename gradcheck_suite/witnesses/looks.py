"""One look: the slope along one random direction by differences, beside the gradient's inner product with it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from ..compare.differences import Difference, Slope, estimate_slope, judge_slope, meets
from ..evidence import Comparison, Outcome, Testimony
from .direction import Direction
from .float64_world import DOUBLE, World

__all__ = ["WITNESS", "Look", "glance", "look"]

WITNESS = "finite_difference"
_LEVELS = 4
_EXTRA_LEVELS = 2
_MOST_SHRINKS = 6
# As many standard sizes of the rounding are not told from a difference.
_ROUNDINGS = 16.0


@dataclass(frozen=True)
class Look:
    """What was seen, and why no more: ``cause`` is ``"budget"``, ``"kink"``, ``"domain"``, ``"error"`` or ""."""

    outcome: Outcome
    testimony: Testimony
    cause: str = ""


def _direction(world: World, names: Sequence[str], seed: int) -> Direction:
    """Random signed steps of each leaf's own scale, those of loud leaves damped.

    Without the damping one leaf whose gradient is 10^6 times the others' would drown them all.
    """
    loudness = {name: world.norms[name] * world.scales[name] for name in names}
    loudest = max(loudness.values(), default=0.0)
    quiet = min((value for value in loudness.values() if value > 1e-4 * loudest), default=0.0)
    sizes = {}
    for name in names:
        damping = quiet / loudness[name] if loudness[name] > quiet > 0 else 1.0
        sizes[name] = damping * world.scales[name]
    return Direction({name: world.leaves[name] for name in names}, sizes, seed, world.still, world.held)


@dataclass(frozen=True)
class _Ladder:
    """A slope from shrinking steps, and what happened on the way."""

    slope: Slope | None
    shrinks: int
    late: bool
    smallest: float


def _descend(world: World, move: Direction, terms: float, deadline: float) -> _Ladder:
    """Differences over shrinking steps until their slope is settled.

    A step out of the function's domain is skipped. Four steps as a rule, three where they settle it, and more only
    while they are converging and not there yet: a kink that lay inside the larger ones.
    """
    precision = world.precision
    differences: list[Difference] = []
    slope: Slope | None = None
    step, shrinks = precision.start, 0
    while shrinks <= _MOST_SHRINKS:
        if time.monotonic() > deadline:
            return _Ladder(slope, shrinks, True, step)
        plus = world.change(move, step)
        minus = world.change(move, -step) if plus is not None else None
        step /= precision.ratio
        if plus is None or minus is None:
            shrinks += 1
            continue
        differences.append(Difference(step * precision.ratio, plus, minus))
        slope = estimate_slope(differences, world.noise)
        count = len(differences)
        if count < 3 or slope is None:
            continue
        scale = max(terms, abs(slope.value))
        if slope.error <= 0.02 * precision.floor * scale or count >= _LEVELS + _EXTRA_LEVELS:
            break
        if count >= _LEVELS:
            a, b, c = (d.central for d in differences[-3:])
            if slope.error <= 0.02 * precision.limit * scale or abs(c - b) >= 0.5 * abs(b - a):
                break
    return _Ladder(slope, shrinks, False, step * precision.ratio)


def glance(world: World, names: Sequence[str], subject: str, seed: int) -> Look | None:
    """A look that only ever agrees: None where small steps do not settle it."""
    move = _direction(world, names, seed)
    near = _near(world, move, move.inner(world.gradients), move.terms(world.norms))
    if near is None:
        return None
    reason = _with_precision(world, near, _speaks(world, names))
    statement = Testimony(WITNESS, subject, Outcome.AGREE, near, reason, float(near.expected.real))
    return Look(Outcome.AGREE, statement)


def look(world: World, names: Sequence[str], subject: str, seed: int, deadline: float) -> Look:
    """Compare differences along one direction with the gradient's inner product with it.

    Raises:
        Abstain: the function is not the same from run to run.
    """
    if time.monotonic() <= deadline:
        seen = glance(world, names, subject, seed)
        if seen is None and world.borrowed:
            # The model's own gradient is not that of this world's function to five digits: ask for this world's.
            world.differentiate()
            seen = glance(world, names, subject, seed)
        if seen is not None:
            return seen
        world.repeat()
    if world.borrowed:
        world.differentiate()
    move = _direction(world, names, seed)
    expected = move.inner(world.gradients)
    terms = move.terms(world.norms)
    ladder = _descend(world, move, terms, deadline)
    precision, slope = world.precision, ladder.slope
    outcome, comparison, reason = judge_slope(
        slope, expected, terms, floor=precision.floor, limit=precision.limit
    )
    cause = ""
    if outcome is Outcome.INCONCLUSIVE:
        if ladder.late:
            cause, reason = "budget", f"the time budget ran out; {reason}"
        elif slope is not None and slope.kink:
            cause = "kink"
        elif ladder.shrinks:
            cause = "domain"
            if slope is None:
                reason += (
                    f" (down to {ladder.smallest:.1g} of each tensor's scale): it raises or is not finite"
                )
        else:
            cause = "error"
    elif outcome is Outcome.DISAGREE and (doubt := _doubt(world, move, expected, comparison)):
        outcome, reason = Outcome.INCONCLUSIVE, doubt
    elif comparison is not None:
        reason = _with_precision(world, comparison, reason)
    speaks = _speaks(world, names)
    reason = f"{reason}; {speaks}" if reason else speaks
    value = slope.value if slope else None
    return Look(outcome, Testimony(WITNESS, subject, outcome, comparison, reason, value), cause)


def _doubt(world: World, move: Direction, expected: float, comparison: Comparison | None) -> str:
    """Why a disagreement may be nobody's fault, or ""."""
    if comparison is None:
        return ""
    rounding = world.rounding()
    if comparison.error * world.precision.start <= _ROUNDINGS * rounding.noise:
        # The loss of a model that is certain of everything is 1e-15, computed from numbers around 1: a staircase.
        return "the difference is smaller than what rounding in between does to the function over the largest step"
    if rounding.by_design:
        return rounding.by_design
    moved = max(abs(move.inner(gradients) - expected) for gradients in world.shaken())
    if comparison.error <= _ROUNDINGS * moved:
        return (
            f"autograd's number changes by {moved:.1g} when every leaf moves by a unit in the last place: the gradient itself "
            "is lost in rounding"
        )
    return ""


def _near(world: World, move: Direction, expected: float, terms: float) -> Comparison | None:
    """One very small step to one side, then to the other, then a larger one to both, and whether any settles agreement.

    A one-sided quotient is off by half the step times the curvature, which for so small a step is nothing beside five
    digits. Where the sides differ because a kink lies inside the step (of batch norm over two values, say), the central
    quotient is off by half of what they differ by; that is excused, within bounds. A kink at the point itself differs on
    both sides, for a direction in which many elements move; a side on which nothing changes is not believed alone.
    """
    precision = world.precision
    if precision.smaller is not None and world.noise <= 0.1 * precision.close * precision.smaller * terms:
        step = precision.smaller
        plus = world.change(move, step)
        if plus:
            found = meets(Difference(step, plus, -plus), expected, terms, precision.close)
            if found is not None:
                return found
        minus = world.change(move, -step) if plus is not None else None
        if plus is not None and minus is not None:
            difference = Difference(step, plus, minus)
            scale = max(terms, abs(difference.central))
            apart = 0.5 * abs(difference.jump) / scale if scale else 0.0
            close = min(max(precision.close, apart), 10.0 * precision.close)
            found = meets(difference, expected, terms, close)
            if found is not None:
                return found
    larger = _step(world, move, precision.single)
    return None if larger is None else meets(larger, expected, terms, precision.close)


def _step(world: World, move: Direction, step: float) -> Difference | None:
    plus = world.change(move, step)
    minus = world.change(move, -step) if plus is not None else None
    return None if plus is None or minus is None else Difference(step, plus, minus)


def _speaks(world: World, names: Sequence[str]) -> str:
    elements = sum(world.leaves[name].numel() for name in names)
    return (
        f"speaks for the {'float64' if world.wide else world.precision.name} run, {elements} elements at once"
    )


def _with_precision(world: World, comparison: Comparison, text: str) -> str:
    if world.precision is DOUBLE or not comparison.scale:
        return text
    allowed = comparison.tolerance / comparison.scale
    said = f"values pass through {world.precision.name}: compared to {allowed:.1g}"
    return f"{said}; {text}" if text else said

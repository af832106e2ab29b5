"""Slopes by differences: right values, honest errors, kinks, and a judgement that can go each of its three ways."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import numpy as np
import pytest

from gradcheck_suite.compare.differences import Difference, Slope, estimate_slope, judge_slope, meets
from gradcheck_suite.evidence import Outcome

EPSILON = 2.2e-16


def ladder(
    f: Callable[[float], float], start: float = 1e-3, ratio: float = 8.0, levels: int = 4
) -> list[Difference]:
    zero = f(0.0)
    steps = [start / ratio**k for k in range(levels)]
    return [Difference(h, f(h) - zero, f(-h) - zero) for h in steps]


def judge(slope: Slope | None, expected: float, terms: float = 1.0) -> Outcome:
    return judge_slope(slope, expected, terms, floor=1e-6, limit=1e-3)[0]


SMOOTH = {
    "linear": (lambda t: 3 * t + 1, 3.0),
    "sine": (lambda t: math.sin(1 + t), math.cos(1)),
    "steep exponential": (lambda t: math.exp(50 * t), 50.0),
    "square root near 0": (lambda t: math.sqrt(0.01 + t), 5.0),
    "large": (lambda t: 1e9 * (t + 1) ** 3, 3e9),
    "small": (lambda t: 1e-9 * (t + 1) ** 3, 3e-9),
    "stationary": (lambda t: math.cos(t), 0.0),
    "even": (lambda t: abs(t) ** 3, 0.0),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_functions(name: str) -> None:
    f, derivative = SMOOTH[name]
    slope = estimate_slope(ladder(f), 16 * EPSILON * abs(f(0.0)))
    assert slope is not None
    scale = max(abs(derivative), abs(f(0.0))) or 1.0
    assert abs(slope.value - derivative) <= slope.error + 1e-15 * scale
    assert slope.error <= 1e-4 * scale
    assert judge(slope, derivative, scale) is Outcome.AGREE
    for wrong in (derivative + 1e-2 * scale, derivative - scale, -derivative + scale):
        assert judge(slope, wrong, scale) is Outcome.DISAGREE


@pytest.mark.parametrize("factor", [1.001, 0.999, -1.0, 0.0, 2.0])
def test_a_wrong_factor_is_seen(factor: float) -> None:
    slope = estimate_slope(ladder(lambda t: math.sin(1 + t)), EPSILON)
    assert judge(slope, factor * math.cos(1)) is Outcome.DISAGREE


@pytest.mark.parametrize("f", [abs, lambda t: max(t, 0.0), lambda t: math.sin(t) + 0.3 * abs(t)])
def test_a_kink_at_the_point_is_inconclusive(f: Callable[[float], float]) -> None:
    slope = estimate_slope(ladder(f), EPSILON)
    assert slope is not None
    assert slope.kink != 0.0
    for choice in (0.0, 0.5, 1.0, 7.0):
        outcome, _, reason = judge_slope(slope, choice, 1.0, floor=1e-6, limit=1e-3)
        assert outcome is Outcome.INCONCLUSIVE
        assert "kink" in reason


@pytest.mark.parametrize("where", [3e-6, 1e-5, 1e-4, 5e-4, -2e-5])
def test_a_kink_within_reach_never_accuses(where: float) -> None:
    slope = estimate_slope(ladder(lambda t: t + 0.1 * abs(t - where)), EPSILON)
    right = 1 - 0.1 * math.copysign(1, where)
    assert judge(slope, right) is not Outcome.DISAGREE


def test_noise_never_accuses_over_many_draws() -> None:
    counts = dict.fromkeys(Outcome, 0)
    for seed in range(2000):
        rng = random.Random(seed)
        level = 10 ** rng.uniform(-14, -2)
        noisy = lambda t: math.sin(1 + t) + rng.uniform(-level, level)  # noqa: B023 - called at once
        # The witness does not know of this noise: only the spread of the quotients tells.
        counts[judge(estimate_slope(ladder(noisy), EPSILON), math.cos(1))] += 1
    assert counts[Outcome.DISAGREE] <= 1
    assert counts[Outcome.AGREE] > 400
    assert counts[Outcome.INCONCLUSIVE] > 400


def test_a_function_that_never_moves() -> None:
    slope = estimate_slope(ladder(lambda t: 5.0), EPSILON)
    assert judge(slope, 0.0, 0.0) is Outcome.AGREE
    outcome, _, reason = judge_slope(slope, 1.0, 1.0, floor=1e-6, limit=1e-3)
    assert outcome is Outcome.INCONCLUSIVE
    assert "did not change at all" in reason


def test_a_dependence_that_the_gradient_denies() -> None:
    slope = estimate_slope(ladder(lambda t: 1e-3 * t), EPSILON)
    assert judge(slope, 0.0, 0.0) is Outcome.DISAGREE


def test_too_few_steps_and_non_finite_numbers() -> None:
    assert estimate_slope(ladder(math.sin)[:1], EPSILON) is None
    assert judge(None, 1.0) is Outcome.INCONCLUSIVE
    assert judge(estimate_slope(ladder(math.sin), EPSILON), math.inf) is Outcome.INCONCLUSIVE
    assert judge(Slope(1.0, 0.0, 1e-3), math.nan) is Outcome.INCONCLUSIVE


def test_agreement_needs_a_small_error_of_its_own() -> None:
    rough = Slope(value=1.0, error=0.1, step=1e-3)
    assert judge(rough, 1.0) is Outcome.INCONCLUSIVE
    assert judge(rough, 100.0) is Outcome.INCONCLUSIVE


def test_the_numbers_are_handed_on() -> None:
    slope = estimate_slope(ladder(math.sin), EPSILON)
    outcome, comparison, reason = judge_slope(slope, 1.5, 1.0, floor=1e-6, limit=1e-3)
    assert (outcome, reason) == (Outcome.DISAGREE, "")
    assert comparison is not None
    assert (comparison.elements, comparison.differing, comparison.index) == (1, 1, ())
    assert comparison.actual == 1.5
    assert comparison.expected == pytest.approx(1.0)
    assert comparison.error == pytest.approx(0.5)
    assert 0 < comparison.tolerance < 1e-4


# ------------------------------------------------------------------------------------------- one step


def once(f: Callable[[float], float], step: float = 4e-6) -> Difference:
    return Difference(step, f(step) - f(0.0), f(-step) - f(0.0))


@pytest.mark.parametrize("name", SMOOTH)
def test_one_step_settles_agreement_where_it_is_smooth(name: str) -> None:
    f, derivative = SMOOTH[name]
    scale = max(abs(derivative), abs(f(0.0))) or 1.0
    numbers = meets(once(f), derivative, scale, 1e-5)
    assert numbers is not None
    assert numbers.error <= numbers.tolerance == 1e-5 * numbers.scale
    for wrong in (derivative + 1e-3 * scale, derivative - scale):
        assert meets(once(f), wrong, scale, 1e-5) is None


def test_one_step_settles_nothing_else() -> None:
    assert meets(once(abs), 0.0, 0.0, 1e-5) is None  # a kink, though the mean slope is autograd's choice
    assert meets(once(lambda t: 1e-2 * abs(t) + t), 1.0, 1.0, 1e-5) is None
    assert meets(once(lambda t: 0.0), 1e-9, 1.0, 1e-5) is None  # flat, and the gradient is not
    assert meets(once(lambda t: 0.0), 0.0, 1.0, 1e-5) is not None
    assert meets(Difference(1e-6, math.nan, 0.0), 0.0, 1.0, 1e-5) is None
    assert meets(once(math.sin), math.inf, 1.0, 1e-5) is None


@pytest.mark.parametrize("frequency", [1e8, 1e10, 1e13])
@pytest.mark.parametrize("seed", range(20))
def test_what_oscillates_within_the_smallest_step_never_accuses(frequency: float, seed: int) -> None:
    phase = np.random.default_rng(seed).uniform(0, 6)

    def f(h: float) -> float:
        return math.sin(frequency * h + phase) - math.sin(phase)

    differences = [Difference(h, f(h), f(-h)) for h in (1e-3 / 8.0**k for k in range(6))]
    slope = estimate_slope(differences, 1e-15)
    right = frequency * math.cos(phase)
    assert judge(slope, right, terms=abs(right)) is not Outcome.DISAGREE

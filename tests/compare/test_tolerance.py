"""How far two gradients may lie apart: what is granted, what is not, and what stays open."""

from __future__ import annotations

import numpy as np
import pytest

from gradcheck_suite.compare.tolerance import (
    EPS,
    HALF_SPREAD,
    SPREAD,
    ULPS,
    accumulation,
    coarsest_eps,
    judge,
    long_sum,
    settles,
    settles_beside,
)
from gradcheck_suite.evidence import Array, Outcome

RNG = np.random.default_rng(0)
SOME = RNG.standard_normal((5, 7))


def outcome(expected: Array, actual: Array | None, dtype: str = "float64", **more: object) -> Outcome:
    return judge(expected, actual, dtype=dtype, **more)[0]  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_last_digits_agree_and_a_visible_factor_does_not(dtype: str) -> None:
    eps = EPS[dtype]
    assert outcome(SOME, SOME * (1 + eps), dtype) is Outcome.AGREE
    granted = ULPS.get(dtype, 4.0) * eps
    assert outcome(SOME, SOME * (1 + 0.9 * granted), dtype) is Outcome.AGREE
    assert outcome(SOME, SOME * (1 + 1.1 * granted), dtype) is Outcome.DISAGREE


@pytest.mark.parametrize("size", [10, 1_000, 1_000_000])
def test_what_is_granted_does_not_grow_with_the_number_of_elements(size: int) -> None:
    expected = np.ones(size)
    actual = expected.copy()
    actual[size // 2] += 1e-4
    found, numbers = judge(expected, actual, dtype="float64")
    assert found is Outcome.DISAGREE
    assert (numbers.index, numbers.differing, numbers.elements) == ((size // 2,), 1, size)
    assert numbers.error == pytest.approx(1e-4)
    assert numbers.tolerance < 1e-12


def test_rounding_is_relative_to_the_scale_of_the_tensor() -> None:
    expected = np.array([1.0, 1e-12])
    assert outcome(expected, np.array([1.0, 2e-12]), "float32") is Outcome.AGREE
    assert outcome(expected * [0, 1], np.array([0.0, 2e-12]), "float32") is Outcome.DISAGREE


def test_noise_is_measured_only_where_it_is_needed() -> None:
    asked = []

    def noise() -> Array:
        asked.append(1)
        return np.full(SOME.shape, 1e-3)

    assert outcome(SOME, SOME, noise=noise) is Outcome.AGREE
    assert not asked
    assert outcome(SOME, SOME + 0.9 * SPREAD * 1e-3, noise=noise) is Outcome.AGREE
    assert outcome(SOME, SOME + 1.1 * SPREAD * 1e-3, noise=noise) is Outcome.DISAGREE
    assert len(asked) == 2


def test_half_precision_is_granted_less_of_its_noise() -> None:
    noise = lambda: np.full(SOME.shape, 0.1)
    assert HALF_SPREAD < SPREAD
    assert outcome(SOME, SOME + 0.09 * HALF_SPREAD, "bfloat16", noise=noise) is Outcome.AGREE
    assert outcome(SOME, SOME + 0.11 * HALF_SPREAD, "bfloat16", noise=noise) is Outcome.DISAGREE


def test_noise_that_is_not_finite_settles_nothing() -> None:
    assert outcome(SOME, SOME * 2, noise=lambda: np.full(SOME.shape, np.nan)) is Outcome.INCONCLUSIVE


def test_none_is_right_for_zeros_only() -> None:
    assert outcome(np.zeros((2, 3)), None) is Outcome.AGREE
    assert outcome(SOME, None) is Outcome.DISAGREE


def test_another_shape_is_a_disagreement_that_says_so() -> None:
    found, numbers = judge(SOME, SOME.T, dtype="float64")
    assert found is Outcome.DISAGREE
    assert numbers.pattern == "the shape is [7, 5] where [5, 7] is expected"


def test_empty_gradients_agree() -> None:
    assert outcome(np.zeros((0, 3)), np.zeros((0, 3))) is Outcome.AGREE


NAN, INF = np.nan, np.inf


@pytest.mark.parametrize(
    ("expected", "actual", "dtype", "result"),
    [
        ([1.0, NAN], [1.0, NAN], "float64", Outcome.AGREE),
        ([1.0, INF], [1.0, INF], "float64", Outcome.AGREE),
        ([1.0, INF], [1.0, -INF], "float64", Outcome.INCONCLUSIVE),
        ([1.0, 2.0], [1.0, NAN], "float64", Outcome.DISAGREE),
        ([1.0, 2.0], [1.0, INF], "float64", Outcome.DISAGREE),
        ([1.0, NAN], [1.0, 2.0], "float64", Outcome.INCONCLUSIVE),
        ([1.0, NAN], [1.1, 2.0], "float64", Outcome.DISAGREE),
        ([1.0, 1e39], [1.0, INF], "float32", Outcome.AGREE),
        ([1.0, 1e30], [1.0, INF], "float32", Outcome.DISAGREE),
        ([1.0, 7e4], [1.0, INF], "float16", Outcome.AGREE),
        ([1e-40], [0.0], "float32", Outcome.AGREE),
        ([1e-30], [0.0], "float32", Outcome.DISAGREE),
        ([1e-6], [0.0], "float16", Outcome.AGREE),
    ],
)
def test_values_that_are_not_finite_or_flushed(
    expected: list[float], actual: list[float], dtype: str, result: Outcome
) -> None:
    assert outcome(np.array(expected), np.array(actual), dtype) is result


def test_complex_errors_are_distances() -> None:
    expected = SOME + 1j * SOME[::-1]
    assert outcome(expected, expected * (1 + 1e-15j), "complex128") is Outcome.AGREE
    found, numbers = judge(expected, expected.conj(), dtype="complex128")
    assert found is Outcome.DISAGREE
    assert isinstance(numbers.expected, complex)


def test_the_coarsest_dtype_decides() -> None:
    assert coarsest_eps(["float64", "bfloat16", "float32", "int64"]) == (2.0**-7, "bfloat16")
    assert coarsest_eps([]) == (2.0**-52, "float64")


def test_room_for_sums_is_bounded() -> None:
    assert accumulation(0) == 1.0
    assert accumulation(64) == 2.0
    assert accumulation(1e12) == accumulation(1e30) == 41.0


def test_a_sum_of_many_terms_may_lose_more_digits_but_not_visibly_many() -> None:
    assert long_sum(1e3, "float32") == long_sum(64**2, "float32") == 1.0
    assert long_sum(176_000, "float32") == pytest.approx(6.55, abs=0.01)
    assert long_sum(1e12, "float32") == 10.0  # 640 eps: below 1e-4
    assert long_sum(1e12, "bfloat16") == 1.0


LAYOUTS = {
    "C": lambda a: np.ascontiguousarray(a),
    "F": lambda a: np.asfortranarray(a),
    "strided": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "reversed": lambda a: np.ascontiguousarray(a[::-1])[::-1],
}


@pytest.mark.parametrize("one", LAYOUTS)
@pytest.mark.parametrize("other", LAYOUTS)
@pytest.mark.parametrize("shape", [(70_000,), (300, 401), (1, 50_000), (50_000, 1), (7, 100, 90)])
def test_one_wrong_element_is_seen_and_named_in_every_layout(
    one: str, other: str, shape: tuple[int, ...]
) -> None:
    values = np.random.default_rng(1).standard_normal(shape)
    place = tuple(n - 1 - n // 3 for n in shape)
    slightly = values.copy()
    slightly[place] += 10 * EPS["float64"]
    found = settles(LAYOUTS[one](values), LAYOUTS[other](slightly), dtype="float64")
    assert found is not None
    assert (found.index, found.differing, found.elements) == (place, 0, values.size)
    assert found.error == abs(slightly[place] - values[place])
    wrong = values.copy()
    wrong[place] += 1e-6
    assert settles(LAYOUTS[one](values), LAYOUTS[other](wrong), dtype="float64") is None
    wrong[place] = np.nan
    assert settles(LAYOUTS[one](values), LAYOUTS[other](wrong), dtype="float64") is None
    assert settles(LAYOUTS[one](wrong), LAYOUTS[other](wrong), dtype="float64") is None


def test_what_has_another_shape_or_nothing_in_it_is_not_settled_at_first_sight() -> None:
    assert settles(SOME, None, dtype="float64") is None
    assert settles(SOME, SOME[:-1], dtype="float64") is None
    assert settles(SOME[:0], SOME[:0], dtype="float64") is None
    zero_dimensional = settles(np.array(2.0), np.array(2.0), dtype="float32")
    assert zero_dimensional is not None
    assert zero_dimensional.index == ()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["float64", "complex128"])
@pytest.mark.parametrize("factor", [0.5, 0.99, 1.01, 40.0])
def test_beside_a_noisy_sample_the_same_is_settled_as_judged(layout: str, kind: str, factor: float) -> None:
    rng = np.random.default_rng(2)
    expected = rng.standard_normal((90, 500)).astype(kind)
    sample = LAYOUTS[layout](expected + 1e-9 * rng.standard_normal(expected.shape))
    noise = np.maximum(np.abs(sample - expected), np.sqrt(np.mean(np.abs(sample - expected) ** 2)))
    loud = np.unravel_index(np.argmax(noise), noise.shape)
    actual = expected.copy()
    actual[loud] += factor * (8.0 * noise[loud] + 64 * EPS[kind] * np.abs(expected).max())
    judged, numbers = judge(expected, actual, dtype=kind, noise=lambda: noise, spread=8.0)
    found = settles_beside(expected, actual, sample, dtype=kind, slack=1.0, spread=8.0)
    assert (found is not None) == (judged is Outcome.AGREE) == (factor < 1)
    if found is not None:
        assert found.index == numbers.index
        assert found.tolerance == pytest.approx(numbers.tolerance)
    everywhere = settles_beside(expected, sample, sample, dtype=kind, slack=1.0, spread=8.0)
    assert everywhere is not None


def test_without_a_sample_or_with_one_that_is_not_finite_nothing_is_settled() -> None:
    assert settles_beside(SOME, SOME, None, dtype="float64", slack=1.0, spread=8.0) is None
    assert settles_beside(SOME, SOME, SOME * np.nan, dtype="float64", slack=1.0, spread=8.0) is None
    assert settles_beside(SOME, SOME * np.inf, SOME, dtype="float64", slack=1.0, spread=8.0) is None
    assert settles_beside(SOME, SOME, SOME, dtype="bfloat16", slack=1.0, spread=8.0) is None


@pytest.mark.parametrize("spread", [np.nan, np.inf])
def test_noise_without_a_finite_value_excuses_nothing(spread: float) -> None:
    expected, actual = np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.5, 3.0])
    noise = np.array([0.0, spread, 0.0])
    outcome, _ = judge(expected, actual, dtype="float64", noise=lambda: noise)
    assert outcome is Outcome.INCONCLUSIVE
    outcome, _ = judge(expected, expected.copy(), dtype="float64", noise=lambda: noise)
    assert outcome is Outcome.AGREE
    outcome, comparison = judge(expected, np.array([1.5, 2.5, 3.0]), dtype="float64", noise=lambda: noise)
    assert outcome is Outcome.DISAGREE
    assert (comparison.index, comparison.differing) == ((0,), 1)

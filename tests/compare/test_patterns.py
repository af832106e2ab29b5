"""Every typical slip is named, and noise is not."""

from __future__ import annotations

import numpy as np
import pytest

from gradcheck_suite.compare.patterns import describe

RNG = np.random.default_rng(7)
X = RNG.standard_normal((6, 5))
SQUARE = RNG.standard_normal((5, 5))


def look(expected, actual, **kwargs):
    expected, actual = np.asarray(expected), np.asarray(actual)
    wrong = ~np.isclose(actual, expected, rtol=1e-9, atol=0)
    return describe(expected, actual, wrong, **kwargs)


def changed(base, where, value):
    out = np.array(base)
    out[where] = value
    return out


@pytest.mark.parametrize(
    ("expected", "actual", "said"),
    [
        (X, X * 2 / 3, "the ratio is 2/3 everywhere: a factor is missing in backward"),
        (X, X / 2, "the ratio is 1/2 everywhere: a factor 2 is missing in backward"),
        (X, X * 3, "the ratio is 3 everywhere: there is a factor 3 too many in backward"),
        (X, -X, "the sign is flipped everywhere"),
        (X, X * 1.001, "the ratio is 1.001 everywhere: a constant factor is wrong in backward"),
        (X, X * 6, "the ratio is 6 everywhere: a sum stands where an average is due over a dimension"),
        (X, X / 30, "the ratio is 1/30 everywhere: an average stands where a sum is due over a dimension"),
        (X, X * 0, "the gradient is zero everywhere: backward returns None or zeros"),
        (SQUARE, SQUARE.T, "the gradient is transposed"),
        (X, X.T.reshape(6, 5), "reshape was used where a transpose is due"),
        (X, np.roll(X, 1, axis=0), "shifted by 1 along dimension 0"),
        (X, changed(np.roll(X, -1, axis=1), (slice(None), -1), 0), "shifted by 1 along dimension 1"),
        (X, X[:, ::-1], "reversed along dimension 1"),
        (X, X + 0.5, "every element is off by the same amount, 0.5"),
        (X, changed(X, (2, 3), 9.0), "one element alone is wrong, [2, 3]"),
        (X, changed(X, (2, 3), -X[2, 3]), "[2, 3]; the sign is flipped there"),
        (X, changed(X, 2, 2 * X[2]), "only row 2 is wrong; the ratio is 2 there"),
        (X, changed(X, (slice(None), 1), 0), "only column 1 is wrong; they are zero there"),
        (X, X * np.arange(1, 6), "the ratio depends on dimension 1 alone"),
        (1j * X + 1, (1j * X + 1).conj(), "the gradient is conjugated"),
        (1j * X + 1, (1j * X + 1).real + 0j, "the imaginary part is missing"),
        (X + 2j, 1j * (X + 2j), "the ratio is i everywhere"),
        (X, changed(X, X > 0.2, 0), "are all zero: something masks them"),
        (changed(X, X > 0.2, 0), X, "should all be zero: a mask is missing"),
        (X, changed(X, (0, 0), np.nan), "1 of 30 elements is NaN where a finite value is expected"),
        (np.float64(3.0), np.float64(2.0), "the ratio is 2/3: a factor is missing in backward"),
        (np.ones((4, 3)) * X[:1, :3].sum(), np.tile(X[:1, :3], (4, 1)), "a sum over dimension 1 is missing"),
    ],
)
def test_slip_is_named(expected, actual, said):
    assert said in look(expected, actual)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_ratio_survives_rounding(dtype):
    assert "2/3 everywhere" in look(X, (X * 2 / 3).astype(dtype))


def test_wrong_only_where_input_is_negative():
    value = RNG.standard_normal((6, 5))
    actual = np.where(value < 0, X * 0.01, X)
    assert look(X, actual, input_value=value).startswith("wrong only where the input is negative")
    assert look(X, np.where(value < 0, -X, X), input_value=value) == (
        "wrong only where the input is negative; the sign is flipped there"
    )


def test_wrong_only_above_a_bound():
    value = np.linspace(-3, 3, 30).reshape(6, 5)
    sentence = look(X, np.where(value > 1, 7.0 + X**2, X), input_value=value)
    assert sentence.startswith("wrong only where the input lies above about 1.0")


def test_cotangent_ignored_and_passed_through():
    cotangent, local = RNG.standard_normal((6, 5)), RNG.standard_normal((6, 5))
    right = cotangent * local
    assert "ignores grad_output" in look(right, local, cotangent=cotangent)
    assert "unchanged" in look(right, cotangent, cotangent=cotangent)


def test_average_over_a_broadcast_dimension():
    cotangent = RNG.standard_normal((8, 4))
    assert "1/8 everywhere: an average stands where a sum is due" in look(
        cotangent.sum(0), cotangent.mean(0), cotangent=cotangent
    )


@pytest.mark.parametrize("shape", [(), (1,), (2,), (5,), (3, 4), (2, 3, 4), (16, 16)])
@pytest.mark.parametrize("size", [1e-6, 1e-4, 1e-2, 1.0])
def test_noise_is_no_pattern(shape, size):
    """Independent errors in every element: whatever is said would be wrong."""
    rng = np.random.default_rng(11)
    said = []
    for _ in range(150):
        expected = rng.standard_normal(shape)
        actual = expected * (1 + size * rng.standard_normal(shape))
        sentence = describe(
            expected,
            actual,
            np.ones(shape, bool),
            input_value=rng.standard_normal(shape),
            cotangent=rng.standard_normal(shape),
        )
        if sentence:
            said.append(sentence)
    assert said == []


def test_noise_in_a_random_part_is_no_pattern():
    rng = np.random.default_rng(3)
    for _ in range(200):
        expected, wrong = rng.standard_normal((6, 6)), rng.random((6, 6)) < 0.5
        actual = expected + np.where(wrong, rng.standard_normal((6, 6)), 0)
        assert describe(expected, actual, wrong, input_value=rng.standard_normal((6, 6))) == ""


def test_nothing_wrong_and_nothing_there():
    assert describe(X, X, np.zeros(X.shape, bool)) == ""
    empty = np.zeros((0, 3))
    assert describe(empty, empty, np.zeros((0, 3), bool)) == ""


def test_nan_on_both_sides_and_odd_inputs():
    expected = changed(X, (0, 0), np.nan)
    assert describe(expected, changed(X, (1, 1), np.nan), np.ones(X.shape, bool)) == ""
    assert "finite where the derivative is not" in describe(expected, X, np.isnan(expected))
    assert "2/3" in look(X, X * 2 / 3, input_value=np.zeros((2, 2)))
    assert "2/3" in look(X, X * 2 / 3, input_value=changed(X, (0, 0), np.nan))


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"expected has shape \(6, 5\), actual \(5, 5\)"):
        describe(X, SQUARE, np.ones(X.shape, bool))

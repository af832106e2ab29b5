"""Monte-Carlo arithmetic: what is perturbed, what stays exact, and that it leaves nothing behind."""

from __future__ import annotations

import numpy as np
import pytest

from gradcheck_suite.engine import PRIMITIVES, Tensor, grad, perturbed
from gradcheck_suite.engine import ops as e

X = np.random.default_rng(0).normal(size=(50, 40))


def test_every_element_moves_by_at_most_eps():
    with perturbed(1e-6, np.random.default_rng(1)):
        y = e.exp(X)
    relative = y.data / np.exp(X) - 1
    assert 0.9e-6 < np.abs(relative).max() <= 1.0000001e-6
    assert np.unique(relative.round(12)).size > 1000
    np.testing.assert_array_equal(e.exp(X).data, np.exp(X))


def test_exact_operations_stay_exact():
    with perturbed(1e-3, np.random.default_rng(1)):
        for out, expected in [
            (e.transpose(X), X.T),
            (e.reshape(X, shape=(-1,)), X.ravel()),
            (-Tensor(X), -X),
            (Tensor(X)[1:3], X[1:3]),
            (e.concatenate([X, X]), np.concatenate([X, X])),
            (e.where(X > 0, X, 0.0), np.where(X > 0, X, 0.0)),
            (e.conj(X * 1j), np.conj(X * 1j)),
        ]:
            np.testing.assert_array_equal(out.data, expected)


@pytest.mark.parametrize("name", sorted(name for name, p in PRIMITIVES.items() if not p.exact))
def test_every_rounding_primitive_is_perturbed_in_its_own_dtype(name):
    args, kwargs = PRIMITIVES[name].draw_samples()[0]
    with np.errstate(all="ignore"):
        plain = PRIMITIVES[name](*args, **kwargs)
        with perturbed(1e-4, np.random.default_rng(1)):
            moved = PRIMITIVES[name](*args, **kwargs)
    pairs = list(zip(plain, moved)) if isinstance(plain, tuple) else [(plain, moved)]
    for a, b in pairs:
        if isinstance(a, Tensor) and a.dtype.kind in "fc":
            assert a.dtype == b.dtype
            np.testing.assert_allclose(b.data, a.data, rtol=1.5e-4)
            assert not np.any(a.data) or not np.array_equal(a.data, b.data)


def test_backward_is_perturbed_too():
    x = Tensor(X, requires_grad=True)
    y = e.tanh(x).sum()
    (exact,) = grad(y, x, retain_graph=True)
    with perturbed(1e-6, np.random.default_rng(1)):
        (noisy,) = grad(y, x, retain_graph=True)
    assert not np.array_equal(exact.data, noisy.data)
    np.testing.assert_allclose(noisy.data, exact.data, rtol=1e-4)


def test_sums_of_cotangents_are_perturbed():
    x = Tensor(np.ones(10), requires_grad=True)
    y = e.reshape(x, shape=(2, 5))
    z = [y[0], y[1], y[0]]
    with perturbed(1e-6, np.random.default_rng(1)):
        (g,) = grad(z, x, [np.ones(5)] * 3)
    assert np.all(g.data[:5] != 2.0)


def test_complex_parts_move_independently():
    with perturbed(1e-6, np.random.default_rng(1)):
        y = e.exp(np.full(100, 1 + 1j))
    relative = y.data / np.exp(1 + 1j) - 1
    true = np.exp(1 + 1j)
    real, imag = y.data.real / true.real - 1, y.data.imag / true.imag - 1
    assert np.abs(relative).max() < 1.5e-6
    assert abs(np.corrcoef(real, imag)[0, 1]) < 0.5


def test_spread_measures_conditioning():
    """(x + 1e6) - 1e6 loses six digits; x * 1e6 / 1e6 loses none."""
    x = np.linspace(1, 2, 50)
    rng = np.random.default_rng(0)
    with perturbed(1e-12, rng):
        bad = np.std([((Tensor(x) + 1e6) - 1e6).data for _ in range(10)], axis=0).mean()
        good = np.std([((Tensor(x) * 1e6) / 1e6).data for _ in range(10)], axis=0).mean()
    assert bad > 1e4 * good


def test_nesting_restoring_and_bad_sizes():
    def fails():
        with perturbed(0.1, np.random.default_rng(0)):
            with perturbed(0.0, np.random.default_rng(0)):
                np.testing.assert_array_equal(e.exp(X).data, np.exp(X))
            assert not np.array_equal(e.exp(X).data, np.exp(X))
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    np.testing.assert_array_equal(e.exp(X).data, np.exp(X))
    with (
        pytest.raises(ValueError, match="a relative error size is >= 0"),
        perturbed(-1.0, np.random.default_rng(0)),
    ):
        pass


@pytest.mark.parametrize("eps", [2.0**-52, 2.0**-23, 2.0**-7])
@pytest.mark.parametrize("exponent", [3, -2.0, 0.0, 1.0, np.array([2.0, 3.0, 4.0, 1.0])])
def test_integral_exponents_stay_integral(eps, exponent):
    """Beside an integer, a negative number has no power: the noise would be NaN, and excuse everything."""
    x = Tensor(np.array([-1.5, -0.25, 2.0, 0.5]), requires_grad=True)
    with perturbed(eps, np.random.default_rng(1)):
        noisy = Tensor(np.asarray(exponent, dtype=float) * (1 + eps))
        (first,) = grad([e.power(x, noisy)], [x], [Tensor(np.ones(4))], create_graph=True)
        (second,) = grad([first], [x], [Tensor(np.ones(4))], allow_unused=True)
    power = np.asarray(exponent, dtype=float)
    np.testing.assert_allclose(first.data, power * x.data ** (power - 1), rtol=8 * eps)
    assert second is None or np.isfinite(second.data).all()


def test_shares_of_a_logsumexp_stay_below_one():
    x = Tensor(np.full((3, 2), -1e30), requires_grad=True)
    with perturbed(1e-7, np.random.default_rng(1)):
        (weights,) = grad([e.logsumexp(x * 1.0, axis=0)], [x], [Tensor(np.ones(2))])
    assert np.isfinite(weights.data).all()


@pytest.mark.parametrize("eps", [2.0**-7, 2.0**-23, 2.0**-52])
def test_a_nearly_certain_logarithm_may_be_off_by_the_rounding_of_its_sum(eps: float):
    """``log(1 + 1e-6)`` next to 30 is known to about ``30 eps`` (float32 and finer), not to ``1e-6 eps``."""
    logits = np.array([[30.0, 30.0 - np.log(1e6)]])
    exact = e.log_softmax(logits, axis=1).data[0, 0]
    moved = []
    for seed in range(12):
        with perturbed(eps, np.random.default_rng(seed)):
            moved.append(e.log_softmax(logits, axis=1).data[0, 0] - exact)
    room = eps + 30 * min(eps, 2.0**-23)
    assert 0.1 * room < np.abs(moved).max() <= 1.1 * room

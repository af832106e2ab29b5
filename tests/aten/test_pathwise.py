"""Samples that move with their parameter: against the inverse of the distribution function, and against torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import special

from gradcheck_suite import check_gradients
from gradcheck_suite.aten.pathwise import beta_slope, gamma_slope

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("scale", [0.05, 0.5, 5.0, 500.0])
def test_a_gamma_sample_moves_as_the_quantile_does(scale: float) -> None:
    a = scale * RNG.uniform(0.5, 2.0, 200)
    u = RNG.uniform(0.02, 0.98, 200)
    h = 1e-5 * a
    by_quantile = (special.gammaincinv(a + h, u) - special.gammaincinv(a - h, u)) / (2 * h)
    np.testing.assert_allclose(gamma_slope(special.gammaincinv(a, u), a), by_quantile, rtol=2e-6)


@pytest.mark.parametrize("scale", [0.2, 2.0, 50.0])
def test_a_beta_sample_moves_as_the_quantile_does(scale: float) -> None:
    a, b = scale * RNG.uniform(0.5, 2.0, (2, 200))
    u = RNG.uniform(0.05, 0.95, 200)
    h = 1e-5 * a
    by_quantile = (special.betaincinv(a + h, b, u) - special.betaincinv(a - h, b, u)) / (2 * h)
    np.testing.assert_allclose(
        beta_slope(special.betaincinv(a, b, u), a, b), by_quantile, rtol=2e-5, atol=1e-7
    )


@pytest.mark.parametrize(
    "sample",
    [
        lambda a: torch.distributions.Gamma(a, 2.0).rsample(),
        lambda a: torch.distributions.Dirichlet(a).rsample(),
        lambda a: torch.distributions.Beta(a, a + 1).rsample(),
        lambda a: torch.distributions.StudentT(a).rsample(),
    ],
    ids=["gamma", "dirichlet", "beta", "student"],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_what_torch_approximates_is_verified_to_what_it_promises(sample: object, dtype: torch.dtype) -> None:
    assert callable(sample)
    report = check_gradients(sample, torch.rand(6, 4, dtype=dtype) + 0.5)
    assert not report.errors, str(report)
    assert report.counts.get("nodes_unverified", 0) == 0
    assert any("approximates" in t.reason for n in report.nodes for t in n.testimonies)


def test_a_wrong_pathwise_derivative_is_still_found() -> None:
    class OnePercentOff(torch.autograd.Function):
        @staticmethod
        def forward(ctx, a):  # type: ignore[no-untyped-def]
            with torch.enable_grad():
                leaf = a.detach().requires_grad_()
                sample = torch._standard_gamma(leaf)
                (ctx.slope,) = torch.autograd.grad(sample.sum(), leaf)
            return sample.detach()

        @staticmethod
        def backward(ctx, g):  # type: ignore[no-untyped-def]
            return 1.01 * g * ctx.slope

    report = check_gradients(OnePercentOff.apply, torch.rand(6, 4, dtype=torch.float64) + 0.5)
    assert not report.ok

"""The tolerance's noise term: what accumulated rounding may move, and what it may not hide."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gradcheck_suite.compare.tolerance import EPS, HALF_SPREAD, SPREAD, accumulation, judge
from gradcheck_suite.evidence import Array, Outcome
from gradcheck_suite.witnesses.engine import check_node
from gradcheck_suite.witnesses.torch_reverse import record_reverse


def test_accumulation_grows_with_the_root_of_the_terms_and_is_bounded() -> None:
    assert accumulation(0) == 1
    assert accumulation(64) == 2
    assert accumulation(1e12) == 41


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precisions_add_up_in_float32(dtype: str) -> None:
    assert accumulation(1e6, dtype) == 1
    assert accumulation(64, "float32") == 2


def _one_off(error: float) -> tuple[Array, Array]:
    expected = np.linspace(-1.0, 1.0, 101)
    actual = expected.copy()
    actual[-1] += error
    return expected, actual


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_without_noise_the_first_term_decides(dtype: str) -> None:
    ulps = 4 if dtype == "bfloat16" else 64
    for factor, outcome in ((0.9, Outcome.AGREE), (1.1, Outcome.DISAGREE)):
        expected, actual = _one_off(factor * ulps * EPS[dtype])
        assert judge(expected, actual, dtype=dtype)[0] is outcome


def test_in_single_and_double_precision_noise_is_added() -> None:
    expected, actual = _one_off(70 * EPS["float32"])
    assert judge(expected, actual, dtype="float32")[0] is Outcome.DISAGREE
    noise = np.full(expected.shape, EPS["float32"])
    outcome, comparison = judge(expected, actual, dtype="float32", noise=lambda: noise)
    assert outcome is Outcome.AGREE
    assert comparison.tolerance == pytest.approx((64 + SPREAD) * EPS["float32"])


@pytest.mark.parametrize(("noise", "tolerance"), [(0.01, 4 * 2.0**-7), (0.05, HALF_SPREAD * 0.05)])
def test_in_half_precision_the_larger_term_counts(noise: float, tolerance: float) -> None:
    expected, actual = _one_off(0.04)
    spread = np.full(expected.shape, noise)
    outcome, comparison = judge(expected, actual, dtype="bfloat16", noise=lambda: spread)
    assert comparison.tolerance == pytest.approx(tolerance)
    assert outcome is (Outcome.AGREE if tolerance > 0.04 else Outcome.DISAGREE)


class Scaled(torch.autograd.Function):
    """A linear layer whose weight gradient is wrong in its largest element."""

    error = 0.0

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight.mT

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, cotangent: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors  # type: ignore[attr-defined]
        gradient = (cotangent.mT @ x).float()
        gradient.view(-1)[gradient.abs().argmax()] *= 1 + Scaled.error
        return cotangent @ weight, gradient.to(x.dtype)


def _outcome(dtype: torch.dtype, error: float, seed: int) -> Outcome:
    generator = torch.Generator().manual_seed(seed)
    x, weight = (
        torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in ((16, 20), (12, 20))
    )
    Scaled.error = error
    run = record_reverse(Scaled.apply, (x, weight), {}, named_leaves={"x": x, "weight": weight}, seed=seed)
    node = next(n for n in run.trace.nodes.values() if n.function is not None)
    return check_node(node, run.probe)[0].outcome


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    ("dtype", "error"), [(torch.bfloat16, 5e-2), (torch.float16, 1e-2), (torch.float32, 1e-4)]
)
def test_a_wrong_largest_element_is_found_and_a_right_one_is_not_accused(
    dtype: torch.dtype, error: float, seed: int
) -> None:
    assert _outcome(dtype, 0.0, seed) is Outcome.AGREE
    assert _outcome(dtype, error, seed) is Outcome.DISAGREE


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_batch_norm_over_few_values_is_not_accused_in_half_precision(dtype: torch.dtype) -> None:
    """Its backward cancels: the rounding is hundreds of units of the result, and the noise says so."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.LayerNorm(2)).to(
        dtype
    )
    x = torch.randn(2, 3, 1, 2).to(dtype).requires_grad_()
    run = record_reverse(
        model, (x,), {}, named_leaves={**dict(model.named_parameters()), "x": x}, modules=[model]
    )
    verdicts = [check_node(n, run.probe)[0] for k, n in run.trace.nodes.items() if k > 0 and n.ran]
    assert Outcome.DISAGREE not in {v.outcome for v in verdicts}


@pytest.mark.parametrize("mean", [0.0, 1.0])
def test_a_kernel_gradient_that_torch_adds_up_from_left_to_right_is_not_accused(mean: float) -> None:
    generator = torch.Generator().manual_seed(3)
    video = torch.randn(1, 3, 6, 112, 112, generator=generator) + mean
    layer = nn.Conv3d(3, 64, (1, 7, 7), stride=(1, 2, 2), padding=(0, 3, 3), bias=False)
    run = record_reverse(
        layer, (video,), {}, named_leaves=dict(layer.named_parameters()), loss=lambda y: y + mean
    )
    checked = [check_node(n, run.probe) for key, n in run.trace.nodes.items() if key > 0 and n.ran]
    assert {verdict.outcome for verdict, _ in checked} == {Outcome.AGREE}

"""Before a node is accused: kinks, places where nothing is defined, last digits. And none of them hides an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradcheck_suite.evidence import NodeVerdict, Outcome
from gradcheck_suite.witnesses.engine import check_node
from gradcheck_suite.witnesses.torch_reverse import record_reverse


def verdicts(function: Callable[..., Any], x: Tensor, **leaves: Tensor) -> list[NodeVerdict]:
    run = record_reverse(function, (x,), {}, named_leaves={"x": x, **leaves}, seed=5)
    return [check_node(n, run.probe)[0] for k, n in run.trace.nodes.items() if k > 0 and n.ran]


class Opposite(torch.autograd.Function):
    """max(x, 0) with a slope of one's own at 0."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.slope = slope
        return torch.relu(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return g * torch.where(x == 0, ctx.slope, (x > 0).to(x.dtype)), None


def ramp(zeros: int) -> Tensor:
    values = torch.cat([torch.zeros(zeros), torch.tensor([-2.0, -0.5, 0.5, 2.0, 3.0])])
    return values.to(torch.float64).requires_grad_()


@pytest.mark.parametrize("slope", [1.0, 0.5, 0.2])
@pytest.mark.parametrize("zeros", [1, 7])
def test_any_slope_between_the_two_is_right_at_a_kink(slope: float, zeros: int) -> None:
    (verdict,) = verdicts(lambda x: Opposite.apply(x, slope), ramp(zeros))
    assert verdict.outcome is Outcome.AGREE
    assert "kink" in verdict.testimonies[0].reason


@pytest.mark.parametrize("slope", [1.5, -0.2])
def test_a_slope_outside_is_wrong_at_a_kink(slope: float) -> None:
    (verdict,) = verdicts(lambda x: Opposite.apply(x, slope), ramp(1))
    assert verdict.outcome is Outcome.DISAGREE


@pytest.mark.parametrize("wrong", [1.001, 0.0])
def test_a_kink_excuses_no_other_element(wrong: float) -> None:
    class Both(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return torch.relu(x)

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            return g * (x >= 0) * torch.where(x > 1, wrong, 1.0)

    (verdict,) = verdicts(Both.apply, ramp(3))
    assert verdict.outcome is Outcome.DISAGREE


def test_too_many_kinks_to_look_at_are_not_passed_over_in_silence() -> None:
    (verdict,) = verdicts(lambda x: Opposite.apply(x, 0.5), ramp(100))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "kinks" in verdict.testimonies[0].reason


class Spoiled(torch.autograd.Function):
    """A smooth function whose slopes are tiny where its curvature is not."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.cos(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return -1.01 * g * torch.sin(ctx.saved_tensors[0])


def test_curvature_is_no_kink() -> None:
    x = (1e-5 * torch.arange(1.0, 9.0, dtype=torch.float64)).requires_grad_()
    (verdict,) = verdicts(Spoiled.apply, x)
    assert verdict.outcome is Outcome.DISAGREE


def test_nothing_is_defined_where_logsumexp_is_infinite() -> None:
    x = torch.tensor([[0.5, -torch.inf], [-torch.inf, -torch.inf]], dtype=torch.float64, requires_grad=True)
    (verdict,) = verdicts(lambda x: torch.logsumexp(x, 1), x)
    assert verdict.outcome is Outcome.AGREE
    assert "nothing is defined" in verdict.testimonies[0].reason


class CarelessSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out = torch.softmax(x, -1)
        ctx.save_for_backward(x, out)
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        x, out = ctx.saved_tensors
        return out * (g - (g * out).sum(-1, keepdim=True)) + 0.0 * x  # NaN where x is infinite


def test_a_nan_where_the_slope_is_zero_is_wrong() -> None:
    x = torch.tensor([[0.5, -torch.inf, 1.0]], dtype=torch.float64, requires_grad=True)
    (verdict,) = verdicts(CarelessSoftmax.apply, x)
    assert verdict.outcome is Outcome.DISAGREE


# -- correct code that was once accused ----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
def test_batch_norm_over_two_values(seed: int) -> None:
    torch.manual_seed(seed)
    layer = nn.BatchNorm2d(200)
    x = (torch.randn(2, 200, 1, 1) * torch.logspace(-3, 2, 200).view(1, -1, 1, 1)).requires_grad_()
    found = verdicts(layer, x, **dict(layer.named_parameters()))
    assert [v.outcome for v in found] == [Outcome.AGREE]


def test_layer_norm_over_one_value() -> None:
    x = torch.tensor([[6.3], [-2.1], [0.4]], dtype=torch.float64, requires_grad=True)
    layer = nn.LayerNorm(1, dtype=torch.float64)
    found = verdicts(layer, x, **dict(layer.named_parameters()))
    assert [v.outcome for v in found] == [Outcome.AGREE]


@pytest.mark.parametrize("seed", range(20))
def test_saturated_tanh_of_few_elements(seed: int) -> None:
    x = (
        5 + torch.rand(2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    ).requires_grad_()
    assert [v.outcome for v in verdicts(torch.tanh, x)] == [Outcome.AGREE]


def test_zeros_that_torch_never_wrote_are_zeros() -> None:
    filler = torch.full((20, 20), 7.0)  # what the memory of an unwritten tensor may hold
    x = torch.randn(20, 20, generator=torch.Generator().manual_seed(0)).requires_grad_()
    del filler
    assert [v.outcome for v in verdicts(torch.sgn, x)] == [Outcome.AGREE]


# -- elements at kinks are one choice together ---------------------------------------------------------------------


def custom(forward: Callable[..., Tensor], backward: Callable[..., Any]) -> Callable[..., Tensor]:
    class Custom(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *given: Tensor) -> Tensor:
            ctx.save_for_backward(*given)
            return forward(*given)

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Any:
            return backward(g, *ctx.saved_tensors)

    return Custom.apply


def tied(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def highest(x: Tensor) -> Tensor:
    return (x == x.amax(-1, keepdim=True)).to(x.dtype)


def only_first(g: Tensor, x: Tensor) -> Tensor:
    return torch.zeros_like(x).scatter(0, x.argmax(keepdim=True), g)


@pytest.mark.parametrize("values", [(2.0, 2.0, 1.0), (1.0,) * 32, (0.0, 0.0), (-3.0, -3.0, -3.0, -4.0)])
@pytest.mark.parametrize("share", [1.0, 0.0, 0.75])
def test_the_whole_gradient_to_each_of_a_tie_is_wrong(values: tuple[float, ...], share: float) -> None:
    function = custom(torch.amax, lambda g, x: g * share * highest(x))
    (verdict,) = verdicts(function, tied(*values))
    assert verdict.outcome is Outcome.DISAGREE
    assert "together" in verdict.testimonies[0].reason


def test_a_tie_in_each_row() -> None:
    x = torch.tensor([[2.0, 2.0, 1.0], [3.0, 3.0, 3.0]], dtype=torch.float64, requires_grad=True)
    (wrong,) = verdicts(custom(lambda x: x.amax(-1), lambda g, x: g[:, None] * highest(x)), x)
    assert wrong.outcome is Outcome.DISAGREE
    shared = custom(
        lambda x: x.amax(-1), lambda g, x: g[:, None] * highest(x) / highest(x).sum(-1, keepdim=True)
    )
    (right,) = verdicts(shared, x)
    assert right.outcome is Outcome.AGREE


@pytest.mark.parametrize("slope", [1.5, 8.0])
def test_a_slope_outside_is_wrong_where_perturbed_arguments_jump_over_the_kink(slope: float) -> None:
    """x and y are perturbed each by itself, so the noise of |x - y| is as large as the gradient where they are equal."""
    backward = lambda g, x, y: (s := g * torch.where(x == y, slope, (x - y).sign()), -s)
    y = torch.tensor([2.0, 0.5, 1.0], dtype=torch.float64)
    (verdict,) = verdicts(lambda x: custom(lambda x, y: (x - y).abs(), backward)(x, y), tied(2.0, 1.0, 1.0))
    assert verdict.outcome is Outcome.DISAGREE


@pytest.mark.parametrize(
    "function",
    [
        custom(torch.amax, only_first),
        custom(torch.amax, lambda g, x: g * highest(x) / highest(x).sum()),
        custom(torch.relu, lambda g, x: g * (x >= 0)),
        custom(lambda x: x.abs().sum(), lambda g, x: g * torch.where(x < 0, -1.0, 1.0).double()),
        custom(lambda x: x.norm(), lambda g, x: torch.where(x.norm() > 0, g * x / x.norm(), 0.0)),
        torch.amax,
        torch.amin,
        torch.median,
        torch.max,
        lambda x: x.max(0).values,
        lambda x: x.sort().values,
        lambda x: x.sort(descending=True, stable=True).values,
        lambda x: x.topk(2).values,
        lambda x: x.kthvalue(2).values,
        lambda x: x.cummax(0).values,
        lambda x: x.norm(p=torch.inf),
        lambda x: torch.maximum(x, x.detach()),
        torch.relu,
        torch.abs,
        lambda x: torch.nn.functional.max_pool1d(x[None], 2),
        lambda x: torch.nn.functional.hardtanh(x, -2.0, 2.0),
    ],
)
@pytest.mark.parametrize("values", [(2.0, 2.0, 1.0, 2.0), (0.0,) * 5, (-1.0, -1.0, -1.0)])
def test_a_choice_among_ties_is_right(function: Callable[..., Tensor], values: tuple[float, ...]) -> None:
    found = verdicts(function, tied(*values))
    assert [v.outcome for v in found] == [Outcome.AGREE] * len(found)


def test_a_power_of_negative_numbers_is_not_excused() -> None:
    wrong = custom(lambda x: x**3, lambda g, x: 3 * x * x.relu() * g)
    (verdict,) = verdicts(wrong, tied(-1.5, -0.5, 2.0, 0.7))
    assert verdict.outcome is Outcome.DISAGREE

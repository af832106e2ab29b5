"""Gradients at ties are looked at together, also those of several inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import Function

from gradcheck_suite import Report, check_gradients
from gradcheck_suite.witnesses.joint_choice import one_choice

F64 = torch.float64
LEFT, RIGHT = torch.tensor([1.0, 2.0, 3.0, 0.5], dtype=F64), torch.tensor([1.0, 1.0, 3.0, 4.0], dtype=F64)


def custom(forward: Callable[..., Any], backward: Callable[..., Any]) -> Callable[..., Tensor]:
    class Custom(Function):
        @staticmethod
        def forward(ctx: Any, *given: Tensor) -> Any:
            ctx.save_for_backward(*given)
            return forward(*given)

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Any:
            return backward(g, *ctx.saved_tensors)

    return Custom.apply


def maximum(first: float, second: float) -> Callable[..., Tensor]:
    """Gives so much of the gradient to each where both are equal."""
    return custom(
        torch.maximum,
        lambda g, a, b: (g * ((a > b) + first * (a == b)), g * ((b > a) + second * (a == b))),
    )


def checked(function: Callable[..., Tensor], *inputs: Tensor) -> Report:
    return check_gradients(lambda *x: function(*x) * 2, inputs)


@pytest.mark.parametrize("dtype", [F64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("first", "second"), [(1, 1), (0, 0), (0.5, 0), (0.9, 0.5)])
def test_shares_that_do_not_add_up_are_wrong(dtype: torch.dtype, first: float, second: float) -> None:
    report = checked(maximum(first, second), LEFT.to(dtype), RIGHT.to(dtype))
    (finding,) = report.errors
    assert finding.code == "GC101"
    assert "together" in finding.message


@pytest.mark.parametrize("dtype", [F64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("first", "second"), [(1, 0), (0, 1), (0.5, 0.5), (0.25, 0.75)])
def test_shares_that_add_up_are_right_and_noted(dtype: torch.dtype, first: float, second: float) -> None:
    report = checked(maximum(first, second), LEFT.to(dtype), RIGHT.to(dtype))
    assert report.ok, str(report)
    assert {f.code for f in report.findings} <= {"GC604", "GC190"}
    if (first, second) != (0.5, 0.5):  # which is the engine's choice too
        assert "GC604" in {f.code for f in report.findings}


def test_many_ties_are_sampled() -> None:
    torch.manual_seed(0)
    a, b = torch.randint(0, 3, (2, 400), dtype=F64)
    assert [f.code for f in checked(maximum(1, 1), a, b).errors] == ["GC101"]
    assert checked(maximum(1, 0), a, b).ok


def permuted(x: Tensor) -> Tensor:
    """Positions that sort, where of equal numbers the last comes first."""
    return x.shape[-1] - 1 - x.flip(-1).sort(dim=-1, stable=True).indices


@pytest.mark.parametrize(
    "rows", [[[1.0, 1.0, 0.0], [2.0, 2.0, 2.0]], [[1.0] * 7], [[0.0, 1.0, 1.0, 0.0, 1.0]]]
)
def test_any_order_of_ties_is_right(rows: list[list[float]]) -> None:
    x = torch.tensor(rows, dtype=F64)
    right = custom(lambda x: x.sort(-1).values, lambda g, x: torch.zeros_like(x).scatter(-1, permuted(x), g))
    report = checked(right, x)
    assert report.ok, str(report)
    wrong = custom(lambda x: x.sort(-1).values, lambda g, x: g.gather(-1, permuted(x) * 0))
    assert [f.code for f in checked(wrong, x).errors] == ["GC101"]


def test_more_ties_than_can_be_looked_at_are_left_open() -> None:
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(300, dtype=F64, generator=generator) * 3).round()
    right = custom(
        lambda x: x.sort(stable=True).values, lambda g, x: torch.zeros_like(x).scatter(0, permuted(x), g)
    )
    report = checked(right, x)
    assert not report.errors, str(report)
    assert any("too many" in u.reason for u in report.unverified)


@pytest.mark.parametrize(
    "select",
    [
        lambda x: x.max(-1).values,
        lambda x: x.min(-1, keepdim=True).values,
        lambda x: x.kthvalue(2, -1).values,
        lambda x: x.median(-1).values,
        lambda x: x.topk(2, -1).values,
        lambda x: x.sort(-1, descending=True).values,
        lambda x: x.cummax(-1).values,
        lambda x: x.cummin(-1).values,
        lambda x: x.gather(-1, x.argmax(-1, keepdim=True)),
        lambda x: x.gather(-1, x.argmin(-1, keepdim=True)),
    ],
)
def test_selections_beside_a_tie_are_made_again(select: Callable[[Tensor], Tensor]) -> None:
    """What torch's own backward gives is right at ties, with its elements in the opposite order too."""

    def backward(g: Tensor, x: Tensor) -> Tensor:
        with torch.enable_grad():
            mirrored = x.flip(-1).detach().requires_grad_()
            (found,) = torch.autograd.grad(select(mirrored), mirrored, g)
        return found.flip(-1)

    x = torch.tensor([[2.0, 2.0, 1.0, 1.0], [3.0, 0.0, 3.0, 3.0]], dtype=F64)
    if "cum" in str(select.__code__.co_names):
        x = torch.tensor(
            [[2.0, 1.0, 3.0, 0.0]], dtype=F64
        )  # the mirror of a running extremum is another function
        backward = lambda g, x: torch.autograd.functional.vjp(select, x, g)[1]
    report = checked(custom(select, backward), x)
    assert not report.errors, str(report)


def test_a_median_that_no_single_element_moves() -> None:
    def shared(g: Tensor, x: Tensor) -> Tensor:
        middle = (x == x.median(-1, keepdim=True).values).to(g.dtype)
        return middle / middle.sum(-1, keepdim=True) * g[..., None]

    x = torch.tensor([[1.0, 1.0, 0.0], [2.0, 2.0, 2.0]], dtype=F64)
    report = checked(custom(lambda x: x.median(-1).values, shared), x)
    assert report.ok, str(report)
    twice = custom(lambda x: x.median(-1).values, lambda g, x: 2 * shared(g, x))
    assert not checked(twice, x).ok


def test_nothing_is_said_without_neighbours() -> None:
    class Local:
        around = None
        gradients = (np.ones(2),)

    found = one_choice(Local(), {0: np.ones(2)}, {0: np.ones(2)}, {0: np.array([0])}, 1e-16)  # type: ignore[arg-type]
    assert found is None


class PooledFunction(torch.autograd.Function):
    """Max pooling of two by two whose gradient goes to equal elements in equal parts, or whole to each of them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, whole: bool) -> Tensor:
        pooled = torch.nn.functional.max_pool2d(x, 2)
        ctx.save_for_backward(x, pooled)
        ctx.whole = whole
        return pooled

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, pooled = ctx.saved_tensors
        wide = pooled.repeat_interleave(2, -1).repeat_interleave(2, -2)
        chosen = (x == wide).to(x.dtype)
        among = torch.nn.functional.avg_pool2d(chosen, 2) * (1 if ctx.whole else 4)
        each = (g / (1 if ctx.whole else among)).repeat_interleave(2, -1).repeat_interleave(2, -2)
        return each * chosen, None


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_pooling_may_share_a_tie_and_not_multiply_it(dtype: torch.dtype) -> None:
    x = torch.zeros(1, 2, 4, 4, dtype=dtype)
    x[0, 0, 0, 0] = x[0, 0, 1, 1] = x[0, 1, 2, 3] = 1.0
    shared = check_gradients(lambda x: PooledFunction.apply(x, False), x.clone())
    assert not shared.errors, str(shared)
    whole = check_gradients(lambda x: PooledFunction.apply(x, True), x.clone())
    assert [finding.code for finding in whole.errors] == ["GC101"], str(whole)

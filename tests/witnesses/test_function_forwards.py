"""Custom Functions whose forward is written in ways that a recording must not lose: each right, then wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gradcheck_suite import Severity, check_gradients
from gradcheck_suite.evidence import NodeVerdict, Outcome
from gradcheck_suite.witnesses.engine import check_node
from gradcheck_suite.witnesses.fallback import fallback_for
from gradcheck_suite.witnesses.torch_reverse import record_reverse

Operation = Callable[[Tensor], Tensor]


def function_of(operation: Operation, spoil: Operation = lambda g: g) -> type[torch.autograd.Function]:
    """The operation as a Function that returns torch's gradient of it, spoilt."""

    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        ctx.state = torch.get_rng_state()
        return operation(x)

    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        with torch.enable_grad(), torch.random.fork_rng(devices=()):
            torch.set_rng_state(ctx.state)
            leaf = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(operation(leaf), leaf, cotangent)
        return spoil(gradient)

    methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    return type("Function", (torch.autograd.Function,), methods)


def verdict(
    operation: Operation, x: Tensor, spoil: Operation = lambda g: g, *, chained: bool = False
) -> NodeVerdict:
    """What is said of the Function; ``chained``: with operations of torch around it."""
    function = function_of(operation, spoil)

    def program(x: Tensor) -> Tensor:
        out: Tensor = function.apply(x * 1.5 if chained else x)
        return out.square() if chained else out

    run = record_reverse(program, (x,), {}, named_leaves={"x": x})
    node = next(n for n in run.trace.nodes.values() if n.function is not None)
    return check_node(node, run.probe, fallback=fallback_for(run.recorder, run.autograd_nodes))[0]


def one_element(gradient: Tensor) -> Tensor:
    """Wrong by 1e-6 in the largest element."""
    wrong = gradient.flatten().clone()
    wrong[wrong.abs().argmax()] *= 1 + 1e-6
    return wrong.reshape(gradient.shape)


def filled(x: Tensor) -> Tensor:
    out = torch.empty(4, 3, dtype=x.dtype)
    out[:2] = x.sin()
    out[2:] = x * 2
    return out


def filled_and_scaled(x: Tensor) -> Tensor:
    out = torch.zeros(3, 2, 3, dtype=x.dtype)
    for row, factor in enumerate((1.0, -2.0, 0.5)):
        out[row] = factor * x
    out.mul_(3.0)
    out[0, 0] += x[1]
    return out


def part_of_a_buffer(x: Tensor) -> Tensor:
    buffer = torch.empty(5, 3, dtype=x.dtype)
    out = buffer[1:3]
    buffer[0].zero_()
    buffer[1:3].copy_(x.exp())
    return out


def sparse(x: Tensor) -> Tensor:
    return (x * 3).to_sparse().to_dense() * x


def with_constants(x: Tensor) -> Tensor:
    return x * torch.scalar_tensor(2.0, dtype=x.dtype) + torch.full((3,), 0.5, dtype=x.dtype) * x


@pytest.mark.parametrize("chained", [False, True])
@pytest.mark.parametrize(
    "operation",
    [
        filled,
        filled_and_scaled,
        part_of_a_buffer,
        sparse,
        with_constants,
        lambda x: F.pad(x[None], (1, 1), mode="circular"),
        lambda x: torch.quantile(x, 0.3, dim=1),
        lambda x: F.rrelu(x, training=True),
    ],
    ids=[
        "filled",
        "filled and scaled",
        "part of a buffer",
        "sparse",
        "constants",
        "circular padding",
        "quantile",
        "rrelu",
    ],
)
def test_a_right_one_is_verified_and_a_wrong_one_is_found(operation: Operation, chained: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    right = verdict(operation, x, chained=chained)
    assert (right.outcome, right.how) == (Outcome.AGREE, "meaning"), right.testimonies
    assert verdict(operation, x, one_element, chained=chained).outcome is Outcome.DISAGREE
    assert verdict(operation, x, torch.neg, chained=chained).outcome is Outcome.DISAGREE


def test_rounding_of_a_long_sum_is_no_kink() -> None:
    """The one-sided differences of a linear operation differ by rounding: that excuses no error of 1e-6."""
    generator = torch.Generator().manual_seed(3)
    x = (10 * torch.randn(10, 5, generator=generator, dtype=torch.float64)).requires_grad_()
    index, source = torch.tensor([[0, 1, 2, 0, 1]]), torch.ones(1, 5, dtype=torch.float64)

    def operation(x: Tensor) -> Tensor:
        return x.scatter(0, index, source)

    for seed in range(20):

        def spoil(gradient: Tensor, seed: int = seed) -> Tensor:
            wrong = gradient.flatten().clone()
            wrong[20 + seed] *= 1 + 1e-6
            return wrong.reshape(gradient.shape)

        assert verdict(operation, x, spoil).outcome is Outcome.DISAGREE


def test_the_bits_of_a_number_are_not_taken_for_a_constant() -> None:
    def inverse_root(x: Tensor) -> Tensor:
        guess = (0x5F3759DF - (x.view(torch.int32) >> 1)).view(torch.float32)
        for _ in range(4):
            guess = guess * (1.5 - 0.5 * x * guess * guess)
        return guess

    class InverseRoot(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(out := inverse_root(x))
            return out

        @staticmethod
        def backward(ctx: Any, cotangent: Tensor) -> Tensor:
            (out,) = ctx.saved_tensors
            return -0.5 * out**3 * cotangent

    x = (torch.rand(5, generator=torch.Generator().manual_seed(0)) + 0.5).requires_grad_()
    run = record_reverse(InverseRoot.apply, (x,), {}, named_leaves={"x": x})
    node = next(n for n in run.trace.nodes.values() if n.function is not None)
    found, _ = check_node(node, run.probe, fallback=fallback_for(run.recorder, run.autograd_nodes))
    assert found.outcome is not Outcome.DISAGREE


# -- forwards of torch that are less precise than the engine's -----------------------------------------------------


def test_an_imprecise_forward_is_differentiated_numerically() -> None:
    """torch's trigamma has ten digits: the engine's value differs, and differences of torch's own forward decide."""
    x = torch.tensor([1.13, 2.05, 3.4, 0.7, 1.9], dtype=torch.float64, requires_grad=True)
    operation = lambda x: torch.polygamma(1, x)
    right = verdict(operation, x)
    assert (right.outcome, right.how) == (Outcome.AGREE, "numerical")
    for spoil in (torch.neg, lambda g: g / 2, lambda g: g.roll(1)):
        assert verdict(operation, x, spoil).outcome is Outcome.DISAGREE


def test_nobody_is_accused_of_the_imprecision_of_the_forward() -> None:
    """Its bessel functions have seven digits each, so one is the slope of the other to fewer."""
    x = torch.linspace(0.5, 9, 20, dtype=torch.float64).requires_grad_()
    assert verdict(torch.special.bessel_j0, x).outcome is not Outcome.DISAGREE
    assert verdict(torch.special.bessel_j0, x, torch.neg).outcome is Outcome.DISAGREE
    assert verdict(torch.special.bessel_j0, x, lambda g: 1.01 * g).outcome is Outcome.DISAGREE


@pytest.mark.parametrize("operation", [F.hardsigmoid, torch.digamma])
def test_a_known_defect_of_torch_is_no_error_of_the_function_that_inherits_it(operation: Operation) -> None:
    x = torch.tensor([1.13, 2.05, 0.4, 0.7, 1.9], dtype=torch.float64, requires_grad=True)
    for spoil, severity in ((lambda g: g, Severity.WARNING), (lambda g: 1.0001 * g, Severity.ERROR)):
        function = function_of(operation, spoil)
        report = check_gradients(lambda x, f=function: f.apply(x), x)
        assert [f.severity for f in report.findings if f.code == "GC101"] == [severity]

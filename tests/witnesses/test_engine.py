"""The engine's testimony about one node: what was delivered, what was returned, and when nothing can be said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import Function

from gradcheck_suite import check_gradients
from gradcheck_suite.evidence import NodeRecord, NodeVerdict, Outcome
from gradcheck_suite.witnesses.engine import check_node, worst
from gradcheck_suite.witnesses.sums import check_sums
from gradcheck_suite.witnesses.torch_reverse import ReverseRun, record_reverse


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def record(function: Callable[..., Any], *inputs: Tensor, **more: Any) -> ReverseRun:
    named = {f"x{i}": tensor.requires_grad_() for i, tensor in enumerate(inputs)}
    return record_reverse(function, inputs, {}, named_leaves=named, **more)


def node_of(run: ReverseRun, name: str) -> NodeRecord:
    (node,) = [n for n in run.trace.nodes.values() if n.name == name]
    return node


def verdict_of(run: ReverseRun, name: str, probe: bool = True) -> NodeVerdict:
    return check_node(node_of(run, name), run.probe if probe else None)[0]


class Scaled(Function):
    """``2 x``, with a backward that multiplies by ``factor`` and adds ``offset``."""

    factor = 2.0
    offset = 0.0

    @classmethod
    def with_(cls, factor: float, offset: float = 0.0) -> type[Scaled]:
        made: type[Scaled] = type("Made", (cls,), {"factor": factor, "offset": offset})
        return made

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @classmethod
    def backward(cls, ctx: Any, g: Tensor) -> Tensor:
        return g * cls.factor + cls.offset


def test_the_worst_of_several() -> None:
    assert worst([]) is Outcome.AGREE
    assert worst([Outcome.AGREE, Outcome.INCONCLUSIVE]) is Outcome.INCONCLUSIVE
    assert worst([Outcome.DISAGREE, Outcome.INCONCLUSIVE]) is Outcome.DISAGREE


def test_a_zero_cotangent_says_nothing_and_is_asked_again() -> None:
    run = record(lambda x: Scaled.with_(3).apply(x * 1) * 0, draw(3))
    assert verdict_of(run, "MadeBackward", probe=False).outcome is Outcome.INCONCLUSIVE
    verdict = verdict_of(run, "MadeBackward")
    assert verdict.outcome is Outcome.DISAGREE
    assert "random cotangent" in verdict.testimonies[0].reason
    right = record(lambda x: Scaled.with_(2).apply(x * 1) * 0, draw(3))
    assert verdict_of(right, "MadeBackward").outcome is Outcome.AGREE


def test_a_gradient_out_of_nothing_is_wrong() -> None:
    run = record(lambda x: Scaled.with_(2, offset=0.5).apply(x * 1) * 0, draw(3))
    verdict = verdict_of(run, "MadeBackward", probe=False)
    assert verdict.outcome is not Outcome.AGREE
    assert verdict_of(run, "MadeBackward").outcome is Outcome.DISAGREE


@pytest.mark.parametrize("function", [torch.relu, torch.abs, lambda x: x.clamp(0, 1), nn.functional.hardtanh])
def test_any_slope_between_those_of_a_kink_is_right(function: Callable[[Tensor], Tensor]) -> None:
    run = record(lambda x: function(x) * 3, torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64))
    for node in run.trace.nodes.values():
        if node.role != "leaf":
            assert check_node(node, run.probe)[0].outcome is Outcome.AGREE


def test_none_for_a_gradient_that_is_owed() -> None:
    class Nothing(Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x * 2

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> None:
            return None

    verdict = verdict_of(record(lambda x: Nothing.apply(x * 1) + x, draw(3)), "NothingBackward")
    assert verdict.outcome is Outcome.DISAGREE
    assert "None" in verdict.testimonies[0].reason


def test_an_unknown_forward_is_open_and_says_why() -> None:
    class Outside(Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return torch.from_numpy(x.detach().numpy() * 2)

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return g * 2

    verdict = verdict_of(record(lambda x: Outside.apply(x) * 1, draw(3)), "OutsideBackward")
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.testimonies[0].reason


def test_a_finite_difference_confirms_an_accusation() -> None:
    verdict = verdict_of(record(lambda x: Scaled.with_(3).apply(x * 1).sum(), draw(3)), "MadeBackward")
    testimony = verdict.testimonies[0]
    assert testimony.comparison is not None
    assert testimony.value == pytest.approx(testimony.comparison.expected)
    assert testimony.comparison.actual == pytest.approx(1.5 * testimony.comparison.expected)


def test_sums_at_fan_outs_and_leaves() -> None:
    run = record(lambda x: x.sin() * x + x.exp().sum(), draw(3))
    sums = check_sums(run.trace, run.trace.leaf_gradients)
    assert len(sums) >= 5
    assert {t.outcome for t in sums.values()} == {Outcome.AGREE}
    ((leaf, key),) = run.trace.leaves.items()
    gradient = run.trace.leaf_gradients[leaf]
    assert gradient is not None
    gradient.array()[1] += 0.25
    wrong = {
        place
        for place, t in check_sums(run.trace, run.trace.leaf_gradients).items()
        if t.outcome is not Outcome.AGREE
    }
    assert wrong == {(key, 0)}


def test_a_small_error_beside_a_kink_is_no_choice() -> None:
    """A difference over a step that crosses a tie shows a kink; the gradient is the engine's choice and an error."""

    class Largest(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x)
            return x.max(1).values

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
            (x,) = ctx.saved_tensors
            chosen = torch.nn.functional.one_hot(x.argmax(1), x.shape[1]) * grad[:, None]
            chosen[0] *= 1 + 1e-6
            return chosen

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 6, dtype=torch.float64, generator=generator) + 1e5
    assert not check_gradients(Largest.apply, (x,)).ok
    assert check_gradients(lambda x: x.max(1).values, (x,)).ok


@pytest.mark.filterwarnings("error")
def test_numbers_that_are_not_finite_say_nothing_through_warnings() -> None:
    x = torch.full((2, 14), 1e30, requires_grad=True)
    run = record_reverse(lambda x: x.prod(1), (x,), {}, named_leaves={"x": x})
    for node in run.trace.nodes.values():
        check_node(node)

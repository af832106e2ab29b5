"""Random programs of views and writes in place: every node, every sum and the free-running replay agree with torch.

Where torch itself refuses (a saved tensor was overwritten, a view cannot be written to), a program says nothing.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from programs import VALUES, VIEWS, WRITES, Instruction, programs, run_program

from gradcheck_suite.evidence import Outcome
from gradcheck_suite.witnesses.engine import check_node
from gradcheck_suite.witnesses.replay import check_replay
from gradcheck_suite.witnesses.sums import check_sums
from gradcheck_suite.witnesses.torch_reverse import ReverseRun, record_reverse

QUIET = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
)


def start(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, 4, dtype=torch.float64, generator=generator).requires_grad_()


def step(name: str, a: int = 0, b: int = 0, p: int = 0, q: int = 0) -> Instruction:
    return Instruction(name, a, b, p, q)


def disagreements(run: ReverseRun) -> list[str]:
    """What any witness says but agreement."""
    found = []
    for node in run.trace.nodes.values():
        if node.role != "leaf" and node.ran:
            verdict, _ = check_node(node, run.probe)
            found += [
                f"{node.name} ({node.role}): {t.outcome.value} {t.reason}"
                for t in verdict.testimonies
                if t.outcome is not Outcome.AGREE
            ]
    sums = check_sums(run.trace, run.trace.leaf_gradients).values()
    replay = check_replay(run.trace)
    if replay.reason:
        found.append(f"replay: {replay.reason}")
    for testimony in (*sums, *replay.gradients.values(), *replay.outputs):
        if testimony.outcome is not Outcome.AGREE:
            found.append(f"{testimony.witness}, {testimony.subject}: {testimony.outcome.value}")
    return found


@QUIET
@given(program=programs, seed=st.integers(0, 3))
# Programs that were once accused, or could not be explained.
@example(
    [step("slice"), step("slice"), step("transpose_")], 0
)  # a view's node made anew by a metadata change
@example([step("slice"), step("slice"), step("sub_")], 0)  # a view written with itself
@example([step("slice"), step("slice", q=0), step("zero_")], 0)  # a base that is tracked and constant
@example([step("slice"), step("detach"), step("copy_", a=1)], 0)
@example([step("cat"), step("slice"), step("add_ number")], 0)  # a base that no later operation reads
@example([step("slice"), step("movedim"), step("sin_")], 0)  # noise of a value without dimensions
@example([step("slice"), step("under no_grad", p=1)], 0)  # written behind autograd's back
@example([step("slice"), step("detached twin"), step("mul_ number")], 0)
def test_every_witness_agrees(program: list[Instruction], seed: int) -> None:
    x = start(seed)
    try:
        output = run_program(program, x)
        (gradient,) = torch.autograd.grad(output, x)
    except RuntimeError:
        assume(False)
    assume(bool(torch.isfinite(gradient).all()) and float(gradient.abs().max()) < 1e6)
    x = start(seed)
    before = x.detach().clone()
    run = record_reverse(lambda t: run_program(program, t), (x,), {}, named_leaves={"x": x})
    assert torch.equal(x, before)
    recorded = run.gradients["x"]
    assert recorded is not None
    torch.testing.assert_close(recorded / run.cotangents[0], gradient, rtol=1e-9, atol=1e-11)
    assert not disagreements(run)


@pytest.mark.slow
@settings(QUIET, max_examples=2000)
@given(program=programs, seed=st.integers(0, 3))
def test_every_witness_agrees_on_many_more(program: list[Instruction], seed: int) -> None:
    test_every_witness_agrees.hypothesis.inner_test(program, seed)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", [*VIEWS, *WRITES, *VALUES])
def test_every_instruction_runs_by_itself(name: str) -> None:
    """Otherwise the property would never see it."""
    x = start(0)
    run = record_reverse(
        lambda t: run_program([step("clone"), step(name, b=1, p=1)], t), (x,), {}, named_leaves={"x": x}
    )
    assert not disagreements(run)


def test_twin_a_wrong_backward_is_seen_by_the_same_means() -> None:
    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
            return x * 2

        @staticmethod
        def backward(ctx: object, g: torch.Tensor) -> torch.Tensor:
            return g * 3

    x = start(0)
    run = record_reverse(lambda t: Doubled.apply(t * 1)[1:].sum(), (x,), {}, named_leaves={"x": x})
    assert any("DoubledBackward" in text for text in disagreements(run))

"""GC601 under ``watch``: the first operation that made a gradient NaN or Inf, and silence where that is dealt with."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradcheck_suite import watch
from gradcheck_suite.evidence import Severity


def loud(session: Any) -> list[Any]:
    assert session.internal_errors == []
    return [f for f in session.report.findings if f.severity > Severity.NOTE]


class Careless(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return g * 2 * x * (x / x)


def root(x: Tensor) -> Tensor:
    return torch.sqrt(x * x)  # blame root


def arc(x: Tensor) -> Tensor:
    return torch.acos(x + 1)  # blame arc


def power(x: Tensor) -> Tensor:
    return (x * x) ** 0.25  # blame power


def logarithm(x: Tensor) -> Tensor:
    return torch.where(x > 0, torch.log(x.abs()), x)  # blame logarithm


def quotient(x: Tensor) -> Tensor:
    return torch.where(x == 0, x, x / x)  # blame quotient


def overflow(x: Tensor) -> Tensor:
    return (x + 100).exp()  # blame overflow


def masked(x: Tensor) -> Tensor:
    logs = F.log_softmax(x.masked_fill(torch.tensor([True, False, False]), float("-inf")), dim=-1)
    return -(logs.exp() * logs)  # blame masked


def all_masked(x: Tensor) -> Tensor:
    return F.softmax(x + torch.full((3,), float("-inf")), dim=-1)  # blame all_masked


def train(function: Any, *, warm_up: int = 0) -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for number in range(warm_up + 2):
        if number < warm_up:
            x = torch.rand(2, 3) + 1
            with torch.no_grad():
                model.weight.abs_()
                model.bias.abs_()
        else:
            x = torch.zeros(2, 3)
            with torch.no_grad():
                model.bias.zero_()
        optimizer.zero_grad()
        function(model(x)).sum().backward()
        optimizer.step()


def line_of(name: str) -> int:
    with open(__file__, encoding="utf-8") as file:
        return next(n for n, line in enumerate(file, 1) if line.rstrip().endswith(f"# blame {name}"))


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize(
    ("function", "said"),
    [
        (root, "slope of a root"),
        (arc, "slope at 1 and -1 is infinite"),
        (power, "power below 1"),
        (logarithm, "logarithm"),
        (quotient, "0 by 0"),
        (overflow, "exponential overflows"),
        (masked, "zero is NaN"),
        (all_masked, "everything is masked"),
    ],
)
def test_the_first_producer_is_named_and_explained(function: Any, said: str, verify: bool) -> None:
    with watch(verify=verify) as session:
        train(function)
    (finding,) = loud(session)
    assert finding.code == "GC601", str(session.report)
    assert finding.location.line == line_of(function.__name__)
    assert said in finding.message
    assert "operands: float32[2, 3]" in finding.message


def test_it_is_found_late_too_when_nothing_is_verified_any_more() -> None:
    with watch() as session:
        train(root, warm_up=6)
    (finding,) = loud(session)
    assert (finding.code, finding.location.line) == ("GC601", line_of("root"))
    assert finding.evidence["phase"] == "backward"


def test_a_custom_backward_is_named() -> None:
    with watch() as session:
        train(Careless.apply)
    assert "GC601" in {f.code for f in loud(session)}, str(session.report)
    (finding,) = [f for f in loud(session) if f.code == "GC601"]
    assert "Careless" in finding.message


def test_data_that_comes_in_with_nan_is_told_from_what_operations_make() -> None:
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(verify=False) as session:
        for value in (1.0, float("nan")):
            optimizer.zero_grad()
            model(torch.full((2, 3), value)).sum().backward()
            optimizer.step()
    (finding,) = loud(session)
    assert finding.code == "GC601"
    assert "was given float32[2, 3] with 6 NaN" in finding.message


def test_float16_says_where_it_ends() -> None:
    x = torch.full((3,), 200.0, dtype=torch.float16, requires_grad=True)
    with watch() as session:
        (x * 400 * 400).sum().backward()
    (finding,) = loud(session)
    assert finding.code == "GC601"
    assert "65,504" in finding.message


def test_a_gradient_that_is_only_looked_at_is_told_when_the_session_ends() -> None:
    def look() -> None:
        x = torch.zeros(3, requires_grad=True)
        (x * x).sqrt().sum().backward()

    with watch(verify=False) as session:
        look()
    assert [f.code for f in loud(session)] == ["GC601"]


def test_an_update_by_hand_uses_it() -> None:
    w = torch.zeros(3, requires_grad=True)
    with watch(verify=False) as session:
        (w * w).sqrt().sum().backward()
        with torch.no_grad():
            w -= 0.1 * w.grad
        w.grad = None
    assert [f.code for f in loud(session)] == ["GC601"]


def test_many_iterations_are_one_finding() -> None:
    with watch(verify=False) as session:
        train(root)
        train(root)
    assert [f.code for f in loud(session)] == ["GC601"]


# -- the innocent -----------------------------------------------------------------------------------------------


def masked_softmax(x: Tensor) -> Tensor:
    return F.softmax(x.masked_fill(torch.eye(2, 3, dtype=torch.bool), float("-inf")), dim=-1)


def additive_mask(x: Tensor) -> Tensor:
    return F.cross_entropy(x + torch.tensor([0.0, float("-inf"), 0.0]), torch.tensor([0, 2]))


def double_where(x: Tensor) -> Tensor:
    safe = torch.where(x > 0, x, torch.ones_like(x))
    return torch.where(x > 0, safe.log(), torch.zeros_like(x))


def norm_at_zero(x: Tensor) -> Tensor:
    return x.norm() + x.sum()


@pytest.mark.parametrize("function", [masked_softmax, additive_mask, double_where, norm_at_zero])
def test_masks_and_guards_are_left_alone(function: Any) -> None:
    with watch() as session:
        train(function)
    assert loud(session) == []


def scaled(step: Any) -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.Adam(model.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    for _ in range(8):
        optimizer.zero_grad()
        scaler.scale(model(torch.randn(4, 3)).pow(2).mean() * 100).backward()
        step(scaler, optimizer, model)
        scaler.update()
    assert scaler.get_scale() < 2.0**127


def unscaled_and_clipped(scaler: Any, optimizer: Any, model: nn.Module) -> None:
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    scaler.step(optimizer)


@pytest.mark.parametrize(
    "step", [lambda scaler, optimizer, model: scaler.step(optimizer), unscaled_and_clipped]
)
def test_a_gradient_scaler_knows_what_it_does(step: Any) -> None:
    with watch(verify=False) as session:
        scaled(step)
    assert loud(session) == []


def cleared_by_hand(model: nn.Module, optimizer: Any) -> None:
    if not all(bool(p.grad.isfinite().all()) for p in model.parameters()):
        for p in model.parameters():
            p.grad = None
    else:
        optimizer.step()


def mended(model: nn.Module, optimizer: Any) -> None:
    for p in model.parameters():
        p.grad.nan_to_num_(0.0, 0.0, 0.0)
    optimizer.step()


@pytest.mark.parametrize("deal", [cleared_by_hand, mended])
def test_a_spoilt_step_that_is_left_out_hurts_nobody(deal: Any) -> None:
    model = nn.Linear(3, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(verify=False) as session:
        for x in (torch.randn(2, 3), torch.zeros(2, 3), torch.randn(2, 3)):
            optimizer.zero_grad()
            (model(x) - model.bias).pow(2).sum(1).sqrt().sum().backward()
            deal(model, optimizer)
    assert loud(session) == []

"""Parameters that an optimizer holds and that never get a gradient (GC502, while a program trains)."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradcheck_suite import watch
from gradcheck_suite.evidence import Severity


def told(session: Any) -> list[Any]:
    assert session.internal_errors == []
    return [f for f in session.report.findings if f.severity > Severity.NOTE]


class Network(nn.Module):
    def __init__(self, cut: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.body, self.head, self.cut = nn.Linear(3, 4), nn.Linear(4, 1), cut

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.cut(self.body(x).tanh()))
        return out


def train(model: nn.Module, steps: int = 12, optimizer: torch.optim.Optimizer | None = None) -> None:
    optimizer = optimizer or torch.optim.Adam(model.parameters())
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(5, 3)).pow(2).mean().backward()
        optimizer.step()


@pytest.mark.parametrize("verify", [True, False])
def test_what_a_detach_cuts_off_is_named_with_the_cut(verify: bool) -> None:
    with watch(verify=verify) as session:
        train(Network(lambda hidden: hidden.detach()))
    (finding,) = told(session)
    assert (finding.code, finding.evidence["parameters"]) == ("GC502", ["body.weight", "body.bias"])
    assert "none of the 12 steps" in finding.message
    assert finding.location.function == "train"
    assert any("detach" in other.role for other in finding.related)


def test_a_body_under_no_grad_is_found_although_the_model_is_gone() -> None:
    alive: list[weakref.ref[Tensor]] = []

    def main() -> None:
        body, head = nn.Linear(3, 4), nn.Linear(4, 1)
        optimizer = torch.optim.SGD([*body.parameters(), *head.parameters()], lr=0.1)
        alive.append(weakref.ref(body.weight))
        for _ in range(15):
            optimizer.zero_grad()
            with torch.no_grad():
                hidden = body(torch.randn(5, 3))
            head(hidden).pow(2).mean().backward()
            optimizer.step()

    with watch(verify=False) as session:
        main()
        gc.collect()
        assert alive[0]() is None
    (finding,) = told(session)
    assert finding.code == "GC502"
    assert finding.evidence["elements"] == 16


def few_steps() -> None:
    train(Network(lambda hidden: hidden.detach()), steps=9)


def its_turn_comes_late() -> None:
    body, head = nn.Linear(3, 4), nn.Linear(4, 1)
    optimizer = torch.optim.SGD([*body.parameters(), *head.parameters()], lr=0.1)
    for step in range(24):
        optimizer.zero_grad()
        hidden = body(torch.randn(5, 3))
        head(hidden.detach() if step < 20 else hidden).pow(2).mean().backward()
        optimizer.step()


def frozen() -> None:
    model = Network(lambda hidden: hidden)
    model.body.requires_grad_(False)
    train(model)


def frozen_after_the_first_look() -> None:
    model = Network(lambda hidden: hidden.detach())
    optimizer = torch.optim.Adam(model.parameters())
    train(model, 11, optimizer)
    model.body.requires_grad_(False)
    train(model, 2, optimizer)


def gradients_by_hand() -> None:
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(12):
        gradients = torch.autograd.grad(model(torch.randn(5, 3)).pow(2).mean(), list(model.parameters()))
        for p, g in zip(model.parameters(), gradients):
            p.grad = g
        optimizer.step()


def held_by_nobody() -> None:
    features, head = nn.Linear(3, 3), nn.Linear(3, 1)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    for _ in range(12):
        with torch.no_grad():
            hidden = features(torch.randn(5, 3))
        optimizer.zero_grad()
        head(hidden).pow(2).mean().backward()
        optimizer.step()


def a_gate_that_begins_closed() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.gate = nn.Linear(3, 3), nn.Parameter(torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.gate * self.inner(x)

    train(Residual())


def closures() -> None:
    model = nn.Linear(3, 1)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=2)

    def closure() -> Any:
        optimizer.zero_grad()
        loss = model(torch.ones(5, 3)).pow(2).mean()
        loss.backward()
        return loss

    for _ in range(12):
        optimizer.step(closure)


@pytest.mark.parametrize(
    "innocent",
    [
        few_steps,
        its_turn_comes_late,
        frozen,
        frozen_after_the_first_look,
        gradients_by_hand,
        held_by_nobody,
        a_gate_that_begins_closed,
        closures,
    ],
)
def test_the_innocent_are_left_alone(innocent: Callable[[], None]) -> None:
    torch.manual_seed(0)
    with watch(verify=False) as session:
        innocent()
    assert told(session) == []


def test_many_steps_are_one_finding() -> None:
    body, head = nn.Linear(2, 2), nn.Linear(2, 1)
    optimizer = torch.optim.SGD([*body.parameters(), *head.parameters()], lr=0.0)
    x = torch.ones(1, 2)
    with watch(verify=False) as session:
        for _ in range(2_000):
            optimizer.zero_grad()
            head(body(x).detach()).sum().backward()
            optimizer.step()
    (finding,) = told(session)
    assert "none of the 2000 steps" in finding.message

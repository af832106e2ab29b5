"""GC503 and GC303: parameters that nobody trains and sums that nobody uses, also when the model is gone by the end."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradcheck_suite import watch
from gradcheck_suite.evidence import Severity


def told(session: Any) -> list[Any]:
    assert session.internal_errors == []
    return [f for f in session.report.findings if f.severity > Severity.NOTE or f.code == "GC303"]


class Hidden(nn.Module):
    def __init__(self, keep: Callable[[Any], Any]) -> None:
        super().__init__()
        self.layers = keep([nn.Linear(3, 3), nn.Linear(3, 3)])
        self.scales = {"one": nn.Parameter(torch.ones(3))}
        self.head = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x).tanh()
        return self.head(x * self.scales["one"])  # type: ignore[no-any-return]


def train(model: nn.Module, parameters: Any = None, *, loss: Any = None) -> None:
    optimizer = torch.optim.Adam(model.parameters() if parameters is None else parameters)
    for _ in range(3):
        model.zero_grad()
        (model(torch.randn(4, 3)).pow(2).mean() if loss is None else loss(model)).backward()
        optimizer.step()


def test_what_no_module_knows_is_counted_and_explained() -> None:
    with watch(verify=False) as session:
        train(Hidden(list))
    (finding,) = told(session)
    assert finding.code == "GC503"
    assert finding.evidence["elements"] == 2 * (9 + 3) + 3
    assert "no module that was called has it among its parameters()" in finding.message
    assert "nn.ModuleList" in finding.hint


def test_the_model_may_be_gone_and_nothing_of_it_is_kept() -> None:
    alive: list[weakref.ref[Any]] = []

    def main() -> None:
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
        alive.extend(weakref.ref(p) for p in model.parameters())
        train(model, model[1].parameters())

    with watch(verify=False) as session:
        main()
        gc.collect()
        assert [reference() for reference in alive] == [None] * 4
        main()
    (finding,) = told(session)
    assert finding.code == "GC503"
    assert finding.evidence["parameters"][:2] == ["0.weight", "0.bias"]


def a_head_of_its_own() -> None:
    body, head = nn.Linear(3, 3), nn.Linear(3, 1)
    train(body, loss=lambda m: head(m(torch.randn(4, 3))).pow(2).mean())


def a_layer_in_a_dictionary() -> None:
    layers, head = {"one": nn.Linear(3, 3)}, nn.Linear(3, 1)
    train(head, loss=lambda m: m(layers["one"](torch.randn(4, 3))).pow(2).mean())


def a_layer_that_came_later() -> None:
    layers, head = nn.ModuleList([nn.Linear(3, 3)]), nn.Linear(3, 1)
    optimizer = torch.optim.SGD([*layers.parameters(), *head.parameters()], lr=0.1)
    layers.append(nn.Linear(3, 3))
    for _ in range(4):
        x = torch.randn(4, 3)
        for layer in layers:
            x = layer(x).tanh()
        optimizer.zero_grad()
        head(x).pow(2).mean().backward()
        optimizer.step()


@pytest.mark.parametrize("loop", [a_head_of_its_own, a_layer_in_a_dictionary, a_layer_that_came_later])
def test_a_layer_that_is_called_by_itself_is_found_beside_those_that_are_trained(loop: Any) -> None:
    torch.manual_seed(0)
    with watch(verify=False) as session:
        loop()
    (finding,) = told(session)
    assert finding.code == "GC503"
    assert len(finding.evidence["parameters"]) == 2
    assert "no module that was called" not in finding.message


def a_network_that_judges() -> None:
    judge = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
    train(nn.Linear(3, 3), loss=lambda m: judge(m(torch.randn(4, 3))).pow(2).mean())


def frozen_features() -> None:
    features, head = nn.Linear(3, 3), nn.Linear(3, 1)
    features.requires_grad_(False)
    train(head, loss=lambda m: m(features(torch.randn(4, 3))).pow(2).mean())


def features_that_are_only_looked_through() -> None:
    features = nn.Linear(3, 3)
    picture = nn.Parameter(torch.randn(4, 3))
    optimizer = torch.optim.Adam([picture])
    for _ in range(3):
        optimizer.zero_grad()
        features(picture).pow(2).mean().backward()
        optimizer.step()


def moving_target() -> None:
    model = nn.Linear(3, 1)
    target = [nn.Parameter(p.detach().clone()) for p in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(4):
        optimizer.zero_grad()
        x = torch.randn(4, 3)
        (model(x) - F.linear(x, *target)).pow(2).mean().backward()
        optimizer.step()
        with torch.no_grad():
            for old, new in zip(target, model.parameters()):
                old.lerp_(new, 0.1)


def adversarial_training() -> None:
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        x = torch.randn(4, 3)
        delta = nn.Parameter(torch.zeros_like(x))
        for _ in range(3):
            model(x + delta).pow(2).mean().backward()
            assert delta.grad is not None
            delta.data = (delta.data + 0.1 * delta.grad.sign()).clamp(-0.3, 0.3)
            delta.grad = None
        optimizer.zero_grad()
        model(x + delta.detach()).pow(2).mean().backward()
        optimizer.step()


def gradient_penalty() -> None:
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        x = torch.randn(4, 3, requires_grad=True)
        out = model(x).sum()
        (slope,) = torch.autograd.grad(out, x, create_graph=True)
        optimizer.zero_grad()
        (out + slope.pow(2).sum()).backward()
        optimizer.step()


def an_optimizer_whose_turn_never_comes() -> None:
    actor, critic = nn.Linear(3, 2), nn.Linear(3, 1)
    both = nn.ModuleList([actor, critic])
    of_actor = torch.optim.SGD(actor.parameters(), lr=0.1)
    of_critic = torch.optim.SGD(critic.parameters(), lr=0.1)
    for _ in range(3):
        both.zero_grad()
        x = torch.randn(4, 3)
        (actor(x).mean() * critic(x).mean()).backward()
        of_actor.step()
    del of_critic


def whole_groups() -> None:
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for number in range(6):
        model(torch.randn(4, 3)).mean().backward()
        if number % 2:
            optimizer.step()
            optimizer.zero_grad()


def cleared_at_the_end() -> None:
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for number in range(8):
        model(torch.randn(4, 3)).mean().backward()
        if number % 3 == 2:
            optimizer.step()
            optimizer.zero_grad()
    for p in model.parameters():
        p.grad = None


@pytest.mark.parametrize(
    "innocent",
    [
        a_network_that_judges,
        frozen_features,
        features_that_are_only_looked_through,
        moving_target,
        adversarial_training,
        gradient_penalty,
        an_optimizer_whose_turn_never_comes,
        whole_groups,
        cleared_at_the_end,
    ],
)
def test_the_innocent_are_left_alone(innocent: Callable[[], None]) -> None:
    torch.manual_seed(0)
    with watch(verify=False) as session:
        innocent()
    assert told(session) == []


def test_noise_on_the_gradient_does_not_hide_that_it_was_not_cleared() -> None:
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(verify=False) as session:
        for _ in range(3):
            model(torch.randn(4, 3)).pow(2).mean().backward()
            for p in model.parameters():
                assert p.grad is not None
                p.grad += 0.01 * torch.randn_like(p.grad)
            optimizer.step()
    assert {f.code for f in told(session)} == {"GC301"}


def test_who_takes_the_old_gradient_off_again_knows_that_it_is_there() -> None:
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    old = [torch.zeros_like(p) for p in model.parameters()]
    with watch(verify=False) as session:
        for _ in range(3):
            model(torch.randn(4, 3)).pow(2).mean().backward()
            for p, before in zip(model.parameters(), old):
                assert p.grad is not None
                whole = p.grad.clone()
                p.grad -= before
                before.copy_(whole)
            optimizer.step()
            for p, before in zip(model.parameters(), old):
                assert p.grad is not None
                p.grad.copy_(before)
    assert told(session) == []


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_a_fused_step_is_no_work_on_the_gradient(kind: Any) -> None:
    model = nn.Linear(3, 1)
    optimizer = kind(model.parameters(), lr=0.1, fused=True)
    with watch(verify=False) as session:
        for _ in range(3):
            model(torch.randn(4, 3)).pow(2).mean().backward()
            optimizer.step()
    assert {f.code for f in told(session)} == {"GC301"}


@pytest.mark.parametrize("verify", [True, False])
def test_an_orthogonal_initialisation_does_not_blind_the_session(verify: bool) -> None:
    with watch(verify=verify) as session:
        layer = nn.Conv2d(2, 3, 3)
        nn.init.orthogonal_(layer.weight)
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        for _ in range(3):
            layer(torch.randn(1, 2, 5, 5)).pow(2).mean().backward()
            optimizer.step()
    assert {f.code for f in told(session)} == {"GC301"}

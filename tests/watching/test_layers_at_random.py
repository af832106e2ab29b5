"""Random programs over torch's layers: with their calls unseen, a session says what it says where each operation is recorded."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradcheck_suite import watch
from gradcheck_suite.watching import layers

LAYERS: list[Callable[[], nn.Module]] = [
    lambda: nn.Linear(8, 8),
    lambda: nn.Linear(8, 8, bias=False),
    nn.ReLU,
    lambda: nn.ReLU(inplace=True),
    nn.Tanh,
    nn.Sigmoid,
    lambda: nn.LayerNorm(8),
    lambda: nn.BatchNorm1d(8),
    lambda: nn.Dropout(0.3),
    lambda: nn.Dropout(0.3, inplace=True),
    nn.GELU,
    lambda: nn.SiLU(inplace=True),
    lambda: nn.LeakyReLU(0.1, inplace=True),
    lambda: nn.Softmax(-1),
    lambda: nn.ELU(inplace=True),
    nn.Softplus,
    nn.Flatten,
    nn.PReLU,
    nn.Identity,
]
FAULTS = (
    "none",
    "data",
    "in place",
    "no_grad",
    "numpy",
    "weight",
    "buffer",
    "twice",
    "stale",
    "eval",
    "frozen",
)


class Net(nn.Module):
    """A chain of layers that remembers what each made."""

    def __init__(self, draw: random.Random) -> None:
        super().__init__()
        self.layers = nn.ModuleList([draw.choice(LAYERS)() for _ in range(draw.randint(2, 6))])
        self.made: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.made = []
        for layer in self.layers:
            x = layer(x)
            self.made.append(x)
        return x


def _meddle(fault: str, net: Net, made: Tensor) -> None:
    if fault == "data":
        made.data.mul_(1.5)
    elif fault == "in place":
        made.add_(1)
    elif fault == "no_grad":
        with torch.no_grad():
            made.mul_(2)
    elif fault == "numpy":
        made.detach().numpy()[...] *= 1.3
    elif fault == "weight":
        for parameter in net.parameters():
            parameter.data.mul_(1.1)
    elif fault == "buffer":
        for buffer in net.buffers():
            if buffer.is_floating_point():
                buffer.mul_(1.1)


def run(seed: int) -> list[Any]:
    """Train for five steps, with one fault from the third on."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    net, head, loss = Net(draw), nn.Linear(8, 3), nn.CrossEntropyLoss()
    parameters = [*net.parameters(), *head.parameters()]
    optimizer = draw.choice([torch.optim.SGD, torch.optim.Adam])(parameters, lr=0.01)
    fault, place = draw.choice(FAULTS), draw.randrange(8)
    seen: list[Any] = []
    for step in range(5):
        if fault != "stale":
            optimizer.zero_grad()
        if fault == "eval":
            net.train(step % 2 == 0)
        if fault == "frozen" and step == 2:
            for parameter in net.parameters():
                parameter.requires_grad_(False)
        value = loss(head(net(torch.randn(6, 8))), torch.randint(3, (6,)))
        try:
            if step >= 2:
                _meddle(fault, net, net.made[place % len(net.made)])
            value.backward(retain_graph=fault == "twice")
            if fault == "twice":
                value.backward()
            optimizer.step()
        except RuntimeError as error:
            seen.append(str(error)[:60])
        seen.append(value.detach().clone())
    return [*seen, *(p.detach().clone() for p in parameters)]


def said(seed: int, *, verify: bool) -> tuple[list[Any], Any]:
    with watch(verify=verify) as session:
        results = run(seed)
    assert not session.internal_errors
    report = session.report
    findings = sorted((f.code, str(f.location), f.count, f.message) for f in report.findings)
    return results, (findings, sorted(map(str, report.unverified)), report.counts)


def same(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(
        a == b if isinstance(a, str) else torch.equal(torch.nan_to_num(a), torch.nan_to_num(b))
        for a, b in zip(one, other)
    )


@pytest.mark.slow
@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("seed", range(40))
def test_both_ways_say_the_same(seed: int, verify: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = run(seed)
        unseen, known = said(seed, verify=verify)
        monkeypatch.setattr(layers.KnownLayers, "template", lambda *_: None)
        recorded, seen = said(seed, verify=verify)
    assert same(plain, unseen)
    assert same(plain, recorded)
    assert known == seen

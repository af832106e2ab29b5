"""Values that leave the graph: which calls are exits, what a held run gives back, and when it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gradcheck_suite.capture.stops import StopGradients, StrayedError

X = torch.tensor([0.5, -1.0, 2.0], requires_grad=True)


class Inner(torch.autograd.Function):
    """Everything that cuts a graph, inside a Function's forward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        with torch.enable_grad():
            inner = x.detach().requires_grad_()
            value = inner * inner
        with torch.no_grad():
            value = value * 1.0
        return value.detach() * float(x.data.sum())

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        return cotangent


@torch.no_grad()
def decorated(x: Tensor) -> Tensor:
    return x * 2


def nested(x: Tensor) -> Tensor:
    with torch.no_grad():
        with torch.enable_grad():
            y = x * 2
        z = y * 3
    return y + z


def left_off(x: Tensor) -> Tensor:
    try:
        torch.set_grad_enabled(False)
        return x * 2
    finally:
        torch.set_grad_enabled(True)


def in_inference(x: Tensor) -> Tensor:
    with torch.inference_mode():
        y = x * 2
    return y.clone()


EXITS: dict[str, tuple[Callable[[Tensor], Any], set[str]]] = {
    "none": (lambda x: x.sin().sum(), set()),
    "detach": (lambda x: x.detach() * x, {"detach"}),
    "torch.detach": (lambda x: torch.detach(x) * x, {"detach"}),
    "detach_": (lambda x: (x * 2).detach_() * x, {"detach"}),
    "detach of a constant": (lambda x: torch.ones(3).detach() * x, set()),
    "no_grad": (decorated, {"no_grad"}),
    "nested": (nested, {"no_grad"}),
    "set_grad_enabled": (left_off, {"no_grad"}),
    "inference mode": (in_inference, {"no_grad"}),
    "shape under no_grad": (torch.no_grad()(lambda x: x.shape), set()),
    "item": (lambda x: x.sum().item() * x, {"number"}),
    "float": (lambda x: float(x[0]) * x, {"number"}),
    "list": (lambda x: torch.tensor(x.tolist()) * x, {"number"}),
    "data": (lambda x: x.data * x, {"data"}),
    "numpy": (lambda x: torch.from_numpy(x.detach().numpy() * 2) * x, {"detach", "numpy"}),
    "array": (lambda x: torch.tensor(np.exp(x.detach())) * x, {"detach", "numpy"}),
    "new_tensor": (lambda x: x.new_tensor(x) * x, {"function"}),
    "argmax": (lambda x: x[x.argmax()] * (x > 0).any(), set()),
    "gumbel": (lambda x: F.gumbel_softmax(x[None], hard=True), {"detach"}),
    "inside a Function": (Inner.apply, set()),
}


def recorded(function: Callable[[Tensor], Any], x: Tensor) -> tuple[StopGradients, Any]:
    stops = StopGradients()
    torch.manual_seed(0)
    with stops.recording():
        result = function(x)
    return stops, result


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", EXITS)
def test_exits(name: str) -> None:
    function, kinds = EXITS[name]
    stops, _ = recorded(function, X)
    assert {place.kind for place in stops.exits} == kinds
    assert all(place.location is not None and place.location.file == __file__ for place in stops.exits)
    assert torch.is_grad_enabled()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name, (_, kinds) in EXITS.items() if kinds])
def test_a_held_run_differs_from_a_free_one_only_in_what_is_held(name: str) -> None:
    function, _ = EXITS[name]
    stops, base = recorded(function, X)
    moved = (X.detach() + 0.25).requires_grad_()
    runs = []
    for held in (frozenset(), frozenset(range(len(stops.exits)))):
        stops.held = held
        torch.manual_seed(0)
        with stops.passing():
            function(moved)
        torch.manual_seed(0)
        with stops.holding():
            runs.append(function(moved))
    torch.manual_seed(0)
    assert torch.equal(runs[0], function(moved))
    if name in ("no_grad", "set_grad_enabled", "inference mode"):
        assert torch.equal(runs[1], base)  # nothing but what is held
    elif name != "gumbel":
        assert not torch.equal(runs[1], runs[0])


def test_numpy_sees_the_live_value_behind_a_held_detach() -> None:
    def function(x: Tensor) -> Tensor:
        constant = x.detach()
        return constant + torch.from_numpy(constant.numpy() * 2)

    stops, base = recorded(function, X)
    assert {place.kind: place.deliberate for place in stops.exits} == {"detach": True, "numpy": False}
    stops.held = frozenset(i for i, place in enumerate(stops.exits) if place.deliberate)
    moved = (X.detach() + 1).requires_grad_()
    assert stops.reads_arrays
    with stops.passing():
        function(moved)
    with stops.holding():
        assert torch.equal(function(moved), base + 2)


def test_in_place_writes_under_no_grad_are_held_in_place() -> None:
    average = torch.zeros(3)

    def function(x: Tensor) -> Tensor:
        with torch.no_grad():
            average.mul_(0.5).add_(x, alpha=0.5)
            average[0] = x[1]
        return average * x

    stops, _ = recorded(function, X)
    kept = average.clone()
    average.zero_()
    stops.held = frozenset(range(len(stops.exits)))
    moved = (X.detach() + 1).requires_grad_()
    with stops.holding():
        function(moved)
    assert torch.equal(average, kept)


def test_weights_that_are_projected_stay_leaves() -> None:
    def function(x: Tensor) -> Tensor:
        with torch.no_grad():
            x.clamp_(-10, 10)
        x.data.clamp_(-10, 10)
        return x * 2

    x = torch.tensor([1.0, 2.0], requires_grad=True)
    stops, _ = recorded(function, x)
    stops.held = frozenset(range(len(stops.exits)))
    moved = torch.tensor([3.0, 4.0], requires_grad=True)
    with stops.holding():
        result = function(moved)
    assert result.tolist() == [6.0, 8.0]


def test_a_detached_value_whose_memory_is_overwritten_is_noticed() -> None:
    def function(x: Tensor) -> Tensor:
        y = x * 2
        constant = y.detach()
        y.relu_()
        return constant + y

    assert recorded(function, X)[0].aliased
    assert not recorded(lambda x: x.detach() + x.relu(), X)[0].aliased


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (lambda x: x.detach()[:2] * x[:2], ""),
        (lambda x: x * 2, "fewer values"),
        (lambda x: x.detach() * x.detach(), "more values"),
        (lambda x: x.data * x, "was called where"),
        (lambda x: x.repeat(2).detach(), "came out where"),
    ],
)
def test_another_course_is_refused(other: Callable[[Tensor], Tensor], why: str) -> None:
    stops, _ = recorded(lambda x: x.detach() * x, X)
    stops.held = frozenset({0})
    if not why:
        with stops.holding():
            other(X)
        assert not stops.strayed
        return
    with pytest.raises(StrayedError, match=why), stops.holding():
        other(X)
    assert stops.strayed


def test_exceptions_pass_through() -> None:
    def function(x: Tensor) -> Tensor:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        recorded(function, X)

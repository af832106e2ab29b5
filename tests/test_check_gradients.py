"""``check_gradients``: everything is left as it was, whatever happens inside; bad input gets an error that helps."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from gradcheck_suite import GradientError, check_gradients, surrogate_gradient
from gradcheck_suite.errors import (
    ConfigurationError,
    GradcheckError,
    InputError,
    ModelError,
    NothingToVerifyError,
)
from gradcheck_suite.evidence import Outcome


class Changing(nn.Module):
    """Changes whatever a model can change: buffers, its input, random states, modes, its own attributes."""

    def __init__(self, fail: str = "") -> None:
        super().__init__()
        self.fail = fail
        self.first = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)
        self.dropout = nn.Dropout(0.3)
        self.second = nn.Linear(4, 2)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.steps += 1
        self.calls += 1
        np.random.rand()
        random.random()
        if self.fail == "forward":
            raise ValueError("on purpose")
        if self.fail == "interrupt":
            raise KeyboardInterrupt
        y = self.dropout(self.norm(self.first(x)))
        if self.fail == "grad mode":
            torch.set_grad_enabled(False)
            raise ValueError("on purpose")
        return Failing.apply(self.second(y)) if self.fail == "backward" else self.second(y)


class Failing(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        raise ValueError("on purpose")


def hooks_of_the_process() -> tuple[Any, ...]:
    modules = torch.nn.modules.module
    return (
        dict(modules._global_forward_hooks),
        dict(modules._global_forward_pre_hooks),
        dict(modules._global_backward_hooks),
        torch.Tensor.register_hook,
        torch.autograd._engine_run_backward,  # type: ignore[attr-defined]
        torch.autograd.graph._engine_run_backward,
        list(_get_current_dispatch_mode_stack()),
    )


def state_of(model: nn.Module, x: Tensor) -> dict[str, Any]:
    return {
        "tensors": {k: v.detach().clone() for k, v in model.state_dict().items()},
        "identities": {k: id(v) for k, v in model.named_parameters()},
        "requires": {k: v.requires_grad for k, v in model.named_parameters()},
        "grads": {k: None if v.grad is None else v.grad.clone() for k, v in model.named_parameters()},
        "modes": {k: m.training for k, m in model.named_modules()},
        "hooks": {k: (len(m._forward_hooks), len(m._backward_hooks)) for k, m in model.named_modules()},
        "input": (x.clone(), x.requires_grad, x.grad, x._version),
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state()[1].copy(),
        "python": random.getstate(),
        "grad mode": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "process": hooks_of_the_process(),
    }


def assert_equal(before: Any, after: Any, path: str = "") -> None:
    if isinstance(before, dict):
        assert before.keys() == after.keys(), path
        for key in before:
            assert_equal(before[key], after[key], f"{path}/{key}")
    elif isinstance(before, (tuple, list)):
        assert len(before) == len(after), path
        for number, (one, other) in enumerate(zip(before, after)):
            assert_equal(one, other, f"{path}/{number}")
    elif isinstance(before, Tensor):
        assert torch.equal(before, after), path
    elif isinstance(before, np.ndarray):
        assert np.array_equal(before, after), path
    else:
        assert before == after, path


def prepared(fail: str = "") -> tuple[Changing, Tensor]:
    torch.manual_seed(1)
    model = Changing(fail)
    model.first.bias.requires_grad_(False)
    model.norm.eval()
    model.first.weight.grad = torch.full((4, 3), 7.0)
    return model, torch.randn(6, 3)


@pytest.mark.parametrize("grad_mode", [True, False])
def test_everything_is_as_it_was(grad_mode: bool) -> None:
    model, x = prepared()
    with torch.set_grad_enabled(grad_mode):
        before = state_of(model, x)
        report = check_gradients(model, x)
        assert_equal(before, state_of(model, x))
    assert report.ok, str(report)
    assert model.calls == 0
    assert {g.name for g in report.gradients} >= {"first.weight", "second.bias", "inputs[0]"}


@pytest.mark.parametrize(
    ("fail", "error"),
    [
        ("forward", ModelError),
        ("grad mode", ModelError),
        ("backward", ModelError),
        ("loss", ModelError),
        ("interrupt", KeyboardInterrupt),
    ],
)
def test_everything_is_as_it_was_after_a_failure(fail: str, error: type[BaseException]) -> None:
    model, x = prepared(fail)

    def raising(_: Any) -> Tensor:
        raise ValueError("on purpose")

    before = state_of(model, x)
    with pytest.raises(error) as caught:
        check_gradients(model, x, loss=raising if fail == "loss" else None)
    assert_equal(before, state_of(model, x))
    if error is ModelError:
        assert isinstance(caught.value, GradcheckError)
        assert "ValueError: on purpose" in str(caught.value)
        assert isinstance(caught.value.__cause__, ValueError)
    assert check_gradients(nn.Linear(3, 2), x).ok, "the next check works"


def test_everything_is_as_it_was_when_an_input_is_written_to() -> None:
    def writes(x: Tensor) -> Tensor:
        y = x.mul_(2) if not x.requires_grad else x * 2
        return y.sin()

    x = torch.randn(3)
    before = x.clone()
    check_gradients(lambda a, w: writes(a.detach()) * w, (x, torch.randn(3)))
    assert torch.equal(x, before)


def test_the_same_seed_gives_the_same_report() -> None:
    model, x = prepared()
    one, other = (check_gradients(copy.deepcopy(model), x, seed=3) for _ in range(2))
    assert [g.scale for g in one.gradients] == [g.scale for g in other.gradients]
    assert [v.outcome for v in one.nodes] == [v.outcome for v in other.nodes]


# -- what can be asked -----------------------------------------------------------------------------------------------


def test_a_loss_takes_the_place_of_the_projection() -> None:
    report = check_gradients(nn.Linear(3, 2), torch.randn(4, 3), loss=lambda y: y.square().mean())
    assert report.ok
    assert any("<lambda>" in note for note in report.notes)


def test_wrt_chooses_by_name_and_pattern() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    assert {g.name for g in check_gradients(model, torch.randn(5, 3), wrt="*.weight").gradients} == {
        "0.weight",
        "2.weight",
    }


def test_frozen_parameters_and_integers_are_left_out() -> None:
    class Picks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(5, 3)
            self.scale = nn.Parameter(torch.ones(3), requires_grad=False)

        def forward(self, index: Tensor, mask: Tensor, nothing: None = None) -> Tensor:
            return (self.table(index) * self.scale)[mask]

    report = check_gradients(Picks(), (torch.tensor([1, 2]), torch.tensor([True, False]), None))
    assert report.ok
    assert [g.name for g in report.gradients] == ["table.weight"]


def test_surrogates_are_declared_by_class_or_by_the_caller() -> None:
    class Straight(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.round()

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return g

    def model(x: Tensor, w: Tensor) -> Tensor:
        return Straight.apply(x * 3) + w.sin()

    inputs = (torch.randn(4, 3), torch.randn(4, 3))
    assert not check_gradients(model, inputs).ok
    report = check_gradients(model, inputs, surrogates=(Straight,))
    assert report.ok
    assert any("surrogate" in entry.reason for entry in report.unverified)
    outcomes = {g.name: g.outcome for g in report.gradients}
    assert outcomes == {"inputs[0]": Outcome.INCONCLUSIVE, "inputs[1]": Outcome.AGREE}
    assert not check_gradients(model, inputs).ok, "the declaration ends with the call"
    surrogate_gradient("straight-through")(Straight)
    assert check_gradients(model, inputs).ok


def test_ignored_rules_are_silent_and_counted() -> None:
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x * 2

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return g * 3

    x = torch.randn(3)
    report = check_gradients(lambda x: Wrong.apply(x), x)
    with pytest.raises(GradientError) as caught:
        report.raise_for_findings()
    assert caught.value.report is report
    quiet = check_gradients(lambda x: Wrong.apply(x), x, ignore=("GC101",))
    assert not quiet.errors
    assert not quiet.ok, "nothing was verified"
    assert quiet.counts["suppressed"] >= 1


# -- bad input -------------------------------------------------------------------------------------------------------


def identity(x: Tensor) -> Tensor:
    return x * 2


BAD: dict[str, tuple[type[Exception], Callable[[], Any], str]] = {
    "not callable": (ModelError, lambda: check_gradients(3, torch.ones(2)), "int"),  # type: ignore[arg-type]
    "no differentiable output": (
        NothingToVerifyError,
        lambda: check_gradients(lambda x: x.argmax(), torch.randn(3)),
        "",
    ),
    "no tensor at all": (NothingToVerifyError, lambda: check_gradients(lambda x: "text", torch.randn(3)), ""),
    "nothing requires grad": (
        NothingToVerifyError,
        lambda: check_gradients(lambda i: i * 2, torch.arange(3)),
        "",
    ),
    "a detached output": (
        NothingToVerifyError,
        lambda: check_gradients(lambda x: x.detach(), torch.randn(3)),
        "",
    ),
    "NaN in the input": (
        InputError,
        lambda: check_gradients(identity, torch.tensor([1.0, float("nan")])),
        "NaN",
    ),
    "wrong shape": (ModelError, lambda: check_gradients(nn.Linear(3, 2), torch.randn(4, 5)), "float32[4, 5]"),
    "too few arguments": (
        ModelError,
        lambda: check_gradients(lambda x, y: x * y, torch.randn(3)),
        "TypeError",
    ),
    "another device": (
        InputError,
        lambda: check_gradients(nn.Linear(3, 2), torch.randn(4, 3, device="meta")),
        "meta",
    ),
    "wrt that matches nothing": (
        InputError,
        lambda: check_gradients(nn.Linear(3, 2), torch.randn(4, 3), wrt="wieght"),
        "wieght",
    ),
    "inputs that cannot be inferred": (InputError, lambda: check_gradients(lambda x: x * 2), "inputs="),
    "an order that is not there": (
        ConfigurationError,
        lambda: check_gradients(identity, torch.ones(2), order=7),
        "order=7",
    ),
    "a backend that is not there": (
        ConfigurationError,
        lambda: check_gradients(identity, torch.ones(2), backends=("tpu",)),
        "tpu",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_an_error_that_helps(name: str) -> None:
    error, call, fact = BAD[name]
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    assert isinstance(caught.value, GradcheckError)
    assert " failed: " in message
    assert fact in message
    assert message.rstrip()[-1] in ".)", message
    assert len(message) > 60, "it says the facts and the next step"


def test_a_surrogate_that_is_no_class_is_refused() -> None:
    with pytest.raises((TypeError, GradcheckError), match="surrogate"):
        check_gradients(identity, torch.ones(2), surrogates=("Straight",))  # type: ignore[arg-type]

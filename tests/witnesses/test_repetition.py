"""Runs that cannot be repeated: the operation and the line that differ first."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gradcheck_suite import Finding, check_gradients

CALLS: Iterator[int] = itertools.count()
HERE = Path(__file__).read_text(encoding="utf-8").splitlines()


def found(function: Callable[..., Any]) -> Finding:
    report = check_gradients(function, torch.linspace(0.5, 2, 12).reshape(4, 3))
    (finding,) = [f for f in report.findings if f.code == "GC106"]
    assert finding.location is not None
    assert HERE[finding.location.line - 1].endswith("# differs")
    return finding


def a_number(x: Tensor) -> Tensor:
    step = 1 + next(CALLS) * 1e-6
    y = x.sin()
    return y * torch.tensor(step)  # differs


def an_array(x: Tensor) -> Tensor:
    y = x.sin()
    noise = y.detach().numpy() * np.float32(1 + next(CALLS) * 1e-6)
    return y + torch.from_numpy(noise)  # differs


def a_factor(x: Tensor) -> Tensor:
    y = x.sin() * (1 + next(CALLS) * 1e-6)  # differs
    return y.exp()


def beside_unwritten_memory(x: Tensor) -> Tensor:
    start = x.new_empty(4, 3).detach()
    held = start.view(3, 4).detach()
    start.fill_(1.0)
    return x * start * held.sum() * (1 + next(CALLS) * 1e-6)  # differs


def every_other_time(x: Tensor) -> Tensor:
    if next(CALLS) % 2:
        return x.cos()
    return x.sin()  # differs


@pytest.mark.parametrize(
    ("function", "op"), [(a_factor, "aten::mul.Tensor"), (beside_unwritten_memory, "aten::mul.Tensor")]
)
def test_the_first_operation_is_named(function: Callable[..., Any], op: str) -> None:
    assert found(function).op == op


@pytest.mark.parametrize("function", [a_number, an_array])
def test_a_value_from_outside_is_told(function: Callable[..., Any]) -> None:
    assert "outside of torch" in found(function).message


def test_what_alternates_is_found_although_every_second_run_is_equal() -> None:
    global CALLS
    CALLS = itertools.count()
    report = check_gradients(every_other_time, torch.linspace(0.5, 2, 12))
    (finding,) = [f for f in report.findings if f.code == "GC106"]
    assert finding.location is not None
    assert finding.op in ("aten::sin", "aten::cos")


def backward_from_other_memory(x: Tensor) -> Tensor:
    scale = np.ones((4, 3), dtype=np.float32)
    y = x * torch.from_numpy(scale)  # differs

    def overwrite(_: Tensor) -> None:
        scale[:] = 1 + next(CALLS) * 1e-3

    y.register_hook(overwrite)
    return y * 2


def test_the_node_of_the_backward_that_differs_first_is_named() -> None:
    finding = found(backward_from_other_memory)
    assert finding.op == "MulBackward0"
    assert "the gradient of inputs[0] differs between two runs" in finding.message


def test_a_hook_that_differs_is_told_without_an_operation() -> None:
    def hooked(x: Tensor) -> Tensor:
        y = x.sin()
        y.register_hook(lambda g: g * (1 + next(CALLS) * 1e-3))
        return y * 2

    report = check_gradients(hooked, torch.linspace(0.5, 2, 12))
    (finding,) = [f for f in report.findings if f.code == "GC106"]
    assert finding.op == ""
    assert "gradient" in finding.message


def test_a_backward_with_seeded_noise_repeats_itself() -> None:
    class Noisy(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return g + torch.randn_like(g)

    report = check_gradients(Noisy.apply, torch.linspace(0.5, 2, 12))
    assert not [f for f in report.findings if f.code == "GC106"]

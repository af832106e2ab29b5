"""Lists of tensors and fake quantisation: in a model, in place, and against what torch returns in float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gradcheck_suite import check_gradients
from gradcheck_suite.aten import lookup
from gradcheck_suite.aten.quantization import STRAIGHT_THROUGH
from gradcheck_suite.engine import Tensor, grad

from .calls import to_array, to_engine
from .foreach_calls import BOUNDS, fake_quantize_calls, foreach_calls
from .presence import excuse, present_overload

QUANTIZED = sorted(fake_quantize_calls())


def test_every_overload_of_this_torch_has_a_meaning() -> None:
    missing = [
        name
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("aten::_foreach_") and not name.endswith("out") and lookup(name) is None
    ]
    assert missing == []


def test_every_meaning_of_this_family_has_a_call() -> None:
    assert {f"aten::{name}" for name in QUANTIZED} == STRAIGHT_THROUGH
    assert len(foreach_calls()) > 75


@pytest.mark.parametrize("name", QUANTIZED)
def test_gradients_of_fake_quantisation_are_straight_through(name: str) -> None:
    overload, meaning = present_overload(f"aten::{name}"), lookup(f"aten::{name}")
    assert meaning is not None
    for args, _ in fake_quantize_calls()[name]:
        learnable = (0, 1, 2) if "learnable" in name else (0,)
        leaves = [a.clone().requires_grad_(i in learnable) if isinstance(a, torch.Tensor) and a.is_floating_point() else a
                  for i, a in enumerate(args)]  # fmt: skip
        out = overload(*[a.clone() if i not in learnable and isinstance(a, torch.Tensor) else a
                         for i, a in enumerate(leaves)])  # fmt: skip
        outputs = out if isinstance(out, tuple) else (out,)
        pull = torch.randn_like(outputs[0])
        expected = torch.autograd.grad(outputs[0], [leaves[i] for i in learnable], pull)
        mine: list[Any] = [to_engine(a.detach() if isinstance(a, torch.Tensor) else a) for a in args]
        for i in learnable:
            mine[i] = Tensor(mine[i].data, requires_grad=True)
        result = meaning.function(*mine, recorded=tuple(to_array(o) for o in outputs))
        value = result[0] if isinstance(result, tuple) else result
        np.testing.assert_allclose(value.data, to_array(outputs[0]), atol=1e-6)
        found = grad(value, [mine[i] for i in learnable], to_engine(pull), allow_unused=True)
        for ours, theirs in zip(found, expected):
            assert ours is not None
            np.testing.assert_allclose(ours.data, to_array(theirs).reshape(ours.shape), rtol=2e-5, atol=2e-5)


def updated(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """One step of an optimizer with momentum, differentiated through."""
    parameters, momenta = [x * 1, y * 1], [x.sin(), y.cos()]
    torch._foreach_mul_(momenta, 0.9)
    torch._foreach_add_(momenta, parameters, alpha=0.1)
    torch._foreach_addcdiv_(parameters, momenta, torch._foreach_add(torch._foreach_exp([x, y]), 1.0), -0.1)
    return sum(torch._foreach_norm(parameters))


def test_a_step_over_lists_of_tensors_is_verified_by_meanings() -> None:
    report = check_gradients(updated, (torch.randn(3), torch.randn(2, 2)))
    assert report.ok, str(report)
    assert report.counts["nodes_meaning"] == report.counts["nodes"]
    assert not report.unverified


@pytest.mark.parametrize("suffix", ["Tensor", "Scalar"])
def test_powers_in_place(suffix: str) -> None:
    def model(x: torch.Tensor) -> torch.Tensor:
        return (x.exp() * 1).pow_(x if suffix == "Tensor" else 3).sum()

    report = check_gradients(model, torch.randn(4))
    assert report.counts["nodes_meaning"] == report.counts["nodes"]


class Quantized(nn.Module):
    def __init__(self, learned: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.scale = nn.Parameter(torch.tensor([0.05])) if learned else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.linear(x)
        if self.scale is None:
            return torch.fake_quantize_per_tensor_affine(y, 0.05, 0, -8, 7).sin()
        zero = torch.zeros(1)
        return torch._fake_quantize_learnable_per_tensor_affine(y, self.scale, zero, -8, 7, 0.5).sin()


@pytest.mark.parametrize("learned", [False, True])
def test_training_through_fake_quantisation_is_not_accused(learned: bool) -> None:
    torch.manual_seed(0)
    report = check_gradients(Quantized(learned), torch.randn(5, 4))
    assert report.ok, str(report)
    assert {"linear.weight", "linear.bias"} <= {g.name for g in report.verified}


def test_bounds_by_tensors_share_the_gradient_of_equals() -> None:
    same = torch.ones(3, dtype=torch.float64)
    for name in BOUNDS:
        meaning = lookup(f"aten::_foreach_{name}.List")
        if meaning is None or excuse(f"aten::_foreach_{name}.List") is not None:
            continue
        x, y = (Tensor(same.numpy(), requires_grad=True) for _ in range(2))
        (out,) = meaning.function([x], [y])
        assert [g.data.tolist() for g in grad(out.sum(), [x, y])] == [[0.5] * 3] * 2

"""Which outputs are differentiable, and the projection that makes a scalar of them."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, namedtuple
from types import SimpleNamespace

import pytest
import torch

from gradcheck_suite.capture.outputs import differentiable_outputs, output_tensors, random_projection
from gradcheck_suite.errors import NothingToVerifyError

Pair = namedtuple("Pair", "first second")


@dataclasses.dataclass
class Result:
    logits: torch.Tensor
    loss: torch.Tensor | None = None


def leaf(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, requires_grad=True) * 2


@pytest.mark.parametrize(
    ("build", "paths"),
    [
        (lambda a, b: a, ["output"]),
        (lambda a, b: (a, b), ["output[0]", "output[1]"]),
        (lambda a, b: [a, [b]], ["output[0]", "output[1][0]"]),
        (lambda a, b: {"x": a, 3: b}, ["output['x']", "output[3]"]),
        (lambda a, b: OrderedDict(z=a, y=(b,)), ["output['z']", "output['y'][0]"]),
        (lambda a, b: Pair(a, b), ["output.first", "output.second"]),
        (lambda a, b: Result(a), ["output.logits"]),
        (lambda a, b: Result(a, b), ["output.logits", "output.loss"]),
        (lambda a, b: SimpleNamespace(mean=a, inner=Result(b)), ["output.mean", "output.inner.logits"]),
        (lambda a, b: (a, a, b), ["output[0]", "output[2]"]),
        (lambda a, b: (a, b.detach(), torch.arange(3), "text", None, 3), ["output[0]"]),
        (
            lambda a, b: torch.distributions.Normal(a, b.exp(), validate_args=False),
            ["output.loc", "output.scale"],
        ),
    ],
)
def test_paths(build, paths: list[str]) -> None:
    assert [path for path, _ in differentiable_outputs(build(leaf(3), leaf(3)))] == paths


def test_model_output_of_transformers() -> None:
    outputs = pytest.importorskip("transformers.modeling_outputs")
    result = outputs.BaseModelOutput(last_hidden_state=leaf(3), hidden_states=(leaf(2), leaf(2)))
    assert [p for p, _ in differentiable_outputs(result)] == [
        "output['last_hidden_state']",
        "output['hidden_states'][0]",
        "output['hidden_states'][1]",
    ]


def test_a_cycle_ends() -> None:
    loop: list[object] = [leaf(2)]
    loop.append(loop)
    assert len(output_tensors(loop)) == 1


def test_depth_does_not_overflow() -> None:
    deep: object = leaf(1)
    for _ in range(5000):
        deep = [deep]
    assert len(differentiable_outputs(deep)) == 1


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (3.0, r"type float and holds no tensor\. .*Return a tensor"),
        (torch.arange(3), r"output is int64\[3\]: its dtype has no gradient"),
        (
            leaf(3).detach(),
            r"output is float32\[3\]: requires_grad is False: it was detached.*Look for detach\(\)",
        ),
        ({"a": torch.zeros(0, requires_grad=True)}, r"output\['a'\] is float32\[0\]: it has no elements"),
    ],
)
def test_nothing_to_verify(output: object, message: str) -> None:
    with pytest.raises(
        NothingToVerifyError, match=f"^looking for a differentiable output failed: .*{message}"
    ):
        differentiable_outputs(output)


def test_nothing_to_verify_under_no_grad() -> None:
    with (
        torch.no_grad(),
        pytest.raises(NothingToVerifyError, match="Gradient mode is off where the check runs"),
    ):
        differentiable_outputs(torch.ones(3, requires_grad=True) * 2)
    with torch.inference_mode():
        made = torch.ones(3)
    with pytest.raises(NothingToVerifyError, match="made in inference mode"):
        differentiable_outputs(made)


def test_projection_is_random_repeatable_and_fits() -> None:
    outputs = differentiable_outputs(
        (leaf(4, 5), leaf(3).to(torch.complex64), leaf(2).half(), leaf(2).double())
    )
    first, again, other = (random_projection(outputs, seed) for seed in (1, 1, 2))
    for (_, tensor), a, b, c in zip(outputs, first, again, other):
        assert (a.shape, a.dtype) == (tensor.shape, tensor.dtype)
        assert torch.equal(a, b)
        assert not torch.equal(a, c)
        assert len(set(a.flatten().tolist())) == a.numel()  # not the ones of .sum()
        assert not a.requires_grad
    assert bool((first[1].imag != 0).all())


def test_no_output_dominates() -> None:
    outputs = [("a", torch.randn(100) * 1e9), ("b", torch.randn(10) * 1e-6), ("c", torch.zeros(3))]
    parts = [float((c * t).norm()) for c, (_, t) in zip(random_projection(outputs, 0), outputs)]
    assert 0.1 < parts[0] / parts[1] < 10
    alone = random_projection(outputs[:1], 0)[0]
    assert 0.5 < float(alone.std()) < 2  # a sole output is not scaled, however large


def test_half_precision_cotangents_do_not_underflow() -> None:
    outputs = [("a", torch.full((50,), 6e4).half()), ("b", torch.full((50,), 1e-7).half())]
    assert all(float((c != 0).float().mean()) == 1.0 for c in random_projection(outputs, 0))


def test_non_finite_outputs_do_not_break_the_scale() -> None:
    outputs = [("a", torch.tensor([float("inf"), 1.0])), ("b", torch.tensor([float("nan")]))]
    assert all(torch.isfinite(c).all() for c in random_projection(outputs, 0))

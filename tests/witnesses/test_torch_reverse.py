"""The defendant: one recorded forward and backward, and nodes that can be asked again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gradcheck_suite import check_gradients
from gradcheck_suite.errors import InputError, ModelError, NothingToVerifyError
from gradcheck_suite.witnesses.torch_reverse import ReverseRun, record_reverse


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def run_of(model: nn.Module, x: Tensor, **more: Any) -> ReverseRun:
    leaves = {**dict(model.named_parameters()), "x": x.requires_grad_()}
    return record_reverse(model, (x,), {}, named_leaves=leaves, modules=[model], **more)


def two_layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def test_gradients_are_those_of_torch() -> None:
    model, x = two_layers(), draw(5, 3)
    run = run_of(model, x)
    ((path, output),) = run.outputs
    assert path == "output"
    expected = torch.autograd.grad(output, list(run.leaves.values()), run.cotangents, retain_graph=True)
    for gradient, (name, found) in zip(expected, run.gradients.items()):
        assert found is not None, name
        assert torch.equal(gradient, found)
    assert list(run.leaves) == ["0.weight", "0.bias", "2.weight", "2.bias", "x"]
    assert all(p.grad is None for p in model.parameters())


def test_the_projection_is_random_and_repeatable() -> None:
    one, other, third = (run_of(two_layers(), draw(5, 3), seed=s).cotangents[0] for s in (1, 1, 2))
    assert torch.equal(one, other)
    assert not torch.equal(one, third)
    assert len(one.unique()) == one.numel()


def test_every_node_ran_and_knows_what_it_received() -> None:
    run = run_of(two_layers(), draw(5, 3))
    for node in run.trace.nodes.values():
        if node.role != "leaf":
            assert node.ran
            assert node.cotangents[0] is not None
    assert {n.module for n in run.trace.nodes.values() if n.role == "op"} == {"0", "1", "2"}


def test_a_node_can_be_asked_again() -> None:
    run = run_of(two_layers(), draw(5, 3))
    (node,) = [n for n in run.trace.nodes.values() if n.name == "TanhBackward0"]
    asked = run.probe(node, seed=4)
    assert asked is not None
    (cotangent,), (gradient,) = asked
    assert cotangent is not None
    assert gradient is not None
    assert node.outputs[0] is not None
    tanh = node.outputs[0].source.array()
    np.testing.assert_allclose(gradient.array(), cotangent.array() * (1 - tanh**2), rtol=1e-12)


def test_leaves_that_are_neither_parameter_nor_input_are_numbered() -> None:
    hidden = torch.ones(3, dtype=torch.float64, requires_grad=True)
    x = draw(3).requires_grad_()
    run = record_reverse(lambda x: x * hidden, (x,), {}, named_leaves={"x": x})
    assert list(run.leaves) == ["x", "other[1]"]


def test_what_is_not_reached_is_named() -> None:
    model = two_layers()
    model.extra = nn.Linear(2, 2).double()
    x = draw(5, 3).requires_grad_()
    leaves = {**dict(model.named_parameters()), "x": x}
    run = record_reverse(lambda x: model[2](model[1](model[0](x))), (x,), {}, named_leaves=leaves)
    assert list(run.unreached) == ["extra.weight", "extra.bias"]


def test_patterns_select_and_an_unknown_one_is_refused() -> None:
    assert list(run_of(two_layers(), draw(5, 3), wrt=["*.bias", "x"]).gradients) == ["0.bias", "2.bias", "x"]
    with pytest.raises(InputError, match="wieght"):
        run_of(two_layers(), draw(5, 3), wrt=["wieght"])


def test_what_raises_is_named_and_kept_as_the_cause() -> None:
    with pytest.raises(ModelError, match=r"float64\[5, 4\]") as caught:
        run_of(two_layers(), draw(5, 4))
    assert isinstance(caught.value.__cause__, RuntimeError)
    with pytest.raises(NothingToVerifyError):
        record_reverse(lambda: torch.ones(3), (), {}, named_leaves={})


def test_a_cotangent_that_a_backward_overwrites_is_kept() -> None:
    class Rude(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x * 2

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return g.mul_(2)

    x = draw(3).requires_grad_()
    run = record_reverse(Rude.apply, (x,), {}, named_leaves={"x": x})
    given = run.cotangents[0].numpy()
    np.testing.assert_array_equal(run.trace.roots[0].cotangent.array(), given)
    found = run.gradients["x"]
    assert found is not None
    np.testing.assert_allclose(found.numpy(), 2 * given)


def test_brackets_in_a_name_are_no_set_of_characters() -> None:
    a, b = torch.ones(2, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    report = check_gradients(lambda a, b: a * b.sum(), (a, b), wrt="inputs[0]")
    assert [gradient.name for gradient in report.gradients] == ["inputs[0]"]
    report = check_gradients(lambda a, b: a * b.sum(), (a, b), wrt="inputs*")
    assert [gradient.name for gradient in report.gradients] == ["inputs[0]", "inputs[1]"]

"""The free-running replay: histories that share one memory, stops, Functions, and what it cannot compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gradcheck_suite.replay import run_free
from gradcheck_suite.witnesses.torch_reverse import ReverseRun, record_reverse


class Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return a * b

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        a, b = ctx.saved_tensors
        return g * b, g * a


def record(function: Callable[..., Any], **leaves: Tensor) -> ReverseRun:
    for leaf in leaves.values():
        leaf.requires_grad_()
    return record_reverse(lambda: function(**leaves), (), {}, named_leaves=leaves)


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(7))


def new_leaf(x: Tensor) -> Tensor:
    y = x * 2
    d = y.detach().requires_grad_()
    return (y * d).sum() + (y.sin() * d.detach()).sum()


def written_through_twin(x: Tensor) -> Tensor:
    y = x * 2
    y.detach().mul_(3)
    return y.sin()


def written_under_no_grad(x: Tensor) -> Tensor:
    y = x * 2
    row = y[0]
    with torch.no_grad():
        row.mul_(3)
    return y.sin() + row


def tracked_later(x: Tensor) -> Tensor:
    buffer = torch.zeros(4, 3, dtype=x.dtype)
    buffer[1] = 2.0
    buffer[2] += x[0]
    return buffer.exp() * x


HISTORIES = {
    "a new leaf in the same memory": new_leaf,
    "written through a detached twin": written_through_twin,
    "written under no_grad": written_under_no_grad,
    "a buffer that becomes tracked": tracked_later,
    "detach": lambda x: x * x.detach(),
    "Function of a constant": lambda x: Product.apply(x * 1, (x * 1).detach()),
    "Function of chunks": lambda x: Product.apply(*(x * 1).chunk(2, 0)),
    "Function of one tensor twice": lambda x: Product.apply(x, x),
}


@pytest.mark.parametrize("name", HISTORIES)
def test_follows_the_history_that_autograd_follows(name: str) -> None:
    run = record(HISTORIES[name], x=draw(4, 3))
    free = run_free(run.trace)
    assert not free.missing
    expected = run.gradients["x"]
    assert expected is not None
    found = free.gradients["x"]
    assert found is not None
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-12, atol=1e-14)


def test_says_where_two_histories_cannot_be_told_apart() -> None:
    def twins(x: Tensor) -> Tensor:
        y = x * 2
        return Product.apply(y, y.view_as(y))

    free = run_free(record(twins, x=draw(4, 3)).trace)
    assert any("look at the same memory with different histories" in why for why in free.missing.values())


def test_noise_is_measured_at_the_asked_size() -> None:
    run = record(lambda x: (x.sin() * x).sum(), x=draw(4, 3))
    exact, noisy, again = (run_free(run.trace, eps=eps, seed=1).gradients["x"] for eps in (None, 1e-6, 1e-6))
    assert exact is not None
    assert noisy is not None
    assert again is not None
    assert 1e-8 < np.abs(noisy - exact).max() < 1e-4
    np.testing.assert_array_equal(noisy, again)


def test_a_leaf_that_is_its_own_output() -> None:
    x = draw(3).requires_grad_()
    run = record_reverse(lambda t: (t, t * 2), (x,), {}, named_leaves={"x": x})
    found = run_free(run.trace).gradients["x"]
    expected = run.gradients["x"]
    assert found is not None
    assert expected is not None
    np.testing.assert_allclose(found, expected.numpy())

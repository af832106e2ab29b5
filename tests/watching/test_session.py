"""``watch``: sees every backward inside, changes nothing, leaves nothing behind."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack
from torch.utils.checkpoint import checkpoint

from gradcheck_suite import watch
from gradcheck_suite.watching import Ledger


class Wrong(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * 3


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2))


def train(model: nn.Module, steps: int, wrong: bool = False) -> list[Tensor]:
    torch.manual_seed(1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        output = model(torch.randn(5, 3))
        loss = (Wrong.apply(output) if wrong else output).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return losses


def patches() -> tuple[Any, ...]:
    hooks = torch.nn.modules.module
    return (
        torch.autograd._engine_run_backward,  # type: ignore[attr-defined]
        torch.autograd.graph._engine_run_backward,
        torch.Tensor.register_hook,
        torch.Tensor.backward,
        torch.autograd.backward,
        torch.autograd.grad,
        torch.optim.Optimizer.step,
        torch.optim.Optimizer.zero_grad,
        dict(hooks._global_forward_hooks),
        dict(hooks._global_forward_pre_hooks),
        list(_get_current_dispatch_mode_stack()),
        torch.is_grad_enabled(),
    )


def test_training_goes_on_as_without_it_bit_for_bit() -> None:
    plain = train(network(), 5)
    with watch() as session:
        watched = train(network(), 5)
    assert all(torch.equal(a, b) for a, b in zip(plain, watched))
    report = session.report
    assert not session.internal_errors
    assert report.ok, str(report)
    assert report.counts["backwards"] == 5
    assert {g.name for g in report.gradients} == {"0.weight", "0.bias", "3.weight", "3.bias"}


def test_a_wrong_backward_is_found_wherever_it_runs() -> None:
    with watch() as session:
        train(network(), 2, wrong=True)
    codes = {f.code for f in session.report.errors}
    assert codes == {"GC101"}
    (location,) = {f.location.line for f in session.report.errors if f.location is not None}
    assert location > 0


def test_equal_nodes_are_verified_a_bounded_number_of_times() -> None:
    with watch() as short:
        train(network(), 3)
    with watch() as long:
        train(network(), 30)
    assert short.report.counts["nodes"] <= long.report.counts["nodes"] <= 2 * short.report.counts["nodes"]
    shared = Ledger()
    for _ in range(3):
        with watch(shared=shared) as session:
            train(network(), 3)
    assert session.report.counts["nodes"] == 0


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_nothing_stays_behind_also_after_an_exception(error: type[BaseException]) -> None:
    def failing() -> None:
        with watch():
            train(network(), 1)
            raise error

    before = patches()
    with pytest.raises(error):
        failing()
    assert patches() == before


def test_an_error_of_torch_goes_through_as_it_is() -> None:
    def overwriting() -> None:
        with watch():
            x = torch.ones(3, requires_grad=True)
            y = x.exp()
            y.add_(1)
            y.sum().backward()

    before = patches()
    with pytest.raises(RuntimeError, match="modified by an inplace operation") as caught:
        overwriting()
    assert type(caught.value) is RuntimeError
    assert patches() == before


def test_sessions_may_be_nested() -> None:
    before = patches()
    with watch() as outer:
        with watch() as inner:
            train(network(), 1, wrong=True)
        train(network(), 1)
    assert inner.report.errors
    assert not inner.internal_errors + outer.internal_errors
    assert outer.report.counts["backwards"] >= 1
    assert patches() == before


def test_a_session_cannot_be_entered_twice() -> None:
    session = watch()
    with session, pytest.raises(RuntimeError, match="failed"):
        session.__enter__()


def test_another_thread_is_left_alone() -> None:
    results = []
    with watch() as session:
        thread = threading.Thread(target=lambda: results.append(train(network(), 2, wrong=True)))
        thread.start()
        thread.join()
        train(network(), 1)
    assert len(results[0]) == 2
    assert not session.internal_errors
    assert not session.report.errors


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_inside(reentrant: bool) -> None:
    model = network()
    with watch() as session:
        x = torch.randn(4, 3, requires_grad=True)
        checkpoint(model, x * 2, use_reentrant=reentrant).sum().backward()
    assert not session.internal_errors
    assert not session.report.errors, str(session.report)


def test_gradients_of_gradients_inside() -> None:
    with watch() as session:
        x = torch.randn(3, requires_grad=True)
        (g,) = torch.autograd.grad((x**3).sum(), x, create_graph=True)
        g.square().sum().backward()
    assert not session.internal_errors
    assert not session.report.errors, str(session.report)
    assert session.report.counts["backwards"] == 2


def test_nothing_verified_is_no_pass() -> None:
    with watch() as session:
        torch.ones(3).sum()
    assert not session.report.ok

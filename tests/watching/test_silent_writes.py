"""GC202: who overwrites a saved tensor behind autograd's back is found; who does so harmlessly is left alone."""

from __future__ import annotations

import ctypes
import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gradcheck_suite import watch
from gradcheck_suite.evidence import Severity


def loud(session: Any) -> list[Any]:
    assert session.internal_errors == []
    return [f for f in session.report.findings if f.severity > Severity.NOTE]


def x4() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(4, requires_grad=True)


class Doubling(torch.autograd.Function):
    """Overwrites its input and does not say so."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x.data.mul_(2)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * 2


def by_data() -> None:
    y = x4().exp()
    y.data.add_(1)
    y.sum().backward()


def by_foreach() -> None:
    y = x4().exp()
    torch._foreach_mul_([y.data], 3.0)
    y.sum().backward()


def by_function_without_mark_dirty() -> None:
    y = x4().exp()
    Doubling.apply(y).sum().backward()


def by_hook() -> None:
    layer = nn.Sequential(nn.Linear(4, 4), nn.Sigmoid())

    def scale(module: nn.Module, inputs: Any, output: Tensor) -> None:
        output.data.mul_(2)

    layer.register_forward_hook(scale)
    layer(x4()).sum().backward()


def by_numpy() -> None:
    y = x4().exp()
    np.asarray(y.detach())[:] = 0
    y.sum().backward()


def by_address() -> None:
    y = x4().exp()
    ctypes.memset(y.data_ptr(), 0, 16)
    y.sum().backward()


def by_reused_buffer() -> None:
    buffer = np.ones(4, np.float32)
    w = x4()
    first = (torch.from_numpy(buffer) * w).sum()
    buffer[:] = 7
    (first + (torch.from_numpy(buffer) * w).sum()).backward()


def by_assignment_to_data() -> None:
    layer = nn.Conv1d(2, 3, 2)
    out = layer(torch.randn(1, 2, 5, requires_grad=True))
    out.mean().backward(retain_graph=True)
    layer.weight.grad = None
    layer.weight.data = layer.weight.data * 0.5
    out.pow(2).mean().backward()


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize(
    "fault",
    [
        by_data,
        by_foreach,
        by_function_without_mark_dirty,
        by_hook,
        by_numpy,
        by_address,
        by_reused_buffer,
        by_assignment_to_data,
    ],
)
def test_the_writer_is_found_and_the_damage_measured(fault: Any, verify: bool) -> None:
    with watch(verify=verify) as session:
        fault()
    (finding,) = [f for f in loud(session) if f.code != "GC402"]
    assert finding.code == "GC202", str(session.report)
    assert finding.evidence["max_error"] > 0.01
    assert finding.evidence["changed"] > 0
    assert {r.role for r in finding.related} == {"saved by", "used by the backward"}


def test_the_damage_is_what_the_engine_says() -> None:
    x = x4()
    with watch() as session:
        y = x.exp()
        right = y.detach().clone()
        y.data.mul_(2)
        y.sum().backward()
    (finding,) = loud(session)
    worst = float(right.max())
    assert finding.evidence["expected"] == pytest.approx(worst, rel=1e-5)
    assert finding.evidence["actual"] == pytest.approx(2 * worst, rel=1e-5)
    assert "wrong" in {g.outcome.name.lower() for g in session.report.gradients} or not session.report.ok


def unused_write() -> None:
    y = x4() + 1
    y.data.zero_()
    y.sum().backward()


def same_values() -> None:
    y = x4().exp()
    y.detach().numpy()[:] = y.detach().numpy().copy()
    y.sum().backward()


def running_statistics() -> None:
    layers = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.RReLU(), nn.ReLU(inplace=True))
    x = torch.randn(3, 4)
    (layers(x).sum() + layers(x).pow(2).sum()).backward()


def statistics_through_numpy() -> None:
    norm = nn.BatchNorm1d(4)
    out = norm(torch.randn(3, 4, requires_grad=True))
    norm.running_mean.numpy()[:] = 0
    out.pow(2).sum().backward()


def moving_average() -> None:
    model = nn.Linear(4, 1)
    average = [p.detach().clone() for p in model.parameters()]
    for _ in range(3):
        loss = model(torch.randn(2, 4)).pow(2).mean()
        for a, p in zip(average, model.parameters()):
            a.data.mul_(0.9).add_(p.data, alpha=0.1)
        loss.backward()
        for p in model.parameters():
            p.data.sub_(p.grad, alpha=0.1)
            p.grad = None


def checkpointed() -> None:
    calls = []
    norm = nn.BatchNorm1d(4)

    def body(x: Tensor) -> Tensor:
        calls.append(1)
        return norm(x).exp()

    x = torch.from_numpy(np.ones((3, 4), np.float32) * np.arange(3, dtype=np.float32)[:, None])
    checkpoint(body, x.requires_grad_(), use_reentrant=False).sum().backward()
    assert len(calls) == 2  # nobody has unpacked what the checkpoint packed


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize(
    "harmless",
    [unused_write, same_values, running_statistics, statistics_through_numpy, moving_average, checkpointed],
)
def test_harmless_writes_are_left_alone(harmless: Any, verify: bool) -> None:
    with watch(verify=verify) as session:
        harmless()
    assert [f for f in loud(session) if f.code == "GC202"] == []


def test_what_torch_refuses_it_still_refuses() -> None:
    with watch() as session:
        y = x4().exp()
        y.data.mul_(2)
        y.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()
    assert [f.code for f in loud(session)] == ["GC201"]


def test_torch_has_its_own_methods_again_afterwards() -> None:
    before = (torch.Tensor.numpy, torch.Tensor.data_ptr)
    with watch():
        assert torch.Tensor.numpy is not before[0]
    assert (torch.Tensor.numpy, torch.Tensor.data_ptr) == before
    assert "numpy" not in vars(torch.Tensor)


@pytest.mark.parametrize("verify", [True, False])
def test_no_tensor_lives_longer_than_autograd_keeps_it(verify: bool) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    seen: list[weakref.ref[Tensor]] = []
    model[1].register_forward_hook(lambda module, inputs, output: seen.append(weakref.ref(output)))
    with watch(verify=verify) as session:
        memories = []
        model[1].register_forward_hook(
            lambda module, inputs, output: memories.append(
                torch.multiprocessing.reductions.StorageWeakRef(output.untyped_storage())
            )
        )
        loss = model(torch.randn(3, 4)).mean()
        loss.backward()
        gc.collect()
        # The loss is at hand, and its graph; what the graph had saved is freed.
        assert [m.expired() for m in memories] == [True]
        assert loss.grad_fn is not None
    assert session.internal_errors == []


@pytest.mark.slow
def test_ten_thousand_iterations_are_one_finding_and_bounded_memory() -> None:
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    objects = []
    with watch(verify=False) as session:
        for number in range(10_000):
            optimizer.zero_grad()
            hidden = model(torch.randn(2, 3)).exp()
            hidden.data.mul_(0.5)
            hidden.sum().backward()
            optimizer.step()
            if number in (3_999, 9_999):
                gc.collect()
                objects.append(len(gc.get_objects()))
    assert objects[1] - objects[0] < 500, "what is kept grows with the loop"
    (finding,) = loud(session)
    assert (finding.code, finding.count) == ("GC202", 10_000)
    assert (finding.evidence["first"], finding.evidence["last"]) == (1, 10_000)


# -- while a backward runs -----------------------------------------------------------------------------------------------


def _with_a_hook(register: Any, verify: bool, steps: int = 4) -> Any:
    torch.manual_seed(0)
    first, last = nn.Linear(4, 8), nn.Linear(8, 1)
    with watch(verify=verify) as session:
        for _ in range(steps):
            hidden = torch.tanh(first(torch.randn(6, 4)))
            waves = torch.sin(hidden)
            out = last(waves)
            register(first, hidden, waves)
            out.sum().backward()
    assert not session.internal_errors
    return [f for f in session.report.findings if f.code != "GC190"]


@pytest.mark.parametrize("verify", [True, False])
def test_a_hook_that_overwrites_what_is_still_to_be_read_is_found(verify: bool) -> None:
    def register(first: nn.Module, hidden: Tensor, waves: Tensor) -> None:
        def double(gradient: Tensor) -> None:
            hidden.data.mul_(2)

        waves.register_hook(double)

    (finding,) = _with_a_hook(register, verify)
    assert finding.code == "GC202"
    assert "overwritten by aten::mul_.Tensor" in finding.message
    assert finding.location is not None
    assert finding.location.function == "double"
    # Without verification the first one shows that the next is to be observed.
    assert finding.count == (4 if verify else 3)


@pytest.mark.parametrize("verify", [True, False])
def test_a_hook_that_overwrites_what_has_been_read_is_left_alone(verify: bool) -> None:
    def register(first: Any, hidden: Tensor, waves: Tensor) -> None:
        def clear(_: Tensor) -> None:
            hidden.data.zero_()

        first._handle = first.weight.register_post_accumulate_grad_hook(clear)

    assert _with_a_hook(register, verify) == []


@pytest.mark.parametrize("verify", [True, False])
def test_a_hook_that_brings_contents_back_is_left_alone(verify: bool) -> None:
    """Memory is emptied after the forward and filled again before it is read, as offloading does."""

    def register(first: nn.Module, hidden: Tensor, waves: Tensor) -> None:
        kept = hidden.detach().clone()
        hidden.data.zero_()

        def bring_back(gradient: Tensor) -> None:
            hidden.data.copy_(kept)

        waves.register_hook(bring_back)

    assert _with_a_hook(register, verify) == []

"""Stretches that run unseen: nothing is missed through stepping aside, and nothing of the user's runs inside them."""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack

from gradcheck_suite import watch
from gradcheck_suite.watching import session as session_module
from gradcheck_suite.watching.recorder import WatchingRecorder
from gradcheck_suite.watching.session import Session


def codes(session: Session) -> set[str]:
    assert not session.internal_errors, session.internal_errors
    return {
        finding.code for finding in session.report.findings if finding.severity.name in ("ERROR", "WARNING")
    }


def leaf(*values: float) -> Tensor:
    return torch.tensor(values or (1.0, 2.0), requires_grad=True)


@pytest.fixture
def unseen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one entry for each backward that runs unseen."""
    runs: list[int] = []
    original = session_module.run_unseen

    def run_unseen(*args: Any) -> Any:
        runs.append(1)
        return original(*args)

    monkeypatch.setattr(session_module, "run_unseen", run_unseen)
    return runs


class Counting(TorchDispatchMode):
    """A user's own mode, which counts what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


class Cube(torch.autograd.Function):
    """Right, and written by hand."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return 3 * x**2 * g


# -- which backwards run unseen ------------------------------------------------------------------------------------


def test_a_plain_backward_runs_unseen(unseen: list[int]) -> None:
    w = leaf()
    with watch(verify=False) as session:
        (w * w).sum().backward()
    assert unseen
    assert codes(session) == set()
    assert w.grad is not None
    assert w.grad.tolist() == [2.0, 4.0]


def _hook_on_leaf(w: Tensor, h: Tensor) -> None:
    w.register_hook(lambda g: g * 2)


def _hook_after_accumulation(w: Tensor, h: Tensor) -> None:
    w.register_post_accumulate_grad_hook(lambda t: None)


def _hook_on_result(w: Tensor, h: Tensor) -> None:
    h.register_hook(lambda g: g * 2)


def _hook_on_node(w: Tensor, h: Tensor) -> None:
    assert h.grad_fn is not None
    h.grad_fn.register_hook(lambda grads, _: None)


def _prehook_on_node(w: Tensor, h: Tensor) -> None:
    assert h.grad_fn is not None
    h.grad_fn.register_prehook(lambda grads: None)


HOOKS = [_hook_on_leaf, _hook_after_accumulation, _hook_on_result, _hook_on_node, _prehook_on_node]


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("register", HOOKS)
def test_a_backward_with_a_hook_is_looked_at(
    register: Callable[[Tensor, Tensor], None], before: bool, unseen: list[int]
) -> None:
    w = leaf()
    h = w * w
    if before:
        register(w, h)
    with watch(verify=False):
        if not before:
            h = w * w
            register(w, h)
        h.sum().backward()
    assert not unseen


def test_hooks_on_saved_tensors_are_looked_at(unseen: list[int]) -> None:
    w = leaf()
    with watch(verify=False), torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
        (w * w).sum().backward()
    assert not unseen


def test_saved_tensors_hooks_that_are_entered_before_the_session_are_looked_at(unseen: list[int]) -> None:
    w = leaf()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t), watch(verify=False):
        (w * w).sum().backward()
    assert not unseen


def test_a_graph_from_before_the_session_is_looked_at(unseen: list[int]) -> None:
    w = leaf()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
        h = w * w
    with watch(verify=False):
        (h * 2).sum().backward()
    assert not unseen


def test_a_custom_function_is_looked_at(unseen: list[int]) -> None:
    w = leaf()
    with watch(verify=False):
        Cube.apply(w).sum().backward()
    assert not unseen


def test_create_graph_is_looked_at(unseen: list[int]) -> None:
    w = leaf()
    with watch(verify=False) as session:
        (g,) = torch.autograd.grad((w**3).sum(), w, create_graph=True)
        assert not unseen
        g.sum().backward()
    assert codes(session) == set()
    assert w.grad is not None
    assert w.grad.tolist() == [6.0, 12.0]


def test_a_gradient_that_was_worked_on_is_looked_at(unseen: list[int]) -> None:
    w = leaf()
    with watch(verify=False):
        (w * w).sum().backward()
        count = len(unseen)
        penalty = (w.grad * w).sum()
        (w * w).sum().backward()
        assert len(unseen) == count
        del penalty


# -- the recorder comes back ---------------------------------------------------------------------------------------


def stack() -> list[type]:
    return [type(mode) for mode in _get_current_dispatch_mode_stack()]


def test_it_comes_back_after_a_backward_that_raises() -> None:
    w = leaf()
    with watch(verify=False) as session:
        h = w * w
        loss = h.sum()
        loss.backward()
        with pytest.raises(RuntimeError, match="second time"):
            loss.backward()
        assert stack() == [WatchingRecorder]
        exp = w.exp()
        exp.add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            exp.sum().backward()
    assert {"GC401", "GC201"} <= codes(session)
    assert stack() == []


def test_it_comes_back_after_a_step_that_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    w = leaf()
    optimizer = torch.optim.SGD([w], lr=0.1)
    with watch(verify=False) as session:
        for _ in range(3):
            optimizer.zero_grad()
            (w * w).sum().backward()
            optimizer.step()
        module = sys.modules["torch.optim.sgd"]
        original = module.sgd

        def refuse(*args: Any, **kwargs: Any) -> None:
            original(*args, **kwargs)
            raise KeyError("refused")

        monkeypatch.setattr(module, "sgd", refuse)
        with pytest.raises(KeyError):
            optimizer.step()
        exp = w.exp()
        exp.data.mul_(2)
        exp.sum().backward()
    assert "GC202" in codes(session)
    assert stack() == []


def test_another_mode_sees_what_it_would_see_alone() -> None:
    def train() -> int:
        w = leaf()
        optimizer = torch.optim.SGD([w], lr=0.1, momentum=0.9)
        with Counting() as mode:
            for _ in range(4):
                optimizer.zero_grad()
                (w * w).sum().backward()
                optimizer.step()
        return mode.count

    alone = train()
    with watch(verify=False):
        assert train() == alone
    with Counting(), watch(verify=False):
        assert train() == alone


def test_a_mode_that_is_entered_by_a_hook_stays_above() -> None:
    w = leaf()
    mode = Counting()
    with watch(verify=False) as session:
        h = w * w
        h.register_hook(lambda g: mode.__enter__() and None)  # type: ignore[no-untyped-call]
        try:
            h.sum().backward()
        finally:
            entered = mode in _get_current_dispatch_mode_stack()
            if entered:
                mode.__exit__(None, None, None)
    assert codes(session) == set()
    assert stack() == []


# -- what is written unseen is known ------------------------------------------------------------------------------


OPTIMIZERS: list[Callable[[list[Tensor]], torch.optim.Optimizer]] = [
    lambda p: torch.optim.SGD(p, lr=0.1),
    lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, foreach=True),
    lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
    lambda p: torch.optim.Adam(p, lr=0.1),
    lambda p: torch.optim.Adam(p, lr=0.1, foreach=True),
    lambda p: torch.optim.AdamW(p, lr=0.1, amsgrad=True),
    lambda p: torch.optim.RMSprop(p, lr=0.1),
    lambda p: torch.optim.Adagrad(p, lr=0.1),
    lambda p: torch.optim.Adadelta(p),
]


@pytest.mark.parametrize("make", OPTIMIZERS)
def test_a_step_between_forward_and_a_second_backward_is_named(
    make: Callable[[list[Tensor]], torch.optim.Optimizer],
) -> None:
    w = leaf()
    optimizer = make([w])
    with watch(verify=False) as session:
        for _ in range(4):  # the last steps run unseen
            optimizer.zero_grad()
            (w * w).sum().backward()
            optimizer.step()
        loss = (w * w).sum()
        loss.backward(retain_graph=True)
        optimizer.step()
        if optimizer.defaults.get("fused"):  # leaves versions as they are, so that torch notices nothing
            loss.backward()
        else:
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                loss.backward()
    assert codes(session) & {"GC201", "GC202"}


@pytest.mark.parametrize("make", OPTIMIZERS)
def test_steps_that_run_unseen_still_use_gradients(
    make: Callable[[list[Tensor]], torch.optim.Optimizer],
) -> None:
    def train(zero: bool) -> set[str]:
        w = leaf()
        optimizer = make([w])
        with watch(verify=False) as session:
            for number in range(6):
                if zero or number < 4:
                    optimizer.zero_grad()
                (w * w).sum().backward()
                optimizer.step()
        return codes(session)

    assert "GC301" in train(zero=False)
    assert train(zero=True) == set()


class Halving(torch.optim.SGD):
    """A subclass that also works on the gradients."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.zero_()
        return super().step(closure)


def test_a_subclass_is_watched_all_the_way() -> None:
    w = leaf()
    optimizer = Halving([w], lr=0.1)
    with watch(verify=False) as session:
        for _ in range(6):
            (w * w).sum().backward()
            optimizer.step()
            assert w.grad is not None
            assert w.grad.tolist() == [0.0, 0.0]
    assert "GC301" not in codes(session)


def test_a_step_that_was_put_in_place_of_the_class_s_own_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    w = leaf()
    optimizer = torch.optim.SGD([w], lr=0.1)
    own = torch.optim.SGD.step

    def step(self: Any, closure: Any = None) -> Any:
        result = own(self, closure)
        w.grad.zero_()  # type: ignore[union-attr]
        return result

    with watch(verify=False) as session:
        for number in range(6):
            if number == 3:
                monkeypatch.setattr(torch.optim.SGD, "step", step)
            if number <= 3:
                optimizer.zero_grad()
            (w * w).sum().backward()
            optimizer.step()
    assert "GC301" not in codes(session)


def test_a_hook_on_the_step_that_zeroes_is_seen() -> None:
    w = leaf()
    optimizer = torch.optim.SGD([w], lr=0.1)
    with watch(verify=False) as session:
        for number in range(6):
            if number == 3:
                optimizer.register_step_post_hook(lambda *_: w.grad.zero_() is None or None)  # type: ignore[union-attr]
            if number <= 3:
                optimizer.zero_grad()
            (w * w).sum().backward()
            optimizer.step()
    assert "GC301" not in codes(session)


class ByHand(torch.optim.Optimizer):
    """A hand-written optimizer."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 0.1})

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data.add_(parameter.grad, alpha=-group["lr"])


def test_a_hand_written_optimizer_is_watched() -> None:
    w = leaf()
    optimizer = ByHand([w])
    with watch(verify=False) as session:
        for _ in range(3):
            (w * w).sum().backward()
            optimizer.step()
    assert "GC301" in codes(session)


# -- what was overwritten meanwhile ---------------------------------------------------------------------------------


def _through_data(h: Tensor) -> None:
    h.data.mul_(3)


def _through_detach(h: Tensor) -> None:
    h.detach().numpy()[...] = 7


def _under_no_grad_on_an_alias(h: Tensor) -> None:
    alias = h.detach()
    with torch.no_grad():
        torch.add(alias, 1, out=h.data)


WRITES: list[Callable[[Tensor], None]] = [_through_data, _through_detach, _under_no_grad_on_an_alias]


@pytest.mark.parametrize("steps", [0, 4])
@pytest.mark.parametrize("write", WRITES)
def test_a_saved_tensor_that_was_overwritten_is_found(write: Callable[[Tensor], None], steps: int) -> None:
    w = leaf()
    optimizer = torch.optim.SGD([w], lr=0.01)
    with watch(verify=False) as session:
        for _ in range(steps):
            optimizer.zero_grad()
            w.exp().sum().backward()
            optimizer.step()
        h = w.exp()
        write(h)
        h.sum().backward()
    assert "GC202" in codes(session)


def test_an_argument_that_was_made_and_saved_by_different_operations_is_found() -> None:
    # add saves nothing of its result; pow does, and shares what is remembered of it.
    w = leaf()
    with watch(verify=False) as session:
        h = w + 1
        y = h**2
        h.data.mul_(2)
        y.sum().backward()
    assert "GC202" in codes(session)


def test_two_uses_of_one_tensor_with_a_write_in_between_are_told_apart() -> None:
    w, x = leaf(), torch.tensor([3.0, 4.0])
    with watch(verify=False) as session:
        first = w * x
        x.data.mul_(2)
        second = w * x
        (first.sum() + second.sum()).backward()
    findings = [f for f in session.report.findings if f.code == "GC202"]
    assert len(findings) == 1


def test_memory_that_numpy_writes_to_between_two_uses_is_told_apart() -> None:
    array = np.array([3.0, 4.0], dtype=np.float32)
    w, x = leaf(), torch.from_numpy(array)
    with watch(verify=False) as session:
        first = w * x
        array *= 2
        second = w * x
        (first.sum() + second.sum()).backward()
    assert codes(session) == {"GC202"}


def test_retain_graph_runs_right() -> None:
    w = leaf()
    with watch(verify=False) as session:
        for _ in range(2):
            w.grad = None
            loss = (w * w).sum()
            loss.backward(retain_graph=True)
            loss.backward()
            assert w.grad is not None
            assert w.grad.tolist() == [4.0, 8.0]
    assert codes(session) == set()


# -- threads, subclasses, switched-off gradients --------------------------------------------------------------------


def test_another_thread_is_left_alone() -> None:
    w = leaf()
    found: list[Any] = []

    def other() -> None:
        v = leaf()
        (v * v).sum().backward()
        found.append((stack(), v.grad))

    with watch(verify=False) as session:
        for _ in range(3):
            thread = threading.Thread(target=other)
            thread.start()
            (w * w).sum().backward()
            thread.join()
        assert stack() == [WatchingRecorder]
    assert codes(session) == set()
    assert all(modes == [] for modes, _ in found)


class Tagged(Tensor):
    """A plain subclass."""


def test_a_subclass_of_tensor_is_followed() -> None:
    w = leaf()
    with watch(verify=False) as session:
        h = w.as_subclass(Tagged).exp()
        h.data.mul_(2)
        h.sum().backward()
    assert "GC202" in codes(session)


def test_a_forward_that_switches_gradients_on_first_is_still_a_forward() -> None:
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            with torch.enable_grad():
                inner = x.detach().requires_grad_()
                out = inner**3
            ctx.save_for_backward(x)
            return out.detach()

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Any:
            (x,) = ctx.saved_tensors
            return 2 * x**2 * g

    w = leaf()
    with watch(verify=True) as session:
        Wrong.apply(w).sum().backward()
    assert "GC101" in codes(session)


@pytest.mark.parametrize("switch", [torch.no_grad, torch.inference_mode])
def test_operations_without_gradients_are_named_as_what_cut_the_graph(switch: Callable[[], Any]) -> None:
    w = leaf()
    with watch(verify=False) as session:
        with switch():
            h = w * 2
        with pytest.raises(RuntimeError, match="does not require grad") as caught:
            h.sum().backward()
    assert any(__file__.rpartition("/")[2] in note for note in caught.value.__notes__)
    assert not session.internal_errors


def test_a_write_under_no_grad_to_what_is_tracked_is_seen() -> None:
    w = leaf()
    with watch(verify=False) as session:
        h = w.exp()
        with torch.no_grad():
            h.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            h.sum().backward()
    assert "GC201" in codes(session)


# -- verification fades ----------------------------------------------------------------------------------------------


def test_a_node_of_another_shape_is_verified_in_a_steady_loop() -> None:
    w = leaf(1.0, 2.0, 3.0)
    with watch(verify=True) as session:
        for _ in range(6):
            (w * w).sum().backward()
        steady = session.report.counts["nodes"]
        (w[:2] * w[:2]).sum().backward()
        assert session.report.counts["nodes"] > steady
        more = session.report.counts["nodes"]
        (w.double() * w.double()).sum().backward()
        assert session.report.counts["nodes"] > more


def test_a_vacuous_verification_is_asked_again_after_the_glance() -> None:
    w = leaf(1.0, 2.0)
    with watch(verify=True) as session:
        for _ in range(4):
            (0 * (w * w)).sum().backward()
        (w * w).sum().backward()
    assert "MulBackward0" in {node.name for node in session.report.nodes}


def test_nothing_is_kept_alive_by_what_was_seen() -> None:
    with watch(verify=False):
        model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
        h = model(torch.randn(2, 4))
        seen = weakref.ref(h)
        loss = h.sum()
        loss.backward()
        del h
        assert seen() is None

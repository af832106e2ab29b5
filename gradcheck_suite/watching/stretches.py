"""Stretches of a program in which nothing of the user's runs: they are looked at before and after, not operation by operation.

A dispatch mode costs some microseconds per operation. Most operations of a training step run where no user's line can be:
in a backward through torch's own nodes that has no hooks, and in the step of torch's own optimizers. What such a stretch
writes is known beforehand, so the recorder steps aside meanwhile.
"""

from __future__ import annotations

import inspect
import os
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch._C import (
    _get_dispatch_stack_at,
    _len_torch_dispatch_stack,
    _pop_torch_dispatch_stack,
    _push_on_torch_dispatch_stack,
)
from torch.autograd.function import BackwardCFunction
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks
from torch.utils._python_dispatch import _disable_current_modes

from ..capture.identity import _storage_address
from ..evidence import Location
from .recorder import WatchingRecorder

__all__ = ["AccumulateGrad", "Apart", "KnownSteps", "come_back", "is_undisturbed", "run_unseen"]

AccumulateGrad: Any = torch._C._functions.AccumulateGrad

_TORCH = os.path.dirname(os.path.abspath(torch.__file__)) + os.sep
# Their steps write to parameters and to their own state, and leave gradients as they are.
_OPTIMIZERS: tuple[type, ...] = (
    torch.optim.SGD,
    torch.optim.Adam,
    torch.optim.AdamW,
    torch.optim.RMSprop,
    torch.optim.Adagrad,
)
_OTHERWISE = ("maximize", "differentiable", "capturable")
_runs_python: dict[type, bool] = {}
_own_steps: dict[int, Any] = {}  # a few functions of torch's, by id


def is_undisturbed(nodes: Sequence[Any], recorder: WatchingRecorder) -> bool:
    """Whether a backward over these nodes, which builds no graph, runs torch's own code only.

    Hooks that were registered while the session runs are the caller's to know; those of earlier are looked for here.
    """
    mark = recorder._mark
    live, storages = recorder.values._live, recorder._storages
    for node in nodes:
        kind = type(node)
        if kind is AccumulateGrad:
            if not _adds_unseen(node.variable, live, storages):
                return False
            continue
        python = _runs_python.get(kind)
        if python is None:
            # CppFunction is what a C++ extension makes; what it writes is not known.
            python = issubclass(kind, BackwardCFunction) or kind.__name__ == "CppFunction"
            _runs_python[kind] = python
        if python:
            return False
        known = node.metadata.get(mark)
        if known is None or known[1] is None:
            return False  # made before the session: hooks on it or on its saved tensors went unseen
    return True


def _adds_unseen(variable: torch.Tensor, live: dict[int, Any], storages: dict[int, int]) -> bool:
    """Whether nothing can come of it that a leaf's gradient grows unseen."""
    if variable._backward_hooks or variable._post_accumulate_grad_hooks:
        return False
    grad = variable.grad
    if grad is None:
        return True
    if grad.layout is not torch.strided:
        return False
    # What is added to a gradient that some operation has worked on has to be seen.
    number = storages.get(_storage_address(grad))
    return number not in live or all(reference() is None for reference in live[number])


def run_unseen(
    recorder: WatchingRecorder,
    original: Callable[..., Any],
    outputs: Sequence[Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Run an undisturbed backward: the recorder sees nothing and costs nothing, unless another mode was entered after it."""
    before = recorder._in_backward
    recorder._in_backward = True
    depth = _step_aside(recorder)
    try:
        return original(outputs, *args, **kwargs)
    finally:
        if depth is not None:
            come_back(recorder, depth)
        recorder._in_backward = before


class Apart:
    """While it lasts, what runs is the session's own: the recorder sees nothing, and nothing becomes part of a graph."""

    __slots__ = ("_depth", "_enabled", "_modes", "_recorder")

    def __init__(self, recorder: WatchingRecorder) -> None:
        self._recorder = recorder
        self._modes: Any = None

    def __enter__(self) -> None:
        self._depth = _step_aside(self._recorder) if _len_torch_dispatch_stack() == 1 else None
        if self._depth is None:
            self._modes = _disable_current_modes()
            self._modes.__enter__()
        self._enabled = torch.is_grad_enabled()
        torch._C._set_grad_enabled(False)

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        torch._C._set_grad_enabled(self._enabled)
        if self._depth is not None:
            come_back(self._recorder, self._depth)
        else:
            self._modes.__exit__(kind, error, trace)


def _step_aside(recorder: WatchingRecorder) -> int | None:
    """Take the recorder off the stack of modes if it is the innermost one; returns the depth at which it was."""
    depth = _len_torch_dispatch_stack() - 1
    if depth < 0 or _get_dispatch_stack_at(depth) is not recorder:
        return None
    _pop_torch_dispatch_stack(None)
    return depth


def come_back(recorder: WatchingRecorder, depth: int) -> None:
    """Put it back where it was, below what was entered meanwhile."""
    later = [_pop_torch_dispatch_stack(None) for _ in range(_len_torch_dispatch_stack() - depth)]
    _push_on_torch_dispatch_stack(recorder)
    for mode in reversed(later):
        _push_on_torch_dispatch_stack(mode)


class KnownSteps:
    """Optimizer steps that run unseen, because an earlier one of the same optimizer has shown how it writes.

    Args:
        recorder: steps aside meanwhile, and is told what was written.
        wrote: called for each parameter that was written to: operation, tensor, memory.
    """

    def __init__(self, recorder: WatchingRecorder, wrote: Callable[[str, torch.Tensor, int], None]) -> None:
        self._recorder = recorder
        self._wrote = wrote
        # The first operation that writes to each memory, by its number; "" for any other.
        self._operations: weakref.WeakKeyDictionary[torch.optim.Optimizer, dict[int | str, str]]
        self._operations = weakref.WeakKeyDictionary()
        self._depth: int | None = None
        self._running: Any = None
        self._unseen = False
        self._switches = 0
        self._before: list[tuple[torch.Tensor, int]] = []
        self._epochs: dict[int, int] = {}

    def begin(self, optimizer: torch.optim.Optimizer, *, closure: bool) -> None:
        """A step begins, outside any other."""
        self.recover()
        self._running, self._unseen, self._switches, self._before = None, False, 0, []
        if closure or not _is_known(optimizer):
            return
        recorder = self._recorder
        written = _written_by(optimizer)
        self._running = weakref.ref(optimizer)
        if optimizer not in self._operations:
            numbers = (recorder.memory_number(tensor) for tensor, _ in written)
            self._epochs = {
                number: recorder._epochs.get(number, 0) for number in numbers if number is not None
            }
            return
        self._depth = _step_aside(recorder)
        if self._depth is None:
            return
        self._unseen, self._before = True, written
        storages, live = recorder._storages, recorder.values._live
        for tensor, _ in written:
            number = storages.get(_storage_address(tensor))
            if number is not None and number in live:
                recorder.values.before_write(number)

    @property
    def unseen(self) -> bool:
        """Whether a step runs now that nobody looks at."""
        return self._depth is not None

    def end(self, optimizer: torch.optim.Optimizer, *, step: Location | None) -> None:
        """It has ended.

        Args:
            optimizer: whose step it was.
            step: the line that called it.
        """
        if self._running is None or self._running() is not optimizer:
            return
        self._running = None
        recorder = self._recorder
        if not self._unseen:
            seen: dict[int | str, str] = {}
            for storage, epoch in self._epochs.items():
                write = recorder.first_write_after(storage, epoch)
                if write is not None:
                    seen[storage] = write.op
                    seen.setdefault("", write.op)
            if seen:
                self._operations[optimizer] = seen
            self._epochs = {}
            return
        self.recover()
        self._tell(optimizer, step)

    def switched(self, step: Location | None) -> None:
        """Grad mode is set while nobody looks: by what torch wraps around a step, as it begins and as it ends or raises."""
        self._switches += 1
        optimizer = None if self._running is None else self._running()
        if self._switches == 2 and optimizer is not None:
            self.recover()
            self._tell(optimizer, step)

    def _tell(self, optimizer: torch.optim.Optimizer, step: Location | None) -> None:
        """Say once what the step has written."""
        before, self._before = self._before, []
        operations = self._operations[optimizer]
        anything = operations[""]
        # Fused kernels leave versions as they are.
        fused = anything.startswith("aten::_fused_")
        recorder = self._recorder
        storages = recorder._storages
        for tensor, version in before:
            if tensor._version == version and not fused:
                continue
            memory = _storage_address(tensor)
            number = storages.get(memory)
            operation = anything if number is None else operations.get(number) or anything
            if number is not None:
                recorder.note_write(number, operation, step)
            self._wrote(operation.partition(".")[0], tensor, memory)

    def recover(self) -> None:
        """The recorder comes back, also from a step that has raised."""
        depth, self._depth = self._depth, None
        if depth is not None:
            come_back(self._recorder, depth)


def _is_known(optimizer: torch.optim.Optimizer) -> bool:
    kind = type(optimizer)
    return (
        kind in _OPTIMIZERS
        and not optimizer._optimizer_step_pre_hooks
        and not optimizer._optimizer_step_post_hooks
        # One of each is the door's own.
        and len(_global_optimizer_pre_hooks) == len(_global_optimizer_post_hooks) == 1
        and not hasattr(optimizer, "grad_scale")
        and not any(group.get(name) for group in optimizer.param_groups for name in _OTHERWISE)
        and _is_own_step(kind.step)
    )


def _is_own_step(step: Any) -> bool:
    """Whether a class's ``step`` is torch's own, rather than what somebody has put in its place."""
    if _own_steps.get(id(step)) is step:
        return True
    if inspect.unwrap(step).__code__.co_filename.startswith(_TORCH):
        _own_steps[id(step)] = step
        return True
    return False


def _written_by(optimizer: torch.optim.Optimizer) -> list[tuple[torch.Tensor, int]]:
    """What a step may write to, with its version: parameters that have a gradient, and what is kept about them."""
    written: list[tuple[torch.Tensor, int]] = []
    state = optimizer.state
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is None or parameter.layout is not torch.strided:
                continue
            written.append((parameter, parameter._version))
            kept = state.get(parameter)
            if kept:
                for tensor in kept.values():
                    if isinstance(tensor, torch.Tensor) and tensor.layout is torch.strided:
                        written.append((tensor, tensor._version))
    return written

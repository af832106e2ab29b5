"""Stretches of a program in which nothing of the user's runs: they are looked at before and after, not operation by operation.

A dispatch mode costs some microseconds per operation. Most operations of a training step run where no user's line can be:
in a backward through torch's own nodes that has no hooks, and in the step of torch's own optimizers. What such a stretch
writes is known beforehand, so the recorder steps aside meanwhile.
"""

from __future__ import annotations

import inspect
import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.autograd.function import BackwardCFunction
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack, _pop_mode, _push_mode

from ..evidence import Location
from .recorder import WatchingRecorder

__all__ = ["KnownSteps", "is_undisturbed", "out_of_the_way"]

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


def is_undisturbed(nodes: Sequence[Any], recorder: WatchingRecorder) -> bool:
    """Whether a backward over these nodes, which builds no graph, runs torch's own code only.

    Hooks that were registered while the session runs are the caller's to know; those of earlier are looked for here.
    """
    mark = recorder._mark
    live, storages = recorder.values._live, recorder._storages
    for node in nodes:
        kind = type(node)
        python = _runs_python.get(kind)
        if python is None:
            # CppFunction is what a C++ extension makes; what it writes is not known.
            python = issubclass(kind, BackwardCFunction) or kind.__name__ == "CppFunction"
            _runs_python[kind] = python
        if python:
            return False
        if kind.__name__ != "AccumulateGrad":
            if mark not in node.metadata:
                return False  # made before the session: hooks on it or on its saved tensors went unseen
            continue
        variable = node.variable
        if variable._backward_hooks or variable._post_accumulate_grad_hooks:
            return False
        grad = variable.grad
        if grad is None:
            continue
        if grad.layout is not torch.strided:
            return False
        # What is added to a gradient that some operation has worked on has to be seen.
        number = storages.get(grad.untyped_storage()._cdata)
        if number in live and any(reference() is not None for reference in live[number]):
            return False
    return True


@contextmanager
def out_of_the_way(recorder: WatchingRecorder) -> Iterator[None]:
    """While it lasts, the recorder sees nothing and costs nothing; unless another mode was entered after it."""
    if _step_aside(recorder) is None:
        yield
        return
    depth = len(_get_current_dispatch_mode_stack())
    try:
        yield
    finally:
        _come_back(recorder, depth)


def _step_aside(recorder: WatchingRecorder) -> int | None:
    """Take the recorder off the stack of modes if it is the innermost one; returns the depth at which it was."""
    modes = _get_current_dispatch_mode_stack()
    if not modes or modes[-1] is not recorder:
        return None
    _pop_mode()
    return len(modes) - 1


def _come_back(recorder: WatchingRecorder, depth: int) -> None:
    """Put it back where it was, below what was entered meanwhile."""
    later = [_pop_mode() for _ in range(len(_get_current_dispatch_mode_stack()) - depth)]
    _push_mode(recorder)
    for mode in reversed(later):
        _push_mode(mode)


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
        self._before: list[tuple[torch.Tensor, int]] = []
        self._epochs: dict[int, int] = {}

    def begin(self, optimizer: torch.optim.Optimizer, *, closure: bool) -> None:
        """A step begins, outside any other."""
        self.recover()
        if closure or not _is_known(optimizer):
            return
        recorder = self._recorder
        written = list(_written_by(optimizer))
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
        self._before = written
        for tensor, _ in written:
            number = recorder.memory_number(tensor)
            if number is not None:
                recorder.values.before_write(number)

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
        if self._depth is None:
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
        before = self._before
        self.recover()
        operations = self._operations[optimizer]
        for tensor, version in before:
            memory = tensor.untyped_storage()._cdata
            number = recorder._storages.get(memory)
            operation = operations.get("" if number is None else number) or operations[""]
            # Fused kernels leave versions as they are.
            if tensor._version == version and not operation.startswith("aten::_fused_"):
                continue
            if number is not None:
                recorder.note_write(number, operation, step)
            self._wrote(operation.partition(".")[0], tensor, memory)

    def recover(self) -> None:
        """The recorder comes back, also from a step that has raised."""
        depth, self._depth = self._depth, None
        self._before = []
        if depth is not None:
            _come_back(self._recorder, depth)


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
        and inspect.unwrap(kind.step).__code__.co_filename.startswith(_TORCH)
    )


def _written_by(optimizer: torch.optim.Optimizer) -> Iterator[tuple[torch.Tensor, int]]:
    """What a step may write to, with its version: parameters that have a gradient, and what is kept about them."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is None or parameter.layout is not torch.strided:
                continue
            yield parameter, parameter._version
            if parameter in optimizer.state:
                for kept in optimizer.state[parameter].values():
                    if isinstance(kept, torch.Tensor) and kept.layout is torch.strided:
                        yield kept, kept._version

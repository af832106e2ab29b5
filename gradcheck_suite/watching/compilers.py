"""What becomes of compiled functions while a session is open: they run as they do where nobody watches.

``torch.compile`` compiles nothing while a dispatch mode is active, and a compiled function's operations are fused into kernels that
a mode does not see. So the recorders leave the stack of modes while a compiled function runs, forward and backward, and its
nodes are listed as not verified. The doors of :mod:`gradcheck_suite.watching.doors` are taken out meanwhile: dynamo would trace
them, or compile anew because of them.

What records a program as a graph (``torch.export``, ``make_fx``, the branches of ``torch.cond``) would record what a session does
in it as well: it, too, runs as it does where nobody watches.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch
import torch.nn.modules.module as _modules
import torch.utils._python_dispatch as _dispatch

__all__ = [
    "CompiledCall",
    "as_usual",
    "at_compiled_calls",
    "call_of",
    "is_compiled",
    "is_traced",
    "loaded_graph_makers",
    "with_keys",
    "without_flags",
]

_GRAPH_MAKERS: tuple[tuple[str, str], ...] = (
    ("torch.fx.experimental.proxy_tensor", "dispatch_trace"),
    ("torch.export", "export"),
    ("torch.export._trace", "_export"),
    ("torch._dynamo", "export"),
    ("torch._dynamo", "explain"),
    ("torch", "cond"),
    ("torch._higher_order_ops.cond", "cond"),
)
_KEYS = tuple(
    getattr(torch._C._TorchDispatchModeKey, name)
    for name in ("FAKE", "PROXY", "FUNCTIONAL")
    if hasattr(torch._C._TorchDispatchModeKey, name)
)
_BEHIND = "__gradcheck_behind__"
_HOOKS = "enter_exit_hooks"
_KEEP = "_dynamo_save_local_dispatch_key_set"
_DEEPEST = 8
_NODE = "CompiledFunctionBackward"
_IN = "_is_in_torch_dispatch_mode"
_NON_INFRA = "_is_in_non_infra_torch_dispatch_mode"
_NOT_IGNORING = "_is_in_any_mode_without_ignore_compile_internals"


def loaded_graph_makers() -> Iterator[tuple[Any, str]]:
    """Module and name of each function that records programs as graphs, of those that somebody has imported."""
    for module_name, name in _GRAPH_MAKERS:
        module = sys.modules.get(module_name)
        if module is not None and hasattr(module, name):
            yield module, name


def is_traced() -> bool:
    """Whether a graph is being made of what runs, or it runs on tensors without data."""
    return any(torch._C._get_dispatch_mode(key) is not None for key in _KEYS)


def is_compiled(node: Any) -> bool:
    """Whether an autograd node runs what ``torch.compile`` has made of a function's backward."""
    return type(node).__name__ == _NODE


@contextmanager
def as_usual() -> Iterator[None]:
    """While it lasts, modules are called without the session's door and without its hooks.

    Dynamo refuses to export a module while there are hooks for all modules, and traces what stands before ``__call__``.
    """
    taken = [
        (hooks, {number: hook for number, hook in hooks.items() if _is_ours(hook)})
        for hooks in (_modules._global_forward_pre_hooks, _modules._global_forward_hooks)
    ]
    for hooks, own in taken:
        for number in own:
            del hooks[number]
    door: Any = torch.nn.Module.__call__
    behind = getattr(door, _BEHIND, None)
    if behind is not None:
        torch.nn.Module.__call__ = behind  # type: ignore[method-assign]
    try:
        yield
    finally:
        if behind is not None and torch.nn.Module.__call__ is behind:
            torch.nn.Module.__call__ = door  # type: ignore[method-assign]
        for hooks, own in taken:
            others = dict(hooks)
            hooks.clear()
            hooks.update(sorted({**others, **own}.items()))


def _is_ours(hook: Any) -> bool:
    return (getattr(hook, "__module__", None) or "").startswith(__name__.partition(".")[0] + ".")


def at_compiled_calls(entering: Callable[[], Callable[[], None]]) -> Callable[[], None]:
    """Have a function called whenever a compiled function begins, and what it returns when that has ended or raised.

    A compiled function calls the ``enter_exit_hooks`` of the object that made it, whenever that was; so the class of these
    objects gets a property of that name.

    Args:
        entering: to be called.

    Returns:
        What ends it. Where dynamo is not imported nothing is compiled yet, and nothing is done.
    """
    frames = sys.modules.get("torch._dynamo.eval_frame")
    context: Any = getattr(frames, "_TorchDynamoContext", None)
    if context is None or _HOOKS in vars(context):
        return lambda: None

    def hooks(self: Any) -> list[Any]:
        own: list[Any] = self.__dict__[_HOOKS]
        # Its initialisation adds to them.
        return own if sys._getframe(1).f_code.co_name == "__init__" else [*own, entering]

    def set_hooks(self: Any, value: list[Any]) -> None:
        self.__dict__[_HOOKS] = value

    setattr(context, _HOOKS, property(hooks, set_hooks))

    def undo() -> None:
        delattr(context, _HOOKS)

    return undo


@dataclass(frozen=True)
class CompiledCall:
    """A call of a compiled function, as far as dynamo's wrapper shows it.

    Attributes:
        function: that it runs, or None.
        args, kwargs: of the call.
        keeps_keys: when it has ended, the wrapper puts back which dispatch keys were active when it began.
    """

    function: Any = None
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    keeps_keys: bool = False


def call_of(frame: FrameType | None) -> CompiledCall:
    """The call that is about to run.

    Args:
        frame: one that the wrapper has called.
    """
    for _ in range(_DEEPEST):
        if frame is None:
            break
        if frame.f_code.co_filename.endswith("eval_frame.py"):
            own = frame.f_locals
            args, kwargs = own.get("args"), own.get("kwargs")
            if isinstance(args, tuple) and isinstance(kwargs, dict):
                return CompiledCall(own.get("fn"), args, kwargs, _KEEP in frame.f_code.co_names)
        frame = frame.f_back
    return CompiledCall()


@contextmanager
def with_keys(call: CompiledCall) -> Iterator[None]:
    """While it lasts, modes are put back so that they are in effect also when the wrapper of this call has ended."""
    if call.keeps_keys:
        torch._C._dynamo_restore_local_dispatch_key_set()
    try:
        yield
    finally:
        if call.keeps_keys:
            torch._C._dynamo_save_local_dispatch_key_set()


@contextmanager
def without_flags(modes: Sequence[Any]) -> Iterator[None]:
    """While it lasts, what torch notes about active modes is true of these alone; recorders have left the stack.

    Args:
        modes: those that are active.
    """
    values = {
        _IN: bool(modes),
        _NON_INFRA: any(not mode.is_infra_mode() for mode in modes),
        _NOT_IGNORING: any(not mode.ignore_compile_internals() for mode in modes)
        if hasattr(_dispatch, _NOT_IGNORING)
        else False,
    }
    before = {name: getattr(_dispatch, name) for name in values if hasattr(_dispatch, name)}
    _set_flags({name: values[name] for name in before})
    try:
        yield
    finally:
        _set_flags(before)


def _set_flags(values: dict[str, bool]) -> None:
    for name, value in values.items():
        setattr(_dispatch, name, value)
    tell: Any = getattr(_dispatch, "set_is_in_mode_without_ignore_compile_internals", None)
    if tell is not None and _NOT_IGNORING in values:
        tell(values[_NOT_IGNORING])

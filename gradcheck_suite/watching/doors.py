"""Where a running program passes by: the places of torch that call the innermost session while one is open.

The doors are put in when the first session opens and taken out when the last one closes, whatever the order in which
threads and fixtures open and close theirs. A door with no session behind it leads straight on.
"""

from __future__ import annotations

import functools
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from types import FunctionType, MethodType
from typing import Any, Protocol

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from ..capture.dynamo import skip_by_dynamo
from ..capture.quiet import is_quiet
from .compilers import as_usual, at_compiled_calls, loaded_graph_makers
from .traced import TRACERS, run_script, run_tracer

__all__ = ["KNOWN", "Watcher", "innermost", "missing_doors", "open_doors"]

_ENGINE = ("torch.autograd", "torch.autograd.graph")
_ENGINE_NAME = "_engine_run_backward"
_BEHIND = "__gradcheck_behind__"
_OURS = __name__.partition(".")[0] + "."
# Whatever lets Python run inside a backward. Hooks on nodes, by way of C++, end in the mixin's method.
_HOOKS: tuple[tuple[Any, str], ...] = (
    (torch.Tensor, "register_hook"),
    (torch.Tensor, "register_post_accumulate_grad_hook"),
    (torch.autograd.function._HookMixin, "_register_hook"),
    (torch.autograd.graph.saved_tensors_hooks, "__enter__"),
)

KNOWN = 4
"""How many things are noted of a call of a known layer before it runs."""

innermost: ContextVar[Watcher | None] = ContextVar("gradcheck_innermost_session", default=None)


class Watcher(Protocol):
    """What stands behind the doors."""

    def owns_thread(self) -> bool:
        """Whether the running thread is the one that is watched."""

    def run_backward(
        self,
        original: Callable[..., Any],
        outputs: Sequence[Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Run a backward by calling ``original``."""

    def before_step(
        self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """An optimizer begins to step."""

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """It has stepped; not called if it raised."""

    def zeroing(self, owner: Any) -> Callable[[], None] | None:
        """``owner.zero_grad()`` begins; what is returned is called when it has ended."""

    def refused(self, outputs: Sequence[Any], error: BaseException) -> None:
        """A backward of ``outputs`` could not even begin."""

    def switching(self, enabled: bool) -> None:
        """Grad mode is about to be set."""

    def inference(self, entered: bool) -> None:
        """``inference_mode`` is entered or left."""

    def entering_module(
        self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, ...]:
        """A module is called; a result of :data:`KNOWN` length is for :meth:`run_layer`, any other for :meth:`leaving_module`."""

    def run_layer(
        self, known: tuple[Any, ...], original: Callable[..., Any], module: torch.nn.Module, args: Any
    ) -> Any:
        """Call a layer of torch's own by calling ``original``."""

    def leaving_module(self, call: tuple[Any, ...], module: torch.nn.Module, out: Any, count: int) -> None:
        """A module has returned, called with so many arguments."""

    def module_raised(self, module: torch.nn.Module) -> None:
        """Or it has raised."""

    def entering_compiled(self, apart: AbstractContextManager[None]) -> Callable[[], None]:
        """A compiled function begins; ``apart`` takes the doors out. What is returned is called when it has ended."""

    def putting_to_eval(self, module: torch.nn.Module) -> None:
        """``module.eval()`` is called."""

    def hooking(self, *, packs: bool = False) -> None:
        """A hook is registered that runs inside backwards; one that ``packs`` gets what is saved."""

    def exposing(self, tensor: torch.Tensor) -> None:
        """The memory of a tensor is handed to somebody who can write to it without an operation."""

    def warned(self, message: str, file: str, line: int) -> None:
        """A warning is shown."""


def missing_doors() -> list[str]:
    """What this torch does not have, so that no backward can be seen."""
    return [
        f"{module}.{_ENGINE_NAME}" for module in _ENGINE if not hasattr(sys.modules[module], _ENGINE_NAME)
    ]


@contextmanager
def open_doors() -> Iterator[None]:
    """While any such block runs, the doors lead to the innermost session of each thread."""
    thread = threading.get_ident()
    _DOORS.acquire()
    try:
        yield
    finally:
        _DOORS.release(thread)


def _watcher() -> Watcher | None:
    watcher = innermost.get()
    # What a check of our own runs is none of the user's.
    return watcher if watcher is not None and watcher.owns_thread() and not is_quiet() else None


class _Doors:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users: Counter[int] = Counter()  # sessions, by thread
        self._undo: list[Callable[[], None]] = []
        # By place: the door, whether the place had inherited what it hides, and whether that is a static method.
        self._made: dict[tuple[Any, str], tuple[Any, bool, bool]] = {}

    def acquire(self) -> None:
        with self._lock:
            self._users[threading.get_ident()] += 1
            if not self._undo:
                self._install()

    def release(self, thread: int) -> None:
        with self._lock:
            self._users -= Counter({thread: 1})
            if not self._users:
                self._take_out()

    def _take_out(self) -> None:
        while self._undo:
            self._undo.pop()()

    @contextmanager
    def apart(self) -> Iterator[None]:
        """While it lasts there are no doors, unless another thread is watched as well."""
        with self._lock:
            if set(self._users) == {threading.get_ident()}:
                self._take_out()
        try:
            yield
        finally:
            with self._lock:
                if self._users and not self._undo:
                    self._install()

    def _install(self) -> None:
        for module_name in _ENGINE:
            module = sys.modules[module_name]
            if hasattr(module, _ENGINE_NAME):
                self._replace(module, _ENGINE_NAME, _backward_door)
        for owner in (torch.optim.Optimizer, torch.nn.Module):
            self._replace(owner, "zero_grad", _zero_grad_door)
        self._undo.append(register_optimizer_step_pre_hook(_before_step).remove)
        self._undo.append(register_optimizer_step_post_hook(_after_step).remove)
        self._replace(warnings, "showwarning", _warning_door)
        self._replace(torch.autograd, "_make_grads", _start_door)
        self._replace(torch.nn.Module, "eval", _eval_door)
        self._replace(torch.nn.Module, "__call__", _module_door)
        self._replace(torch.set_grad_enabled, "__init__", _grad_mode_door)
        self._replace(torch.inference_mode, "__enter__", functools.partial(_inference_door, entered=True))
        self._replace(torch.inference_mode, "__exit__", functools.partial(_inference_door, entered=False))
        for owner, name in _HOOKS:
            if hasattr(owner, name):
                self._replace(owner, name, _hook_door)
        for name in ("numpy", "data_ptr"):
            self._replace(torch.Tensor, name, _exposure_door)
        for script in (torch._C.ScriptFunction, torch._C.ScriptMethod):
            self._replace(script, "__call__", _script_door)
        for owner, name in TRACERS:
            if hasattr(owner, name):
                self._replace(owner, name, _tracer_door)
        self._replace(torch, "compile", self._compile_door)
        self._install_at_compilers()

    def _install_at_compilers(self) -> None:
        self._undo.append(at_compiled_calls(_entering_compiled))
        for owner, name in loaded_graph_makers():
            if not hasattr(getattr(owner, name), _BEHIND):
                self._replace(owner, name, _tracer_door)

    def _compile_door(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def compile_it(*args: Any, **kwargs: Any) -> Any:
            if args:
                args = (_without_door(args[0]), *args[1:])
            # The first call imports dynamo. A module's way of being called is looked up here, and kept.
            with as_usual():
                compiled = original(*args, **kwargs)
            with self._lock:
                if self._users and _watcher() is not None:
                    self._install_at_compilers()
            return compiled

        return compile_it

    def _replace(self, owner: Any, name: str, door_to: Callable[[Any], Any]) -> None:
        found = getattr(owner, name)
        # Somebody (warnings.catch_warnings in a fixture) may have put an old door back.
        original = getattr(found, _BEHIND, found)
        # A run of many short sessions goes through the same doors every time.
        place = (owner, name)
        known = self._made.get(place)
        if known is None or getattr(known[0], _BEHIND) is not original:
            own = vars(owner)
            door = door_to(original)
            setattr(door, _BEHIND, original)
            inherited = isinstance(owner, type) and name not in own
            known = self._made[place] = (door, inherited, isinstance(own.get(name), staticmethod))
        door, inherited, static = known
        setattr(owner, name, staticmethod(door) if static else door)

        def undo() -> None:
            # Whoever has put something over the door keeps it: with nobody behind it, it leads straight on.
            if getattr(owner, name) is not door:
                return
            if inherited:
                delattr(owner, name)
            else:
                setattr(owner, name, staticmethod(original) if static else original)

        self._undo.append(undo)


_DOORS = _Doors()


def _backward_door(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def run_backward(outputs: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        watcher = _watcher()
        if watcher is None:
            return original(outputs, *args, **kwargs)
        return watcher.run_backward(original, outputs, args, kwargs)

    return run_backward


def _zero_grad_door(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def zero_grad(self: Any, *args: Any, **kwargs: Any) -> Any:
        watcher = _watcher()
        ended = watcher.zeroing(self) if watcher is not None else None
        try:
            return original(self, *args, **kwargs)
        finally:
            if ended is not None:
                ended()

    skip_by_dynamo(zero_grad.__code__)  # type: ignore[attr-defined]
    return zero_grad


def _start_door(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def make_grads(outputs: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        try:
            return original(outputs, *args, **kwargs)
        except RuntimeError as error:
            watcher = _watcher()
            if watcher is not None:
                watcher.refused(outputs, error)
            raise

    return make_grads


def _grad_mode_door(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def set_mode(self: Any, mode: bool) -> None:
        __tracebackhide__ = True
        watcher = _watcher()
        if watcher is not None:
            watcher.switching(mode)
        original(self, mode)

    skip_by_dynamo(set_mode.__code__)  # type: ignore[attr-defined]
    return set_mode


def _inference_door(original: Callable[..., Any], *, entered: bool) -> Callable[..., Any]:
    @functools.wraps(original)
    def inference(self: Any, *args: Any) -> Any:
        watcher = _watcher()
        if watcher is not None:
            watcher.inference(entered and self.mode)
        return original(self, *args)

    skip_by_dynamo(inference.__code__)  # type: ignore[attr-defined]
    return inference


def _eval_door(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def put_to_eval(self: torch.nn.Module) -> Any:
        watcher = _watcher()
        if watcher is not None:
            watcher.putting_to_eval(self)
        return original(self)

    skip_by_dynamo(put_to_eval.__code__)  # type: ignore[attr-defined]
    return put_to_eval


def _module_door(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def call(self: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        watcher = _watcher()
        if watcher is None:
            return original(self, *args, **kwargs)
        # No frame but this one stands between a module and those that it calls: recursion has a limit.
        entered = watcher.entering_module(self, args, kwargs)
        if len(entered) == KNOWN:
            return watcher.run_layer(entered, original, self, args)
        try:
            out = original(self, *args, **kwargs)
        except BaseException:
            watcher.module_raised(self)
            raise
        watcher.leaving_module(entered, self, out, len(args))
        return out

    skip_by_dynamo(call.__code__, inside=False)  # type: ignore[attr-defined]
    return call


def _without_door(function: Any) -> Any:
    """A bound ``__call__`` of a module as it is without a session; anything else as it is."""
    behind = getattr(getattr(function, "__func__", None), _BEHIND, None)
    return function if behind is None else MethodType(behind, function.__self__)


def _hook_door(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def hooked(*args: Any, **kwargs: Any) -> Any:
        watcher = _watcher()
        # A check hooks every node, and takes its hooks away again.
        if watcher is not None and not (getattr(args[-1], "__module__", None) or "").startswith(_OURS):
            watcher.hooking(packs=isinstance(args[0], torch.autograd.graph.saved_tensors_hooks))
        return original(*args, **kwargs)

    skip_by_dynamo(hooked.__code__)  # type: ignore[attr-defined]
    return hooked


def _exposure_door(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def expose(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        watcher = _watcher()
        if watcher is not None:
            watcher.exposing(self)
        return original(self, *args, **kwargs)

    skip_by_dynamo(expose.__code__)  # type: ignore[attr-defined]
    return expose


def _script_door(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def call(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        if _watcher() is None:
            return original(self, *args, **kwargs)
        return run_script(original, self, args, kwargs)

    skip_by_dynamo(call.__code__)  # type: ignore[attr-defined]
    return call


def _tracer_door(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def trace(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        if _watcher() is None:
            return original(*args, **kwargs)
        made = run_tracer(original, args, kwargs)
        # dynamo's take the function first and what it is called with later.
        return _tracer_door(made) if isinstance(made, FunctionType) else made

    return trace


def _entering_compiled() -> Callable[[], None]:
    """A compiled function begins; what is returned is called when it has ended."""
    watcher = _watcher()
    return _nothing if watcher is None else watcher.entering_compiled(_DOORS.apart())


def _nothing() -> None:
    """For nobody."""


def _before_step(optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    watcher = _watcher()
    if watcher is not None:
        watcher.before_step(optimizer, args, kwargs)


def _after_step(optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    watcher = _watcher()
    if watcher is not None:
        watcher.after_step(optimizer)


def _warning_door(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def showwarning(
        message: Any, category: Any, filename: str, lineno: int, *args: Any, **kwargs: Any
    ) -> Any:
        watcher = _watcher()
        if watcher is not None:
            watcher.warned(str(message), filename, lineno)
        return original(message, category, filename, lineno, *args, **kwargs)

    return showwarning


skip_by_dynamo(_before_step.__code__, _after_step.__code__, _entering_compiled.__code__)

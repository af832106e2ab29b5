"""What runs where no operation can be seen: what TorchScript runs, and what ``torch.compile`` has compiled.

TorchScript runs ``torch.jit.trace`` itself, and the functions and modules that it or ``torch.jit.script`` made.

TorchScript's interpreter hands a dispatch mode Python numbers in the place of tensors that were constants of a trace, and
then fails. So the recorders leave the stack of modes while it runs, and its nodes are listed as not verified. A custom
Function's forward is differentiated from the operations that were seen in it, so there the recorders stay wherever the
recorded program holds no such constant.
"""

from __future__ import annotations

import re
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch.utils._python_dispatch import (
    _disable_current_modes,
    _get_current_dispatch_mode_stack,
    _pop_mode,
    _push_mode,
)

from ..capture.identity import _storage_address
from ..capture.quiet import quiet
from ..capture.recorder import Recorder
from ..evidence import Location
from .compilers import as_usual, call_of, is_compiled, with_keys, without_flags
from .recorder import WatchingRecorder

__all__ = [
    "TRACERS",
    "CompiledRun",
    "letting_through",
    "run_script",
    "run_tracer",
    "traced_nodes",
    "without_recorders",
]

_RUN_BY_TORCHSCRIPT = "run by TorchScript"
_COMPILED = "compiled by torch.compile"
TRACERS: tuple[tuple[Any, str], ...] = (
    (torch._C, "_create_function_from_trace"),
    (torch._C, "_create_function_from_trace_with_dict"),
    (torch._C, "_create_graph_by_tracing"),
    (torch._C, "_freeze_module"),
    (torch._C, "_jit_pass_optimize_for_inference"),
    (torch._C.Graph, "__str__"),
    (torch._C.Graph, "__repr__"),
    (torch.jit._trace, "_check_trace"),
    (torch._C.ScriptModule, "_create_method_from_trace"),
    (torch._C.ScriptModule, "_create_method_from_trace_with_dict"),
)
"""What runs Python code to record it, or recorded code to simplify or to print it; below ``torch.jit``, so that whoever has
imported its functions by name comes by here too."""

_MARK = "gradcheck_suite:torchscript"
_BACKWARD = "DifferentiableGraphBackward"
_CONSTANT = re.compile(r"prim::NumToTensor|prim::Constant\[value=(\{|<Tensor>)")
_MOST_NODES = 10_000

# Of each function or method: whether it may write to its arguments, and whether it holds a number that passes for a tensor.
_traits: weakref.WeakKeyDictionary[Any, tuple[bool, bool]] = weakref.WeakKeyDictionary()


@contextmanager
def without_recorders() -> Iterator[list[WatchingRecorder]]:
    """While it lasts, no recorder is on the stack of modes; gives those that were, the outermost first."""
    modes = _users_modes()
    recorders = [mode for mode in modes if isinstance(mode, WatchingRecorder)]
    if not recorders:
        yield []
        return
    _restack(modes, [mode for mode in modes if mode not in recorders])
    try:
        yield recorders
    finally:
        now = _users_modes()
        # Below whatever was entered meanwhile and stays.
        later = [mode for mode in now if mode not in modes]
        _restack(now, [mode for mode in modes if mode in recorders or mode in now] + later)


def run_tracer(original: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Record or simplify a program as it happens where nobody watches: sessions see nothing of it."""
    __tracebackhide__ = True
    with quiet(), without_recorders(), as_usual():
        return original(*args, **kwargs)


def run_script(
    original: Callable[..., Any], function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    """Call a function or method of TorchScript as it runs where nobody watches.

    What it writes into is known afterwards, and so are the nodes it made: :func:`traced_nodes` tells them.

    Args:
        original: its own ``__call__``.
        function: the function or method.
        args, kwargs: of the call.
    """
    __tracebackhide__ = True
    if torch._C._get_tracing_state() is not None:  # a part of what is traced; the recorders are away
        return original(function, *args, **kwargs)
    recorders = [mode for mode in _users_modes() if isinstance(mode, WatchingRecorder)]
    if not recorders:
        return original(function, *args, **kwargs)
    writes, constants = _traits_of(function)
    frames = [recorder.sources.find(1, look_for_function=True)[1] for recorder in recorders]
    in_forward = not torch.is_grad_enabled() and any(frame is not None for frame in frames)
    if in_forward and not constants:
        return original(function, *args, **kwargs)
    tensors = list(_tensors((*args, *kwargs.values())))
    if writes:
        tensors += _state(function)
    for recorder, frame in zip(recorders, frames):
        if recorder.broken is None:
            _before(recorder, frame if in_forward else None, tensors if writes else (), _RUN_BY_TORCHSCRIPT)
    versions = [(tensor, tensor._version) for tensor in tensors] if writes else []
    stops = {id(node) for node in _nodes_of(tensors)}
    with quiet(), without_recorders():
        result = original(function, *args, **kwargs)
    made = _made((result, tensors), stops, recorders)
    for node in made:
        node.metadata[_MARK] = _name(function)
    for recorder in recorders:
        if recorder.broken is None:
            location, _ = recorder.sources.find(1, look_for_function=False)
            _after(recorder, versions, location, "TorchScript")
    return result


class CompiledRun:
    """A function that ``torch.compile`` has compiled runs as it does where nobody watches, from now on until :meth:`end`.

    What it writes into is known afterwards, by the versions of its arguments and of other tensors.

    Args:
        known: tensors that it may write to besides its arguments, such as parameters.
        apart: takes the doors out while it lasts.
    """

    def __init__(self, known: Iterable[torch.Tensor], apart: AbstractContextManager[None]) -> None:
        modes = _users_modes()
        self._recorders = [mode for mode in modes if isinstance(mode, WatchingRecorder)]
        self._call = call = call_of(sys._getframe(1))
        frames = [recorder.sources.find(1, look_for_function=True)[1] for recorder in self._recorders]
        for recorder, frame in zip(self._recorders, frames):
            if recorder.broken is None:
                _before(recorder, None if torch.is_grad_enabled() else frame, (), _COMPILED)
        tensors = [*_tensors((*call.args, *call.kwargs.values())), *known]
        owner = getattr(call.function, "__self__", None)
        if isinstance(owner, torch.nn.Module):
            tensors += [*owner.parameters(), *owner.buffers()]
        self._versions = [(t, t._version) for t in tensors if not t.is_inference()]
        self._stack = stack = ExitStack()
        with ExitStack() as entered:
            entered.enter_context(quiet())
            entered.enter_context(without_recorders())
            entered.enter_context(without_flags([m for m in modes if m not in self._recorders]))
            entered.enter_context(as_usual())
            entered.enter_context(apart)
            stack.push(entered.pop_all())

    def end(self, *, late: bool = False) -> None:
        """It has ended, or raised.

        Args:
            late: dynamo's wrapper has been left since.
        """
        if late:
            self._stack.close()
            return
        with with_keys(self._call):
            self._stack.close()
        for recorder in self._recorders:
            if recorder.broken is None:
                location, _ = recorder.sources.find(1, look_for_function=False)
                _after(recorder, self._versions, location, "a compiled function")


def traced_nodes(recorder: Recorder, by_key: Mapping[int, Any]) -> dict[int, tuple[str, str]]:
    """Those of a graph's nodes that nobody can speak about because what they differentiate ran unseen.

    Returns:
        By key, what the function is called that made the node, and why it ran unseen.
    """
    found: dict[int, tuple[str, str]] = {}
    for key, node in by_key.items():
        if key < 0:
            continue
        name: str = node.metadata.get(_MARK, "")
        if name or _runs_torchscript(node):
            found[key] = (name or "a function of TorchScript", _RUN_BY_TORCHSCRIPT)
        elif is_compiled(node):
            found[key] = ("a compiled function", _COMPILED)
        else:
            origin = recorder.origin_of(node)
            if origin is not None and origin.opaque and origin.function is not None:
                found[key] = (f"a part of {origin.function.name}", origin.opaque)
    return found


@contextmanager
def letting_through(nodes: Iterable[Any]) -> Iterator[None]:
    """While it lasts, those of these nodes whose backward runs unseen do so without recorders."""
    unseen = [node for node in nodes if is_compiled(node) or _runs_torchscript(node) or _branches(node)]
    if not unseen:
        yield
        return
    # Each node runs with a copy of the modes of the thread that called the backward: what is taken off there comes back by
    # itself.
    handles = [node.register_prehook(_take_off) for node in unseen]
    others = [mode for mode in _users_modes() if not isinstance(mode, WatchingRecorder)]
    try:
        # A backward is compiled when it runs for the first time.
        with without_flags(others) if any(map(is_compiled, unseen)) else nullcontext():
            yield
    finally:
        for handle in handles:
            handle.remove()


def _take_off(cotangents: Sequence[torch.Tensor | None]) -> None:
    modes = _users_modes()
    _restack(modes, [mode for mode in modes if not isinstance(mode, WatchingRecorder)])


def _runs_torchscript(node: Any) -> bool:
    return type(node).__name__ == "CppFunction" and node.name().endswith(_BACKWARD)


def _branches(node: Any) -> bool:
    """Whether a node's backward calls ``torch.cond``, which older torch refuses under any mode but its own."""
    return type(node).__name__ == "CondAutogradOpBackward"


# -- around a call -----------------------------------------------------------------------------------------------------


def _before(recorder: WatchingRecorder, frame: Any, written: Sequence[torch.Tensor], reason: str) -> None:
    """What an operation would do to the recorder's books before it runs; see ``Recorder._before``."""
    if frame is not None:
        segment = recorder._segment_for(frame)
        if segment is not None:
            segment.origin.opaque = reason
    recorder._settle()
    with _disable_current_modes(), torch.no_grad():
        for tensor in written:
            number = recorder.memory_number(tensor)
            if number is not None:
                recorder.values.before_write(number)


def _after(
    recorder: WatchingRecorder,
    versions: Sequence[tuple[torch.Tensor, int]],
    location: Location | None,
    writer: str,
) -> None:
    for tensor, version in versions:
        if tensor._version == version or tensor.layout is not torch.strided:
            continue
        number = recorder.memory_number(tensor)
        if number is not None:
            recorder.note_write(number, writer, location)
        memory = _storage_address(tensor)
        recorder._listener.wrote(writer, tensor, memory, None, from_gradient=False)


def _made(results: Any, stops: set[int], recorders: Sequence[WatchingRecorder]) -> list[Any]:
    """The nodes between what a call returned and what it was given."""
    marks = [recorder._mark for recorder in recorders]
    waiting = list(_nodes_of(_tensors(results)))
    seen: dict[int, Any] = {}
    while waiting and len(seen) < _MOST_NODES:
        node = waiting.pop()
        if id(node) in seen or id(node) in stops or type(node).__name__ == "AccumulateGrad":
            continue
        if any(mark in node.metadata for mark in marks):
            continue  # an operation that was seen made it
        seen[id(node)] = node
        waiting.extend(parent for parent, _ in node.next_functions if parent is not None)
    return list(seen.values())


def _name(function: Any) -> str:
    name: str = function.name
    if isinstance(function, torch._C.ScriptMethod):
        kind = str(function.owner._type()).rsplit(".", 1)[-1]
        return f"{kind}.{name}"
    return name


def _traits_of(function: Any) -> tuple[bool, bool]:
    known = _traits.get(function)
    if known is None:
        with _disable_current_modes():  # a graph's text shows its constants, by way of operations
            graph = function.inlined_graph
            known = _traits[function] = (_may_write(graph), bool(_CONSTANT.search(str(graph))))
    return known


def _may_write(block: Any) -> bool:
    for node in block.nodes():
        kind = node.kind()
        # Norms write their running statistics without saying so; what Python does is not known.
        if "!" in node.schema() or "_norm" in kind or kind in ("prim::PythonOp", "prim::SetAttr"):
            return True
        if any(_may_write(inner) for inner in node.blocks()):
            return True
    return False


def _state(function: Any) -> list[torch.Tensor]:
    """The parameters and buffers of the module that a method belongs to."""
    if not isinstance(function, torch._C.ScriptMethod):
        return []
    found: list[torch.Tensor] = []
    waiting = [function.owner]
    while waiting:
        module = waiting.pop()
        for kind in (torch._C.ParameterDict, torch._C.BufferDict):
            held: Any = kind(module)
            found.extend(tensor for _, tensor in held.items() if isinstance(tensor, torch.Tensor))
        waiting.extend(inner for _, inner in torch._C.ModuleDict(module).items())
    return found


def _nodes_of(tensors: Iterable[torch.Tensor]) -> Iterator[Any]:
    for tensor in tensors:
        try:
            node = tensor.grad_fn
        except RuntimeError:  # a view from under no_grad whose base was written to
            continue
        if node is not None:
            yield node


def _tensors(values: Any) -> Iterator[torch.Tensor]:
    waiting = [values]
    while waiting:
        value = waiting.pop()
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            waiting.extend(value)
        elif isinstance(value, Mapping):
            waiting.extend(value.values())


# -- the stack of modes ------------------------------------------------------------------------------------------------


def _users_modes() -> list[Any]:
    """The modes on the stack other than torch's own (fake tensors, proxies), which have a place of their own."""
    return [m for m in _get_current_dispatch_mode_stack() if getattr(m, "_mode_key", None) is None]


def _restack(before: Sequence[Any], after: Sequence[Any]) -> None:
    if list(before) == list(after):
        return
    for _ in before:
        _pop_mode()
    for mode in after:
        _push_mode(mode)

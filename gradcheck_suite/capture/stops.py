"""Values that leave the autograd graph while a function runs: where they do, and running it with them held constant.

``detach()`` and ``torch.no_grad()`` say in so many words that a value is to be a constant. The derivative that
autograd then gives is that of *another function*: the one in which the value does not move. It can be run: the values
are recorded once, and given back in the same order whenever the leaves have moved.
"""

from __future__ import annotations

import functools
import types as python_types
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree

from ..evidence import Location
from .sources import SourceFinder

__all__ = ["Exit", "StopGradients", "StrayedError"]

_DETACHING = {torch.detach, Tensor.detach, Tensor.detach_}
_NUMBERS = {Tensor.item, Tensor.tolist, Tensor.__float__, Tensor.__complex__}
_ARRAYS: set[Any] = {Tensor.numpy, Tensor.__array__}
_DATA = Tensor.data.__get__  # type: ignore[attr-defined]
_SET_GRAD_ENABLED = torch._C._set_grad_enabled
# These take nothing of a tensor but its shape.
_CREATING = {"new_empty", "new_empty_strided", "new_zeros", "new_ones", "new_full"}
# These end like in-place operations, and write no values.
_NO_WRITES = {"requires_grad_", "detach_", "share_memory_", "rename_", "__int__", "__index__", "__invert__"}


class StrayedError(Exception):
    """Another run read other values out of the graph, or in another order: nothing can be held constant."""


@dataclass(frozen=True)
class Exit:
    """One line at which values leave the graph.

    Attributes:
        kind: ``"detach"``, ``"no_grad"`` (also inference mode), ``"number"`` (``item()``, ``float()``,
            ``tolist()``), ``"data"``, ``"numpy"``, or ``"function"`` for any other whose result has no history
            (``torch.tensor(x)``).
        location: the user's line.
    """

    kind: str
    location: Location | None

    @property
    def deliberate(self) -> bool:
        """Whether the line says in so many words that no gradient is to flow.

        ``x.detach().numpy()`` does not: torch insists on the ``detach`` there.
        """
        return self.kind in ("detach", "no_grad")


@dataclass(eq=False)
class _Event:
    """One passage: which function, through which exit, the values that came out, and what it wrote."""

    name: str
    exit: int
    values: list[Any]
    written: Tensor | None = None
    aliased: bool = False


@dataclass(eq=False)
class _State:
    phase: str
    cursor: int = 0
    arrays: int = 0
    off: bool = False
    views: dict[int, _Event] = field(default_factory=dict)


class StopGradients(TorchFunctionMode):
    """Records at one point what leaves the graph, and holds chosen exits constant at others.

    What runs inside a custom Function's forward is none of this: there, everything is without history.

    Attributes:
        exits: the lines found, in the order of their first passage.
        held: indices of the exits that are held constant by :meth:`holding`.
        strayed: whether some run could not be held because it took another course.
    """

    def __init__(self) -> None:
        super().__init__()
        self.exits: list[Exit] = []
        self.held: frozenset[int] = frozenset()
        self.strayed = False
        self._events: list[_Event] = []
        self._live: list[Any] = []
        self._sources = SourceFinder()
        self._state = _State("idle")

    @contextmanager
    def _running(self, phase: str) -> Iterator[None]:
        self._state = _State(phase)
        with self:
            yield
        if phase == "hold" and self._state.cursor != len(self._events):
            self.strayed = True
            raise StrayedError("fewer values left the graph than in the recorded run")

    def recording(self) -> Any:
        """A context: the one run that is recorded."""
        self.exits.clear()
        self._events.clear()
        return self._running("record")

    def passing(self) -> Any:
        """A context: a run that holds nothing, after which :meth:`holding` knows what NumPy would have seen."""
        self._live.clear()
        return self._running("pass")

    def holding(self) -> Any:
        """A context: a run in which the exits :attr:`held` give the recorded values.

        Raises:
            StrayedError: the run takes another course.
        """
        return self._running("hold")

    @property
    def reads_arrays(self) -> bool:
        """Whether a run must be preceded by one inside :meth:`passing`: arrays are not to be held."""
        return any(
            self.exits[event.exit].kind == "numpy" and event.exit not in self.held for event in self._events
        )

    @property
    def aliased(self) -> bool:
        """Whether memory of a detached value is written afterwards: holding it would lose that write."""
        return any(event.aliased and self.exits[event.exit].kind == "detach" for event in self._events)

    def __torch_function__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is _SET_GRAD_ENABLED:
            if not self._in_function():
                self._state.off = not args[0]
            return func(*args, **kwargs)
        opened = _opened(func) if torch.is_grad_enabled() else None
        if opened is not None:
            with self:
                return opened(*args, **kwargs)
        kind = self._kind(func, args, kwargs)
        if kind == "" and not (self._state.phase == "record" and self._state.views and _writes(func, kwargs)):
            return func(*args, **kwargs)
        if kind == "":
            self._note_write(args, kwargs)
            return func(*args, **kwargs)
        tracked = _tracks(args, kwargs)
        result = func(*args, **kwargs)
        if kind == "maybe":
            if not tracked or not _is_exit(result) or self._in_function():
                return result
            kind = "function"
        if self._state.phase == "record":
            self._record(kind, func, args, kwargs, result)
            return result
        return self._repeat(kind, func, args, kwargs, result)

    def _kind(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """Which exit this call is; "" for none, "maybe" where the result must tell."""
        if self._state.off or torch.is_inference_mode_enabled():
            quiet = getattr(func, "__name__", "") in _NO_WRITES or func in _ARRAYS
            return "" if quiet else "no_grad"
        if not torch.is_grad_enabled():
            return ""  # a custom Function's forward
        name = getattr(func, "__name__", "")
        if name in _CREATING or name.endswith("_like"):
            return ""
        first = args[0] if args else None
        if not isinstance(first, Tensor):
            return "maybe" if _tracks(args, kwargs) else ""
        if func in _ARRAYS:
            return "" if self._in_function() else "numpy"
        if not first.requires_grad:
            return "maybe" if not _writes(func, kwargs) and _tracks(args, kwargs) else ""
        if func in _DETACHING:
            kind = "detach"
        elif func in _NUMBERS:
            kind = "number"
        elif func == _DATA:
            kind = "data"
        else:
            return "" if _writes(func, kwargs) else "maybe"
        return "" if self._in_function() else kind

    def _in_function(self) -> bool:
        return self._sources.find(2, look_for_function=True)[1] is not None

    # ------------------------------------------------------------------------------------------- the two passes

    def _record(
        self, kind: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> None:
        values = [_kept(x) for x in _pytree.tree_leaves(result)]
        target = _target(func, args, kwargs)
        if target is None and all(value is None for value in values):
            return  # a shape, a device: nothing that moves
        location, function = self._sources.find(2, look_for_function=True)
        if function is not None:
            location = self._sources.caller_of(function)
        place = Exit(kind, location)
        if place not in self.exits:
            self.exits.append(place)
        event = _Event(getattr(func, "__name__", ""), self.exits.index(place), values)
        if target is not None:
            self._note_write(args, kwargs)
            # A leaf that is projected on purpose (clamped weights) stays one: its gradient is that of afterwards.
            event.written = None if target.requires_grad else target.detach().clone()
        elif func is not Tensor.detach_:
            memories = {_memory(x) for x in _pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)} - {
                0
            }
            for x in _pytree.tree_leaves(result):
                if isinstance(x, Tensor) and _memory(x) in memories:
                    self._state.views[_memory(x)] = event
        self._events.append(event)

    def _note_write(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for x in (*args[:1], kwargs.get("out")):
            event = self._state.views.get(_memory(x)) if isinstance(x, Tensor) else None
            if event is not None:
                event.aliased = True

    def _repeat(
        self, kind: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> Any:
        leaves, structure = _pytree.tree_flatten(result)
        target = _target(func, args, kwargs)
        if target is None and all(_kept(x, copy=False) is None for x in leaves):
            return result
        if self._state.phase == "pass":
            if kind == "numpy":
                self._live.append(np.array(result))
            return result
        event = self._next(getattr(func, "__name__", ""), kind)
        if len(event.values) != len(leaves):
            self._stray(f"{event.name} gave another structure")
        if kind == "numpy" and event.exit not in self.held:
            if self._state.arrays >= len(self._live):
                self._stray("another array was read")
            self._state.arrays += 1
            return self._live[self._state.arrays - 1].copy()
        if event.exit not in self.held or event.aliased:
            return result
        if target is not None:
            if event.written is not None:
                self._check(event.written, target)
                target.detach().copy_(event.written)
            return result
        if func is Tensor.detach_:
            # What held views of it keeps the old memory: only this tensor is held.
            self._check(event.values[0], result)
            result.data = event.values[0].clone()
            return result
        held = []
        for value, now in zip(event.values, leaves):
            if isinstance(value, Tensor) and isinstance(now, Tensor):
                self._check(value, now)
                held.append(value.clone())
            else:
                held.append(now if value is None else value)
        return _pytree.tree_unflatten(held, structure)

    def _next(self, name: str, kind: str) -> _Event:
        index = self._state.cursor
        if index >= len(self._events):
            self._stray("more values left the graph than in the recorded run")
        event = self._events[index]
        if event.name != name or self.exits[event.exit].kind != kind:
            self._stray(f"{name} was called where the recorded run called {event.name}")
        self._state.cursor += 1
        return event

    def _check(self, value: Tensor, now: Tensor) -> None:
        if value.shape != now.shape or value.dtype != now.dtype:
            self._stray(f"{tuple(now.shape)} came out where the recorded run had {tuple(value.shape)}")

    def _stray(self, why: str) -> None:
        self.strayed = True
        raise StrayedError(why)


def _writes(func: Any, kwargs: dict[str, Any]) -> bool:
    if kwargs.get("out") is not None:
        return True
    name = getattr(func, "__name__", "")
    if name in _NO_WRITES:
        return False
    return name == "__setitem__" or (
        name.startswith("__i") if name.endswith("__") else name.endswith("_") and not name.startswith("_")
    )


def _target(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """The tensor that a call writes into."""
    if not _writes(func, kwargs):
        return None
    target = kwargs["out"] if kwargs.get("out") is not None else args[0] if args else None
    return target if isinstance(target, Tensor) else None


def _tracks(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    for x in (*args, *kwargs.values()):
        if isinstance(x, Tensor):
            if x.requires_grad:
                return True
        elif type(x) in (list, tuple) and any(isinstance(y, Tensor) and y.requires_grad for y in x):
            return True
    return False


def _is_exit(result: Any) -> bool:
    """Whether a result is made of floating tensors without history."""
    tensors = [x for x in _pytree.tree_leaves(result) if isinstance(x, Tensor)]
    return any(x.is_floating_point() or x.is_complex() for x in tensors) and not any(
        x.requires_grad for x in tensors
    )


def _kept(x: Any, copy: bool = True) -> Any:
    """A value as it is recorded; None for what is no value of its own: a tracked tensor that is passed on, a shape."""
    if isinstance(x, Tensor):
        if x.requires_grad or x.layout is not torch.strided:
            return None
        return x.detach().clone() if copy else x
    if isinstance(x, np.ndarray):
        return x.copy() if copy else x
    return x if isinstance(x, (float, complex)) else None


def _memory(tensor: Tensor) -> int:
    """The address of a tensor's memory; 0 where it has none of its own (sparse, or wrapped by ``torch.func``)."""
    try:
        return tensor.untyped_storage().data_ptr() if tensor.layout is torch.strided else 0
    except (NotImplementedError, RuntimeError):
        return 0


@functools.cache
def _body(function: python_types.FunctionType) -> Callable[..., Any] | None:
    """The body of a ``torch.nn.functional`` function that detaches (``gumbel_softmax``), open to modes."""
    if function.__module__ != "torch.nn.functional" or "detach" not in function.__code__.co_names:
        return None
    names = [name for name in function.__globals__ if name.startswith("has_torch_function")]
    world = {**function.__globals__, **dict.fromkeys(names, _never)}
    return python_types.FunctionType(
        function.__code__, world, function.__name__, function.__defaults__, function.__closure__
    )


def _never(*_: Any) -> bool:
    return False


def _opened(func: Any) -> Callable[..., Any] | None:
    return _body(func) if isinstance(func, python_types.FunctionType) else None

"""How often nodes that are equal in all that matters have been verified, so that verification fades as a run goes on."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any

from ..capture.layer_calls import LayerOrigin
from ..capture.origins import NodeOrigin
from ..capture.seen import SeenRef
from ..evidence import TensorRef

__all__ = ["Ledger", "glance", "signature"]

_TIMES = 2
_TIMES_FUNCTION = 10
_MOST_FULL = 100_000


def signature(name: str, origin: NodeOrigin | None) -> tuple[Any, ...]:
    """What makes two nodes equal: operation, shapes, strides' order, dtypes, and arguments that are not tensors."""
    if origin is None:
        return (name,)
    cls = origin.function_class
    return (
        name,
        origin.role,
        None if cls is None else (cls.__module__, cls.__qualname__),
        tuple((op.name, _describe(op.args), _describe(tuple(op.kwargs.items()))) for op in origin.ops),
    )


def _describe(value: Any) -> Any:
    if isinstance(value, TensorRef):
        return value.shape, value.dtype, value.device, value.strides, value.requires_grad
    if isinstance(value, list | tuple):
        return tuple(_describe(item) for item in value)
    if isinstance(value, dict):
        return tuple((k, _describe(v)) for k, v in value.items())
    # A number that changes from step to step (a schedule, a random fill) makes no other operation.
    return type(value).__name__ if isinstance(value, float) else value


def glance(node: Any, origin: NodeOrigin | None) -> int | None:
    """A number that is equal for two nodes only if their :func:`signature` is, and costs a tenth of it; None for other kinds.

    It is read from the tensors themselves, which nobody has to describe for it.
    """
    if type(origin) is LayerOrigin:
        known = origin.call.template.glances
        if origin.position not in known:
            known[origin.position] = _glance(node, origin)
        return known[origin.position]
    return None if origin is None or origin.role != "op" else _glance(node, origin)


def _glance(node: Any, origin: NodeOrigin) -> int | None:
    op = origin.ops[0]
    try:
        return hash(
            (type(node), op.name, _look(op.args), _look(tuple(op.kwargs.items())) if op.kwargs else ())
        )
    except TypeError:
        return None


def _look(values: Sequence[Any]) -> tuple[Any, ...]:
    seen: list[Any] = []
    for value in values:
        kind = type(value)
        if kind is SeenRef:
            alias = value.alias
            seen.append((alias.shape, alias.dtype, alias.device, alias.stride(), value.requires_grad))
        elif kind is float:
            seen.append("float")
        elif kind is list or kind is tuple:
            seen.append(_look(value))
        elif isinstance(value, TensorRef) or kind is dict:
            raise TypeError("only what was seen lately is looked at")
        else:
            seen.append(value if kind is not bool else str(value))
    return tuple(seen)


class Ledger:
    """Counts verifications by signature; one may be shared by many sessions and threads."""

    def __init__(self, times: int = _TIMES, times_function: int = _TIMES_FUNCTION) -> None:
        self._times = times
        self._times_function = times_function
        self._counts: Counter[int] = Counter()
        self._lock = threading.Lock()
        self._full: set[int] = set()

    def is_full(self, number: int | None) -> bool:
        """Whether nodes with this :func:`glance` have all the verifications that they are to get."""
        return number is not None and number in self._full

    def note_full(self, number: int | None) -> None:
        """A node with this :func:`glance` was to get none."""
        if number is not None:
            with self._lock:
                if len(self._full) >= _MOST_FULL:
                    self._full.clear()
                self._full.add(number)

    def take(self, node_signature: tuple[Any, ...], *, function: bool) -> bool:
        """Whether a node with this signature is to be verified now; counts it if so."""
        limit = self._times_function if function else self._times
        key = hash(node_signature)
        with self._lock:
            if self._counts[key] >= limit:
                return False
            self._counts[key] += 1
            return True

    def give_back(self, node_signature: tuple[Any, ...]) -> None:
        """Undo a :meth:`take` whose verification said nothing."""
        with self._lock:
            self._counts[hash(node_signature)] -= 1
            self._full.clear()

    @property
    def distinct(self) -> int:
        """How many different nodes were verified."""
        with self._lock:
            return sum(1 for n in self._counts.values() if n > 0)

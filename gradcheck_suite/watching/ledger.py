"""How often nodes that are equal in all that matters have been verified, so that verification fades as a run goes on."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

from ..capture.origins import NodeOrigin
from ..evidence import TensorRef

__all__ = ["Ledger", "signature"]

_TIMES = 2
_TIMES_FUNCTION = 10


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


class Ledger:
    """Counts verifications by signature; one may be shared by many sessions and threads."""

    def __init__(self, times: int = _TIMES, times_function: int = _TIMES_FUNCTION) -> None:
        self._times = times
        self._times_function = times_function
        self._counts: Counter[int] = Counter()
        self._lock = threading.Lock()

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

    @property
    def distinct(self) -> int:
        """How many different nodes were verified."""
        with self._lock:
            return sum(1 for n in self._counts.values() if n > 0)

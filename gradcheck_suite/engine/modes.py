"""Per-thread switches that every primitive reads: recording, counting, perturbation, forward-mode levels."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ContextDecorator, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from .perturb import Perturbation

F = TypeVar("F", bound=Callable[..., Any])


class Mode:
    """The switches of one thread, in one object: a primitive pays a single thread-local lookup."""

    __slots__ = ("counter", "grad", "levels", "perturbation")

    def __init__(self) -> None:
        self.grad = True
        self.counter: Counter[str] | None = None
        self.perturbation: Perturbation | None = None
        self.levels: tuple[int, ...] = ()  # active forward-mode derivatives, outermost first


class _ThreadMode(threading.local):
    def __init__(self) -> None:
        self.mode = Mode()


THREAD = _ThreadMode()


def is_grad_enabled() -> bool:
    """Whether operations on this thread are recorded."""
    return THREAD.mode.grad


class _GradMode(ContextDecorator):
    """Context manager and decorator that sets recording and restores what was there before."""

    def __init__(self, enabled: bool) -> None:
        self._enabled = enabled
        self._before: list[bool] = []

    def _recreate_cm(self) -> _GradMode:
        return _GradMode(self._enabled)  # a decorated function may recurse or run on several threads

    def __enter__(self) -> None:
        self._before.append(THREAD.mode.grad)
        THREAD.mode.grad = self._enabled

    def __exit__(self, *exception: object) -> None:
        THREAD.mode.grad = self._before.pop()


class no_grad(_GradMode):
    """Record nothing inside: results do not require grad."""

    def __init__(self) -> None:
        super().__init__(False)


class enable_grad(_GradMode):
    """Record inside, also within `no_grad`."""

    def __init__(self) -> None:
        super().__init__(True)


class set_grad_enabled(_GradMode):
    """Set recording at once, as a statement; restored on exit when used as a context or decorator."""

    def __init__(self, enabled: bool) -> None:
        super().__init__(enabled)
        self._at_call = THREAD.mode.grad
        THREAD.mode.grad = enabled

    def __call__(self, function: F) -> F:
        THREAD.mode.grad = self._at_call  # as a decorator it acts on the function alone
        return super().__call__(function)

    def __enter__(self) -> None:
        self._before.append(self._at_call)
        THREAD.mode.grad = self._enabled


class OperationCount:
    """How often each primitive ran: `total`, and `by_name` as a Counter."""

    def __init__(self, counter: Counter[str]) -> None:
        self.by_name = counter

    @property
    def total(self) -> int:
        return sum(self.by_name.values())

    def __repr__(self) -> str:
        return f"OperationCount(total={self.total}, by_name={dict(self.by_name)})"


@contextmanager
def op_count() -> Iterator[OperationCount]:
    """Count the primitives executed inside, those of backward passes included."""
    mode = THREAD.mode
    outer = mode.counter
    mode.counter = Counter()
    count = OperationCount(mode.counter)
    try:
        yield count
    finally:
        mode.counter = outer
        if outer is not None:
            outer.update(count.by_name)

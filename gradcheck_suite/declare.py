"""Declarations a user makes about a Function: here, that its backward is intentionally not the derivative."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

__all__ = ["declared_surrogates", "surrogate_gradient", "surrogate_reason"]

T = TypeVar("T", bound=type)

_MARK = "__gradcheck_surrogate__"
_declared: ContextVar[frozenset[type]] = ContextVar("gradcheck_declared_surrogates", default=frozenset())


def surrogate_gradient(reason: str) -> Callable[[T], T]:
    """Declare that a Function's backward is a surrogate (straight-through, gradient reversal, ...).

    Args:
        reason: why; shown in every report, so that the declaration stays visible.

    Returns:
        A class decorator that marks the Function and returns it unchanged.

    Raises:
        TypeError: used without a reason (``@surrogate_gradient`` instead of ``@surrogate_gradient("...")``).
    """
    if not isinstance(reason, str) or not reason.strip():
        raise TypeError(
            f"declaring a surrogate gradient failed: the reason is {reason!r}, not a text. "
            'Write @surrogate_gradient("straight-through") above the class.'
        )

    def mark(cls: T) -> T:
        setattr(cls, _MARK, reason)
        return cls

    return mark


@contextmanager
def declared_surrogates(classes: Iterable[type]) -> Iterator[None]:
    """Declare Functions of somebody else to be surrogates while the block runs.

    Raises:
        TypeError: an entry is not a class.
    """
    chosen = frozenset(classes)
    for entry in chosen:
        if not isinstance(entry, type):
            raise TypeError(
                f"declaring surrogates failed: {entry!r} is not a class. A surrogate is a torch.autograd.Function. "
                "Pass the class itself, as in surrogates=(MySTE,)."
            )
    token = _declared.set(_declared.get() | chosen)
    try:
        yield
    finally:
        _declared.reset(token)


def surrogate_reason(cls: type) -> str:
    """The declared reason, or "" when neither the class nor the caller of a check makes such a declaration."""
    reason = getattr(cls, _MARK, "")
    if isinstance(reason, str) and reason:
        return reason
    return "named in surrogates=" if _declared.get() & frozenset(cls.__mro__) else ""

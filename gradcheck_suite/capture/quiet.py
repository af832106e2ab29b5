"""Work of our own that no session should take for the user's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["is_quiet", "quiet", "speaking"]

_depth: ContextVar[int] = ContextVar("gradcheck_quiet", default=0)


@contextmanager
def quiet() -> Iterator[None]:
    """What runs inside is a check of our own: sessions around it do not look at its backwards."""
    token = _depth.set(_depth.get() + 1)
    try:
        yield
    finally:
        _depth.reset(token)


def is_quiet() -> bool:
    """Whether a check of our own is running here."""
    return _depth.get() > 0


@contextmanager
def speaking() -> Iterator[None]:
    """Inside a check of our own: a session of our own begins, which is to look."""
    token = _depth.set(0)
    try:
        yield
    finally:
        _depth.reset(token)

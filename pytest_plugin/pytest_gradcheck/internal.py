"""Errors of our own: kept, told and counted, never raised into somebody's test."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["InternalErrors"]


class InternalErrors:
    """What went wrong in this process and has not been handed on yet."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self.count = 0
        """How many there were, handed on or not."""

    @contextmanager
    def guard(self, doing: str) -> Iterator[None]:
        """Run our own code; an exception in it becomes an entry here.

        Every kind of exception is caught: whatever it is, it must not reach the user's test. None is lost: the run
        prints each of them with its traceback and its exit code is not 0.
        """
        try:
            yield
        except Exception:
            self.add(doing, traceback.format_exc())

    def add(self, doing: str, text: str) -> None:
        """Keep an error: what was being done, and its traceback."""
        self.count += 1
        self._texts.append(f"while {doing}:\n\n{text.rstrip()}")

    def drain(self) -> tuple[str, ...]:
        """Hand on the entries and forget them."""
        texts, self._texts = tuple(self._texts), []
        return texts

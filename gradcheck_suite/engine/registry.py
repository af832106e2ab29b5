"""Append-only tables of what the engine can do: primitives (with derivatives) and derived functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from .primitive import Primitive

PRIMITIVES: dict[str, Primitive] = {}
"""Every registered primitive by name; `engine.ops` offers them as functions."""

DERIVED: dict[str, Callable[..., Any]] = {}
"""Functions composed of primitives, which therefore need no derivative of their own."""

F = TypeVar("F", bound=Callable[..., Any])


def place(function: Callable[..., Any]) -> str:
    """Module and line where `function` is defined, for messages."""
    code = getattr(function, "__code__", None)
    return f"{function.__module__}:{code.co_firstlineno}" if code is not None else function.__module__


def refuse_duplicate(name: str, newcomer: Callable[..., Any], *tables: dict[str, Any]) -> None:
    """Raise ValueError that names both places when `name` is already in one of `tables`."""
    for table in tables:
        if name in table:
            holder = getattr(table[name], "value", table[name])
            raise ValueError(
                f"registering {name!r} failed: it is defined in {place(holder)} and again in "
                f"{place(newcomer)}. A name means one function. Rename one of the two."
            )


def derived(function: F) -> F:
    """Offer a function that is composed of primitives in `engine.ops` under its own name.

    Raises ValueError when a primitive or another derived function has that name.
    """
    refuse_duplicate(function.__name__, function, PRIMITIVES, DERIVED)
    DERIVED[function.__name__] = function
    return function

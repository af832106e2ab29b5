"""Every operation by name: all registered primitives and the functions derived from them.

    from gradcheck_suite.engine import ops as e
    e.matmul(a, b)

Importing this module imports every module of `engine/primitives/`.
"""

from __future__ import annotations

from typing import Any

from .primitives import discover
from .registry import DERIVED, PRIMITIVES

discover()
globals().update(PRIMITIVES)
globals().update(DERIVED)


def __getattr__(name: str) -> Any:
    """Operations that were registered after this module was imported."""
    for table in (PRIMITIVES, DERIVED):
        if name in table:
            return table[name]
    raise AttributeError(
        f"the engine has no operation {name!r}; gradcheck_suite.engine.PRIMITIVES lists them"
    )


def __dir__() -> list[str]:
    return sorted({*PRIMITIVES, *DERIVED})

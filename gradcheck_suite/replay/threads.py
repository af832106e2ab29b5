"""How many threads NumPy's linear algebra uses during a check.

OpenBLAS's threads go on spinning for some 25 ms after a product, in wait for the next. In a check of a few milliseconds
they take the processor from what follows: torch's own threads, and the engine's elementwise operations.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any

__all__ = ["few_threads", "one_thread"]

# Of processor time, of all threads together; a larger model gains more from several threads than it loses.
_SHORT = 0.15

_lock = threading.Lock()
_users = 0
_limiter: Any = None


@cache
def _libraries() -> Any:
    from threadpoolctl import ThreadpoolController

    # Other libraries' threads sleep, and torch may share them.
    return ThreadpoolController().select(internal_api="openblas")


@contextmanager
def one_thread() -> Iterator[None]:
    """While it lasts, OpenBLAS uses one thread in this process; the last to leave puts its number back."""
    global _users, _limiter
    with _lock:
        _users += 1
        if _users == 1:
            _limiter = _libraries().limit(limits=1)
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                _limiter.restore_original_limits()
                _limiter = None


def few_threads(seconds: float) -> AbstractContextManager[None]:
    """One thread for a model whose forward and backward take so little processor time; otherwise nothing changes."""
    return one_thread() if seconds < _SHORT else nullcontext()

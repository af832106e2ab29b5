"""What each ATen operation means, written with engine operations: forward mathematics only.

One file per family, one decorated function per operation; the gradient follows from the engine and owes nothing to
torch. Integer and boolean tensors are plain ndarrays, floating ones engine Tensors in double precision. Nothing
here imports torch, and nothing here knows about recording, memory layout or autograd: ``as_strided``, ``set_`` and
``resize_``, which need the geometry of memory, belong to the replay.

A package adds meanings for its own operations with the same decorator, imported by the user or announced as an
entry point of the group ``gradcheck_suite.meanings`` (a module, or a function to call).
"""

from __future__ import annotations

import pkgutil
import threading
from importlib import import_module
from importlib.metadata import entry_points

from .registry import (
    RECORDED,
    DuplicateMeaningError,
    Meaning,
    MeaningUnavailableError,
    MeaningUndefinedError,
    Mode,
    Recorded,
    known_names,
    lookup,
    meaning,
)

__all__ = [
    "RECORDED",
    "DuplicateMeaningError",
    "Meaning",
    "MeaningUnavailableError",
    "MeaningUndefinedError",
    "Mode",
    "Recorded",
    "known_names",
    "load",
    "lookup",
    "meaning",
]

_GROUP = "gradcheck_suite.meanings"
_lock = threading.RLock()
_loaded: list[str] = []


def load() -> None:
    """Import every module of this folder and every announced one, once.

    Raises:
        DuplicateMeaningError: two of them claim the same overload.
    """
    if _loaded:
        return
    with _lock:
        if _loaded:
            return
        names = sorted(module.name for module in pkgutil.iter_modules(__path__))
        for name in names:
            import_module(f"{__name__}.{name}")
        for entry in entry_points(group=_GROUP):
            announced = entry.load()
            if callable(announced):
                announced()
        _loaded.extend(names)

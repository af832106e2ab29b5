"""The moment when torch is imported: before it no gradient can exist, so there is nothing to watch and to pay for."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ["TorchArrival", "torch_is_here"]

_NAME = "torch"


def torch_is_here() -> bool:
    """Whether torch is imported completely in this process."""
    module = sys.modules.get(_NAME)
    spec = getattr(module, "__spec__", None)
    return module is not None and not getattr(spec, "_initializing", False)


class TorchArrival(MetaPathFinder):
    """Calls back as soon as ``import torch`` is done, so that a test which imports it itself is watched from there.

    A context manager; it changes how torch is found (not what is found) only while it is entered, and not at all once
    torch is there.
    """

    def __init__(self, arrived: Callable[[], None]) -> None:
        self._arrived = arrived

    def __enter__(self) -> TorchArrival:
        sys.meta_path.insert(0, self)
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Torch's own spec, with a loader that calls back; None for every other module."""
        if fullname != _NAME:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(_NAME)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_tell(module: ModuleType) -> None:
            execute(module)
            self._arrived()

        # The loader belongs to this spec alone; its class is left as it is.
        spec.loader.exec_module = execute_and_tell  # type: ignore[method-assign]
        return spec

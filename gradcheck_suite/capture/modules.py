"""Which ``nn.Module`` is running: the dotted path shown beside every operation."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)

from .dynamo import skip_by_dynamo

__all__ = ["ModuleStack"]


class ModuleStack:
    """Keeps the stack of modules whose forward is running in this thread.

    Names come from ``named_modules`` of the roots: those given, and every module called from outside any module.
    """

    def __init__(self, *roots: torch.nn.Module) -> None:
        self._names: weakref.WeakKeyDictionary[torch.nn.Module, str] = weakref.WeakKeyDictionary()
        self._roots: weakref.WeakSet[torch.nn.Module] = weakref.WeakSet()
        for root in roots:
            self._learn(root)
        self._local = threading.local()

    def _learn(self, root: torch.nn.Module) -> None:
        self._roots.add(root)
        for name, module in root.named_modules():
            self._names.setdefault(module, name or type(root).__name__)

    def parameter_names(self) -> dict[int, str]:
        """Name of every parameter of the roots known so far, by ``id``."""
        names: dict[int, str] = {}
        for root in self._roots:
            for name, parameter in root.named_parameters():
                names.setdefault(id(parameter), name)
        return names

    @property
    def current(self) -> str:
        """Path of the innermost running module, or ""."""
        stack = getattr(self._local, "stack", None)
        if not stack:
            return ""
        return stack[-1][1]  # type: ignore[no-any-return]

    def meet(self, module: torch.nn.Module) -> str:
        """Its path; "" where it is called inside a module that does not know it."""
        name = self._names.get(module)
        if name is None and not getattr(self._local, "stack", None):
            self._learn(module)
            name = self._names[module]
        return name or ""

    def enter(self, module: torch.nn.Module) -> None:
        """Its forward begins."""
        stack = getattr(self._local, "stack", None)
        if stack is None:
            stack = self._local.stack = []
        stack.append((id(module), self.meet(module) or type(module).__name__))

    def leave(self, module: torch.nn.Module) -> None:
        """It has ended, or raised."""
        stack = getattr(self._local, "stack", None)
        # A forward that raised in a torch without always_call hooks may have left entries behind.
        while stack:
            number, _ = stack.pop()
            if number == id(module):
                break

    def forget(self) -> None:
        """Nobody looks any more."""
        self._local = threading.local()

    @contextmanager
    def observing(self) -> Iterator[ModuleStack]:
        """Hook every module call while the block runs; the hooks are gone afterwards, also after an exception."""

        def enter(module: torch.nn.Module, inputs: Any) -> None:
            self.enter(module)

        def leave(module: torch.nn.Module, inputs: Any, output: Any) -> None:
            self.leave(module)

        skip_by_dynamo(enter.__code__, leave.__code__)
        first = register_module_forward_pre_hook(enter)
        try:
            second = register_module_forward_hook(leave, always_call=True)
            try:
                yield self
            finally:
                second.remove()
        finally:
            first.remove()
            self.forget()

"""Whether a module's forward runs because the module was called."""

from __future__ import annotations

import sys
from types import FrameType

import torch

from ..capture.modules import ModuleStack
from ..capture.sources import SourceFinder
from ..evidence import Location
from ..rules.forward_called_directly import ForwardCalledDirectly
from .collector import Collector

__all__ = ["DirectCalls"]

_MOST_LINES = 10_000
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class DirectCalls:
    """Looks once at every line of a method named ``forward`` in which an operation runs."""

    def __init__(self, modules: ModuleStack, sources: SourceFinder, findings: Collector) -> None:
        self._modules = modules
        self._sources = sources
        self._found: set[Location] = set()
        self._findings = findings
        self._seen: set[tuple[str, int, str]] = set()

    def operation(self, location: Location, path: str) -> None:
        """An operation runs at a line of a ``forward``.

        Args:
            location: that line.
            path: of the innermost module that was called; a forward that was not called runs under another one.
        """
        key = (location.file, location.line, path)
        if key in self._seen or len(self._seen) >= _MOST_LINES:
            return
        self._seen.add(key)
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and (
            frame.f_code.co_name != "forward" or frame.f_code.co_filename != location.file
        ):
            frame = frame.f_back
        if frame is None or frame.f_back is None or not frame.f_code.co_argcount:
            return
        module = frame.f_locals.get(frame.f_code.co_varnames[0])
        if not isinstance(module, torch.nn.Module) or self._is_running(module):
            return
        caller = frame.f_back
        line = self._sources.caller_of(frame)
        # A library may have its reasons; and a function of torch's in between was given the method by somebody else.
        if line is None or "site-packages" in line.file or line in self._found:
            return
        if (line.file, line.line) != (caller.f_code.co_filename, caller.f_lineno):
            return
        own = caller.f_code
        if (
            own.co_name == "__call__"
            and own.co_argcount
            and caller.f_locals.get(own.co_varnames[0]) is module
        ):
            return  # its class says itself what calling it means
        self._found.add(line)
        hooks = sum(len(getattr(module, name, ())) for name in _HOOKS)
        name = type(module).__name__
        self._findings.add(
            ("GC702", line), 0, lambda: ForwardCalledDirectly.from_call(line, name, location, hooks=hooks)
        )

    def _is_running(self, module: torch.nn.Module) -> bool:
        return any(number == id(module) for number, _ in getattr(self._modules._local, "stack", None) or ())

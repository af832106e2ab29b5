"""Who has switched gradients off, and whether it was forgotten to switch them on again."""

from __future__ import annotations

import inspect
import sys
from dataclasses import dataclass
from types import CodeType, FrameType

import torch

from ..capture.sources import SourceFinder
from ..evidence import Finding, Location
from ..rules.grad_mode_leak import GradModeLeak
from .collector import Collector

__all__ = ["GradModes"]

_SUSPENDABLE = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


@dataclass(frozen=True, eq=False, slots=True)
class _Switch:
    """Gradients were switched off here.

    Attributes:
        frame: of a generator or coroutine, which may be suspended; None for any other function.
    """

    location: Location | None
    code: CodeType | None
    frame: FrameType | None


class GradModes:
    """Follows grad mode and inference mode of the watched thread.

    ``no_grad``, ``enable_grad`` and ``set_grad_enabled`` all go through the constructor of the last.
    """

    def __init__(self, sources: SourceFinder, findings: Collector) -> None:
        self._sources = sources
        self._findings = findings
        self._began_enabled = True
        self._off: _Switch | None = None
        self._below: list[_Switch | None] = []
        self._inference: list[_Switch] = []

    def begin(self) -> None:
        """The session begins."""
        self._began_enabled = torch.is_grad_enabled() and not torch.is_inference_mode_enabled()

    def switching(self, enabled: bool) -> None:
        """``set_grad_enabled`` is about to be called."""
        if enabled == torch.is_grad_enabled():
            return
        caller = sys._getframe(3).f_code.co_name
        if enabled:
            if (
                caller == "__enter__"
            ):  # enable_grad inside no_grad: when it ends, the switch is in effect again
                self._below.append(self._off)
                del self._below[:-_DEEPEST]
            self._off = None
        elif caller == "__exit__" and self._below:
            self._off = self._below.pop()
        else:
            self._off = self._switch()

    def inference(self, entered: bool) -> None:
        """``inference_mode`` is entered or left."""
        if entered:
            self._inference.append(self._switch())
            del self._inference[:-_DEEPEST]
        elif self._inference:
            self._inference.pop()

    def check(self, moment: int) -> Finding | None:
        """Something that belongs to training begins: is a forgotten switch in effect?"""
        switch = self._in_effect()
        if switch is None:
            return None
        suspended = switch.frame is not None and switch.frame.f_back is None
        if not suspended and (switch.code is None or _is_running(switch.code)):
            return None
        return self._report(switch, moment, suspended)

    def ended(self, moment: int) -> None:
        """The session ends, after ``moment`` backwards; without any, nobody trains here."""
        if self._began_enabled and moment:
            self.check(moment)

    def switched_off_at(self) -> Location | None:
        """Where gradients were switched off that are off now."""
        switch = self._in_effect()
        return None if switch is None else switch.location

    def _in_effect(self) -> _Switch | None:
        if torch.is_inference_mode_enabled():
            return self._inference[-1] if self._inference else None
        return None if torch.is_grad_enabled() else self._off

    def _report(self, switch: _Switch, moment: int, suspended: bool) -> Finding | None:
        inference = torch.is_inference_mode_enabled()
        location = switch.location
        return self._findings.add(
            ("GC504", location),
            moment,
            lambda: GradModeLeak.from_switch(location, suspended=suspended, inference=inference),
        )

    def _switch(self) -> _Switch:
        location, _ = self._sources.find(2, look_for_function=False)
        frame: FrameType | None = sys._getframe(2)
        while (
            frame is not None
            and location is not None
            and (frame.f_code.co_filename, frame.f_lineno) != (location.file, location.line)
        ):
            frame = frame.f_back
        if frame is None or location is None:
            return _Switch(location, None, None)
        suspendable = bool(frame.f_code.co_flags & _SUSPENDABLE)
        return _Switch(location, frame.f_code, frame if suspendable else None)


_DEEPEST = 64


def _is_running(code: CodeType) -> bool:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code is code:
            return True
        frame = frame.f_back
    return False

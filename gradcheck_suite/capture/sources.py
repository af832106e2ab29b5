"""Where an operation comes from: the user's line, and the custom Function whose forward is running.

A frame is the user's when it belongs neither to torch nor to this package. A Function's forward is recognised by
its code object: ``Function.apply`` is a C function in current torch and leaves no frame of its own.
"""

from __future__ import annotations

import linecache
import os
import sys
from types import CodeType, FrameType
from typing import Any

import torch

from ..evidence import Location

__all__ = ["SourceFinder", "function_line", "is_running", "is_user_file"]

_TORCH = os.path.dirname(os.path.abspath(torch.__file__)) + os.sep
_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
# The demonstration models are the user's code as far as a report is concerned.
_OURS_BUT_USER = (os.path.join(_OURS, "capture", "demo.py"),)
_is_fwd_grad_enabled = torch._C._is_fwd_grad_enabled
_STANDARD_LIBRARY = os.path.dirname(os.path.abspath(os.__file__)) + os.sep


def is_user_file(filename: str) -> bool:
    """Whether a file is the user's: neither torch's, nor this package's, nor the standard library's."""
    if filename.startswith("<frozen"):
        return False
    path = os.path.abspath(filename) if not filename.startswith("<") else filename
    if path.startswith(_TORCH):
        return False
    if path.startswith(_OURS):
        return path in _OURS_BUT_USER
    in_standard_library = path.startswith(_STANDARD_LIBRARY) and "site-packages" not in path
    return not in_standard_library


def _unwrapped_codes(function: Any) -> list[CodeType]:
    """Code objects of a function and of what its decorators wrap (``functools.wraps`` chains)."""
    codes = []
    seen: set[int] = set()
    while function is not None and id(function) not in seen:
        seen.add(id(function))
        code = getattr(function, "__code__", None)
        if code is not None:
            codes.append(code)
        function = getattr(function, "__wrapped__", None) or getattr(function, "__func__", None)
    return codes


def function_line(cls: type, method: str) -> Location | None:
    """The line on which a Function's ``forward`` or ``backward`` is defined, or None for built-in code."""
    codes = _unwrapped_codes(_registered(cls, method) or getattr(cls, method, None))
    if not codes:
        return None
    code = codes[-1]
    line = code.co_firstlineno
    # Python counts a function from its first decorator on; a reader looks for the def.
    for offset in range(20):
        text = linecache.getline(code.co_filename, code.co_firstlineno + offset).lstrip()
        if text.startswith(("def ", "async def ")):
            line += offset
            break
        if not text:
            break
    return Location(code.co_filename, line, getattr(code, "co_qualname", code.co_name))


def _registered(cls: type, method: str) -> Any:
    """The user's backward inside the Function that ``torch.library`` makes for ``register_autograd``; None for others."""
    if method != "backward" or cls.__module__ != "torch._library.autograd":
        return None
    for cell in getattr(getattr(cls, method), "__closure__", None) or ():
        found = getattr(cell.cell_contents, "_backward_fn", None)
        if found is not None:
            return found
    return None


def is_running(frame: FrameType | None) -> bool:
    """Whether a frame is on this thread's stack."""
    current: FrameType | None = sys._getframe(1)
    while current is not None:
        if current is frame:
            return True
        current = current.f_back
    return False


class SourceFinder:
    """Finds the user's line and the running Function forward by walking the Python stack.

    ``find`` costs about one microsecond per ten frames; nothing is formatted until a report asks for it. That no Function's
    forward is running is known without a walk: ``apply`` switches forward-mode gradients off around it, and
    ``enable_grad`` inside does not switch them on again.
    """

    def __init__(self) -> None:
        self._user_files: dict[str, bool] = {}
        # Keyed by id, with the code object held beside it: hashing a code object is by content and slow.
        self._forward_codes: dict[int, tuple[CodeType, bool]] = {}
        self._locations: dict[tuple[int, int], tuple[CodeType, Location]] = {}
        self._scanned = False
        self._stop: FrameType | None = None

    def stop_at(self, frame: FrameType | None) -> None:
        """Frames at and below this one belong to the caller of the recorder and are looked at no further."""
        self._stop = frame

    def find(self, depth: int, *, look_for_function: bool) -> tuple[Location | None, FrameType | None]:
        """The innermost user line, and the frame of the outermost running ``Function.forward`` (or None).

        Args:
            depth: how many frames to skip, counted from the caller.
            look_for_function: False where no Function's forward is of interest; saves the walk to the end of the stack.
        """
        frame: FrameType | None = sys._getframe(depth + 1)
        stop = self._stop
        while frame is not None and frame is not stop:
            code = frame.f_code
            if id(code) not in _FOREIGN and self._is_user(code):
                location = self._location(code, frame)
                break
            frame = frame.f_back
        else:
            return None, self._function_from(sys._getframe(depth + 1)) if look_for_function else None
        if not look_for_function or _is_fwd_grad_enabled():
            return location, None
        return location, self._function_from(sys._getframe(depth + 1))

    def function(self, depth: int) -> FrameType | None:
        """The frame of the outermost running ``Function.forward``; None without one.

        Args:
            depth: how many frames to skip, counted from the caller.
        """
        return None if _is_fwd_grad_enabled() else self._function_from(sys._getframe(depth + 1))

    def _function_from(self, start: FrameType) -> FrameType | None:
        if _is_fwd_grad_enabled():
            return None
        frame: FrameType | None = start
        function: FrameType | None = None
        stop = self._stop
        self._scanned = False
        while frame is not None and frame is not stop:
            code = frame.f_code
            if id(code) not in _NO_FORWARD and self._is_forward(code):
                function = frame
            frame = frame.f_back
        return function

    def _is_user(self, code: CodeType) -> bool:
        filename = code.co_filename
        user = self._user_files.get(filename)
        if user is None:
            user = self._user_files[filename] = is_user_file(filename)
        if not user and len(_FOREIGN) < _MOST_REMEMBERED:
            _FOREIGN[id(code)] = code
        return user

    def _location(self, code: CodeType, frame: FrameType) -> Location:
        """The line that a frame is at, from one that was made for the same instruction if there is one."""
        place = (id(code), frame.f_lasti)
        known = self._locations.get(place)
        if known is not None and known[0] is code:
            return known[1]
        location = Location(code.co_filename, frame.f_lineno, code.co_name)
        if len(self._locations) < _MOST_REMEMBERED:
            self._locations[place] = (code, location)
        return location

    def runs_function_above(self, stop: CodeType | None, depth: int) -> bool:
        """Whether a ``Function.forward`` runs above the innermost frame of ``stop``; False without such a frame.

        Args:
            stop: code of that frame.
            depth: how many frames to skip, counted from the caller.
        """
        if stop is None or _is_fwd_grad_enabled():
            return False
        frame: FrameType | None = sys._getframe(depth + 1)
        found = False
        self._scanned = False
        while frame is not None and frame.f_code is not stop:
            code = frame.f_code
            found = found or (id(code) not in _NO_FORWARD and self._is_forward(code))
            frame = frame.f_back
        return found and frame is not None

    def caller_of(self, frame: FrameType) -> Location | None:
        """The user's line that called ``apply`` of the Function whose forward frame this is."""
        current = frame.f_back
        while current is not None and current is not self._stop:
            filename = current.f_code.co_filename
            user = self._user_files.get(filename)
            if user is None:
                user = self._user_files[filename] = is_user_file(filename)
            if user:
                return Location(filename, current.f_lineno, current.f_code.co_name)
            current = current.f_back
        return None

    def _is_forward(self, code: CodeType) -> bool:
        known = self._forward_codes.get(id(code))
        if known is not None and known[0] is code:
            return known[1]
        if not self._scanned:
            # Once per walk: while it lasts, no class is made.
            self._scanned = True
            for cls in _all_functions():
                for method in ("forward", "setup_context"):
                    for own in _unwrapped_codes(cls.__dict__.get(method)):
                        self._forward_codes[id(own)] = (own, True)
                        if _NO_FORWARD.get(id(own)) is own:
                            del _NO_FORWARD[id(own)]
            known = self._forward_codes.get(id(code))
            if known is not None and known[0] is code:
                return True
        if _could_become_forward(code):
            self._forward_codes[id(code)] = (code, False)
        elif len(_NO_FORWARD) < _MOST_REMEMBERED:
            _NO_FORWARD[id(code)] = code
        return False


# Code that is no Function's forward, and code that is not the user's, for all finders of the process; by id, beside the
# code object itself, so that no other code gets the same id.
_NO_FORWARD: dict[int, CodeType] = {}
_FOREIGN: dict[int, CodeType] = {}
_MOST_REMEMBERED = 50_000


def _could_become_forward(code: CodeType) -> bool:
    """Whether code that is called by itself now may be made a Function's method later: it takes a context first."""
    return code.co_argcount > 0 and code.co_varnames[0] in ("ctx", "context")


def _all_functions() -> list[type]:
    """Every custom Function class that exists now."""
    found: list[type] = []
    waiting: list[type] = [torch.autograd.Function]
    while waiting:
        subclasses: list[type] = waiting.pop().__subclasses__()
        for cls in subclasses:
            found.append(cls)
            waiting.append(cls)
    return found

"""Whose line it is: the user's, below torch's, the standard library's and this package's own."""

from __future__ import annotations

import functools
import sys
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from gradcheck_suite.capture.sources import SourceFinder, function_line


class Plain(Function):
    @staticmethod
    def forward(ctx: Any, finder: SourceFinder, x: Tensor, found: list[Any]) -> Tensor:
        found.append(find(finder))
        return x * 1

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return None, g, None


def wrapped(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


class Wrapped(Plain):
    @staticmethod
    @wrapped
    def forward(ctx: Any, finder: SourceFinder, x: Tensor, found: list[Any]) -> Tensor:
        found.append(find(finder))
        return x * 1


def find(finder: SourceFinder) -> Any:
    location, frame = finder.find(0, look_for_function=True)
    caller = finder.caller_of(frame) if frame is not None else None
    return location, None if frame is None else frame.f_code.co_name, caller


def test_the_innermost_line_of_the_user() -> None:
    finder = SourceFinder()
    line = sys._getframe().f_lineno + 1
    found = functools.reduce(lambda a, b: finder.find(0, look_for_function=False)[0], [1, 2])
    assert found is not None
    assert (found.file, found.line) == (__file__, line)


def test_a_running_forward_and_the_line_that_called_it() -> None:
    for cls in (Plain, Wrapped):
        found: list[Any] = []
        line = sys._getframe().f_lineno + 1
        cls.apply(SourceFinder(), torch.ones(2, requires_grad=True), found)
        (location, name, caller) = found[0]
        assert location.function == "find"
        assert name in ("forward", "wrapper")
        assert (caller.file, caller.line) == (__file__, line)


def test_no_forward_runs_outside_of_one() -> None:
    assert SourceFinder().find(0, look_for_function=True)[1] is None


def test_a_class_that_is_made_later_is_known() -> None:
    finder = SourceFinder()
    finder.find(0, look_for_function=True)

    class Later(Plain):
        @staticmethod
        def forward(ctx: Any, given: SourceFinder, x: Tensor, found: list[Any]) -> Tensor:
            found.append(find(given))
            return x * 1

    found: list[Any] = []
    Later.apply(finder, torch.ones(2, requires_grad=True), found)
    assert found[0][1] == "forward"


def test_frames_below_the_stop_are_not_looked_at() -> None:
    finder = SourceFinder()

    def inner() -> Any:
        return finder.find(0, look_for_function=False)[0]

    finder.stop_at(sys._getframe())
    try:
        location = inner()
    finally:
        finder.stop_at(None)
    assert location.function == "inner"


def test_where_a_backward_is_defined() -> None:
    location = function_line(Wrapped, "forward")
    assert location is not None
    assert location.file == __file__
    assert function_line(Plain, "nothing") is None
    inherited = function_line(Wrapped, "backward")
    assert inherited is not None
    assert "Plain" in inherited.function or inherited.function == "backward"

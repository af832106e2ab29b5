"""How a test's function is called: coroutines in the context of the session, Hypothesis examples judged one by one."""

from __future__ import annotations

import functools
import inspect
import unittest
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from .phase import WatchedPhase

if TYPE_CHECKING:
    from gradcheck_suite.evidence import Finding

__all__ = ["prepared_call"]

_SETTINGS = "_hypothesis_internal_use_settings"

Failing = Callable[[Any], Sequence["Finding"]]
Raising = Callable[[Sequence["Finding"]], None]


@contextmanager
def prepared_call(item: pytest.Item, phase: WatchedPhase, failing: Failing, fail: Raising) -> Iterator[None]:
    """While the block runs, the test's function is called so that all of it is seen.

    Args:
        failing: those findings of a session that fail the test.
        fail: raises for them.
    """
    function = getattr(item, "obj", None)
    handle = getattr(function, "hypothesis", None)
    if function is not None and callable(getattr(handle, "inner_test", None)):
        with _examples(function, handle, phase, failing, fail):
            yield
    elif function is not None and inspect.iscoroutinefunction(function):
        owner = getattr(function, "__self__", None)
        # unittest looks the method up at its instance; pytest leaves coroutines to it.
        of_unittest = isinstance(owner, unittest.TestCase)
        place, name = (owner, function.__name__) if of_unittest else (item, "obj")
        if isinstance(owner, unittest.IsolatedAsyncioTestCase):
            _enter_context(owner, phase)
        with _replaced(place, name, _in_context(function, phase)):
            yield
    else:
        yield


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _enter_context(case: unittest.IsolatedAsyncioTestCase, phase: WatchedPhase) -> None:
    """Put the session into the context in which unittest runs all of a case: it was made in the set-up, with the case."""
    context = getattr(case, "_asyncioTestContext", None)
    if context is not None and phase.session is not None:
        from gradcheck_suite.watching.doors import innermost

        context.run(innermost.set, phase.session)


def _in_context(function: Callable[..., Any], phase: WatchedPhase) -> Callable[..., Any]:
    """The coroutine function, with the session in its context.

    An event loop that was made before the test runs its tasks in the context of that time, in which there is no
    session, or the one of the set-up.
    """

    @functools.wraps(function)
    async def watched(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        if phase.session is None:
            return await function(*args, **kwargs)
        from gradcheck_suite.watching.doors import innermost

        token = innermost.set(phase.session)
        try:
            return await function(*args, **kwargs)
        finally:
            innermost.reset(token)

    return watched


@contextmanager
def _examples(
    function: Callable[..., Any], handle: Any, phase: WatchedPhase, failing: Failing, fail: Raising
) -> Iterator[None]:
    """Each example fails by its own findings, so that Hypothesis shrinks it and shows it."""
    inner = handle.inner_test
    if inspect.iscoroutinefunction(inner):
        with _replaced(handle, "inner_test", _in_context(inner, phase)), _without_deadline(function):
            yield
        return
    # From the first failure on, every example is verified whole: Hypothesis calls an example flaky that fails only
    # once, and the run's ledger would let an equal node pass unverified.
    failed = False

    @functools.wraps(inner)
    def judged(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        nonlocal failed
        if failed:
            from gradcheck_suite import watch

            with watch(verify=phase.verifies) as session:
                result = inner(*args, **kwargs)
            fail(failing(session))
            return result
        result = inner(*args, **kwargs)
        found = failing(phase.session) if phase.session is not None else ()
        if found:
            failed = True
            fail(found)
        return result

    with _replaced(handle, "inner_test", judged), _without_deadline(function):
        yield


@contextmanager
def _without_deadline(function: Callable[..., Any]) -> Iterator[None]:
    """Verifying takes its time in the first examples: not the test's fault, and no reason to call it flaky."""
    target = getattr(function, "__func__", function)  # of a method, the function holds the settings
    settings = getattr(target, _SETTINGS, None)
    if settings is None or settings.deadline is None:
        yield
        return
    with _replaced(target, _SETTINGS, type(settings)(settings, deadline=None)):
        yield

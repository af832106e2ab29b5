"""The ``gradcheck`` fixture: a check that asserts, inside a test of one's own."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pytest

from gradcheck_suite import watch
from gradcheck_suite.errors import GradientError
from gradcheck_suite.pipeline import check_gradients

from .marker import Wishes, wishes_of
from .session import watcher_of

if TYPE_CHECKING:
    from gradcheck_suite import Report
    from gradcheck_suite.watching import Session

__all__ = ["AssertingWatch", "Gradcheck"]


class Gradcheck:
    """What the fixture gives: call it to check a model, or watch a block of code. Works without ``--gradcheck``."""

    def __init__(self, session: pytest.Session) -> None:
        self._session = session
        self._watcher = watcher_of(session.config)

    def __call__(self, model_or_function: Callable[..., Any], inputs: Any = None, **options: Any) -> Report:
        """Check every gradient with :func:`gradcheck_suite.check_gradients` and assert that all is well.

        Args:
            model_or_function, inputs, options: as there. What the test's marker says (``order``, ``devices``,
                ``ignore``) and the command line (``devices``, ``budget``, ``ignore``) holds where nothing is passed.

        Returns:
            The report.

        Raises:
            GradientError: an error-level finding, or nothing could be verified; carries the report.
            GradcheckError: the check could not be made, see there.
        """
        __tracebackhide__ = True
        return self._asserted(
            check_gradients(model_or_function, inputs, **{**self._settings(), **self._ignoring(options)})
        )

    def watch(self, **options: Any) -> AssertingWatch:
        """Watch a block with :func:`gradcheck_suite.watch`, and assert at its end that all is well.

        Args:
            options: as there.

        Returns:
            A context manager that gives the session, whose ``report`` can be read after the block. At the end of the
            block it raises ``GradientError`` for an error-level finding or if nothing could be verified; not if the
            block itself raised.
        """
        interrupted = self._watcher.add_watched if self._watcher is not None else lambda report: None
        session = watch(**{"name": _running_test() or "gradcheck.watch", **self._ignoring(options)})
        return AssertingWatch(session, self._asserted, interrupted)

    def _wishes(self) -> Wishes:
        """Of the markers of the test that runs now, also where it is a fixture of wider scope that checks."""
        if self._watcher is not None:
            return self._watcher.wishes
        test = _running_test()
        return next((wishes_of(item) for item in self._session.items if item.nodeid == test), Wishes())

    def _settings(self) -> dict[str, Any]:
        wishes = self._wishes()
        options = self._watcher.options if self._watcher is not None else None
        settings: dict[str, Any] = {}
        if wishes.order is not None:
            settings["order"] = wishes.order
        devices = wishes.devices or (options.devices if options is not None else ())
        if devices:
            settings["devices"] = devices
        if self._watcher is not None and self._watcher.budget_left is not None:
            settings["budget"] = self._watcher.budget_left
        return settings

    def _ignoring(self, options: dict[str, Any]) -> dict[str, Any]:
        """The options, with the rules that the marker and the command line silence."""
        silenced = self._wishes().ignore
        if self._watcher is not None:
            silenced |= self._watcher.options.ignore
        return {**options, "ignore": (*options.get("ignore", ()), *sorted(silenced))} if silenced else options

    def _asserted(self, report: Report) -> Report:
        __tracebackhide__ = True
        judged = report
        if self._watcher is not None:
            self._watcher.add_check(report)
            judged = self._watcher.asserted(report)
        try:
            judged.raise_for_findings()
        except GradientError as error:
            error.report = report
            # The line of the test is to blame; how the report came to raise is nobody's business.
            raise error.with_traceback(None) from None
        return report


def _running_test() -> str:
    """The id of the test that runs now, or ""."""
    # "tests/test_net.py::test_trains (call)"
    return os.environ.get("PYTEST_CURRENT_TEST", "").rsplit(" ", 1)[0]


class AssertingWatch:
    """A session of ``gradcheck_suite.watch`` that asserts when its block ends."""

    def __init__(
        self, session: Session, asserted: Callable[[Report], Report], interrupted: Callable[[Report], None]
    ) -> None:
        self._session = session
        self._asserted = asserted
        self._interrupted = interrupted

    def __enter__(self) -> Session:
        return self._session.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        __tracebackhide__ = True
        self._session.__exit__(kind, error, trace)
        if error is None:
            self._asserted(self._session.report)
        else:
            self._interrupted(self._session.report)

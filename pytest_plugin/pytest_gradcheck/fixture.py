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

from .session import watcher_of

if TYPE_CHECKING:
    from gradcheck_suite import Report
    from gradcheck_suite.watching import Session

__all__ = ["AssertingWatch", "Gradcheck"]


class Gradcheck:
    """What the fixture gives: call it to check a model, or watch a block of code. Works without ``--gradcheck``."""

    def __init__(self, config: pytest.Config) -> None:
        self._watcher = watcher_of(config)

    def __call__(self, model_or_function: Callable[..., Any], inputs: Any = None, **options: Any) -> Report:
        """Check every gradient with :func:`gradcheck_suite.check_gradients` and assert that all is well.

        Args:
            model_or_function, inputs, options: as there.

        Returns:
            The report.

        Raises:
            GradientError: an error-level finding, or nothing could be verified; carries the report.
            GradcheckError: the check could not be made, see there.
        """
        __tracebackhide__ = True
        return self._asserted(check_gradients(model_or_function, inputs, **options))

    def watch(self, **options: Any) -> AssertingWatch:
        """Watch a block with :func:`gradcheck_suite.watch`, and assert at its end that all is well.

        Args:
            options: as there.

        Returns:
            A context manager that gives the session, whose ``report`` can be read after the block. At the end of the
            block it raises ``GradientError`` for an error-level finding or if nothing could be verified; not if the
            block itself raised.
        """
        # "tests/test_net.py::test_trains (call)"
        test = os.environ.get("PYTEST_CURRENT_TEST", "gradcheck.watch").rsplit(" ", 1)[0]
        interrupted = self._watcher.add_watched if self._watcher is not None else lambda report: None
        return AssertingWatch(watch(**{"name": test, **options}), self._asserted, interrupted)

    def _asserted(self, report: Report) -> Report:
        __tracebackhide__ = True
        if self._watcher is not None:
            self._watcher.add_check(report)
        try:
            return report.raise_for_findings()
        except GradientError as error:
            # The line of the test is to blame; how the report came to raise is nobody's business.
            raise error.with_traceback(None) from None


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

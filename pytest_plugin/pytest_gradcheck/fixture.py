"""The ``gradcheck`` fixture: a check that asserts, inside a test of one's own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from gradcheck_suite import watch
from gradcheck_suite.pipeline import check_gradients

from .session import watcher_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from gradcheck_suite import Report

__all__ = ["Gradcheck"]


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
        report = check_gradients(model_or_function, inputs, **options)
        return self._asserted(report)

    @contextmanager
    def watch(self, **options: Any) -> Iterator[Any]:
        """Watch a block with :func:`gradcheck_suite.watch` and assert at its end that all is well.

        Args:
            options: as there; ``verify`` is True unless given.

        Yields:
            The session, whose ``report`` can be read after the block.

        Raises:
            GradientError: an error-level finding, or nothing could be verified; not if the block itself raised.
        """
        __tracebackhide__ = True
        # "tests/test_net.py::test_trains (call)"
        test = os.environ.get("PYTEST_CURRENT_TEST", "gradcheck.watch").rsplit(" ", 1)[0]
        with watch(**{"verify": True, "name": test, **options}) as session:
            yield session
        self._asserted(session.report)

    def _asserted(self, report: Report) -> Report:
        __tracebackhide__ = True
        if self._watcher is not None:
            self._watcher.add_check(report)
        return report.raise_for_findings()

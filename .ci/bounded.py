"""A pytest plugin of CI: runs as many of the selected tests as fit into a number of seconds, and says how many did not.

Which files come first changes from day to day, so that over time all of them are reached.
"""

from __future__ import annotations

import datetime
import random
import time
from collections.abc import Iterable

import pytest

_started = time.monotonic()
_LEFT = "left for another run: the seconds for slow tests are used up"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The budget."""
    parser.addoption(
        "--seconds", type=float, default=540.0, help="start no further test after so many seconds"
    )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Another order of the files every day; the same in every worker."""
    files = list(dict.fromkeys(item.path for item in items))
    random.Random(datetime.datetime.now(datetime.timezone.utc).date().toordinal()).shuffle(files)
    items.sort(key=lambda item: files.index(item.path))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, visibly, what is too late."""
    if time.monotonic() - _started > item.config.getoption("--seconds"):
        pytest.skip(_LEFT)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Count what was left, and fail nothing: the share is bounded on purpose."""
    skipped: Iterable[pytest.TestReport] = terminalreporter.stats.get("skipped", [])
    left = sum(1 for report in skipped if _LEFT in str(report.longrepr))
    if left:
        terminalreporter.write_line(f"{left} slow tests were left for another run")

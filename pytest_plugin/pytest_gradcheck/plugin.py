"""What pytest loads: options, the marker, the fixture; everything else only when it is asked for."""

from __future__ import annotations

from inspect import signature
from typing import TYPE_CHECKING

import pytest

from .options import add_options, unused_options

if TYPE_CHECKING:
    from .fixture import Gradcheck

MARKER = (
    "gradcheck(ignore=[...], expect=[...], order=2, devices=[...], skip='reason'): silence rules in this test, "
    "expect findings, tell the gradcheck fixture what to check, or do not look at its gradients at all."
)


def pytest_addoption(parser: pytest.Parser) -> None:
    add_options(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    from . import hookspecs

    pluginmanager.add_hookspecs(hookspecs)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", MARKER)
    if config.getoption("gradcheck"):
        _refuse_what_is_too_old()
        from .session import activate

        activate(config)


def _refuse_what_is_too_old() -> None:
    """An older pytest knows no hooks that wrap others in the new way; without ``--gradcheck`` that is no matter."""
    if pytest.version_tuple < (7, 4) or "wrapper" not in signature(pytest.hookimpl.__call__).parameters:
        raise pytest.UsageError(
            f"--gradcheck needs pytest 7.4 and pluggy 1.2 or newer; this is pytest {pytest.__version__}. "
            "Run `pip install -U pytest pluggy`."
        )


def pytest_report_header(config: pytest.Config) -> str | None:
    if config.getoption("gradcheck"):
        from .session import describe

        return describe(config)
    unused = unused_options(config)
    return f"gradcheck: off; {', '.join(unused)} without --gradcheck has no effect" if unused else None


@pytest.fixture(scope="session")
def gradcheck(request: pytest.FixtureRequest) -> Gradcheck:
    """Check gradients and assert: ``gradcheck(model, inputs)`` or ``with gradcheck.watch():``."""
    from .fixture import Gradcheck

    return Gradcheck(request.session)

"""What pytest loads: options, the marker, the fixture; everything else only when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .options import add_options, unused_options

if TYPE_CHECKING:
    from .fixture import Gradcheck

MARKER = (
    "gradcheck(ignore=[...], skip='reason'): with --gradcheck, silence rules in this test, "
    "or do not look at its gradients at all."
)


def pytest_addoption(parser: pytest.Parser) -> None:
    add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", MARKER)
    if config.getoption("gradcheck"):
        from .session import activate

        activate(config)


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

    return Gradcheck(request.config)

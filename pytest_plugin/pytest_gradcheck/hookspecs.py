"""The hooks that a ``conftest.py`` or another plugin may implement."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

__all__ = ["pytest_gradcheck_models"]


def pytest_gradcheck_models(config: pytest.Config) -> Mapping[str, Any] | None:
    """Models that are checked as tests of their own when ``--gradcheck`` is given.

    Returns:
        By name (which becomes the test's id): a model or function, ``(model, inputs)``,
        ``(model, inputs, options of check_gradients)``, or the text of a target such as ``"net.py:Net"``, which
        is only imported when its test runs.
    """

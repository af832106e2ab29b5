"""Comparing what an example returned with what its document states, in both systems."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from side_by_side import run_both


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def check(found: Any, stated: Any, where: str, rel: float = 1e-6) -> None:
    """`found` is `stated`: numbers and nested lists within `rel`, everything else (True, None, text) exactly."""
    if is_number(stated) or (isinstance(stated, list) and stated):
        assert np.shape(found) == np.shape(stated), f"{where}: found {found}, stated {stated}"
        np.testing.assert_allclose(found, stated, rtol=rel, atol=1e-12, err_msg=where)
    else:
        assert type(found) is type(stated), f"{where}: found {found!r}, stated {stated!r}"
        assert found == stated, f"{where}: found {found!r}, stated {stated!r}"


def states(example: Callable[..., Any], stated: dict[str, Any], *arguments: Any) -> dict[str, Any]:
    """Run `example` in torch and in the engine, and require every stated quantity of both."""
    results = run_both(example, *arguments)
    assert set(results) == {"torch", "engine"}
    for system, found in results.items():
        for quantity, value in stated.items():
            check(found[quantity], value, f"{example.__name__} in {system}, {quantity}")
    return results


def agree(example: Callable[..., Any], *arguments: Any, rel: float = 1e-12) -> dict[str, Any]:
    """Run `example` in both systems and require every quantity to be the same; returns the engine's."""
    results = run_both(example, *arguments)
    assert results["torch"].keys() == results["engine"].keys()
    for quantity, value in results["torch"].items():
        check(
            results["engine"][quantity], value, f"{example.__name__}, {quantity}, engine against torch", rel
        )
    return dict(results["engine"])


def checks_can_fail() -> None:
    """Called by the completeness tests: a wrong number, shape, type or text must not pass."""
    for found, stated in (
        (7.1, 7.0),
        ([7.0], 7.0),
        ([1.0, 2.0], [1.0, 3.0]),
        (1, True),
        ("a", "b"),
        (None, False),
    ):
        with pytest.raises(AssertionError):
            check(found, stated, "twin")
    check(7.0, 7, "twin")
    check(None, None, "twin")

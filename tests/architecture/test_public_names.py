"""The public names resolve, lazily, and no submodule can take one of their places."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module

import pytest
from house import PACKAGE

import gradcheck_suite

PROMISED = {
    "Finding",
    "GradientError",
    "Report",
    "Severity",
    "check_gradients",
    "explain",
    "surrogate_gradient",
    "watch",
}


def rebound(exported: Iterable[str], submodules: Iterable[str]) -> set[str]:
    """Exported names that importing a submodule would rebind to that submodule."""
    return set(exported) & set(submodules)


def _submodules() -> set[str]:
    files = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    return files | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}


def test_what_is_promised_is_exported() -> None:
    assert set(gradcheck_suite.__all__) >= PROMISED
    assert list(gradcheck_suite.__all__) == sorted(gradcheck_suite.__all__)


@pytest.mark.parametrize("name", gradcheck_suite.__all__)
def test_public_name_resolves_to_what_its_home_defines(name: str) -> None:
    value = getattr(gradcheck_suite, name)
    assert value is not None
    assert name in dir(gradcheck_suite)
    home = gradcheck_suite._HOMES.get(name)
    if home is not None:
        assert value is getattr(import_module(f"gradcheck_suite.{home}"), name)


def test_unknown_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="check_gradient"):
        _ = gradcheck_suite.check_gradient


def test_no_exported_name_equals_a_submodule() -> None:
    assert {"pipeline", "watching", "report", "rules"} <= _submodules()
    assert not rebound(gradcheck_suite.__all__, _submodules())


def test_twin_an_equal_name_is_found() -> None:
    assert rebound(["explain", "watch"], ["evidence", "watch"]) == {"watch"}


@pytest.mark.parametrize(
    "module",
    sorted(
        f"gradcheck_suite.{path.parent.name}"
        for path in PACKAGE.glob("*/__init__.py")
        if "__all__" in path.read_text(encoding="utf-8")
    ),
)
def test_every_name_in_a_folders_all_exists(module: str) -> None:
    loaded = import_module(module)
    assert not [name for name in loaded.__all__ if not hasattr(loaded, name)]

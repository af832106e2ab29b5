"""``suite``: a made-up project, run by pytest in a process of its own with the plugin in it."""

from __future__ import annotations

import os
from importlib.metadata import entry_points
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_PATHS = (_ROOT, _ROOT / "pytest_plugin", Path(__file__).parent)


class Suite:
    """Writes files and runs ``pytest`` on them."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester

    @property
    def path(self) -> Path:
        return self.pytester.path

    def write(self, **files: str) -> None:
        """Python files by stem."""
        self.pytester.makepyfile(**files)

    def scripted(self, broken: str = "") -> None:
        """Let sessions find what the tests say: see ``scripted.py``."""
        self.pytester.makeconftest(f"import scripted\nscripted.install({broken!r})\n")

    def run(self, *arguments: str) -> pytest.RunResult:
        """Run pytest on the project."""
        # Installed, pytest finds the plugin by its entry point; from the source tree it must be named.
        found = any(point.value == "pytest_gradcheck.plugin" for point in entry_points(group="pytest11"))
        named = () if found else ("-p", "pytest_gradcheck.plugin")
        return self.pytester.runpytest_subprocess(*named, "-p", "no:cacheprovider", *arguments)


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Suite:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, _PATHS)))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    # pytest shortens its output otherwise than on CI, and wraps it at the width of whoever runs it.
    for name in ("CI", "BUILD_NUMBER", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    return Suite(pytester)

"""``suite``: a made-up project, run by pytest in a process of its own with the plugin in it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from textwrap import dedent

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

    def scripted(self, broken: str = "", more: str = "") -> None:
        """Let sessions find what the tests say: see ``scripted.py``; ``more`` is put into the conftest."""
        self.pytester.makeconftest(f"import scripted\nscripted.install({broken!r})\n{dedent(more)}")

    def run(self, *arguments: str, cache: bool = False, plugins: Sequence[str] = ()) -> pytest.RunResult:
        """Run pytest on the project.

        Args:
            cache: whether pytest remembers what failed.
            plugins: other plugins, by the name of the module that pytest loads.
        """
        loaded = ["pytest_gradcheck.plugin", *plugins]
        if not cache:
            loaded.append("no:cacheprovider")
        if "-n" in arguments:
            loaded.append("xdist")
        options = [word for name in loaded for word in ("-p", name)]
        return self.pytester.runpytest_subprocess(*options, *arguments)


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Suite:
    paths = [*map(str, _PATHS), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    # Only what is named is loaded: the plugin also where it is not installed, and nobody's that happens to be.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    # pytest shortens its output otherwise than on CI, and wraps it at the width of whoever runs it.
    for name in ("CI", "BUILD_NUMBER", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    return Suite(pytester)

"""The shape of the house: mirrored tests, folders that say what lives in them, files of one subject."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest
from house import PACKAGE, PLUGIN, ROOT, sources

LONGEST = 560
"""Lines of one file; beyond that it holds more than one subject."""

TESTS = ROOT / "tests"
FOLDERS = sorted(path.parent for path in [*PACKAGE.rglob("__init__.py"), *PLUGIN.rglob("__init__.py")])
BESIDE = {
    "architecture",
    "benchmarks",
    "browser",
    "loops",
    "messages",
    "planted",
    "pytest_plugin",
    "seeds",
    "models",
}
"""Folders of tests that mirror no folder of the package."""


def doubled_definitions(source: str) -> list[str]:
    """Functions or classes that a later one of the same name in the same body replaces (it would never run)."""
    doubled = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef):
            named = [
                child
                for child in node.body
                if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
                # Overloads and property setters repeat a name on purpose; they carry a decorator.
                and not child.decorator_list
            ]
            doubled += [name for name, count in Counter(child.name for child in named).items() if count > 1]
    return doubled


def module_name(path: Path) -> str:
    """The name under which pytest imports a test file: from the first folder without ``__init__.py`` down."""
    parts = [path.stem]
    folder = path.parent
    while (folder / "__init__.py").exists():
        parts.append(folder.name)
        folder = folder.parent
    return ".".join(reversed(parts))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_folder_says_what_lives_in_it(folder: Path) -> None:
    docstring = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))
    assert docstring, f"{folder.relative_to(ROOT)}/__init__.py has no docstring"
    assert len(docstring) > 40


def test_every_folder_of_python_files_is_a_package() -> None:
    folders = {path.parent for path in [*sources(PACKAGE), *sources(PLUGIN)]}
    assert not sorted(folders - set(FOLDERS))


@pytest.mark.parametrize(
    "path", [*sources(PACKAGE), *sources(PLUGIN)], ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_a_file_holds_one_subject(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    lines = len(text.splitlines())
    assert lines <= LONGEST, f"{path.relative_to(ROOT)} has {lines} lines; split it by subject"
    assert ast.get_docstring(ast.parse(text)) or path.name == "_version.py", (
        f"{path.relative_to(ROOT)} has no docstring"
    )


@pytest.mark.parametrize("folder", sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py")))
def test_every_folder_is_mirrored_by_tests(folder: str) -> None:
    assert list((TESTS / folder).rglob("test_*.py")), (
        f"tests/{folder}/ holds no test of gradcheck_suite/{folder}/"
    )


def test_every_folder_of_tests_mirrors_something() -> None:
    folders = {path.relative_to(TESTS).parts[0] for path in sources(TESTS) if path.parent != TESTS}
    unknown = {folder for folder in folders - BESIDE if not (PACKAGE / folder).is_dir()}
    assert not unknown, f"tests/{unknown} mirror no folder of the package"


@pytest.mark.parametrize("path", sources(TESTS), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_test_replaces_another(path: Path) -> None:
    assert not doubled_definitions(path.read_text(encoding="utf-8"))


def test_twin_a_replaced_test_is_found() -> None:
    assert doubled_definitions("def test_a(): ...\ndef test_b(): ...\ndef test_a(): ...") == ["test_a"]
    assert doubled_definitions("class TestX:\n    def test_a(self): ...\n    def test_a(self): ...") == [
        "test_a"
    ]
    assert not doubled_definitions("def test_a(): ...\nclass TestX:\n    def test_a(self): ...")


def test_no_two_test_files_share_a_module_name() -> None:
    """pytest imports them by that name; the second would be refused or, worse, be the first."""
    names = Counter(
        module_name(path) for path in sources(TESTS) if path.name not in {"__init__.py", "conftest.py"}
    )
    doubled = {
        name: [p.relative_to(ROOT).as_posix() for p in sources(TESTS) if module_name(p) == name]
        for name, count in names.items()
        if count > 1
    }
    assert not doubled

"""What the documents name exists: files, folders, layers and the public names of the code that they show."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from house import PACKAGE, ROOT

DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]

# Folders end in a slash; files have a suffix.
_PATH = re.compile(r"`((?:[\w.-]+/)+(?:[\w-]+\.\w+)?|[\w-]+\.(?:py|toml))`")
_LINK = re.compile(r"\]\((?!https?:)([^)#]+)\)")
_OUTPUTS = {"reports/demo.html", "reports/model.html"}  # written by a run


def missing_paths(text: str, beside: Path = ROOT) -> list[str]:
    """Backticked paths in a text that are not in the project, the package, or the folder ``beside``."""
    named = {found[1] for found in _PATH.finditer(text)} - _OUTPUTS
    places = [
        beside,
        *(folder for folder in beside.glob("*/") if beside != ROOT),
        ROOT,
        PACKAGE,
        ROOT / "pytest_plugin",
    ]
    return sorted(name for name in named if not any((place / name).exists() for place in places))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_path_exists(document: Path) -> None:
    assert not missing_paths(document.read_text(encoding="utf-8"), document.parent)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(document: Path) -> None:
    for target in _LINK.findall(document.read_text(encoding="utf-8")):
        assert (document.parent / target).exists(), f"{document.name} links to {target}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_python_in_documents_parses(document: Path) -> None:
    for block in re.findall(
        r"^```python\n(.*?)^```$", document.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    ):
        ast.parse(block)


def test_twin_a_missing_path_is_found() -> None:
    text = "See `capture/recorder.py`, `docs/`, `pyproject.toml` and `capture/nowhere.py`, `nothing/`."
    assert missing_paths(text) == ["capture/nowhere.py", "nothing/"]

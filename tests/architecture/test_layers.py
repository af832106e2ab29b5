"""Imports go down only, and torch is named behind its doors only. Every check here has a twin that must fail."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from house import PACKAGE, PLUGIN, ROOT, is_torch_door, sources, torch_namings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

OUTSIDE = [path for path in [*sources(PACKAGE), *sources(PLUGIN)] if not is_torch_door(path)]


def test_both_sides_of_the_doors_are_looked_at() -> None:
    names = {path.relative_to(PACKAGE).as_posix() for path in OUTSIDE if path.is_relative_to(PACKAGE)}
    assert {
        "__init__.py",
        "assembly.py",
        "engine/tensor.py",
        "replay/local.py",
        "compare/tolerance.py",
    } <= names
    assert not any(name.startswith(("capture/", "witnesses/", "watching/")) for name in names)


@pytest.mark.parametrize("path", OUTSIDE, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_torch_is_named_behind_its_doors_only(path: Path) -> None:
    found = torch_namings(path.read_text(encoding="utf-8"))
    assert not found, (
        f"{path.relative_to(ROOT)} names torch: {found}; only capture/, witnesses/, watching/ and pipeline.py may"
    )


def test_the_doors_do_name_torch() -> None:
    """Otherwise the search above could be blind."""
    for door in ("capture/recorder.py", "witnesses/torch_reverse.py", "pipeline.py"):
        assert torch_namings((PACKAGE / door).read_text(encoding="utf-8")), door


@pytest.mark.parametrize(
    "planted",
    [
        "import torch",
        "import numpy, torch.nn as nn",
        "from torch.autograd import Function",
        "def late():\n    from torch import Tensor\n    return Tensor",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch",
        "import importlib\nimportlib.import_module('torch')",
        "from importlib import import_module\nimport_module('torch.nn')",
        "__import__('torch')",
        "import torchvision",
        "try:\n    import transformers\nexcept ImportError:\n    pass",
    ],
)
def test_twin_planted_torch_is_found(planted: str) -> None:
    assert torch_namings(planted)


@pytest.mark.parametrize(
    "clean",
    [
        '"""import torch"""',
        "# import torch",
        "from .torch_reverse import run",
        "import torchless",
        "name = 'torch.float32'",
    ],
)
def test_twin_merely_mentioning_torch_is_no_import(clean: str) -> None:
    assert not torch_namings(clean)


def _layers() -> list[str]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract["id"] == "layers"]
    return [name.strip("() ") for layer in layers for name in layer.replace(":", "|").split("|")]


def test_every_module_has_its_layer() -> None:
    """A module that no layer names would be free to import anything."""
    below = {f"gradcheck_suite.{path.stem}" for path in PACKAGE.iterdir() if path.suffix == ".py"}
    below |= {f"gradcheck_suite.{path.name}" for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    missing = below - set(_layers()) - {"gradcheck_suite.__init__", "gradcheck_suite.__main__"}
    assert not missing, f"no layer in pyproject.toml names {sorted(missing)}"


@pytest.fixture(scope="module")
def copied_house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("importlinter")
    house = tmp_path_factory.mktemp("house")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, house / "gradcheck_suite", ignore=ignored)
    shutil.copytree(PLUGIN, house / "pytest_gradcheck", ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", house)
    return house


def _lint(house: Path) -> subprocess.CompletedProcess[str]:
    # The working directory comes first on the path of `-c`, so that the copy is what is looked at.
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    environment = {**os.environ, "COLUMNS": "200"}  # no contract's name is wrapped
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=house,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_contracts_hold(copied_house: Path) -> None:
    done = _lint(copied_house)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 kept, 0 broken" in done.stdout


@pytest.mark.parametrize(
    ("place", "planted", "broken"),
    [
        ("gradcheck_suite/compare/planted.py", "from ..witnesses import engine", "Imports go down only"),
        ("gradcheck_suite/evidence/planted.py", "from ..report import text", "Imports go down only"),
        ("gradcheck_suite/capture/planted.py", "from ..replay import local", "Imports go down only"),
        (
            "gradcheck_suite/engine/planted.py",
            "from ..evidence import Report",
            "The engine is useful by itself",
        ),
        ("gradcheck_suite/replay/planted.py", "import torch", "can do without torch"),
        ("gradcheck_suite/rules/planted.py", "def late():\n    import torchvision", "can do without"),
        ("pytest_gradcheck/planted.py", "import torch", "Above the witnesses"),
    ],
)
def test_twin_a_planted_import_breaks_its_contract(
    copied_house: Path, place: str, planted: str, broken: str
) -> None:
    path = copied_house / place
    path.write_text(planted + "\n", encoding="utf-8")
    try:
        done = _lint(copied_house)
    finally:
        path.unlink()
    assert done.returncode != 0
    named = [line.removesuffix(" BROKEN") for line in done.stdout.splitlines() if line.endswith(" BROKEN")]
    assert any(broken in name for name in named), done.stdout

"""What the architecture tests look at: the project's folders, its modules and what their source imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "gradcheck_suite"
PLUGIN = ROOT / "pytest_plugin" / "pytest_gradcheck"

TORCH_DOORS = ("capture", "witnesses", "watching", "pipeline.py")
"""The only places below `gradcheck_suite/` that may name torch."""

TORCH_NAMES = frozenset(
    {"functorch", "lightning", "timm", "torch", "torchgen", "torchvision", "torchviz", "transformers"}
)
"""Torch and what imports it."""


@dataclass(frozen=True)
class Naming:
    """One place in a source file that imports something of torch's family."""

    line: int
    name: str


def sources(folder: Path) -> list[Path]:
    """Every Python file below a folder, sorted."""
    return sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)


def is_torch_door(path: Path) -> bool:
    """Whether torch may be named in this file of the package."""
    return path.is_relative_to(PACKAGE) and path.relative_to(PACKAGE).parts[0] in TORCH_DOORS


def torch_namings(source: str) -> list[Naming]:
    """Every import of torch's family in a source text: at any depth, under TYPE_CHECKING, or by a literal name."""
    found = []
    for node in ast.walk(ast.parse(source)):
        for name in _imported(node):
            if name.split(".")[0] in TORCH_NAMES:
                found.append(Naming(getattr(node, "lineno", 0), name))
    return found


def _imported(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and not node.level:
        yield node.module or ""
    elif isinstance(node, ast.Call) and _called(node.func) in {
        "import_module",
        "__import__",
        "find_spec",
        "importorskip",
    }:
        yield from (a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str))


def _called(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""

"""Every error the project raises says what was attempted, what was wrong, and what to do."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import gradcheck_suite.errors

PACKAGE = Path(gradcheck_suite.errors.__file__).parent
OWN = {
    name
    for name, cls in vars(gradcheck_suite.errors).items()
    if inspect.isclass(cls) and issubclass(cls, gradcheck_suite.errors.GradcheckError)
} - {"GradientError"}  # its message is the report

HOLE = "\N{BLACK SQUARE}"


def literal(node):
    """The text of a message with a hole for every inserted value, or None when it is made elsewhere."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else HOLE for part in node.values)
    return None


def messages(source):
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in OWN
            and node.args
        ):
            text = literal(node.args[0])
            if text is not None:
                yield node.lineno, text


def faults(text):
    """What a message lacks."""
    found = []
    if " failed" not in text and not text.startswith(HOLE):
        found.append("it does not say that an attempt failed")
    if not text.rstrip(HOLE).endswith((".", "?")) and not text.endswith(HOLE):
        found.append("it does not end in a full stop")
    if text.count(". ") + text.count(": ") < 2 and not text.endswith(HOLE):
        found.append("it does not say what to do")
    return found


FOUND = [
    pytest.param(text, id=f"{path.relative_to(PACKAGE)}:{line}")
    for path in sorted(PACKAGE.rglob("*.py"))
    for line, text in messages(path.read_text(encoding="utf-8"))
]


@pytest.mark.parametrize("text", FOUND)
def test_message_has_its_three_parts(text):
    assert faults(text) == [], text


def test_messages_are_found():
    assert len(FOUND) > 30


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('InputError("nope")', 3),
        ('InputError(f"reading {x} failed: it is {x!r}. Write another.")', 0),
        ('InputError("reading x failed: it is 3")', 2),
        ('KeyError("nope")', 0),
    ],
)
def test_twin_a_bad_message_is_found(source, expected):
    assert sum(len(faults(text)) for _, text in messages(source)) == expected

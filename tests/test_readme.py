"""The README says what is so: its example runs, its output is real, its commands are the two that set up.

``python -m tests.test_readme --update`` writes the example and its output into the README anew.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
EXAMPLE = "examples/readme_example.py"

_BLOCK = re.compile(r"<!-- (code|output): (\S+) -->\n(.*?)<!-- end -->\n", re.DOTALL)

# Versions and platform of whoever wrote the README tell the reader nothing.
_ENVIRONMENT = re.compile(r"^gradcheck_suite \d.*?\n\n", re.DOTALL | re.MULTILINE)

SET_UP = ["pip install . && gradcheck demo", "pip install '.[test]' && pytest"]

# What differs between machines and runs: durations and last bits.
_VARIABLE = [
    (re.compile(r"time [^\n]*\([^)]*\)", re.DOTALL), "time ..."),
    (re.compile(r"\b\d(\.\d+)?e-\d+\b"), "small"),
    (re.compile(r"[ \t]+"), " "),
    (re.compile(r"\b0\s*$", re.MULTILINE), "small"),
]


def run_example() -> str:
    """What the example prints, run from the root as a reader would, without the paragraph about the machine."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, EXAMPLE],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return _ENVIRONMENT.sub("", done.stdout)


def rendered(kind: str, path: str) -> str:
    """The content that belongs between the markers."""
    if kind == "code":
        return f"```python\n{(ROOT / path).read_text(encoding='utf-8')}```\n"
    return f"```text\n{run_example()}```\n"


def blocks(text: str) -> dict[tuple[str, str], str]:
    """What stands between the markers now, by kind and path."""
    return {(found[1], found[2]): found[3] for found in _BLOCK.finditer(text)}


def stable(text: str) -> str:
    """The text without what differs between machines and runs."""
    for pattern, replacement in _VARIABLE:
        text = pattern.sub(replacement, text)
    return text


def set_up_commands(text: str) -> list[str]:
    """Every line of a code block that installs something."""
    fenced = re.findall(r"^```sh\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [line for block in fenced for line in block.splitlines() if "install" in line]


def test_exactly_two_set_up_commands() -> None:
    assert set_up_commands(README.read_text(encoding="utf-8")) == SET_UP


def test_twin_a_third_command_is_seen() -> None:
    text = README.read_text(encoding="utf-8") + "\n```sh\npip install something-else\n```\n"
    assert set_up_commands(text) != SET_UP


def test_the_example_is_the_file() -> None:
    assert blocks(README.read_text(encoding="utf-8"))["code", EXAMPLE] == rendered("code", EXAMPLE)
    assert len((ROOT / EXAMPLE).read_text(encoding="utf-8").splitlines()) <= 42


def test_the_output_is_what_the_example_prints() -> None:
    shown = blocks(README.read_text(encoding="utf-8"))["output", EXAMPLE]
    assert stable(shown) == stable(rendered("output", EXAMPLE)), "run python -m tests.test_readme --update"
    for needed in ("GC101 gradient-mismatch", "examples/readme_example.py:", "hint: ", "PASS"):
        assert needed in shown


def test_twin_a_changed_value_is_seen() -> None:
    shown = blocks(README.read_text(encoding="utf-8"))["output", EXAMPLE]
    value = re.search(r"engine (-?\d+\.\d+)", shown)
    assert value is not None
    assert stable(shown.replace(value[1], "9.8765")) != stable(shown)
    assert stable(shown.replace("FAIL", "PASS")) != stable(shown)


def test_the_map_names_every_folder() -> None:
    text = README.read_text(encoding="utf-8")
    folders = {path.parent.name for path in (ROOT / "gradcheck_suite").glob("*/__init__.py")}
    assert {name for name in folders if f"`gradcheck_suite/{name}/`" not in text} == set()
    for path in re.findall(r"^\| `([\w/]+/)` \|", text, re.MULTILINE):
        assert (ROOT / path).is_dir(), path


def update() -> None:
    """Write the blocks anew."""
    text = README.read_text(encoding="utf-8")
    text = _BLOCK.sub(lambda m: f"<!-- {m[1]}: {m[2]} -->\n{rendered(m[1], m[2])}<!-- end -->\n", text)
    README.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:] != ["--update"]:
        raise SystemExit("usage: python -m tests.test_readme --update")
    update()

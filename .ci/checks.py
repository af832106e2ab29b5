"""What CI checks about what it made: the demo's report, the benchmark's last line, the packages' content."""

from __future__ import annotations

import json
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

PROMISED = {"MLP 1M": 25.0, "small CNN": 25.0, "resnet18": 25.0}
"""Forward+backwards that a check may cost."""


def demo(path: str) -> None:
    """The demo wrote a self-contained page that names the wrong backward."""
    page = Path(path).read_text(encoding="utf-8")
    for needed in ("GC101", "gradient-mismatch", "Cube", "<svg", "</html>"):
        assert needed in page, f"{path} lacks {needed!r}"
    for outside in ('src="http', 'href="http', "@import"):
        assert outside not in page, f"{path} asks the network: {outside}"
    print(f"{path}: {len(page) / 1024:.0f} KiB, names the wrong backward")


def cost() -> None:
    """The benchmark's last line is one JSON object with a ratio for every model."""
    result = json.loads(sys.stdin.read())
    assert result["benchmark"] == "cost", result
    rows = result["models"]
    assert rows, "no model was measured"
    for row in rows:
        for mine in (row["ours"], row["ours_float64"]):
            assert mine["ratio"] > 0, row
            assert mine["ok"], f"a correct model was accused or left unverified: {row}"
    # Twice what is promised: what else runs on the machine may disturb, a change of order may not.
    slow = [
        row["name"]
        for row in rows
        if row["name"] in PROMISED and row["ours"]["ratio"] > 2 * PROMISED[row["name"]]
    ]
    assert not slow, f"more than twice as slow as promised: {slow}"
    assert result["growth"]["exponent"] < 1.4, result["growth"]
    print(f"{len(rows)} models, growth exponent {result['growth']['exponent']:.2f}")


def contents(folder: str) -> None:
    """Wheel and sdist hold what they should."""
    (wheel,) = Path(folder).glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for needed in (
        "gradcheck_suite/__init__.py",
        "gradcheck_suite/py.typed",
        "gradcheck_suite/report/templates/page.html.j2",
        "gradcheck_suite/report/templates/style.css",
        "gradcheck_suite/engine/primitives/arithmetic.py",
        "pytest_gradcheck/__init__.py",
        "pytest_gradcheck/plugin.py",
        "pytest_gradcheck/py.typed",
    ):
        assert needed in names, f"{wheel.name} lacks {needed}"
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "gradcheck_suite",
        "pytest_gradcheck",
    }, tops
    entries = next(name for name in names if name.endswith("entry_points.txt"))
    with zipfile.ZipFile(wheel) as archive:
        assert "gradcheck_suite.cli:main" in archive.read(entries).decode()
    (sdist,) = Path(folder).glob("*.tar.gz")
    with tarfile.open(sdist) as packed:
        members = {name.split("/", 1)[-1] for name in packed.getnames()}
    for needed in ("README.md", "LICENSE", "CHANGELOG.md", "pyproject.toml", "docs/architecture.md"):
        assert needed in members, f"{sdist.name} lacks {needed}"
    assert any(name.startswith("tests/") for name in members)
    print(f"{wheel.name}: {len(names)} files; {sdist.name}: {len(members)} files")


CHECKS: dict[str, Callable[..., None]] = {"demo": demo, "cost": cost, "contents": contents}

if __name__ == "__main__":
    _, check, *arguments = sys.argv
    CHECKS[check](*arguments)

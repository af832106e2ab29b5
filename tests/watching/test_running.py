"""``gradcheck run``: a program ends as it would under python, and the report follows."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gradcheck_suite.cli import main

ROOT = Path(__file__).resolve().parents[2]
FAULTY = ROOT / "examples" / "faulty"
# script: exit code, what the program itself says last, what the report says
EXPECTED = {
    "stale_gradients": (1, "loss", "GC301 unzeroed-grad", "stale_gradients.py:14"),
    "overwritten_activation": (1, "5 pictures", "GC202 inplace-silent", "overwritten_activation.py:13"),
    "growing_memory": (0, "mean loss", "GC403 growing-graph", "growing_memory.py:15"),
    "loss_without_graph": (1, "", "GC501 detached-graph", "loss_without_graph.py:11"),
    "wrong_derivative": (1, "loss", "GC101 gradient-mismatch", "wrong_derivative.py:23"),
}


def run(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gradcheck_suite.cli", "run", *map(str, words)],
        capture_output=True,
        text=True,
        cwd=cwd or ROOT,
        timeout=300,
        check=False,
    )


def run_here(monkeypatch: Any, capsys: Any, *words: object) -> tuple[int, str]:
    """The same in this process."""
    monkeypatch.setattr(sys, "argv", ["gradcheck", "run", *map(str, words)])
    before = (list(sys.path), sys.modules["__main__"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert (sys.path, sys.modules["__main__"]) == before
    return int(ended.value.code or 0), capsys.readouterr().out


def program(folder: Path, text: str, name: str = "program.py") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", EXPECTED)
def test_a_faulty_script_is_found_out_with_its_line(name: str) -> None:
    code, last, rule, line = EXPECTED[name]
    ended = run(FAULTY / f"{name}.py")
    assert ended.returncode == code, ended.stdout + ended.stderr
    assert rule in ended.stdout
    assert line in ended.stdout
    if last:  # the report comes after what the program prints
        assert ended.stdout.index(last) < ended.stdout.index(rule)
    assert "fault of its own" not in ended.stderr


@pytest.mark.parametrize("name", EXPECTED)
def test_its_right_twin_is_clean(name: str, monkeypatch: Any, capsys: Any) -> None:
    code, printed = run_here(monkeypatch, capsys, FAULTY / f"{name}_fixed.py")
    assert code == 0, printed
    assert not re.findall(r"^GC\d{3}", printed, re.MULTILINE), printed
    assert "PASS" in printed


def test_an_exception_of_the_program_is_shown_as_python_shows_it(tmp_path: Path) -> None:
    script = program(tmp_path, "def fail():\n    raise KeyError('gone')\n\n\nfail()\n")
    plain = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    watched = run(script)
    assert watched.returncode == plain.returncode == 1
    assert watched.stderr == plain.stderr


def test_an_error_of_torch_carries_its_explanation() -> None:
    ended = run(FAULTY / "loss_without_graph.py")
    assert "does not require grad and does not have a grad_fn" in ended.stderr
    if sys.version_info >= (3, 11):
        assert "gradcheck: GC501 detached-graph" in ended.stderr
        assert "argmax makes whole numbers" in ended.stderr


@pytest.mark.parametrize(
    ("statement", "code"), [("sys.exit(7)", 7), ("sys.exit()", 0), ("sys.exit('no')", 1)]
)
def test_the_exit_code_is_the_programs_own(statement: str, code: int, tmp_path: Path) -> None:
    ended = run(program(tmp_path, f"import sys\n{statement}\n"))
    assert ended.returncode == code
    assert ("no" in ended.stderr) is (statement == "sys.exit('no')")


def test_the_program_sees_what_it_sees_under_python(tmp_path: Path) -> None:
    program(tmp_path, "VALUE = 5\n", "beside.py")
    script = program(
        tmp_path,
        "import sys, beside, __main__\n"
        "print(sys.argv, __name__, __file__, sys.path[0], beside.VALUE, __main__.beside is beside, __doc__)\n",
    )
    words = ["--html", "x", "-m", "--", "last"]
    plain = subprocess.run([sys.executable, script, *words], capture_output=True, text=True, check=False)
    watched = run(script, *words)
    assert watched.stdout.splitlines()[0] == plain.stdout.splitlines()[0]


def test_a_module_runs_as_with_dash_m(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    program(package, "")
    program(package, "", "__init__.py")
    program(
        package, "import sys\nfrom . import program\nprint(sys.argv, __name__, __package__)\n", "train.py"
    )
    plain = subprocess.run(
        [sys.executable, "-m", "package.train", "a", "--b"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    watched = run("-m", "package.train", "a", "--b", cwd=tmp_path)
    assert watched.stdout.splitlines()[0] == plain.stdout.splitlines()[0], watched.stderr


def test_reports_are_written_on_request(tmp_path: Path) -> None:
    ended = run("--json", tmp_path / "r.json", "--html", tmp_path / "r.html", FAULTY / "stale_gradients.py")
    assert ended.returncode == 1
    told = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert [f["code"] for f in told["findings"] if f["code"] == "GC301"] == ["GC301"]
    assert "unzeroed-grad" in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_a_rule_can_be_silenced_and_a_missing_script_is_a_usage_error(monkeypatch: Any, capsys: Any) -> None:
    assert run_here(monkeypatch, capsys, "--ignore", "GC301", FAULTY / "stale_gradients.py")[0] == 0
    assert run_here(monkeypatch, capsys, "no/such/file.py")[0] == 2
    assert run_here(monkeypatch, capsys)[0] == 2

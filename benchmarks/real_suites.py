"""Test suites that nobody here wrote, run as they are with and without ``pytest --gradcheck``.

    python -m benchmarks.real_suites [--quick] [--only NAME ...] [--rounds 2] [--workdir DIR]

``real_suites.toml`` names the packages. Each is downloaded as a source distribution and unpacked; a virtual environment
on top of the running one gets what its tests import, and this project as a wheel of the working tree. Of several rounds
the fastest counts, in seconds of processor time: other work on the machine stretches the clock, not these. A test that
ends differently between the rounds without the flag is unstable and says nothing. Whether a finding is true has to be
looked at by hand; ``docs/real-suites.md`` says what each turned out to be. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
import venv
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

__all__ = ["Result", "Run", "Suite", "compare", "main", "outcomes", "suites"]

tomllib = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

ROOT = Path(__file__).resolve().parent.parent
TABLE = Path(__file__).with_suffix(".toml")
QUICK = ("nflows", "normflows")
SEEDED = """
import random

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection():
    random.seed(0)
"""
"""A pytest plugin: parameters that a suite draws at random are the same in every run, and with them its tests' names."""
LIMIT = 900.0
"""Seconds after which a run of a suite is given up."""


@dataclass(frozen=True)
class Suite:
    """An entry of ``real_suites.toml``; see there."""

    name: str
    version: str
    kind: str
    tests: tuple[str, ...]
    keyword: str = ""
    requirements: tuple[str, ...] = ()
    environment: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Run:
    """One run of pytest.

    Attributes:
        outcomes: of each test: passed, failed, error or skipped.
        cpu: seconds of processor time.
        wall: seconds by the clock.
        code: pytest's exit code; 3 where gradcheck-suite itself has failed.
        report: what ``--gradcheck-json`` wrote, or None.
    """

    outcomes: Mapping[str, str]
    cpu: float
    wall: float
    code: int
    report: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Result:
    """What the runs of a suite add up to.

    Attributes:
        changed: tests that end differently with the flag, without an error found in them.
        unstable: how many end differently without the flag already.
        unverified: how often each reason was given.
        findings: rule, severity, place, operation and number of tests of each, notes left out.
        internal_error: whether gradcheck-suite itself failed.
    """

    name: str
    version: str
    tests: int
    backwards: int
    nodes: int
    elements: int
    not_verified: int
    unverified: Mapping[str, int]
    findings: tuple[Mapping[str, Any], ...]
    changed: tuple[str, ...]
    unstable: int
    internal_error: bool
    seconds_without: float
    seconds_with: float

    @property
    def slowdown(self) -> float:
        """Processor time with the flag, of that without."""
        return self.seconds_with / self.seconds_without


def suites(path: Path = TABLE) -> dict[str, Suite]:
    """The suites of the table, by name.

    Raises:
        TypeError: an entry has a key that is none, or lacks one.
    """
    table = tomllib.loads(path.read_text(encoding="utf-8"))["suites"]
    return {
        name: Suite(name, **{key: tuple(v) if isinstance(v, list) else v for key, v in entry.items()})
        for name, entry in table.items()
    }


def outcomes(junit: str) -> dict[str, str]:
    """How each test ended, by the JUnit XML that pytest wrote; of several entries of a test the worst counts."""
    order = ("passed", "skipped", "failed", "error")
    found: dict[str, str] = {}
    for case in ElementTree.fromstring(junit).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        marks = {child.tag for child in case}
        ended = (
            "error"
            if "error" in marks
            else "failed"
            if "failure" in marks
            else "skipped"
            if "skipped" in marks
            else "passed"
        )
        found[name] = max(found.get(name, ended), ended, key=order.index)
    return found


def compare(suite: Suite, without: Sequence[Run], watched: Sequence[Run]) -> Result:
    """Sum up the runs of a suite without the flag and those with it; of the latter the first is looked at."""
    first = watched[0]
    report = first.report or {}
    bare = without[0].outcomes
    unstable = {name for run in without[1:] for name in bare if run.outcomes.get(name) != bare[name]}
    shown = [f for f in report.get("findings", ()) if f["severity"] != "note"]
    blamed = {_key(t) for f in shown if f["severity"] == "error" for t in f["evidence"].get("tests", ())}
    changed = [
        f"{name}: {ended}, with the flag {first.outcomes.get(name, 'missing')}"
        for name, ended in bare.items()
        if name not in unstable
        and first.outcomes.get(name) != ended
        and not (first.outcomes.get(name) == "failed" and name in blamed)
    ]
    reasons: Counter[str] = Counter()
    for entry in report.get("unverified", ()):
        reasons[entry["reason"]] += entry["count"]
    counts = report.get("counts", {})
    return Result(
        name=suite.name,
        version=suite.version,
        tests=len(bare),
        backwards=counts.get("backwards", 0),
        nodes=counts.get("nodes", 0) - counts.get("nodes_unverified", 0),
        elements=counts.get("elements", 0),
        not_verified=counts.get("nodes_unverified", 0),
        unverified=dict(reasons.most_common()),
        findings=tuple(_finding(f) for f in shown),
        changed=tuple(changed),
        unstable=len(unstable),
        internal_error=any(run.code == 3 for run in watched),
        seconds_without=min(run.cpu for run in without),
        seconds_with=min(run.cpu for run in watched),
    )


def _key(test: str) -> str:
    """A test's id as JUnit XML spells it."""
    file, *names = test.split("::")
    module = file.removesuffix(".py").replace("/", ".")
    return "::".join([".".join([module, *names[:-1]]), names[-1]])


def _finding(finding: Mapping[str, Any]) -> dict[str, Any]:
    location = finding.get("location") or {}
    return {
        "rule": f"{finding['code']} {finding['rule']}",
        "severity": finding["severity"],
        "place": f"{Path(location.get('file', '')).name}:{location.get('line', '')}",
        "op": finding.get("op", ""),
        "message": finding["message"],
        "tests": len(finding["evidence"].get("tests", ())),
    }


class Workshop:
    """A folder with a virtual environment on top of the running one, and the unpacked distributions."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.python = folder / "venv" / "bin" / "python"
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        own = folder / "venv" / "lib" / version / "site-packages"
        if not self.python.exists():
            venv.create(folder / "venv", with_pip=False, symlinks=True)
            below = sysconfig.get_path("purelib")
            own.joinpath("below.pth").write_text(f"import site; site.addsitedir({below!r})\n")
        own.joinpath("seeded_collection.py").write_text(SEEDED)
        self._pip("install", "--no-deps", "--no-build-isolation", "--force-reinstall", str(ROOT))

    def unpack(self, suite: Suite) -> Path:
        """Where the source distribution lies; what its tests need is installed."""
        source = self._folder / "src" / suite.name
        if not source.exists():
            with tempfile.TemporaryDirectory() as fetched:
                asked = f"{suite.name}=={suite.version}"
                self._pip(
                    "download",
                    "--no-deps",
                    "--no-binary",
                    ":all:",
                    "--no-build-isolation",
                    "-d",
                    fetched,
                    asked,
                )
                (archive,) = Path(fetched).iterdir()
                with tarfile.open(archive) as packed:
                    packed.extractall(fetched, filter="data")
                (folder,) = (path for path in Path(fetched).iterdir() if path.is_dir())
                source.parent.mkdir(exist_ok=True)
                folder.rename(source)
        if suite.requirements:
            self._pip("install", "--no-deps", "--no-build-isolation", *suite.requirements)
        return source

    def run(self, suite: Suite, *, watched: bool) -> Run:
        """Run the suite's tests once."""
        source = self.unpack(suite)
        with tempfile.TemporaryDirectory() as folder:
            junit, written = Path(folder, "junit.xml"), Path(folder, "report.json")
            command = [
                str(self.python),
                "-m",
                "pytest",
                "-q",
                "-p",
                "no:cacheprovider",
                f"--junitxml={junit}",
            ]
            command += ["-p", "seeded_collection"]
            command += ["-o", "addopts="]  # coverage and the like, which would be measured too
            command += ["-k", suite.keyword] if suite.keyword else []
            command += ["--gradcheck", f"--gradcheck-json={written}"] if watched else []
            environment = {
                **os.environ,
                **(suite.environment or {}),
                "OMP_NUM_THREADS": "1",
                "COLUMNS": "120",
            }
            environment.pop("PYTHONPATH", None)
            before, began = os.times(), time.perf_counter()
            done = subprocess.run(
                [*command, *suite.tests],
                cwd=source,
                env=environment,
                capture_output=True,
                text=True,
                timeout=LIMIT,
            )
            wall, after = time.perf_counter() - began, os.times()
            spent = (
                after.children_user + after.children_system - before.children_user - before.children_system
            )
            if not junit.exists():
                raise RuntimeError(
                    f"running the tests of {suite.name} failed with exit code {done.returncode} before any test ran: "
                    f"{done.stdout[-2000:]}{done.stderr[-2000:]}"
                )
            self._folder.joinpath(f"{suite.name}-{'with' if watched else 'without'}.log").write_text(
                done.stdout
            )
            report = json.loads(written.read_text()) if written.exists() else None
            return Run(outcomes(junit.read_text()), spent, wall, done.returncode, report)

    def _pip(self, *arguments: str) -> None:
        done = subprocess.run(
            [str(self.python), "-m", "pip", "-q", *arguments], capture_output=True, text=True, timeout=LIMIT
        )
        if done.returncode:
            raise RuntimeError(f"pip {' '.join(arguments)} failed: {done.stderr[-2000:]}")


def show(results: Sequence[Result], console: Console) -> None:
    """Print the table, and under it what was changed or found."""
    table = Table(
        "suite",
        "tests",
        "backwards",
        "nodes",
        "not verified",
        "errors",
        "warnings",
        "changed",
        "without",
        "with",
    )
    for r in results:
        severities = Counter(f["severity"] for f in r.findings)
        table.add_row(
            f"{r.name} {r.version}",
            str(r.tests),
            f"{r.backwards:,}",
            f"{r.nodes:,}",
            f"{r.not_verified:,}",
            str(severities["error"]),
            str(severities["warning"]),
            f"{len(r.changed)}{' + internal error' if r.internal_error else ''}",
            f"{r.seconds_without:.1f} s",
            f"{r.seconds_with:.1f} s ({r.slowdown:.2f}x)",
        )
    console.print(table)
    for r in results:
        for line in [
            *r.changed,
            *(f"{f['severity']} {f['rule']} {f['place']} {f['op']} ({f['tests']})" for f in r.findings),
        ]:
            console.print(f"{r.name}: {line}", markup=False, highlight=False, soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the suites; 1 if an outcome changed without a finding or gradcheck-suite itself failed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.real_suites", description=__doc__.splitlines()[0]
    )
    known = suites()
    parser.add_argument("--quick", action="store_true", help=f"only {' and '.join(QUICK)}, once")
    parser.add_argument("--only", nargs="+", choices=sorted(known), help="these suites only")
    parser.add_argument("--rounds", type=int, default=2, help="how often each is run, with and without")
    parser.add_argument("--workdir", type=Path, help="keep environment and sources here for the next time")
    options = parser.parse_args(arguments)
    names = options.only or (QUICK if options.quick else list(known))
    rounds = 1 if options.quick else options.rounds
    console = Console(stderr=False)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.workdir or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        workshop = Workshop(folder.resolve())
        results = []
        for name in names:
            without = [workshop.run(known[name], watched=False) for _ in range(rounds)]
            watched = [workshop.run(known[name], watched=True) for _ in range(rounds)]
            results.append(compare(known[name], without, watched))
            show(results[-1:], console)
    show(results, console)
    without_flag, with_flag = sum(r.seconds_without for r in results), sum(r.seconds_with for r in results)
    summary = {
        "suites": {r.name: {**vars(r), "slowdown": round(r.slowdown, 3)} for r in results},
        "slowdown": round(with_flag / without_flag, 3),
        "errors": sum(f["severity"] == "error" for r in results for f in r.findings),
        "changed": sum(len(r.changed) for r in results),
    }
    print(json.dumps(summary))
    return int(any(r.changed or r.internal_error for r in results))


if __name__ == "__main__":
    sys.exit(main())

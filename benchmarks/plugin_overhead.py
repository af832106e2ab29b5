"""What the pytest plugin costs where it has nothing to do, and whether a check keeps its budget.

    python -m benchmarks.plugin_overhead [--quick]

- the CPU milliseconds of importing the inactive plugin, after pytest itself;
- a suite that uses no torch, with ``--gradcheck`` and without: CPU seconds of the whole process and their ratio;
- wall seconds of ``check_gradients(model, x, budget=...)`` for real models, beside what its recording alone takes, which
  cannot be cut.

The best of some repetitions each: what else runs on the machine only ever adds. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from importlib.metadata import entry_points
from pathlib import Path

from rich.console import Console

from gradcheck_suite import check_gradients

LOAD = """
import sys, time
import pytest
began = time.process_time()
import pytest_gradcheck.plugin
print(time.process_time() - began)
"""
SUITE = """
import time

import pytest

@pytest.mark.parametrize("n", range({tests}))
def test_works(n):
    until = time.process_time() + 0.015
    while time.process_time() < until:
        pass
"""


def loading() -> float:
    """CPU milliseconds of importing the inactive plugin."""

    def once() -> float:
        done = subprocess.run([sys.executable, "-c", LOAD], capture_output=True, text=True, check=True)
        return float(done.stdout)

    return 1e3 * min(once() for _ in range(5))


def without_torch(tests: int) -> tuple[float, float]:
    """CPU seconds of a suite that uses no torch: without the flag, and with it."""
    # Where the package is installed the plugin is known by its entry point.
    installed = any(entry.name == "gradcheck" for entry in entry_points(group="pytest11"))
    loaded = [] if installed else ["-p", "pytest_gradcheck.plugin"]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "test_a.py").write_text(SUITE.format(tests=tests), encoding="utf-8")

        def seconds(*arguments: str) -> float:
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *loaded, *arguments]
            subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL, env=os.environ)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

        return min(seconds() for _ in range(3)), min(seconds("--gradcheck") for _ in range(3))


def kept(name: str, budget: float) -> tuple[float, float]:
    """Wall seconds of a check with a budget, and of what cannot be cut."""
    import torch

    models = importlib.import_module("torchvision.models")
    torch.manual_seed(0)
    model, x = getattr(models, name)(), torch.randn(1, 3, 224, 224)
    model(x).sum().backward()
    best = (float("inf"), 0.0)
    for _ in range(2):
        model.zero_grad(set_to_none=True)
        started = time.monotonic()
        report = check_gradients(model, x, budget=budget)
        wall = time.monotonic() - started
        best = min(best, (wall, report.timings["inputs"] + report.timings["recording"]))
    return best


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a smaller suite, and one model")
    quick = parser.parse_args().quick
    console = Console(highlight=False)
    load = loading()
    console.print(f"importing the inactive plugin: {load:.1f} ms")
    plain, active = without_torch(100 if quick else 300)
    console.print(
        f"a suite without torch: {plain:.2f} s, with --gradcheck {active:.2f} s ({active / plain - 1:+.1%})"
    )
    budgets = []
    for name in ("resnet18",) if quick else ("resnet18", "vit_b_16"):
        for budget in (1.0, 2.0, 5.0):
            wall, uncut = kept(name, budget)
            console.print(f"{name}, budget {budget:g} s: {wall:.2f} s, of which recording {uncut:.2f} s")
            budgets.append(
                {"model": name, "budget": budget, "seconds": round(wall, 3), "recording": round(uncut, 3)}
            )
    print(
        json.dumps(
            {
                "benchmark": "plugin_overhead",
                "quick": quick,
                "load_ms": round(load, 2),
                "without_torch_ratio": round(active / plain, 4),
                "budgets": budgets,
            }
        )
    )


if __name__ == "__main__":
    main()

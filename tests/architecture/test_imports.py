"""What importing costs: no torch for the package, its command line, the engine and the inactive plugin."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from house import ROOT, TORCH_NAMES

_PROBE = """
import json, sys
{before}
known = set(sys.modules)
{statement}
print(json.dumps(sorted(set(sys.modules) - known)))
"""


def loaded_by(statement: str, before: str = "") -> set[str]:
    """The modules that a statement loads in a fresh interpreter, beyond those that ``before`` had loaded."""
    done = subprocess.run(
        [sys.executable, "-c", _PROBE.format(statement=statement, before=before)],
        cwd=ROOT,
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def _environment() -> dict[str, str]:
    import os

    # A measured run would load coverage's own modules in the child.
    return {name: value for name, value in os.environ.items() if not name.startswith("COV_")}


def packages(modules: set[str]) -> set[str]:
    """The top-level packages among modules, without the standard library's."""
    tops = {name.split(".")[0] for name in modules}
    return {name for name in tops if name not in sys.stdlib_module_names and not name.startswith("_")}


@pytest.mark.parametrize(
    "statement",
    [
        "import gradcheck_suite",
        "import gradcheck_suite.cli",
        "from gradcheck_suite import engine",
        "import gradcheck_suite.evidence, gradcheck_suite.rules, gradcheck_suite.report",
        "import gradcheck_suite.aten, gradcheck_suite.replay, gradcheck_suite.compare.tolerance",
        "import pytest_gradcheck.plugin",
        "from gradcheck_suite import Finding, GradientError, Report, Severity, explain, surrogate_gradient",
    ],
)
def test_no_torch(statement: str) -> None:
    loaded = packages(loaded_by(statement))
    assert not loaded & TORCH_NAMES, f"{statement!r} loads {sorted(loaded & TORCH_NAMES)}"


@pytest.mark.parametrize(
    "statement", ["from gradcheck_suite import check_gradients", "import gradcheck_suite.capture.recorder"]
)
def test_twin_torch_is_seen_where_it_is_loaded(statement: str) -> None:
    assert "torch" in packages(loaded_by(statement))


def test_the_package_itself_loads_nothing_foreign() -> None:
    assert packages(loaded_by("import gradcheck_suite")) == {"gradcheck_suite"}


def test_the_engine_loads_numpy_and_scipy_and_nothing_of_the_rest() -> None:
    loaded = loaded_by("from gradcheck_suite import engine")
    # SciPy loads a few packages of its own when it finds them installed.
    own = packages(
        loaded_by("import numpy, scipy.special, scipy.linalg, scipy.fft, scipy.sparse, scipy.signal")
    )
    assert packages(loaded) <= own | {"gradcheck_suite", "numpy", "scipy"}
    others = {name for name in loaded if name.startswith("gradcheck_suite.")}
    assert not {name for name in others if name.split(".")[1] not in {"engine", "_version"}}


def test_the_inactive_plugin_loads_the_standard_library_and_pytest_only() -> None:
    loaded = packages(
        loaded_by(
            "import pytest_gradcheck.plugin", before="import pytest, _pytest.junitxml, _pytest.terminal"
        )
    )
    assert loaded <= {"pytest_gradcheck", "gradcheck_suite", "pytest"}

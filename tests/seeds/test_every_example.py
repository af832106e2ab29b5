"""No example of the documents is missed, and every script runs and prints the document's numbers."""

from __future__ import annotations

import importlib
import inspect
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from documents import EXAMPLES, HEADINGS, TEST_FILES, Example, Heading
from stated_numbers import checks_can_fail

SCRIPTS = Path(__file__).parents[2] / "examples" / "seeds"
HELPER = "side_by_side"
NAMES = sorted(path.stem for path in SCRIPTS.glob("*.py") if path.stem != HELPER)


def complaints(headings: Sequence[Heading], examples: Sequence[Example], test_file: str) -> list[str]:
    """What is wrong with a document's table: counts, names that do not exist, tests that run something else."""
    found = []
    counted = {(h.title, kind): n for h in headings for kind, n in (("code", h.code), ("stated", h.stated))}
    listed = Counter((example.heading, example.kind) for example in examples)
    for place in sorted(counted.keys() | listed.keys()):
        if counted.get(place, 0) != listed[place]:
            found.append(f"{place}: {counted.get(place, 0)} in the document, {listed[place]} in the table")
    for opening, times in Counter((e.heading, e.opening) for e in examples).items():
        if times > 1:
            found.append(f"{opening} is listed {times} times")
    tests = importlib.import_module(test_file)
    for example in examples:
        test = getattr(tests, example.test, None)
        if test is None:
            found.append(f"{test_file} has no {example.test}")
        elif example.runs not in inspect.getsource(test):
            found.append(f"{example.test} does not run {example.runs}")
        script, name = example.runs.split(".")
        if not hasattr(importlib.import_module(script), name):
            found.append(f"{script} has no {name}")
    return found


@pytest.mark.parametrize("document", HEADINGS)
def test_every_example_is_in_the_table(document):
    assert complaints(HEADINGS[document], EXAMPLES[document], TEST_FILES[document]) == []


def test_every_document_has_a_test_file():
    assert HEADINGS.keys() == EXAMPLES.keys() == TEST_FILES.keys()
    assert set(TEST_FILES.values()) | {Path(__file__).stem} == {
        p.stem for p in Path(__file__).parent.glob("test_*.py")
    }


def test_the_comparison_can_fail():
    """A missing row, an unknown heading, a doubled row, a test or function that does not exist, the wrong test."""
    document = "Autograd deck"
    headings, examples, file = HEADINGS[document], EXAMPLES[document], TEST_FILES[document]
    first = examples[0]
    spoilt = {
        "1 in the document, 0 in the table": examples[1:],
        "0 in the document, 1 in the table": (*examples, first._replace(heading="Nowhere")),
        "listed 2 times": (*examples, first),
        "has no test_nothing": (first._replace(test="test_nothing"), *examples[1:]),
        "linear_fit has no nothing": (first._replace(runs="linear_fit.nothing"), *examples[1:]),
        "does not run tracking.detached": (first._replace(runs="tracking.detached"), *examples[1:]),
    }
    for complaint, table in spoilt.items():
        assert any(complaint in line for line in complaints(headings, table, file)), complaint
    checks_can_fail()


def test_every_script_is_used():
    used = {example.runs.split(".")[0] for examples in EXAMPLES.values() for example in examples}
    assert set(NAMES) == used - {"torch"}


PRINTED = {
    "accumulation": ["second  torch: 16   engine: 16", "after second   torch: 33   engine: 33"],
    "custom_function": ["dy/dx    torch: [6]   engine: [6]"],
    "first_gradients": ["dy/dx  torch: 7   engine: 7", "[300]", "df/dy  torch: 31   engine: 31"],
    "forward_hook": ["smallest 0.0000", "{'after model(x)': 1, 'after model.forward(x)': 1}"],
    "forward_reverse_cost": ["2 inputs, 50 outputs", "50 inputs, 2 outputs", "1000000 gradients"],
    "graph_builder": ["y  torch: 9   engine: 9", "dy/dx  torch: 3   engine: 3", "%4  y  multiply(%2, %3)"],
    "graph_structures": ["upper path", "lower path", "path over unit 2"],
    "linear_fit": ["w.grad  torch: [-22.6667]   engine: [-22.6667]", "epoch 100", "-0.0461169"],
    "linear_relu_net": ["loss by epoch", "without zero_grad()"],
    "multilayer_perceptron": ["loss by step", "cross_entropy fed probabilities"],
    "optimization_tips": ["norm after     torch: 1   engine: 1"],
    "pitfalls": [
        "iteration 2  torch: 8   engine: 8",
        "second  torch: [12]   engine: [12]",
        "GraphFreedError",
    ],
    "relu_neuron": ["u  torch: 6   engine: 6", "a  torch: 7   engine: 7", "da/dw  torch: 3   engine: 3"],
    "three_ways": ["in 21 evaluations", "symbols"],
    "tracking": ["y.grad  torch: [48]   engine: [48]", "inference_mode (torch only)"],
    "value_engine": ["y      Value: 4   torch: 4   engine: 4", "dy/dx  Value: -3   torch: -3   engine: -3"],
}


@pytest.mark.parametrize("name", NAMES)
def test_scripts_print_the_numbers(name, capsys):
    importlib.import_module(name).main()
    printed = capsys.readouterr().out
    for line in PRINTED[name]:
        assert line in printed


def test_a_script_runs_by_itself():
    """As its reader starts it, from another directory and without the tests' import path."""
    root = str(SCRIPTS.parents[1])
    found = subprocess.run(
        [sys.executable, str(SCRIPTS / "relu_neuron.py")],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": root},
        cwd=Path(sys.prefix),
    )
    assert found.returncode == 0, found.stderr
    assert "da/dw  torch: 3   engine: 3" in found.stdout

"""The wording of the findings that rules build from evidence."""

from __future__ import annotations

import json

import pytest

from gradcheck_suite.evidence import (
    Comparison,
    Location,
    NodeVerdict,
    Outcome,
    Report,
    Severity,
)
from gradcheck_suite.evidence import Testimony as Statement
from gradcheck_suite.evidence import Unverified as Entry
from gradcheck_suite.rules.detached_graph import DetachedGraph
from gradcheck_suite.rules.gradient_mismatch import GradientMismatch
from gradcheck_suite.rules.nan_gradient import NanGradient
from gradcheck_suite.rules.nondeterministic import Nondeterministic
from gradcheck_suite.rules.unused_parameter import UnusedParameter
from gradcheck_suite.rules.unverified import Unverified

NAN = float("nan")


def statement(subject="d loss / d input of CubeBackward", witness="engine", reason="", value=None, **changes):
    numbers = {
        "elements": 24, "differing": 21, "index": (2, 7), "expected": 6.18, "actual": 4.12, "error": 2.06,
        "tolerance": 3e-6, "scale": 6.18, "max_error": 2.06,
    }  # fmt: skip
    comparison = None if changes == {"none": True} else Comparison(**{**numbers, **changes})
    return Statement(witness, subject, Outcome.DISAGREE, comparison, reason, value)


def node(**changes):
    values = {
        "key": 3, "name": "CubeBackward", "op": "Cube", "location": Location("m.py", 31), "module": "net",
        "outcome": Outcome.DISAGREE, "how": "meaning", "testimonies": (),
    }  # fmt: skip
    return NodeVerdict(**{**values, **changes})


def mismatch(testimony, **kwargs):
    return GradientMismatch.from_node(node(), testimony, **kwargs)


@pytest.mark.parametrize(
    ("testimony", "said"),
    [
        (statement(), "d loss / d input[2, 7]: autograd 4.1200  engine 6.1800"),
        (statement(value=6.18), "engine 6.1800  differences 6.1800"),
        (statement("d loss / d input 1 of A"), "d loss / d input 1 [2, 7]: autograd"),
        (statement(index=(), elements=1, differing=1), "d loss / d input: autograd 4.1200"),
        (statement(index=(), elements=1, differing=1), "off by 2.1; tolerance 3e-6"),
        (statement(), "21 of 24 elements differ, by up to 1/3 of the largest; tolerance 3e-6"),
        (statement(differing=1), "1 of 24 elements differs"),
        (statement(max_error=0.0001), "by up to 1.6e-5 of the largest"),
        (statement(expected=0.0, scale=0.0), "by up to 2.1 where zero is expected"),
        (statement(expected=1.0, actual=1.0000003), "autograd 1.00000030  engine 1.00000000"),
        (statement(expected=1 + 2j, actual=1 - 2j), "autograd 1.0000-2.0000j  engine 1.0000+2.0000j"),
        (statement(actual=NAN), "autograd nan  engine 6.1800"),
        (
            statement(actual=NAN, expected=NAN, pattern="the shape is [2] where [3] is expected"),
            "d loss / d input: the shape is [2] where [3] is expected",
        ),
        (statement(none=True, reason="it returned no gradient"), "d loss / d input: it returned no gradient"),
    ],
)
def test_mismatch_in_numbers(testimony, said):
    finding = mismatch(testimony, function_name="Cube")
    assert said in finding.message
    assert finding.message.startswith("the backward of Cube disagrees with the derivative of its forward\n")
    # Evidence must survive the way to a file.
    assert Report.from_dict(json.loads(json.dumps(Report("t", (finding,)).to_dict()))).findings


@pytest.mark.parametrize(
    ("pattern", "backward", "name", "hint"),
    [
        (
            "the ratio is 2/3: a factor is missing in backward",
            Location("m.py", 36),
            "Cube",
            "in backward (m.py:36)",
        ),
        (
            "the sign is flipped",
            Location("m.py", 36),
            "Cube",
            "flipped; look at the backward of Cube (m.py:36)",
        ),
        ("", Location("m.py", 36), "Cube", "compare the backward of Cube (m.py:36) with the derivative"),
        ("", None, "Cube", "compare the backward of Cube with the derivative"),
        ("the sign is flipped", None, "", "the sign is flipped"),
        ("", None, "", "this operation is torch's own"),
    ],
)
def test_mismatch_hints(pattern, backward, name, hint):
    assert hint in mismatch(statement(pattern=pattern), backward=backward, function_name=name).hint


def test_mismatch_names_the_lines_involved():
    finding = mismatch(statement(), backward=Location("m.py", 36), function_name="Cube")
    assert (finding.code, finding.severity, finding.op) == ("GC101", Severity.ERROR, "CubeBackward")
    assert [(r.role, r.location.line) for r in finding.related] == [("backward", 36)]
    assert finding.evidence["node"] == 3


def test_sums_and_whole_models():
    finding = GradientMismatch.from_sum(statement("d loss / d w", "sum"), op="net.w")
    assert finding.message.startswith(
        "the gradient that arrived at net.w is not the sum of its contributions"
    )
    assert "writes into its grad_output" in finding.hint
    assert "a tensor hook on this value" in GradientMismatch.from_sum(statement(), hooked=True).hint
    finding = GradientMismatch.from_model(statement(witness="finite_difference"))
    assert "autograd 4.1200  differences 6.1800" in finding.message
    assert "around autograd" in finding.hint
    assert "aten::solve" in GradientMismatch.from_model(statement(), suspects=("aten::solve",)).hint


def test_detached_graph():
    cut = Location("m.py", 9)
    finding = DetachedGraph.from_difference(statement(), ["a", "b"], cut, module="net")
    assert "the output depends on a, b around autograd" in finding.message
    assert "autograd 4.1200  really 6.1800" in finding.message
    assert "m.py:9" in finding.hint
    assert finding.location == cut
    assert "detach(), .data" in DetachedGraph.from_difference(statement(), ["a"], None).hint


def test_deliberate_stop_gradients_are_notes():
    cut = Location("m.py", 9)
    finding = DetachedGraph.from_stop("no_grad", ["a"], cut, module="net")
    assert finding.severity is Severity.NOTE
    assert finding.code == "GC501"
    assert "no_grad() here holds a value constant that depends on a" in finding.message
    assert "ignore[detached-graph]" in finding.hint
    assert "moves the output" in DetachedGraph.from_stop("detach", [], cut).message


def test_unverified_is_grouped_by_reason():
    entries = [Entry("A", "why"), Entry("B", "because"), Entry("C", "why", 3)]
    first, second = Unverified.from_entries(entries)
    assert first.message == "not verified: A, C (4 times)\nwhy"
    assert first.count == 4
    assert second.message == "not verified: B\nbecause"
    assert Unverified.from_entries([]) == []


def test_unused_parameters_are_grouped_by_module():
    first, second = UnusedParameter.from_names(["a.weight", "a.bias", "scale"], {"a.weight": 6, "a.bias": 2})
    assert first.message == "a.weight, a.bias (8 elements) require a gradient and never receive one"
    assert (first.module, second.module) == ("a", "")
    assert second.message == "scale requires a gradient and never receives one"


def test_nondeterminism_names_both_runs():
    finding = Nondeterministic.from_runs(statement("the output"), op="aten::rand")
    assert "the output differs between two runs from the same state" in finding.message
    assert "element [2, 7]: first run 6.1800  second run 4.1200" in finding.message
    assert finding.severity is Severity.WARNING


def test_nan_producer_and_input():
    finding = NanGradient.from_producer(
        op="LogBackward0", phase="backward", nans=1, infinities=2, elements=3, victims=["x"]
    )
    assert (
        "LogBackward0 makes 1 NaN and 2 Inf in its backward from finite values (3 elements)"
        in finding.message
    )
    assert "torch.where" in finding.hint
    assert "w holds 1 NaN and 0 Inf among 4 elements" in NanGradient.from_input("w", 1, 0, 4).message

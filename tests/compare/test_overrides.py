"""``tolerance=``: what is understood, what it changes in both directions, and that it is said."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gradcheck_suite import check_gradients
from gradcheck_suite.compare.overrides import COMPARING, judging, overriding, read_tolerance
from gradcheck_suite.compare.tolerance import judge, settles
from gradcheck_suite.errors import ConfigurationError
from gradcheck_suite.evidence import Outcome
from gradcheck_suite.rules import find_rule


class Scaled(torch.autograd.Function):
    """A backward that is off by one part in a thousand."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, grad_output):
        (x,) = ctx.saved_tensors
        return 1.001 * x.cos() * grad_output


def test_the_rules_are_the_ones_that_exist():
    for code, slug in COMPARING.items():
        assert find_rule(code).slug == slug


@pytest.mark.parametrize(
    ("value", "rule", "dtype", "expected"),
    [
        (1e-3, "GC101", "float32", 1e-3),
        (1e-3, "GC101", "bfloat16", 1e-3),
        (1e-3, "GC105", "float32", None),
        ({"float32": 1e-4}, "GC101", "float32", 1e-4),
        ({"float32": 1e-4}, "GC101", "float64", None),
        ({"float32": 1e-4}, "GC104", "float32", None),
        ({torch.float32: 1e-4}, "GC101", "float32", 1e-4),
        ({("GC101", "bfloat16"): 0.1, "GC101": 1e-3}, "GC101", "bfloat16", 0.1),
        ({("bfloat16", "gc101"): 0.1, "GC101": 1e-3}, "GC101", "float64", 1e-3),
        ({"gradient-mismatch": 1e-3, "float64": 1e-9}, "GC101", "float64", 1e-9),
        ({"GC105": {"float16": 0.2}}, "GC105", "float16", 0.2),
        ({"GC105": {"float16": 0.2}}, "GC105", "float32", None),
    ],
)
def test_what_is_meant_by_a_setting(value, rule, dtype, expected):
    assert read_tolerance(value).of(rule, dtype) == expected


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (-1e-3, "tolerance is -0.001"),
        (0, "tolerance is 0"),
        (float("nan"), "tolerance is nan"),
        (float("inf"), "tolerance is inf"),
        (True, "tolerance is True"),
        ("1e-3", "tolerance is '1e-3'"),
        ({}, "an empty mapping"),
        ({"flaot32": 1e-3}, "Did you mean 'float32'"),
        ({"GC301": 1e-3}, "no rule that compares gradients"),
        ({("GC101", "GC102"): 1e-3}, "'GC102'"),
        ({"float32": "much"}, "'much'"),
        ({"float32": {"float32": 1.0}}, "Only a rule"),
        ({"GC101": {"GC102": 1.0}}, "Name only dtypes"),
        ({"GC101": 1e-3, "gradient-mismatch": 1e-4}, "names GC101 twice"),
    ],
)
def test_a_setting_that_is_not_understood_is_refused(value, said):
    with pytest.raises(ConfigurationError) as caught:
        check_gradients(torch.sin, torch.ones(2), tolerance=value)
    assert said in str(caught.value)
    assert "checking gradients failed" in str(caught.value)


def test_nothing_set_changes_nothing():
    assert read_tolerance(None) is None
    with overriding(None), judging("GC101"):
        assert judge(np.ones(3), np.ones(3) * 1.001, dtype="float32")[0] is Outcome.DISAGREE


def test_loosening_replaces_the_bound_and_is_counted():
    set_ = read_tolerance({"float32": 1e-2})
    expected = np.ones(3)
    with overriding(set_):
        assert judge(expected, expected * 1.001, dtype="float32")[0] is Outcome.AGREE
        assert judge(expected, expected * 1.02, dtype="float32")[0] is Outcome.DISAGREE
        assert judge(expected, expected * 1.001, dtype="float64")[0] is Outcome.DISAGREE
        assert judge(expected, expected, dtype="float32")[0] is Outcome.AGREE
        with judging("GC105"):
            assert judge(expected, expected * 1.001, dtype="float32")[0] is Outcome.DISAGREE
        with judging(""):
            assert judge(expected, expected * 1.001, dtype="float32")[0] is Outcome.DISAGREE
    assert set_.counts() == {"overridden_comparisons": 3, "passed_by_loosening": 1}
    (note,) = set_.notes()
    assert "loosened for GC101 in float32: 0.01 of the largest entry instead of 7.6e-6" in note
    assert "1 of them passes only because of it" in note


def test_tightening_still_grants_the_measured_noise():
    expected, actual = np.ones(4), np.ones(4) + 3e-7
    with overriding(read_tolerance(1e-8)):
        assert judge(expected, actual, dtype="float32")[0] is Outcome.DISAGREE
        assert judge(expected, actual, dtype="float32", noise=lambda: np.full(4, 1e-7))[0] is Outcome.AGREE
        assert settles(expected, actual, dtype="float32") is None
    assert settles(expected, actual, dtype="float32") is not None


def test_what_only_a_loosened_tolerance_lets_pass_is_never_settled_at_first_sight():
    set_ = read_tolerance(1e-2)
    with overriding(set_):
        assert settles(np.ones(4), np.full(4, 1.001), dtype="float32") is None
        assert settles(np.ones(4), np.ones(4), dtype="float32") is not None
    assert set_.counts() == {"overridden_comparisons": 1, "passed_by_loosening": 0}


@pytest.mark.parametrize("tolerance", [None, 1e-4, 1e-2, {"float64": 1e-2}])
def test_a_check_that_was_loosened_says_so(tolerance):
    report = check_gradients(Scaled.apply, torch.linspace(0.1, 1, 8), tolerance=tolerance)
    passes = tolerance == 1e-2
    # The differences of the whole see the same error; where it was let pass, it is nobody's detached graph.
    assert {f.code for f in report.errors} == (set() if passes else {"GC101"}), str(report)
    said = [n for n in report.notes if "toleranc" in n]
    if tolerance is None:
        assert not said
        assert "passed_by_loosening" not in report.counts
    elif passes:
        assert report.counts["passed_by_loosening"] == 1
        assert "1 of them passes only because of it" in said[0]
    elif isinstance(tolerance, dict):
        assert said == ["the tolerance for float64 applied to nothing"]
    else:
        assert report.counts["passed_by_loosening"] == 0
    if passes:
        assert "loosened" in str(report)


def test_a_loosened_tolerance_excuses_no_larger_difference_of_the_whole():
    def around(x):
        return Scaled.apply(x) * x.data.clone().numpy().sum()

    report = check_gradients(around, torch.linspace(0.1, 1, 8), tolerance=1e-2)
    assert {f.code for f in report.errors} == {"GC501"}, str(report)


def test_a_tight_tolerance_finds_less_and_accuses_no_right_model():
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(20, 30), torch.nn.LayerNorm(30), torch.nn.GELU(), torch.nn.Linear(30, 2)
    )
    report = check_gradients(model, torch.randn(6, 20), tolerance=1e-9)
    assert report.ok, str(report)

"""``budget=``: the time is kept, what did not fit is said and counted, and a custom Function's verdict is never dropped."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from gradcheck_suite import check_gradients
from gradcheck_suite.errors import ConfigurationError
from gradcheck_suite.evidence import Outcome
from gradcheck_suite.witnesses import nodes as checking
from gradcheck_suite.witnesses.budget import Budget


class Square(torch.autograd.Function):
    factor = 2.0

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, grad_output):
        (x,) = ctx.saved_tensors
        return Square.factor * x * grad_output


class Deep(nn.Module):
    """Many layers; the custom Function is the first operation, which a search from the output meets last."""

    def __init__(self, depth=40, width=64):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))

    def forward(self, x):
        x = Square.apply(x)
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x


@pytest.fixture
def slow_nodes(monkeypatch):
    """Every node takes 10 ms, so that what fits does not depend on the machine."""
    check = checking.check_node

    def slowly(*args, **kwargs):
        time.sleep(0.01)
        return check(*args, **kwargs)

    monkeypatch.setattr(checking, "check_node", slowly)


def deep():
    torch.manual_seed(0)
    return Deep(), torch.randn(8, 64)


def test_what_did_not_fit_is_said_and_counted(slow_nodes):
    model, x = deep()
    check_gradients(model, x)  # what is imported and built once does not belong to the measured run
    report = check_gradients(model, x, budget=0.5)
    left_out = report.counts["nodes_beyond_the_budget"]
    assert 0 < left_out < len(report.nodes)
    reasons = [u for u in report.unverified if u.reason == "the budget of 0.5 s ran out"]
    assert sum(u.count for u in reasons) >= left_out
    assert any("custom Functions first" in note for note in report.notes)
    assert sum(v.outcome is Outcome.INCONCLUSIVE for v in report.nodes) == left_out
    # From the output backwards: the last layers' gradients are proved, the first ones' are not.
    outcomes = {g.name: g.outcome for g in report.gradients}
    assert outcomes["layers.39.bias"] is Outcome.AGREE
    assert outcomes["layers.0.weight"] is Outcome.INCONCLUSIVE
    assert report.ok


def test_one_of_every_kind_comes_before_the_second_of_any(slow_nodes):
    model, x = deep()
    report = check_gradients(model, x, budget=0.5)
    looked_at = {v.name for v in report.nodes if v.outcome is Outcome.AGREE}
    assert looked_at == {v.name for v in report.nodes}


@pytest.mark.parametrize("budget", [1e-3, 0.2])
@pytest.mark.parametrize("factor", [2.0, 2.002])
def test_the_verdict_on_a_custom_function_is_never_dropped(budget, factor, monkeypatch):
    monkeypatch.setattr(Square, "factor", factor)
    model, x = deep()
    report = check_gradients(model, x, budget=budget)
    (verdict,) = [v for v in report.nodes if v.op == "Square"]
    assert verdict.outcome is (Outcome.AGREE if factor == 2.0 else Outcome.DISAGREE)
    assert ("GC101" in {f.code for f in report.findings}) is (factor != 2.0)
    if factor == 2.0:
        assert not report.errors


def test_a_budget_that_lets_nothing_be_verified_is_no_pass():
    model, x = deep()
    report = check_gradients(model, x, budget=1e-6)
    assert not report.verified
    assert not report.ok
    said = {u.subject for u in report.unverified}
    assert "whether a second run gives the same" in said
    assert "the free-running replay" in said
    assert "directional derivative of the whole function" in said


def test_no_budget_leaves_nothing_out():
    model, x = deep()
    report = check_gradients(model, x)
    assert report.ok
    assert not report.unverified
    assert "nodes_beyond_the_budget" not in report.counts


def test_an_ample_budget_leaves_nothing_out():
    model, x = deep()
    report = check_gradients(model, x, budget=300)
    assert report.ok
    assert not report.unverified
    assert report.counts["nodes_beyond_the_budget"] == 0


def test_further_looks_are_not_begun_after_the_end():
    report = check_gradients(*deep(), budget=1e-6, backends=("aot_eager",), devices=("cpu",))
    reasons = {u.subject: u.reason for u in report.unverified}
    assert reasons["backends"] == reasons["devices"] == "the budget of 1e-06 s ran out"


def test_what_no_budget_can_cut_is_said():
    class Slow(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x):
            time.sleep(0.3)
            return self.layer(x)

    report = check_gradients(Slow(), torch.randn(4, 3), budget=0.2)
    (note,) = [n for n in report.notes if "cannot cut" in n]
    assert "exceeds the budget of 0.2 s by itself" in note
    assert "recording 0.3" in note
    assert not any("cannot cut" in n for n in check_gradients(*deep(), budget=300).notes)


def test_what_takes_most_of_the_budget_is_said():
    limit = Budget.begin(2.0)
    assert limit.kept_by({"inputs": 0.1, "recording": 0.8}) == ()
    (note,) = limit.kept_by({"inputs": 0.1, "recording": 1.2, "replay": 9.0})
    assert "takes most of the budget of 2 s by itself (inputs 0.1 s, recording 1.2 s)" in note
    assert Budget.begin(None).kept_by({"recording": 100.0}) == ()


@pytest.mark.parametrize("budget", [0, -1, True, "2", float("nan")])
def test_a_budget_that_is_no_time_is_refused(budget):
    with pytest.raises(ConfigurationError, match="positive number of seconds"):
        check_gradients(torch.sin, torch.ones(2), budget=budget)


def test_what_is_left():
    limit = Budget.begin(None)
    assert limit.left() == float("inf")
    assert limit.fits(1e9)
    assert limit.reason == ""
    limit = Budget(5.0, time.monotonic() - 3.0)
    assert 1.9 < limit.left() <= 2.0
    assert limit.reserving(1.0).fits(0.5)
    assert not limit.reserving(1.0).fits(1.5)
    assert limit.reason == "the budget of 5 s ran out"

"""No loop of a tutorial is accused of anything, and each trains to the same bits as it does unwatched."""

from __future__ import annotations

import importlib
import random
import warnings

import numpy as np
import pytest
import torch

from gradcheck_suite import watch
from gradcheck_suite.evidence import Severity
from gradcheck_suite.watching import Ledger

from .registry import TUTORIALS

for _field in (
    "changed_inputs",
    "distributed",
    "frameworks",
    "generative",
    "habits",
    "meta",
    "modes",
    "optimisation",
    "performance",
    "reinforcement",
    "sequences",
    "several_gradients",
    "uncommon",
    "unusual_models",
    "unusual_steps",
    "vision",
):
    importlib.import_module(f"{__package__}.{_field}")

LEDGER = Ledger()


def _marks(tutorial):
    if tutorial.slow:
        yield pytest.mark.slow
    if tutorial.open:
        yield pytest.mark.xfail(strict=True, reason=tutorial.open, raises=AssertionError)


CASES = [pytest.param(t, id=name, marks=list(_marks(t))) for name, t in sorted(TUTORIALS.items())]


def seed():
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def default_modes():
    """Every loop starts, plain and watched, from the same modes."""
    yield
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tutorial", CASES)
def test_a_tutorial_is_left_in_peace_and_trains_to_the_same_bits(tutorial):
    for module in tutorial.needs:
        pytest.importorskip(module)
    seed()
    plain = [t.detach().clone() for t in tutorial.train()]
    torch.compiler.reset()
    seed()
    with warnings.catch_warnings(), watch(verify=True, shared=LEDGER) as session:
        watched = tutorial.train()
    assert session.internal_errors == []
    loud = [f for f in session.report.findings if f.severity > Severity.NOTE]
    assert loud == [], f"{tutorial.title}\n{session.report}"
    assert session.report.counts["backwards"] > 0
    assert len(plain) == len(watched) > 0
    for one, other in zip(plain, watched):
        assert torch.equal(one, other), f"{tutorial.title}: the largest change is {(one - other).abs().max()}"
    assert any(bool(t.any()) for t in watched)


def test_there_are_enough():
    assert len(TUTORIALS) >= 16


ZEROES_BY_ITSELF = {
    "fgsm",  # no parameter is stepped
    "flat_buffer",  # the buffer is zeroed
    "functional_curvature",  # .grad is assigned
    "functional_training",
    "learning_pytorch_with_examples",
    "optimizer_in_backward",
    "per_sample_gradients",  # .grad is assigned
    "saliency_in_eval_mode",
    "second_order",
    "universal_perturbation",
    "ways_to_zero",
}
"""Loops in which ``zero_grad`` is not called, or makes no difference."""

MISSED = {
    "driven_by_scipy": "between the gradient and the update lies SciPy",
    "error_feedback": "what is added to the gradient was computed from gradients, as what takes the old one off",
    "gradient_surgery": "every step uses a gradient that was assigned",
    "gradients_handed_over": "the gradients were made by another model's backward",
    "replaced_gradients": "every step uses a gradient that was assigned",
    "variance_reduction": "what is added to the gradient was computed from gradients, as what takes the old one off",
    "nested_sessions": "what an inner session has seen, the outer has not",
}


def _without_zeroing():
    cases = []
    for name, tutorial in sorted(TUTORIALS.items()):
        if name not in ZEROES_BY_ITSELF:
            reason = MISSED.get(name)
            marks = [pytest.mark.xfail(strict=True, reason=reason, raises=AssertionError)] if reason else []
            cases.append(pytest.param(tutorial, id=name, marks=marks))
    return cases


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tutorial", _without_zeroing())
def test_twin_without_zeroing_a_tutorial_is_accused(tutorial, monkeypatch):
    """The silence above is not deafness: where ``zero_grad`` does nothing, nearly every loop is wrong."""
    for module in tutorial.needs:
        pytest.importorskip(module)
    torch.compiler.reset()
    for owner in (torch.optim.Optimizer, torch.nn.Module):
        monkeypatch.setattr(owner, "zero_grad", lambda self, set_to_none=True: None)
    seed()
    with watch(verify=False) as session:
        tutorial.train()
    assert {f.code for f in session.report.findings if f.severity > Severity.NOTE} == {"GC301"}

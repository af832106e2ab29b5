"""Correct gradients are not accused, and what is correct is verified, not merely let through."""

from __future__ import annotations

import re

import pytest
import torch
from reported_truths import REPORTED_TRUTHS
from truths import TRUTHS, Truth
from unusual_truths import UNUSUAL_TRUTHS

from gradcheck_suite import Severity, check_gradients, watch
from gradcheck_suite.evidence import Outcome

ALL = (*TRUTHS, *REPORTED_TRUTHS, *UNUSUAL_TRUTHS)
SORTED = [
    pytest.param(truth, marks=pytest.mark.xfail(strict=True, reason=truth.accused))
    if truth.accused
    else truth
    for truth in ALL
]


@pytest.mark.parametrize("truth", SORTED, ids=lambda truth: truth.name)
def test_is_verified_and_not_accused(truth: Truth) -> None:
    model, inputs = truth.make()
    report = check_gradients(model, inputs)
    assert report.ok or truth.unverified, str(report)
    assert not report.errors, str(report)
    remarks = {finding.code for finding in report.findings}
    assert remarks <= set(truth.remarks), str(report)
    if not truth.unverified:
        open_nodes = [v for v in report.nodes if v.outcome is not Outcome.AGREE]
        assert not open_nodes, str(report)
        assert len(report.verified) == len(report.gradients), str(report)


@pytest.mark.parametrize("truth", ALL, ids=lambda truth: truth.name)
def test_is_not_accused_by_a_watcher(truth: Truth) -> None:
    model, inputs = truth.make()
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    inputs = tuple(
        x.detach().requires_grad_()
        if isinstance(x, torch.Tensor) and (x.is_floating_point() or x.is_complex())
        else x
        for x in inputs
    )
    with watch() as session:
        output = model(*inputs)
        while isinstance(output, dict):
            output = output["rest"][0]
        generator = torch.Generator().manual_seed(5)
        cotangent = torch.randn(output.shape, dtype=torch.float64, generator=generator)
        output.backward(cotangent.to(output.dtype))
    assert not session.internal_errors, session.internal_errors[0]
    assert not [f for f in session.report.findings if f.severity >= Severity.WARNING], str(session.report)
    assert session.report.counts["nodes"] > 0


def test_there_are_truths_enough_and_each_has_its_own_name() -> None:
    assert len(ALL) >= 130
    assert len({truth.name for truth in ALL}) == len(ALL)


def test_what_was_reported_says_where() -> None:
    assert all(re.fullmatch(r"[\w.-]+/[\w.-]+#\d+", truth.cite) for truth in REPORTED_TRUTHS)

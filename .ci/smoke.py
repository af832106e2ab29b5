"""The installed package, used as in the README, outside the source tree."""

from __future__ import annotations

import json
from pathlib import Path

import torch

import gradcheck_suite
from gradcheck_suite import GradientError, Report, check_gradients

assert "site-packages" in str(Path(gradcheck_suite.__file__)), gradcheck_suite.__file__


class Halved(torch.autograd.Function):
    """Twice x, with the backward of once x."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, cotangent):
        return cotangent


right = check_gradients(torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh()), torch.randn(5, 4))
assert right.ok, str(right)
assert len(right.verified) >= 2

wrong = check_gradients(Halved.apply, torch.randn(5, dtype=torch.float64, requires_grad=True))
assert [finding.code for finding in wrong.errors] == ["GC101"], str(wrong)
raised = ""
try:
    wrong.raise_for_findings()
except GradientError as error:
    raised = str(error)
assert "GC101" in raised, "a wrong gradient was not raised"

path = wrong.save("smoke.json")
assert Report.from_dict(json.loads(Path(path).read_text(encoding="utf-8"))).errors
wrong.save("smoke.html")
print("the installed package finds a wrong backward and passes a right one")

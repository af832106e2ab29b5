"""The script of a finding about one of torch's operations runs by itself and is short."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from gradcheck_suite import check_gradients
from gradcheck_suite.aten import lookup, registry
from gradcheck_suite.engine import Tensor

CALLS = {
    "aten::gelu": lambda x: F.gelu(x, approximate="tanh"),
    "aten::_foreach_exp": lambda x: torch._foreach_exp([x, x * 2])[1],
    "aten::mm": lambda x: x.t() @ torch.ones(3, 2),
    "aten::_sparse_addmm": lambda x: torch.sparse.mm(torch.eye(3).to_sparse(), x),
}


def wrong_slope(name: str) -> registry.Meaning:
    """A meaning with the right value at the recorded point, and slopes that are too large by 0.3."""
    right = lookup(name)
    assert right is not None

    def bent(*args: Any, recorded: Any, **kwargs: Any) -> Any:
        outputs = right.function(*args, **kwargs)
        if isinstance(outputs, Tensor):
            return outputs * 1.3 - Tensor(0.3 * recorded[0])
        return [o * 1.3 - Tensor(0.3 * r) for o, r in zip(outputs, recorded)]

    return replace(right, function=bent, uses_outputs=True)


@pytest.mark.parametrize("name", sorted(CALLS))
def test_the_script_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._MEANINGS, name, wrong_slope(name))
    report = check_gradients(CALLS[name], torch.randn(3, 4))
    (finding,) = [f for f in report.findings if f"the backward of {name} " in f.message]
    assert len(finding.reproduction.splitlines()) < 30
    done = subprocess.run([sys.executable, "-c", finding.reproduction], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    autograd, differences = (float(line.split()[-1]) for line in done.stdout.splitlines())
    assert autograd == pytest.approx(differences, rel=1e-3)  # torch is right here: the lie was the engine's

"""Every reproduction of a bug in torch shows its bug, is documented, and is found by the engine.

When one of these fails on a newer torch, the bug is fixed there: remove the reproduction and its row.
"""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.coverage_entries import FORWARD
from gradcheck_suite import check_gradients
from gradcheck_suite.evidence import Outcome, Severity
from gradcheck_suite.witnesses.engine import check_node
from gradcheck_suite.witnesses.fallback import fallback_for
from gradcheck_suite.witnesses.torch_reverse import record_reverse

FOLDER = Path(__file__).parents[1] / "docs"
SCRIPTS = sorted((FOLDER / "torch_bugs").glob("*.py"))
OTHER_MODES = sorted((FOLDER / "torch_bugs" / "other_modes").glob("*.py"))
"""Forward mode and higher orders, which the node-by-node check of a plain backward does not see."""

# A call for each reproduction that the node-by-node check has to object to.
CALLS: dict[str, Callable[[Tensor], Tensor]] = {
    "as_strided_scatter_backward": lambda x: torch.as_strided_scatter(
        x, -torch.ones(2, 2, dtype=x.dtype), [2, 2], [1, 2], 0
    ),
    "batch_norm_memory_format": lambda x: (
        torch.nn.functional.batch_norm(x.view(1, 3, 1, 3), None, None, training=True)
        .flatten(2)
        .transpose(1, 2)
    ),
    "bessel_precision": torch.special.bessel_j0,
    "binary_cross_entropy_constant": lambda x: torch.nn.functional.binary_cross_entropy(
        (100 * x).sigmoid(), torch.zeros_like(x)
    ),
    "celu_constant": lambda x: torch.nn.functional.celu(-x, 0.7),
    "embedding_half_sums": lambda x: torch.nn.functional.embedding(
        torch.zeros(4096, dtype=torch.long), x.bfloat16().view(-1, 1)
    ).sum(),
    "matrix_exp_half": lambda x: torch.matrix_exp(0.1 * x.view(3, 3).bfloat16()),
    "sinc_near_zero": lambda x: torch.sinc(1e-6 * x),
    "hardsigmoid_constant": lambda x: torch.nn.functional.hardsigmoid(x - 5),
    "layer_norm_half_sums": lambda x: torch.nn.functional.layer_norm(
        torch.ones(4096, x.numel()).bfloat16(), x.shape, None, x.bfloat16()
    ).sum(),
    "trigamma_precision": torch.digamma,
}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_bug_shows(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = runpy.run_path(str(script))
    assert names["SHOWN"], capsys.readouterr().out
    assert names["OPS"]


@pytest.mark.parametrize("script", OTHER_MODES, ids=lambda path: path.stem)
def test_the_bug_of_another_mode_shows(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert runpy.run_path(str(script))["SHOWN"], capsys.readouterr().out


@pytest.mark.parametrize("script", [*SCRIPTS, *OTHER_MODES], ids=lambda path: path.stem)
def test_it_is_documented(script: Path) -> None:
    name = script.relative_to(FOLDER).as_posix() if script in OTHER_MODES else script.name
    assert f"`{name}`" in (FOLDER / "known-torch-bugs.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_engine_objects(script: Path) -> None:
    x = torch.linspace(1.1, 5.1, 9, dtype=torch.float64, requires_grad=True)
    run = record_reverse(CALLS[script.stem], (x,), {}, named_leaves={"x": x})
    fallback = fallback_for(run.recorder, run.autograd_nodes)
    verdicts = [
        check_node(n, run.probe, fallback=fallback)[0] for k, n in run.trace.nodes.items() if k > 0 and n.ran
    ]
    objections = [
        testimony
        for verdict in verdicts
        for testimony in verdict.testimonies
        if testimony.outcome is Outcome.DISAGREE or FORWARD in testimony.reason
    ]
    assert objections


def test_a_defect_of_any_size_excuses_torch_and_nobody_else() -> None:
    class Sinc(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return torch.sinc(x)

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return -grad * ctx.saved_tensors[0]

    x = 1e-6 * torch.linspace(1, 2, 5)
    assert {f.severity for f in check_gradients(torch.sinc, (x,)).findings if f.code == "GC101"} == {
        Severity.WARNING
    }
    assert {f.severity for f in check_gradients(Sinc.apply, (x,)).findings if f.code == "GC101"} == {
        Severity.ERROR
    }

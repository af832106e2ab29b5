"""What a check costs, in forward+backwards of the same model: ours and ``torch.autograd.gradcheck``.

    python -m benchmarks.cost [--quick]

Ours is the full default ``check_gradients`` on the model as it is (float32): every element of every gradient. gradcheck
needs float64, so it gets the model in float64 and is compared with a forward+backward in float64, and so are we, once
more; the model is wrapped with ``functional_call``, since gradcheck by itself looks at no parameter. All models here
are right, so a gradcheck that fails is a false alarm. resnet18 gets images of 2 x 3 x 32 x 32.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.func import functional_call

from gradcheck_suite import Report, check_gradients

from .models import Case, MissingPackageError, cases, mlp_case

__all__ = ["growth_exponent", "main", "measure"]

GROWTH = (100_000, 300_000, 1_000_000, 3_000_000, 10_000_000)
GROWTH_QUICK = (100_000, 300_000, 1_000_000, 3_000_000)


@dataclass
class Cost:
    """What one checker took.

    Attributes:
        seconds: the fastest of the repetitions; what disturbs a measurement only ever adds to it.
        ratio: to one forward+backward in the same dtype.
        ok: whether it said that the gradients are right, which they are.
        elements: gradient elements that it looked at one by one; 0 where it looks at one number per tensor.
        remark: what it said otherwise, or why it was not run.
    """

    seconds: float | None = None
    ratio: float | None = None
    ok: bool | None = None
    elements: int = 0
    remark: str = ""


@dataclass
class Row:
    """One model's costs; times in seconds."""

    name: str
    parameters: int
    forward_backward: float
    forward_backward_float64: float
    ours: Cost
    ours_float64: Cost
    fast: Cost
    slow: Cost
    stages: dict[str, float] = field(default_factory=dict)


def fastest(run: Callable[[], object], *, seconds: float, least: int = 1, most: int = 30) -> float:
    """Shortest time of a call, after one that is not counted, of ``least`` calls or as many as ``seconds`` allow."""
    run()
    times: list[float] = []
    begun = time.perf_counter()
    while len(times) < least or (len(times) < most and time.perf_counter() - begun + times[-1] < seconds):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def forward_backward(model: nn.Module, inputs: Sequence[Tensor]) -> Callable[[], object]:
    """One forward and one backward to every parameter and input."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    wanted = [*model.parameters(), *leaves]
    cotangent = torch.randn_like(model(*leaves))

    def run() -> object:
        return torch.autograd.grad(model(*leaves), wanted, cotangent)

    return run


def ours(
    model: nn.Module, inputs: tuple[Tensor, ...], unit: float, seconds: float
) -> tuple[Cost, dict[str, float]]:
    """The full default check."""
    leaves = tuple(x.clone().requires_grad_() for x in inputs)
    reports: list[Report] = []

    def run() -> None:
        reports[:] = [check_gradients(model, leaves)]

    taken = fastest(run, seconds=seconds, least=3)
    (report,) = reports
    remarks = [f"{finding.code} {finding.message}" for finding in report.errors]
    remarks += [f"{g.name} {g.outcome.value}" for g in report.gradients if g not in report.verified]
    elements = sum(math.prod(gradient.shape) for gradient in report.verified)
    cost = Cost(taken, taken / unit, report.ok and not remarks, elements, "; ".join(remarks[:3]))
    return cost, {stage: round(t, 4) for stage, t in report.timings.items()}


def as_function(
    model: nn.Module, inputs: Sequence[Tensor]
) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    """The model as a function of its inputs and parameters, and those, for gradcheck."""
    names = [name for name, _ in model.named_parameters()]
    parameters = [p.detach().clone().requires_grad_() for p in model.parameters()]
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    count = len(leaves)

    def function(*tensors: Tensor) -> Tensor:
        out: Tensor = functional_call(model, dict(zip(names, tensors[count:])), tensors[:count])
        return out

    return function, (*leaves, *parameters)


def gradcheck(model: nn.Module, inputs: Sequence[Tensor], unit: float, *, fast: bool, seconds: float) -> Cost:
    """torch's own check, on a model that is in float64 already."""
    function, tensors = as_function(model, inputs)
    said: list[str] = []

    def run() -> None:
        said.clear()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch.autograd.gradcheck(function, tensors, fast_mode=fast)
        except RuntimeError as error:  # GradcheckError
            said.append(" ".join(str(error).split())[:160])

    if fast:
        taken = fastest(run, seconds=seconds)
    else:
        start = time.perf_counter()
        run()
        taken = time.perf_counter() - start
    elements = 0 if fast else sum(t.numel() for t in tensors)
    return Cost(taken, taken / unit, not said, elements, said[0] if said else "")


def measure(case: Case, *, quick: bool) -> Row:
    """All costs of one case.

    Raises:
        MissingPackageError: the case needs a package that is not installed.
    """
    seconds = 0.5 if quick else 10.0
    model, inputs = case.make()
    unit = fastest(forward_backward(model, inputs), seconds=0.5, least=5, most=200)
    mine, stages = ours(model, inputs, unit, seconds)
    wide = copy.deepcopy(model).double()
    wide_inputs = tuple(x.double() for x in inputs)
    wide_unit = fastest(forward_backward(wide, wide_inputs), seconds=0.5, least=5, most=200)
    mine_wide, _ = ours(wide, wide_inputs, wide_unit, seconds)
    fast = gradcheck(wide, wide_inputs, wide_unit, fast=True, seconds=seconds)
    if case.slow_mode_quick or (case.slow_mode and not quick):
        slow = gradcheck(wide, wide_inputs, wide_unit, fast=False, seconds=seconds)
    else:
        elements = sum(t.numel() for t in [*model.parameters(), *inputs])
        # Two forwards per element; a forward is about a third of a forward+backward.
        estimate = _long(2 * elements * wide_unit / 3)
        slow = Cost(remark=f"not run: two forwards for each of {elements:,} elements, about {estimate}")
    return Row(
        name=case.name,
        parameters=sum(p.numel() for p in model.parameters()),
        forward_backward=unit,
        forward_backward_float64=wide_unit,
        ours=mine,
        ours_float64=mine_wide,
        fast=fast,
        slow=slow,
        stages=stages,
    )


def _long(seconds: float) -> str:
    for limit, divisor, unit in ((120, 1, "s"), (7200, 60, "min")):
        if seconds < limit:
            return f"{seconds / divisor:.0f} {unit}"
    return f"{seconds / 3600:.0f} h"


def growth_exponent(parameters: Sequence[int], seconds: Sequence[float]) -> float:
    """The exponent e of time = c * parameters**e, by least squares on logarithms."""
    return statistics.linear_regression(
        [math.log(p) for p in parameters], [math.log(s) for s in seconds]
    ).slope


def growth(*, quick: bool) -> dict[str, Any]:
    """Our time against the number of parameters of an MLP."""
    counts, times = [], []
    for parameters in GROWTH_QUICK if quick else GROWTH:
        model, inputs = mlp_case(parameters).make()
        cost, _ = ours(model, inputs, 1.0, 0.5 if quick else 10.0)
        assert cost.seconds is not None
        counts.append(sum(p.numel() for p in model.parameters()))
        times.append(cost.seconds)
    return {
        "parameters": counts,
        "seconds": [round(s, 4) for s in times],
        "exponent": round(growth_exponent(counts, times), 3),
    }


def _shown(cost: Cost) -> str:
    if cost.ratio is None:
        return "-"
    return f"{cost.ratio:,.1f}" + ("" if cost.ok else " !")


def show(rows: Sequence[Row], skipped: Sequence[str], grown: dict[str, Any], console: Console) -> None:
    """The table for people."""
    table = Table(title="cost in forward+backwards of the same model in the same dtype", title_justify="left")
    table.add_column("model", no_wrap=True)
    for heading in (
        "parameters",
        "ms",
        "ours",
        "ms (float64)",
        "ours (float64)",
        "gradcheck fast",
        "gradcheck slow",
    ):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            row.name,
            f"{row.parameters:,}",
            f"{row.forward_backward * 1e3:.2f}",
            _shown(row.ours),
            f"{row.forward_backward_float64 * 1e3:.2f}",
            _shown(row.ours_float64),
            _shown(row.fast),
            _shown(row.slow),
        )
    console.print(table)
    for row in rows:
        for who, cost in (
            ("gradcheck_suite", row.ours),
            ("gradcheck fast", row.fast),
            ("gradcheck slow", row.slow),
        ):
            if cost.remark:
                word = "" if cost.ok is None else "false alarm: "
                console.print(f"{row.name}: {who}: {word}{cost.remark}", markup=False, soft_wrap=True)
    for message in skipped:
        console.print(message, markup=False)
    ends = f"{grown['parameters'][0]:,} to {grown['parameters'][-1]:,}"
    console.print(
        f"our time grows as parameters ** {grown['exponent']:.2f} (MLP, {ends} parameters)", markup=False
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, show the table and print the JSON line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cost", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="under a minute on two cores")
    quick = parser.parse_args(arguments).quick
    begun = time.perf_counter()
    rows: list[Row] = []
    skipped: list[str] = []
    for case in cases():
        try:
            rows.append(measure(case, quick=quick))
        except MissingPackageError as error:
            skipped.append(f"{case.name}: skipped: {error}")
    grown = growth(quick=quick)
    show(rows, skipped, grown, Console(width=120, highlight=False))
    result = {
        "benchmark": "cost",
        "quick": quick,
        "seconds": round(time.perf_counter() - begun, 1),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "models": [_rounded(asdict(row)) for row in rows],
        "skipped": skipped,
        "growth": grown,
    }
    print(json.dumps(result))


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}
    return float(f"{value:.5g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()

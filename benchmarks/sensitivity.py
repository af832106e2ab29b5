"""How small an error in a gradient is found, beside ``torch.autograd.gradcheck``.

    python -m benchmarks.sensitivity [--quick] [--seeds N] [--only MODEL]

One layer of an MLP of 10,000 parameters, of a CNN and of a transformer layer is wrapped in a custom Function whose backward
returns torch's gradient with a relative error e planted in the weight's part: in the *largest* element, in a *random*
element that is not zero, or in *all*. e runs from 1e-1 to 1e-10. An error that rounding to the dtype undoes is not counted.

Ours records one forward and backward and checks it node by node; the error is found when a finding names the wrapped layer.
At e = 0 the full ``check_gradients`` must not have any finding. gradcheck runs in float64 only. Its fast mode gets the whole
weight; its slow mode, which takes two forwards for each element, gets a slice of ``SLICE`` elements with the wrong one among
them, and both get the projection of the output that we use. Tightened: atol 1e-9, rtol 1e-6. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from torch.autograd.gradcheck import GradcheckError
from torch.func import functional_call
from torch.nn import functional as F

from gradcheck_suite import check_gradients
from gradcheck_suite.assembly import node_findings, sum_findings
from gradcheck_suite.capture.outputs import differentiable_outputs, random_projection
from gradcheck_suite.evidence import Severity
from gradcheck_suite.witnesses.engine import check_node
from gradcheck_suite.witnesses.fallback import fallback_for
from gradcheck_suite.witnesses.sums import check_sums
from gradcheck_suite.witnesses.torch_reverse import record_reverse

from .models import mlp

__all__ = ["ERRORS", "REQUIRED", "Plan", "main", "measure", "model_names", "planted"]

ERRORS = tuple(float(f"1e-{k}") for k in range(1, 11))
DTYPES = (torch.float64, torch.float32, torch.bfloat16)
PLACES = ("largest", "random", "all")
REQUIRED = {"float64": 1e-8, "float32": 1e-4, "bfloat16": 5e-2}
"""Relative error that must be found in the largest element, by dtype; bfloat16's is the decade above it."""
SLICE = 32
SEEDS, SEEDS_QUICK = 20, 3
ERRORS_QUICK = ERRORS[1::2]
TIGHT = {"atol": 1e-9, "rtol": 1e-6}

Layer = nn.Linear | nn.Conv2d


@dataclass
class Plan:
    """Where an error is planted, and whether it survived rounding (known after a backward).

    Attributes:
        error: relative.
        place: ``"largest"``, ``"random"`` or ``"all"``.
        seed: chooses the random element.
        element: index into the flat weight, chosen at the first backward; -1 before, and for all of them.
    """

    error: float
    place: str
    seed: int
    element: int = -1
    survived: bool = False

    def spoil(self, gradient: Tensor) -> Tensor:
        """The gradient with the error in it, rounded to its dtype."""
        wide = gradient.to(torch.float64).flatten()
        factor = torch.ones_like(wide)
        if self.place == "all":
            factor += self.error
        else:
            if self.element < 0:  # gradcheck asks several times, also with a cotangent of zeros
                self.element = self._chosen(wide)
            factor[self.element] += self.error
        wrong = (wide * factor).to(gradient.dtype).reshape(gradient.shape)
        self.survived = self.survived or not torch.equal(wrong, gradient)
        return wrong

    def _chosen(self, gradient: Tensor) -> int:
        if self.place == "largest":
            return int(gradient.abs().argmax())
        choice = gradient.nonzero().flatten()
        generator = torch.Generator().manual_seed(self.seed)
        return int(choice[torch.randint(len(choice), (), generator=generator)])


def planted(layer: Layer, plan: Plan) -> nn.Module:
    """The layer with an error in the gradient of its weight."""

    def operation(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if isinstance(layer, nn.Conv2d):
            return F.conv2d(x, weight, bias, layer.stride, layer.padding)
        return F.linear(x, weight, bias)

    class Planted(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            ctx.save_for_backward(x, weight, bias)
            return operation(x, weight, bias)

        @staticmethod
        def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, ...]:
            with torch.enable_grad():
                leaves = [t.detach().requires_grad_() for t in ctx.saved_tensors]
                x, weight, bias = torch.autograd.grad(operation(*leaves), leaves, cotangent)
            return x, plan.spoil(weight), bias

    class PlantedLayer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = Planted.apply(x, self.layer.weight, self.layer.bias)
            return out

    return PlantedLayer()


class CNN(nn.Module):
    """Two convolutions and a linear head, for images of 3 x 8 x 8."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 24, 3, padding=1)
        self.wrapped: nn.Module = self.second
        self.head = nn.Linear(24 * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of shape (batch, 10)."""
        x = F.max_pool2d(F.relu(self.first(x)), 2)
        out: Tensor = self.head(F.max_pool2d(F.relu(self.wrapped(x)), 2).flatten(1))
        return out


def _mlp(plan: Plan) -> tuple[nn.Module, str, tuple[int, ...]]:
    model = mlp(10_000)
    assert isinstance(model, nn.Sequential)
    model[2] = planted(model[2], plan)  # type: ignore[arg-type]
    return model, "2.layer.weight", (16, 16)


def _cnn(plan: Plan) -> tuple[nn.Module, str, tuple[int, ...]]:
    model = CNN()
    model.wrapped = planted(model.second, plan)
    del model.second
    return model, "wrapped.layer.weight", (4, 3, 8, 8)


def _transformer(plan: Plan) -> tuple[nn.Module, str, tuple[int, ...]]:
    # Without dropout: gradcheck cannot hold it still.
    model = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
    model.linear1 = planted(model.linear1, plan)  # type: ignore[assignment]
    return model, "linear1.layer.weight", (2, 6, 32)


_MODELS: dict[str, Callable[[Plan], tuple[nn.Module, str, tuple[int, ...]]]] = {
    "MLP": _mlp,
    "CNN": _cnn,
    "transformer layer": _transformer,
}


def model_names() -> list[str]:
    """Names of the models."""
    return list(_MODELS)


@dataclass
class Case:
    """A model with an error in it, its input, and the name of the weight whose gradient is wrong."""

    model: nn.Module
    inputs: Tensor
    weight: str
    plan: Plan
    seed: int


def make(name: str, dtype: torch.dtype, plan: Plan, seed: int) -> Case:
    """Another model and another input for each seed."""
    torch.manual_seed(seed)
    model, weight, shape = _MODELS[name](plan)
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(1000 + seed))
    return Case(model.to(dtype).train(), inputs.to(dtype).requires_grad_(), weight, plan, seed)


def ours(case: Case) -> tuple[bool, bool]:
    """Whether there is a finding at the wrapped layer, and whether there is one anywhere else."""
    parameters = dict(case.model.named_parameters())
    run = record_reverse(
        case.model,
        (case.inputs,),
        {},
        named_leaves={**parameters, "inputs": case.inputs},
        modules=[case.model],
        seed=case.seed,
    )
    trace = run.trace
    fallback = fallback_for(run.recorder, run.autograd_nodes)
    checked = {
        key: check_node(node, run.probe, seed=case.seed, fallback=fallback)
        for key, node in trace.nodes.items()
        if key > 0 and node.ran
    }
    findings = [
        f
        for f in [
            *node_findings(trace, checked),
            *sum_findings(trace, check_sums(trace, trace.leaf_gradients)),
        ]
        if f.severity >= Severity.ERROR
    ]
    there = [f for f in findings if "the backward of Planted " in f.message]
    return bool(there), len(findings) > len(there)


def whole_check_accuses(case: Case) -> bool:
    """Whether the full check has an error-level finding, or proves nothing."""
    return not check_gradients(case.model, case.inputs, seed=case.seed).ok


def gradcheck(case: Case, *, fast: bool, **tolerances: float) -> bool:
    """Whether torch's own check rejects the gradient of the wrapped weight."""
    parameters = {k: p.detach() for k, p in case.model.named_parameters()}
    weight = parameters[case.weight].clone()
    inputs = case.inputs.detach()

    def projected(values: Tensor) -> Tensor:
        output = functional_call(case.model, {**parameters, case.weight: values}, (inputs,))
        outputs = differentiable_outputs(output)
        return torch.stack(
            [(o * c).sum() for (_, o), c in zip(outputs, random_projection(outputs, case.seed))]
        ).sum()

    if fast:
        function, argument = projected, weight.requires_grad_()
    else:
        start = max(0, min(case.plan.element - SLICE // 2, weight.numel() - SLICE))

        def function(values: Tensor) -> Tensor:
            flat = weight.flatten()
            return projected(torch.cat([flat[:start], values, flat[start + SLICE :]]).reshape(weight.shape))

        argument = weight.flatten()[start : start + SLICE].clone().requires_grad_()
    # Where the fast mode rejects, it runs the slow one on everything, only to word its message.
    slow = patch("torch.autograd.gradcheck._run_slow_mode_and_get_error", return_value="")
    try:
        with slow:
            torch.autograd.gradcheck(function, (argument,), fast_mode=fast, **tolerances)
    except GradcheckError:
        return True
    return False


CHECKERS: dict[str, Callable[[Case], bool]] = {
    "gradcheck slow": lambda case: gradcheck(case, fast=False),
    "gradcheck slow, tightened": lambda case: gradcheck(case, fast=False, **TIGHT),
    "gradcheck fast": lambda case: gradcheck(case, fast=True),
    "gradcheck fast, tightened": lambda case: gradcheck(case, fast=True, **TIGHT),
}


@dataclass
class Rate:
    """How many of how many; ``of`` counts only errors that survived rounding."""

    found: int = 0
    of: int = 0

    def add(self, found: bool) -> None:
        """Count one."""
        self.found += found
        self.of += 1


Rates = dict[tuple[str, str, str, str], dict[float, Rate]]
"""By (model, dtype, place, checker) and error; error 0 with place "" for false alarms."""


def measure(
    seeds: int,
    *,
    planted_errors: Sequence[float] = ERRORS,
    names: Sequence[str] | None = None,
    console: Console | None = None,
) -> Rates:
    """Every model, dtype, place and error by every checker."""
    rates: Rates = {}

    def count(key: tuple[str, str, str, str], error: float, found: bool) -> None:
        rates.setdefault(key, {}).setdefault(error, Rate()).add(found)

    steps = [
        (name, dtype, seed) for name in names or model_names() for dtype in DTYPES for seed in range(seeds)
    ]
    shown = steps if console is None else track(steps, "errors", console=console, transient=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, dtype, seed in shown:
            word = str(dtype).removeprefix("torch.")
            right = make(name, dtype, Plan(0.0, "all", seed), seed)
            there, elsewhere = ours(right)
            count((name, word, "", "gradcheck_suite"), 0.0, there or elsewhere or whole_check_accuses(right))
            checkers = CHECKERS if dtype is torch.float64 else {}
            for checker, rejects in checkers.items():
                count((name, word, "", checker), 0.0, rejects(right))
            for place in PLACES:
                for error in sorted({*planted_errors, REQUIRED[word]}, reverse=True):
                    case = make(name, dtype, Plan(error, place, seed), seed)
                    found, elsewhere = ours(case)
                    count((name, word, "", "elsewhere"), 0.0, elsewhere)
                    if not case.plan.survived:
                        continue
                    count((name, word, place, "gradcheck_suite"), error, found)
                    for checker, rejects in checkers.items():
                        count((name, word, place, checker), error, rejects(case))
    return rates


def show(rates: Rates, console: Console) -> None:
    """One table per place; a cell is the percentage that was found."""
    errors = sorted({e for r in rates.values() for e in r if e}, reverse=True)
    for place in PLACES:
        table = Table(title=f"found, in percent; the error is in: {place}", title_justify="left")
        for heading in ("model", "dtype", "checker"):
            table.add_column(heading, no_wrap=True)
        for error in errors:
            table.add_column(f"{error:.0e}".replace("e-0", "e-"), justify="right")
        for (name, dtype, where, checker), by_error in rates.items():
            if where != place:
                continue
            cells = [_cell(by_error.get(error)) for error in errors]
            table.add_row(name, dtype, checker.replace("gradcheck_suite", "ours"), *cells)
        console.print(table)
    console.print("-: rounding to the dtype undoes an error of this size", markup=False)
    for (name, dtype, where, checker), by_error in rates.items():
        rate = by_error.get(0.0)
        if not where and rate is not None and rate.found:
            what = (
                "finds an error where none is planted"
                if checker == "elsewhere"
                else "rejects a right gradient"
            )
            who = "gradcheck_suite" if checker == "elsewhere" else checker
            console.print(
                f"{who} {what}: {name}, {dtype}: {rate.found} of {rate.of}", markup=False, soft_wrap=True
            )


def _cell(rate: Rate | None) -> str:
    return "-" if rate is None or not rate.of else f"{100 * rate.found / rate.of:.0f}"


def result(rates: Rates, *, quick: bool, seeds: int, seconds: float) -> dict[str, Any]:
    """The JSON object."""
    detection: dict[str, dict[str, str]] = {}
    alarms: dict[str, list[int]] = {}
    for (name, dtype, place, checker), by_error in rates.items():
        if place:
            detection[f"{name} / {dtype} / {place} / {checker}"] = {
                f"{e:.0e}": f"{r.found}/{r.of}" for e, r in sorted(by_error.items(), reverse=True)
            }
        else:
            entry = alarms.setdefault(checker, [0, 0])
            entry[0] += by_error[0.0].found
            entry[1] += by_error[0.0].of
    return {
        "benchmark": "sensitivity",
        "quick": quick,
        "seconds": round(seconds, 1),
        "torch": torch.__version__,
        "seeds": seeds,
        "required_found": required_found(rates),
        "false_alarms": {checker: f"{found}/{of}" for checker, (found, of) in alarms.items()},
        "detection": detection,
    }


def required_found(rates: Rates) -> dict[str, str]:
    """By dtype: of the errors of the required size and above in the largest element, how many were found."""
    found: dict[str, str] = {}
    for dtype, smallest in REQUIRED.items():
        chosen = [
            rate
            for (_, word, place, checker), by_error in rates.items()
            if word == dtype and place == "largest" and checker == "gradcheck_suite"
            for error, rate in by_error.items()
            if error >= 0.99 * smallest
        ]
        found[dtype] = f"{sum(r.found for r in chosen)}/{sum(r.of for r in chosen)}"
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, show the tables and print the JSON line; 1 where a required error is missed or a right gradient accused."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sensitivity", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--quick", action="store_true", help=f"{SEEDS_QUICK} seeds, every other decade; under a minute"
    )
    parser.add_argument("--seeds", type=int, help=f"default: {SEEDS}")
    parser.add_argument("--only", metavar="MODEL", action="append", choices=model_names(), help="repeatable")
    options = parser.parse_args(arguments)
    seeds = options.seeds or (SEEDS_QUICK if options.quick else SEEDS)
    begun = time.perf_counter()
    console = Console(width=150, highlight=False)
    rates = measure(
        seeds,
        planted_errors=ERRORS_QUICK if options.quick else ERRORS,
        names=options.only,
        console=console if console.is_terminal else None,
    )
    show(rates, console)
    found = result(rates, quick=options.quick, seeds=seeds, seconds=time.perf_counter() - begun)
    print(json.dumps(found))
    complete = all(part.split("/")[0] == part.split("/")[1] for part in found["required_found"].values())
    own = [found["false_alarms"][who].split("/")[0] for who in ("gradcheck_suite", "elsewhere")]
    return 0 if complete and own == ["0", "0"] else 1


if __name__ == "__main__":
    sys.exit(main())

"""A share of the coverage benchmark, and that it can fail."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from benchmarks.coverage import run_part
from benchmarks.coverage_entries import Entry, Run, entries, known_torch_bugs, measure
from benchmarks.coverage_workers import Workers

# What may stay open, and why. Anything else that is not verified fails the slow sweep.
OPEN = (
    "torch leaves open which of several values stays",  # max_unpool with repeated indices
    "torch approximates this derivative by fitted polynomials",  # samples of gamma and Dirichlet distributions
    "units in the last place of the largest element",  # householder_product loses digits in torch
    "the engine has no finite value for some elements",  # cross entropy of ignored targets only is 0 / 0
)


def share(part: str, step: int) -> list[Entry]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return entries(part, quick=True)[::step]


@pytest.mark.parametrize(
    ("part", "step", "expected"), [("op_db", 12, 40), ("module_db", 13, 15)], ids=["operations", "modules"]
)
def test_a_share_of_torchs_own_samples_is_verified(part: str, step: int, expected: int) -> None:
    results = [measure(entry) for entry in share(part, step)]
    assert len(results) >= expected
    assert [r.name for r in results if r.error] == []
    assert [d for r in results for d in (*r.disagreements, *r.forward)] == []
    unexplained = [
        (r.name, reason)
        for r in results
        for reason in r.reasons
        if not any(known in reason for known in OPEN)
    ]
    assert unexplained == []
    assert sum(r.nodes["meaning"] for r in results) > len(results)


@pytest.mark.parametrize("name", ["hand-written mixture of experts", "hand-written energy and forces"])
def test_models_of_the_zoo_are_verified(name: str) -> None:
    (entry,) = [e for e in entries("zoo") if e.name == name]
    result = measure(entry)
    assert result.verified, (result.error, result.disagreements, result.reasons)


def test_the_zoo_is_large_and_its_names_are_its_own() -> None:
    names = [entry.name for entry in entries("zoo")]
    assert len(names) >= 170
    assert len(set(names)) == len(names)


# -- it can fail ---------------------------------------------------------------------------------------------------


class Halved(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * ctx.saved_tensors[0]


def entry_of(function: Callable[[Tensor], Any]) -> Entry:
    def runs() -> Iterator[Run]:
        x = torch.linspace(0.5, 2.0, 4, dtype=torch.float64, requires_grad=True)
        yield Run(function, (x,), {}, {"x": x})

    return Entry("op_db", "made up", runs)


def test_a_wrong_backward_is_a_disagreement() -> None:
    result = measure(entry_of(Halved.apply))
    assert not result.verified
    (text,) = result.disagreements
    assert "a factor 2 is missing in backward" in text


def test_an_entry_that_raises_is_named() -> None:
    def broken(_: Tensor) -> Tensor:
        raise RuntimeError("no such thing")

    result = measure(entry_of(broken))
    assert not result.verified
    assert "no such thing" in next(iter(result.reasons))


def test_an_entry_that_takes_too_long_is_given_up() -> None:
    def forever(x: Tensor) -> Tensor:
        end = time.monotonic() + 20
        while time.monotonic() < end:
            x = x + 1
        return x

    result = measure(entry_of(forever), seconds=1)
    assert not result.verified
    assert "longer than 1 s" in f"{result.error} {list(result.reasons)}"


def test_an_entry_without_a_gradient_is_counted_as_such() -> None:
    result = measure(entry_of(lambda x: x > 1))
    assert (result.runs, result.without_gradient) == (1, 1)


def test_bugs_of_torch_are_told_apart() -> None:
    result = measure(entry_of(torch.nn.functional.hardsigmoid))
    assert result.torch_bugs == {"hardsigmoid_constant.py": 1}
    assert result.disagreements == []
    assert not result.verified
    assert known_torch_bugs()


def test_results_survive_the_way_through_a_worker() -> None:
    with Workers(1, quick=True) as workers:
        summary, results = run_part("op_db", only=["addmv"], workers=workers, console=Console(quiet=True))
    assert summary.entries == len(results) >= 1
    assert summary.verified == summary.entries
    assert summary.nodes["meaning"] > 0
    json.dumps(vars(summary))


def test_a_worker_that_dies_is_replaced_and_the_entry_named() -> None:
    with Workers(1, quick=False) as workers:
        results = workers.measure("zoo", ["no such model", "hand-written checkpointing"], lambda _: None)
    assert "KeyError" in results[0]["error"]
    assert results[1]["verified"]


# -- the sweep -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("part", "least"), [("op_db", 0.98), ("module_db", 0.99), ("zoo", 0.98)])
def test_everything(part: str, least: float) -> None:
    with Workers(2, quick=False) as workers:
        summary, results = run_part(part, only=[], workers=workers, console=Console(quiet=True))
    assert [r["name"] for r in results if r["error"]] == []
    assert summary.disagreements == summary.forward_disagreements == 0
    assert summary.verified + summary.wrong_in_torch >= least * summary.entries
    # Of the calls of op_db, the rest are those about which torch leaves open what is right, and its own bugs.
    assert summary.nodes["meaning"] + summary.nodes["decomposition"] >= 0.98 * summary.nodes.total()

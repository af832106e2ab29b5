"""The benchmarks of mutants and of sensitivity count what they say, and notice a checker that is blind."""

from __future__ import annotations

import io
import json
import linecache
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from benchmarks import mutation, sensitivity
from benchmarks.mutants import MUTATIONS, Mutant, Mutation, Subject, entry_names, subjects
from gradcheck_suite.evidence import Finding, Location

NAMES = ["add", "mul", "matmul", "linalg_cholesky"]


def subject(name: str, number: int = 0) -> Subject:
    (found,) = subjects([name])
    return next(s for s in found[1] if s.number == number)


def named(name: str) -> Mutation:
    return next(m for m in MUTATIONS if m.name == name)


@pytest.fixture(scope="module")
def summary() -> mutation.Summary:
    return mutation.measure(NAMES)


def test_every_mutant_is_found_and_blamed_and_nobody_else_is_accused(summary: mutation.Summary) -> None:
    assert summary.entries == len(NAMES)
    assert not summary.accused
    assert not summary.missed
    assert not summary.misblamed
    assert summary.mutants == summary.found == summary.blamed
    assert set(summary.mutants) == {m.name for m in MUTATIONS}


def test_the_table_and_the_json_line(summary: mutation.Summary) -> None:
    stream = io.StringIO()
    mutation.show(summary, Console(file=stream, width=120), details=True)
    assert "unmutated wraps" in stream.getvalue()
    found = json.loads(json.dumps(mutation.result(summary, quick=True, seconds=1.0)))
    assert (found["found_percent"], found["blamed_percent"], found["accused"]) == (100, 100, 0)
    assert found["mutants"] == sum(summary.mutants.values()) > 30


def test_twin_a_blind_checker_misses_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutation, "node_findings", lambda *_: [])
    blind = mutation.measure(["mul"])
    assert len(blind.missed) == sum(blind.mutants.values()) > 0
    assert mutation.result(blind, quick=True, seconds=0.0)["found_percent"] == 0


def test_twin_a_checker_that_accuses_everybody_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    real = mutation.node_findings
    lie = real_finding()
    monkeypatch.setattr(mutation, "node_findings", lambda *a: [*real(*a), lie])
    wrong = mutation.measure(["mul"])
    assert len(wrong.accused) == wrong.wraps > 0
    assert sum(wrong.blamed.values()) == 0 < sum(wrong.found.values())


def real_finding() -> Finding:
    judged = Mutant(subject("mul"), named("sign"))
    found: list[Finding] = []
    real = mutation.node_findings
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mutation, "node_findings", lambda *a: found.extend(real(*a)) or real(*a))
        assert mutation.judge_mutant(judged).blamed
    assert found[0].location is not None
    return replace(found[0], location=replace(found[0].location, line=found[0].location.line + 1))


def test_blame_needs_the_function_and_the_line() -> None:
    mutant = Mutant(subject("mul"), named("sign"))
    right = replace(real_finding(), location=Location(mutant.program.__code__.co_filename, mutant.line))
    assert mutation._blames(right, mutant)
    assert not mutation._blames(replace(right, location=None), mutant)
    assert not mutation._blames(replace(right, location=Location("other.py", mutant.line)), mutant)
    assert not mutation._blames(replace(right, message=right.message.replace("Wrapped_mul", "Hold")), mutant)


def test_the_line_to_be_blamed_calls_the_function() -> None:
    mutant = Mutant(subject("mul"))
    text = linecache.getline(Mutant.program.__code__.co_filename, mutant.line)
    assert "self.function.apply" in text


def test_the_selection_is_large_and_always_the_same() -> None:
    names = entry_names()
    assert len(names) == len(set(names)) > 500
    assert names[:: mutation.QUICK_STEP] == entry_names()[:: mutation.QUICK_STEP]
    assert len(names[:: mutation.QUICK_STEP]) > 80


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("round", "no more than rounding"),
        ("half", "double precision"),
        ("native_layer_norm", "not the slope"),
    ],
)
def test_what_the_rule_leaves_out_is_named(name: str, reason: str) -> None:
    ((_, samples, why),) = subjects([name])
    assert not samples
    assert reason in why


def test_rounding_does_not_count_as_a_change() -> None:
    """The correlation of a vector with itself is 1: what torch returns as its gradient is rounding."""
    ((_, samples, _),) = subjects(["corrcoef"])
    assert 0 not in {s.number for s in samples}


@pytest.mark.parametrize("way", MUTATIONS, ids=lambda m: m.name)
def test_each_mutation_is_wrong_in_one_gradient(way: Mutation) -> None:
    ((_, samples, _),) = subjects(["addmm"])
    mutant = next(m for s in samples if (m := Mutant(s, way)).changes())
    right = mutant.subject.right
    wrong = mutant.spoil(right, [t.detach() for t in mutant.subject.tensors], mutant.subject.cotangents)
    (position,) = [i for i, (a, b) in enumerate(zip(right, wrong)) if a is not b]
    before, after = right[position], wrong[position]
    assert before is not None
    if way.name == "one element":
        assert after is not None
        assert int((after != before).sum()) == 1
        assert float(((after - before).abs() / before.abs()).max()) == pytest.approx(1e-6, rel=1e-6)
    elif way.name == "none":
        assert after is None
    elif way.name == "sign":
        assert after is not None
        assert torch.equal(after, -before)


# -- sensitivity -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sensitivity.model_names())
@pytest.mark.parametrize("dtype", sensitivity.DTYPES, ids=str)
def test_the_required_error_is_found_and_none_where_there_is_none(name: str, dtype: torch.dtype) -> None:
    word = str(dtype).removeprefix("torch.")
    for error in (sensitivity.REQUIRED[word], 0.0):
        case = sensitivity.make(name, dtype, sensitivity.Plan(error, "largest", 0), 0)
        assert sensitivity.ours(case) == (error > 0, False)
        assert case.plan.survived is (error > 0)


def test_gradcheck_is_asked_about_the_same_element() -> None:
    plan = sensitivity.Plan(0.5, "random", 0)
    case = sensitivity.make("transformer layer", torch.float64, plan, 0)
    sensitivity.ours(case)
    element = plan.element
    assert element >= 0
    assert sensitivity.gradcheck(case, fast=False)
    assert plan.element == element
    right = sensitivity.make("transformer layer", torch.float64, sensitivity.Plan(0.0, "random", 0), 0)
    assert not any(rejects(right) for who, rejects in sensitivity.CHECKERS.items() if "tight" not in who)


def test_an_error_that_rounding_undoes_is_not_counted() -> None:
    plan = sensitivity.Plan(1e-4, "all", 0)
    gradient = torch.randn(5, 5).to(torch.bfloat16)
    assert torch.equal(plan.spoil(gradient), gradient)
    assert not plan.survived


def test_the_result_says_what_was_required() -> None:
    rates: sensitivity.Rates = {
        ("MLP", "float64", "largest", "gradcheck_suite"): {
            1e-8: sensitivity.Rate(1, 2),
            1e-9: sensitivity.Rate(0, 2),
        },
        ("MLP", "float64", "", "gradcheck_suite"): {0.0: sensitivity.Rate(1, 3)},
    }
    found = sensitivity.result(rates, quick=True, seeds=1, seconds=0.0)
    assert found["required_found"]["float64"] == "1/2"
    assert found["false_alarms"] == {"gradcheck_suite": "1/3"}
    stream = io.StringIO()
    sensitivity.show(rates, Console(file=stream, width=150))
    assert "rejects a right gradient: MLP, float64: 1 of 3" in stream.getvalue()


def test_a_known_defect_of_torch_is_counted_by_itself() -> None:
    counted = mutation.measure(["nn_functional_hardsigmoid"])
    assert not counted.accused
    assert [j.name for j in counted.warned] == ["nn_functional_hardsigmoid"] * counted.wraps
    assert sum(counted.found.values()) > 0


def test_a_checker_that_raises_has_found_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ValueError("out of order")

    monkeypatch.setattr(mutation, "check_node", broken)
    judged = mutation.judge_mutant(Mutant(subject("mul"), named("sign")))
    assert (judged.found, judged.inconclusive) == (False, True)
    assert "out of order" in judged.details

"""Graphs that pile up, modes that leak, and evaluations: what the pages of GC403, GC504 and GC703 do not show."""

from __future__ import annotations

import gc
import tracemalloc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from gradcheck_suite import watch
from gradcheck_suite.evidence import Severity


def told(session: Any) -> list[Any]:
    assert session.internal_errors == []
    return [f for f in session.report.findings if f.severity > Severity.NOTE]


def iterate(steps: int, keep: Any) -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(torch.randn(4, 3)).pow(2).mean()
        loss.backward()
        optimizer.step()
        keep(loss)


def test_the_number_of_graphs_is_that_of_all_iterations() -> None:
    kept: list[Any] = []
    with watch(verify=False) as session:
        iterate(100, kept.append)
    (finding,) = told(session)
    assert finding.code == "GC403"
    assert 80 <= finding.evidence["alive"] <= 100
    assert finding.location.function == "iterate"


@pytest.mark.parametrize(
    "keep",
    [
        lambda loss: None,
        [].append,
        lambda loss, kept=[]: kept.append(loss.item()),
    ],
    ids=["nothing", "few", "numbers"],
)
def test_what_does_not_pile_up_is_no_finding(keep: Any) -> None:
    with watch(verify=False) as session:
        iterate(5 if keep.__name__ == "append" else 40, keep)
    assert told(session) == []


def test_graphs_in_cycles_wait_for_the_collector_and_are_nobodys() -> None:
    def cycle(loss: torch.Tensor) -> None:
        box: dict[str, Any] = {"loss": loss}
        box["self"] = box

    gc.collect()
    gc.disable()
    try:
        with watch(verify=False) as session:
            iterate(40, cycle)
    finally:
        gc.enable()
    assert told(session) == []


def test_many_losses_of_one_iteration_are_no_growth() -> None:
    model = nn.Linear(3, 20)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with watch(verify=False) as session:
        for _ in range(3):
            out = model(torch.randn(4, 3))
            losses = [out[:, i].pow(2).mean() for i in range(20)]
            optimizer.zero_grad()
            for loss in losses:
                loss.backward(retain_graph=True)
            optimizer.step()
    assert told(session) == []


@pytest.mark.slow
def test_a_long_loop_and_bounded_memory() -> None:
    with watch(verify=False) as session:
        iterate(500, lambda loss: None)
        tracemalloc.start()
        iterate(500, lambda loss: None)
        early = tracemalloc.get_traced_memory()[0]
        iterate(3_000, lambda loss: None)
        late = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
    assert told(session) == []
    assert late - early < 3_000 * 1_000  # as for the books of memory in test_hazards.py


def test_the_books_of_memory_are_bounded() -> None:
    model = nn.Linear(3, 1)
    with watch(verify=False) as session:
        kept = [model(torch.randn(1, 3)) for _ in range(3_000)]
        before = len(session._recorder._storages)  # type: ignore[union-attr]
        assert before > 4_096  # all of it lives
        kept.clear()
        iterate(64, lambda loss: None)
        assert len(session._recorder._storages) < before / 4  # type: ignore[union-attr]
        assert len(session._recorder._epochs) < before / 4  # type: ignore[union-attr]
    assert told(session) == []


def leak_by_function() -> None:
    torch.set_grad_enabled(False)


def leak_by_inference_mode() -> None:
    torch.inference_mode().__enter__()


def test_a_leak_is_named_where_it_stops_a_backward() -> None:
    model = nn.Linear(3, 1)
    session = watch()

    def run() -> None:
        with session:
            leak_by_function()
            model(torch.randn(2, 3)).sum().backward()

    try:
        with pytest.raises(RuntimeError, match="does not require grad") as caught:
            run()
    finally:
        torch.set_grad_enabled(True)
    (finding,) = told(session)
    assert (finding.code, finding.location.function) == ("GC504", "leak_by_function")
    if hasattr(caught.value, "add_note"):
        assert "GC504 grad-mode-leak" in caught.value.__notes__[0]


def test_a_session_that_trains_nothing_may_switch_gradients_off() -> None:
    try:
        with watch() as session:
            leak_by_function()
            nn.Linear(3, 1)(torch.randn(2, 3))
    finally:
        torch.set_grad_enabled(True)
    assert told(session) == []


def test_nested_modes_are_followed() -> None:
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    @torch.no_grad()
    def adversarial(x: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            x = x.clone().requires_grad_()
            (slope,) = torch.autograd.grad(model(x).sum(), x)
        return x + slope

    with watch() as session:
        for _ in range(3):
            x = adversarial(torch.randn(4, 3))
            optimizer.zero_grad()
            model(x).sum().backward()
            with torch.no_grad(), torch.inference_mode():
                model(x)
            optimizer.step()
    assert told(session) == []


def test_a_generator_is_not_kept_alive() -> None:
    alive: list[weakref.ref[Any]] = []

    def batches() -> Iterator[torch.Tensor]:
        held = nn.Linear(2, 2)
        alive.append(weakref.ref(held))
        with torch.no_grad():
            yield held(torch.randn(1, 2))
        yield held.weight

    with watch() as session:
        for _ in batches():
            pass
        abandoned = batches()
        next(abandoned)
        del abandoned
        gc.collect()
        assert [ref() for ref in alive] == [None, None]
        assert torch.is_grad_enabled()
    assert told(session) == []


def test_an_error_of_an_ordinary_line_gets_a_note_on_its_way_out() -> None:
    def fails() -> None:
        with watch(verify=False):
            weight = torch.ones(3, requires_grad=True)
            weight += 1

    with pytest.raises(RuntimeError, match="leaf Variable") as caught:
        fails()
    assert type(caught.value) is RuntimeError
    if hasattr(caught.value, "add_note"):
        (note,) = caught.value.__notes__
        assert "no_grad" in note
        assert f"{__file__.rsplit('/', 1)[-1]}:" in note


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("vector", "on a tensor of shape [3]"),
        ("whole", "whole numbers"),
        ("unused", "no path leads from the output to input 1"),
    ],
)
def test_errors_of_torch_are_explained(error: str, said: str) -> None:
    def fails() -> None:
        weight = torch.ones(3, requires_grad=True)
        other = torch.ones(3, requires_grad=True)
        with watch(verify=False):
            if error == "vector":
                (weight * 2).backward()
            elif error == "whole":
                torch.ones(3, dtype=torch.long).requires_grad_()
            else:
                torch.autograd.grad((weight * 2).sum(), [weight, other])

    with pytest.raises(RuntimeError) as caught:
        fails()
    if hasattr(caught.value, "add_note"):
        (note,) = caught.value.__notes__
        assert said in note

"""The benchmark of overhead measures what it says."""

from __future__ import annotations

import io
import json
import sys
import time

import pytest
import torch
from rich.console import Console

from benchmarks import watch_overhead
from benchmarks.watch_overhead import Row, high_water_mark, measure, peak_memory, tasks, timed


def row(**changed: float) -> Row:
    ratios = {"hazards": 2.0, "verify": 3.0, "steady": 2.0, "anomaly": 3.0, "floor": 1.5, **changed}
    return Row("MLP 10k", {"plain": 1.0}, ratios, ratios, 2, {}, 1.0)


def test_times_are_those_of_the_thread_itself() -> None:
    assert sum(timed(lambda: time.sleep(0.05), 2)) < 0.05
    assert sum(timed(lambda: sum(range(100_000)), 2)) > 0


def test_every_way_is_measured_on_the_same_step() -> None:
    measured = measure("MLP 10k", tasks()["MLP 10k"], seconds=0.02, verified_steps=2)
    assert set(measured.ratios) == {"floor", "hazards", "steady", "anomaly", "verify"}
    assert measured.ratios["hazards"] > 1
    assert not measured.errors
    assert len(torch.utils._python_dispatch._get_current_dispatch_mode_stack()) == 0


def test_aims_are_told_from_what_misses_them() -> None:
    assert row().met() == {"below_anomaly": True, "hazards": True, "memory": True}
    assert row(hazards=2.6).met()["hazards"] is False
    assert row(hazards=3.5).met()["below_anomaly"] is False


def test_the_table_and_the_line_hold_the_row() -> None:
    stream = io.StringIO()
    watch_overhead.show([row(hazards=2.6)], ["left: skipped"], Console(file=stream, width=120))
    assert "2.60" in stream.getvalue()
    assert "left: skipped" in stream.getvalue()
    assert json.loads(json.dumps(watch_overhead._rounded({"a": {"b": 1.23456}}))) == {"a": {"b": 1.235}}


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the mark is the operating system's to define")
def test_the_high_water_mark_rises_with_what_is_held() -> None:
    before = high_water_mark()
    held = torch.ones(2**26)  # 256 MiB
    assert high_water_mark() >= before
    assert high_water_mark() >= held.numel() * 4


def test_a_process_of_its_own_says_what_it_needed() -> None:
    above, altogether = peak_memory("MLP 10k", "hazards", 1)
    assert 0 <= above < altogether

"""How often equal nodes are verified."""

from __future__ import annotations

import torch

from gradcheck_suite import watch
from gradcheck_suite.watching import Ledger


def train(steps):
    model = torch.nn.Linear(3, 2)
    for _ in range(steps):
        model(torch.randn(4, 3)).pow(2).sum().backward()


def test_equal_nodes_are_verified_a_bounded_number_of_times():
    counts = []
    for steps in (2, 20):
        with watch() as session:
            train(steps)
        counts.append(session.report.counts["nodes"])
    assert counts[0] == counts[1] > 0


def test_a_shared_ledger_verifies_nothing_twice():
    ledger = Ledger()
    with watch(shared=ledger) as first:
        train(5)
    with watch(shared=ledger) as second:
        train(5)
    assert first.report.counts["nodes"] > 0
    assert second.report.counts["nodes"] == 0
    assert second.report.counts["backwards"] == 5


def test_another_shape_is_another_node():
    ledger = Ledger()
    with watch(shared=ledger):
        train(5)
    before = ledger.distinct
    with watch(shared=ledger) as session:
        torch.nn.Linear(5, 2)(torch.randn(4, 5)).pow(2).sum().backward()
    assert session.report.counts["nodes"] > 0
    assert ledger.distinct > before

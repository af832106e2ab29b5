"""What is found although the model is gone before the session ends, as after ``with watch(): main()``."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gradcheck_suite import watch


def accumulates_for_nobody():
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for number in range(6):
        F.cross_entropy(model(torch.randn(5, 4)), torch.randint(3, (5,))).backward()
        if number % 4 == 3:
            optimizer.step()
            optimizer.zero_grad()


def forgets_a_layer():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    optimizer = torch.optim.SGD(model[1].parameters(), lr=0.1)
    for _ in range(3):
        model.zero_grad()
        F.cross_entropy(model(torch.randn(5, 4)), torch.randint(3, (5,))).backward()
        optimizer.step()


def updates_by_hand():
    model = nn.Linear(4, 3)
    for _ in range(3):
        F.cross_entropy(model(torch.randn(5, 4)), torch.randint(3, (5,))).backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.1 * p.grad


def zeroes_too_early():
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        F.cross_entropy(model(torch.randn(5, 4)), torch.randint(3, (5,))).backward()
        optimizer.zero_grad()
        optimizer.step()


def keeps_the_graph():
    model = nn.Linear(4, 3)
    for _ in range(3):
        model.zero_grad()
        F.cross_entropy(model(torch.randn(5, 4)), torch.randint(3, (5,))).backward(retain_graph=True)


@pytest.mark.parametrize(
    ("main", "code"),
    [
        (accumulates_for_nobody, "GC303"),
        (forgets_a_layer, "GC503"),
        (updates_by_hand, "GC301"),
        (zeroes_too_early, "GC302"),
        (keeps_the_graph, "GC402"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_what_a_function_did_is_found_when_it_has_returned(main, code):
    torch.manual_seed(0)
    with watch(verify=False) as session:
        main()
    assert session.internal_errors == []
    assert code in {f.code for f in session.report.findings}, str(session.report)

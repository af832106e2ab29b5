"""The gradient that follows from a meaning is the one that torch's autograd returns, on every recorded call.

Where the two may differ by right (a free choice that torch leaves open), the meaning refuses, and that is counted.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_leaves, tree_map

from gradcheck_suite.aten import Meaning, MeaningUnavailableError, known_names, lookup
from gradcheck_suite.engine import Tensor, grad
from gradcheck_suite.engine import ops as e

from .calls import IMPRECISE, Call, evaluate, overload_of, to_array, to_engine
from .presence import is_older
from .sweep import all_calls

# Positions repeat in torch's samples, and torch leaves open which value stays.
REFUSING = {"aten::max_unpool2d", "aten::max_unpool3d"}


def floating(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and (value.is_floating_point() or value.is_complex())


def torch_gradients(
    call: Call, which: int | None
) -> tuple[list[int], list[int], list[Any], list[Any]] | None:
    """Positions of arguments and outputs, cotangents and gradients; None where torch has no derivative.

    With ``which`` only that floating argument requires grad: some operations refuse the others.
    """
    leaves: list[torch.Tensor] = []

    def tracked(value: Any) -> Any:
        if not floating(value):
            return value
        leaves.append(value.clone().requires_grad_(which is None or which == len(leaves)))
        return leaves[-1]

    args, kwargs = tree_map(tracked, (list(call.args), call.kwargs))
    try:
        result = overload_of(call.name)(*args, **kwargs)
        outputs = list(result) if isinstance(result, (tuple, list)) else [result]
        live = [i for i, o in enumerate(outputs) if isinstance(o, torch.Tensor) and o.requires_grad]
        wanted = [i for i, leaf in enumerate(leaves) if leaf.requires_grad]
        if not live or not wanted:
            return None
        if not all(torch.equal(outputs[i].nan_to_num(), call.outputs[i].nan_to_num()) for i in live):
            return None  # drawn at random
        pulls = [torch.randn_like(outputs[i]) for i in live]
        gradients = torch.autograd.grad(
            [outputs[i] for i in live], [leaves[i] for i in wanted], pulls, allow_unused=True
        )
    except (RuntimeError, NotImplementedError, IndexError):
        return None
    zeros = (
        torch.zeros(leaves[i].shape) if g is None or g._is_zerotensor() else g
        for i, g in zip(wanted, gradients)
    )
    return wanted, live, pulls, list(zeros)


def gradient_errors(
    meaning: Meaning, call: Call, found: tuple[list[int], list[int], list[Any], list[Any]]
) -> list[str]:
    """Arguments whose gradients differ by more than 1e-7 of the larger one's largest entry."""
    wanted, live, pulls, expected = found
    outputs, args, kwargs = evaluate(meaning, call, requires_grad=True)
    leaves = [v for v in tree_leaves((args, kwargs)) if isinstance(v, Tensor)]
    roots = [
        (outputs[i], to_engine(pull))
        for i, pull in zip(live, pulls)
        if isinstance(outputs[i], Tensor) and outputs[i].requires_grad
    ]
    with np.errstate(all="ignore"):
        mine = grad([r for r, _ in roots], [leaves[i] for i in wanted], [g for _, g in roots], allow_unused=True) \
            if roots else (None,) * len(wanted)  # fmt: skip
    problems = []
    for position, theirs, ours in zip(wanted, expected, mine):
        right = to_array(theirs)
        got = np.zeros(right.shape) if ours is None else ours.data
        finite = np.isfinite(right) & np.isfinite(got)
        scale = max(np.abs(right[finite]).max(initial=0.0), np.abs(got[finite]).max(initial=0.0), 1e-12)
        error = np.abs(np.where(finite, right - got, 0.0)).max(initial=0.0)
        if error > IMPRECISE.get(call.name, 1e-7) * scale or not np.array_equal(
            np.isfinite(right), np.isfinite(got)
        ):
            problems.append(
                f"{call}: gradient {position} is {got.ravel()[:4]}, torch's {right.ravel()[:4]}, error {error:.3g}"
            )
    return problems


def compared(meaning: Meaning, call: Call) -> tuple[int, list[str]]:
    """How many gradients of a call could be compared, and what is wrong with them."""
    number = sum(floating(v) for v in tree_leaves((call.args, call.kwargs)))
    attempts = [torch_gradients(call, None)]
    if attempts[0] is None:
        attempts = [torch_gradients(call, which) for which in range(number)]
    found = [attempt for attempt in attempts if attempt is not None]
    return len(found), [text for attempt in found for text in gradient_errors(meaning, call, attempt)]


def double(call: Call) -> bool:
    values = tree_leaves((call.args, call.kwargs))
    return all(v.dtype in (torch.float64, torch.complex128) for v in values if floating(v))


@lru_cache(maxsize=1)
def results() -> tuple[Counter[str], Counter[str], dict[str, list[str]]]:
    """Per overload: gradients compared, calls refused, and what is wrong."""
    torch.manual_seed(1)
    count: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    problems: dict[str, list[str]] = {}
    for name in known_names():
        meaning = lookup(name)
        assert meaning is not None
        if meaning.mode != "functional":
            continue
        for call in all_calls().get(name, []):
            if not double(call) or not torch_has(call) or (is_older() and clamped_at_a_bound(call)):
                continue
            try:
                number, texts = compared(meaning, call)
            except MeaningUnavailableError:
                refused[name] += 1
                continue
            count[name] += number
            if texts:
                problems.setdefault(name, []).extend(texts)
    return count, refused, problems


def clamped_at_a_bound(call: Call) -> bool:
    """Where torch's choice of a subgradient has changed: older versions count the bound as inside."""
    return call.name == "aten::clamp" and any(
        bool((call.args[0] == bound).any()) for bound in call.args[1:] if bound is not None
    )


def torch_has(call: Call) -> bool:
    """Whether the overload runs on the CPU with these arguments (hand-written GPU calls do not)."""
    return all(isinstance(o, torch.Tensor) or o is None for o in call.outputs) and None not in call.outputs


def test_gradients_are_those_of_torch() -> None:
    assert not results()[2]


def test_few_calls_are_refused() -> None:
    assert set(results()[1]) <= REFUSING


def test_gradients_of_many_overloads_were_compared() -> None:
    count = results()[0]
    assert sum(count.values()) > 1200
    assert len([name for name, number in count.items() if number]) > 300


@pytest.mark.parametrize(
    "function",
    [lambda self: e.sin(e.multiply(self, 1 + 1e-5)), lambda self: Tensor(np.sin(self.data))],
    ids=["a little wrong", "cut off"],
)
def test_a_wrong_gradient_is_caught(function: Any) -> None:
    lie = Meaning("aten::sin", function, "functional", False, "lies", "here:1", "aten::sin")
    assert any(compared(lie, call)[1] for call in all_calls()["aten::sin"])

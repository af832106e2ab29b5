"""One node's derivatives beyond the first: torch's against the engine's, in every element.

A node whose gradient itself is not the engine's is not judged, and nobody is accused whom differences of the engine's
gradient do not convict.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from ..compare.overrides import judging
from ..compare.tolerance import (
    HALF_SPREAD,
    ULPS,
    accumulation,
    coarsest_eps,
    is_differentiable_dtype,
    judge,
    long_sum,
)
from ..evidence import Array, Comparison, NodeRecord, Outcome, TensorRef, Testimony
from ..replay import LocalGradients, Unexplained
from ..replay.higher import HigherGradients, higher_gradients, unique_edges
from ..replay.operations import further_meanings
from ..replay.segment import tensors_in
from .decomposition import Decompositions
from .double_backward import Answer, Unanswered, ask
from .second_opinion import Accusation, second_opinion
from .sums import node_name

__all__ = ["Judged", "check_order"]

RULE = "GC102"
# Each derivative multiplies the operations that were rounded one after the other.
_SLACK = 4.0
_HALF_SPREAD = 4.0 * HALF_SPREAD
_MORE_SAMPLES = 12
# Relative to the largest element: what special functions of torch and their derivatives differ by at most.
_FINE = 1e-7
# In units in the last place, and at most: what rounding makes of a formula with as many steps as a second derivative.
_HAIR = 1e3
_MOST_HAIR = 0.05
# Beside what is usual for the projections: the engine's answer is zero.
_NOTHING = 1e-6
# How well differences of the engine's gradient must be settled where torch has no finite value.
_SETTLED = 1e-2
_NEARBY = 1e-6
# The noise is that of the engine's formula; torch's own steps to the same derivative were seen to lose 1.6 times as much.
_MARGIN = 4.0


@dataclass(frozen=True)
class Judged:
    """What was found out about one node at one order.

    Attributes:
        testimonies: one per variable of the derivative, or one that says why there is none.
        answer: torch's; None where there is none.
        first_differs: the gradient itself already is not the engine's.
        refused: torch would raise if somebody differentiated this backward.
    """

    testimonies: tuple[Testimony, ...]
    answer: Answer | None = None
    first_differs: bool = False
    refused: bool = False


def check_order(
    node: NodeRecord,
    nodes: Mapping[int, Any],
    order: int,
    seed: int,
    decompositions: Decompositions | None = None,
) -> Judged:
    """Compare torch's derivative of one node's backward with the engine's.

    Args:
        node: a node that ran.
        nodes: torch's nodes by key.
        order: 2 or 3.
        seed: of what is drawn.
        decompositions: asked about operations without a meaning.
    """
    whole = f"derivative of the backward of {node_name(node)}"
    try:
        answer = ask(node, nodes, order, seed)
    except Unanswered as error:
        return Judged((_open(whole, str(error)),), refused=True)
    try:
        higher = _expected(node, answer, seed, decompositions or Decompositions())
    except Unexplained as error:
        return Judged((_open(whole, str(error)),), answer)
    eps, dtype = coarsest_eps(_dtypes(node))
    slack = _SLACK ** (order - 1)
    for number, actual in enumerate(answer.first):
        outcome = _judge_first(higher.first, number, actual, dtype, eps)
        if outcome is not Outcome.AGREE:
            reason = (
                "its gradient, for a random cotangent, is not the engine's already at first order"
                if outcome is Outcome.DISAGREE
                else "the engine has no finite gradient here"
            )
            return Judged((_open(whole, reason),), answer, first_differs=outcome is Outcome.DISAGREE)
    subjects = _subjects(node, answer, order)
    said = [
        _judge_last(node, higher.last, number, answer, subjects[number], dtype, eps, slack)
        for number in range(len(subjects))
        if answer.last[number] is not None or higher.last.gradients[number].size
    ]
    return Judged(tuple(said), answer)


def _open(subject: str, reason: str) -> Testimony:
    return Testimony("engine", subject, Outcome.INCONCLUSIVE, reason=reason)


def _expected(node: NodeRecord, answer: Answer, seed: int, decompositions: Decompositions) -> HigherGradients:
    try:
        return higher_gradients(node, answer.question, seed=seed)
    except Unexplained as plain:
        if not node.ops:
            raise
        try:
            with further_meanings(decompositions):
                found = higher_gradients(node, answer.question, seed=seed)
        except Unexplained:
            raise plain from None

    def inside(local: LocalGradients) -> LocalGradients:
        def wrapped(function: Callable[..., Array]) -> Callable[..., Array]:
            def call(*args: object) -> Array:
                with further_meanings(decompositions):
                    return function(*args)

            return call

        return replace(
            local,
            noise=wrapped(local.noise),
            difference=wrapped(local.difference),  # type: ignore[arg-type]
            how="decomposition",
        )

    return HigherGradients(inside(found.first), inside(found.last))


def _judge_first(local: LocalGradients, number: int, actual: Array | None, dtype: str, eps: float) -> Outcome:
    expected = local.gradients[number]
    if not expected.size:
        return Outcome.AGREE if actual is None or not np.any(actual) else Outcome.DISAGREE
    terms = _terms(expected, (actual,))
    grown = accumulation(terms, dtype)
    with judging(""):  # whether the first order holds is not up to the user's settings
        outcome, _ = judge(
            expected,
            actual,
            dtype=dtype,
            noise=lambda: local.noise(number, eps, _MORE_SAMPLES) * grown,
            slack=long_sum(terms, dtype),
            explain=False,
        )
    return outcome


def _judge_last(
    node: NodeRecord,
    local: LocalGradients,
    number: int,
    answer: Answer,
    subject: str,
    dtype: str,
    eps: float,
    slack: float,
) -> Testimony:
    actual, expected = answer.last[number], local.gradients[number]
    if not expected.size and actual is not None:
        expected = np.zeros(actual.shape)
    if actual is not None and actual.dtype.kind == "c" and expected.dtype.kind != "c":
        actual = actual.real
    question = answer.question
    around = [*question.cotangents, *(v for level in question.directions for v in level)]
    around += [None if ref is None else ref.source.array() for ref in node.inputs]
    terms = _terms(expected, around)
    grown = accumulation(terms, dtype)
    noise = partial(local.noise, number, eps)

    def compared(expected: Array, samples: int) -> tuple[Outcome, Comparison]:
        return judge(
            expected,
            actual,
            dtype=dtype,
            noise=(lambda: noise(samples) * grown) if local.gradients[number].size else None,
            slack=slack * long_sum(terms, dtype),
            spread=None if dtype in ULPS else _HALF_SPREAD,
        )

    with judging(RULE):
        outcome, comparison = compared(expected, 2)
        if outcome is Outcome.DISAGREE:
            outcome, comparison = compared(expected, _MORE_SAMPLES)
    if outcome is not Outcome.DISAGREE:
        reason = "" if outcome is Outcome.AGREE else "the engine has no finite value for some elements"
        return Testimony("engine", subject, outcome, comparison, reason=reason)

    def again(settled: Array) -> tuple[Outcome, Comparison]:
        with judging(RULE):
            return compared(settled, _MORE_SAMPLES)

    found = actual if actual is not None else np.zeros(expected.shape)
    remark = "torch says that there is none (None)" if actual is None else ""
    accusation = Accusation(
        local,
        number,
        subject,
        remark,
        dtype,
        expected,
        found,
        again,
    )
    natural = _natural(number, answer, node)
    hair = min(_HAIR * eps, _MOST_HAIR)
    if comparison.scale <= _NOTHING * natural and comparison.max_error <= hair * natural:
        return Testimony(
            "engine", subject, Outcome.AGREE, comparison, reason="rounding where zero is expected"
        )
    return _confirmed(accusation, comparison, hair)


def _natural(number: int, answer: Answer, node: NodeRecord) -> float:
    """The size that a derivative of the projected gradient has where nothing makes it vanish."""

    def largest(arrays: Sequence[Array | None]) -> float:
        found = [float(np.abs(a).max()) for a in arrays if a is not None and a.size]
        return max((f for f in found if np.isfinite(f)), default=0.0)

    projected = largest(answer.first)
    for level in answer.question.directions:
        projected *= largest(level)
    places = unique_edges(node)
    if number >= len(places):
        return projected / (largest(answer.question.cotangents) or 1.0)
    position = next(
        i for i, e in enumerate(node.edges) if e is not None and (e.node, e.slot) == places[number]
    )
    ref = node.inputs[position] if position < len(node.inputs) else None
    return projected / (largest([None if ref is None else ref.source.array()]) or 1.0)


def _confirmed(accusation: Accusation, comparison: Comparison, hair: float) -> Testimony:
    """Nobody is accused without differences of the engine's gradient, and nobody of the precision of a special function.

    torch's ``digamma`` and the ``polygamma`` that is its derivative are right to ten digits each, so a backward that uses
    them has a derivative that is right to fewer. At a jump of the gradient there is no derivative at all.
    """
    testimony = second_opinion(accusation, comparison)
    if testimony.outcome is not Outcome.DISAGREE:
        return testimony
    numbers = testimony.comparison or comparison
    # Rounding does not make exact zeros of a whole tensor.
    if np.any(accusation.actual) and numbers.error <= _MARGIN * numbers.tolerance:
        reason = "they differ by little more than the measured noise, and torch may take other steps than were measured"
        return replace(testimony, outcome=Outcome.INCONCLUSIVE, reason=reason)
    if not numbers.max_error > max(_FINE, hair) * numbers.scale:
        reason = "as precise as the functions that a derivative is made of"
        return replace(testimony, outcome=Outcome.AGREE, reason=reason)
    if testimony.value is not None or np.isnan(numbers.expected):  # confirmed already, or another shape
        return testimony
    reason = "there is no settled slope at the worst element: differences of the engine's gradient jump there"
    open_ = replace(testimony, outcome=Outcome.INCONCLUSIVE, reason=reason)
    if not np.isfinite(complex(numbers.actual)):
        # Next to a pole or a kink of some order, a hair's breadth away, everything is different.
        nearby = accusation.local.noise(accusation.number, _NEARBY)
        if not float(np.max(nearby, initial=0.0)) <= _SETTLED * numbers.scale:
            return open_
    difference = None
    with contextlib.suppress(Unexplained):
        difference = accusation.local.difference(accusation.number, numbers.index, 1)
    if difference is None or difference.kink:
        return open_
    if difference.error > _SETTLED * max(numbers.scale, abs(difference.value)):
        return open_
    return testimony


def _subjects(node: NodeRecord, answer: Answer, order: int) -> list[str]:
    """What each derivative of the answer is taken with respect to, for people."""
    head = "d grad" if order == 2 else "d² grad"
    name = node_name(node)
    several = len(unique_edges(node)) > 1
    subjects = []
    for place in unique_edges(node):
        at = [str(i) for i, e in enumerate(node.edges) if e is not None and (e.node, e.slot) == place]
        subjects.append(
            f"{head} / d input {'+'.join(at)} of {name}" if several else f"{head} / d input of {name}"
        )
    slots = len(answer.question.cotangents)
    for slot in range(slots):
        which = f"grad_output {slot}" if slots > 1 else "grad_output"
        subjects.append(f"{head} / d {which} of {name}")
    for number in range(len(answer.last) - len(subjects)):
        subjects.append(f"{head} / d direction {number} of {name}")
    return subjects


def _terms(gradient: Array, around: Sequence[Array | None]) -> float:
    """About how many terms were added up for one element: a contraction of the two largest that go in."""
    sizes = sorted((a.size for a in around if a is not None), reverse=True) or [1]
    size = max(gradient.size, 1)
    return max(sizes[0] / size, float(np.sqrt(sizes[0] * sizes[min(1, len(sizes) - 1)] / size)))


def _dtypes(node: NodeRecord) -> list[str]:
    refs = [ref for ref in (*node.inputs, *node.outputs) if ref is not None]
    for op in node.ops:
        refs.extend(tensors_in((op.args, op.outputs), TensorRef))
    return [ref.dtype for ref in refs if is_differentiable_dtype(ref.dtype)]

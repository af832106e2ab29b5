"""What one autograd node owes beyond its first derivative: the gradient of its gradient, computed by the engine.

The node's recorded forward is differentiated with a cotangent that is a variable itself. The result, projected on a
given direction, is differentiated again, with respect to the node's inputs, the cotangent and every earlier direction;
and once more for the third order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..engine import Perturbation, Tensor, perturbed
from ..engine import grad as engine_grad
from ..evidence import Array, NodeRecord
from .difference import LocalDifference, difference_along
from .local import LocalGradients, Unexplained, edge_groups, forward_outputs
from .memory import to_engine_array
from .refusals import refuse_other_looks
from .spread import measured_spread

__all__ = ["HigherGradients", "Question", "higher_gradients", "unique_edges"]


@dataclass(frozen=True)
class Question:
    """What a node is asked: its cotangents, and on what each derivative is projected before the next is taken.

    Attributes:
        cotangents: one per slot; None where the slot has none.
        directions: for each further order, one per derivative of the order before it: of the first order one per group
            of edges (see ``edge_groups``), of the second one per edge and per slot, in this order; None where there
            was no derivative to project.
    """

    cotangents: Sequence[Array | None]
    directions: Sequence[Sequence[Array | None]]


@dataclass(frozen=True)
class HigherGradients:
    """What a node should return.

    Attributes:
        first: of the first order, one gradient per group of edges.
        last: of the highest order that was asked for: one per edge (of ``unique_edges``), then one per slot, then one
            per direction of the second order where there is a third; an empty array stands for "zero, in whatever
            shape".
    """

    first: LocalGradients
    last: LocalGradients


@dataclass
class _Variable:
    """What is differentiated with respect to: its value, and the leaves that stand for it (several where one tensor
    was given several times)."""

    value: Array | None
    leaves: list[Tensor] = field(default_factory=list)

    def leaf(self, noise: Perturbation | None) -> Tensor | None:
        if self.value is None:
            return None
        value = self.value if noise is None else noise(self.value)
        made = Tensor(value, requires_grad=True)
        self.leaves.append(made)
        return made


def unique_edges(node: NodeRecord) -> list[tuple[int, int]]:
    """The places its gradients go to, each once, in order of appearance."""
    return list(dict.fromkeys((edge.node, edge.slot) for edge in node.edges if edge is not None))


def higher_gradients(node: NodeRecord, question: Question, *, seed: int = 0) -> HigherGradients:
    """The derivatives that ``node`` owes for this question.

    Args:
        node: its recorded operations and inputs.
        question: with one list of directions for the second order, two for the third.
        seed: of the perturbations.

    Raises:
        Unexplained: with the reason.
    """
    if node.role == "unknown" or (not node.ops and node.role != "view-of-written"):
        raise Unexplained(f"no recorded operation explains {node.name}")
    refuse_other_looks(node)
    groups = edge_groups(node)
    values = _values(node, question)
    exact = _evaluate(node, groups, values, question, None)
    rng = np.random.default_rng(seed)
    samples: dict[float, list[tuple[list[Array], list[Array]]]] = {}

    def sampled(eps: float, count: int) -> list[tuple[list[Array], list[Array]]]:
        known = samples.setdefault(eps, [])
        while len(known) < count:
            known.append(_evaluate(node, groups, values, question, Perturbation(eps, rng)))
        return known

    def noise_of(which: int) -> Any:
        def noise(number: int, eps: float, count: int = 2) -> Array:
            found = [sample[which][number] for sample in sampled(eps, count)]
            return measured_spread(found, exact[which][number])

        return noise

    def difference(number: int, index: tuple[int, ...], unit: complex) -> LocalDifference | None:
        base = values[number]
        if base is None or (unit != 1 and base.dtype.kind != "c"):
            return None

        def projected(value: Array) -> float:
            moved = [value if i == number else known for i, known in enumerate(values)]
            return _projected(node, groups, moved, question)

        return difference_along(projected, base, index, unit)

    def none(*_: Any) -> None:
        return None

    first, last = noise_of(0), noise_of(1)
    alone: list[tuple[int, ...]] = [(number,) for number in range(len(exact[1]))]
    return HigherGradients(
        LocalGradients(exact[0], groups, [], first, first, none),
        LocalGradients(exact[1], alone, [], last, last, difference),
    )


def _values(node: NodeRecord, question: Question) -> list[Array | None]:
    """The value of every variable: of each edge, of each slot's cotangent, of each direction but the last."""
    values: list[Array | None] = []
    for place in unique_edges(node):
        position = next(i for i, e in enumerate(node.edges) if e is not None and (e.node, e.slot) == place)
        ref = node.inputs[position] if position < len(node.inputs) else None
        if ref is None and node.role != "function":
            raise Unexplained(
                f"argument {position} of {node.name} could not be matched with a recorded value"
            )
        values.append(None if ref is None else _wide(to_engine_array(ref)))
    values.extend(None if c is None else _wide(c) for c in question.cotangents)
    for level in question.directions[:-1]:
        values.extend(None if v is None else _wide(v) for v in level)
    return values


def _wide(array: Array) -> Array:
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64, copy=False)


def _evaluate(
    node: NodeRecord,
    groups: Sequence[tuple[int, ...]],
    values: Sequence[Array | None],
    question: Question,
    noise: Perturbation | None,
) -> tuple[list[Array], list[Array]]:
    """The first derivatives and those of the highest order, optionally in Monte-Carlo arithmetic."""
    noisy: AbstractContextManager[None] = nullcontext()
    if noise is not None:
        noisy = perturbed(noise.eps, noise.rng)
    with np.errstate(all="ignore"), noisy:
        levels = list(_levels(node, groups, values, question, noise, len(question.directions)))
    return [_data(t) for t in levels[0]], [_data(t) for t in levels[-1]]


def _data(tensor: Tensor | None) -> Array:
    return np.zeros((0,)) if tensor is None else tensor.data


def _projected(
    node: NodeRecord, groups: Sequence[tuple[int, ...]], values: Sequence[Array | None], question: Question
) -> float:
    """The derivative of the last order but one, projected on the last direction."""
    with np.errstate(all="ignore"):
        levels = list(_levels(node, groups, values, question, None, len(question.directions) - 1))
    total = 0.0
    for gradient, direction in zip(levels[-1], question.directions[-1]):
        if gradient is not None and direction is not None and gradient.size:
            total += float(np.real(np.vdot(direction, gradient.data)))
    return total


def _levels(
    node: NodeRecord,
    groups: Sequence[tuple[int, ...]],
    values: Sequence[Array | None],
    question: Question,
    noise: Perturbation | None,
    further: int,
) -> Iterator[list[Tensor | None]]:
    """The derivatives of the first order, then of ``further`` ones."""
    edges = unique_edges(node)
    slots = len(question.cotangents)
    variables = [_Variable(value) for value in values]
    of_position: dict[int, Tensor] = {}
    leaves: list[Tensor | None] = []
    for group in groups:
        edge = node.edges[group[0]]
        assert edge is not None
        leaf = variables[edges.index((edge.node, edge.slot))].leaf(noise)
        leaves.append(leaf)
        if leaf is not None:
            of_position.update(dict.fromkeys(group, leaf))
    outputs = forward_outputs(node, of_position, noise)
    heads: list[Tensor | None] = [
        output if isinstance(output, Tensor) and output.requires_grad else None for output in outputs
    ]
    heads += [None] * (slots - len(heads))
    weights = [v.leaf(noise) for v in variables[len(edges) : len(edges) + slots]]
    gradients = _differentiated(node, heads[:slots], weights, [[t] if t is not None else [] for t in leaves])
    yield gradients
    known = len(edges) + slots
    for level in range(further):
        given = question.directions[level]
        if level < len(question.directions) - 1:
            weights = [v.leaf(noise) for v in variables[known : known + len(given)]]
        else:
            weights = [
                None if v is None else Tensor(_wide(v) if noise is None else noise(_wide(v))) for v in given
            ]
        gradients = _differentiated(node, gradients, weights, [v.leaves for v in variables[:known]])
        # An edge that nothing leads to has a gradient of zero all the same.
        gradients = [
            Tensor(np.zeros_like(v.value)) if g is None and v.value is not None else g
            for g, v in zip(gradients, variables)
        ]
        yield gradients
        known += len(given)


def _differentiated(
    node: NodeRecord,
    heads: Sequence[Tensor | None],
    weights: Sequence[Tensor | None],
    variables: Sequence[Sequence[Tensor]],
) -> list[Tensor | None]:
    """The gradient of ``sum <weight, head>`` with respect to each variable: the sum over the leaves that stand for it."""
    roots, cotangents = [], []
    for head, weight in zip(heads, weights):
        if head is None or weight is None or not head.requires_grad:
            continue
        if weight.shape != head.shape:
            raise Unexplained(
                f"what {node.name} was asked with has shape {list(weight.shape)} where {list(head.shape)} is expected"
            )
        roots.append(head)
        cotangents.append(weight)
    leaves = [leaf for group in variables for leaf in group]
    found: Sequence[Tensor | None] = [None] * len(leaves)
    if roots and leaves:
        found = engine_grad(roots, leaves, cotangents, create_graph=True, allow_unused=True)
    by_leaf = {id(leaf): gradient for leaf, gradient in zip(leaves, found)}
    totals: list[Tensor | None] = []
    for group in variables:
        total: Tensor | None = None
        for leaf in group:
            gradient = by_leaf[id(leaf)]
            if gradient is not None:
                total = gradient if total is None else total + gradient
        totals.append(total)
    return totals

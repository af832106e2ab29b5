"""Where a run was evaluated on a kink or tie: a gradient is then a choice among several that are all right.

Two sources: gradients of torch that differ from the engine's and lie between the one-sided slopes (``second_opinion``),
and operations whose recorded inputs lie exactly on the kink, where both made the same choice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..evidence import (
    Array,
    ArraySource,
    ArrayValue,
    Location,
    NodeRecord,
    NodeVerdict,
    Outcome,
    TensorRef,
    Trace,
)
from ..replay import Unexplained, local_gradients
from .second_opinion import AT_A_KINK

__all__ = ["NonsmoothPoint", "nonsmooth_points"]

# Products with Jacobians on the way from a kink back to a leaf, before it is taken for granted that there is a way.
_MOST_STEPS = 8


@dataclass(frozen=True)
class NonsmoothPoint:
    """One line at which an operation was evaluated where it has no derivative.

    Attributes:
        ops: the operations, by overload name or name of the Function.
        remarks: for each what was seen, for people.
        location, module: of the line.
        elements: how many elements in all.
        index: of the first.
    """

    ops: tuple[str, ...]
    remarks: tuple[str, ...]
    location: Location | None
    module: str
    elements: int
    index: tuple[int, ...]


@dataclass(frozen=True)
class _Seen:
    op: str
    remark: str
    elements: int
    index: tuple[int, ...]
    node: NodeRecord


def nonsmooth_points(
    trace: Trace, checked: Mapping[int, tuple[NodeVerdict, Any]]
) -> tuple[NonsmoothPoint, ...]:
    """One entry per line, for nodes that were found right.

    Args:
        trace: the recording.
        checked: the verdict of each node, by key.
    """
    lines: dict[Any, list[_Seen]] = {}
    for key, (verdict, _) in checked.items():
        if verdict.outcome is not Outcome.AGREE:
            continue
        node = trace.nodes[key]
        seen = _accepted(node, verdict) or _on_a_kink(trace, node)
        if seen is not None:
            place = node.location if node.location is not None else (seen.op, node.module)
            lines.setdefault(place, []).append(seen)
    return tuple(_entry(found) for found in lines.values())


def _entry(found: Sequence[_Seen]) -> NonsmoothPoint:
    remarks: dict[str, str] = {}
    found = sorted(found, key=lambda seen: seen.node.sequence)
    for seen in found:
        remarks.setdefault(seen.op, seen.remark)
    first = found[0]
    return NonsmoothPoint(
        ops=tuple(remarks),
        remarks=tuple(remarks.values()),
        location=first.node.location,
        module=first.node.module,
        elements=sum(seen.elements for seen in found),
        index=first.index,
    )


def _accepted(node: NodeRecord, verdict: NodeVerdict) -> _Seen | None:
    """A gradient other than the engine's that the second opinion let stand."""
    for testimony in verdict.testimonies:
        if testimony.outcome is Outcome.AGREE and testimony.reason.startswith(AT_A_KINK):
            numbers = testimony.comparison
            index = numbers.index if numbers is not None else ()
            return _Seen(verdict.op, testimony.reason.removeprefix(AT_A_KINK).lstrip(": "), 1, index, node)
    return None


# -- operations on their kinks --------------------------------------------------------------------------------------


def _argument(values: Sequence[Any], position: int) -> Any:
    return values[position] if position < len(values) else None


def _numbers(value: Any) -> Array | None:
    if isinstance(value, TensorRef):
        return value.source.array()
    return None if value is None or isinstance(value, list) else np.asarray(value)


Sides = Callable[[Sequence[Any], Array], Array]
"""From an operation's arguments and its first as an array: where it lies on a kink."""


def _at(*bounds: float) -> Sides:
    return lambda arguments, x: np.isin(x, np.asarray(bounds, dtype=x.dtype))


def _at_arguments(*positions: int) -> Sides:
    def mask(arguments: Sequence[Any], x: Array) -> Array:
        found = np.zeros(x.shape, bool)
        for position in positions:
            bound = _numbers(_argument(arguments, position))
            if bound is not None:
                found = found | (x == bound)
        return found

    return mask


def _at_both_signs(position: int, default: float) -> Sides:
    def mask(arguments: Sequence[Any], x: Array) -> Array:
        bound = _numbers(_argument(arguments, position))
        return np.asarray(np.abs(x) == (default if bound is None else bound))

    return mask


def _equal(arguments: Sequence[Any], x: Array) -> Array:
    other = _numbers(_argument(arguments, 1))
    return np.zeros(x.shape, bool) if other is None else x == other


def _axes(dims: Any, x: Array) -> Any:
    """torch's dimensions as NumPy's axes: none at all means all, and a number has the dimension 0 in torch alone."""
    if x.ndim == 0:
        return None
    return (tuple(dims) or None) if isinstance(dims, list | tuple) else dims


def _tied(largest: bool) -> Sides:
    def mask(arguments: Sequence[Any], x: Array) -> Array:
        axes = _axes(_argument(arguments, 1), x)
        extreme = (np.max if largest else np.min)(x, axis=axes, keepdims=True)
        among = x == extreme
        return np.asarray(among & (among.sum(axis=axes, keepdims=True) > 1))

    return mask


def _middle(arguments: Sequence[Any], x: Array) -> Array:
    ordered = np.sort(x, axis=None)
    among = x == ordered[(ordered.size - 1) // 2]  # torch takes the lower of two middle values
    return np.asarray(among & (among.sum() > 1))


def _zero_norm(arguments: Sequence[Any], x: Array) -> Array:
    nothing = np.all(x == 0, axis=_axes(_argument(arguments, 2), x), keepdims=True)
    return np.broadcast_to(nothing, x.shape)


_POINTWISE: Mapping[str, tuple[Sides, str]] = {
    "aten::relu": (_at(0.0), "its input is 0"),
    "aten::abs": (_at(0.0), "its input is 0"),
    "aten::leaky_relu": (_at(0.0), "its input is 0"),
    "aten::threshold": (_at_arguments(1), "its input is the threshold"),
    "aten::clamp": (_at_arguments(1, 2), "its input is a bound"),
    "aten::clamp.Tensor": (_at_arguments(1, 2), "its input is a bound"),
    "aten::clamp_min": (_at_arguments(1), "its input is the bound"),
    "aten::clamp_max": (_at_arguments(1), "its input is the bound"),
    "aten::hardtanh": (_at_arguments(1, 2), "its input is a bound"),
    "aten::softshrink": (_at_both_signs(1, 0.5), "its input is the threshold"),
    "aten::hardshrink": (_at_both_signs(1, 0.5), "its input is the threshold"),
    "aten::hardswish": (_at(-3.0, 3.0), "its input is -3 or 3"),
    "aten::hardsigmoid": (_at(-3.0, 3.0), "its input is -3 or 3"),
    "aten::maximum": (_equal, "both inputs are equal"),
    "aten::minimum": (_equal, "both inputs are equal"),
    "aten::fmax": (_equal, "both inputs are equal"),
    "aten::fmin": (_equal, "both inputs are equal"),
}
_REDUCING: Mapping[str, tuple[Sides, str]] = {
    "aten::max": (_tied(True), "the largest value occurs more than once"),
    "aten::amax": (_tied(True), "the largest value occurs more than once"),
    "aten::max.dim": (_tied(True), "the largest value occurs more than once"),
    "aten::min": (_tied(False), "the smallest value occurs more than once"),
    "aten::amin": (_tied(False), "the smallest value occurs more than once"),
    "aten::min.dim": (_tied(False), "the smallest value occurs more than once"),
    "aten::median": (_middle, "the median occurs more than once"),
    "aten::linalg_vector_norm": (_zero_norm, "the norm is 0"),
}


def _on_a_kink(trace: Trace, node: NodeRecord) -> _Seen | None:
    """Where an operation's input lies exactly on its kink, and the choice there reaches a leaf."""
    if node.role != "op" or len(node.ops) != 1:
        return None
    op = node.ops[0]
    name = op.name
    base = name.removesuffix("_")
    known = _POINTWISE.get(base) or _REDUCING.get(name)
    if known is None or not op.args or not isinstance(op.args[0], TensorRef):
        return None
    x = op.args[0].source.array()
    if x.dtype.kind != "f" or not x.size:
        return None
    sides, remark = known
    kink = sides(op.args, x)
    if not kink.any():
        return None
    cotangent = node.cotangents[0].array() if node.cotangents and node.cotangents[0] is not None else None
    if cotangent is None:
        return None
    if base in _POINTWISE:
        if cotangent.shape != kink.shape:
            return None
        kink = kink & (cotangent != 0)
    elif not np.any(cotangent):
        return None
    count = int(np.count_nonzero(kink))
    if not count or not _reaches_a_leaf(trace, node, kink):
        return None
    index = tuple(int(i) for i in np.argwhere(kink)[0])
    return _Seen(name, remark, count, index, node)


def _reaches_a_leaf(trace: Trace, node: NodeRecord, kink: Array) -> bool:
    """Whether a gradient at these elements of the input would get to a leaf.

    What a dropout or an earlier relu has set to zero lies on the next relu's kink, but no gradient passes back through it.
    """
    weights = np.random.default_rng(0).uniform(0.5, 1.5, kink.shape) * kink
    waiting = [(position, weights) for position, ref in enumerate(node.inputs) if _fits(ref, kink)]
    queue = [(node.edges[position], values) for position, values in waiting[:1]]
    if not queue:
        return True
    for _ in range(_MOST_STEPS):
        if not queue:
            return False
        edge, values = queue.pop()
        if edge is None:
            continue
        target = trace.nodes.get(edge.node)
        if target is None or target.role == "leaf":
            return True
        try:
            queue.extend(_sent_on(target, edge.slot, values))
        except Unexplained:
            return True
    return bool(queue)


def _fits(ref: TensorRef | None, kink: Array) -> bool:
    return ref is not None and ref.shape == kink.shape


def _sent_on(node: NodeRecord, slot: int, values: Array) -> Iterator[tuple[Any, Array]]:
    cotangents: list[ArraySource | None] = [None] * max(len(node.outputs), slot + 1)
    cotangents[slot] = ArrayValue(values)
    local = local_gradients(node, cotangents)
    found = []
    for group, gradient in zip(local.groups, local.gradients):
        if np.any(gradient):
            found.append((node.edges[group[0]], gradient))
    return iter(found)

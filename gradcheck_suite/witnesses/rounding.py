"""Before a node is accused of a small difference: is it the way in which torch adds up?

A batch that is sorted by class, or an image that is bright above and dark below, makes the terms of a gradient come sorted by
sign. A sum from left to right then passes through partial sums far larger than its result, and rounds those. What every
operation is granted is relative to its result, which says nothing of them, and noise on the terms is smaller.

A backward is linear in its cotangent, so the cotangent is cut into parts that cancel less: its positive and its negative
elements, in each half of one axis. The gradient may then be off by the sum of what each part's gradient is granted, provided
that torch's formula is right: the same backward in float64 gives what the engine does, and in float64 itself that of each part.

A thousand small terms that are alike, added one by one to a large one, are all rounded the same way: a head whose weights began as
zeros does that after one step. Where torch's backward runs again in float64, a sum in float32 is granted as much.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import numpy as np

from ..compare.tolerance import EPS, HALF_SPREAD, SPREAD, ULPS, accumulation, granted, judge, long_sum
from ..evidence import Array, ArraySource, ArrayValue, Comparison, NodeRecord, Outcome
from ..replay import LocalGradients, Unexplained, local_gradients
from .sums import reduced

__all__ = ["InFloat64", "only_rounding"]

_REMARK = "as far off as a sum in {dtype} may be whose terms come sorted by sign: {what} agrees"
_WIDE = ("float64", "complex128")
# Halves are added up in float32; in float64 nothing finer could tell.
_ADDED_ONE_BY_ONE = ("float32", "complex64")
# Of the noise of a second comparison, in float64.
_SAMPLES = 12
# A Function that iterates is no sum, and running it again for each part takes its time.
_MOST_OPERATIONS = 64
# Noise of the parts beyond so many times what they are granted without it is not worth its time.
_MOST = 1e4
# Of the sum of magnitudes, what terms that are alike may be rounded by together.
_MOST_OF_TERMS_ALIKE = 1e-3

Cotangents = Sequence["ArraySource | None"]

InFloat64 = Callable[[NodeRecord, Cotangents], "Mapping[int, Array]"]
"""torch's own backward of a node, run again in float64, by edge; raises ``Unexplained`` where that cannot be."""


def only_rounding(
    node: NodeRecord,
    number: int,
    expected: Array,
    actual: Array,
    cotangents: Cotangents,
    ask: InFloat64,
    *,
    dtype: str,
    terms: float,
) -> tuple[Comparison, str] | None:
    """The comparison with what a sum in any order may be off by, and a remark; None where the difference is another.

    Args:
        node, number: whose gradient differs: a group of edges of ``local_gradients(node, cotangents)``.
        expected, actual: by the engine and by torch.
        cotangents: that it was asked with.
        ask: runs torch's backward again in float64.
        dtype: the coarsest that the operation worked in.
        terms: about how many were added up for one element.
    """
    if expected.shape != actual.shape or not expected.size or len(node.ops) > _MOST_OPERATIONS:
        return None
    error = np.abs(actual - expected)
    try:
        for parts in _ways_to_cut(cotangents):
            tolerance = _granted([local_gradients(node, part) for part in parts], number, error, dtype, terms)
            if not np.all(error <= tolerance):
                continue
            narrow = dtype not in _WIDE
            # The same sum in float64 rounds by as much less as its unit is smaller.
            room = tolerance * (EPS["float64"] / EPS[dtype]) if narrow else 0.0
            if not all(
                _agrees(node, number, part, ask, terms, room) for part in ([cotangents] if narrow else parts)
            ):
                return None
            outcome, comparison = judge(
                expected,
                actual,
                dtype=dtype,
                noise=partial(np.broadcast_to, tolerance, expected.shape),
                spread=1.0,
                explain=False,
            )
            what = "torch's own backward " + ("in float64" if narrow else "of each part")
            return (comparison, _REMARK.format(dtype=dtype, what=what)) if outcome is Outcome.AGREE else None
    except Unexplained:
        pass
    return None


def _granted(
    parts: Sequence[LocalGradients], number: int, error: Array, dtype: str, terms: float
) -> Array | float:
    """What the gradients of the parts may be off by together; their noise is measured where it is needed."""
    share = max(granted(dtype) * long_sum(terms, dtype), _terms_alike(terms, dtype))
    first = share * float(sum(np.max(np.abs(part.gradients[number]), initial=0.0) for part in parts))
    if np.all(error <= first) or np.max(error) > _MOST * first:
        return first
    grown = (SPREAD if dtype in ULPS else HALF_SPREAD) * accumulation(terms, dtype)
    noise = [part.noise(number, EPS[dtype], _SAMPLES) for part in parts]
    return np.asarray(first + grown * np.sum(noise, axis=0))


def _terms_alike(terms: float, dtype: str) -> float:
    """What a sum from left to right may be off by, relative to the sum of magnitudes: half a unit for each term.

    Source: Higham, "Accuracy and Stability of Numerical Algorithms", 2002, equation 4.3.
    """
    if dtype not in _ADDED_ONE_BY_ONE:
        return 0.0
    return min(max(terms, 0.0) * EPS[dtype] / 2, _MOST_OF_TERMS_ALIKE)


def _agrees(
    node: NodeRecord,
    number: int,
    cotangents: Cotangents,
    ask: InFloat64,
    terms: float,
    room: Array | float,
) -> bool:
    """Whether torch's backward in float64 gives what the engine does, or misses it by no more than ``room``."""
    local: LocalGradients = local_gradients(node, cotangents)
    found = ask(node, cotangents)
    expected = local.gradients[number]
    total = np.zeros(expected.shape)
    for position in local.groups[number]:
        if position in found:
            total = total + reduced(found[position], expected.shape)
    if total.dtype.kind == "c" and expected.dtype.kind != "c":
        total = total.real
    if total.shape == expected.shape and np.all(np.abs(total - expected) <= room):
        return True
    dtype = "complex128" if expected.dtype.kind == "c" else "float64"
    grown = accumulation(terms, dtype)
    outcome, _ = judge(
        expected,
        total,
        dtype=dtype,
        noise=lambda: local.noise(number, EPS[dtype], _SAMPLES) * grown,
        slack=long_sum(terms, dtype),
        explain=False,
    )
    return outcome is Outcome.AGREE


def _ways_to_cut(cotangents: Cotangents) -> Iterable[list[Cotangents]]:
    """The cotangents as sums of four parts, by sign and half of one axis, for each axis in turn."""
    arrays = [None if c is None else c.wide() for c in cotangents]
    for axis in range(max((a.ndim for a in arrays if a is not None), default=0)):
        yield [
            [None if array is None else ArrayValue(_part(array, axis, half, sign)) for array in arrays]
            for half in (0, 1)
            for sign in (True, False)
        ]


def _part(array: Array, axis: int, half: int, sign: bool) -> Array:
    inside = (np.real(array) >= 0) == sign
    if axis < array.ndim:
        place = np.arange(array.shape[axis]) * 2 // max(array.shape[axis], 1) == half
        inside = inside & np.expand_dims(place, tuple(range(1, array.ndim - axis)))
    else:
        inside = inside & (half == 0)
    return np.where(inside, array, 0.0)

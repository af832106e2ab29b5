"""Reductions by group: the core of scatter_reduce and index_reduce, and reductions of segments."""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import math

import numpy as np

from ..engine import ops as e
from .registry import MeaningUnavailableError, meaning
from .values import axis_of, constant, raw


def grouped(values, groups, count, kind, start, include_start):
    """Reduces flat ``values`` by group: sum, prod, mean, amax or amin.

    Args:
        values: (n,) values.
        groups: (n,) group of each value.
        count: number of groups.
        kind: "sum", "prod", "mean", "amax", "amin".
        start: (count,) what a group without values is; also one more value of each group if include_start.
        include_start: whether ``start`` takes part in groups that have values.

    Returns:
        (count,) results; equal extrema share the gradient.
    """
    sizes = np.bincount(groups, minlength=count)
    touched = sizes > 0
    base = start if include_start else e.where(touched, 0.0, start)
    if kind in ("sum", "mean"):
        total = e.index_add(base, values, index=groups, axis=0)
        members = sizes + (1 if include_start else 0)
        return total / np.where(touched, members, 1).astype(np.float64) if kind == "mean" else total
    if kind == "prod":
        return _group_products(
            values, groups, sizes, e.where(touched, 1.0, start) if not include_start else base
        )
    if kind not in ("amax", "amin"):
        raise MeaningUnavailableError(
            f"reducing by group failed: reduce={kind!r} has no meaning here. "
            "Known are sum, prod, mean, amax, amin. Use one of those."
        )
    extremum = np.maximum if kind == "amax" else np.minimum
    unset = np.broadcast_to(touched & (not include_start), (count,))
    best = np.where(unset, -np.inf if kind == "amax" else np.inf, raw(start))
    extremum.at(best, groups, raw(values))
    from_start = (raw(start) == best) & (include_start | ~touched)
    from_values = raw(values) == best[groups]
    ties = np.bincount(groups, weights=from_values, minlength=count) + from_start
    shared = e.where(from_values, values, 0.0) / np.maximum(ties, 1.0)[groups]
    return e.index_add(e.where(from_start, start, 0.0) / np.maximum(ties, 1.0), shared, index=groups, axis=0)


def _group_products(values, groups, sizes, start):
    """Product of each group and its start: the members of a group form a row, filled up with ones."""
    order = np.argsort(groups, kind="stable")
    first = np.cumsum(sizes) - sizes
    width = int(sizes.max(initial=0))
    table = np.full((len(sizes), width + 1), len(groups), dtype=np.int64)
    rows = groups[order]
    table[rows, np.arange(len(order)) - first[rows]] = order
    padded = e.concatenate([values, constant(np.ones(1))], axis=0)
    members = e.getitem(padded, index=table)
    return e.prod(e.concatenate([members, e.expand_dims(start, axis=-1)], axis=1), axis=1)


@meaning("aten::segment_reduce")
def segment_reduce(
    data, reduce, *, lengths=None, indices=None, offsets=None, axis=0, unsafe=False, initial=None
):
    """Reduces consecutive segments along ``axis``; an empty segment is ``initial``, or the neutral element."""
    if lengths is None and offsets is None:
        raise MeaningUnavailableError(
            "reducing segments failed: neither lengths nor offsets is given. "
            "Segments given by indices are not defined by torch. Pass lengths or offsets."
        )
    axis = axis_of(axis, data.ndim)
    lengths = np.diff(offsets, axis=-1) if lengths is None else lengths
    lead, tail = data.shape[:axis], data.shape[axis + 1 :]
    segments, batch = lengths.shape[-1], math.prod(lead)
    segment = np.arange(batch * segments).repeat(lengths.ravel())
    inner = math.prod(tail)
    groups = (segment[:, None] * inner + np.arange(inner)).ravel()
    kind = {"max": "amax", "min": "amin"}.get(reduce, reduce)
    neutral = {"sum": 0.0, "mean": np.nan, "prod": 1.0, "amax": -np.inf, "amin": np.inf}[kind]
    count = batch * segments * inner
    start = constant(np.full(count, neutral if initial is None else float(initial)))
    values = e.reshape(data, shape=(-1,))
    members = lengths.reshape(batch, segments).sum(axis=1)
    kept = np.arange(data.shape[axis]) < members[:, None]
    if not kept.all():  # what comes after the last segment belongs to none
        values = e.getitem(values, index=np.flatnonzero(np.repeat(kept.ravel(), inner)))
    if (
        kind == "mean" and initial is not None
    ):  # the initial value adds to the sum, not to the number of members
        sizes = np.bincount(groups, minlength=count)
        flat = e.index_add(start, values, index=groups, axis=0) / np.maximum(sizes, 1).astype(np.float64)
    else:
        flat = grouped(values, groups, count, kind, start, initial is not None)
    return e.reshape(flat, shape=(*lead, segments, *tail))

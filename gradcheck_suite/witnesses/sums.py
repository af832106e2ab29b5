"""The second local fact: what is delivered to a node is the sum of what was sent to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ..compare.tolerance import coarsest_eps, judge
from ..evidence import Array, ArraySource, NodeRecord, Outcome, TensorRef, Testimony, Trace

__all__ = ["CHECKPOINT", "MODULE_HOOK", "check_sums", "is_module_hook", "node_name", "reduced"]

CHECKPOINT = "CheckpointFunctionBackward"
"""The node of re-entrant checkpointing, whose backward runs another."""

MODULE_HOOK = "a module's backward hook changes this gradient"
"""The reason where nobody is accused: such a hook may change a gradient on purpose."""


def node_name(node: NodeRecord) -> str:
    """A custom Function's class name, or torch's name of the node."""
    return node.function.name if node.function is not None else node.name


def is_module_hook(node: NodeRecord) -> bool:
    """Whether torch put the node there to call the backward hooks of a module; it passes on what it is given."""
    return node.role == "function" and node.name == "BackwardHookFunctionBackward"


def reduced(array: Array, shape: tuple[int, ...]) -> Array:
    """A returned gradient summed down to its input's shape, as autograd does where it is merely broadcast."""
    if array.shape == shape:
        return array
    extra = array.ndim - len(shape)
    if extra < 0 or any(n not in (1, m) for n, m in zip(shape, array.shape[extra:])):
        return array
    axes = tuple(range(extra)) + tuple(
        extra + i for i, n in enumerate(shape) if n == 1 and array.shape[extra + i] != 1
    )
    wide = array.astype(np.complex128 if array.dtype.kind == "c" else np.float64, copy=False)
    return np.asarray(wide.sum(axis=axes, keepdims=True).reshape(shape))


def check_sums(
    trace: Trace, differentiated: Mapping[str, ArraySource | None]
) -> dict[tuple[int, int], Testimony]:
    """Is what arrived at each node and leaf the sum of what was sent to it?

    Args:
        trace: the recording.
        differentiated: the gradient that torch returned, by leaf name, for the leaves that were asked for.

    Returns:
        One testimony by (node key, slot), for every slot that something was sent to.
    """
    sent: dict[tuple[int, int], list[ArraySource]] = {}
    for root in trace.roots:
        sent.setdefault((root.node, root.slot), []).append(root.cotangent)
    for node in trace.nodes.values():
        if not node.ran:
            continue
        for position, edge in enumerate(node.edges):
            if edge is None:
                continue
            source = node.gradients[position] if position < len(node.gradients) else None
            parts = sent.setdefault((edge.node, edge.slot), [])
            if source is not None:
                parts.append(source)
    inner = any(node.name == CHECKPOINT for node in trace.nodes.values())
    testimonies: dict[tuple[int, int], Testimony] = {}
    for (key, slot), parts in sent.items():
        target = trace.nodes.get(key)
        if target is None:
            continue
        if target.role == "leaf":
            if target.leaf_name not in differentiated:
                continue
            arrived = differentiated[target.leaf_name]
            subject = f"gradient of {target.leaf_name}"
        else:
            if not target.ran:
                continue
            arrived = target.cotangents[slot] if slot < len(target.cotangents) else None
            subject = (
                f"cotangent {slot} of {node_name(target)}" if slot else f"cotangent of {node_name(target)}"
            )
        ref = target.outputs[slot] if slot < len(target.outputs) else None
        testimony = _check_sum(subject, parts, arrived, ref)
        if is_module_hook(target) and testimony.outcome is Outcome.DISAGREE:
            testimony = replace(testimony, outcome=Outcome.INCONCLUSIVE, reason=MODULE_HOOK)
        if inner and target.role == "leaf" and testimony.outcome is Outcome.DISAGREE:
            reason = "re-entrant checkpointing adds to it from a backward of its own, which was not recorded"
            testimony = replace(testimony, outcome=Outcome.INCONCLUSIVE, reason=reason)
        testimonies[key, slot] = testimony
    return testimonies


def _check_sum(
    subject: str, parts: Sequence[ArraySource], arrived: ArraySource | None, ref: TensorRef | None
) -> Testimony:
    if len(parts) == 1 and arrived is not None and parts[0].identity() == arrived.identity():
        return Testimony("sum", subject, Outcome.AGREE)
    actual = None if arrived is None else arrived.array()
    if not parts:
        outcome = Outcome.AGREE if actual is None or not np.any(actual) else Outcome.DISAGREE
        return Testimony(
            "sum", subject, outcome, reason="" if outcome is Outcome.AGREE else "nothing was sent to it"
        )
    shape = actual.shape if actual is not None else (ref.shape if ref is not None else parts[0].array().shape)
    arrays = [reduced(p.array(), shape) for p in parts]
    if actual is not None and actual.dtype.kind != "c":
        arrays = [a.real if a.dtype.kind == "c" else a for a in arrays]
    if (
        len(arrays) == 1
        and actual is not None
        and arrays[0].shape == actual.shape
        and np.array_equal(arrays[0], actual)
    ):
        return Testimony("sum", subject, Outcome.AGREE)
    wide = [a.astype(np.complex128 if a.dtype.kind == "c" else np.float64, copy=False) for a in arrays]
    total = wide[0] if len(wide) == 1 else np.add.reduce(np.broadcast_arrays(*wide))
    eps, dtype = coarsest_eps([ref.dtype] if ref is not None else [str(arrays[0].dtype)])
    sizes = (
        np.add.reduce(np.broadcast_arrays(*[np.abs(a) for a in wide])) if len(wide) > 1 else np.abs(wide[0])
    )
    # n additions, each rounded once, in an order that we do not know.
    outcome, comparison = judge(total, actual, dtype=dtype, noise=lambda: eps * len(parts) * sizes / 8)
    return Testimony("sum", subject, outcome, comparison)

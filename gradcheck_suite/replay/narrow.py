"""One operation and its VJP in the engine in float32: a first look at large float32 nodes, at half the memory.

It can only ever settle agreement. A gradient that lies within a few units of what the engine computes in float32 lies
within them of the exact one, give or take the engine's own few; whatever is not settled here is computed in float64.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..engine import Tensor
from ..engine import grad as engine_grad
from ..evidence import Array, ArraySource, NodeRecord, TensorRef
from .moves import only_moves
from .operations import NoMeaningError, compute, moves_memory_only
from .refusals import tensor_arguments

__all__ = ["narrow_gradients"]

# Below so many elements a check costs what Python costs, whatever the dtype.
_MANY = 1 << 14
_KEPT = frozenset({"float32", "int64", "int32", "bool", "uint8"})


def narrow_gradients(
    node: NodeRecord, cotangents: Sequence[ArraySource | None]
) -> tuple[list[Array | None], list[Array | None]] | None:
    """(gradients by edge, values by output slot) in float32; None where this is no way to look at the node."""
    if node.role != "op" or len(node.ops) != 1 or only_moves(node) or moves_memory_only(node.ops[0]):
        return None
    op = node.ops[0]
    arguments = tensor_arguments(op)
    if not _is_large([*arguments, *node.outputs]) or any(ref.dtype not in _KEPT for ref in arguments):
        return None
    positions = [i for i, edge in enumerate(node.edges) if edge is not None]
    leaves: dict[int, Tensor] = {}
    by_ref: dict[int, Tensor] = {}
    for position in positions:
        ref = node.inputs[position] if position < len(node.inputs) else None
        if ref is None or ref.dtype != "float32":
            return None
        leaf = Tensor(ref.source.array(), requires_grad=True)
        leaves[position] = by_ref[id(ref)] = leaf
    if len(by_ref) != len(leaves):
        return None

    def read(ref: TensorRef) -> Any:
        leaf = by_ref.get(id(ref))
        if leaf is not None:
            return leaf
        array = ref.source.array()
        return Tensor(array) if array.dtype.kind == "f" else array

    with np.errstate(all="ignore"):
        try:
            results = compute(op, read)
        except NoMeaningError:
            return None
        outputs: list[Any] = []
        for slot in range(max(len(cotangents), 1)):
            wanted = node.outputs[slot] if slot < len(node.outputs) else None
            outputs.append(_of_slot(results, node.key, slot, wanted))
        heads, weights = [], []
        for output, source in zip(outputs, cotangents):
            if source is None or not isinstance(output, Tensor) or not output.requires_grad:
                continue
            weight = source.array()
            if weight.shape != output.shape or weight.dtype != np.float32 or output.dtype != np.float32:
                return None
            heads.append(output)
            weights.append(Tensor(weight))
        if not heads:
            return None
        found = engine_grad(heads, list(leaves.values()), weights, allow_unused=True)
    gradients: list[Array | None] = [None] * len(node.edges)
    for position, gradient in zip(leaves, found):
        gradients[position] = (
            np.zeros(leaves[position].shape, np.float32) if gradient is None else gradient.data
        )
    return gradients, [o.data if isinstance(o, Tensor) else None for o in outputs]


def _is_large(refs: Iterable[TensorRef | None]) -> bool:
    return any(ref is not None and int(np.prod(ref.shape)) >= _MANY for ref in refs)


def _of_slot(results: list[tuple[TensorRef, Any]], key: int, slot: int, wanted: TensorRef | None) -> Any:
    for ref, value in results:
        if ref is wanted or ref.edge == (key, slot):
            return value
    return None

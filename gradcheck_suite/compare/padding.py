"""Elements of leaves whose gradient is zero by agreement, although the output depends on them: the rows of padding.

``nn.Embedding(..., padding_idx=0)`` gives row 0 no gradient, by definition and in so many words. Finite differences of
the whole function must leave such rows where they are.
"""

from __future__ import annotations

import numpy as np

from ..evidence import Array, OpRecord, TensorRef, Trace

__all__ = ["padding_elements"]


def padding_elements(trace: Trace) -> dict[str, Array]:
    """By name of the leaf, a boolean mask in its shape: True in the rows that an embedding names as padding."""
    names = {key: name for name, key in trace.leaves.items()}
    masks: dict[str, Array] = {}
    for op in trace.ops:
        if op.name != "aten::embedding" or not op.grad_enabled:
            continue
        weight, row = op.args[0], _padding_row(op)
        if not isinstance(weight, TensorRef) or weight.edge is None or row < 0:
            continue
        name = names.get(weight.edge[0])
        if name is not None:
            masks.setdefault(name, np.zeros(weight.shape, np.bool_))[row] = True
    return masks


def _padding_row(op: OpRecord) -> int:
    value = op.kwargs.get("padding_idx", op.args[2] if len(op.args) > 2 else -1)
    return int(value)

"""About how many terms an operation adds up, from the sizes of what it reads and makes: rounding grows with that."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..evidence import Array, ArraySource, NodeRecord, TensorRef

__all__ = ["lost_in_attention", "terms_of_gradient", "terms_of_value"]


def terms_of_gradient(node: NodeRecord, gradient: Array, cotangents: Sequence[ArraySource | None]) -> float:
    """About how many terms were added up for one element of the gradient.

    Exact for a plain sum (elements of the cotangent per element of the gradient) and for a contraction of the
    cotangent with one other operand, whose sizes multiply to gradient size times the square of the summed extent.
    The other operand need not carry a gradient (the image before the first convolution).
    """
    size = max(gradient.size, 1)
    cotangent = max((c.array().size for c in cotangents if c is not None), default=1)
    other = _sizes(node)[0]
    return max(cotangent / size, float(np.sqrt(cotangent * other / size)))


def terms_of_value(node: NodeRecord, size: int) -> float:
    """About how many terms were added up for one element of a result; 0 where it is no smaller than the operands."""
    first, second, *_ = [*_sizes(node), 1]
    return 0.0 if size >= first else max(first, float(np.sqrt(first * second * size))) / max(size, 1)


def _sizes(node: NodeRecord) -> list[int]:
    """Numbers of elements of the operands, the largest first; at least one."""
    operands = [ref for ref in node.inputs if ref is not None]
    operands.extend(value for op in node.ops for value in op.args if isinstance(value, TensorRef))
    # An operand that carries a gradient is among both.
    return sorted({id(ref): int(np.prod(ref.shape)) for ref in operands}.values(), reverse=True) or [1]


def lost_in_attention(node: NodeRecord) -> float:
    """The largest magnitude of a logsumexp that an attention kernel has kept for its backward; 0 for any other node.

    A backward that computes the weights anew as ``exp(score - logsumexp)`` knows them to ``eps`` times that, however certain they
    are (Dao et al., "FlashAttention", 2022, algorithm 4).
    """
    largest = 0.0
    for op in node.ops:
        kept = op.outputs[1] if "scaled_dot_product" in op.name and len(op.outputs) > 1 else None
        if isinstance(kept, TensorRef):
            values = kept.source.array()
            values = np.abs(values[np.isfinite(values)])
            largest = max(largest, float(values.max(initial=0.0)))
    return largest

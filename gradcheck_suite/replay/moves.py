"""Operations that only move elements: what a node of theirs owes depends on no value, and agreement is exact."""

from __future__ import annotations

from ..evidence import NodeRecord

__all__ = ["only_moves"]

# Operations that only move elements. What they return depends on no value, and every element of it is one element of
# the cotangent or zero: the engine can work on the cotangent as it is, and agreement is exact.
_MOVES = frozenset(
    f"aten::{name}"
    for name in (
        "t",
        "view",
        "_unsafe_view",
        "_reshape_alias",
        "reshape",
        "transpose.int",
        "permute",
        "unsqueeze",
        "squeeze",
        "squeeze.dim",
        "squeeze.dims",
        "slice.Tensor",
        "select.int",
        "alias",
        "clone",
        "unbind.int",
        "split.Tensor",
        "split_with_sizes",
        "diagonal",
        "flip",
        "roll",
    )
)


def only_moves(node: NodeRecord) -> bool:
    """Whether a node differentiates one operation that only moves elements, in a dtype that NumPy moves as it is."""
    return (
        node.role == "op"
        and len(node.ops) == 1
        and node.ops[0].name in _MOVES
        and all(ref is None or ref.dtype in ("float32", "float64") for ref in (*node.inputs, *node.outputs))
    )

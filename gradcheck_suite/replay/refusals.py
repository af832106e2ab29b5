"""Nodes whose recorded operations do not say what they computed: those that the engine refuses to speak about."""

from __future__ import annotations

from typing import Any

from ..evidence import NodeRecord, OpRecord, TensorRef
from .memory import is_differentiable

__all__ = ["Unexplained", "refuse_opaque", "refuse_other_looks", "tensor_arguments"]


class Unexplained(Exception):
    """The engine cannot say what this node should return; the message says why."""


def refuse_other_looks(node: NodeRecord) -> None:
    """torch writes through conjugate, negative and real views of complex memory by a detour below autograd.

    What is recorded then (a copy of the resolved view, written back) is not the operation that the node differentiates.
    """
    if node.role not in ("write-through-view", "view-of-written"):
        return
    refs = [ref for ref in (node.base, *node.inputs[:1], *node.outputs) if ref is not None]
    refs += [after for op in node.ops for _, after in op.written if node.role == "write-through-view"]
    if any(ref.lazy for ref in refs) or len({ref.dtype.startswith("complex") for ref in refs}) > 1:
        raise Unexplained(f"{node.name} goes through a conjugate, negative or real view of complex memory")


def refuse_opaque(node: NodeRecord) -> None:
    """A forward through which values flow outside recorded operations cannot be differentiated by replaying it."""
    if node.function is not None and node.function.shared_memory:
        raise Unexplained(node.function.shared_memory)
    own = {ref.storage for ref in node.inputs if ref is not None}
    for op in node.ops:
        if op.name == "aten::_local_scalar_dense":
            ref = op.args[0]
            if isinstance(ref, TensorRef) and is_differentiable(ref.dtype):
                raise Unexplained(
                    f"the forward of {node.name} reads a tensor as a Python number, so values flow around the "
                    "recorded operations"
                )
        for ref in tensor_arguments(op):
            if not ref.known and ref.storage not in own and is_differentiable(ref.dtype):
                raise Unexplained(
                    f"the forward of {node.name} uses a {ref.describe()} tensor whose origin was not recorded (NumPy, "
                    "C++ or made before the run), so values may flow around the recorded operations"
                )


def tensor_arguments(op: OpRecord) -> list[TensorRef]:
    found: list[TensorRef] = []

    def collect(values: Any) -> None:
        for value in values:
            if isinstance(value, TensorRef):
                found.append(value)
            elif isinstance(value, list | tuple):
                collect(value)

    collect(op.args)
    collect(tuple(op.kwargs.values()))
    return found

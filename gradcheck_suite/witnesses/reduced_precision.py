"""Where float32 is not float32: matrix products on tensor cores round their operands to 10 bits (TensorFloat-32).

The settings are those of the process, and they hold for the whole check: ``torch.backends.cuda.matmul.allow_tf32`` (or
``torch.set_float32_matmul_precision``) for products, ``torch.backends.cudnn.allow_tf32`` for convolutions and recurrent
layers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch

from ..evidence import NodeRecord, OpRecord, TensorRef

__all__ = ["tensor_float_nodes", "uses_tensor_float"]

_PRODUCT = re.compile(r"mm|matmul|linear|einsum|mv|dot|attention|outer|chain|tensordot|bilinear")
_CUDNN = re.compile(r"conv|rnn|lstm|gru")


def tensor_float_allowed() -> tuple[bool, bool]:
    """Whether matrix products, and whether convolutions and recurrent layers, may run in TensorFloat-32."""
    return _flag(torch.backends.cuda.matmul), _flag(torch.backends.cudnn)


def _flag(backend: object) -> bool:
    try:
        return bool(backend.allow_tf32)  # type: ignore[attr-defined]
    except RuntimeError:
        # A program that uses the newer setting (``fp32_precision``) may not ask by the older name any more.
        return getattr(backend, "fp32_precision", "ieee") == "tf32"


def uses_tensor_float(op: OpRecord, allowed: tuple[bool, bool]) -> bool:
    """Whether this operation ran on a GPU in float32 and may have used tensor cores."""
    products, cudnn = allowed
    name = op.name.removeprefix("aten::")
    if not ((products and _PRODUCT.search(name)) or (cudnn and _CUDNN.search(name))):
        return False
    return any(
        ref.device.startswith("cuda") and ref.dtype in ("float32", "complex64")
        for ref in (*op.args, *op.outputs)
        if isinstance(ref, TensorRef)
    )


def tensor_float_nodes(nodes: Iterable[NodeRecord]) -> frozenset[int]:
    """Keys of the nodes whose operations may have used tensor cores, now."""
    allowed = tensor_float_allowed()
    if not any(allowed):
        return frozenset()
    return frozenset(node.key for node in nodes if any(uses_tensor_float(op, allowed) for op in node.ops))

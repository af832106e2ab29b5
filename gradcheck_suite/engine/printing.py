"""Tensors and graphs as text for a reader."""

from __future__ import annotations

from typing import Any

import numpy as np

from .tape import Leaf, Node, reached
from .tensor import Tensor


def summary(tensor: Tensor) -> str:
    """`repr` of a tensor: its values as NumPy prints them, and what is special about it."""
    body = np.array2string(tensor.data, prefix="Tensor(", separator=", ", threshold=50, precision=4)
    parts = [f"Tensor({body}"]
    if tensor.dtype != np.float64:
        parts.append(f"dtype={tensor.dtype}")
    if tensor.label is not None:
        parts.append(f"label={tensor.label!r}")
    if tensor.grad_fn is not None:
        parts.append(f"grad_fn={tensor.grad_fn.name}")
    elif tensor.requires_grad:
        parts.append("requires_grad=True")
    return ", ".join(parts) + ")"


def render(tensor: Tensor) -> str:
    """The graph behind a tensor, one line per node in the order of execution.

    Each line has a number, the label, the operation with the numbers of its inputs ("." for a
    constant), shape and dtype, the value of a scalar, and the gradient where one has been kept.
    """
    if not tensor.requires_grad:
        return f"{summary(tensor)}  (no graph: it does not require grad)"
    nodes = reached([tensor._gradient_edge()[0]])
    numbers = {node: f"%{i}" for i, node in enumerate(nodes)}
    rows = [_row(node, numbers) for node in nodes]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths)), *filter(None, row[3:])]).rstrip()
        for row in rows
    )


def _row(node: Node, numbers: dict[Node, str]) -> list[str]:
    label = node.label
    value = node.value
    gradient = None
    if isinstance(node, Leaf):
        label = node.tensor.label
        value = node.tensor.data
        gradient = node.tensor.grad
        operation = "leaf"
    else:
        inputs = ", ".join(_source(edge, numbers) for edge in node.edges)
        operation = f"{node.name}({inputs})"
        for reference in (node.retained or {}).values():
            kept = reference()
            gradient = kept.grad if kept is not None and kept.grad is not None else gradient
    metas = " ".join(f"{list(shape)} {dtype}" for shape, dtype in node.metas)
    row = [numbers[node], label or "", operation, metas]
    if value is not None and value.ndim == 0:
        row.append(f"= {_number(value)}")
    if gradient is not None:
        row.append(
            f"grad = {_number(gradient.data)}" if gradient.ndim == 0 else f"grad: {list(gradient.shape)}"
        )
    return row


def _source(edge: Any, numbers: dict[Node, str]) -> str:
    if edge is None:
        return "."
    node, index = edge
    return numbers[node] if len(node.metas) == 1 else f"{numbers[node]}[{index}]"


def _number(value: np.ndarray[Any, Any]) -> str:
    return f"{value.item():.6g}"

"""A script that shows a wrong gradient of one operation of torch, with nothing but torch.

What a bug report needs: the operation, its arguments with shapes, dtypes and strides, what autograd returns for one
element, and what the operation really does there.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from ..evidence import Array, Comparison, NodeRecord, OpRecord, TensorRef

__all__ = ["reproduce"]

_MOST_INLINE = 64
_DTYPE = re.compile(r"bool|(u?int|float|bfloat|complex)\d+(_\w+)?")
_FLOATS = ("float64", "float32", "float16", "bfloat16")


def reproduce(node: NodeRecord, comparison: Comparison, position: int) -> str:
    """A self-contained script of under 30 lines, or "" where the node cannot be told apart from its surroundings.

    Args:
        node: one operation of torch (no custom Function, no write through a view).
        comparison: the disagreement.
        position: which returned gradient is wrong.
    """
    if node.role != "op" or len(node.ops) != 1 or position >= len(node.inputs):
        return ""
    op, wrong = node.ops[0], node.inputs[position]
    if wrong is None or wrong.dtype not in _FLOATS or op.name.count("::") != 1:
        return ""
    writer = _Writer(wrong)
    arguments = [writer.value(a) for a in op.args]
    arguments += [f"{name}={writer.value(value)}" for name, value in op.kwargs.items()]
    slot = next((s for s, c in enumerate(node.cotangents) if c is not None), 0)
    output = node.outputs[slot] if slot < len(node.outputs) else None
    if output is None:
        return ""
    several = len(op.outputs) > 1
    cotangent = node.cotangents[slot]
    lines = [
        f"# the backward of {op.name} disagrees with differences of its forward",
        "import torch",
        "torch.manual_seed(0)",
        *writer.lines,
        f"cotangent = {_tensor_text(_contents(cotangent.array() if cotangent is not None else None), output)}",
        "",
        "def forward(x):",
        f"    out = {_callable(op)}({', '.join(arguments)})",
        f"    return out[{slot}]" if several else "    return out",
        "",
        "leaf = argument.clone().requires_grad_()",
        "(gradient,) = torch.autograd.grad(forward(leaf), leaf, cotangent)",
        f"index, h = {comparison.index!r}, {_step(wrong)!r}",
        "plus, minus = argument.clone(), argument.clone()",
        "plus[index] += h",
        "minus[index] -= h",
        "change = ((forward(plus) - forward(minus)).double() * cotangent.double()).sum()",
        'print("autograd   ", gradient[index].item())',
        'print("differences", (change / (plus[index] - minus[index]).double()).item())',
    ]
    return "\n".join(lines) + "\n"


def _step(ref: TensorRef) -> float:
    return 1e-6 if ref.dtype == "float64" else 1e-2


def _callable(op: OpRecord) -> str:
    namespace, _, rest = op.name.partition("::")
    name, _, overload = rest.partition(".")
    name = name.removesuffix("_") if op.written and name.endswith("_") else name
    return f"torch.ops.{namespace}.{name}.{overload or 'default'}"


class _Writer:
    """Turns arguments into source text; tensors become variables, the one in question the name ``x``."""

    def __init__(self, wrong: TensorRef) -> None:
        self._wrong = wrong
        self.lines: list[str] = []

    def value(self, value: Any) -> str:
        if isinstance(value, TensorRef):
            if value is self._wrong:
                self.lines.append(f"argument = {_tensor_text(_contents(value.source.array()), value)}")
                return "x"
            name = f"t{len(self.lines)}"
            self.lines.append(f"{name} = {_tensor_text(_contents(value.source.array()), value)}")
            return name
        if isinstance(value, list | tuple):
            return "[" + ", ".join(self.value(v) for v in value) + "]"
        if isinstance(value, str):
            if value.startswith("torch."):
                return value
            # A dtype, or a choice such as approximate="tanh".
            return f"torch.{value}" if _DTYPE.fullmatch(value) else repr(value)
        if isinstance(value, float) and not np.isfinite(value):
            return f"float('{value}')"
        return repr(value)


def _contents(array: Array | None) -> Array | None:
    return array if array is not None and array.size <= _MOST_INLINE and np.isfinite(array).all() else None


def _tensor_text(values: Array | None, ref: TensorRef) -> str:
    """An expression that makes a tensor of the recorded shape, dtype and strides."""
    dtype = f"torch.{ref.dtype}"
    shape = list(ref.shape)
    if values is not None:
        text = f"torch.tensor({values.tolist()!r}, dtype={dtype})"
        text = text if values.size else f"torch.empty({shape}, dtype={dtype})"
    elif ref.dtype in _FLOATS:
        text = f"torch.randn({shape}, dtype=torch.float64).to({dtype})"
    elif ref.dtype.startswith("complex"):
        text = f"torch.randn({shape}, dtype={dtype})"
    else:
        array = ref.source.array()
        high = int(array.max()) + 1 if array.size else 1
        text = f"torch.randint({max(high, 1)}, {shape}).to({dtype})"
    if ref.shape and not ref.strides:
        return f"{text}.to_sparse()"
    if ref.shape and ref.strides != _contiguous(ref.shape):
        order = sorted(range(len(shape)), key=lambda axis: -ref.strides[axis])
        inverse = [order.index(axis) for axis in range(len(order))]
        text = f"{text}.permute({order}).contiguous().permute({inverse})"
    return text


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides: list[int] = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))

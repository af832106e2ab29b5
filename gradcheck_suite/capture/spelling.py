"""Tensors and calls as runnable Python: what a report prints so that an input can be made again.

Shape, strides, storage offset, dtype and every bit of the values are spelled out, since each of them may be what makes
a gradient wrong.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["expression", "script", "tensors_in"]

MOST_ELEMENTS = 20_000
"""Beyond this a script would be no help to a reader, and the seed finds the input again."""

_CONSTANT = 8  # so many equal elements are written as torch.full


def expression(value: Any) -> str:
    """Python source that makes ``value`` again: tensors, arrays, numbers, and containers of them.

    ``torch``, ``np`` and ``float`` are the names it uses. What is none of these is written as its ``repr``.
    """
    if isinstance(value, Tensor):
        return _tensor(value)
    if isinstance(value, np.ndarray):
        return f"np.array({value.tolist()!r}, dtype=np.{value.dtype})"
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {expression(item)}" for key, item in value.items()) + "}"
    if type(value) is list:
        return "[" + ", ".join(map(expression, value)) + "]"
    if type(value) is tuple:
        inside = ", ".join(map(expression, value))
        return f"({inside},)" if len(value) == 1 else f"({inside})"
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        inside = ", ".join(f"{name}={expression(getattr(value, name))}" for name in value._fields)
        return f"{type(value).__name__}({inside})"
    return repr(value)


def tensors_in(value: Any) -> list[Tensor]:
    """Every tensor in containers and dataclasses, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [tensor for item in value.values() for tensor in tensors_in(item)]
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in tensors_in(item)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [t for f in dataclasses.fields(value) for t in tensors_in(getattr(value, f.name, None))]
    return []


def script(model: Callable[..., Any], inputs: Any, kwargs: Mapping[str, Any], seed: int) -> str:
    """A script that checks ``model`` at these inputs; the inputs alone stand at its top, one a line.

    A function that can be imported is imported; of anything else the script says what it was.
    """
    lines = ["import torch", "from gradcheck_suite import check_gradients"]
    if any(isinstance(item, np.ndarray) for item in _items(inputs) + _items(kwargs)):
        lines.insert(0, "import numpy as np")
    name, where = _named(model)
    lines += [where, ""]
    if isinstance(inputs, Tensor):
        lines.append(f"x = {expression(inputs)}")
        call = "x"
    elif type(inputs) in (tuple, list) and inputs:
        names = [f"x{i}" for i in range(len(inputs))]
        lines += [f"{n} = {expression(item)}" for n, item in zip(names, inputs)]
        call = "(" + ", ".join(names) + ("," if len(names) == 1 else "") + ")"
        call = call if type(inputs) is tuple else f"list({call})"
    else:
        lines.append(f"inputs = {expression(inputs)}")
        call = "inputs"
    if kwargs:
        lines.append(f"kwargs = {expression(dict(kwargs))}")
    tail = ", kwargs=kwargs" if kwargs else ""
    tail += f", seed={seed}" if seed else ""
    lines.append(f"check_gradients({name}, {call}{tail}).raise_for_findings()")
    return "\n".join(lines) + "\n"


def _items(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return [leaf for item in value.values() for leaf in _items(item)]
    if isinstance(value, (list, tuple)):
        return [leaf for item in value for leaf in _items(item)]
    return [value]


def _named(model: Callable[..., Any]) -> tuple[str, str]:
    """The name that the script uses, and the line that makes it or says what it was."""
    if isinstance(model, nn.Module):
        return "model", f"# model: the {type(model).__name__} that was checked"
    qualified = getattr(model, "__qualname__", "")
    module = getattr(model, "__module__", None)
    if qualified.isidentifier() and module not in (None, "__main__", "builtins") and "torch._C" not in module:
        return qualified, f"from {module} import {qualified}"
    told = qualified or type(model).__name__
    return "function", f"# function: {told}, which was checked"


# ---------------------------------------------------------------------------------------------------- tensors


def _tensor(tensor: Tensor) -> str:
    if tensor.is_conj():
        return f"{_tensor(tensor.conj())}.conj()"
    flat = tensor.detach().resolve_neg().cpu()
    text = _strided(flat)
    if tensor.device.type != "cpu":
        text += f".to({str(tensor.device)!r})"
    if tensor.requires_grad and tensor.is_leaf:
        text += ".requires_grad_()"
    return text


def _strided(tensor: Tensor) -> str:
    """The layout around the values: the shortest way to the same strides and offset."""
    shape, strides, offset = tuple(tensor.shape), tensor.stride(), tensor.storage_offset()
    if tensor.numel() == 0:
        if tensor.is_contiguous():
            return f"torch.empty({shape}, dtype={tensor.dtype})"
        return f"torch.empty_strided({shape}, {strides}, dtype={tensor.dtype})"
    if offset == 0:
        if tensor.is_contiguous():
            return _contiguous(tensor)
        wide = [dim for dim, (n, s) in enumerate(zip(shape, strides)) if s == 0 and n > 1]
        if wide:
            compact = tensor
            for dim in wide:
                compact = compact.narrow(dim, 0, 1)
            return f"{_strided(compact)}.expand({_sizes(shape)})"
        order = sorted(range(len(shape)), key=lambda dim: -strides[dim])
        packed = tensor.permute(order)
        if packed.is_contiguous():
            if len(shape) == 2:
                return f"{_contiguous(packed)}.t()"
            inverse = [order.index(dim) for dim in range(len(order))]
            return f"{_contiguous(packed)}.permute({_sizes(inverse)})"
    reach = offset + 1 + sum(stride * (size - 1) for size, stride in zip(shape, strides))
    memory = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage(), 0, (reach,), (1,))
    text = _contiguous(memory)
    if not tensor.is_contiguous():
        return f"{text}.as_strided({shape}, {strides}, {offset})"
    if not shape:
        return f"{text}[{offset}]"
    return f"{text}[{offset}:]" if len(shape) == 1 else f"{text}[{offset}:].view({_sizes(shape)})"


def _sizes(sizes: Sequence[int]) -> str:
    return ", ".join(map(str, sizes))


def _contiguous(tensor: Tensor) -> str:
    if tensor.numel() > _CONSTANT:
        texts = {_number(value) for value in _values(tensor.reshape(-1))}
        if len(texts) == 1:
            return f"torch.full({tuple(tensor.shape)}, {texts.pop()}, dtype={tensor.dtype})"
    return f"torch.tensor({_nested(_values(tensor))}, dtype={tensor.dtype})"


def _values(tensor: Tensor) -> Any:
    """Nested lists; of the floats narrower than float64 the shortest decimals that read back as the same value."""
    if tensor.dtype in (torch.float32, torch.float16, torch.bfloat16):
        array = tensor.float().numpy()
        short = [float(str(value)) for value in array.reshape(-1)]
        return np.array(short, dtype=np.float64).reshape(array.shape).tolist()
    return tensor.tolist()


def _nested(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_nested, value)) + "]"
    return _number(value)


def _number(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return f"float('{value}')"
    if isinstance(value, complex):
        # The literal 1-0j loses the sign of its zero.
        return f"complex({_number(value.real)}, {_number(value.imag)})"
    return repr(value)

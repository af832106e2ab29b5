"""Runs one example in torch and in the engine and prints the numbers next to each other.

The two systems share the names that the examples use (`tensor`, `backward`, `no_grad`, `detach`, ...), so
an example is one function of the system: what runs in the engine is the text that runs in torch. The few
names that differ are translated here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from gradcheck_suite import engine

SYSTEMS: dict[str, Any] = {"torch": torch, "engine": engine}


def numbers(value: Any) -> Any:
    """Tensors of either system, also inside dicts and sequences, as Python numbers and nested lists."""
    if isinstance(value, dict):
        return {key: numbers(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [numbers(item) for item in value]
    if isinstance(value, (torch.Tensor, engine.Tensor)):
        return value.detach().numpy().tolist()
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    return value


def run_both(example: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """`example(system, *arguments)` for each system, as plain numbers."""
    return {name: numbers(example(system, *arguments)) for name, system in SYSTEMS.items()}


def gradient(system: Any, output: Any, inputs: Any, **options: Any) -> Any:
    """`torch.autograd.grad` or `engine.grad`: the gradient of one input, or a tuple for a sequence."""
    grad = torch.autograd.grad if system is torch else system.grad
    found = grad(output, inputs, **options)
    return found if isinstance(inputs, (list, tuple)) else found[0]


def operation(tensor: Any) -> str | None:
    """Name of the operation that made a tensor; None for a leaf."""
    if tensor.grad_fn is None:
        return None
    name = tensor.grad_fn.name
    return str(name() if callable(name) else name)


def array(system: Any, values: Any, requires_grad: bool = False) -> Any:
    """A float64 tensor with its own copy of `values`: both systems then compute with the same numbers."""
    own = np.array(values, dtype=np.float64)
    return system.tensor(own, requires_grad=requires_grad)


def show(title: str, results: dict[str, Any]) -> None:
    """Print what `run_both` returned: one line per quantity, one column per system."""
    print(title)
    columns = {name: result if isinstance(result, dict) else {"": result} for name, result in results.items()}
    quantities = list(next(iter(columns.values())))
    width = max(len(quantity) for quantity in quantities)
    for quantity in quantities:
        cells = [f"{name}: {brief(column[quantity])}" for name, column in columns.items()]
        print(f"  {quantity.ljust(width)}  " + "   ".join(cells))


def brief(value: Any) -> str:
    """A value in a few characters: short decimals, the ends of a long list."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        if value and isinstance(value[0], list) and len(value) * len(value[0]) > 8:
            return f"[{brief(value[0][0])}, ... {brief(value[-1][-1])}] ({len(value)} x {len(value[0])})"
        if len(value) > 8:
            return f"[{brief(value[0])}, {brief(value[1])}, ... {brief(value[-1])}] ({len(value)})"
        return "[" + ", ".join(brief(item) for item in value) + "]"
    return str(value)

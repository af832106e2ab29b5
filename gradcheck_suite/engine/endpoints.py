"""Where a differentiation starts and ends: outputs with their cotangents, and inputs that ask for a gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .errors import EngineError
from .registry import PRIMITIVES
from .tape import run_backward
from .tensor import Tensor, describe, wrap


def backward_from(
    output: Tensor,
    cotangent: Tensor | ArrayLike | None,
    retain_graph: bool | None,
    create_graph: bool,
    inputs: Tensor | Sequence[Tensor] | None,
) -> None:
    """What `Tensor.backward` does; see there."""
    if not output._requires_grad:
        raise EngineError(
            f"backward from {describe(output)} failed: it does not require grad and has no grad_fn. No "
            f"tensor that requires grad took part in it, or recording was off. Set requires_grad on the "
            f"inputs before computing."
        )
    roots = [(output._gradient_edge(), initial_cotangent(output, cotangent))]
    retain = create_graph if retain_graph is None else retain_graph
    if inputs is None:
        run_backward(roots, None, retain_graph=retain, create_graph=create_graph)
        return
    chosen = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    for tensor in chosen:
        require_input(tensor, "backward")
    edges = [tensor._gradient_edge() for tensor in chosen]
    found = run_backward(roots, edges, retain_graph=retain, create_graph=create_graph)
    for tensor, gradient in zip(chosen, found):
        if gradient is not None:
            tensor._accumulate(gradient, create_graph, False)


def require_input(subject: Any, attempt: str) -> None:
    """Raise EngineError unless `subject` can be an input of a differentiation."""
    if not isinstance(subject, Tensor):
        raise EngineError(
            f"{attempt} failed: an input is a {type(subject).__name__}, not a Tensor. Only tensors carry "
            f"gradients. Wrap it with Tensor(..., requires_grad=True) before computing."
        )
    if not subject._requires_grad:
        raise EngineError(
            f"{attempt} failed: {describe(subject)} does not require grad. Nothing about it was recorded. "
            f"Set requires_grad on it before computing."
        )


def initial_cotangent(output: Tensor, cotangent: Tensor | ArrayLike | None) -> Tensor:
    """The given cotangent, checked against `output`; one for a single real element."""
    if cotangent is None:
        if output.data.size != 1 or output.data.dtype.kind == "c":
            raise EngineError(
                f"backward from {describe(output)} failed: no cotangent was given. Only a single real element "
                f"has an obvious one, 1. Pass a cotangent of shape {output.data.shape}, or reduce to a real "
                f"scalar first."
            )
        return wrap(np.ones(output.data.shape, output.data.dtype))
    given = cotangent if isinstance(cotangent, Tensor) else Tensor(cotangent)
    if given.data.shape != output.data.shape:
        raise EngineError(
            f"backward from {describe(output)} failed: the cotangent has shape {given.data.shape}. There is "
            f"one cotangent element per output element. Pass one of shape {output.data.shape}."
        )
    if given.data.dtype.kind == "c" and output.data.dtype.kind != "c":
        raise EngineError(
            f"backward from {describe(output)} failed: the cotangent is complex ({given.data.dtype}). A real "
            f"output has a real cotangent. Pass its real part."
        )
    if given.data.dtype != output.data.dtype:
        given = PRIMITIVES["cast"](given, dtype=output.data.dtype.name)
    return given

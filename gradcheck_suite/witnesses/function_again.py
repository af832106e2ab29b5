"""A custom Function called once more, forward and backward, with its recorded arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..capture.state import rng_frozen
from ..capture.values import TensorValue
from ..evidence import Array, TensorRef
from .backward_call import BackwardCall
from .case import Case
from .sums import reduced

__all__ = ["CalledAgain", "call_again"]


@dataclass(frozen=True, eq=False)
class CalledAgain:
    """What came of it.

    Attributes:
        gradients: by position among ``apply``'s arguments.
        outputs: by slot, those that a cotangent was given for.
        error: what was raised, or None.
        in_backward: whether the backward raised it.
    """

    gradients: Mapping[int, Array] = field(default_factory=dict)
    outputs: Mapping[int, Tensor] = field(default_factory=dict)
    error: Exception | None = None
    in_backward: bool = False


def call_again(
    case: Case, call: BackwardCall, cotangents: Mapping[int, Tensor], only: int | None
) -> CalledAgain | None:
    """Apply the Function to copies of what it was applied to.

    Args:
        case: its recorder knows the arguments.
        call: the recorded node.
        cotangents: by output.
        only: the one argument that requires grad; None for all that did.

    Returns:
        None where the arguments were not kept (objects that may hold a graph), or nothing differentiable came out.
    """
    origin = case.run.recorder.origin_of(call.node)
    count = len(call.node.needs_input_grad)
    if origin is None or origin.arguments is None or len(origin.arguments) < count:
        return None
    wanted = [position for position, _ in call.wanted if only is None or position == only]
    leaves: dict[int, Tensor] = {}
    given: list[Any] = []
    for position, value in enumerate(origin.arguments[:count]):
        if not isinstance(value, TensorRef):
            given.append(value)
            continue
        if not isinstance(value.source, TensorValue):
            return None
        tensor = value.source.tensor.detach().clone()
        if position in wanted:
            leaves[position] = tensor.requires_grad_()
            tensor = tensor.clone()  # a Function may write into it, which a leaf forbids
        given.append(tensor)
    if len(leaves) != len(wanted):
        return None
    with rng_frozen(call.seed), torch.enable_grad():
        try:
            output = call.node._forward_cls.apply(*given)
        except Exception as error:  # whatever the user's forward raises
            return CalledAgain(error=error)
        outputs = output if isinstance(output, tuple) else (output,)
        used = [
            (slot, outputs[slot], cotangent.clone())
            for slot, cotangent in cotangents.items()
            if slot < len(outputs) and isinstance(outputs[slot], Tensor) and outputs[slot].requires_grad
        ]
        if not used or any(o.shape != c.shape or o.dtype is not c.dtype for _, o, c in used):
            return None
        try:
            found = torch.autograd.grad(
                [o for _, o, _ in used],
                list(leaves.values()),
                [c for _, _, c in used],
                allow_unused=True,
            )
        except Exception as error:  # whatever the user's backward raises
            return CalledAgain(error=error, in_backward=True)
    gradients = {
        position: reduced(TensorValue(g.detach()).wide(), tuple(leaves[position].shape))
        for position, g in zip(leaves, found)
        if g is not None
    }
    return CalledAgain(gradients, {slot: o.detach() for slot, o, _ in used})

"""Inference without a graph, detached loss values, checkpointing (recompute, save memory), clipping."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from side_by_side import array, gradient, operation, run_both, show
from torch.utils.checkpoint import checkpoint

from gradcheck_suite import engine


def block(x: Any, w: Any) -> Any:
    """A piece of a network that is worth recomputing."""
    return ((x @ w).tanh() @ w).tanh()


def operands(system: Any) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    return (
        array(system, rng.standard_normal((4, 6)), requires_grad=True),
        array(system, rng.standard_normal((6, 6)) / 2, requires_grad=True),
    )


def inference(system: Any) -> dict[str, Any]:
    """A model evaluated under no_grad leaves no graph."""
    x, w = operands(system)
    with system.no_grad():
        output = block(x, w)
    return {"requires_grad": output.requires_grad, "made by": operation(output)}


def detached_loss(system: Any) -> dict[str, Any]:
    """`loss.detach().item()` is a plain number for the log."""
    x, w = operands(system)
    loss = (block(x, w) ** 2).mean()
    value = loss.detach().item()
    return {"type": type(value).__name__, "value": value, "loss still has a graph": loss.requires_grad}


class EngineCheckpoint(engine.Function):
    """Runs `block` unrecorded and records it only when backward needs it."""

    @staticmethod
    def forward(ctx: Any, x: Any, w: Any) -> Any:
        ctx.save_for_backward(x, w)
        return block(x, w)

    @staticmethod
    def backward(ctx: Any, cotangent: Any) -> Any:
        x, w = (t.detach().requires_grad_() for t in ctx.saved_tensors)
        with engine.enable_grad():
            out = block(x, w)
        return engine.grad(out, (x, w), cotangent)


def checkpointed(system: Any) -> dict[str, Any]:
    """The gradients with and without checkpointing are the same."""
    x, w = operands(system)
    plain = gradient(system, (block(x, w) ** 2).mean(), (x, w))
    out = checkpoint(block, x, w, use_reentrant=False) if system is torch else EngineCheckpoint.apply(x, w)
    recomputed = gradient(system, (out**2).mean(), (x, w))
    return {"x": plain[0], "x, checkpointed": recomputed[0], "w": plain[1], "w, checkpointed": recomputed[1]}


def price_of_checkpointing() -> dict[str, int]:
    """Operations of the engine: checkpointing runs the forward of the block once more."""
    found = {}
    for name, function in (
        ("plain", block),
        ("checkpointed", EngineCheckpoint.apply),
        ("block alone", block),
    ):
        x, w = operands(engine)
        with engine.op_count() as count:
            out = function(x, w)
            if name != "block alone":
                (out**2).mean().backward()
        found[name] = count.total
    return found


def clipped(system: Any, max_norm: float = 1.0) -> dict[str, Any]:
    """All gradients scaled by one factor, so that their common norm is at most `max_norm`."""
    x, w = operands(system)
    (5 * block(x, w) ** 2).sum().backward()
    before = math.sqrt(sum(float((p.grad.detach() ** 2).sum()) for p in (x, w)))
    if system is torch:
        reported = torch.nn.utils.clip_grad_norm_([x, w], max_norm=max_norm).item()
    else:
        reported = before
        factor = min(1.0, max_norm / (before + 1e-6))  # the 1e-6 is torch's guard against a zero norm
        for p in (x, w):
            p.grad *= factor
    after = math.sqrt(sum(float((p.grad.detach() ** 2).sum()) for p in (x, w)))
    return {"norm before": before, "norm reported": reported, "norm after": after, "x.grad": x.grad}


def main() -> None:
    show("inference", run_both(inference))
    show("a detached loss", run_both(detached_loss))
    show("checkpointing", run_both(checkpointed))
    print(f"operations: {price_of_checkpointing()}")
    show("clipping to norm 1", run_both(clipped))


if __name__ == "__main__":
    main()

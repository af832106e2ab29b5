"""MySquare: an operation with a hand-written backward, the same text in torch and in the engine."""

from __future__ import annotations

from typing import Any

import torch
from side_by_side import array, operation, run_both, show

from gradcheck_suite import engine


class TorchSquare(torch.autograd.Function):
    """x^2 with its derivative 2 x written by hand."""

    @staticmethod
    def forward(ctx: Any, input: Any) -> Any:
        ctx.save_for_backward(input)
        return input**2

    @staticmethod
    def backward(ctx: Any, grad_output: Any) -> Any:
        (input,) = ctx.saved_tensors
        return grad_output * 2 * input


class EngineSquare(engine.Function):
    """The same on the engine's tensors."""

    @staticmethod
    def forward(ctx: Any, input: Any) -> Any:
        ctx.save_for_backward(input)
        return input**2

    @staticmethod
    def backward(ctx: Any, grad_output: Any) -> Any:
        (input,) = ctx.saved_tensors
        return grad_output * 2 * input


def my_square(system: Any) -> Any:
    """The Function of a system."""
    return TorchSquare if system is torch else EngineSquare


def custom_square(system: Any) -> dict[str, Any]:
    """x = 3: y = 9, dy/dx = 2 * 3 = 6; the graph holds the Function, not the power inside it."""
    x = system.tensor([3.0], requires_grad=True)
    square = my_square(system).apply
    y = square(x)
    y.backward()
    return {"x": x, "y": y, "dy/dx": x.grad, "made by": operation(y)}


def inside_a_larger_graph(system: Any) -> dict[str, Any]:
    """sin(MySquare(x)) against sin(x * x): the gradient, and the gradient of the gradient."""
    found = {}
    square = my_square(system).apply
    for name, function in (("MySquare", square), ("x * x", lambda x: x * x)):
        x = array(system, [0.5, -1.5], requires_grad=True)
        grad = torch.autograd.grad if system is torch else system.grad
        (first,) = grad(function(x).sin().sum(), x, create_graph=True)
        (second,) = grad(first.sum(), x)
        found[name] = first
        found[f"{name}, second"] = second
    return found


def main() -> None:
    show("MySquare at 3", run_both(custom_square))
    show("sin(MySquare(x))", run_both(inside_a_larger_graph))


if __name__ == "__main__":
    main()

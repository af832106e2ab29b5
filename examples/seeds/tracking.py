"""What is recorded and what is not: requires_grad, leaves, retained gradients, no_grad, detach."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from side_by_side import numbers, operation, run_both, show


def enabling(system: Any) -> dict[str, Any]:
    """Tracking is off by default, on at creation or later."""
    a = system.tensor([1.0, 2.0, 3.0])
    before = a.requires_grad
    b = system.tensor([1.0, 2.0], requires_grad=True)
    a.requires_grad_(True)
    after = a.requires_grad
    a = a.requires_grad_(True)
    return {"default": before, "at creation": b.requires_grad, "in place": after, "returned": a.requires_grad}


def enabling_with_leaf(system: Any) -> dict[str, Any]:
    """A fresh tensor that requires grad is a leaf without a gradient."""
    x = system.tensor([2.0, 3.0], requires_grad=True)
    y = system.tensor([1.0, 2.0])
    before = y.requires_grad
    y.requires_grad_(True)
    return {
        "x": x,
        "x.requires_grad": x.requires_grad,
        "x.is_leaf": x.is_leaf,
        "x.grad": x.grad,
        "y before": before,
        "y now": y.requires_grad,
    }


def what_is_tracked(system: Any) -> dict[str, Any]:
    """y = x^2, z = 3 y: every result knows the operation that made it."""
    x = system.tensor([2.0], requires_grad=True)
    y = x**2
    z = y * 3
    return {"y": y, "z": z, "y made by": operation(y), "z made by": operation(z)}


def only_floats(system: Any) -> dict[str, Any]:
    """Integers have no derivative; asking is an error."""
    try:
        system.tensor([1, 2], requires_grad=True)
    except RuntimeError as error:
        return {"error": str(error)}
    return {"error": None}


def linear_then_square(system: Any) -> dict[str, Any]:
    """y = w x + b = 7, z = y^2 = 49, and which operation made each."""
    x = system.tensor([2.0], requires_grad=True)
    w = system.tensor([3.0], requires_grad=True)
    b = system.tensor([1.0], requires_grad=True)
    y = w * x + b
    z = y**2
    return {"y": y, "z": z, "z made by": operation(z), "y made by": operation(y), "x made by": operation(x)}


def leaves(system: Any) -> dict[str, Any]:
    """Only leaves keep their gradients by default."""
    x = system.tensor([1.0], requires_grad=True)
    y = x * 2
    z = y + 3
    z.backward()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns when .grad of a non-leaf is read: that is the example
        return {
            "x.is_leaf": x.is_leaf,
            "y.is_leaf": y.is_leaf,
            "z.is_leaf": z.is_leaf,
            "x.grad": x.grad,
            "y.grad": y.grad,
            "z.grad": z.grad,
        }


def retained(system: Any) -> dict[str, Any]:
    """y = x^2 with retain_grad, z = y^3 at x = 2: dz/dy = 3 y^2 = 48, dz/dx = 192."""
    x = system.tensor([2.0], requires_grad=True)
    y = x**2
    y.retain_grad()
    z = y**3
    z.backward()
    return {"x.grad": x.grad, "y.grad": y.grad}


def inside_no_grad(system: Any) -> dict[str, Any]:
    """Tracked, not tracked inside no_grad, tracked again."""
    x = system.tensor([1.0, 2.0, 3.0], requires_grad=True)
    y = x**2
    with system.no_grad():
        z = x**2
    w = x**2
    return {
        "y": y.requires_grad,
        "z": z.requires_grad,
        "w": w.requires_grad,
        "z made by": operation(z),
        "values are the same": numbers(y) == numbers(z),
    }


def detached(system: Any) -> dict[str, Any]:
    """detach() shares the data and has no history."""
    x = system.tensor([2.0], requires_grad=True)
    y = x**2
    y_detached = y.detach()
    with system.no_grad():
        y_detached += 1  # visible in y: the same memory
    return {"y": y.requires_grad, "y_detached": y_detached.requires_grad, "y after writing": y}


def backward_through_detached(system: Any) -> dict[str, Any]:
    """Computing on from a detached value leaves nothing to differentiate: backward is an error."""
    x = system.tensor([2.0], requires_grad=True)
    y = x**2
    z = y**3
    y_detached = y.detach()
    w = y_detached * 2
    try:
        w.backward()
    except RuntimeError as error:
        message: str | None = str(error)
    else:
        message = None
    z.backward()  # the original graph is unharmed
    return {
        "y": y.requires_grad,
        "y_detached": y_detached.requires_grad,
        "w": w.requires_grad,
        "error": message,
        "dz/dx": x.grad,
    }


def switched(system: Any) -> dict[str, Any]:
    """set_grad_enabled as a statement. A leaf still may require grad while recording is off."""
    system.set_grad_enabled(False)
    x = system.tensor([1.0], requires_grad=True)
    y = x**2
    system.set_grad_enabled(True)
    z = x**2
    return {"x": x.requires_grad, "y": y.requires_grad, "z": z.requires_grad}


def inference_mode() -> dict[str, Any]:
    """torch only: the engine has no_grad and nothing faster.

    Inside, the flag of an inference tensor can be set but nothing is recorded; outside, setting it and
    using the tensor in a recorded product are errors.
    """
    model = torch.nn.Linear(1, 1)
    x = torch.tensor([2.0], requires_grad=True)
    with torch.inference_mode():
        y = model(x)
        unrecorded = torch.ones(1).requires_grad_() * 2
    found: dict[str, Any] = {
        "y.requires_grad": y.requires_grad,
        "y.is_inference": y.is_inference(),
        "recorded inside": unrecorded.requires_grad,
    }
    for attempt, action in (("enable outside", y.requires_grad_), ("use in a graph", lambda: y * x)):
        try:
            action()
        except RuntimeError as error:
            found[attempt] = str(error).split(".")[0]
        else:
            found[attempt] = None
    return found


def main() -> None:
    show("enabling", run_both(enabling))
    show("enabling, leaf", run_both(enabling_with_leaf))
    show("y = x^2, z = 3 y", run_both(what_is_tracked))
    show("integers", run_both(only_floats))
    show("y = w x + b, z = y^2", run_both(linear_then_square))
    show("leaves", run_both(leaves))
    show("retain_grad", run_both(retained))
    show("no_grad", run_both(inside_no_grad))
    show("detach", run_both(detached))
    show("backward through a detached value", run_both(backward_through_detached))
    show("set_grad_enabled", run_both(switched))
    show("inference_mode (torch only)", {"torch": inference_mode()})


if __name__ == "__main__":
    main()

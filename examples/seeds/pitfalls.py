"""Three common mistakes, and second derivatives, where two of them meet."""

from __future__ import annotations

import warnings
from typing import Any

from side_by_side import numbers, run_both, show

from gradcheck_suite import engine


def in_place_on_leaf(system: Any) -> dict[str, Any]:
    """`x += 1` on a leaf that requires grad is refused at once, not only at backward."""
    x = system.tensor([1.0], requires_grad=True)
    try:
        x += 1
    except RuntimeError as error:
        return {"error": str(error), "x": x}
    return {"error": None, "x": x}


def new_tensor_instead(system: Any) -> dict[str, Any]:
    """`x = x + 1` works, but the name now means a non-leaf: x.grad is None; the leaf got 2 (1 + 1) = 4."""
    leaf = x = system.tensor([1.0], requires_grad=True)
    x = x + 1
    y = x**2
    y.backward()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that x is no leaf any more: that is the surprise
        return {"x.grad": x.grad, "gradient of the leaf": leaf.grad}


def overwritten_saved_tensor(system: Any) -> dict[str, Any]:
    """Writing over a value that backward needs is an error at backward: y^2 saved y."""
    x = system.tensor([3.0], requires_grad=True)
    y = x * 1
    z = y**2
    y.add_(1)
    try:
        z.backward()
    except RuntimeError as error:
        return {"error": str(error), "x.grad": x.grad}
    return {"error": None, "x.grad": x.grad}


def forgetting_to_zero(system: Any) -> dict[str, Any]:
    """x = 2, x^2 three times: 4, then 8 (not cleared), then 4 (cleared)."""
    x = system.tensor([2.0], requires_grad=True)
    history = {}
    y = x**2
    y.backward()
    history["iteration 1"] = x.grad.item()
    y = x**2
    y.backward()
    history["iteration 2"] = x.grad.item()
    x.grad.zero_()
    y = x**2
    y.backward()
    history["iteration 3"] = x.grad.item()
    return history


def two_backwards(system: Any) -> dict[str, Any]:
    """With retain_graph=True the graph serves twice: 4 and 4."""
    x = system.tensor([2.0], requires_grad=True)
    y = x**2
    y.backward(retain_graph=True)
    first = x.grad.item()
    x.grad.zero_()
    y.backward()
    return {"first": first, "second": x.grad.item()}


def two_backwards_without_retaining(system: Any) -> dict[str, Any]:
    """Without it the second backward is an error, and the gradient stays what the first one left."""
    x = system.tensor([2.0], requires_grad=True)
    y = x**2
    y.backward()
    try:
        y.backward()
    except RuntimeError as error:
        return {"error": str(error), "x.grad": x.grad.item()}
    return {"error": None, "x.grad": x.grad.item()}


def second_derivative(system: Any) -> dict[str, Any]:
    """y = x^3 at 2: 3 x^2 = 12 and 6 x = 12, the second by a backward through the first."""
    x = system.tensor([2.0], requires_grad=True)
    y = x**3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of the reference cycle x -> x.grad -> x
        y.backward(create_graph=True)
    first_grad = x.grad.clone()
    x.grad.zero_()
    first_grad.backward()
    second_grad = x.grad
    found = numbers({"first": first_grad, "second": second_grad})
    x.grad = None  # breaks that cycle
    return found


def kinds_of_error() -> dict[str, str]:
    """The engine tells its errors apart by type; in torch all of them are RuntimeError."""
    found = {}
    x = engine.tensor([2.0], requires_grad=True)
    y = x * 1
    z = y**2
    y.add_(1)
    for name, attempt in (("overwritten", z.backward), ("leaf", lambda: x.add_(1))):
        try:
            attempt()
        except engine.EngineError as error:
            found[name] = type(error).__name__
    z = x**2
    z.backward()
    try:
        z.backward()
    except engine.EngineError as error:
        found["freed"] = type(error).__name__
    return found


def main() -> None:
    show("pitfall 1: x += 1 on a leaf", run_both(in_place_on_leaf))
    show("pitfall 1: x = x + 1 instead", run_both(new_tensor_instead))
    show("pitfall 1: a saved tensor overwritten", run_both(overwritten_saved_tensor))
    show("pitfall 2: forgetting to zero", run_both(forgetting_to_zero))
    show("pitfall 3: two backwards, graph retained", run_both(two_backwards))
    show("pitfall 3: two backwards, graph freed", run_both(two_backwards_without_retaining))
    show("second derivative of x^3 at 2", run_both(second_derivative))
    show(
        "types of error",
        {"engine": kinds_of_error(), "torch": dict.fromkeys(kinds_of_error(), "RuntimeError")},
    )


if __name__ == "__main__":
    main()

"""Gradients add up over backward calls, until they are cleared."""

from __future__ import annotations

from typing import Any

from side_by_side import run_both, show


def adding_up(system: Any) -> dict[str, Any]:
    """x = 2: x^2 gives 4; x^3 then adds 12, which makes 16."""
    x = system.tensor([2.0], requires_grad=True)
    y1 = x**2
    y1.backward()
    first = x.grad.item()
    y2 = x**3
    y2.backward()
    return {"first": first, "second": x.grad.item()}


def clearing(system: Any) -> dict[str, Any]:
    """The same with the gradient zeroed in between: 4, then 12."""
    x = system.tensor([2.0], requires_grad=True)
    y1 = x**2
    y1.backward()
    first = x.grad.item()
    x.grad.zero_()
    y2 = x**3
    y2.backward()
    return {"first": first, "second": x.grad.item()}


def clearing_with_none(system: Any) -> dict[str, Any]:
    """`x.grad = None` clears as well."""
    x = system.tensor([2.0], requires_grad=True)
    (x**2).backward()
    x.grad = None
    (x**3).backward()
    return {"second": x.grad.item()}


def three_passes(system: Any) -> dict[str, Any]:
    """x = 3: 6 from x^2, 33 with 27 more from x^3, 0 after zeroing, 6 again."""
    x = system.tensor([3.0], requires_grad=True)
    history = {}
    y1 = x**2
    y1.backward()
    history["after first"] = x.grad.item()
    y2 = x**3
    y2.backward()
    history["after second"] = x.grad.item()
    x.grad.zero_()
    history["after zeroing"] = x.grad.item()
    y3 = x**2
    y3.backward()
    history["after third"] = x.grad.item()
    return history


def mini_batches(system: Any) -> dict[str, Any]:
    """What accumulation is good for: two half batches give the gradient of the whole one."""
    whole = system.tensor([0.5], requires_grad=True)
    x = system.tensor([1.0, 2.0, 3.0, 4.0])
    ((whole * x - 1) ** 2).mean().backward()
    halves = system.tensor([0.5], requires_grad=True)
    for part in (x[:2], x[2:]):
        (((halves * part - 1) ** 2).sum() / 4).backward()
    return {"whole batch": whole.grad.item(), "two halves": halves.grad.item()}


def main() -> None:
    show("x^2, then x^3, at 2", run_both(adding_up))
    show("with zero_() in between", run_both(clearing))
    show("with grad = None in between", run_both(clearing_with_none))
    show("x^2, x^3, zero, x^2, at 3", run_both(three_passes))
    show("mini-batches", run_both(mini_batches))


if __name__ == "__main__":
    main()

"""A scalar engine in forty lines (`Value`, after micrograd), and the same example with labels in ours.

x = 2, w = -3, b = 10: a = x w, y = a + b = 4, dy/dx = w = -3.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from side_by_side import show

from gradcheck_suite import engine


class Value:
    """A number that knows its operands and how to pass a gradient on to them."""

    def __init__(
        self, data: float, _children: tuple[Value, ...] = (), _op: str = "", label: str = ""
    ) -> None:
        self.data = data
        self.grad = 0.0
        self._backward: Callable[[], None] = lambda: None
        self._prev = set(_children)
        self._op = _op
        self.label = label

    def __repr__(self) -> str:
        return f"Value(data={self.data})"

    def __add__(self, other: Any) -> Value:
        other = other if isinstance(other, Value) else Value(other)
        out = Value(self.data + other.data, (self, other), "+")

        def _backward() -> None:
            self.grad += 1.0 * out.grad
            other.grad += 1.0 * out.grad

        out._backward = _backward
        return out

    def __mul__(self, other: Any) -> Value:
        other = other if isinstance(other, Value) else Value(other)
        out = Value(self.data * other.data, (self, other), "*")

        def _backward() -> None:
            self.grad += other.data * out.grad
            other.grad += self.data * out.grad

        out._backward = _backward
        return out

    def backward(self) -> None:
        topo: list[Value] = []
        visited: set[Value] = set()

        def build_topo(v: Value) -> None:
            if v not in visited:
                visited.add(v)
                for child in v._prev:
                    build_topo(child)
                topo.append(v)

        build_topo(self)
        self.grad = 1.0
        for node in reversed(topo):
            node._backward()


def with_value() -> dict[str, Any]:
    """The usage example of the class."""
    x = Value(2.0, label="x")
    w = Value(-3.0, label="w")
    b = Value(10.0, label="b")
    a = x * w
    a.label = "a"
    y = a + b
    y.label = "y"
    y.backward()
    return {"y": y.data, "dy/dx": x.grad, "dy/dw": w.grad, "dy/db": b.grad, "dy/da": a.grad}


def with_tensors(system: Any) -> dict[str, Any]:
    """The same in torch or in the engine; the inner node keeps its gradient only on request."""
    x = system.tensor(2.0, requires_grad=True)
    w = system.tensor(-3.0, requires_grad=True)
    b = system.tensor(10.0, requires_grad=True)
    a = x * w
    a.retain_grad()
    y = a + b
    y.backward()
    return {
        "y": y.item(),
        "dy/dx": x.grad.item(),
        "dy/dw": w.grad.item(),
        "dy/db": b.grad.item(),
        "dy/da": a.grad.item(),
    }


def labelled_graph() -> dict[str, engine.Tensor]:
    """The engine's version with labels, after backward: every tensor by its label.

    `engine.render(graph["y"])` prints it. A retained gradient lives on its tensor, which the graph does
    not keep alive: without `a` in hand, its gradient could not be printed.
    """
    x = engine.tensor(2.0, requires_grad=True, label="x")
    w = engine.tensor(-3.0, requires_grad=True, label="w")
    b = engine.tensor(10.0, requires_grad=True, label="b")
    a = x * w
    a.label = "a"
    a.retain_grad()
    y = a + b
    y.label = "y"
    y.backward()
    return {str(tensor.label): tensor for tensor in (x, w, b, a, y)}


def shared_value(start: float = 3.0) -> dict[str, Any]:
    """A value used twice gets the sum of both uses: y = x x + x, dy/dx = 2 x + 1."""
    x = Value(start)
    y = x * x + x
    y.backward()
    twin = engine.tensor(start, requires_grad=True)
    (twin * twin + twin).backward()
    assert twin.grad is not None
    return {"Value": x.grad, "engine": twin.grad.item()}


def deep_chain(length: int) -> dict[str, Any]:
    """`Value` sorts by recursion and overflows on a deep graph; the engine sorts in a loop."""
    y = x = Value(1.0)
    for _ in range(length):
        y = y + 1.0
    try:
        y.backward()
    except RecursionError:
        by_value: Any = "RecursionError"
    else:
        by_value = x.grad
    leaf = engine.tensor(1.0, requires_grad=True)
    end = leaf
    for _ in range(length):
        end = end + 1.0
    end.backward()
    assert leaf.grad is not None
    return {"Value": by_value, "engine": leaf.grad.item()}


def main() -> None:
    show(
        "y = x w + b",
        {"Value": with_value(), "torch": with_tensors(torch), "engine": with_tensors(engine)},
    )
    print("the engine's graph")
    graph = labelled_graph()
    print(engine.render(graph["y"]))
    print(f"y = x x + x at 3, dy/dx: {shared_value()}")
    depth = 2 * sys.getrecursionlimit()
    print(f"a chain of {depth} additions, dy/dx: {deep_chain(depth)}")


if __name__ == "__main__":
    main()

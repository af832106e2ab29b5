"""y = (x + w) b at x = 2, w = 1, b = 3, one node at a time: values up (3, then 9), gradients down."""

from __future__ import annotations

from typing import Any

from side_by_side import run_both, show

from gradcheck_suite import engine


def forward_steps(system: Any) -> list[tuple[str, Any]]:
    """(node, value) in the order in which values flow up."""
    x, w, b = (system.tensor(value) for value in (2.0, 1.0, 3.0))
    a = x + w
    y = a * b
    return [("x", x), ("w", w), ("b", b), ("a", a), ("y", y)]


def backward_steps(system: Any) -> list[tuple[str, Any]]:
    """(node, gradient) in the order in which gradients flow down: dy/dy = 1 first, then a and b, then x and w."""
    arrived: list[tuple[str, Any]] = []
    nodes = {name: system.tensor(v, requires_grad=True) for name, v in (("x", 2.0), ("w", 1.0), ("b", 3.0))}
    nodes["a"] = nodes["x"] + nodes["w"]
    nodes["y"] = nodes["a"] * nodes["b"]

    def note(name: str) -> Any:
        def hook(gradient: Any) -> None:
            arrived.append((name, gradient.item()))

        return hook

    for name, tensor in nodes.items():
        tensor.register_hook(note(name))
    nodes["y"].backward()
    return arrived


def gradients(system: Any) -> dict[str, Any]:
    """dy/dx = dy/dw = b = 3, dy/db = x + w = 3."""
    return {f"dy/d{name}": gradient for name, gradient in backward_steps(system)}


def printed_graph() -> str:
    """The engine's picture of the graph, gradients included."""
    x = engine.tensor(2.0, requires_grad=True, label="x")
    w = engine.tensor(1.0, requires_grad=True, label="w")
    b = engine.tensor(3.0, requires_grad=True, label="b")
    a = x + w
    a.label = "a"
    y = a * b
    y.label = "y"
    a.retain_grad()
    y.retain_grad()
    y.backward()
    return engine.render(y)


def main() -> None:
    show("forward: values flow up", run_both(lambda system: dict(forward_steps(system))))
    show("backward: gradients flow down", run_both(gradients))
    print(printed_graph())


if __name__ == "__main__":
    main()

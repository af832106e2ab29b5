"""The ReLU neuron a = relu(w x + b) at x = 3, w = 2, b = 1: u = 6, v = 7, a = 7, da/dw = 3, da/db = 1."""

from __future__ import annotations

from typing import Any

from side_by_side import gradient, run_both, show


def forward_pass(system: Any) -> dict[str, Any]:
    """The neuron decomposed: u = w x, v = u + b, a = relu(v)."""
    x, w, b = system.tensor(3.0), system.tensor(2.0), system.tensor(1.0)
    u = w * x
    v = u + b
    a = v.relu()
    return {"u": u, "v": v, "a": a}


def backward_pass(system: Any) -> dict[str, Any]:
    """Gradients of the inputs, and what reached u and v on the way."""
    x = system.tensor(3.0, requires_grad=True)
    w = system.tensor(2.0, requires_grad=True)
    b = system.tensor(1.0, requires_grad=True)
    u = w * x
    v = u + b
    u.retain_grad()
    v.retain_grad()
    a = v.relu()
    a.backward()
    return {"da/dv": v.grad, "da/du": u.grad, "da/dw": w.grad, "da/dx": x.grad, "da/db": b.grad}


def local_derivatives(system: Any) -> dict[str, Any]:
    """Each factor of the chain rule on its own: the derivative of one node by one of its inputs."""
    x = system.tensor(3.0, requires_grad=True)
    w = system.tensor(2.0, requires_grad=True)
    b = system.tensor(1.0, requires_grad=True)
    u = w * x
    v = u + b
    a = v.relu()
    keep = {"retain_graph": True}
    return {
        "da/dv": gradient(system, a, v, **keep),
        "dv/du": gradient(system, v, u, **keep),
        "dv/db": gradient(system, v, b, **keep),
        "du/dw": gradient(system, u, w, **keep),
        "du/dx": gradient(system, u, x, **keep),
    }


def with_grad_function(system: Any) -> dict[str, Any]:
    """The same gradients asked for one at a time; the graph is kept after the first."""
    x = system.tensor(3.0)
    w = system.tensor(2.0, requires_grad=True)
    b = system.tensor(1.0, requires_grad=True)
    a = (x * w + b).relu()
    return {
        "da/dw": gradient(system, a, w, retain_graph=True),
        "da/db": gradient(system, a, b),
    }


def relu_and_derivative(system: Any) -> dict[str, Any]:
    """relu(z) = max(0, z) and its derivative: 1 where z > 0, 0 where z <= 0, the kink included."""
    z = system.tensor([-2.0, -0.5, 0.0, 0.5, 2.0], requires_grad=True)
    value = z.relu()
    value.sum().backward()
    return {"relu": value, "derivative": z.grad}


def inactive_neuron(system: Any) -> dict[str, Any]:
    """With b = -7 the neuron is off (v = -1): no gradient flows."""
    x = system.tensor(3.0, requires_grad=True)
    w = system.tensor(2.0, requires_grad=True)
    b = system.tensor(-7.0, requires_grad=True)
    a = (w * x + b).relu()
    a.backward()
    return {"a": a, "da/dw": w.grad, "da/dx": x.grad, "da/db": b.grad}


def main() -> None:
    show("forward, x = 3, w = 2, b = 1", run_both(forward_pass))
    show("local derivatives", run_both(local_derivatives))
    show("backward", run_both(backward_pass))
    show("with the grad function", run_both(with_grad_function))
    show("relu at -2, -0.5, 0, 0.5, 2", run_both(relu_and_derivative))
    show("inactive neuron, b = -7", run_both(inactive_neuron))


if __name__ == "__main__":
    main()

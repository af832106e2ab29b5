"""Common graphs: a chain, a single path, a shared weight (two paths add up), a fully connected layer.

Every example returns the gradient that backward computes and the product (or sum of products) of local
derivatives that the chain rule writes down; the two must be the same number.
"""

from __future__ import annotations

from typing import Any

from side_by_side import array, gradient, run_both, show


def chain_rule(system: Any) -> dict[str, Any]:
    """x = f(t), y = g(x), L = h(y) with f = square, g = sin, h = exp."""
    t = array(system, 0.7, requires_grad=True)
    x = t**2
    y = x.sin()
    loss = y.exp()
    factors = [
        gradient(system, loss, y, retain_graph=True),
        gradient(system, y, x, retain_graph=True),
        gradient(system, x, t, retain_graph=True),
    ]
    loss.backward()
    return {"backward": t.grad, "product": factors[0] * factors[1] * factors[2]}


def single_path(system: Any) -> dict[str, Any]:
    """l = (o - y)^2, o = sigmoid(a1), a1 = sigmoid(w1 x1): one path, three factors."""
    x1, y = array(system, 1.5), array(system, 1.0)
    w1 = array(system, 0.8, requires_grad=True)
    a1 = (w1 * x1).sigmoid()
    o = a1.sigmoid()
    loss = (o - y) ** 2
    product = (
        gradient(system, loss, o, retain_graph=True)
        * gradient(system, o, a1, retain_graph=True)
        * gradient(system, a1, w1, retain_graph=True)
    )
    loss.backward()
    return {"backward": w1.grad, "product": product}


def weight_sharing(system: Any) -> dict[str, Any]:
    """L(y, s3[s1(w1 x1), s2(w1 x1)]): the upper and the lower path through the shared w1 add up."""
    x1, y = array(system, 1.5), array(system, 1.0)
    w1 = array(system, 0.8, requires_grad=True)
    a1 = (w1 * x1).sigmoid()
    a2 = (w1 * x1).tanh()
    o = (a1 * a2 + a1).tanh()
    loss = (o - y) ** 2
    outer = gradient(system, loss, o, retain_graph=True)
    upper = outer * gradient(system, o, a1, retain_graph=True) * gradient(system, a1, w1, retain_graph=True)
    lower = outer * gradient(system, o, a2, retain_graph=True) * gradient(system, a2, w1, retain_graph=True)
    loss.backward()
    return {"backward": w1.grad, "upper path": upper, "lower path": lower, "sum": upper + lower}


def fully_connected_paths(system: Any) -> dict[str, Any]:
    """Two layers of two units: w_11 of the first layer reaches the loss over both units of the second."""
    x, y = array(system, [1.0, -2.0]), array(system, 0.5)
    w_first = array(system, [[0.4, -0.3], [0.2, 0.9]], requires_grad=True)
    w_second = array(system, [[0.7, 0.1], [-0.6, 0.5]])
    w_out = array(system, [1.2, -0.8])
    hidden_1 = (w_first @ x).sigmoid()
    hidden_2 = (w_second @ hidden_1).sigmoid()
    o = (w_out * hidden_2).sum()
    loss = (o - y) ** 2
    outer = gradient(system, loss, o, retain_graph=True)
    into_units = gradient(system, o, hidden_2, retain_graph=True)
    into_weight = gradient(system, hidden_1[0], w_first, retain_graph=True)[0, 0]
    paths = [
        outer * into_units[k] * gradient(system, hidden_2[k], hidden_1, retain_graph=True)[0] * into_weight
        for k in range(2)
    ]
    loss.backward()
    return {
        "backward": w_first.grad[0, 0],
        "path over unit 1": paths[0],
        "path over unit 2": paths[1],
        "sum": paths[0] + paths[1],
    }


def fully_connected_layer(system: Any) -> dict[str, Any]:
    """y = sigmoid(W x + b) pulled back from a cotangent g: with d = g y (1 - y), dW = d x^T, dx = W^T d."""
    weight = array(system, [[0.4, -0.3, 0.1], [0.2, 0.9, -0.5]], requires_grad=True)
    x = array(system, [1.0, -2.0, 0.5], requires_grad=True)
    b = array(system, [0.1, -0.1], requires_grad=True)
    g = array(system, [1.0, -3.0])
    y = (weight @ x + b).sigmoid()
    y.backward(g)
    value = y.detach()
    d = g * value * (1 - value)
    return {
        "dW": weight.grad,
        "d x^T": d.reshape(2, 1) * x.detach().reshape(1, 3),
        "dx": x.grad,
        "W^T d": weight.detach().T @ d,
        "db": b.grad,
        "d": d,
    }


def main() -> None:
    show("chain rule on a graph", run_both(chain_rule))
    show("single path", run_both(single_path))
    show("weight sharing", run_both(weight_sharing))
    show("fully connected layer, paths through w_11", run_both(fully_connected_paths))
    show("fully connected layer, y = sigmoid(W x + b)", run_both(fully_connected_layer))


if __name__ == "__main__":
    main()

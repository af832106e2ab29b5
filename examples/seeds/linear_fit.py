"""Fitting a line by hand-written gradient descent, and descending a parabola.

Both systems start from the same numbers and must agree at every step.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from side_by_side import array, numbers, run_both, show


def one_step(system: Any) -> dict[str, Any]:
    """y = w x + b from w = b = 0 against 2 x + 1 on (1, 2, 3): gradients -68/3 and -10."""
    w = system.tensor([0.0], requires_grad=True)
    b = system.tensor([0.0], requires_grad=True)
    x = system.tensor([1.0, 2.0, 3.0])
    y_true = system.tensor([3.0, 5.0, 7.0])
    y_pred = w * x + b
    loss = ((y_pred - y_true) ** 2).mean()
    loss.backward()
    return {"loss": loss, "w.grad": w.grad, "b.grad": b.grad}


def learning_loop(system: Any, learning_rate: float = 0.05, steps: int = 5) -> dict[str, Any]:
    """Predict, measure, differentiate, update, repeat: against the gradient is the way down."""
    w = array(system, [0.0], requires_grad=True)
    b = array(system, [0.0], requires_grad=True)
    x = array(system, [1.0, 2.0, 3.0])
    y_true = array(system, [3.0, 5.0, 7.0])
    losses, slopes = [], []
    for _ in range(steps):
        loss = ((w * x + b - y_true) ** 2).mean()
        loss.backward()
        losses.append(loss.item())
        slopes.append(w.grad.item())
        with system.no_grad():
            w -= learning_rate * w.grad
            b -= learning_rate * b.grad
        w.grad.zero_()
        b.grad.zero_()
    return {"loss": losses, "w.grad": slopes, "w": w, "b": b}


def regression_data(seed: int = 42) -> dict[str, Any]:
    """100 points of y = 2 x + 1 with noise 0.1 and random starting values, from torch's generator."""
    torch.manual_seed(seed)
    x_data = torch.randn(100, 1)
    y_true = 2 * x_data + 1 + torch.randn(100, 1) * 0.1
    return {
        "x": x_data.numpy(),
        "y": y_true.numpy(),
        "w": torch.randn(1).numpy(),
        "b": torch.randn(1).numpy(),
    }


def linear_regression(
    system: Any, data: dict[str, Any], epochs: int = 100, learning_rate: float = 0.01
) -> dict[str, Any]:
    """Least squares by gradient descent; the history of loss, w and b. Works in the dtype of `data`."""
    x_data, y_true = system.tensor(np.array(data["x"])), system.tensor(np.array(data["y"]))
    w = system.tensor(np.array(data["w"]), requires_grad=True)
    b = system.tensor(np.array(data["b"]), requires_grad=True)
    losses, ws, bs = [], [], []
    for _ in range(epochs):
        y_pred = w * x_data + b
        loss = ((y_pred - y_true) ** 2).mean()
        losses.append(loss.item())
        loss.backward()
        with system.no_grad():
            w -= learning_rate * w.grad
            b -= learning_rate * b.grad
        w.grad.zero_()
        b.grad.zero_()
        ws.append(w.item())
        bs.append(b.item())
    return {"loss": losses, "w": ws, "b": bs}


def closed_form(data: dict[str, Any]) -> dict[str, float]:
    """The least-squares line, which enough epochs must reach."""
    x = data["x"].astype(np.float64).ravel()
    w, b = np.polyfit(x, data["y"].astype(np.float64).ravel(), 1)
    return {"w": float(w), "b": float(b)}


def descend_parabola(system: Any, learning_rate: float = 0.1, steps: int = 20) -> dict[str, Any]:
    """f = x^2 from x = -4: every step multiplies x by 1 - 2 lr, so the end is -4 * 0.8^20 = -0.0461."""
    x = array(system, [-4.0], requires_grad=True)
    history = [x.item()]
    for _ in range(steps):
        y = x**2
        y.backward()
        with system.no_grad():
            x -= learning_rate * x.grad
        x.grad.zero_()
        history.append(x.item())
    return {"x": history}


def training_pattern(system: Any, start: float, epochs: int = 10) -> dict[str, Any]:
    """loss = (2 w)^2, whose gradient is 8 w: every epoch multiplies w by 0.92."""
    w = array(system, [start], requires_grad=True)
    losses = []
    for _ in range(epochs):
        output = w * 2
        loss = output**2
        loss.backward()
        with system.no_grad():
            w -= 0.01 * w.grad
        w.grad.zero_()
        losses.append(loss.item())
    return {"loss": losses, "w": w}


def in_float64(data: dict[str, Any]) -> dict[str, Any]:
    """The same numbers in double precision."""
    return {name: values.astype(np.float64) for name, values in data.items()}


def main() -> None:
    show("one backward of the mean square error", run_both(one_step))
    show("the learning process", run_both(learning_loop))
    data = regression_data()
    history = run_both(linear_regression, data)
    print("linear regression, y = 2 x + 1")
    for epoch in range(19, 100, 20):
        cells = [
            f"{name}: {h['loss'][epoch]:.4f} {h['w'][epoch]:.4f} {h['b'][epoch]:.4f}"
            for name, h in history.items()
        ]
        print(f"  epoch {epoch + 1:3d}, loss, w, b  " + "   ".join(cells))
    print(f"  least squares: {numbers(closed_form(data))}")
    show("gradient descent on x^2 from -4", run_both(descend_parabola))
    show("the same with a step that is too long (1.1)", run_both(descend_parabola, 1.1))
    show("training loop pattern", run_both(training_pattern, 1.5))


if __name__ == "__main__":
    main()

"""What automatic differentiation is not: neither finite differences nor symbolic differentiation."""

from __future__ import annotations

from typing import Any

import numpy as np
from side_by_side import array, run_both, show

from gradcheck_suite import engine

SIZE = 20


def by_backward(system: Any) -> Any:
    """Gradient of sum(sin(x_i) exp(x_i)) in one backward."""
    x = array(system, np.linspace(-1, 1, SIZE), requires_grad=True)
    (x.sin() * x.exp()).sum().backward()
    return x.grad


def by_formula() -> Any:
    """The same written down by hand: exp(x) (sin x + cos x)."""
    x = np.linspace(-1, 1, SIZE)
    return np.exp(x) * (np.sin(x) + np.cos(x))


def by_differences(step: float) -> tuple[Any, int]:
    """The same by forward differences, and how often the function had to run."""
    x = np.linspace(-1, 1, SIZE)
    calls = 0

    def f(point: Any) -> float:
        nonlocal calls
        calls += 1
        return float(np.sum(np.sin(point) * np.exp(point)))

    start = f(x)
    gradient = np.array([(f(x + step * unit) - start) / step for unit in np.eye(SIZE)])
    return gradient, calls


Expression = Any  # "x", "0", "1", or (operator, left, right)


def derivative(expression: Expression) -> Expression:
    """d/dx of an expression tree by the sum and product rules, unsimplified."""
    if isinstance(expression, str):
        return "1" if expression == "x" else "0"
    operator, left, right = expression
    if operator == "+":
        return ("+", derivative(left), derivative(right))
    return ("+", ("*", derivative(left), right), ("*", left, derivative(right)))


def size(expression: Expression) -> int:
    """Number of symbols in an expression tree."""
    return 1 if isinstance(expression, str) else 1 + size(expression[1]) + size(expression[2])


def symbolic_growth(depth: int) -> int:
    """Size of the derivative of x squared `depth` times over, as a formula."""
    expression: Expression = "x"
    for _ in range(depth):
        expression = ("*", expression, expression)
    return size(derivative(expression))


def automatic_growth(depth: int) -> dict[str, float]:
    """Operations of the engine for value and derivative of the same function, and the derivative's value."""
    x = engine.tensor(1.01, requires_grad=True)
    with engine.op_count() as count:
        y = x
        for _ in range(depth):
            y = y * y
        y.backward()
    assert x.grad is not None
    return {
        "operations": count.total,
        "derivative": x.grad.item(),
        "exact": 2**depth * 1.01 ** (2**depth - 1),
    }


def main() -> None:
    exact = by_formula()
    show(
        "largest error of the gradient",
        {name: float(np.abs(np.array(g) - exact).max()) for name, g in run_both(by_backward).items()},
    )
    for step in (1e-2, 1e-6, 1e-12):
        gradient, calls = by_differences(step)
        print(f"  differences, step {step:g}: {np.abs(gradient - exact).max():.1e} in {calls} evaluations")
    for depth in (2, 4, 8):
        print(f"x^(2^{depth}): formula of {symbolic_growth(depth)} symbols, {automatic_growth(depth)}")


if __name__ == "__main__":
    main()

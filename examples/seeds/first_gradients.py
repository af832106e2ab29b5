"""First gradients: backward() of small functions whose derivatives are known by heart."""

from __future__ import annotations

from typing import Any

from side_by_side import operation, run_both, show


def minimal(system: Any) -> dict[str, Any]:
    """y = x^2 + 3 x at x = 2: dy/dx = 2 x + 3 = 7."""
    x = system.tensor(2.0, requires_grad=True)
    y = x**2 + 3 * x
    y.backward()
    return {"dy/dx": x.grad}


def square_at_two(system: Any) -> dict[str, Any]:
    """y = x^2 at x = 2: dy/dx = 2 x = 4."""
    x = system.tensor([2.0], requires_grad=True)
    y = x**2
    y.backward()
    return {"y": y, "dy/dx": x.grad}


def square_at_three(system: Any) -> dict[str, Any]:
    """y = x^2 at x = 3: dy/dx = 6."""
    x = system.tensor([3.0], requires_grad=True)
    y = x**2
    y.backward()
    return {"y": y, "dy/dx": x.grad}


def product(system: Any) -> dict[str, Any]:
    """y = x w at (2, 3): y = 6, dy/dx = w = 3, dy/dw = x = 2."""
    x = system.tensor([2.0], requires_grad=True)
    w = system.tensor([3.0], requires_grad=True)
    y = x * w
    y.backward()
    return {"y": y, "dy/dx": x.grad, "dy/dw": w.grad}


def chain_rule(system: Any) -> dict[str, Any]:
    """y = (x^2 + 1)^3 at x = 2: 3 (x^2 + 1)^2 * 2 x = 300."""
    x = system.tensor([2.0], requires_grad=True)
    y = (x**2 + 1) ** 3
    y.backward()
    by_hand = 3 * (2.0**2 + 1) ** 2 * (2 * 2.0)
    return {"dy/dx": x.grad, "by hand": by_hand}


def multi_step(system: Any) -> dict[str, Any]:
    """w = a x^2 + 5 at x = 2, a = 3: dw/dx = 2 a x = 12, dw/da = x^2 = 4."""
    x = system.tensor([2.0], requires_grad=True)
    a = system.tensor([3.0], requires_grad=True)
    y = x**2
    z = a * y
    w = z + 5
    w.backward()
    return {"y": y, "z": z, "w": w, "dw/dx": x.grad, "dw/da": a.grad}


def vector(system: Any) -> dict[str, Any]:
    """y = sum of x_i^2 at (1, 2, 3): the gradient is (2, 4, 6)."""
    x = system.tensor([1.0, 2.0, 3.0], requires_grad=True)
    y = (x**2).sum()
    y.backward()
    return {"y": y, "dy/dx": x.grad}


def non_scalar(system: Any) -> dict[str, Any]:
    """A vector output needs a cotangent; ones give (2, 4, 6)."""
    x = system.tensor([1.0, 2.0, 3.0], requires_grad=True)
    y = x**2
    y.backward(system.tensor([1.0, 1.0, 1.0]))
    return {"y": y, "gradient": x.grad}


def non_scalar_without_cotangent(system: Any) -> dict[str, Any]:
    """Leaving the cotangent out is an error in both systems."""
    x = system.tensor([1.0, 2.0, 3.0], requires_grad=True)
    try:
        (x**2).backward()
    except RuntimeError as error:
        return {"error": str(error), "gradient": x.grad}
    return {"error": None, "gradient": x.grad}


def computation_graph(system: Any) -> dict[str, Any]:
    """z = x y, out = z.sum(): values flow down, gradients (dout/dz = 1) flow up."""
    x = system.tensor([2.0], requires_grad=True)
    y = system.tensor([3.0], requires_grad=True)
    z = x * y
    z.retain_grad()
    out = z.sum()
    path = [operation(x), operation(z), operation(out)]
    out.backward()
    return {"z": z, "out": out, "dout/dz": z.grad, "x.grad": x.grad, "y.grad": y.grad, "operations": path}


def exercise(system: Any) -> dict[str, Any]:
    """f = x^2 y + y^3 at (2, 3): df/dx = 2 x y = 12, df/dy = x^2 + 3 y^2 = 31."""
    x = system.tensor([2.0], requires_grad=True)
    y = system.tensor([3.0], requires_grad=True)
    f = x**2 * y + y**3
    f.backward()
    return {"f": f, "df/dx": x.grad.item(), "df/dy": y.grad.item()}


def main() -> None:
    show("y = x^2 + 3 x at 2", run_both(minimal))
    show("y = x^2 at 2", run_both(square_at_two))
    show("y = x^2 at 3", run_both(square_at_three))
    show("y = x w at (2, 3)", run_both(product))
    show("y = (x^2 + 1)^3 at 2", run_both(chain_rule))
    show("w = a x^2 + 5 at x = 2, a = 3", run_both(multi_step))
    show("y = sum x^2", run_both(vector))
    show("y = x^2, cotangent of ones", run_both(non_scalar))
    show("y = x^2, no cotangent", run_both(non_scalar_without_cotangent))
    show("z = x y, out = z.sum()", run_both(computation_graph))
    show("f = x^2 y + y^3 at (2, 3)", run_both(exercise))


if __name__ == "__main__":
    main()

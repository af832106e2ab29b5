"""Forward mode costs one pass per input, reverse mode one per output: counted in operations.

The function is y = tanh(A x); only the numbers of inputs and outputs change. Both modes give the whole
Jacobian, column by column or row by row.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
import torch.autograd.forward_ad as forward_ad
from side_by_side import show
from torch.utils._python_dispatch import TorchDispatchMode

from gradcheck_suite import engine


class CountedOperations(TorchDispatchMode):
    """Counts the ATen operations that calculate; views, allocations and checks of sizes are free."""

    ARITHMETIC = frozenset({"mv", "tanh", "tanh_backward", "add", "sub", "mul", "pow"})

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name.removeprefix("aten::") in self.ARITHMETIC:
            self.total += 1
        return func(*args, **(kwargs or {}))


def problem(inputs: int, outputs: int) -> tuple[Any, Any]:
    """The matrix A and a point x."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((outputs, inputs)) / inputs, rng.standard_normal(inputs)


def engine_forward(inputs: int, outputs: int) -> tuple[Any, int]:
    """Jacobian and operation count: one jvp per input."""
    a, x = problem(inputs, outputs)
    columns = []
    with engine.op_count() as count:
        for direction in np.eye(inputs):
            columns.append(engine.jvp(lambda x: (a @ x).tanh(), (x,), (direction,))[1].data)
    return np.stack(columns, axis=1), count.total


def engine_reverse(inputs: int, outputs: int) -> tuple[Any, int]:
    """Jacobian and operation count: one forward, then one pullback per output."""
    a, x = problem(inputs, outputs)
    with engine.op_count() as count:
        _, pullback = engine.vjp(lambda x: (a @ x).tanh(), x)
        rows = [pullback(cotangent)[0].data for cotangent in np.eye(outputs)]
    return np.stack(rows), count.total


def torch_forward(inputs: int, outputs: int) -> tuple[Any, int]:
    """The same with torch's dual numbers."""
    a, x = (torch.from_numpy(values) for values in problem(inputs, outputs))
    directions = torch.eye(inputs, dtype=torch.float64)
    columns = []
    with warnings.catch_warnings(), CountedOperations() as count:
        warnings.simplefilter(
            "ignore"
        )  # torch's own use of a deprecated part of torch, on the first dual number
        for i in range(inputs):
            with forward_ad.dual_level():
                out = torch.tanh(a.mv(forward_ad.make_dual(x, directions[i])))
                columns.append(forward_ad.unpack_dual(out).tangent)
    return torch.stack(columns, dim=1).numpy(), count.total


def torch_reverse(inputs: int, outputs: int) -> tuple[Any, int]:
    """The same with torch's reverse mode."""
    a, x = (torch.from_numpy(values) for values in problem(inputs, outputs))
    x.requires_grad_()
    cotangents = torch.eye(outputs, dtype=torch.float64)
    with CountedOperations() as count:
        out = torch.tanh(a.mv(x))
        rows = [torch.autograd.grad(out, x, cotangents[j], retain_graph=True)[0] for j in range(outputs)]
    return torch.stack(rows).numpy(), count.total


MODES = {
    "torch": {"forward": torch_forward, "reverse": torch_reverse},
    "engine": {"forward": engine_forward, "reverse": engine_reverse},
}


def costs(inputs: int, outputs: int) -> dict[str, dict[str, int]]:
    """Operations for the whole Jacobian by system and mode."""
    return {
        system: {mode: jacobian(inputs, outputs)[1] for mode, jacobian in modes.items()}
        for system, modes in MODES.items()
    }


def million_gradients(size: int = 1_000_000) -> dict[str, int]:
    """One backward gives every gradient of a scalar: the count does not depend on how many there are."""
    found = {}
    for n in (10, size):
        x = engine.tensor(np.linspace(-1, 1, n), requires_grad=True)
        with engine.op_count() as count:
            x.tanh().sum().backward()
        assert x.grad is not None
        found[f"{x.grad.size} gradients"] = count.total
    return found


def main() -> None:
    for inputs, outputs in ((2, 50), (50, 2), (50, 1)):
        show(f"{inputs} inputs, {outputs} outputs: operations for the Jacobian", costs(inputs, outputs))
    print(f"one backward of a scalar: {million_gradients()}")


if __name__ == "__main__":
    main()

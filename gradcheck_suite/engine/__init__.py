"""A small differentiable NumPy: reverse mode, forward mode, every order, in plain sight.

    from gradcheck_suite import engine
    from gradcheck_suite.engine import ops as e

    x = engine.Tensor([1.0, 2.0], requires_grad=True, label="x")
    loss = (e.sin(x) * x).sum()
    loss.backward()
    x.grad

`tensor.py`, `tape.py` and `primitive.py` are the algorithm, `transforms.py` and `forward.py` the derivatives
as functions, `primitives/` what it knows to differentiate. It needs NumPy and SciPy and imports nothing of
the rest of the package. Its gradients are derived from definitions and owe nothing to torch.
"""

from __future__ import annotations

from . import ops
from .errors import EngineError, GraphFreedError, InplaceError, NotDifferentiableError
from .function import Context, Function
from .modes import OperationCount, enable_grad, is_grad_enabled, no_grad, op_count, set_grad_enabled
from .perturb import Perturbation, perturbed
from .primitive import Primitive, primitive
from .printing import render
from .registry import DERIVED, PRIMITIVES, derived
from .sampling import Draw
from .tape import HookHandle, Node
from .tensor import Tensor, tensor
from .transforms import grad, jvp, vjp

__all__ = [
    "DERIVED",
    "PRIMITIVES",
    "Context",
    "Draw",
    "EngineError",
    "Function",
    "GraphFreedError",
    "HookHandle",
    "InplaceError",
    "Node",
    "NotDifferentiableError",
    "OperationCount",
    "Perturbation",
    "Primitive",
    "Tensor",
    "derived",
    "enable_grad",
    "grad",
    "is_grad_enabled",
    "jvp",
    "no_grad",
    "op_count",
    "ops",
    "perturbed",
    "primitive",
    "render",
    "set_grad_enabled",
    "tensor",
    "vjp",
]

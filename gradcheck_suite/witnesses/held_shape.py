"""Leaves that stay symmetric, Hermitian or triangular while differences move the function.

``torch.linalg.cholesky`` reads one triangle of a matrix that is documented to be symmetric, and returns the gradient on
the symmetric matrices: half of it belongs to the triangle that is not read. A difference that leaves this set is about
another function. So where a matrix that such an operation got had the documented shape and loses it as soon as one leaf
is moved, and that leaf has the shape itself, the leaf is moved within it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ..evidence import Array, NodeRecord, TensorRef
from .direction import Direction
from .float64_world import World

__all__ = ["along_symmetric_changes", "held_shapes", "only_hermitian_part"]

_HERMITIAN_OPERANDS: Mapping[str, int] = {
    "aten::linalg_cholesky_ex": 0,
    "aten::cholesky": 0,
    "aten::_linalg_eigh": 0,
    "aten::linalg_pinv": 0,
}
"""Operations whose argument at this position is documented to be Hermitian (``linalg_pinv``: with ``hermitian=True``)."""

_TRIANGULAR_OPERANDS: Mapping[str, int] = {"aten::cholesky_inverse": 0, "aten::cholesky_solve": 1}
_STEP = 1e-3


class _Operands(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The shapes that the matrices have which such operations get, in the order of the calls."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[set[str]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name
        if name in _HERMITIAN_OPERANDS and (name != "aten::linalg_pinv" or kwargs.get("hermitian")):
            self.found.append(_shapes(args[_HERMITIAN_OPERANDS[name]]) & {"hermitian"})
        elif name in _TRIANGULAR_OPERANDS:
            self.found.append(_shapes(args[_TRIANGULAR_OPERANDS[name]]) & {"lower", "upper"})
        return func(*args, **kwargs)


def _shapes(tensor: Tensor) -> set[str]:
    """Which of ``"hermitian"``, ``"lower"`` and ``"upper"`` a stack of square matrices is; exactly, but for rounding."""
    if tensor.ndim < 2 or tensor.shape[-1] != tensor.shape[-2] or tensor.shape[-1] < 2 or not tensor.numel():
        return set()
    value = tensor.detach()
    room = 64 * torch.finfo(value.dtype).eps * float(value.abs().max())
    # Inside a dispatch handler a lazy conjugate would not be resolved.
    adjoint = value.mT.conj_physical() if value.is_complex() else value.mT
    apart = {"hermitian": value - adjoint, "lower": value.triu(1), "upper": value.tril(-1)}
    return {name for name, off in apart.items() if float(off.abs().max()) <= room}


def _operands(world: World, direction: Direction | None) -> list[set[str]] | None:
    operands = _Operands()
    with operands:
        results = world.at(direction, _STEP)
    return None if results is None else operands.found


def held_shapes(world: World) -> dict[str, str]:
    """By leaf, the shape in which it must stay: ``"hermitian"``, ``"lower"`` or ``"upper"``.

    Runs the function once, and once more per leaf that is such a matrix itself, only if an operation asks for one.
    """
    before = _operands(world, None)
    if not before or not any(before):
        return {}
    held: dict[str, str] = {}
    for number, (name, leaf) in enumerate(world.leaves.items()):
        own = _shapes(leaf.data)
        if not own:
            continue
        after = _operands(world, Direction({name: leaf}, {name: world.scales[name]}, number))
        if after is None or len(after) != len(before):
            continue
        lost = set().union(*(was - now for was, now in zip(before, after)))
        kept = [shape for shape in ("lower", "upper", "hermitian") if shape in own & lost]
        if kept:
            held[name] = kept[0]
    world.place()
    return held


def only_hermitian_part(node: NodeRecord, gradient: Array) -> Array:
    """What counts of a gradient by a matrix that an operation takes for Hermitian, and that is: its Hermitian part.

    The rest is orthogonal to every change that keeps the matrix Hermitian: torch's ``linalg.cholesky`` returns an
    imaginary diagonal there. Other gradients come back as they are.
    """
    if node.role != "op" or len(node.ops) != 1 or gradient.dtype.kind != "c" or gradient.ndim < 2:
        return gradient
    (op,) = node.ops
    name = op.name.partition(".")[0]
    if name not in _HERMITIAN_OPERANDS or (name == "aten::linalg_pinv" and not op.kwargs.get("hermitian")):
        return gradient
    operand = op.args[_HERMITIAN_OPERANDS[name]]
    if not isinstance(operand, TensorRef) or operand.shape != gradient.shape:
        return gradient
    value = operand.source.array()
    room = 64 * np.finfo(value.dtype).eps * float(np.abs(value).max(initial=0.0))
    if not np.abs(value - np.conj(np.swapaxes(value, -1, -2))).max(initial=0.0) <= room:
        return gradient
    return np.asarray((gradient + np.conj(np.swapaxes(gradient, -1, -2))) / 2)


def along_symmetric_changes(ref: TensorRef, expected: Array, actual: Array) -> Array | None:
    """``actual`` with its Hermitian part as ``expected`` has it; None where the input is no Hermitian matrix.

    A Function for covariance matrices may read one half of its input and say so in its gradient, or read both: whoever
    made the matrix from something else cannot tell.
    """
    value = ref.source.array()
    if value.ndim < 2 or value.shape[-1] != value.shape[-2] or value.shape[-1] < 2:
        return None
    if expected.shape != value.shape or actual.shape != value.shape:
        return None
    room = 64 * np.finfo(value.dtype).eps * float(np.abs(value).max(initial=0.0))
    if not np.abs(value - np.conj(np.swapaxes(value, -1, -2))).max(initial=0.0) <= room:
        return None
    difference = expected - actual
    return np.asarray(actual + (difference + np.conj(np.swapaxes(difference, -1, -2))) / 2)

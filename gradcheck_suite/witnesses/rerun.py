"""One recorded operation or custom Function, run again in torch: on other inputs, or in float64 and then backward."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import _disable_current_modes

from ..capture.origins import NodeOrigin
from ..capture.values import to_array
from ..evidence import Array, ArraySource, NodeRecord, OpRecord, TensorRef
from ..replay import Unexplained
from ..replay.memory import is_differentiable
from ..replay.segment import tensors_in
from .decomposition import overload_of, torch_arguments, torch_tensor

__all__ = ["Rerun", "backward_in_float64", "rerun_of"]

# Where torch.library makes Functions out of ``register_autograd``.
_GENERATED = "torch._library.autograd"

Rerun = Callable[[Mapping[int, Array], bool], "list[Array | None]"]
"""Values by position of the gradient edge, and whether to compute in float64; gives one result per slot."""

_Call = Callable[[Callable[[int, torch.Tensor], torch.Tensor], bool], "list[torch.Tensor | None]"]
"""Given what to put in place of the recorded tensor at the position of a gradient edge; gives one tensor per slot."""


def rerun_of(node: NodeRecord, origin: NodeOrigin | None) -> Rerun:
    """How to run the forward of a node again; without gradients, and with torch's random state left as it was.

    Raises:
        Unexplained: it cannot be.
    """
    return _quietly(_on_arrays(_call_of(node, origin)))


def backward_in_float64(
    node: NodeRecord, origin: NodeOrigin | None, cotangents: Sequence[ArraySource | None]
) -> dict[int, Array]:
    """What torch's own backward of a node gives when forward and backward are run again in float64, by gradient edge.

    Nothing of the engine's is in it: it tells rounding in float32 from a formula that is wrong.

    Raises:
        Unexplained: it cannot be run again so.
    """
    if any(op.random for op in node.ops):
        raise Unexplained("its forward draws random numbers")
    call = _call_of(node, origin)
    leaves: dict[int, torch.Tensor] = {}

    def leaf(position: int, recorded: torch.Tensor) -> torch.Tensor:
        tensor = _widened(recorded.clone(), True)
        if node.edges[position] is None:
            return tensor
        leaves[position] = tensor.requires_grad_()
        return tensor.clone()  # what is written into must not be a leaf

    def run(_: Mapping[int, Array], __: bool) -> list[Array | None]:
        with torch.enable_grad():
            outputs = call(leaf, True)
            heads, weights = [], []
            for slot, cotangent in enumerate(cotangents):
                output = outputs[slot] if slot < len(outputs) else None
                if cotangent is None or output is None or not output.requires_grad:
                    continue
                heads.append(output)
                weights.append(torch.from_numpy(np.array(cotangent.wide())).to(output.dtype))
            found = torch.autograd.grad(heads, list(leaves.values()), weights, allow_unused=True)
        return [None if g is None else to_array(g.detach()) for g in found]

    gradients = _quietly(run)({}, True)
    return {position: g for position, g in zip(leaves, gradients) if g is not None}


def _call_of(node: NodeRecord, origin: NodeOrigin | None) -> _Call:
    if node.role == "op" and len(node.ops) == 1:
        return _operation(node, node.ops[0])
    if origin is not None and origin.function_class is not None:
        if origin.function_class.__module__ == _GENERATED:
            return _library_operation(node, origin.arguments)
        return _function(node, origin.function_class, origin.arguments)
    raise Unexplained("its forward cannot be run again by itself")


def _on_arrays(call: _Call) -> Rerun:
    def run(values: Mapping[int, Array], wide: bool) -> list[Array | None]:
        def put(position: int, recorded: torch.Tensor) -> torch.Tensor:
            if position in values:
                return _tensor(values[position], recorded, wide)
            return _widened(recorded.clone(), wide)

        return [None if value is None else to_array(value) for value in call(put, wide)]

    return run


def _quietly(run: Rerun) -> Rerun:
    def call(values: Mapping[int, Array], wide: bool) -> list[Array | None]:
        with _disable_current_modes(), torch.no_grad(), torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return run(values, wide)
            except Exception as error:  # the forward is the user's, on values that it was not written for
                raise Unexplained(
                    f"its forward raised {type(error).__name__} when it was run again: {error}"
                ) from error

    return call


def _widened(tensor: torch.Tensor, wide: bool) -> torch.Tensor:
    if wide and tensor.is_floating_point():
        return tensor.to(torch.float64)
    if wide and tensor.is_complex():
        return tensor.to(torch.complex128)
    return tensor


def _tensor(value: Array, like: torch.Tensor, wide: bool) -> torch.Tensor:
    """The value as a tensor that looks at memory in the way of ``like``."""
    result = _widened(like.clone(), wide)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result.copy_(torch.from_numpy(np.array(value, order="C")))
    return result


def _operation(node: NodeRecord, op: OpRecord) -> _Call:
    overload = overload_of(op.name)
    if overload is None:
        raise Unexplained(f"{op.name} cannot be called again")
    recorded = {id(ref): torch_tensor(ref) for ref in tensors_in((op.args, op.kwargs), TensorRef)}
    edges = {id(ref): position for position, ref in enumerate(node.inputs) if ref is not None}
    places = [
        _place(op, node.outputs[slot] if slot < len(node.outputs) else None)
        for slot in range(len(node.outputs))
    ]

    def run(put: Callable[[int, torch.Tensor], torch.Tensor], wide: bool) -> list[torch.Tensor | None]:
        given = {
            key: put(edges[key], like) if key in edges else _widened(like.clone(), wide)
            for key, like in recorded.items()
        }
        args, kwargs = torch_arguments(overload, op.args, op.kwargs, given)
        result = overload(*args, **kwargs)
        flat: list[Any] = []
        for item in result if isinstance(result, list | tuple) else (result,):
            flat.extend(item if isinstance(item, list | tuple) else (item,))
        found: list[torch.Tensor | None] = []
        for kind, number in places:
            value = None
            if kind == "output":
                value = flat[number]
            elif kind == "written":
                value = given[id(op.written[number][0])]
            found.append(value if isinstance(value, torch.Tensor) else None)
        return found

    return run


def _place(op: OpRecord, wanted: TensorRef | None) -> tuple[str, int]:
    """Where the value of a slot comes out: as an output, or in an argument that is written."""
    if wanted is None:
        return "", 0
    for number, ref in enumerate(tensors_in((op.outputs,), TensorRef)):
        if ref is wanted or (ref.edge is not None and ref.edge == wanted.edge):
            return "output", number
    for number, (_, after) in enumerate(op.written):
        if after is wanted or (after.edge is not None and after.edge == wanted.edge):
            return "written", number
    return "", 0


def _function(node: NodeRecord, cls: Any, arguments: Sequence[Any] | None) -> _Call:
    if arguments is None:
        raise Unexplained("the arguments that its forward was called with are not known")
    positions = [i for i, value in enumerate(arguments) if isinstance(value, TensorRef)]
    if len(positions) != len(node.edges):
        raise Unexplained(
            "the tensors that its forward was called with do not match the gradients it returns"
        )
    recorded = {i: torch_tensor(arguments[i]) for i in positions}

    def run(put: Callable[[int, torch.Tensor], torch.Tensor], wide: bool) -> list[torch.Tensor | None]:
        call: list[Any] = list(arguments)
        for edge, i in enumerate(positions):
            call[i] = put(edge, recorded[i])
        result = cls.apply(*call)
        flat = result if isinstance(result, tuple) else (result,)
        return [value if isinstance(value, torch.Tensor) and _matters(value) else None for value in flat]

    return run


def _library_operation(node: NodeRecord, arguments: Sequence[Any] | None) -> _Call:
    """A ``torch.library.custom_op``: torch makes a Function for it, with what its dispatcher needs."""
    op = node.ops[0] if len(node.ops) == 1 else None
    overload = overload_of(op.name) if op is not None else None
    if overload is None or not arguments:
        raise Unexplained("the arguments that its forward was called with are not known")
    return _function(node, _Library(overload), arguments)


class _Library:
    """What ``apply`` of a generated Function comes down to: the operation itself."""

    def __init__(self, overload: Any) -> None:
        self._overload = overload

    def apply(self, *arguments: Any) -> Any:
        """Call the operation; where it comes last, what is for torch's dispatcher is left out."""
        keywords: dict[str, Any] = {}
        if arguments and hasattr(arguments[-1], "keyset"):
            keywords = dict(getattr(arguments[-1], "keyword_only_args", {}))
            arguments = arguments[:-1]
        return self._overload(*arguments, **keywords)


def _matters(value: torch.Tensor) -> bool:
    return is_differentiable(str(value.dtype).removeprefix("torch."))

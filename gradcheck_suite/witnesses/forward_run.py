"""Functions, and single operations and custom Functions out of a recording, run in torch under dual numbers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..capture.modules import ModuleStack
from ..capture.origins import UnrecordableError
from ..errors import GradcheckError
from ..evidence import OpRecord, TensorRef
from ..replay.segment import tensors_in
from .decomposition import overload_of, torch_arguments, torch_tensor
from .dual_numbers import DualRecorder, drawn_tangent, dual_leaves
from .forward_nodes import HERMITIAN

__all__ = ["Attempt", "ask_function", "ask_operation", "can_be_dual", "run_dual", "short"]


@dataclass(frozen=True, eq=False)
class Attempt:
    """A run under dual numbers.

    Attributes:
        recorder: what it saw; empty where the leaves could not be made dual.
        result: what it returned, without tangents by now, or None.
        error: what it raised.
        collected: what was taken of the result while it still had tangents.
    """

    recorder: DualRecorder
    result: Any = None
    error: Exception | None = None
    collected: Any = None


def can_be_dual(tensor: torch.Tensor) -> bool:
    """Whether a tensor can be given a tangent in place."""
    return (
        tensor.layout is torch.strided
        and (tensor.is_floating_point() or tensor.is_complex())
        and not tensor.is_inference()
        and not tensor.is_nested
        and type(tensor) in (torch.Tensor, torch.nn.Parameter)
        and all(stride > 0 or size < 2 for size, stride in zip(tensor.shape, tensor.stride()))
    )


def short(error: BaseException) -> str:
    """The exception in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:240]}" if lines else type(error).__name__


def run_dual(
    leaves: Mapping[str, torch.Tensor],
    tangents: Mapping[str, torch.Tensor],
    call: Callable[[], Any],
    *,
    modules: Sequence[torch.nn.Module] = (),
    known: Sequence[torch.Tensor] = (),
    collect: Callable[[Any], Any] | None = None,
) -> Attempt:
    """Run ``call()`` with these tangents on the leaves, recorded; whatever it raises is kept, and no level stays open.

    Args:
        leaves, tangents: by name.
        call: the function.
        modules: roots for module paths.
        known: further tensors that exist before the run.
        collect: applied to the result while it has tangents.
    """
    stack = ModuleStack(*modules)
    recorder = DualRecorder(stack, [*leaves.values(), *known])
    result = collected = None
    failure: Exception | None = None
    try:
        with warnings.catch_warnings(), dual_leaves(leaves, tangents):
            warnings.simplefilter("ignore")
            with recorder.watching_functions(), torch.enable_grad(), stack.observing(), recorder:
                try:
                    result = call()
                    recorder.read()
                except UnrecordableError as error:
                    failure = error
                except Exception as error:  # the model's own, or torch's for what has no forward mode
                    failure = error
                    recorder.drop_unread()
            recorder.finish_forward()
            if collect is not None and failure is None:
                collected = collect(result)
    except (RuntimeError, GradcheckError) as error:
        failure = failure or error
    return Attempt(recorder, result, failure, collected)


def _leaf(ref: TensorRef) -> torch.Tensor:
    return torch_tensor(ref).requires_grad_()


def ask_operation(op: OpRecord, differentiable: Sequence[TensorRef], seed: int) -> Attempt | str:
    """Call one recorded operation again, with random tangents on some of its arguments; or why it cannot be called."""
    overload = overload_of(op.name)
    if overload is None:
        return f"{op.name} cannot be called again"
    try:
        leaves = {str(number): _leaf(ref) for number, ref in enumerate(differentiable)}
        args, kwargs = torch_arguments(overload, op.args, op.kwargs)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        return f"its arguments could not be rebuilt: {error}"
    wanted = {id(ref): str(number) for number, ref in enumerate(differentiable)}

    def call() -> Any:
        # Clones, because an operation in place may not write to a leaf.
        given = {key: leaves[name].clone() for key, name in wanted.items()}
        real, named = torch_arguments(overload, op.args, op.kwargs, {**others, **given})
        return overload(*real, **named)

    everything = tensors_in((op.args, op.kwargs), TensorRef)
    rebuilt = tensors_in((args, kwargs), torch.Tensor)
    others = {id(ref): tensor for ref, tensor in zip(everything, rebuilt) if id(ref) not in wanted}
    tangents = {name: drawn_tangent(leaf, seed + int(name)) for name, leaf in leaves.items()}
    if op.name in HERMITIAN:
        tangents = {name: t + t.mH for name, t in tangents.items()}
    return run_dual(leaves, tangents, call, known=list(others.values()))


def ask_function(
    cls: Any, arguments: Sequence[Any], differentiable: Sequence[int], seed: int
) -> Attempt | str:
    """Call a custom Function again on duals of its recorded arguments.

    Args:
        cls: the Function.
        arguments: as recorded, tensors as ``TensorRef``.
        differentiable: positions of those that get a random tangent.
        seed: of the tangents.
    """
    try:
        leaves = {str(i): _leaf(arguments[i]) for i in differentiable}
        others = {
            i: torch_tensor(value)
            for i, value in enumerate(arguments)
            if isinstance(value, TensorRef) and i not in differentiable
        }
    except (ValueError, RuntimeError) as error:
        return f"its arguments could not be rebuilt: {error}"

    def call() -> Any:
        given: list[Any] = list(arguments)
        for i, value in others.items():
            given[i] = value
        for name, leaf in leaves.items():
            given[int(name)] = leaf.clone()
        return cls.apply(*given)

    tangents = {name: drawn_tangent(leaf, seed + int(name)) for name, leaf in leaves.items()}
    return run_dual(leaves, tangents, call, known=list(others.values()))

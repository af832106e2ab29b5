"""What can still be said about a node that no meaning explains.

In this order: torch's own decomposition of the operation, differentiated by the engine; a local numerical derivative of
that one operation or custom Function; nothing, with the reason. Each is marked as what it is.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch

from ..capture.origins import NodeOrigin
from ..capture.recorder import Recorder
from ..evidence import Array, ArraySource, NodeRecord
from ..replay import LocalGradients, Unexplained, local_gradients
from ..replay.operations import further_meanings
from .decomposition import Decompositions, overload_of
from .engine import Fallback
from .local_difference import numerical_gradients
from .rerun import backward_in_float64

__all__ = ["fallback_for"]

T = TypeVar("T")

_SAVED = frozenset({"mean", "rstd", "save_mean", "save_invstd", "save_var", "out", "logsumexp"})


def fallback_for(
    recorder: Recorder, autograd_nodes: Mapping[int, Any], decompositions: Decompositions | None = None
) -> Fallback:
    """What :func:`~gradcheck_suite.witnesses.engine.check_node` asks about a node that no meaning explains.

    Args:
        recorder: what recorded the forward; it knows what custom Functions were called with.
        autograd_nodes: torch's nodes by key.
        decompositions: to share with other checks of the same recording.

    Returns:
        A function of a node, the cotangents it received, a seed and the reason why the engine could not speak; it
        raises ``Unexplained`` with all reasons where nothing can be said.
    """
    return _Fallback(recorder, autograd_nodes, decompositions or Decompositions())


class _Fallback:
    def __init__(
        self, recorder: Recorder, autograd_nodes: Mapping[int, Any], decompositions: Decompositions
    ) -> None:
        self._recorder = recorder
        self._nodes = autograd_nodes
        self._decompositions = decompositions

    def __call__(
        self,
        node: NodeRecord,
        cotangents: Sequence[ArraySource | None],
        seed: int,
        reason: str,
        *,
        numerically: bool = False,
    ) -> LocalGradients:
        reasons = [reason]
        if node.role != "function":
            _refuse_dependent(node, reason)
        if node.ops and not numerically:
            try:
                return _decomposed(node, cotangents, seed, self._decompositions)
            except Unexplained as error:
                reasons.append(str(error))
        try:
            return numerical_gradients(node, cotangents, self._origin(node), seed=seed)
        except Unexplained as error:
            reasons.append(f"not numerically either: {error}")
        raise Unexplained("; ".join(dict.fromkeys(reasons)))

    def in_float64(self, node: NodeRecord, cotangents: Sequence[ArraySource | None]) -> Mapping[int, Array]:
        """See :func:`~gradcheck_suite.witnesses.rerun.backward_in_float64`."""
        return backward_in_float64(node, self._origin(node), cotangents)

    def _origin(self, node: NodeRecord) -> NodeOrigin | None:
        return _origin(self._recorder, self._nodes[node.key], node)


def _refuse_dependent(node: NodeRecord, reason: str) -> None:
    """A derivative with respect to one argument means nothing where others were computed from it.

    ``native_layer_norm_backward`` takes the input and its saved mean: torch's gradient means both.
    """
    for op in node.ops:
        overload = overload_of(op.name) if "backward" in op.name else None
        saved = (
            [a.name for a in overload._schema.arguments if a.name in _SAVED] if overload is not None else []
        )
        if saved:
            raise Unexplained(
                f"{reason}; {op.name} takes saved results ({', '.join(saved)}) beside the inputs that they came "
                "from, so neither its decomposition nor differences can say what is meant"
            )


def _origin(recorder: Recorder, torch_node: Any, node: NodeRecord) -> NodeOrigin | None:
    """Where a node comes from; for a custom Function whose forward ran no operation (pure NumPy) what can be told.

    Its arguments are known when there are no others than the tensors that gradients are returned for.
    """
    origin = recorder.origin_of(torch_node)
    cls = getattr(torch_node, "_forward_cls", None)
    if origin is not None or cls is None:
        return origin
    parameters = list(inspect.signature(cls.forward).parameters.values())
    if cls.setup_context is torch.autograd.Function.setup_context:
        parameters = parameters[1:]  # ctx
    plain = all(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
    if not plain or len(parameters) != len(node.inputs) or any(ref is None for ref in node.inputs):
        return NodeOrigin("function", function_class=cls)
    return NodeOrigin("function", function_class=cls, arguments=node.inputs)


def _decomposed(
    node: NodeRecord, cotangents: Sequence[ArraySource | None], seed: int, decompositions: Decompositions
) -> LocalGradients:
    def inside(function: Callable[..., T]) -> Callable[..., T]:
        def call(*args: Any) -> T:
            with further_meanings(decompositions):
                return function(*args)

        return call

    try:
        with further_meanings(decompositions):
            local = local_gradients(node, cotangents, seed=seed)
    except Unexplained as error:
        why = [decompositions.refusals[op.name] for op in node.ops if op.name in decompositions.refusals]
        raise Unexplained("; ".join([str(error), *dict.fromkeys(why)])) from error
    return replace(
        local,
        noise=inside(local.noise),
        output_noise=inside(local.output_noise),
        difference=inside(local.difference),
        how="decomposition",
    )

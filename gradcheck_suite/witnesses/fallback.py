"""What can still be said about a node that no meaning explains.

In this order: torch's own decomposition of the operation, differentiated by the engine; a local numerical derivative of
that one operation or custom Function; nothing, with the reason. Each is marked as what it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from ..capture.recorder import NodeOrigin
from ..evidence import ArraySource, NodeRecord
from ..replay import LocalGradients, Unexplained, local_gradients
from ..replay.operations import further_meanings
from .decomposition import Decompositions
from .local_difference import numerical_gradients

__all__ = ["Fallback", "fallback_for"]

Fallback = Callable[[NodeRecord, Sequence[ArraySource | None], int], LocalGradients]

T = TypeVar("T")


def fallback_for(origin_of: Callable[[int], NodeOrigin | None], decompositions: Decompositions | None = None) -> Fallback:
    """What :func:`~gradcheck_suite.witnesses.engine.check_node` asks about a node that no meaning explains.

    Args:
        origin_of: what the recorder knows about a node, by its key; a custom Function can only be run again with it.
        decompositions: to share with other checks of the same recording.

    Returns:
        A function of a node, the cotangents it received and a seed; it raises ``Unexplained`` with the reasons where
        nothing can be said.
    """
    found = decompositions or Decompositions()

    def fallback(node: NodeRecord, cotangents: Sequence[ArraySource | None], seed: int) -> LocalGradients:
        reasons = []
        if node.ops:
            try:
                return _decomposed(node, cotangents, seed, found)
            except Unexplained as error:
                reasons.append(str(error))
        try:
            return numerical_gradients(node, cotangents, origin_of(node.key), seed=seed)
        except Unexplained as error:
            reasons.append(f"and not numerically either: {error}")
        raise Unexplained("; ".join(reasons))

    return fallback


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

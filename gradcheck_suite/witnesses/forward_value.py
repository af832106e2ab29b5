"""Is the engine's value of an operation torch's? Only then may the engine speak about its gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from ..compare.tolerance import ULPS, coarsest_eps, in_any_order, is_differentiable_dtype, judge
from ..evidence import Array, NodeRecord, Outcome, Testimony
from ..replay import LocalGradients
from .sums import node_name
from .terms import terms_of_value

__all__ = ["MORE_SAMPLES", "check_forward", "within_the_forward"]

# Before accusing: that two samples of an element's noise are both ten times too small happens once in a hundred
# elements, that twelve are does not happen.
MORE_SAMPLES = 12

# A forward that is right to a relative error of d has a slope that is right to about n**2 * d, where n is the degree of
# the polynomials that it is made of (A. A. Markov's inequality); special functions use about ten to thirty terms.
_OF_THE_FORWARD = 1e3
# What differences resolve, see ``witnesses/local_difference.py``.
_MOST_OF_THE_FORWARD = 1e-2


def check_forward(node: NodeRecord, local: LocalGradients, dtype: str) -> Testimony | None:
    """None when the engine's forward values are torch's; otherwise why its gradients must not be trusted here."""
    eps, _ = coarsest_eps([dtype])
    for slot, value in enumerate(local.outputs):
        ref = node.outputs[slot] if slot < len(node.outputs) else None
        if value is None or ref is None or not is_differentiable_dtype(ref.dtype):
            continue
        outcome, comparison = judge(
            value, ref.source.array(), dtype=dtype, noise=partial(local.output_noise, slot, eps), slack=4.0
        )
        if outcome is Outcome.DISAGREE:
            noise = partial(local.output_noise, slot, eps, MORE_SAMPLES)
            outcome, comparison = judge(value, ref.source.array(), dtype=dtype, noise=noise, slack=4.0)
        if outcome is Outcome.DISAGREE and dtype in ULPS:
            grown = partial(_times, noise, in_any_order(terms_of_value(node, value.size)))
            outcome, _ = judge(value, ref.source.array(), dtype=dtype, noise=grown, slack=4.0, spread=1.0)
        if outcome is Outcome.DISAGREE:
            return Testimony(
                "engine",
                f"value of output {slot} of {node_name(node)}",
                Outcome.INCONCLUSIVE,
                comparison,
                reason="the engine's forward value differs from torch's, so it cannot speak about the gradient",
            )
    return None


def _times(noise: Callable[[], Array], factor: float) -> Array:
    return noise() * factor


def within_the_forward(testimony: Testimony, forward: Testimony) -> Testimony:
    """Nobody is accused of what the operation's own forward leaves open.

    torch's ``bessel_j0`` and its ``bessel_j1`` are right to seven digits each, so one is the other's slope to fewer.
    """
    of_value, of_slope = forward.comparison, testimony.comparison
    if testimony.outcome is not Outcome.DISAGREE or of_value is None or of_slope is None:
        return testimony
    open_ = _MOST_OF_THE_FORWARD
    if of_value.scale > 0:
        open_ = min(_OF_THE_FORWARD * of_value.max_error / of_value.scale, open_)
    if not of_slope.max_error <= open_ * of_slope.scale:
        return testimony
    reason = f"{testimony.reason}; and the forward itself is not precise enough to settle a difference of this size"
    return replace(testimony, outcome=Outcome.INCONCLUSIVE, reason=reason)

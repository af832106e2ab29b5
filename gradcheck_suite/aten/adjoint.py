"""Backward operations as what they are by definition: the VJP of the forward operation. No meaning is declared here.

They appear in a trace when a model differentiates inside its own forward (gradient penalties, forces) or when a
gradient's gradient is checked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..engine import vjp
from .values import Value, constant, raw

__all__ = ["adjoint", "pulled", "pulled_each"]


def pulled(forward: Callable[..., Any], cotangent: Value, primal: Value) -> Value:
    """Cotangent of the only argument of ``forward``."""
    return vjp(forward, primal)[1](cotangent)[0]


def pulled_each(
    forward: Callable[..., Any], cotangents: Sequence[Value], primals: Sequence[Value], wanted: Sequence[bool]
) -> tuple[Value | None, ...]:
    """Cotangents of the wanted arguments of ``forward``, None for the others and for absent arguments.

    Args:
        forward: takes all primals; returns one output per cotangent (a tuple when there are several).
        cotangents: one per output.
        primals: arguments; None where the operation was called without.
        wanted: torch's output mask.
    """
    active = [bool(want) and primal is not None for want, primal in zip(wanted, primals)]
    chosen = [primal for primal, use in zip(primals, active) if use]
    if not chosen:
        return (None,) * len(primals)

    def restricted(*values: Value) -> Any:
        remaining = iter(values)
        return forward(*(next(remaining) if use else primal for primal, use in zip(primals, active)))

    found = iter(vjp(restricted, *chosen)[1](*cotangents))
    return tuple(next(found) if use else None for use in active)


def adjoint(forward: Callable[[Value], Any], shape: Sequence[int], cotangent: Value) -> Value:
    """Cotangent of a linear operation's argument of this shape."""
    zeros = constant(np.zeros(tuple(int(n) for n in shape), dtype=raw(cotangent).dtype))
    return pulled(forward, cotangent, zeros)

"""`grad`, `vjp` and `jvp`: derivatives as functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .endpoints import initial_cotangent, require_input
from .errors import EngineError
from .modes import THREAD, enable_grad
from .registry import PRIMITIVES
from .tape import run_backward
from .tensor import Tensor, describe, shadow, wrap

_levels = count(1)


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (tuple, list)) else [value]


def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    cotangents: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool = False,
) -> tuple[Any, ...]:
    """Gradients of the outputs, weighted by `cotangents` and summed, with respect to each input.

    Returns a tuple with one Tensor of the input's shape and dtype per input; nothing is added to
    `.grad`. `cotangents` (one per output) may be left out for single real elements. An input that the
    outputs do not depend on raises EngineError, or gives None with `allow_unused`.
    """
    outs, ins = _as_list(outputs), _as_list(inputs)
    given = [None] * len(outs) if cotangents is None else _as_list(cotangents)
    if len(given) != len(outs):
        raise EngineError(
            f"grad failed: there are {len(given)} cotangents for {len(outs)} outputs. Every output has one. "
            f"Pass as many (None for single real elements)."
        )
    for tensor in (*outs, *ins):
        require_input(tensor, "grad")
    roots = [(out._gradient_edge(), initial_cotangent(out, c)) for out, c in zip(outs, given)]
    targets = [tensor._gradient_edge() for tensor in ins]
    retain = create_graph if retain_graph is None else retain_graph
    found = run_backward(roots, targets, retain_graph=retain, create_graph=create_graph)
    if not allow_unused:
        for position, (tensor, gradient) in enumerate(zip(ins, found)):
            if gradient is None:
                raise EngineError(
                    f"grad failed: input {position}, {describe(tensor)}, was not used in computing the outputs. "
                    f"Its gradient does not exist in this graph. Pass allow_unused=True to get None."
                )
    return tuple(found)


def vjp(f: Callable[..., Any], *primals: Tensor | ArrayLike) -> tuple[Any, Callable[..., tuple[Tensor, ...]]]:
    """`f(*primals)` and its pullback: cotangents of the outputs to a tuple of cotangents of the primals.

    The pullback takes one cotangent per output and may be called repeatedly; a primal that `f` does
    not use gets zeros. When a primal or a cotangent requires grad, the pullback's result can be
    differentiated again.
    """
    outer = THREAD.mode.grad
    with enable_grad():
        inner = [_fresh(p if isinstance(p, Tensor) else Tensor(p), outer) for p in primals]
        out = f(*inner)
    outs = _as_list(out)

    def pullback(*cotangents: Any) -> tuple[Tensor, ...]:
        if len(cotangents) != len(outs):
            raise EngineError(
                f"pullback failed: it got {len(cotangents)} cotangents for {len(outs)} outputs. Every output "
                f"has one. Pass as many."
            )
        again = THREAD.mode.grad and any(
            isinstance(t, Tensor) and t.requires_grad for t in (*primals, *cotangents)
        )
        roots = [
            (o._gradient_edge(), initial_cotangent(o, c)) for o, c in zip(outs, cotangents) if o.requires_grad
        ]
        targets = [t._gradient_edge() for t in inner]
        found = (
            run_backward(roots, targets, retain_graph=True, create_graph=again)
            if roots
            else [None] * len(targets)
        )
        return tuple(
            wrap(np.zeros(t.shape, t.dtype)) if gradient is None else gradient
            for t, gradient in zip(inner, found)
        )

    return out, pullback


def _fresh(primal: Tensor, outer: bool) -> Tensor:
    """The primal under a new identity, so that only uses of *this* argument are differentiated.

    A function may also reach the same tensor by closure: that use is a constant to this vjp.
    """
    if primal.requires_grad and outer:
        made: Tensor = PRIMITIVES["clone"](primal)
        return made
    leaf = wrap(primal.data)
    leaf._version[1] = primal._version[1] = True
    leaf.requires_grad = True
    return shadow(leaf, primal._tangents)


def jvp(
    f: Callable[..., Any], primals: Sequence[Tensor | ArrayLike] | Tensor, tangents: Sequence[Any] | Tensor
) -> tuple[Any, Any]:
    """`f(*primals)` and its derivative in the direction `tangents`, in one forward pass.

    Each tangent has its primal's shape. An output that does not depend on the primals has a zero
    tangent. May be nested, with itself and with reverse mode in both orders. Raises EngineError for
    mismatched shapes, NotDifferentiableError where a primitive has no derivative.
    """
    ps = [p if isinstance(p, Tensor) else Tensor(p) for p in _as_list(primals)]
    ts = [t if isinstance(t, Tensor) else Tensor(t) for t in _as_list(tangents)]
    if len(ps) != len(ts) or any(p.shape != t.shape for p, t in zip(ps, ts)):
        raise EngineError(
            f"jvp failed: primals have shapes {[p.shape for p in ps]} and tangents {[t.shape for t in ts]}. A "
            f"tangent is a direction in its primal's space. Pass one of equal shape per primal."
        )
    mode = THREAD.mode
    level = next(_levels)
    outer = mode.levels
    duals = []
    for p, t in zip(ps, ts):
        direction = t if t.dtype == p.dtype else PRIMITIVES["cast"](t, dtype=p.dtype.name)
        duals.append(shadow(p, {**(p._tangents or {}), level: direction}))
    mode.levels = (*outer, level)
    try:
        out = f(*duals)
    finally:
        mode.levels = outer
    many = isinstance(out, (tuple, list))
    split = [_split(o if isinstance(o, Tensor) else Tensor(o), level) for o in _as_list(out)]
    if not many:
        return split[0]
    return tuple(s[0] for s in split), tuple(s[1] for s in split)


def _split(out: Tensor, level: int) -> tuple[Tensor, Tensor]:
    if not out._tangents:
        return out, wrap(np.zeros(out.shape, out.dtype))
    outer = {k: t for k, t in out._tangents.items() if k != level}
    tangent = out._tangents.get(level)
    return shadow(out, outer), wrap(np.zeros(out.shape, out.dtype)) if tangent is None else tangent

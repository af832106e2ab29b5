"""Forward mode: tangents travel with tensors, one set per active `jvp`.

A tensor carries `{level: tangent}`. Tangents of an inner (higher) level are tensors that may carry
tangents of the outer levels, never the other way round. Hence the rule for one level is evaluated on
arguments from which this and all inner levels are stripped; the outer ones come along by themselves.
The reverse graph is recorded underneath as usual: jvp of grad and grad of jvp both follow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import NotDifferentiableError
from .modes import enable_grad, is_grad_enabled
from .registry import PRIMITIVES
from .tape import fit, run_backward
from .tensor import Tensor, shadow, wrap

if TYPE_CHECKING:
    from .primitive import Primitive


def strip(value: Any, level: int) -> Any:
    """The tensor without its tangents of `level` and of the levels inside it."""
    if value.__class__ is tuple:
        return tuple(strip(v, level) for v in value)
    if value.__class__ is not Tensor or not value._tangents:
        return value
    return shadow(value, {k: t for k, t in value._tangents.items() if k < level})


def as_tensor(value: Any) -> Any:
    """Constants as tensors, as the rules expect them; None stays None."""
    if value is None or value.__class__ is Tensor:
        return value
    if value.__class__ is tuple:
        return tuple(as_tensor(v) for v in value)
    return wrap(np.asarray(value))


def propagate(
    primitive: Primitive,
    levels: Sequence[int],
    args: Sequence[Any],
    static: dict[str, Any],
    outs: Sequence[Any],
) -> None:
    """Give every output its tangents, outermost level first."""
    for level in levels:
        tangents = [_tangent(a, level) for a in args]
        if all(t is None for t in tangents):
            continue
        bare = [strip(as_tensor(a), level) for a in args]
        total: list[Tensor | None] = [None] * len(outs)
        for position, dx in enumerate(tangents):
            if dx is None:
                continue
            answer = _push(primitive, position, dx, outs, bare, static, level)
            for i, one in enumerate(answer if isinstance(answer, tuple) else (answer,)):
                if one is None or outs[i].__class__ is not Tensor:
                    continue
                one = _fit_up(one, outs[i])
                before = total[i]
                total[i] = one if before is None else PRIMITIVES["add"](before, one)
        for out, tangent in zip(outs, total):
            if tangent is not None:
                out._tangents = {**(out._tangents or {}), level: tangent}


def _tangent(argument: Any, level: int) -> Any:
    if argument.__class__ is tuple:
        parts = tuple(_tangent(a, level) for a in argument)
        return parts if any(p is not None for p in parts) else None
    if argument.__class__ is not Tensor or not argument._tangents:
        return None
    return argument._tangents.get(level)


def _push(
    primitive: Primitive,
    position: int,
    dx: Any,
    outs: Sequence[Any],
    args: list[Any],
    static: dict[str, Any],
    level: int,
) -> Any:
    rule = primitive._jvps[position]
    is_list = position == primitive.sequence
    if rule is None:
        vjp = primitive._vjps[position]
        if vjp is not None and vjp.function == "zero":
            return None
        return _transposed_vjp(primitive, position, dx, outs, args, static, level)
    if rule.function == "zero":
        return None
    if rule.function == "linear":
        if is_list:
            dx = [zeros_like(a) if d is None else d for d, a in zip(dx, args[position])]
        return primitive(*args[:position], dx, *args[position + 1 :], **static)
    stripped = tuple(strip(o, level) for o in outs)
    single = len(outs) == 1 and not primitive.nondifferentiable_outputs
    return rule.call(list(dx) if is_list else dx, stripped[0] if single else stripped, args, static)


def _transposed_vjp(
    primitive: Primitive,
    position: int,
    dx: Any,
    outs: Sequence[Any],
    args: list[Any],
    static: dict[str, Any],
    level: int,
) -> tuple[Tensor | None, ...]:
    """The JVP as the adjoint of u -> VJP(u), which is linear: differentiate it in direction dx."""
    create = is_grad_enabled()
    with enable_grad():
        stripped = tuple(strip(o, level) for o in outs)
        seeds = tuple(
            Tensor(np.zeros(o.shape, o.dtype), requires_grad=True) if o.__class__ is Tensor else None
            for o in outs
        )
        single = len(outs) == 1 and not primitive.nondifferentiable_outputs
        answer = primitive.pull_argument(
            position, seeds[0] if single else seeds, stripped[0] if single else stripped, args, static
        )
        pulled = answer if position == primitive.sequence else [answer]
        into = dx if position == primitive.sequence else [dx]
        primal = args[position] if position == primitive.sequence else [args[position]]
        roots = []
        for one, tangent, argument in zip(pulled, into, primal):
            if one is None or tangent is None:
                continue
            producer = one._edge[0] if one._edge is not None else one._gradient_edge()[0]
            one = fit(one, (argument.shape, argument.dtype), producer)
            if one.requires_grad:
                roots.append((one._gradient_edge(), tangent))
    wanted = [s._gradient_edge() for s in seeds if s is not None]
    found = iter(
        run_backward(roots, wanted, retain_graph=True, create_graph=create) if roots else [None] * len(wanted)
    )
    return tuple(next(found) if s is not None else None for s in seeds)


def zeros_like(value: Any) -> Tensor:
    return wrap(np.zeros(value.shape, value.dtype))


def _fit_up(tangent: Tensor, out: Tensor) -> Tensor:
    """The tangent in the shape and dtype of the output it belongs to."""
    if tangent.data.shape != out.data.shape:
        tangent = PRIMITIVES["broadcast_to"](tangent, shape=out.data.shape)
    if tangent.data.dtype != out.data.dtype:
        if tangent.data.dtype.kind == "c" and out.data.dtype.kind != "c":
            raise NotDifferentiableError(
                f"forward mode failed: a rule made a complex tangent ({tangent.data.dtype}) for a real output "
                f"({out.data.dtype}). A real function has real derivatives. Correct the JVP."
            )
        tangent = PRIMITIVES["cast"](tangent, dtype=out.data.dtype.name)
    return tangent

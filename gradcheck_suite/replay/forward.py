"""The tangents that one recorded operation or custom Function owes for the tangents it received, by the engine.

The counterpart of :mod:`gradcheck_suite.replay.local` for forward mode: the inputs that were recorded and the tangents
that torch delivered go in, the tangents of the results come out. Nothing accumulates over the run, so a disagreement is
this operation's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..engine import Perturbation, Tensor, perturbed
from ..engine import jvp as engine_jvp
from ..engine.errors import EngineError
from ..evidence import Array, FunctionCall, OpRecord, TensorRef
from .local import execute
from .memory import Memory, is_differentiable, to_engine_array
from .operations import NoMeaningError, compute, looks_anew, moves_memory_only
from .refusals import Unexplained, tensor_arguments
from .spread import measured_spread

__all__ = ["LocalTangents", "Slopes", "Stretch", "local_tangents"]

# Their meaning reads the recorded result beside the argument: right where they were recorded, and nowhere else.
_KNOWN_AT_ONE_POINT = ("aten::rrelu_with_noise", "aten::nextafter")


@dataclass(frozen=True)
class Stretch:
    """Recorded operations with the tensors that go in and come out: one operation, or a custom Function's forward.

    Attributes:
        name: for messages.
        ops: in order.
        inputs: where tangents went in.
        outputs: the values whose tangents are compared; None for one that was not recorded.
        call: the custom Function call, or None for one operation.
    """

    name: str
    ops: Sequence[OpRecord]
    inputs: Sequence[TensorRef]
    outputs: Sequence[TensorRef | None]
    call: FunctionCall | None = None


@dataclass(frozen=True)
class Slopes:
    """Differences of one output along the tangents, elementwise.

    Attributes:
        value: the central estimate.
        error: its own error estimate.
        left, right: one-sided slopes.
        kink: where these stay apart as the step shrinks.
    """

    value: Array
    error: Array
    left: Array
    right: Array
    kink: Array


@dataclass
class LocalTangents:
    """What a stretch should return.

    Attributes:
        tangents: per output, the expected tangent (float64/complex128), or None.
        outputs: per output, the engine's own value, or None.
        noise: elementwise noise of the tangent of one output for a relative eps, from so many samples.
        output_noise: the same for the value.
        slopes: differences of one output along the tangents, or None where they cannot be had.
    """

    tangents: list[Array | None]
    outputs: list[Array | None]
    noise: Callable[[int, float, int], Array]
    output_noise: Callable[[int, float, int], Array]
    slopes: Callable[[int], Slopes | None] = field(default=lambda _: None)


def local_tangents(stretch: Stretch, tangents: Sequence[Array | None], *, seed: int = 0) -> LocalTangents:
    """The tangents that ``stretch`` owes for these.

    Args:
        stretch: the operations.
        tangents: one per input; None is zero.
        seed: of the perturbations.

    Raises:
        Unexplained: with the reason.
    """
    if stretch.call is not None:
        _refuse_opaque(stretch)
    given = [_wide(t, ref) for t, ref in zip(tangents, stretch.inputs, strict=True)]
    primals = [to_engine_array(ref) for ref in stretch.inputs]
    outputs, expected = _push(stretch, primals, given, None, None)
    rng = np.random.default_rng(seed)
    samples: dict[float, list[tuple[list[Array | None], list[Array | None]]]] = {}

    def sampled(eps: float, count: int) -> list[tuple[list[Array | None], list[Array | None]]]:
        known = samples.setdefault(eps, [])
        while len(known) < count:
            known.append(_push(stretch, primals, given, eps, rng))
        return known

    def spread(kind: int, exact: list[Array | None], slot: int, eps: float, count: int) -> Array:
        centre = exact[slot]
        assert centre is not None
        found = [sample[kind][slot] for sample in sampled(eps, count)]
        return measured_spread([np.asarray(s) for s in found if s is not None], centre)

    return LocalTangents(
        expected,
        outputs,
        lambda slot, eps, count: spread(1, expected, slot, eps, count),
        lambda slot, eps, count: spread(0, outputs, slot, eps, count),
        lambda slot: _slopes(stretch, primals, given, slot),
    )


def _wide(tangent: Array | None, ref: TensorRef) -> Array:
    kind = np.complex128 if ref.dtype.startswith("complex") else np.float64
    if tangent is None:
        return np.zeros(ref.shape, kind)
    if tangent.shape != ref.shape:
        raise Unexplained(
            f"a tangent of shape {list(tangent.shape)} belongs to an input of shape {list(ref.shape)}"
        )
    return tangent.astype(kind, copy=False)


def _refuse_opaque(stretch: Stretch) -> None:
    """A forward through which values flow outside recorded operations cannot be differentiated by replaying it."""
    assert stretch.call is not None
    if stretch.call.shared_memory:
        raise Unexplained(stretch.call.shared_memory)
    own = {ref.storage for ref in stretch.inputs}
    for op in stretch.ops:
        for ref in tensor_arguments(op):
            if not is_differentiable(ref.dtype):
                continue
            if op.name == "aten::_local_scalar_dense":
                raise Unexplained(
                    f"the forward of {stretch.name} reads a tensor as a Python number, so values flow around the "
                    "recorded operations"
                )
            if not ref.known and ref.storage not in own:
                raise Unexplained(
                    f"the forward of {stretch.name} uses a {ref.describe()} tensor whose origin was not recorded "
                    "(NumPy, C++ or made before the run), so values may flow around the recorded operations"
                )


def _push(
    stretch: Stretch,
    primals: Sequence[Array],
    tangents: Sequence[Array],
    eps: float | None,
    rng: np.random.Generator | None,
) -> tuple[list[Array | None], list[Array | None]]:
    """Values and tangents of every output, optionally in Monte-Carlo arithmetic."""
    noisy: AbstractContextManager[None] = nullcontext()
    if eps is not None and rng is not None:
        noisy = perturbed(eps, rng)
        jitter = Perturbation(eps, rng)
        primals, tangents = [jitter(p) for p in primals], [jitter(t) for t in tangents]
    present: list[bool] = []

    def function(*inputs: Tensor) -> tuple[Tensor, ...]:
        found = _run(stretch, inputs)
        present[:] = [isinstance(value, Tensor) for value in found]
        return tuple(value if isinstance(value, Tensor) else Tensor(0.0) for value in found)

    try:
        with np.errstate(all="ignore"), noisy:
            values, pushed = engine_jvp(function, [Tensor(p) for p in primals], [Tensor(t) for t in tangents])
    except EngineError as error:
        raise Unexplained(f"{stretch.name}: {error}") from error
    return (
        [v.data if there else None for v, there in zip(values, present)],
        [t.data if there else None for t, there in zip(pushed, present)],
    )


def _run(stretch: Stretch, inputs: Sequence[Tensor]) -> list[Any]:
    """The engine's value of every output; None for one that is not of a differentiable kind."""
    op = stretch.ops[0] if stretch.ops else None
    memory = Memory()
    if stretch.call is None and op is not None and not moves_memory_only(op) and not looks_anew(op):
        return _single(stretch, op, inputs)
    bound: set[tuple[int, Any]] = set()
    for ref, value in zip(stretch.inputs, inputs):
        if (ref.storage, ref.geometry) not in bound:
            bound.add((ref.storage, ref.geometry))
            memory.bind(ref, value)
    produced: dict[tuple[int, int], Any] = {}
    if stretch.call is not None:
        for inner in stretch.ops:
            execute(inner, memory, produced)
    found: list[Any] = []
    for wanted in stretch.outputs:
        if wanted is None or not is_differentiable(wanted.dtype):
            found.append(None)
            continue
        result = produced.get(wanted.edge) if wanted.edge is not None else None
        before = len(memory.constants)
        if result is None:
            result = memory.read(wanted)
        if len(memory.constants) > before:
            raise Unexplained(
                f"a result of {stretch.name} was not made by recorded operations (NumPy, C++ or a Python number "
                "in between)"
            )
        found.append(result)
    return found


def _single(stretch: Stretch, op: OpRecord, inputs: Sequence[Tensor]) -> list[Any]:
    by_ref = {id(ref): value for ref, value in zip(stretch.inputs, inputs)}

    def read(ref: TensorRef) -> Any:
        known = by_ref.get(id(ref))
        if known is not None:
            return known
        array = to_engine_array(ref)
        return Tensor(array) if array.dtype.kind in "fc" else array

    try:
        results = compute(op, read)
    except NoMeaningError as error:
        raise Unexplained(str(error)) from error
    by_result: Mapping[int, Any] = {id(ref): value for ref, value in results}
    return [
        None if ref is None or not is_differentiable(ref.dtype) else by_result.get(id(ref))
        for ref in stretch.outputs
    ]


def _slopes(
    stretch: Stretch, primals: Sequence[Array], tangents: Sequence[Array], slot: int
) -> Slopes | None:
    """Central differences of one output along the tangents on four steps, extrapolated once; from the definition."""
    if any(op.name.startswith(_KNOWN_AT_ONE_POINT) for op in stretch.ops):
        return None
    size = max((float(np.abs(p).max()) for p in primals if p.size), default=1.0)
    move = max((float(np.abs(t).max()) for t in tangents if t.size), default=0.0)
    if not (np.isfinite(size) and np.isfinite(move) and move > 0):
        return None

    def at(step: float) -> Array | None:
        with np.errstate(all="ignore"):
            moved = [Tensor(p + step * t) for p, t in zip(primals, tangents)]
            value = _run(stretch, moved)[slot]
        return value.data if isinstance(value, Tensor) else None

    centre = at(0.0)
    if centre is None:
        return None
    rounding = 8 * np.finfo(np.float64).eps * max(float(np.abs(centre).max(initial=0.0)), size)
    best: Slopes | None = None
    before: tuple[Array, Array] | None = None
    with np.errstate(all="ignore"):
        for exponent in (3, 4, 5, 6):
            step = max(size, 1e-8) / move * 10.0**-exponent
            plus, minus = at(step), at(-step)
            if plus is None or minus is None:
                return None
            left, right = (centre - minus) / step, (plus - centre) / step
            value, apart = (plus - minus) / (2 * step), np.abs(right - left)
            if before is not None:
                error = np.abs(value - before[0]) / 10.0 + rounding / step
                kink = (apart > 0.5 * before[1]) & (apart > 8 * rounding / step)
                now = Slopes((100.0 * value - before[0]) / 99.0, error, left, right, kink)
                best = now if best is None else _better(best, now)
            before = value, apart
    return best


def _better(one: Slopes, other: Slopes) -> Slopes:
    """Per element the estimate with the smaller error; one that is not finite loses."""
    chosen = ~(one.error <= other.error)
    return Slopes(
        *(
            np.where(chosen, getattr(other, name), getattr(one, name))
            for name in ("value", "error", "left", "right", "kink")
        )
    )

"""The free-running engine's testimony: the whole recording, forward and backward, from the leaves.

Agreement is judged against measured sensitivity: the same replay in Monte-Carlo arithmetic at the model's own
precision. Last-bit noise alone can move the gradients of a deep network by a lot (batch norm over two values), so this
witness informs and never accuses by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

from ..compare.overrides import judging
from ..compare.tolerance import coarsest_eps, judge, settles, settles_beside
from ..evidence import Array, Comparison, Outcome, Testimony, Trace
from ..replay import FreeRun, run_free
from ..replay.free import TOO_LATE
from ..replay.operations import floating_outputs
from ..replay.spread import measured_spread

__all__ = ["ReplayTestimony", "check_replay"]

Judged = tuple[Outcome, Comparison]

# A replay passes every value through many roundings in torch and none here.
_SLACK = 16.0
# One perturbed run tells the size of the noise, not its tails: a unit near a kink moves a gradient by a jump.
_SPREAD = 128.0


@dataclass(frozen=True)
class ReplayTestimony:
    """What the replay says.

    Attributes:
        gradients: one statement per leaf name.
        outputs: one statement per output of the model.
        errors: largest absolute difference of each leaf's gradient.
        reason: why it can say nothing, or "".
        operations: how many operations the engine ran.
        values: the engine's gradients by leaf name, float64 or complex128; None where it saw no path.
    """

    gradients: dict[str, Testimony] = field(default_factory=dict)
    outputs: tuple[Testimony, ...] = ()
    errors: dict[str, float] = field(default_factory=dict)
    reason: str = ""
    operations: int = 0
    values: dict[str, Array | None] = field(default_factory=dict)


def check_replay(
    trace: Trace, *, seed: int = 0, deadline: float | None = None, late: str = TOO_LATE
) -> ReplayTestimony:
    """Replay the trace and compare its outputs and leaf gradients with torch's.

    Args:
        trace: the recording.
        seed: of the perturbations.
        deadline: ``time.monotonic()`` by which it must be over.
        late: the reason that is given for what was left out because of it.
    """
    with judging(""):  # it accuses nobody, so no rule's tolerance is meant
        return _check_replay(trace, seed, deadline, late)


def _check_replay(trace: Trace, seed: int, deadline: float | None, late: str) -> ReplayTestimony:
    started = time.monotonic()
    if deadline is not None and started > deadline:
        return ReplayTestimony(reason=late)
    free = run_free(trace, deadline=deadline)
    if TOO_LATE in free.missing.values():
        return ReplayTestimony(reason=late, operations=free.operations)
    # In Monte-Carlo arithmetic every result is perturbed: that takes up to twice as long.
    too_late = deadline is not None and time.monotonic() + 2 * (time.monotonic() - started) > deadline
    surrogate = sorted(
        {f"{n.function.name}" for n in trace.nodes.values() if n.function and n.function.surrogate}
    )
    if free.missing or surrogate:
        reasons = list(dict.fromkeys(free.missing.values()))
        if surrogate:
            reasons.append(f"declared surrogate: {', '.join(surrogate)}")
        return ReplayTestimony(reason="; ".join(reasons[:3]), operations=free.operations)
    dtypes = {ref.dtype for op in trace.ops for ref in floating_outputs(op) if ref.edge is not None}
    eps, dtype = coarsest_eps(dtypes | {ref.dtype for ref in trace.leaf_values.values()})

    # What is all float32 is rounded as it is in torch by running it in float32, and that costs half.
    everything = {ref.dtype for op in trace.ops for ref in floating_outputs(op)} | dtypes
    narrow = everything | {ref.dtype for ref in trace.leaf_values.values()} == {"float32"}

    @lru_cache(maxsize=1)
    def perturbed() -> FreeRun:
        if narrow:
            return run_free(trace, narrow=True)
        return run_free(trace, eps=eps, seed=seed)

    def compared(value: Array, array: Array | None, sample: Callable[[FreeRun], Array | None]) -> Judged:
        settled = None
        if not too_late and (measured or settles(value, array, dtype=dtype, slack=_SLACK) is None):
            measured.append(True)
            settled = settles_beside(
                value, array, sample(perturbed()), dtype=dtype, slack=_SLACK, spread=_SPREAD
            )
        if settled is not None:
            return Outcome.AGREE, settled
        return judge(
            value,
            array,
            dtype=dtype,
            noise=None if too_late else lambda: _spread(value, sample(perturbed())),
            slack=_SLACK,
            spread=_SPREAD,
            explain=False,
        )

    measured: list[bool] = []
    outputs = []
    for number, root in enumerate(trace.roots):
        value = free.outputs[number]
        if value is None or root.value is None:
            continue
        outcome, comparison = compared(value, root.value.source.array(), _output(number))
        said = Testimony("replay", f"output {number}", outcome, comparison)
        outputs.append(_without_noise(said, late) if too_late else said)
    gradients: dict[str, Testimony] = {}
    errors: dict[str, float] = {}
    for name, actual in trace.leaf_gradients.items():
        expected = free.gradients.get(name)
        array = None if actual is None else actual.array()
        subject = f"gradient of {name}"
        if expected is None:
            nothing = array is None or not np.any(array)
            gradients[name] = Testimony(
                "replay",
                subject,
                Outcome.AGREE if nothing else Outcome.INCONCLUSIVE,
                reason="" if nothing else "the engine saw no path to it",
            )
            continue
        if array is not None and array.dtype.kind == "c" and expected.dtype.kind != "c":
            array = array.real
        outcome, comparison = compared(expected, array, _gradient(name))
        said = Testimony("replay", subject, outcome, comparison)
        gradients[name] = _without_noise(said, late) if too_late else said
        errors[name] = comparison.max_error
    return ReplayTestimony(gradients, tuple(outputs), errors, "", free.operations, free.gradients)


def _without_noise(testimony: Testimony, late: str) -> Testimony:
    """A difference that nobody had the time to compare with the noise says nothing."""
    if testimony.outcome is not Outcome.DISAGREE:
        return testimony
    return replace(testimony, outcome=Outcome.INCONCLUSIVE, reason=f"{late} before its noise was measured")


def _output(number: int) -> Callable[[FreeRun], Array | None]:
    return lambda run: run.outputs[number]


def _gradient(name: str) -> Callable[[FreeRun], Array | None]:
    return lambda run: run.gradients[name]


def _spread(exact: Array, sample: Array | None) -> Array:
    return np.zeros(exact.shape) if sample is None else measured_spread([sample], exact)

"""The free-running engine's testimony: the whole recording, forward and backward, from the leaves.

Agreement is judged against measured sensitivity: the same replay in Monte-Carlo arithmetic at the model's own
precision. Last-bit noise alone can move the gradients of a deep network by a lot (batch norm over two values), so this
witness informs and never accuses by itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache, partial

import numpy as np

from ..compare.tolerance import coarsest_eps, judge
from ..evidence import Array, Outcome, Testimony, Trace
from ..replay import FreeRun, run_free
from ..replay.operations import floating_outputs
from ..replay.spread import measured_spread

__all__ = ["ReplayTestimony", "check_replay"]

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
    """

    gradients: dict[str, Testimony] = field(default_factory=dict)
    outputs: tuple[Testimony, ...] = ()
    errors: dict[str, float] = field(default_factory=dict)
    reason: str = ""
    operations: int = 0


def check_replay(trace: Trace, *, seed: int = 0) -> ReplayTestimony:
    """Replay the trace and compare its outputs and leaf gradients with torch's."""
    free = run_free(trace)
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

    @lru_cache(maxsize=1)
    def perturbed() -> FreeRun:
        return run_free(trace, eps=eps, seed=seed)

    def output_noise(value: Array, number: int) -> Array:
        return _spread(value, perturbed().outputs[number])

    def gradient_noise(value: Array, name: str) -> Array:
        return _spread(value, perturbed().gradients[name])

    outputs = []
    for number, root in enumerate(trace.roots):
        value = free.outputs[number]
        if value is None or root.value is None:
            continue
        outcome, comparison = judge(
            value,
            root.value.source.array(),
            dtype=dtype,
            noise=partial(output_noise, value, number),
            slack=_SLACK,
            spread=_SPREAD,
            explain=False,
        )
        outputs.append(Testimony("replay", f"output {number}", outcome, comparison))
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
        outcome, comparison = judge(
            expected,
            array,
            dtype=dtype,
            noise=partial(gradient_noise, expected, name),
            slack=_SLACK,
            spread=_SPREAD,
            explain=False,
        )
        gradients[name] = Testimony("replay", subject, outcome, comparison)
        errors[name] = comparison.max_error
    return ReplayTestimony(gradients, tuple(outputs), errors, "", free.operations)


def _spread(exact: Array, sample: Array | None) -> Array:
    return np.zeros(exact.shape) if sample is None else measured_spread([sample], exact)

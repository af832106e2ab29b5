"""The gradients of one program that ran in two ways (on two devices, compiled and not): how far may they lie apart?

Both runs round everywhere, in other orders and perhaps in other precisions. What that can do to each element of each
gradient is measured on the recording, in Monte-Carlo arithmetic from the leaves (``replay/free.py``); how far a run lies
from its own repetition is added to it. Where the recording cannot be replayed, agreement can still be seen, but nobody is
accused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from ..compare.tolerance import EPS, ULPS, coarsest_eps, judge
from ..evidence import Array, Comparison, OpRecord, Outcome, TensorRef, Testimony, Trace
from ..replay import FreeRun, run_free
from ..replay.operations import floating_outputs
from ..replay.spread import measured_spread

__all__ = ["Apart", "Noise", "apart", "as_array", "gradients_of", "precision_of"]

# As for the replay: many roundings in each of the runs. Half precisions start at four units anyway.
_SLACK = 16.0
_SPREAD = 16.0
# In half precisions Monte-Carlo arithmetic moves every result by twice what rounding does; sixteen would excuse anything.
_HALF_SPREAD = 4.0
_FIRST_SAMPLES = 2
# Before accusing: a unit near a kink moves a gradient by a jump, in one sample out of several.
_MORE_SAMPLES = 10


def as_array(tensor: torch.Tensor) -> Array:
    """A gradient in double precision, in this machine's memory."""
    value = tensor.detach()
    if value.layout is not torch.strided:
        value = value.to_dense()
    wide = torch.complex128 if value.is_complex() else torch.float64
    array: Array = value.to("cpu").to(wide).resolve_conj().resolve_neg().numpy().copy()
    return array


def gradients_of(
    outputs: Sequence[torch.Tensor], cotangents: Sequence[torch.Tensor], leaves: Mapping[str, torch.Tensor]
) -> dict[str, Array | None]:
    """A plain backward, unrecorded; the leaves' ``.grad`` is not touched."""
    tracked = [(o, c.to(o.device, o.dtype)) for o, c in zip(outputs, cotangents) if o.requires_grad]
    if not tracked:
        return dict.fromkeys(leaves)
    found = torch.autograd.grad(
        [o for o, _ in tracked], list(leaves.values()), [c for _, c in tracked], allow_unused=True
    )
    return {name: None if g is None else as_array(g) for name, g in zip(leaves, found)}


def precision_of(*traces: Trace, tensor_float: bool = False) -> str:
    """The coarsest precision on the gradient path of any of these recordings."""
    dtypes = {"tfloat32"} if tensor_float else set()
    for trace in traces:
        dtypes |= {ref.dtype for op in trace.ops for ref in floating_outputs(op) if ref.edge is not None}
        dtypes |= {ref.dtype for ref in trace.leaf_values.values()}
    _, dtype = coarsest_eps(dtypes)
    return dtype


class Noise:
    """What rounding does to the gradients of a recording, measured when first asked.

    Args:
        trace: the recording.
        seed: of the perturbations.
    """

    def __init__(self, trace: Trace, seed: int) -> None:
        self._trace = trace
        self._seed = seed
        self._exact: FreeRun | None = None
        self._samples: dict[float, list[FreeRun]] = {}

    @property
    def unavailable(self) -> str:
        """Why it cannot be measured, or ""."""
        if self._exact is None:
            self._exact = run_free(self._trace)
        return "; ".join(dict.fromkeys(self._exact.missing.values()))

    def of(self, name: str, eps: float, count: int) -> Array:
        """How far ``count`` perturbed gradients of a leaf lie from the exact one, elementwise."""
        if self.unavailable or self._exact is None:
            raise ValueError(
                f"measuring the noise of {name} failed: {self.unavailable}. Ask `unavailable` first."
            )
        exact = self._exact.gradients.get(name)
        if exact is None:
            return np.zeros(())
        samples = self._samples.setdefault(eps, [])
        while len(samples) < count:
            samples.append(run_free(self._trace, eps=eps, seed=self._seed + 7 * len(samples) + 1))
        found = [g for g in (s.gradients.get(name) for s in samples[:count]) if g is not None]
        return measured_spread(found, exact) if found else np.zeros(exact.shape)


@dataclass(frozen=True)
class Apart:
    """How the gradients of two runs compare.

    Attributes:
        testimonies: by leaf.
        wrong: names of the leaves that are further apart than rounding explains, the worst first.
        unmeasured: why the noise of some could not be measured, or "".
    """

    testimonies: dict[str, Testimony] = field(default_factory=dict)
    wrong: tuple[str, ...] = ()
    unmeasured: str = ""


def apart(
    witness: str,
    where: str,
    expected: Mapping[str, Array | None],
    actual: Mapping[str, Array | None],
    repeated: Sequence[tuple[Mapping[str, Array | None], Mapping[str, Array | None]]],
    noise: Noise,
    precision: str,
) -> Apart:
    """Compare the gradients of a verified run with those of another.

    Args:
        witness: name of the witness.
        where: how the other run differs, for the subjects: ``"on cuda"``.
        expected, actual: by leaf, in double precision; None where there is none.
        repeated: pairs of runs that should be equal; what they differ by is granted as well.
        noise: of the verified run.
        precision: the coarsest one at work, see :func:`precision_of`.
    """
    testimonies: dict[str, Testimony] = {}
    worst: dict[str, float] = {}
    unmeasured = ""
    for name, gradient in expected.items():
        other = actual.get(name)
        known = gradient if gradient is not None else other
        if known is None:
            continue
        base = known if gradient is not None else np.zeros(known.shape)
        own = sum((_distance(a.get(name), b.get(name), base.shape) for a, b in repeated), np.zeros(()))

        def compared(
            count: int, name: str = name, base: Array = base, other: Array | None = other, own: Any = own
        ) -> tuple[Outcome, Comparison]:
            measured = _measure(noise, name, EPS[precision], count, own, base.shape)
            full = precision in ULPS
            return judge(
                base,
                other,
                dtype=precision,
                noise=measured,
                slack=_SLACK if full else 1.0,
                spread=_SPREAD if full else _HALF_SPREAD,
            )

        outcome, comparison = compared(_FIRST_SAMPLES)
        reason = ""
        if outcome is Outcome.DISAGREE:
            unmeasured = unmeasured or noise.unavailable
            if noise.unavailable:
                outcome, reason = Outcome.INCONCLUSIVE, f"its noise is not known: {noise.unavailable}"
            else:
                outcome, comparison = compared(_MORE_SAMPLES)
        testimonies[name] = Testimony(
            witness, f"gradient of {name} {where}", outcome, comparison, reason=reason
        )
        if outcome is Outcome.DISAGREE:
            worst[name] = comparison.error / comparison.tolerance if comparison.tolerance else float("inf")
    return Apart(testimonies, tuple(sorted(worst, key=lambda n: -worst[n])), unmeasured)


def _measure(
    noise: Noise, name: str, eps: float, count: int, own: Array, shape: tuple[int, ...]
) -> Callable[[], Array]:
    def measured() -> Array:
        rounding = np.zeros(()) if noise.unavailable else noise.of(name, eps, count)
        return np.broadcast_to(rounding + own, shape)

    return measured


def _distance(a: Array | None, b: Array | None, shape: tuple[int, ...]) -> Array:
    if a is None or b is None:
        return np.zeros(shape)
    distance: Array = np.abs(a - b)
    return distance


def silenced(found: Apart, reason: str) -> Apart:
    """The same, where what differs is not the gradients' fault."""
    return Apart(
        {
            name: replace(t, outcome=Outcome.INCONCLUSIVE, reason=reason)
            if t.outcome is Outcome.DISAGREE
            else t
            for name, t in found.testimonies.items()
        },
        (),
        reason if found.wrong else found.unmeasured,
    )


def same_draws(first: Sequence[OpRecord], second: Sequence[OpRecord]) -> bool:
    """Whether two runs drew the same random numbers."""
    ours, theirs = (_draws(ops) for ops in (first, second))
    return len(ours) == len(theirs) and all(
        a.name == b.name
        and all(x.shape == y.shape and _equal(x, y) for x, y in zip(_tensors(a), _tensors(b)))
        for a, b in zip(ours, theirs)
    )


def _draws(ops: Sequence[OpRecord]) -> list[OpRecord]:
    return [op for op in ops if op.random and op.phase == "forward"]


def _tensors(op: OpRecord) -> list[TensorRef]:
    return [r for r in (*op.outputs, *(after for _, after in op.written)) if isinstance(r, TensorRef)]


def _equal(a: TensorRef, b: TensorRef) -> bool:
    """Equal up to rounding: a dropout's kept values are scaled."""
    return bool(np.allclose(a.source.wide(), b.source.wide(), rtol=1e-2, atol=1e-2, equal_nan=True))


def first_difference(
    first: Sequence[OpRecord], second: Sequence[OpRecord], precision: str
) -> OpRecord | None:
    """The first operation of the second run whose result differs by much more than its arguments do; None if none."""
    eps = EPS[precision]
    seen, grown = (1e3 * eps, 100.0) if precision in ULPS else (8 * eps, 4.0)
    for a, b in zip(first, second):
        if a.name != b.name:
            # Another kernel may have another name; another line is another branch.
            return b if a.location != b.location else None
        results = _furthest(_tensors(a), _tensors(b))
        if results > seen:
            given = _furthest(*([r for r in op.args if isinstance(r, TensorRef)] for op in (a, b)))
            if results > grown * given:
                return b
    if len(first) != len(second):
        # One of them goes on after the other has ended.
        return max((first, second), key=len)[min(len(first), len(second))]
    return None


def _furthest(first: Sequence[TensorRef], second: Sequence[TensorRef]) -> float:
    """Largest distance relative to the largest entry, over tensors of the same place."""
    largest = 0.0
    for a, b in zip(first, second):
        if a.shape != b.shape or not a.dtype.startswith(("float", "bfloat", "complex")):
            continue
        x, y = a.source.wide(), b.source.wide()
        if not x.size:
            continue
        with np.errstate(all="ignore"):
            scale = float(np.nanmax(np.abs(x))) or 1.0
            largest = max(largest, float(np.nan_to_num(np.abs(x - y), nan=0.0, posinf=0.0).max()) / scale)
    return largest

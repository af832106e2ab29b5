"""What the engine says of the tangents that one operation or custom ``jvp`` returned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..compare.known_defects import KnownDefect
from ..compare.tolerance import accumulation, coarsest_eps, is_differentiable_dtype, judge, long_sum
from ..evidence import Array, Comparison, Outcome, TensorRef, Testimony
from ..replay.forward import LocalTangents, Slopes, Stretch, local_tangents
from ..replay.operations import floating_outputs
from ..replay.refusals import Unexplained

__all__ = ["FORWARD_DEFECTS", "HERMITIAN", "check_tangents", "is_hermitian", "is_vacuous"]

FORWARD_DEFECTS = (
    KnownDefect(
        "aten::logcumsumexp",
        "float",
        float("inf"),
        "its JVP loses early prefixes that are small beside a later maximum (pytorch issue 196705)",
    ),
    KnownDefect(
        "aten::triangular_solve",
        "",
        float("inf"),
        "its JVP also uses the triangle of the tangent that the operation does not read",
    ),
    KnownDefect(
        "aten::cholesky_inverse",
        "",
        float("inf"),
        "its JVP multiplies in the wrong order (pytorch issue 198017)",
    ),
)
"""JVPs of torch that are known to be wrong, though its backward is right."""

HERMITIAN = frozenset({"aten::_linalg_eigh", "aten::linalg_cholesky_ex", "aten::cholesky"})
"""They read one triangle of a matrix that is taken to be Hermitian; a tangent that is not has no meaning."""

# Before accusing: two samples of an element's noise may both be small by chance, twelve are not.
_MORE_SAMPLES = 12
# torch's algorithm may lose a few more digits than the engine's: below this many units in the last place a
# disagreement needs a second witness.
_HAIR = 1e3
_ACCUSED = "engine"


@dataclass(frozen=True)
class _Question:
    """One returned tangent."""

    stretch: Stretch
    local: LocalTangents
    slot: int
    subject: str
    dtype: str
    terms: float
    actual: Array

    def compare(self, expected: Array, samples: int) -> tuple[Outcome, Comparison]:
        eps, _ = coarsest_eps([self.dtype])
        grown = accumulation(self.terms, self.dtype)
        return judge(
            expected,
            self.actual,
            dtype=self.dtype,
            noise=lambda: _usable(self.local.noise(self.slot, eps, samples)) * grown,
            slack=long_sum(self.terms, self.dtype),
        )

    def is_rough(self, index: tuple[int, ...]) -> bool:
        """Whether rounding alone takes this element out of the operation's domain."""
        eps, _ = coarsest_eps([self.dtype])
        return not np.isfinite(self.local.noise(self.slot, eps, 2)[index])


def _usable(noise: Array) -> Array:
    """A perturbed exponent makes a power of a negative number NaN; that excuses no more than the other elements' noise."""
    known = np.isfinite(noise)
    return noise if known.all() else np.where(known, noise, noise[known].max(initial=0.0))


def is_vacuous(tangents: Sequence[Array | None]) -> bool:
    """Whether every tangent that came in is zero: any JVP would pass."""
    return not any(t is not None and np.any(t) for t in tangents)


def is_hermitian(matrix: Array) -> bool:
    """Whether a batch of matrices equals its conjugate transpose, but for rounding."""
    if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2]:
        return False
    other = np.conj(np.swapaxes(matrix, -1, -2))
    largest = float(np.abs(matrix).max(initial=0.0))
    return bool(np.abs(matrix - other).max(initial=0.0) <= 1e-2 * largest)


def check_tangents(
    stretch: Stretch,
    received: Sequence[Array | None],
    returned: Sequence[Array | None],
    tracked: Sequence[bool],
    *,
    seed: int = 0,
) -> list[Testimony]:
    """Are the tangents that came out the JVP of what was computed?

    Args:
        stretch: the operations, with what was recorded of their inputs and outputs.
        received: one per input; None is zero.
        returned: one per output of the stretch; None is zero.
        tracked: per output, whether it is differentiable; one that is not may keep no tangent.
        seed: of perturbations.

    Returns:
        One statement per output that can carry a tangent; one inconclusive statement where nothing can be said.
    """
    structured = stretch.call is None and any(op.name in HERMITIAN for op in stretch.ops)
    if structured and not all(t is None or is_hermitian(t) for t in received):
        reason = "its input is taken to be symmetric, and the tangent that reached it is not"
        return [Testimony(_ACCUSED, f"JVP of {stretch.name}", Outcome.INCONCLUSIVE, reason=reason)]
    try:
        local = local_tangents(stretch, received, seed=seed)
    except Unexplained as error:
        return [Testimony(_ACCUSED, f"JVP of {stretch.name}", Outcome.INCONCLUSIVE, reason=str(error))]
    _, dtype = coarsest_eps(_dtypes(stretch))
    found: list[Testimony] = []
    for slot, (ref, actual) in enumerate(zip(stretch.outputs, returned)):
        differentiable = slot < len(tracked) and tracked[slot]
        if actual is None and not differentiable:
            continue
        subject = f"tangent {slot} of {stretch.name}" if len(returned) > 1 else f"tangent of {stretch.name}"
        expected = local.tangents[slot]
        if ref is None or expected is None:
            reason = "what it belongs to was not recorded"
            if ref is None or is_differentiable_dtype(ref.dtype):
                found.append(Testimony(_ACCUSED, subject, Outcome.INCONCLUSIVE, reason=reason))
            continue
        missing = actual is None
        given = np.zeros(expected.shape) if actual is None else actual
        if given.dtype.kind == "c" and not ref.dtype.startswith("complex"):
            given = given.real
        question = _Question(stretch, local, slot, subject, dtype, _terms(stretch, expected), given)
        found.append(_answer(question, ref, expected, "it returned no tangent (None)" if missing else ""))
    return found


def _answer(question: _Question, ref: TensorRef, expected: Array, remark: str) -> Testimony:
    local, slot, subject = question.local, question.slot, question.subject
    value, recorded = local.outputs[slot], ref.source.array()
    assert value is not None
    eps, _ = coarsest_eps([question.dtype])
    outcome = Outcome.AGREE
    for samples in (2, _MORE_SAMPLES):
        outcome, comparison = judge(
            value,
            recorded,
            dtype=question.dtype,
            noise=partial(local.output_noise, slot, eps, samples),
            slack=4.0,
            explain=False,
        )
        if outcome is not Outcome.DISAGREE:
            break
    if outcome is Outcome.DISAGREE:
        reason = "the engine's forward value differs from torch's, so it cannot speak about the tangent"
        return Testimony(_ACCUSED, subject, Outcome.INCONCLUSIVE, comparison, reason=reason)
    beyond = np.zeros((), bool)
    if question.actual.shape == expected.shape:
        # Where the value itself is infinite or NaN no slope is defined.
        beyond = np.isnan(question.actual) & ~np.isfinite(recorded)
        if beyond.any():
            expected = np.where(beyond, np.nan, expected)
    outcome, comparison = question.compare(expected, 2)
    if outcome is Outcome.DISAGREE:
        outcome, comparison = question.compare(expected, _MORE_SAMPLES)
    if outcome is not Outcome.DISAGREE:
        reason = "the engine has no finite value for some elements" if outcome is Outcome.INCONCLUSIVE else ""
        return Testimony(_ACCUSED, subject, outcome, comparison, reason=reason)
    return _second_opinion(question, expected, comparison, remark)


def _second_opinion(question: _Question, expected: Array, comparison: Comparison, remark: str) -> Testimony:
    """Before accusing: is it at a kink, off by a hair, or do differences contradict the engine?"""
    subject = question.subject

    def say(outcome: Outcome, numbers: Comparison, reason: str, value: float | None = None) -> Testimony:
        return Testimony(_ACCUSED, subject, outcome, numbers, reason=reason, value=value)

    if question.actual.shape != expected.shape:
        return say(Outcome.DISAGREE, comparison, remark)
    try:
        slopes = question.local.slopes(question.slot)
    except Unexplained:
        slopes = None
    ulp = coarsest_eps([question.dtype])[0] * comparison.scale
    hair = (
        f"they differ by {comparison.error / ulp if ulp else 0:.0f} units in the last place of the largest element: more "
        "than the operation's own noise, too little for a finite difference to settle"
    )
    if slopes is None or not np.isfinite(slopes.value[comparison.index]):
        if comparison.error <= _HAIR * ulp:
            return say(Outcome.INCONCLUSIVE, comparison, hair)
        if question.is_rough(comparison.index):
            reason = "the operation is at the edge of its domain here, where no difference can be taken"
            return say(Outcome.INCONCLUSIVE, comparison, reason)
        return say(Outcome.DISAGREE, comparison, remark)
    chosen = slopes.kink & _between(slopes, question.actual)
    if chosen.any():
        outcome, further = question.compare(np.where(chosen, question.actual, expected), _MORE_SAMPLES)
        if outcome is not Outcome.DISAGREE:
            reason = f"at {int(chosen.sum())} kinks: torch's choice lies between the one-sided slopes"
            return say(outcome, comparison, reason)
        comparison = further
    index = comparison.index
    e, a = complex(expected[index]), complex(question.actual[index])
    value, error = complex(slopes.value[index]), float(slopes.error[index])
    if not np.isfinite([e, a]).all():
        return say(Outcome.DISAGREE, comparison, remark)
    if error >= abs(e - a) / 4 and comparison.error <= _HAIR * ulp:
        return say(Outcome.INCONCLUSIVE, comparison, hair)
    if not bool(slopes.kink[index]) and abs(value - e) > 3 * error + abs(e - a) / 2:
        reason = "the engine and a finite difference of the forward contradict each other here"
        return say(Outcome.INCONCLUSIVE, comparison, reason, value.real)
    confirmed = error < abs(e - a) / 4 and not value.imag
    return say(Outcome.DISAGREE, comparison, remark, value.real if confirmed else None)


def _between(slopes: Slopes, actual: Array) -> Array:
    """Where a tangent lies between the one-sided slopes, by real and imaginary part."""

    def within(left: Array, right: Array, found: Array) -> Array:
        margin = 0.05 * np.abs(right - left)
        return np.asarray(
            (np.minimum(left, right) - margin <= found) & (found <= np.maximum(left, right) + margin)
        )

    return np.asarray(
        within(slopes.left.real, slopes.right.real, actual.real)
        & within(slopes.left.imag, slopes.right.imag, actual.imag)
    )


def _dtypes(stretch: Stretch) -> list[str]:
    refs = [*stretch.inputs, *(ref for ref in stretch.outputs if ref is not None)]
    if stretch.call is not None:
        refs.extend(ref for op in stretch.ops for ref in floating_outputs(op))
    return [ref.dtype for ref in refs]


def _terms(stretch: Stretch, tangent: Array) -> float:
    """About how many terms were added up for one element: of a plain sum, or of a contraction of two inputs."""
    size = max(tangent.size, 1)
    sizes = sorted((int(np.prod(ref.shape)) for ref in stretch.inputs), reverse=True)
    for op in stretch.ops if stretch.call is None else ():
        sizes = sorted(
            [*sizes, *(int(np.prod(v.shape)) for v in op.args if isinstance(v, TensorRef))], reverse=True
        )
    largest = sizes[0] if sizes else 1
    other = sizes[1] if len(sizes) > 1 else 1
    return max(largest / size, float(np.sqrt(largest * other / size)))

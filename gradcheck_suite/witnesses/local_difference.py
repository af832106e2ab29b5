"""The local numerical derivative of one operation or custom Function: it is run again on moved inputs.

For what the engine cannot look into: an operation without a meaning and without a decomposition, a forward in NumPy
or C++. Central differences on a ladder of step sizes, extrapolated (Richardson), every estimate with its error; along
every element where the inputs are few, otherwise along random signed directions. What its own error bars do not support
it does not say: such elements are left open.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ..capture.origins import NodeOrigin
from ..compare.tolerance import EPS, SPREAD, coarsest_eps
from ..evidence import Array, ArraySource, NodeRecord
from ..replay import LocalDifference, LocalGradients, Unexplained, edge_groups
from ..replay.memory import to_engine_array
from .rerun import Rerun, rerun_of

__all__ = ["numerical_gradients"]

MOST_ELEMENTS = 64
DIRECTIONS = 8
# Powers of ten of the step, relative to the size of the input: down to the small ones only as long as that helps, which
# it does where one of many elements is near a kink.
LADDER = (-1.5, -2.0, -2.5, -3.0, -3.5, -4.0, -4.5, -5.0, -5.5, -6.0)
SHARP = 1e-8
# An estimate speaks only when what it would let pass is at most this share of the gradient.
RESOLUTION = 1e-2


class _Rung(NamedTuple):
    """Slopes over one step, and how much rounding may have moved them."""

    step: float
    central: float
    left: float
    right: float
    rounding: float


def numerical_gradients(
    node: NodeRecord, cotangents: Sequence[ArraySource | None], origin: NodeOrigin | None, *, seed: int = 0
) -> LocalGradients:
    """The gradients that ``node`` owes for these cotangents, from differences of its forward.

    Gradients of large inputs come as their products with random directions, see ``LocalGradients.project``.

    Raises:
        Unexplained: the forward cannot be run again, does not repeat its result, or is too rough.
    """
    rerun = rerun_of(node, origin)
    weights = [None if c is None else c.array() for c in cotangents]
    groups = edge_groups(node)
    bases = [_base(node, group) for group in groups]
    wide = _repeats(node, rerun, bases, groups, weights)
    eps = (
        EPS["float64"]
        if wide
        else coarsest_eps([r.dtype for r in (*node.inputs, *node.outputs) if r is not None])[0]
    )
    rng = np.random.default_rng(seed)
    gradients: list[Array] = []
    errors: list[Array] = []
    directions: list[Array | None] = []

    def along(number: int) -> Callable[[Array], tuple[float, float]]:
        def evaluate(moved: Array) -> tuple[float, float]:
            values = [moved if i == number else base for i, base in enumerate(bases)]
            return _project(rerun, groups, values, weights, wide)

        return evaluate

    for number, base in enumerate(bases):
        hermitian = node.role == "op" and _is_hermitian(base)
        small = base.size * (2 if base.dtype.kind == "c" else 1) <= MOST_ELEMENTS and not hermitian
        chosen = _units(base) if small else _random_directions(base, rng)
        if hermitian:
            chosen = (chosen + np.conj(np.swapaxes(chosen, -1, -2))) / 2
        noise_level = _measured_noise(along(number), base, rng)
        expected, error = _differentiate(along(number), base, chosen, eps, noise_level)
        error = SPREAD * error
        if small:
            expected, error = _join(expected, base), _join(error, base, together=True)
        gradients.append(expected)
        errors.append(error)
        directions.append(None if small else chosen)
    _leave_open(gradients, errors, bases, weights)

    def project(number: int, actual: Array) -> Array:
        chosen = directions[number]
        if chosen is None or actual.shape != chosen.shape[1:]:
            return actual
        axes = tuple(range(1, chosen.ndim))
        return np.asarray(np.real(np.conj(chosen) * actual).sum(axis=axes))

    def noise(number: int, _: float, __: int = 2) -> Array:
        return errors[number] / SPREAD

    def difference(_: int, __: tuple[int, ...], ___: complex) -> LocalDifference | None:
        return None  # it would be the same estimate once more

    projected = any(chosen is not None for chosen in directions)
    return LocalGradients(
        gradients,
        groups,
        [],
        noise,
        noise,
        difference,
        how="numerical",
        project=project if projected else None,
    )


def _base(node: NodeRecord, group: tuple[int, ...]) -> Array:
    ref = node.inputs[group[0]] if group[0] < len(node.inputs) else None
    if ref is None:
        raise Unexplained(f"argument {group[0]} of {node.name} could not be matched with a recorded value")
    return to_engine_array(ref)


def _repeats(
    node: NodeRecord,
    rerun: Rerun,
    bases: Sequence[Array],
    groups: Sequence[tuple[int, ...]],
    weights: Sequence[Array | None],
) -> bool:
    """Whether the forward gives its recorded result again: in float64 (True), or only in its own precision (False)."""
    recorded = [None if ref is None else to_engine_array(ref) for ref in node.outputs]
    _, dtype = coarsest_eps([r.dtype for r in (*node.inputs, *node.outputs) if r is not None])
    reason = ""
    for wide in (True, False):
        try:
            outputs = rerun(dict(_by_position(groups, bases)), wide)
            again = rerun(dict(_by_position(groups, bases)), wide)
        except Unexplained as error:
            reason = str(error)
            continue
        differs = ""
        for slot, known in enumerate(recorded):
            value = outputs[slot] if slot < len(outputs) else None
            if known is None or value is None or slot >= len(weights) or weights[slot] is None:
                continue
            if value.shape != known.shape or not _equal(value, again[slot]):
                differs = "running its forward twice gives two results"
            elif not _close(value, known, EPS[dtype]):
                differs = "running its forward again gives another result than the recorded one"
        if not differs:
            return wide
        reason = differs
    raise Unexplained(reason)


def _equal(a: Array, b: Array | None) -> bool:
    return b is not None and np.array_equal(a, b, equal_nan=True)


def _close(value: Array, known: Array, eps: float) -> bool:
    finite = known[np.isfinite(known)]
    scale = float(np.abs(finite).max()) if finite.size else 0.0
    with np.errstate(all="ignore"):
        return bool(np.all((np.abs(value - known) <= 1e3 * eps * scale) | ~np.isfinite(known)))


def _by_position(groups: Sequence[tuple[int, ...]], values: Sequence[Array]) -> list[tuple[int, Array]]:
    return [(position, value) for group, value in zip(groups, values) for position in group]


def _project(
    rerun: Rerun,
    groups: Sequence[tuple[int, ...]],
    values: Sequence[Array],
    weights: Sequence[Array | None],
    wide: bool,
) -> tuple[float, float]:
    """<cotangent, forward>, and the sum of the magnitudes of its terms."""
    outputs = rerun(dict(_by_position(groups, values)), wide)
    total = magnitude = 0.0
    with np.errstate(all="ignore"):
        for slot, weight in enumerate(weights):
            if weight is None or slot >= len(outputs) or outputs[slot] is None:
                continue
            terms = np.real(np.conj(weight) * outputs[slot]).astype(np.float64)
            total += float(terms.sum())
            magnitude += float(np.abs(terms).sum())
    return total, magnitude


def _is_hermitian(base: Array) -> bool:
    """Whether an input is a Hermitian matrix: torch's operations on those read one triangle and mean both.

    A difference that leaves this set would be about another function than the one whose gradient torch documents.
    """
    square = base.ndim >= 2 and base.shape[-1] == base.shape[-2] > 1
    return square and np.allclose(base, np.conj(np.swapaxes(base, -1, -2)), rtol=1e-5, atol=0.0)


def _units(base: Array) -> Array:
    """Every element by itself; for complex inputs along the real and then along the imaginary axis."""
    ones = np.eye(base.size, dtype=base.dtype).reshape(base.size, *base.shape)
    return np.concatenate([ones, 1j * ones]) if base.dtype.kind == "c" else ones


def _join(values: Array, base: Array, *, together: bool = False) -> Array:
    """One value per element from one per direction of :func:`_units`."""
    if base.dtype.kind == "c":
        real, imaginary = values[: base.size], values[base.size :]
        values = np.maximum(real, imaginary) if together else real + 1j * imaginary
    return values.reshape(base.shape)


def _random_directions(base: Array, rng: np.random.Generator) -> Array:
    """Random signs with random magnitudes, so that no two elements can cancel in all of them."""
    shape = (DIRECTIONS, *base.shape)
    chosen: Array = rng.choice([-1.0, 1.0], shape) * rng.uniform(0.5, 1.5, shape)
    if base.dtype.kind == "c":
        chosen = chosen + 1j * rng.choice([-1.0, 1.0], shape) * rng.uniform(0.5, 1.5, shape)
    return np.asarray(chosen)


def _measured_noise(
    evaluate: Callable[[Array], tuple[float, float]], base: Array, rng: np.random.Generator
) -> float:
    """The noise of the forward itself: a float64 call may still compute in float32 somewhere inside.

    Method: high differences of values at closely spaced points, which a smooth function does not have; J. J. More and
    S. M. Wild, "Estimating Computational Noise", SIAM J. Sci. Comput. 33 (2011).
    """
    if not base.size:
        return 0.0
    spacing = 2.0**-17 * max(float(np.abs(base).max()), 1e-30)
    direction = rng.choice([-1.0, 1.0], base.shape)
    table = np.array([evaluate(base + k * spacing * direction)[0] for k in range(-4, 5)])
    if not np.isfinite(table).all():
        return 0.0
    largest = 0.0
    for order in range(1, 7):
        table = np.diff(table)
        if order >= 4:
            share = math.factorial(order) ** 2 / math.factorial(2 * order)
            largest = max(largest, float(np.sqrt(share * np.mean(np.square(table)))))
    return largest


def _differentiate(
    evaluate: Callable[[Array], tuple[float, float]],
    base: Array,
    directions: Array,
    eps: float,
    noise_level: float,
) -> tuple[Array, Array]:
    """Derivatives along the directions, and their errors; NaN and infinity where there is no finite value."""
    values, errors = np.full(len(directions), np.nan), np.full(len(directions), np.inf)
    centre, _ = evaluate(base)
    typical = float(np.sqrt(np.mean(np.square(np.abs(base))))) if base.size else 0.0
    for number, direction in enumerate(directions):
        involved = np.abs(base)[np.abs(direction) > 0]
        size = max(float(involved.max()) if involved.size else 0.0, 0.1 * typical)
        size = size if size > 0 else 1.0
        ladder: list[_Rung] = []
        for power in LADDER:
            # A step that is a power of two is added to most inputs without rounding.
            step = 2.0 ** round(np.log2(size * 10.0**power))
            ahead, terms = evaluate(base + step * direction)
            behind, other = evaluate(base - step * direction)
            rounding = 4.0 * (eps * max(terms, other) + noise_level) / step
            ladder.append(
                _Rung(
                    step,
                    (ahead - behind) / (2 * step),
                    (centre - behind) / step,
                    (ahead - centre) / step,
                    rounding,
                )
            )
            if len(ladder) >= 3:
                value, error = _extrapolate(*ladder[-3:])
                if error < errors[number]:
                    values[number], errors[number] = value, error
                if errors[number] <= SHARP * abs(values[number]) or rounding > 1e-3 * (
                    abs(values[number]) + rounding
                ):
                    break
    return values, errors


def _extrapolate(coarse: _Rung, middle: _Rung, fine: _Rung) -> tuple[float, float]:
    """The finer of two Richardson extrapolations, and its error from the other one.

    At a kink the two one-sided slopes stay apart however small the step is; their distance is then the error.
    """
    first, second = _richardson(coarse, middle), _richardson(middle, fine)
    if not np.isfinite([first, second, fine.left, fine.right]).all():
        return np.nan, np.inf
    error = abs(second - first) + 2.0 * fine.rounding
    apart, before = abs(fine.right - fine.left), abs(coarse.right - coarse.left)
    # Of a smooth function it shrinks with the step.
    if apart > 0.5 * before and apart > 4.0 * fine.rounding:
        error = max(error, apart)
    return second, error


def _richardson(coarse: _Rung, fine: _Rung) -> float:
    ratio = (coarse.step / fine.step) ** 2
    return (ratio * fine.central - coarse.central) / (ratio - 1.0)


def _leave_open(
    gradients: list[Array], errors: list[Array], bases: Sequence[Array], weights: Sequence[Array | None]
) -> None:
    """NaN for every estimate whose error bar would let a visible error pass."""
    for number, base in enumerate(bases):
        finite = np.abs(gradients[number][np.isfinite(gradients[number])])
        scale = float(finite.max()) if finite.size else 0.0
        weight = max((float(np.abs(w).max()) for w in weights if w is not None and w.size), default=0.0)
        size = float(np.abs(base).max()) if base.size else 1.0
        scale = max(scale, 1e-6 * weight / max(size, 1e-30))
        unsettled = ~(errors[number] <= RESOLUTION * scale)
        gradients[number] = np.where(unsettled, np.nan, gradients[number])
        errors[number] = np.where(unsettled, 0.0, errors[number])
    if all(g.size and not np.isfinite(g).any() for g in gradients):
        raise Unexplained(
            "its forward is too rough for differences: no estimate is sharper than its own error"
        )

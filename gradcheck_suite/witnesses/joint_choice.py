"""Whether gradients at kinks and ties can be one choice together.

Of the maximum of two equal numbers either may get the whole gradient, but not both, be they elements of one input or of
two. What may be chosen are mixtures of the gradients right beside the point (F. H. Clarke, "Optimization and Nonsmooth
Analysis", 1983, section 2.5). The gradients beside it, with all elements at kinks moved at random, span an affine space that
holds all of these; a gradient outside it is none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ..compare.tolerance import SPREAD
from ..evidence import Array, Outcome, Testimony
from ..replay import LocalGradients

__all__ = ["MOST_PLACES", "NO_CHOICE", "accused_together", "one_choice"]

NO_CHOICE = 0.02
"""How far from all choices a gradient must be to be none of them, relative to the largest: half precisions round to 4e-3."""

MOST_PLACES = 96
"""Elements that are looked at together; each takes three more runs of the operation."""

# How far to the side of a kink gradients are taken, relative to the input; kinks further away are others. At a kink they jump
# by the same at a sixteenth of that.
_BESIDE = 1e-5
_NEARER = 1 / 16
# Units in the last place between two numbers that rounding does not make equal.
_CLEAR = 50.0
# What gradients beside a kink differ by relative to the largest, above which they are other choices.
_CURVED = 1e-3
_FIRST = (MOST_PLACES, 24, 6, 1)
# How often elements that move with others are looked for: of a tie of many, few moves show few.
_ROUNDS = 3

_NOT_TOGETHER = "at a kink or tie the gradients of its inputs together are no mixture of those right beside: no choice gives them"

Place = tuple[int, int]
"""A group, and the flat position of an element."""


def one_choice(
    local: LocalGradients,
    bases: Mapping[int, Array],
    actual: Mapping[int, Array],
    suspects: Mapping[int, Array],
    eps: float,
) -> bool | None:
    """Whether the gradient's elements at kinks can be one choice together; None where that cannot be told.

    Args:
        local: the engine's answer.
        bases: by group, the value of the input.
        actual: by group, torch's gradient; groups without one take no part.
        suspects: by group, flat positions of the elements that differ from the engine's choice.
        eps: of the coarsest precision at work.
    """
    around = local.around
    if around is None:
        return None
    known = {
        group: base
        for group, base in bases.items()
        if group in actual and actual[group].shape == base.shape == local.gradients[group].shape
    }
    if any(base.dtype.kind == "c" for base in known.values()) or not set(suspects) <= set(known):
        return None
    neighbourhood = _Neighbourhood(around, known, eps)
    asked = [(g, int(i)) for g, found in suspects.items() for i in found]
    places = neighbourhood.together(asked)
    if not places:
        return None
    held = neighbourhood.holds(places, local.gradients, actual)
    return (
        held if held is False or set(asked) <= set(places) else None
    )  # of a sample, only a fault is a proof


def accused_together(
    local: LocalGradients,
    bases: Mapping[int, Array],
    actual: Mapping[int, Array],
    said: Sequence[Testimony],
    eps: float,
) -> list[Testimony]:
    """The statements about a node's inputs, each by itself right, once they are looked at together.

    Args:
        local, bases, actual, eps: see :func:`one_choice`.
        said: by group.
    """
    suspects: dict[int, Array] = {}
    for group, testimony in enumerate(said):
        numbers = testimony.comparison
        if testimony.outcome is not Outcome.AGREE or numbers is None:
            return list(said)
        if group not in actual or actual[group].shape != local.gradients[group].shape:
            continue
        if numbers.max_error > NO_CHOICE * numbers.scale:
            error = np.abs(actual[group] - local.gradients[group]).reshape(-1)
            found = np.flatnonzero(error > NO_CHOICE * numbers.scale)
            if found.size:
                suspects[group] = found
    if not suspects or one_choice(local, bases, actual, suspects, eps) is not False:
        return list(said)
    group = max(suspects, key=lambda g: float(np.abs(actual[g] - local.gradients[g]).max()))
    numbers = said[group].comparison
    assert numbers is not None
    error = np.abs(actual[group] - local.gradients[group])
    index = tuple(int(i) for i in np.unravel_index(int(np.argmax(error)), error.shape))
    exact = replace(
        numbers,
        index=index,
        differing=int(suspects[group].size),
        expected=local.gradients[group][index].item(),
        actual=actual[group][index].item(),
        error=float(error[index]),
        tolerance=NO_CHOICE * numbers.scale,
    )
    accusation = replace(said[group], outcome=Outcome.DISAGREE, comparison=exact, reason=_NOT_TOGETHER)
    return [accusation if number == group else testimony for number, testimony in enumerate(said)]


class _Neighbourhood:
    """Gradients beside the point, at the elements that are asked for."""

    def __init__(self, around: Callable[..., list[Array]], bases: Mapping[int, Array], eps: float) -> None:
        self._around = around
        self._bases = bases
        self._eps = eps
        self._rng = np.random.default_rng(0)

    def together(self, suspects: Sequence[Place]) -> list[Place]:
        """Some of the suspects with all elements whose gradients move with theirs; empty where these are too many."""
        for count in _FIRST:
            chosen = list(suspects)
            if len(chosen) > count:
                picked = self._rng.choice(len(chosen), count, replace=False)
                chosen = [suspects[i] for i in sorted(picked)]
            places = sorted(chosen)
            for _ in range(_ROUNDS):
                more = self._moving_with(places)
                if not more or len(places) > MOST_PLACES:
                    break
                places = sorted({*places, *more})
            if len(places) <= MOST_PLACES:
                return places
        return []

    def _moving_with(self, places: Sequence[Place]) -> set[Place]:
        """Further elements whose gradients jump where these are moved."""
        found = [self._gradients(places, move) for move in self._moves(6, len(places))]
        more: set[Place] = set()
        for group in self._bases:
            values = np.array([gradients[group].reshape(-1) for gradients in found])
            size = float(np.abs(values).max()) if values.size else 0.0
            if np.isfinite(size) and size:
                more |= {(group, int(i)) for i in np.flatnonzero(np.ptp(values, axis=0) > _CURVED * size)}
        return more - set(places)

    def holds(
        self, places: Sequence[Place], expected: Sequence[Array], actual: Mapping[int, Array]
    ) -> bool | None:
        """Whether torch's gradient lies in the affine space of those beside; None where the point is no clean kink."""

        def at(gradients: Mapping[int, Array] | Sequence[Array]) -> Array:
            return np.array([float(np.real(gradients[g].reshape(-1)[i])) for g, i in places])

        moves = self._moves(len(places) + 8, len(places))
        # Each once far above all others, and once far below.
        for sign in (1.0, -1.0):
            for number, move in enumerate(
                0.3 * np.array(self._moves(2 * len(places), len(places)))[: len(places)]
            ):
                move[number] = sign
                moves.append(move)
        given = np.array([at(self._gradients(places, move)) for move in moves])
        nearer = np.array([at(self._gradients(places, _NEARER * move)) for move in moves[:8]])
        found, own = at(actual), at(expected)
        size = max(float(np.abs(given).max()), float(np.abs(found).max()))
        if not np.isfinite(size) or size == 0.0 or not np.isfinite(nearer).all():
            return None
        if float(np.abs(nearer - given[:8]).max()) > 10 * _CURVED * size:
            return None  # a slope that turns within the step is no kink
        middle = given.mean(axis=0)
        _, widths, axes = np.linalg.svd((given - middle) / size, full_matrices=False)
        axes = axes[widths > _CURVED * np.sqrt(len(moves))]
        low, high = given.min(axis=0), given.max(axis=0)

        def away(gradient: Array) -> float:
            rest = (gradient - middle) / size
            rest = rest - axes.T @ (axes @ rest)
            outside = np.maximum(low - gradient, gradient - high).max() / size
            return max(float(np.abs(rest).max()), float(outside))

        # Far enough away for the noise to cross no kink.
        far = max(1.0, _CLEAR * self._eps / _BESIDE) * moves[0]
        exact, noisy = (at(self._gradients(places, far, eps)) for eps in (None, self._eps))
        margin = NO_CHOICE + SPREAD * float(np.abs(noisy - exact).max()) / size
        if away(found) <= margin:
            return True
        # Where the engine's own choice is none, its chain rule over kinks says nothing about others.
        return None if away(own) > margin else False

    def _moves(self, count: int, elements: int) -> list[Array]:
        half = self._rng.uniform(0.2, 1.0, (count // 2, elements)) * self._rng.choice(
            [-1.0, 1.0], (count // 2, elements)
        )
        return [*half, *-half]

    def _gradients(self, places: Sequence[Place], move: Array, eps: float | None = None) -> dict[int, Array]:
        moved: dict[int, Array] = {}
        for group, base in self._bases.items():
            here = [(number, i) for number, (g, i) in enumerate(places) if g == group]
            if not here:
                continue
            where = np.array([i for _, i in here], dtype=np.int64)
            value = np.array(base, dtype=np.float64).reshape(-1)
            typical = float(np.sqrt(np.mean(np.square(value))))
            step = _BESIDE * (max(float(np.abs(value[where]).max()), 0.1 * typical) or 1.0)
            value[where] += step * move[[number for number, _ in here]]
            moved[group] = value.reshape(base.shape)
        found = self._around(moved, eps)
        return {group: found[group] for group in self._bases}

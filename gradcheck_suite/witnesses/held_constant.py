"""Where differences and gradient part: the same again with deliberate stop-gradients held constant.

The gradient of ``loss(online(x), target(x).detach())`` is the derivative of the function in which the target does
not move. If differences of *that* function agree, the graph is the function, apart from what was declared. Otherwise
the values that leave the graph undeclared are held as well: those without which agreement is lost are the cause.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..capture.stops import StopGradients
from ..compare.cuts import Cut
from ..evidence import Outcome, Testimony
from .float64_world import World
from .looks import Look, glance

__all__ = ["Held", "hold_stops"]

_MOST_ASKED = 12
_MOST_LEAVES = 64
_WITH = "with deliberate stop-gradients held constant"


@dataclass(frozen=True)
class Held:
    """What holding values constant says; the fields are those of the finite differences' result."""

    testimonies: tuple[Testimony, ...]
    disagreeing: tuple[str, ...] = ()
    stops: tuple[Cut, ...] = ()
    stopped: tuple[str, ...] = ()
    cuts: tuple[Cut, ...] = ()


def hold_stops(
    world: World,
    names: Sequence[str],
    testimonies: Sequence[Testimony],
    wrong: Sequence[str],
    look: Callable[[Sequence[str]], Look],
    localise: Callable[[Sequence[str]], tuple[list[Testimony], list[str]]],
) -> Held | None:
    """Look again with values that leave the graph held constant.

    Args:
        world: at its base point; left without anything held.
        names: leaves that are moved jointly.
        testimonies, wrong: what plain differences said, and the leaves that disagreed by themselves.
        look: along a fresh direction.
        localise: leaf by leaf.

    Returns:
        None where this adds nothing: no value leaves the graph, or plain differences had no answer and neither has
        this.
    """
    try:
        stops = world.record_stops()
    except Exception:  # whatever the user's forward raises; plain differences stand
        return None
    deliberate = frozenset(i for i, place in enumerate(stops.exits) if place.deliberate)
    others = frozenset(range(len(stops.exits))) - deliberate
    if not stops.exits:
        return None
    world.stops = stops
    try:
        return _hold(world, stops, deliberate, others, names, testimonies, wrong, look, localise)
    finally:
        world.stops = None


def _hold(
    world: World,
    stops: StopGradients,
    deliberate: frozenset[int],
    others: frozenset[int],
    names: Sequence[str],
    plain: Sequence[Testimony],
    wrong: Sequence[str],
    look: Callable[[Sequence[str]], Look],
    localise: Callable[[Sequence[str]], tuple[list[Testimony], list[str]]],
) -> Held | None:
    testimonies = list(plain)
    plainly_wrong = any(t.outcome is Outcome.DISAGREE for t in testimonies)
    told = names
    if deliberate:
        stops.held = deliberate
        looks = [look(names), look(names)]
        outcomes = {seen.outcome for seen in looks}
        testimonies = [_remark(seen.testimony, _WITH) for seen in looks]
        if outcomes == {Outcome.AGREE}:
            # Beside loud leaves a quiet one would drown: those in question are looked at by themselves.
            silent = [name for name in names if world.norms[name] == 0.0]
            each, still = localise(list(wrong) or silent)
            if not still:
                return Held(
                    tuple(testimonies),
                    stops=_needed(world, stops, deliberate, deliberate, names),
                    stopped=tuple(wrong) or _moved_alone(world, stops, names),
                )
            testimonies += each
            told = wrong = still
        elif outcomes == {Outcome.DISAGREE}:
            each, wrong = localise(names)
            testimonies += each
        else:
            return _unanswered(stops, plain) if plainly_wrong else None
        if stops.aliased:
            return _unanswered(stops, testimonies)
    elif not plainly_wrong:
        return None
    cuts: tuple[Cut, ...] = ()
    if others:
        stops.held = deliberate | others
        if _agrees(world, told, 0):
            cuts = _needed(world, stops, deliberate | others, others, told)
    return Held(tuple(testimonies), tuple(wrong), cuts=cuts)


def _needed(
    world: World, stops: StopGradients, held: frozenset[int], asked: frozenset[int], names: Sequence[str]
) -> tuple[Cut, ...]:
    """Of the exits asked about, those without which agreement is lost; all of them where any other will do."""
    needed = []
    for index in sorted(asked)[:_MOST_ASKED]:
        stops.held = held - {index}
        if not _agrees(world, names, index + 1):
            needed.append(index)
    stops.held = held
    chosen = needed or sorted(asked)
    return tuple(Cut(stops.exits[i].kind, stops.exits[i].location, "") for i in chosen)


def _moved_alone(world: World, stops: StopGradients, names: Sequence[str]) -> tuple[str, ...]:
    """The leaves whose gradient is not the plain derivative."""
    held, stops.held = stops.held, frozenset()
    found = tuple(name for name in names[:_MOST_LEAVES] if not _agrees(world, [name], 1))
    stops.held = held
    return found


def _agrees(world: World, names: Sequence[str], seed: int) -> bool:
    return glance(world, names, "", seed) is not None


def _unanswered(stops: StopGradients, testimonies: Sequence[Testimony]) -> Held:
    if stops.strayed:
        doubt = (
            "the function takes another course when it is moved: its stop-gradients cannot be held constant"
        )
    elif stops.aliased:
        doubt = "a detached value shares its memory with one that is overwritten: it cannot be held constant"
    else:
        doubt = "with the deliberate stop-gradients held constant, differences give no answer"
    return Held(
        tuple(
            _remark(dataclasses.replace(t, outcome=Outcome.INCONCLUSIVE), doubt)
            if t.outcome is Outcome.DISAGREE
            else t
            for t in testimonies
        )
    )


def _remark(testimony: Testimony, text: str) -> Testimony:
    return dataclasses.replace(testimony, reason=f"{text}; {testimony.reason}" if testimony.reason else text)

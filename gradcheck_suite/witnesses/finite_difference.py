"""The witness of the whole function: directional finite differences against autograd, in float64.

It sees what autograd and the engine are blind to: a value that reaches the output around autograd. The model
    runs in a
float64 world of its own, and autograd's gradient *of that world* is what is compared: float32 and float64
draw other random numbers and fall on other sides of a kink, and a gradient must be compared with the function
it belongs to.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..capture.inputs import PreparedCall
from ..capture.state import preserved, rng_frozen
from ..compare.differences import Difference, Slope, estimate_slope, judge_slope
from ..evidence import Outcome, Testimony
from .float64_world import DOUBLE, Abstain, World, build, inner, norm, settle, signs

__all__ = ["FiniteDifferenceResult", "finite_difference"]

_WITNESS = "finite_difference"
_MOST_LOCALISED = 64
_LEVELS = 4
_MOST_SHRINKS = 6


@dataclass(frozen=True)
class FiniteDifferenceResult:
    """What the differences say.

    Attributes:
        testimonies: one per direction over all leaves (or over a group of them), then one per leaf if those
            disagreed.
        disagreeing: names of the leaves whose own directional derivative disagrees; empty unless the whole
            does.
        precision: ``"float64"`` or the precision the model insists on; "" when nothing could be run.
        evaluations: how often the model was run.
        notes: what was done differently from usual, for the report.
    """

    testimonies: tuple[Testimony, ...]
    disagreeing: tuple[str, ...] = ()
    precision: str = ""
    evaluations: int = 0
    notes: tuple[str, ...] = ()

    @property
    def outcome(self) -> Outcome:
        """DISAGREE if any testimony does, else AGREE if any does, else INCONCLUSIVE."""
        outcomes = {t.outcome for t in self.testimonies}
        for outcome in (Outcome.DISAGREE, Outcome.AGREE):
            if outcome in outcomes:
                return outcome
        return Outcome.INCONCLUSIVE


@dataclass(frozen=True)
class _Look:
    outcome: Outcome
    testimony: Testimony
    cause: str = ""


def _direction(world: World, names: Sequence[str], seed: int) -> dict[str, Tensor]:
    """Random signed steps of each leaf's own scale, those of loud leaves damped.

    Without the damping one leaf whose gradient is 10^6 times the others' would drown them all.
    """
    generator = torch.Generator().manual_seed(seed)
    loudness = {name: norm(world.gradients[name]) * world.scales[name] for name in names}
    loudest = max(loudness.values(), default=0.0)
    quiet = min((value for value in loudness.values() if value > 1e-4 * loudest), default=0.0)
    move = {}
    for name in names:
        damping = quiet / loudness[name] if loudness[name] > quiet > 0 else 1.0
        move[name] = damping * world.scales[name] * signs(world.base[name], generator)
    return move


def _look(world: World, names: Sequence[str], subject: str, seed: int, deadline: float) -> _Look:
    """Compare differences along one direction with the gradient's inner product with it."""
    move = _direction(world, names, seed)
    expected = sum(inner(world.gradients[name], move[name]) for name in names)
    terms = math.hypot(*(norm(world.gradients[name] * move[name]) for name in names))
    precision = world.precision
    differences: list[Difference] = []
    step, shrinks, late = precision.start, 0, False
    slope: Slope | None = None
    while len(differences) < _LEVELS and shrinks <= _MOST_SHRINKS:
        if time.monotonic() > deadline:
            late = True
            break
        plus = world.change(move, step)
        minus = world.change(move, -step) if plus is not None else None
        if plus is None or minus is None:
            shrinks += 1
        else:
            differences.append(Difference(step, plus, minus))
            slope = estimate_slope(differences, world.noise)
            if (
                len(differences) >= 3
                and slope
                and slope.error <= 0.02 * precision.floor * max(terms, abs(slope.value))
            ):
                break
        step /= precision.ratio
    outcome, comparison, reason = judge_slope(
        slope, expected, terms, floor=precision.floor, limit=precision.limit
    )
    cause = ""
    if outcome is Outcome.INCONCLUSIVE:
        cause = "kink" if slope is not None and slope.kink else "domain" if shrinks else "error"
        if late:
            cause, reason = "budget", f"the time budget ran out; {reason or 'too few steps'}"
        elif shrinks and slope is None:
            reason += (
                f" (down to {step * precision.ratio:.1g} of each tensor's scale); it raises or is not finite"
            )
    elif precision is not DOUBLE:
        reason = (
            f"values pass through {precision.name}: compared to {comparison.tolerance / comparison.scale:.1g}"
            if comparison and comparison.scale
            else ""
        )
    elements = sum(world.base[name].numel() for name in names)
    speaks = f"speaks for the {'float64' if world.wide else precision.name} run, {elements} elements at once"
    testimony = Testimony(
        _WITNESS,
        subject,
        outcome,
        comparison,
        "; ".join(filter(None, (reason, speaks))),
        slope.value if slope else None,
    )
    return _Look(outcome, testimony, cause)


def _leaves_text(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} tensors jointly"


class _Examination:
    """The course of the check in one world: joint directions, second looks, then leaf by leaf."""

    def __init__(self, world: World, call: PreparedCall, seed: int, deadline: float) -> None:
        self.world = world
        self.seed = seed
        self.deadline = deadline
        self.notes: list[str] = []
        names = [n for n in world.leaves if n not in world.unusable]
        inputs = [n for n in names if n in call.leaves]
        self.names = names
        self.split = [group for group in (inputs, [n for n in names if n not in call.leaves]) if group]
        self._displaced = False
        self._drawn = 0

    def look(self, names: Sequence[str]) -> _Look:
        self._drawn += 1
        subject = f"directional derivative along {_leaves_text(names)}, direction {self._drawn}"
        return _look(self.world, names, subject, self.seed * 1009 + self._drawn, self.deadline)

    def first(self, names: Sequence[str]) -> _Look:
        """A look that moves off a kink once."""
        seen = self.look(names)
        if seen.cause == "kink" and not self._displaced:
            self._displaced = True
            world = self.world
            there = copy.copy(world)
            there.base = dict(world.base)
            try:
                there.displace(self.seed)
                there.differentiate()
                if set(there.unusable) - set(world.unusable):
                    raise Abstain("autograd's gradient is not finite there")
            except Exception as error:  # whatever the user's forward raises at the neighbouring point
                self.notes.append(f"the point next to the kink could not be used: {_short(error)}")
                return seen
            self.world = there
            self.notes.append(
                "finite differences were taken at a point 1 % away: at the given one the function has a kink"
            )
            return self.look(names)
        return seen

    def examine(self, directions: int) -> tuple[list[Testimony], tuple[str, ...]]:
        excluded = [
            Testimony(
                _WITNESS,
                f"directional derivative along {name}",
                Outcome.INCONCLUSIVE,
                None,
                "autograd's gradient is not finite here",
            )
            for name in self.world.unusable
        ]
        if not self.names:
            return excluded, ()
        testimonies, wrong = self._examine(directions)
        return testimonies + excluded, wrong

    def _examine(self, directions: int) -> tuple[list[Testimony], tuple[str, ...]]:
        first = self.first(self.names)
        if first.outcome is Outcome.INCONCLUSIVE and first.cause != "budget" and len(self.split) > 1:
            # One bad input (on the edge of a square root's domain) must not silence every parameter.
            testimonies, disagreeing = [first.testimony], []
            for group in self.split:
                seen, wrong = self._confirm(group, self.first(group), 1)
                testimonies.extend(seen)
                disagreeing.extend(wrong)
            return testimonies, tuple(disagreeing)
        testimonies, wrong = self._confirm(self.names, first, directions)
        return testimonies, tuple(wrong)

    def _confirm(
        self, names: Sequence[str], first: _Look, directions: int
    ) -> tuple[list[Testimony], list[str]]:
        """Further directions; a disagreement stands only if a second direction repeats it."""
        looks = [first]
        while first.outcome is not Outcome.INCONCLUSIVE:
            against = sum(look.outcome is Outcome.DISAGREE for look in looks)
            if against >= 2 or len(looks) >= max(directions, 3 if against else 0):
                break
            looks.append(self.look(names))
        against = sum(look.outcome is Outcome.DISAGREE for look in looks)
        doubt = "this direction disagrees, but no other does" if against == 1 else ""
        if against >= 2 and self.world.absorbs():
            doubt = "a value is lost in a sum with a much larger one: differences cannot see its derivative"
        testimonies = [
            _withdrawn(look.testimony, doubt)
            if doubt and look.outcome is Outcome.DISAGREE
            else look.testimony
            for look in looks
        ]
        if against < 2 or doubt:
            return testimonies, []
        if len(names) == 1:
            return testimonies, list(names)
        each, wrong = self._localise(names)
        return testimonies + each, wrong

    def _localise(self, names: Sequence[str]) -> tuple[list[Testimony], list[str]]:
        testimonies, wrong = [], []
        for count, name in enumerate(names):
            if count >= _MOST_LOCALISED or time.monotonic() > self.deadline:
                self.notes.append(
                    f"finite differences blamed single tensors among the first {count} only; "
                    f"{len(names) - count} were not looked at by themselves"
                )
                break
            seen = _look(
                self.world, [name], f"directional derivative along {name}", self.seed + count, self.deadline
            )
            testimonies.append(seen.testimony)
            if seen.outcome is Outcome.DISAGREE:
                wrong.append(name)
        return testimonies, wrong


def _withdrawn(testimony: Testimony, doubt: str) -> Testimony:
    return dataclasses.replace(testimony, outcome=Outcome.INCONCLUSIVE, reason=f"{doubt}; {testimony.reason}")


def _short(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def _silent(
    reason: str, precision: str = "", evaluations: int = 0, notes: Iterable[str] = ()
) -> FiniteDifferenceResult:
    testimony = Testimony(
        _WITNESS, "directional derivative of the whole function", Outcome.INCONCLUSIVE, None, reason
    )
    return FiniteDifferenceResult((testimony,), (), precision, evaluations, tuple(notes))


def finite_difference(
    model: Callable[..., Any],
    call: PreparedCall,
    wrt: Mapping[str, Tensor],
    cotangents: Sequence[tuple[str, Tensor]],
    *,
    loss: Callable[[Any], Any] | None = None,
    directions: int = 2,
    budget: float | None = None,
    seed: int = 0,
) -> FiniteDifferenceResult:
    """Compare autograd's gradient of the whole function with its finite differences along random directions.

    The function is ``sum_i Re <cotangent_i, output_i>`` of the leaves. It is run in float64 (on a copy of the
    model, or on the model itself with everything put back afterwards), always from the same buffers and
    random states; in the model's own precision where float64 does not run; not at all in half precision. Each
    direction costs at most 8 evaluations, and all share one forward, one backward and one repetition. A
    disagreement must show along two directions; then each leaf is tried by itself.

    Args:
        model: a module or a callable.
        call: from :func:`~gradcheck_suite.capture.inputs.prepare`.
        wrt: the leaves by name: parameters, leaves of the call, others that the model reaches.
        cotangents: (path, cotangent) for the outputs that make up the function; paths as
            :func:`~gradcheck_suite.capture.outputs.output_tensors` names them, of the loss's result if there
            is one.
        loss: applied to the model's output, or None.
        directions: joint directions when all is well.
        budget: seconds for everything, or None; when it is short, fewer directions are looked at.
        seed: of the random states of the runs and of the directions.

    Returns:
        What was found. This witness raises nothing because of the model: it abstains and says why.
    """
    started = time.monotonic()
    deadline = math.inf if budget is None else started + budget
    unique: dict[str, Tensor] = {}
    known: set[int] = set()
    for name, tensor in wrt.items():
        if id(tensor) not in known and tensor.numel() and (tensor.is_floating_point() or tensor.is_complex()):
            known.add(id(tensor))
            unique[name] = tensor
    if not unique or not cotangents:
        return _silent("there is no leaf or no output to look at")
    if budget is not None and budget <= 0.0:
        return _silent("the time budget is used up")
    problem = ""
    evaluations = 0
    for wide in (True, False):
        with (
            torch.inference_mode(False),
            preserved(model, call.args, call.kwargs, list(unique.values()), loss),
            rng_frozen(seed),
            torch.enable_grad(),
        ):
            if wide:
                torch.set_default_dtype(torch.float64)
            world = build(model, call, unique, cotangents, loss, wide)
            try:
                settle(world, seed)
            except Abstain as reason:
                return _silent(str(reason), world.precision.name, world.evaluations)
            except Exception as error:  # whatever the user's code raises in float64
                evaluations += world.evaluations
                problem = problem or _short(error)
                continue
            affordable = directions
            if budget is not None:
                left = deadline - time.monotonic()
                affordable = max(1, min(directions, int(left / max(8 * world.seconds, 1e-9))))
            examination = _Examination(world, call, seed, deadline)
            testimonies, disagreeing = examination.examine(affordable)
            notes = list(examination.notes)
            if not wide:
                notes.insert(
                    0,
                    f"finite differences run in {world.precision.name}; in float64: {problem}",
                )
            return FiniteDifferenceResult(
                tuple(testimonies),
                disagreeing,
                world.precision.name,
                evaluations + examination.world.evaluations,
                tuple(notes),
            )
    return _silent(
        f"neither a float64 copy nor the model itself could be run again: {problem}", "", evaluations
    )

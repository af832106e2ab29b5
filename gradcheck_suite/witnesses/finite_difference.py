"""The witness of the whole function: directional finite differences against autograd, in float64.

It sees what autograd and the engine are blind to: a value that reaches the output around autograd. The model
runs in a float64 world of its own, and autograd's gradient *of that world* is what is compared: float32 and float64
draw other random numbers and fall on other sides of a kink, and a gradient must be compared with the function it
belongs to.
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
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..capture.inputs import PreparedCall
from ..capture.state import preserved, rng_frozen
from ..compare.cuts import Cut
from ..evidence import Array, Outcome, Testimony
from .float64_world import Abstain, World, build, copied, settle
from .held_constant import hold_stops
from .held_shape import held_shapes
from .looks import WITNESS, Look, look

__all__ = ["FiniteDifferenceResult", "excused", "finite_difference", "left_out"]

_MOST_LOCALISED = 64
# From so many elements on, a further evaluation costs more than it can tell.
_MANY = 10_000
_KEPT = {"hermitian": "Hermitian", "lower": "lower triangular", "upper": "upper triangular"}


@dataclass(frozen=True)
class FiniteDifferenceResult:
    """What the differences say.

    Attributes:
        testimonies: one per direction over all leaves (or over a group of them), then one per leaf if those
            disagreed.
        disagreeing: names of the leaves whose own directional derivative disagrees; empty unless the whole
            does.
        stops: deliberate stop-gradients without which the gradient would not be right; see
            ``docs/stop-gradients.md``.
        stopped: names of the leaves whose gradient is right only with those values held constant.
        cuts: lines at which the gradient is lost, where holding them constant as well explains a disagreement.
        precision: ``"float64"`` or the precision the model insists on; "" when nothing could be run.
        evaluations: how often the model was run.
        notes: what was done differently from usual, for the report.
    """

    testimonies: tuple[Testimony, ...]
    disagreeing: tuple[str, ...] = ()
    stops: tuple[Cut, ...] = ()
    stopped: tuple[str, ...] = ()
    cuts: tuple[Cut, ...] = ()
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


def _leaves_text(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} tensors jointly"


class _Examination:
    """The course of the check in one world: joint directions, second looks, then leaf by leaf."""

    def __init__(
        self, world: World, call: PreparedCall, seed: int, deadline: float, notes: list[str]
    ) -> None:
        self.world = world
        self.seed = seed
        self.deadline = deadline
        self.notes = notes
        names = [n for n in world.leaves if n not in world.unusable]
        inputs = [n for n in names if n in call.leaves]
        self.names = names
        self.split = [group for group in (inputs, [n for n in names if n not in call.leaves]) if group]
        self._displaced = False
        self._shapes_known = False
        self._drawn = 0

    def look(self, names: Sequence[str]) -> Look:
        self._drawn += 1
        subject = f"directional derivative along {_leaves_text(names)}, direction {self._drawn}"
        return look(self.world, names, subject, self.seed * 1009 + self._drawn, self.deadline)

    def first(self, names: Sequence[str]) -> Look:
        """A look that moves off a kink once."""
        seen = self.look(names)
        if seen.outcome is not Outcome.AGREE and self._hold_shapes():
            seen = self.look(names)
        if seen.cause == "kink" and self._displace("at the given one the function has a kink"):
            return self.look(names)
        return seen

    def _hold_shapes(self) -> bool:
        """Keep symmetric and triangular leaves such where an operation demands it; whether there are any, once."""
        if self._shapes_known:
            return False
        self._shapes_known = True
        self.world.held = held_shapes(self.world)
        for name, shape in self.world.held.items():
            self.notes.append(
                f"finite differences keep {name} {_KEPT[shape]}: an operation takes it for that"
            )
        return bool(self.world.held)

    def _displace(self, why: str) -> bool:
        """Go on at a neighbouring point, once; False where that point is no better."""
        if self._displaced:
            return False
        self._displaced = True
        self._hold_shapes()
        there = copy.copy(self.world)
        try:
            there.displace(self.seed)
            there.differentiate()
            there.repeat()
        except Exception as error:  # whatever the user's forward raises at the neighbouring point
            self.world.dirty = set(self.world.leaves)
            self.notes.append(f"finite differences stayed at the given point ({why}): {_short(error)}")
            return False
        finally:
            self.world.evaluations = there.evaluations
        if set(there.unusable) - set(self.world.unusable):
            self.world.dirty = set(self.world.leaves)
            return False
        self.world = there
        self.notes.append(f"finite differences were taken at a point 1 % away: {why}")
        return True

    def examine(self, directions: int) -> FiniteDifferenceResult:
        """Everything this witness has to say, but for how often the model was run."""
        excluded = [
            Testimony(
                WITNESS,
                f"directional derivative along {name}",
                Outcome.INCONCLUSIVE,
                None,
                "autograd's gradient is not finite here",
            )
            for name in self.world.unusable
        ]
        if not self.names:
            return FiniteDifferenceResult(tuple(excluded))
        testimonies, wrong = self._examine(directions)
        if any(t.outcome is Outcome.DISAGREE for t in testimonies) or not any(
            t.outcome is Outcome.AGREE for t in testimonies
        ):
            held = hold_stops(self.world, self.names, testimonies, wrong, self.look, self._localise)
            if held is not None:
                return FiniteDifferenceResult(
                    (*held.testimonies, *excluded), held.disagreeing, held.stops, held.stopped, held.cuts
                )
        return FiniteDifferenceResult((*testimonies, *excluded), wrong)

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
        silent = [n for n in self.names if self.world.norms[n] == 0.0]
        if not wrong and first.outcome is Outcome.AGREE and 0 < len(silent) < len(self.names):
            # Autograd says that these have no effect at all. Beside loud leaves a small effect would drown, and behind
            # a layer of zeros (a fresh head) there is none to see at this point.
            zero = [name for name in silent if name not in self.world.absent]
            if zero:
                self._displace(f"at the given one {len(zero)} of {len(self.names)} gradients are zero")
            more, wrong = self._confirm(silent, self.first(silent), 1)
            testimonies += more
        return testimonies, tuple(wrong)

    def _confirm(
        self, names: Sequence[str], first: Look, directions: int
    ) -> tuple[list[Testimony], list[str]]:
        """Further directions; a disagreement stands only if a second direction repeats it."""
        looks = [first]
        while first.outcome is not Outcome.INCONCLUSIVE:
            against = sum(look.outcome is Outcome.DISAGREE for look in looks)
            if against >= 2 or len(looks) >= max(directions, 3 if against else 0):
                break
            seen = self.look(names)
            # One side of a kink may have agreed before; beside it there is only one.
            if seen.cause in ("kink", "error") and self._displace("at the given one the function has a kink"):
                looks, seen = [], self.look(names)
            looks.append(seen)
        against = sum(look.outcome is Outcome.DISAGREE for look in looks)
        doubt = "this direction disagrees, but no other does" if against == 1 else ""
        if against >= 2 and not doubt and self._agrees_beside(names):
            doubt = "a point 1 % away agrees: at the given one the function has a kink, and autograd's rule for it is a choice"
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

    def _agrees_beside(self, names: Sequence[str]) -> bool:
        """Whether gradient and differences agree at a neighbouring point: what disagrees here alone is a kink.

        ``x.sign() * x.abs()`` has the slope 1 at 0, and a chain rule over two kinks can only say 0. What reaches the
        output around autograd does so everywhere.
        """
        there = copy.copy(self.world)
        try:
            there.displace(self.seed)
            there.differentiate()
            seeds = (self.seed * 1009 + 500, self.seed * 1009 + 501)
            return all(look(there, names, "", s, self.deadline).outcome is Outcome.AGREE for s in seeds)
        except Exception:  # whatever the user's forward raises at the neighbouring point
            return False
        finally:
            self.world.evaluations = there.evaluations
            self.world.dirty = set(self.world.leaves)

    def _localise(self, names: Sequence[str]) -> tuple[list[Testimony], list[str]]:
        """One leaf after the other, from everywhere in the model first, so that a short budget covers its depth."""
        found: dict[int, Look] = {}
        for index in _spread(len(names))[:_MOST_LOCALISED]:
            if time.monotonic() > self.deadline:
                break
            subject = f"directional derivative along {names[index]}"
            found[index] = look(self.world, [names[index]], subject, self.seed + index, self.deadline)
        if len(found) < len(names):
            self.notes.append(
                f"finite differences tried {len(found)} of {len(names)} tensors by themselves; others may be wrong"
            )
        ordered = sorted(found)
        wrong = [names[i] for i in ordered if found[i].outcome is Outcome.DISAGREE]
        return [found[i].testimony for i in ordered], wrong


def _spread(count: int) -> list[int]:
    """0 .. count-1 in the order of their reversed bits: every beginning of it is spread over the whole range."""
    width = max(1, (count - 1).bit_length())
    return sorted(range(count), key=lambda index: int(f"{index:0{width}b}"[::-1], 2))


def _withdrawn(testimony: Testimony, doubt: str) -> Testimony:
    return dataclasses.replace(testimony, outcome=Outcome.INCONCLUSIVE, reason=f"{doubt}; {testimony.reason}")


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _memory_of(model: Callable[..., Any], call: PreparedCall) -> set[int]:
    """Where the arguments, parameters and buffers lie.

    A leaf without a name that lies there was made by the forward (``x.detach().requires_grad_()``): another run makes
    another one, and to move it would move what it was made of.
    """
    given = [t for t in tree_leaves((call.args, call.kwargs)) if isinstance(t, Tensor)]
    if isinstance(model, nn.Module):
        given += [*model.parameters(), *model.buffers()]
    return {_place(t) for t in given if t.layout is torch.strided and t.numel()}


def _short(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def _silent(
    reason: str, precision: str = "", evaluations: int = 0, notes: Iterable[str] = ()
) -> FiniteDifferenceResult:
    testimony = Testimony(
        WITNESS, "directional derivative of the whole function", Outcome.INCONCLUSIVE, None, reason
    )
    return FiniteDifferenceResult(
        (testimony,), precision=precision, evaluations=evaluations, notes=tuple(notes)
    )


def excused(result: FiniteDifferenceResult, share: float) -> FiniteDifferenceResult:
    """The same where single nodes were let pass that are off: a difference of the whole up to ``share`` is theirs.

    Args:
        result: what the differences say.
        share: of a direction's largest terms, what the nodes may be off by together.
    """
    wrong = [t for t in result.testimonies if t.outcome is Outcome.DISAGREE]
    if not wrong or not all(
        t.comparison is not None and t.comparison.error <= share * t.comparison.scale for t in wrong
    ):
        return result
    reason = "a loosened tolerance let nodes pass that explain as much"
    return dataclasses.replace(
        result,
        testimonies=tuple(_withdrawn(t, reason) if t in wrong else t for t in result.testimonies),
        disagreeing=(),
        cuts=(),
    )


def left_out(reason: str) -> FiniteDifferenceResult:
    """What is said when the differences were not asked."""
    return _silent(reason)


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
    still: Mapping[str, Array] | None = None,
    known: Mapping[str, Tensor | None] | None = None,
    abstain: str = "",
) -> FiniteDifferenceResult:
    """Compare autograd's gradient of the whole function with its finite differences along random directions.

    The function is ``sum_i Re <cotangent_i, output_i>`` of the leaves. It is run in float64 (on a copy of the
    model, or on the model itself with everything put back afterwards), always from the same buffers and
    random states; in the model's own precision where float64 does not run; not at all in half precision. Each
    direction costs one to four evaluations where they settle agreement and about 10 where not; all share one forward and one
    backward. A
    disagreement must show along two directions; then each leaf is tried by itself.

    Args:
        model: a module or a callable.
        call: from :func:`~gradcheck_suite.capture.inputs.prepare`.
        wrt: the leaves by name: parameters, leaves of the call, others that the model reaches. Those that do not
            require grad are passed over.
        cotangents: (path, cotangent) for the outputs that make up the function; paths as
            :func:`~gradcheck_suite.capture.outputs.output_tensors` names them, of the loss's result if there
            is one.
        loss: applied to the model's output, or None.
        directions: joint directions when all is well.
        budget: seconds for everything, or None; when it is short, fewer directions are looked at.
        seed: of the random states of the runs and of the directions.
        known: gradients by leaf that are likely those of the float64 function to five digits, because the engine found
            so: compared first, which saves this function's own forward and backward. They only ever settle agreement.
        abstain: why nothing is to be tried, or "".
        still: by leaf, masks of elements that are not moved: their gradient is zero by agreement (padding rows).

    Returns:
        What was found. This witness raises nothing because of the model: it abstains and says why.
    """
    started = time.monotonic()
    deadline = math.inf if budget is None else started + budget
    unique: dict[str, Tensor] = {}
    seen: set[int] = set()
    given = _memory_of(model, call)
    for name, tensor in wrt.items():
        if name.startswith("other[") and tensor.layout is torch.strided and _place(tensor) in given:
            continue
        if id(tensor) not in seen and tensor.numel() and tensor.requires_grad:
            seen.add(id(tensor))
            unique[name] = tensor
    if not unique or not cotangents:
        return _silent("there is no leaf or no output to look at")
    if abstain:
        return _silent(abstain)
    if budget is not None and budget <= 0.0:
        return _silent("the time budget is used up")
    problem = ""
    evaluations = 0
    for wide in (True, False):
        with torch.inference_mode(False), torch.enable_grad():
            twin = copied(model, call, unique, loss, wide)
        # What is not copied is preserved; of a function that is everything it closes over.
        shared: list[Any] = [model, call.args, call.kwargs, list(unique.values()), loss]
        if twin is not None:
            shared = [None if isinstance(item, nn.Module) else item for item in (model, loss)]
        with torch.inference_mode(False), preserved(*shared), rng_frozen(seed), torch.enable_grad():
            if wide:
                torch.set_default_dtype(torch.float64)
            world = build(model, call, unique, cotangents, loss, wide, twin)
            del twin
            world.still = {name: torch.from_numpy(mask) for name, mask in (still or {}).items()}
            notes: list[str] = []
            if world.still:
                notes.append(
                    f"finite differences leave the padding rows of {', '.join(world.still)} where they are: "
                    "they get no gradient by definition"
                )
            try:
                usable = known is not None and wide and all(name in known for name in world.leaves)
                settle(world, known if usable else None)
                affordable = directions if sum(t.numel() for t in unique.values()) < _MANY else 1
                if budget is not None:
                    left = deadline - time.monotonic()
                    affordable = max(1, min(affordable, int(left / max(8 * world.seconds, 1e-9))))
                examination = _Examination(world, call, seed, deadline, notes)
                result = examination.examine(affordable)
            except Abstain as reason:
                return _silent(str(reason), world.precision.name, world.evaluations, notes)
            except Exception as error:  # whatever the user's code raises in float64
                evaluations += world.evaluations
                problem = problem or _short(error)
                continue
            if not wide:
                notes.insert(
                    0,
                    f"finite differences run in {world.precision.name}; in float64: {problem}",
                )
            return dataclasses.replace(
                result,
                precision=world.precision.name,
                evaluations=evaluations + examination.world.evaluations,
                notes=tuple(notes),
            )
    return _silent(
        f"neither a float64 copy nor the model itself could be run again: {problem}", "", evaluations
    )

"""The model's JVP as a whole: against differences of its output, and against reverse mode by the adjoint identity.

Both are asked in the float64 world that the reverse witness uses (:mod:`.float64_world`), along one random direction t
with one random cotangent c: ``<c, J t>`` by forward mode, ``<J^T c, t>`` by reverse mode, and the slope of ``<c, f>``
along t by differences. Forward mode is accused only where the two others agree with each other and not with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.utils.stateless import _reparametrize_module
from torch.utils import _pytree as pytree

from ..capture.outputs import output_tensors, unusual_seed
from ..capture.state import preserved, rng_frozen
from ..compare.blame import behind_surrogates
from ..compare.differences import Difference, estimate_slope, judge_slope, meets
from ..compare.padding import padding_elements
from ..evidence import Comparison, Outcome, Testimony
from .case import Case
from .direction import Direction, put
from .dual_numbers import dual_leaves
from .float64_world import Abstain, World, build, copied, settle
from .forward_run import can_be_dual, short

__all__ = ["NESTED", "Whole", "check_whole"]

NESTED = "Nested forward mode AD is not supported"
"""What torch says when a model that uses forward mode itself is run under dual numbers."""

_WITNESS = "forward_mode"
_DIFFERENCES = "finite_difference"
_LEVELS = 4


@dataclass(frozen=True)
class Whole:
    """What was found about the whole.

    Attributes:
        testimonies: of the differences and of the adjoint identity.
        accused: the differences' disagreement, where forward mode is wrong and reverse mode right.
        nested: whether the model uses forward mode itself, so that this was forward mode over forward mode.
    """

    testimonies: tuple[Testimony, ...]
    accused: Testimony | None = None
    nested: bool = False


def check_whole(case: Case, names: Sequence[str]) -> Whole:
    """Look at the model as a whole along one direction, and along a second before accusing.

    Args:
        case: what is checked.
        names: the leaves that can be given a tangent.
    """
    meant = behind_surrogates(case.run.trace)
    unique: dict[str, Tensor] = {}
    for name in names:
        leaf = case.leaves[name]
        if name not in meant and leaf.numel() and all(leaf is not t for t in unique.values()):
            unique[name] = leaf
    cotangents = [(path, c) for (path, _), c in zip(case.run.outputs, case.run.cotangents)]
    if not unique or not cotangents:
        return _silent("there is no leaf that could be given a tangent")
    if case.run.hooked:
        return _silent("tensor hooks may change gradients on purpose, so reverse mode cannot be compared")
    problem = ""
    for wide in (True, False):
        if case.seconds_left() <= 0:
            return _silent("the time budget is used up")
        with torch.inference_mode(False), torch.enable_grad():
            twin = copied(case.model, case.prepared, unique, case.loss, wide)
        shared: list[Any] = [
            case.model,
            case.prepared.args,
            case.prepared.kwargs,
            list(unique.values()),
            case.loss,
        ]
        with (
            torch.inference_mode(False),
            preserved(*shared),
            rng_frozen(case.seed),
            torch.enable_grad(),
        ):
            if wide:
                torch.set_default_dtype(torch.float64)
            world = build(case.model, case.prepared, unique, cotangents, case.loss, wide, twin)
            still = padding_elements(case.run.trace)
            world.still = {n: torch.from_numpy(m) for n, m in still.items() if n in world.leaves}
            try:
                settle(world)
                return _examine(world, case)
            except Abstain as reason:
                return _silent(str(reason))
            except Exception as error:  # whatever the model, or forward mode, raises in this world
                problem = problem or short(error)
                if _unsupported(error):
                    break
    return _silent(f"it could not be run in forward mode: {problem}")


def _unsupported(error: Exception) -> bool:
    text = str(error)
    return isinstance(error, NotImplementedError) or "forward AD" in text or "forward mode AD" in text


def _silent(reason: str) -> Whole:
    return Whole((Testimony(_WITNESS, "JVP of the whole function", Outcome.INCONCLUSIVE, reason=reason),))


@dataclass(frozen=True)
class _Numbers:
    """One direction: what each mode says, and the size of what was added up."""

    move: Direction
    forward: float
    reverse: float
    terms: float
    nested: bool


def _examine(world: World, case: Case) -> Whole:
    names = [n for n in world.leaves if n not in world.unusable and can_be_dual(world.leaves[n])]
    if not names:
        return _silent("no leaf has a finite gradient")
    first = _push(world, names, case.seed * 1013 + 1)
    identity = _identity(world, first)
    if case.seconds_left() <= 0:
        return Whole((identity,))
    seen = _differ(world, first.move, first.forward, first.terms)
    if seen.outcome is not Outcome.DISAGREE:
        if identity.outcome is Outcome.DISAGREE:
            why = "; differences agree with forward mode" if seen.outcome is Outcome.AGREE else ""
            identity = _withdrawn(identity, f"forward and reverse mode differ{why}")
        return Whole((identity, seen))
    if identity.outcome is Outcome.AGREE:
        return Whole((identity, _withdrawn(seen, "reverse mode gives the same number, and is judged there")))
    second = _push(world, names, case.seed * 1013 + 2)
    again = _differ(world, second.move, second.forward, second.terms)
    right = [_differ(world, n.move, n.reverse, n.terms).outcome is Outcome.AGREE for n in (first, second)]
    repeated = again.outcome is Outcome.DISAGREE and _identity(world, second).outcome is Outcome.DISAGREE
    if all(right) and repeated:
        return Whole((identity, seen), seen, first.nested)
    why = "differences agree with neither forward nor reverse mode, or not along every direction"
    return Whole((_withdrawn(identity, why), _withdrawn(seen, why)))


def _withdrawn(testimony: Testimony, reason: str) -> Testimony:
    return replace(testimony, outcome=Outcome.INCONCLUSIVE, reason=reason)


def _identity(world: World, numbers: _Numbers) -> Testimony:
    scale = max(numbers.terms, abs(numbers.forward), abs(numbers.reverse))
    error = abs(numbers.forward - numbers.reverse)
    tolerance = world.precision.floor * scale
    subject = "adjoint identity <c, J t> = <J^T c, t>"
    if not math.isfinite(error):
        return Testimony(_WITNESS, subject, Outcome.INCONCLUSIVE, reason="a product is not finite")
    wrong = error > tolerance
    comparison = Comparison(
        1, int(wrong), (), numbers.reverse, numbers.forward, error, tolerance, scale, error
    )
    return Testimony(_WITNESS, subject, Outcome.DISAGREE if wrong else Outcome.AGREE, comparison)


def _differ(world: World, move: Direction, expected: float, terms: float) -> Testimony:
    """Differences of the projected output along a direction, against a number."""
    precision = world.precision
    subject = "JVP of the whole function"
    near = _step(world, move, precision.single)
    if near is not None:
        met = meets(near, expected, terms, precision.close)
        if met is not None:
            return Testimony(_DIFFERENCES, subject, Outcome.AGREE, met, value=float(met.expected.real))
    world.repeat()
    differences = []
    step = precision.start
    for _ in range(_LEVELS):
        difference = _step(world, move, step)
        if difference is not None:
            differences.append(difference)
        step /= precision.ratio
    slope = estimate_slope(differences, world.noise)
    outcome, comparison, reason = judge_slope(
        slope, expected, terms, floor=precision.floor, limit=precision.limit
    )
    return Testimony(_DIFFERENCES, subject, outcome, comparison, reason, slope.value if slope else None)


def _step(world: World, move: Direction, step: float) -> Difference | None:
    plus = world.change(move, step)
    minus = world.change(move, -step) if plus is not None else None
    return None if plus is None or minus is None else Difference(step, plus, minus)


def _push(world: World, names: Sequence[str], seed: int) -> _Numbers:
    """Both modes along one random direction; steps of loud leaves damped, so that they do not drown the others."""
    loudness = {name: world.norms[name] * world.scales[name] for name in names}
    loudest = max(loudness.values())
    quiet = min((v for v in loudness.values() if v > 1e-4 * loudest), default=0.0)
    sizes = {n: world.scales[n] * (quiet / v if v > quiet > 0 else 1.0) for n, v in loudness.items()}
    leaves = {name: world.leaves[name] for name in names}
    move = Direction(leaves, sizes, unusual_seed(seed) >> 1, world.still)
    tangents = {name: _tangent(move, name, leaf) for name, leaf in leaves.items()}
    world.place()
    nested = False
    try:
        with dual_leaves(leaves, tangents):
            pushed = [_unpacked(result) for result in world.run()]
    except RuntimeError as error:
        if NESTED not in str(error):
            raise
        nested = True
        world.place()
        pushed = _functorch(world, leaves, tangents)
    total = 0.0
    for cotangent, before, tangent in zip(world.cotangents, world.outputs, pushed):
        if tangent is not None:
            finite = torch.where(torch.isfinite(before), tangent, torch.zeros_like(tangent))
            total += float(
                (cotangent.conj() * finite).real.sum()
                if cotangent.is_complex()
                else (cotangent * finite).sum()
            )
    return _Numbers(move, total, move.inner(world.gradients), move.terms(world.norms), nested)


def _tangent(move: Direction, name: str, leaf: Tensor) -> Tensor:
    tangent = torch.zeros_like(leaf.data)
    real = tangent.real.dtype if tangent.is_complex() else tangent.dtype
    count = tangent.numel() * (2 if tangent.is_complex() else 1)
    put(move.moved(name, torch.zeros(count, dtype=real, device=tangent.device), 1.0, real), tangent)
    return tangent


def _unpacked(tensor: Tensor) -> Tensor | None:
    unpack: Callable[..., Any] = forward_ad.unpack_dual
    tangent: Tensor | None = unpack(tensor).tangent
    return None if tangent is None else tangent.detach().clone()


def _functorch(
    world: World, leaves: Mapping[str, Tensor], tangents: Mapping[str, Tensor]
) -> list[Tensor | None]:
    """The JVP by ``torch.func.jvp`` around the model, for one that uses forward mode inside.

    Raises:
        Abstain: a leaf is held where it cannot be exchanged for a dual number.
    """
    module = _module_of(world.model)
    held: dict[str, str] = {}
    if module is not None:
        held = {
            name: path
            for name, leaf in leaves.items()
            for path, parameter in module.named_parameters()
            if parameter is leaf
        }
    given, spec = pytree.tree_flatten((world.args, world.kwargs))
    passed = {n: i for n, leaf in leaves.items() for i, value in enumerate(given) if value is leaf}
    lost = [name for name in leaves if name not in held and name not in passed]
    if lost:
        raise Abstain(
            f"the model uses forward mode itself, and {', '.join(lost[:4])} cannot be exchanged for a dual number"
        )
    order = list(leaves)

    def function(*values: Tensor) -> list[Tensor]:
        by_name = dict(zip(order, values))
        flat = list(given)
        for name, i in passed.items():
            flat[i] = by_name[name]
        args, kwargs = pytree.tree_unflatten(flat, spec)
        exchanged = {path: by_name[name] for name, path in held.items()}
        if module is None:
            found = dict(output_tensors(_called(world, args, kwargs)))
        else:
            with _reparametrize_module(module, exchanged):
                found = dict(output_tensors(_called(world, args, kwargs)))
        return [found[path] for path in world.paths]

    jvp: Callable[..., Any] = torch.func.jvp
    _, pushed = jvp(function, tuple(leaves.values()), tuple(tangents[name] for name in order))
    return [tangent.detach() for tangent in pushed]


def _called(world: World, args: Any, kwargs: Any) -> Any:
    result = world.model(*args, **kwargs)
    return result if world.loss is None else world.loss(result)


def _module_of(model: Any) -> nn.Module | None:
    while model is not None and not isinstance(model, nn.Module):
        model = getattr(model, "__self__", None) or getattr(model, "func", None)
    return model

"""A world of its own for a function: run again and again from the same state, with its leaves moved about."""

from __future__ import annotations

import copy
import math
import time
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from ..capture.inputs import PreparedCall
from ..capture.outputs import describe, output_tensors
from ..capture.precision import WIDER, InFloat64, PrecisionProbe, Results
from ..capture.state import Snapshot
from ..capture.stops import StopGradients
from .accumulation import inner_accumulation
from .direction import Direction, aligned, flat, norm, put

__all__ = ["DOUBLE", "SINGLE", "Abstain", "Precision", "Twin", "World", "build", "copied", "settle"]

_DISPLACEMENT = 1e-2
_REPRODUCIBLE = 64.0
_SHAKES = 2
_UNBOUND = types.CellType()


@dataclass(frozen=True)
class Precision:
    """The ladder of steps in one working precision; steps are relative to each tensor's own scale.

    ``single`` is the one step that is tried first, and ``close`` how near it must come to autograd's number;
    ``smaller`` is the second attempt.
    """

    name: str
    epsilon: float
    start: float
    ratio: float
    floor: float
    limit: float
    single: float
    smaller: float | None
    close: float


DOUBLE = Precision("float64", torch.finfo(torch.float64).eps, 1e-3, 8.0, 1e-6, 1e-3, 4e-6, 3e-8, 1e-5)
SINGLE = Precision("float32", torch.finfo(torch.float32).eps, 3e-2, 3.0, 1e-3, 2e-2, 1e-2, None, 1e-3)


@dataclass(frozen=True)
class Rounding:
    """How far roundings move one value of the function, and why its gradient is not its derivative by design, or ""."""

    noise: float = 0.0
    by_design: str = ""


class Abstain(Exception):
    """This witness cannot speak; the message says why."""


@dataclass(eq=False)
class World:
    """A model, a call and leaves that may be moved about; everything else is put back before each run."""

    model: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    loss: Callable[[Any], Any] | None
    leaves: dict[str, Tensor]
    paths: list[str]
    cotangents: list[Tensor]
    wide: bool
    precision: Precision = DOUBLE
    snapshot: Snapshot | None = None
    base: dict[str, Tensor] = field(default_factory=dict)
    scales: dict[str, float] = field(default_factory=dict)
    outputs: list[Tensor] = field(default_factory=list)
    gradients: dict[str, Tensor] = field(default_factory=dict)
    norms: dict[str, float] = field(default_factory=dict)
    stops: StopGradients | None = None
    unusable: list[str] = field(default_factory=list)
    absent: set[str] = field(default_factory=set)
    noise: float = 0.0
    seconds: float = 0.0
    evaluations: int = 0
    repeats: bool = False
    dirty: set[str] = field(default_factory=set)
    overwrites: bool | None = None
    still: Mapping[str, Tensor] = field(default_factory=dict)
    held: Mapping[str, str] = field(default_factory=dict)
    borrowed: bool = False
    rounded: Rounding | None = None
    moved: list[Mapping[str, Tensor]] | None = None

    def run(self) -> list[Tensor]:
        """The outputs that have a cotangent, from the present leaves."""
        self.evaluations += 1
        if self.wide:
            with InFloat64():
                found = dict(output_tensors(self._call()))
        else:
            found = dict(output_tensors(self._call()))
        results = []
        for path, cotangent in zip(self.paths, self.cotangents):
            tensor = found.get(path)
            if tensor is None or tensor.shape != cotangent.shape:
                now = "missing" if tensor is None else describe(tensor)
                raise Abstain(f"{path} is {now} in another run, but was {describe(cotangent)}")
            results.append(tensor)
        return results

    def _call(self) -> Any:
        result = self.model(*self.args, **self.kwargs)
        return result if self.loss is None else self.loss(result)

    def place(self, direction: Direction | None = None, step: float = 0.0) -> None:
        """Put everything back, and the leaves to ``base + step * direction``."""
        assert self.snapshot is not None
        part = direction is not None and any(name not in direction for name in self.leaves)
        # Where nothing is moved, everything is put, except before the first run.
        put_all = self._overwritten() if part else direction is None and self.evaluations > 0
        self.snapshot.restore(quick=True)
        for name, leaf in self.leaves.items():
            if direction is not None and name in direction:
                direction.move(name, self.base[name], leaf, step)
                self.dirty.add(name)
            elif put_all or name in self.dirty:
                put(self.base[name], leaf)
                self.dirty.discard(name)

    def _overwritten(self) -> bool:
        """Whether the forward itself writes into leaves, which is asked only where some are not moved."""
        if self.overwrites is None:
            self.place()
            self.run()
            self.overwrites = any(
                not torch.equal(flat(leaf.data), self.base[n].to(flat(leaf.data).dtype))
                for n, leaf in self.leaves.items()
            )
        return self.overwrites

    def at(self, direction: Direction | None, step: float) -> list[Tensor] | None:
        """Outputs with the leaves moved by ``step * direction``; None where the function is not defined."""
        self.place(direction, step)
        try:
            if self.stops is not None and self.stops.reads_arrays:
                with self.stops.passing():
                    self.run()
                self.place(direction, step)
            with nullcontext() if self.stops is None else self.stops.holding():
                outputs = self.run()
            return [output.detach() for output in outputs]
        except Abstain:
            return None
        except (
            Exception
        ):  # the user's forward may refuse the moved values in any way: a step outside the domain
            return None

    def change(self, direction: Direction, step: float) -> float | None:
        """Change of the projected output over a step, or None where it is not defined."""
        results = self.at(direction, step)
        if results is None:
            return None
        total = 0.0
        for before, after, cotangent in zip(self.outputs, results, self.cotangents):
            difference = torch.where(torch.isfinite(before), after - before, torch.zeros_like(before))
            total += _inner(cotangent, difference)
        return total if math.isfinite(total) else None

    def differentiate(self, known: Mapping[str, Tensor | None] | None = None) -> None:
        """Run at the base point; keep outputs, autograd's gradients and the noise of one evaluation.

        Args:
            known: gradients by leaf to be compared instead of this world's own, for as long as that settles agreement.

        Raises:
            Abstain: outputs are not finite, or the function insists on half precision.
        """
        self.rounded, self.moved = None, None
        self.place()
        started = time.perf_counter()
        probe = PrecisionProbe(self.leaves.values())
        with probe:
            results = self.run()
        self.seconds = time.perf_counter() - started
        if probe.coarsest not in (torch.float64, torch.float32):
            raise Abstain(
                f"values pass through {str(probe.coarsest).removeprefix('torch.')}, too coarse for this"
            )
        self.precision = DOUBLE if probe.coarsest is torch.float64 else SINGLE
        self.outputs = [result.detach().clone() for result in results]
        finite = [torch.isfinite(output) for output in self.outputs]
        if not any(bool(mask.any()) for mask in finite):
            raise Abstain("no output is finite")
        self.cotangents = [
            torch.where(mask, c.to(o.device, o.dtype), torch.zeros((), device=o.device, dtype=o.dtype))
            for mask, c, o in zip(finite, self.cotangents, self.outputs)
        ]
        if known is None:
            self._autograd(results)
        else:
            self._keep(known)
        self.borrowed = known is not None
        del results
        assert self.snapshot is not None
        # The only thorough one: it learns which tensors the forward writes to behind their version counters.
        self.snapshot.restore()
        size = math.hypot(*(norm(_masked(c, o)) for c, o in zip(self.cotangents, self.outputs)))
        self.noise = 16.0 * self.precision.epsilon * size
        self.repeats = False

    def repeat(self) -> None:
        """Run once more at the base point; the noise of one evaluation is at least what that differs by.

        Raises:
            Abstain: the function does not give the same outputs again.
        """
        if self.repeats:
            return
        again = self.at(None, 0.0)
        if again is None:
            raise Abstain("a second run from the same state does not give the same outputs")
        size, spread = 0.0, 0.0
        for before, after, c in zip(self.outputs, again, self.cotangents):
            difference = torch.where(torch.isfinite(before), after - before, torch.zeros_like(before))
            spread = math.hypot(spread, norm(c * difference))
            size = math.hypot(size, norm(_masked(c, before)))
        if not spread <= _REPRODUCIBLE * self.precision.epsilon * size:
            raise Abstain(
                f"two runs from the same state and seeds differ by {spread / size if size else spread:.2g} "
                "(relative): the model draws from a generator of its own or is not deterministic"
            )
        self.noise = 16.0 * self.precision.epsilon * size + 4.0 * spread
        self.repeats = True

    def _autograd(self, results: list[Tensor]) -> None:
        tracked = [(r, c) for r, c in zip(results, self.cotangents) if r.requires_grad]
        names = list(self.leaves)
        found: Sequence[Tensor | None] = [None] * len(names)
        if tracked:
            outputs = [result for result, _ in tracked]
            cotangents = [cotangent.clone() for _, cotangent in tracked]  # a backward may write into it
            leaves = [self.leaves[name] for name in names]
            mode: Any = InFloat64() if self.wide else torch.enable_grad()
            versions = [leaf._version for leaf in leaves]
            with mode, inner_accumulation(leaves) as added:
                found = torch.autograd.grad(outputs, leaves, cotangents, allow_unused=True)
            found = [g if more is None else more if g is None else g + more for g, more in zip(found, added)]
            written = {n for n, leaf, version in zip(names, leaves, versions) if leaf._version != version}
            if written:  # by a backward, which may return what it wrote into as a gradient
                found = [None if g is None else g.clone() for g in found]
                self.dirty |= written
        self._keep(dict(zip(names, found)))

    def _keep(self, found: Mapping[str, Tensor | None]) -> None:
        self.unusable, self.absent = [], set()
        self.gradients, self.norms = {}, {}
        for name, leaf in self.leaves.items():
            gradient = found[name]
            if gradient is None:
                self.absent.add(name)
                self.gradients[name], self.norms[name] = torch.zeros_like(flat(leaf.data)), 0.0
                continue
            gradient = gradient.detach()
            if gradient.layout is not torch.strided:
                gradient = gradient.to_dense()
            self.gradients[name] = flat(aligned(gradient, leaf.data))
            self.norms[name] = norm(self.gradients[name])
            if not math.isfinite(self.norms[name]):
                self.unusable.append(name)

    def rounding(self) -> Rounding:
        """What the roundings of all intermediate results do to one value of the function; looked at once."""
        if self.rounded is None:
            self.rounded = self._rounding()
        return self.rounded

    def _rounding(self) -> Rounding:
        self.place()
        try:
            with Results() as made:
                results = self.run()
            tracked = [(r, c) for r, c in zip(results, self.cotangents) if r.requires_grad]
            if not tracked:
                return Rounding()
            outputs, cotangents = zip(*tracked)
            with InFloat64() if self.wide else torch.enable_grad():
                return Rounding(made.noise(outputs, cotangents), made.by_design)
        except Exception:  # whatever the user's code raises under another mode
            return Rounding()

    def shaken(self) -> list[Mapping[str, Tensor]]:
        """The gradients where every element of every leaf is moved by a unit or two in its last place; computed once."""
        if self.moved is None:
            self.moved = []
            for seed in range(_SHAKES):
                there = copy.copy(self)
                generator = torch.Generator().manual_seed(seed)
                there.base = {
                    name: base
                    * (1 + self.precision.epsilon * torch.randint(-2, 3, base.shape, generator=generator)).to(
                        base.device
                    )
                    for name, base in self.base.items()
                }
                there.dirty = set(self.leaves)
                try:
                    there.differentiate()
                    self.moved.append(there.gradients)
                except Exception:  # whatever the user's forward raises beside
                    self.moved.append(self.gradients)
                self.evaluations = there.evaluations
            self.dirty = set(self.leaves)
        return self.moved

    def record_stops(self) -> StopGradients:
        """What leaves the graph at the base point; the caller chooses what of it to hold."""
        self.place()
        stops = StopGradients()
        with stops.recording():
            self.run()
        return stops

    def displace(self, seed: int) -> None:
        """Move the base point a little, off a kink that it lies on."""
        away = Direction(self.leaves, self.scales, seed, held=self.held)
        self.base = {
            name: away.moved(name, self.base[name], _DISPLACEMENT, flat(leaf.data).dtype)
            for name, leaf in self.leaves.items()
        }
        self.dirty = set(self.leaves)


def _inner(a: Tensor, b: Tensor) -> float:
    """Real inner product."""
    if a.is_complex() or b.is_complex():
        return float((a.conj() * b).real.sum(dtype=torch.float64))
    return float((a * b).sum(dtype=torch.float64))


def _masked(cotangent: Tensor, output: Tensor) -> Tensor:
    return cotangent * torch.where(torch.isfinite(output), output, torch.zeros_like(output))


# ------------------------------------------------------------------------------------------ building a world


def _unwrapped(model: Callable[..., Any]) -> Callable[..., Any]:
    """The module inside ``torch.compile`` and data-parallel wrappers: the same function, but copyable."""
    while isinstance(model, nn.Module):
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, (DataParallel, DistributedDataParallel)):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner
    return model


def _looks_back(function: object) -> bool:
    """Whether a module holds a closure over modules or tensors: in a copy, it would still reach the original's."""
    if not isinstance(function, nn.Module):
        return False
    return any(
        isinstance(cell.cell_contents, (nn.Module, Tensor, types.MethodType))
        for module in function.modules()
        for value in vars(module).values()
        if isinstance(value, types.FunctionType)
        for cell in value.__closure__ or ()
        if cell != _UNBOUND
    )


@dataclass(frozen=True, eq=False)
class Twin:
    """A copy of a model, its call and its loss: ``parts``; what was copied by object id: ``memo``."""

    parts: tuple[Any, ...]
    memo: dict[int, Any]


def copied(
    model: Callable[..., Any],
    call: PreparedCall,
    wrt: Mapping[str, Tensor],
    loss: Callable[[Any], Any] | None,
    wide: bool,
) -> Twin | None:
    """A copy of everything that holds every leaf, or None where there can be none."""
    model = _unwrapped(model)
    everything: tuple[Any, ...] = (model, call.args, call.kwargs, loss)
    memo: dict[int, Any] = {}
    own = {id(p) for p in model.parameters()} if isinstance(model, nn.Module) else set()
    made: dict[int, Tensor] = {}
    if wide:
        # Widened while they are copied: fresh memory is what a large model's copy costs.
        for tensor in wrt.values():
            plain = type(tensor) is nn.Parameter and not vars(tensor) and tensor.layout is torch.strided
            if plain and id(tensor) in own and tensor.dtype in WIDER:
                twin = nn.Parameter(tensor.data.to(WIDER[tensor.dtype]), tensor.requires_grad)
                made[id(tensor)] = memo[id(tensor)] = twin
    try:
        parts = copy.deepcopy(everything, memo)
    except (
        Exception
    ):  # __deepcopy__ and __reduce__ of anything a model holds (locks, graphs, handles) may raise anything
        return None
    if any(id(tensor) not in memo for tensor in wrt.values()) or _looks_back(model):
        return None
    if made:
        arrived = {id(p) for p in parts[0].parameters()}
        if any(id(twin) not in arrived for twin in made.values()):
            return None
    return Twin(parts, memo)


def build(
    model: Callable[..., Any],
    call: PreparedCall,
    wrt: Mapping[str, Tensor],
    cotangents: Sequence[tuple[str, Tensor]],
    loss: Callable[[Any], Any] | None,
    wide: bool,
    twin: Twin | None,
) -> World:
    """The world of a copy, or, without one, of the thing itself (which the caller preserves)."""
    if twin is not None:
        tensors = [value for value in twin.memo.values() if isinstance(value, Tensor)]
        leaves = {name: twin.memo[id(tensor)] for name, tensor in wrt.items()}
        everything = twin.parts
    else:
        everything = (_unwrapped(model), call.args, call.kwargs, loss)
        tensors = Snapshot(everything[0], call.args, call.kwargs, list(wrt.values()), loss).tensors
        leaves = dict(wrt)
    # The values from before anything is widened: where they stay in their memory, they need no second copy.
    originals = {name: tensor.data for name, tensor in wrt.items()}
    function, args, kwargs, criterion = everything
    _remove_gradient_hooks(function, tensors)
    world = World(
        function,
        args,
        kwargs,
        criterion,
        leaves,
        [path for path, _ in cotangents],
        [c.detach().to(WIDER.get(c.dtype, c.dtype)) if wide else c.detach() for _, c in cotangents],
        wide,
    )
    moved = {id(leaf) for leaf in leaves.values()}
    for tensor in tensors:
        data = tensor.data
        if data.layout is not torch.strided:
            continue
        if wide and data.dtype in WIDER:
            data = data.to(WIDER[data.dtype])
        if id(tensor) in moved and any(s == 0 and n > 1 for n, s in zip(data.shape, data.stride())):
            data = data.contiguous()  # an expanded leaf: each element is moved by itself
        if data is not tensor.data:
            tensor.data = data
    for name, leaf in leaves.items():
        original = originals[name]
        shared = original.untyped_storage().data_ptr() == leaf.untyped_storage().data_ptr()
        same_order = original.stride() == leaf.stride() and original.shape == leaf.shape
        world.base[name] = flat(original if same_order and not shared else leaf.data.clone())
    return world


def _remove_gradient_hooks(function: object, tensors: Iterable[Tensor]) -> None:
    """Hooks that clip or mask gradients make them other than the derivative, and are meant to."""
    if isinstance(function, nn.Module):
        for module in function.modules():
            module._backward_hooks.clear()
            module._backward_pre_hooks.clear()
    for tensor in tensors:
        if tensor.is_leaf and getattr(tensor, "_backward_hooks", None):
            tensor._backward_hooks = None


def settle(world: World, known: Mapping[str, Tensor | None] | None = None) -> None:
    """Measure scales and differentiate once at the base point, or take the gradients that are ``known``."""
    leaves = list(world.leaves.values())
    world.snapshot = Snapshot(world.model, world.args, world.kwargs, leaves, world.loss, elsewhere=leaves)
    sizes = {n: norm(leaf.data) / math.sqrt(max(1, leaf.numel())) for n, leaf in world.leaves.items()}
    positive = sorted(size for size in sizes.values() if size > 0)
    # A tensor of zeros (a fresh bias) has no scale of its own: it is moved like its typical neighbour.
    typical = positive[len(positive) // 2] if positive else 1.0
    world.scales = {name: size if size > 0 else typical for name, size in sizes.items()}
    world.differentiate(known)

"""A world of its own for a function: run again and again from the same state, with its leaves moved about."""

from __future__ import annotations

import copy
import math
import time
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from ..capture.inputs import PreparedCall
from ..capture.outputs import describe, output_tensors
from ..capture.precision import WIDER, Additions, InFloat64, PrecisionProbe
from ..capture.state import Snapshot

__all__ = ["DOUBLE", "SINGLE", "Abstain", "Precision", "World", "build", "inner", "norm", "settle", "signs"]

_DISPLACEMENT = 1e-2
_REPRODUCIBLE = 64.0
_UNBOUND = types.CellType()


@dataclass(frozen=True)
class Precision:
    """The ladder of steps in one working precision; steps are relative to each tensor's own scale."""

    name: str
    epsilon: float
    start: float
    ratio: float
    floor: float
    limit: float


DOUBLE = Precision("float64", torch.finfo(torch.float64).eps, 1e-3, 8.0, 1e-6, 1e-3)
SINGLE = Precision("float32", torch.finfo(torch.float32).eps, 3e-2, 3.0, 1e-3, 2e-2)


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
    unusable: list[str] = field(default_factory=list)
    noise: float = 0.0
    seconds: float = 0.0
    evaluations: int = 0

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

    def at(self, move: Mapping[str, Tensor], step: float) -> list[Tensor] | None:
        """Outputs with the leaves moved by ``step * move``; None where the function is not defined."""
        assert self.snapshot is not None
        self.snapshot.restore()
        for name, leaf in self.leaves.items():
            moved = self.base[name] + step * move[name] if name in move else self.base[name]
            leaf.data.copy_(moved)
        try:
            return [output.detach() for output in self.run()]
        except Abstain:
            return None
        except (
            Exception
        ):  # the user's forward may refuse the moved values in any way: a step outside the domain
            return None

    def change(self, move: Mapping[str, Tensor], step: float) -> float | None:
        """Change of the projected output over a step, or None where it is not defined."""
        results = self.at(move, step)
        if results is None:
            return None
        total = 0.0
        for before, after, cotangent in zip(self.outputs, results, self.cotangents):
            difference = torch.where(torch.isfinite(before), after - before, torch.zeros_like(before))
            total += inner(cotangent, difference)
        return total if math.isfinite(total) else None

    def differentiate(self) -> None:
        """Run at the base point; keep outputs, autograd's gradients and the noise of one evaluation.

        Raises:
            Abstain: outputs are not finite, the function does not repeat, or it insists on half precision.
        """
        assert self.snapshot is not None
        self.snapshot.restore()
        for name, leaf in self.leaves.items():
            leaf.data.copy_(self.base[name])
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
        self.gradients = self._autograd(results)
        del results
        again = self.at({}, 0.0)
        if again is None:
            raise Abstain("a second run from the same state does not give the same outputs")
        spread, size = 0.0, 0.0
        for mask, before, after, c in zip(finite, self.outputs, again, self.cotangents):
            zero = torch.zeros_like(before)
            spread = math.hypot(spread, norm(c * torch.where(mask, after - before, zero)))
            size = math.hypot(size, norm(c * torch.where(mask, before, zero)))
        if not spread <= _REPRODUCIBLE * self.precision.epsilon * size:
            raise Abstain(
                f"two runs from the same state and seeds differ by {spread / size if size else spread:.2g} "
                "(relative): the model draws from a generator of its own or is not deterministic"
            )
        self.noise = 16.0 * self.precision.epsilon * size + 4.0 * spread

    def _autograd(self, results: list[Tensor]) -> dict[str, Tensor]:
        tracked = [(r, c) for r, c in zip(results, self.cotangents) if r.requires_grad]
        names = list(self.leaves)
        found: Sequence[Tensor | None] = [None] * len(names)
        if tracked:
            outputs, cotangents = zip(*tracked)
            leaves = [self.leaves[name] for name in names]
            mode: Any = InFloat64() if self.wide else torch.enable_grad()
            with mode:
                found = torch.autograd.grad(outputs, leaves, cotangents, allow_unused=True)
        gradients = {}
        self.unusable = []
        for name, gradient in zip(names, found):
            if gradient is None:
                gradient = torch.zeros_like(self.base[name])
            gradient = (
                gradient.detach().to_dense() if gradient.layout is not torch.strided else gradient.detach()
            )
            if not bool(torch.isfinite(gradient).all()):
                self.unusable.append(name)
            gradients[name] = gradient
        return gradients

    def absorbs(self) -> bool:
        """Whether a value that the gradient passes through is lost in a sum with a much larger one."""
        assert self.snapshot is not None
        self.snapshot.restore()
        for name, leaf in self.leaves.items():
            leaf.data.copy_(self.base[name])
        with Additions() as additions:
            results = self.run()
        tracked = [(r, c) for r, c in zip(results, self.cotangents) if r.requires_grad]
        if not additions.found or not tracked:
            return False
        outputs, cotangents = zip(*tracked)
        sums = [result for result, _ in additions.found]
        gradients = torch.autograd.grad(outputs, sums, cotangents, allow_unused=True)
        return any(
            g is not None and bool((g.abs() * lost).any()) for g, (_, lost) in zip(gradients, additions.found)
        )

    def displace(self, seed: int) -> None:
        """Move the base point a little, off a kink that it lies on."""
        generator = torch.Generator().manual_seed(seed)
        for name, value in self.base.items():
            self.base[name] = value + _DISPLACEMENT * self.scales[name] * signs(value, generator)


def inner(a: Tensor, b: Tensor) -> float:
    """Real inner product."""
    if a.is_complex() or b.is_complex():
        return float((a.conj() * b).real.sum(dtype=torch.float64))
    return float((a * b).sum(dtype=torch.float64))


def norm(tensor: Tensor) -> float:
    magnitudes = tensor.abs().to(torch.float64)
    largest = float(magnitudes.max()) if magnitudes.numel() else 0.0
    if largest == 0.0 or not math.isfinite(largest):
        return largest
    return largest * float((magnitudes / largest).norm())


def signs(like: Tensor, generator: torch.Generator) -> Tensor:
    """Entries of random sign and size between 1/2 and 3/2: every element takes part in every direction."""

    def draw() -> Tensor:
        values = torch.rand(like.shape, generator=generator, dtype=torch.float64) * 2.0 - 1.0
        return values + 0.5 * torch.where(values < 0, -1.0, 1.0)

    entries = torch.complex(draw(), draw()) if like.is_complex() else draw()
    return entries.to(device=like.device, dtype=like.dtype)


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


def build(
    model: Callable[..., Any],
    call: PreparedCall,
    wrt: Mapping[str, Tensor],
    cotangents: Sequence[tuple[str, Tensor]],
    loss: Callable[[Any], Any] | None,
    wide: bool,
) -> World:
    """A copy of everything, or, where it cannot be copied, the thing itself (the caller preserves it)."""
    memo: dict[int, Any] = {}
    everything: tuple[Any, ...] = (_unwrapped(model), call.args, call.kwargs, loss)
    try:
        copied = copy.deepcopy(everything, memo)
        whole = all(id(tensor) in memo for tensor in wrt.values()) and not _looks_back(everything[0])
    except (
        Exception
    ):  # __deepcopy__ and __reduce__ of anything a model holds (locks, graphs, handles) may raise anything
        whole = False
    if whole:
        tensors = [value for value in memo.values() if isinstance(value, Tensor)]
        leaves = {name: memo[id(tensor)] for name, tensor in wrt.items()}
        everything = copied
    else:
        tensors = Snapshot(everything[0], call.args, call.kwargs, list(wrt.values())).tensors
        leaves = dict(wrt)
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


def settle(world: World, seed: int) -> None:
    """Measure scales and differentiate once at the base point."""
    world.snapshot = Snapshot(world.model, world.args, world.kwargs, list(world.leaves.values()), world.loss)
    world.base = {name: leaf.detach().clone() for name, leaf in world.leaves.items()}
    sizes = {n: norm(b) / math.sqrt(max(1, b.numel())) for n, b in world.base.items()}
    known = sorted(size for size in sizes.values() if size > 0)
    # A tensor of zeros (a fresh bias) has no scale of its own: it is moved like its typical neighbour.
    typical = known[len(known) // 2] if known else 1.0
    world.scales = {name: size if size > 0 else typical for name, size in sizes.items()}
    world.differentiate()

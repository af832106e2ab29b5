"""Parameters that an optimizer holds and no backward ever reaches."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from ..evidence import Finding, Location
from ..rules.unused_parameter import UnusedParameter
from .contributions import Contributions
from .names import Names

__all__ = ["Unreached"]

# A branch that is taken now and then, an expert that is chosen rarely: they have had their chance by then.
_FEWEST_STEPS = 10
_MOST_CUTS = 3
_MOST_OPTIMIZERS = 500


@dataclass(frozen=True, eq=False, slots=True)
class _Candidate:
    tensor: weakref.ref[torch.Tensor]
    name: str
    elements: int


@dataclass(eq=False, slots=True)
class _Looked:
    """What is known of one optimizer.

    Attributes:
        steps: how many of its steps had some gradient to use.
        candidates: parameters that had none in any of them; None until there were enough steps.
        where: the latest line that stepped it.
        cuts: lines at which a graph was left by something, on the way to a backward that did not reach them.
    """

    steps: int = 0
    candidates: list[_Candidate] | None = None
    where: Location | None = None
    cuts: dict[Location, str] = field(default_factory=dict)


class Unreached:
    """Counts steps, and after some looks for parameters that still have no gradient."""

    def __init__(self, contributions: Contributions, names: Names) -> None:
        self._contributions = contributions
        self._names = names
        self._by_optimizer: weakref.WeakKeyDictionary[torch.optim.Optimizer, _Looked]
        self._by_optimizer = weakref.WeakKeyDictionary()
        self._found: list[_Looked] = []  # also when the optimizer is gone

    def stepped(self, optimizer: torch.optim.Optimizer, location: Location | None) -> None:
        """An outermost step has ended, before anything is zeroed."""
        looked = self._by_optimizer.get(optimizer)
        if looked is None:
            looked = self._by_optimizer[optimizer] = _Looked()
        if looked.candidates is None:
            if not any(p.grad is not None for group in optimizer.param_groups for p in group["params"]):
                return
            looked.steps += 1
            if looked.steps < _FEWEST_STEPS:
                return
            tensors = [
                p
                for group in optimizer.param_groups
                for p in group["params"]
                if type(p) in (torch.Tensor, torch.nn.Parameter) and self._has_none(p)
            ]
            looked.candidates = [
                _Candidate(weakref.ref(tensor), name, tensor.numel())
                for tensor, name in zip(tensors, self._names.of(tensors))
            ]
            looked.where = location
            if looked.candidates and len(self._found) < _MOST_OPTIMIZERS:
                self._found.append(looked)
        elif looked.candidates:
            looked.steps += 1
            looked.where = location
            looked.candidates = [c for c in looked.candidates if self._remains(c)]

    def backward_ended(self, cuts: Callable[[], Sequence[tuple[Location, str]]]) -> None:
        """A backward has ended; ``cuts`` says where the graph was left before it."""
        for looked in self._found:
            if looked.candidates and not looked.cuts:
                looked.cuts.update(cuts()[:_MOST_CUTS])

    def _has_none(self, tensor: torch.Tensor) -> bool:
        return tensor.requires_grad and tensor.grad is None and self._contributions.of(tensor) is None

    def _remains(self, candidate: _Candidate) -> bool:
        tensor = candidate.tensor()
        return tensor is None or self._has_none(tensor)

    def findings(self) -> list[Finding]:
        """Parameters that were never reached, one finding per module."""
        found = []
        for looked in self._found:
            left = [c for c in looked.candidates or () if self._remains(c)]
            if left:
                found += UnusedParameter.from_names(
                    [c.name for c in left],
                    {c.name: c.elements for c in left},
                    location=looked.where,
                    steps=looked.steps,
                    cuts=list(looked.cuts.items()),
                )
        return found

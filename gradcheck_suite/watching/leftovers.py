"""What is left over when a program ends: parameters that nobody trains, and sums of gradients that nobody has used.

A model rarely lives until the session ends (``with watch(): main()``). What will be said of a leaf is therefore noted
while it lives, as names and numbers; the leaf itself is held by nothing here.
"""

from __future__ import annotations

import gc
import itertools
import weakref
from collections.abc import Iterable, Sequence

import torch

from ..capture.modules import ModuleStack
from ..evidence import Finding, Location
from ..rules.accumulated_without_step import AccumulatedWithoutStep
from ..rules.not_in_optimizer import NotInOptimizer
from .contributions import Contributions, Facts, Leaf
from .names import Names

__all__ = ["Leftovers"]

_MOST_SCANS = 16


class Leftovers:
    """Notes what leaves are while they live; says at the end which of them were left over."""

    def __init__(self, contributions: Contributions, names: Names, modules: ModuleStack) -> None:
        self._contributions = contributions
        self._names = names
        self._modules = modules
        self._numbers: weakref.WeakKeyDictionary[torch.nn.Module, int] = weakref.WeakKeyDictionary()
        self._next = itertools.count(1)
        self._scans = 0

    def stepped(self) -> None:
        """An optimizer has stepped: note what the leaves are that a second backward has reached since the last step."""
        waiting, self._contributions.came_again = self._contributions.came_again, []
        if not waiting:
            return
        living = [(t, leaf) for t, leaf in ((leaf.tensor(), leaf) for leaf in waiting) if t is not None]
        optimized: set[int] = set()
        if any(not leaf.stepped for _, leaf in living):
            if self._scans >= _MOST_SCANS:
                living = [(t, leaf) for t, leaf in living if leaf.stepped]
            else:
                self._scans += 1
                optimized = _all_optimized()
        roots, asleep = self._roots()
        for (tensor, leaf), name in zip(living, self._names.of([t for t, _ in living])):
            own = tuple(roots.get(id(tensor), ()))
            leaf.facts = Facts(
                name=name,
                elements=tensor.numel(),
                roots=own,
                training=asleep.isdisjoint(own),
                parameter=isinstance(tensor, torch.nn.Parameter),
                held=leaf.stepped or id(tensor) in optimized,
            )

    def findings(self, stepping: Sequence[tuple[str, Location | None]]) -> list[Finding]:
        """What was left over so far.

        Args:
            stepping: class and line of every optimizer that steps.
        """
        self.stepped()
        living = list(self._contributions)
        return [*self._untrained(living, stepping), *self._unused(living)]

    def _untrained(
        self,
        living: Sequence[tuple[torch.Tensor, Leaf]],
        stepping: Sequence[tuple[str, Location | None]],
    ) -> list[Finding]:
        """Parameters that get gradients beside parameters that are trained, and belong to no optimizer."""
        known = [leaf for leaf in [*(leaf for _, leaf in living), *self._contributions.gone] if leaf.facts]
        trained = {root for leaf in known if leaf.stepped and leaf.facts for root in leaf.facts.roots}
        trained |= self._contributions.trained
        left = [leaf for leaf in known if _is_untrained(leaf, trained)]
        if not left:
            return []
        optimized = _all_optimized()
        now_held = {id(leaf) for tensor, leaf in living if id(tensor) in optimized}
        groups: dict[int, list[Leaf]] = {}
        for leaf in left:
            if id(leaf) not in now_held and leaf.facts is not None:
                alone = leaf.facts.roots[0] if leaf.facts.roots else 0
                root = next((root for root in leaf.facts.roots if root in trained), alone)
                groups.setdefault(root, []).append(leaf)
        found = []
        for root, group in groups.items():
            moment = group[0].last_backward
            found.append(
                NotInOptimizer.from_names(
                    {leaf.facts.name: leaf.facts.elements for leaf in group if leaf.facts is not None},
                    optimizers=[name for name, _ in stepping],
                    location=stepping[0][1] if stepping else None,
                    backward=moment.location if moment is not None else None,
                    registered=root != 0,
                )
            )
        return found

    def _unused(self, living: Iterable[tuple[torch.Tensor, Leaf]]) -> list[Finding]:
        """Sums of several backwards that nobody has used, of parameters that some optimizer holds."""
        waiting = [(t, leaf) for t, leaf in living if leaf.fresh_count >= 2]
        by_line: dict[Location | None, list[tuple[str, int]]] = {}

        def add(leaf: Leaf, name: str) -> None:
            line = leaf.last_backward.location if leaf.last_backward is not None else None
            by_line.setdefault(line, []).append((name, leaf.fresh_count))

        if waiting:
            optimized = _all_optimized()
            for tensor, leaf in waiting:
                # Looking brings the leaf up to date: somebody may have cleared it in the meantime.
                if id(tensor) in optimized and self._contributions.of(tensor) and leaf.fresh_count >= 2:
                    add(leaf, self._names.of([tensor])[0])
        for leaf in self._contributions.gone:
            if leaf.fresh_count >= 2 and leaf.facts is not None and (leaf.stepped or leaf.facts.held):
                add(leaf, leaf.facts.name)
        return [
            AccumulatedWithoutStep.from_backward(
                line, [name for name, _ in group], max(count for _, count in group)
            )
            for line, group in by_line.items()
        ]

    def _roots(self) -> tuple[dict[int, list[int]], set[int]]:
        """Numbers of the models that each parameter is registered in, by ``id``; and of those in evaluation mode."""
        found: dict[int, list[int]] = {}
        asleep: set[int] = set()
        for root in list(self._modules._roots):
            number = self._numbers.get(root)
            if number is None:
                number = self._numbers[root] = next(self._next)
            if not getattr(root, "training", True):
                asleep.add(number)
            for parameter in root.parameters():
                found.setdefault(id(parameter), []).append(number)
        return found, asleep


def _is_untrained(leaf: Leaf, trained: set[int]) -> bool:
    facts = leaf.facts
    if facts is None or facts.held or leaf.stepped or leaf.by_hand or leaf.backwards < 2:
        return False
    if any(root in trained for root in facts.roots):
        return True
    if facts.roots and not (trained and facts.training):
        return False  # a network that is only looked through is in evaluation mode, or what is optimised is no network
    # A layer in a Python list, a parameter in a dictionary: no model knows it, or it is called by itself. An input that is
    # optimised (an adversarial example, a picture) is no parameter, is new in every step, or is written to.
    last = leaf.last_backward
    beside = leaf.beside + (last is not None and last.stepped)
    return facts.parameter and not leaf.changed and beside >= 2


def _all_optimized() -> set[int]:
    """Every parameter of every optimizer that exists."""
    return {
        id(p)
        for o in gc.get_objects()
        if issubclass(type(o), torch.optim.Optimizer)
        for group in o.param_groups
        for p in group["params"]
    }

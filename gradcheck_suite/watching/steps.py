"""Optimizer steps and hand-written updates: what they use, and the rules about it."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import CodeType
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

from ..capture.sources import SourceFinder
from ..evidence import Finding, Location
from ..rules.step_without_gradient import StepWithoutGradient
from ..rules.unzeroed_grad import UnzeroedGrad
from ..rules.zeroed_before_step import ZeroedBeforeStep
from .collector import Collector
from .contributions import Contributions, Leaf, Moment
from .names import Names

__all__ = ["Steps"]

_MOST_OPTIMIZERS = 500
_MOST_CHECKED = 4
_WEIGHTS_CHECKED = 64


@dataclass(eq=False, slots=True)
class _Optimizer:
    """What is known of one optimizer."""

    optimizer: weakref.ref[torch.optim.Optimizer]
    name: str
    had_gradient: bool = False
    last_step: int = 0
    where: Location | None = None
    empty: list[Moment] = field(default_factory=list)
    empty_count: int = 0
    cleared: tuple[Moment, Moment, Moment] | None = None  # backward, clearing, step
    cleared_count: int = 0


@dataclass(eq=False, slots=True)
class _Running:
    """The outermost optimizer step that runs now."""

    moment: Moment
    optimizers: list[torch.optim.Optimizer]
    closure: bool
    written: set[int] = field(default_factory=set)
    had_gradient: bool = False
    lost: tuple[Moment, Moment] | None = None
    none_at_all: bool = False


class Steps:
    """Follows every step of the watched thread."""

    def __init__(
        self,
        contributions: Contributions,
        findings: Collector,
        sources: SourceFinder,
        names: Names,
    ) -> None:
        self._contributions = contributions
        self._findings = findings
        self._sources = sources
        self._names = names
        self._optimizers: dict[int, _Optimizer] = {}
        self._running: _Running | None = None
        self._step_code: CodeType | None = None
        self._steps = 0
        self._backwards = 0
        self._checked = 0
        self._by_hand: dict[Location | None, tuple[list[weakref.ref[torch.Tensor]], Moment, Finding]] = {}

    # -- what happens --------------------------------------------------------------------------------------------

    def backward_began(self) -> bool:
        """Whether an optimizer step is running around the backward (a closure)."""
        if self._running is not None and not self._on_stack(sys._getframe(1)):
            self._running = None  # it has raised
        return self._running is not None

    def backward_ended(self, reached: int) -> None:
        """A backward has contributed to so many leaves."""
        self._backwards += bool(reached)

    def before_step(
        self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """See :class:`~gradcheck_suite.watching.doors.Watcher`."""
        frame = sys._getframe(1)
        while frame.f_code.co_name != "wrapper" and frame.f_back is not None:
            frame = frame.f_back
        self._step_code = self._step_code or frame.f_code
        outer = frame.f_back
        if self._running is not None and outer is not None and self._on_stack(outer):
            if all(known is not optimizer for known in self._running.optimizers):
                self._running.optimizers.append(optimizer)
            return
        self._steps += 1
        location, _ = self._sources.find(1, look_for_function=False)
        moment = Moment(self._steps, location, f"{type(optimizer).__name__}.step()")
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None) is not None
        self._running = running = _Running(moment, [optimizer], closure)
        running.none_at_all = True
        for tensor in _parameters((optimizer,)):
            leaf = self._contributions.of(tensor)
            if leaf is None:
                running.none_at_all = running.none_at_all and tensor.grad is None
                running.had_gradient = running.had_gradient or tensor.grad is not None
                continue
            self._contributions.locate(leaf, tensor)
            running.none_at_all = running.none_at_all and tensor.grad is None
            known_empty = tensor.grad is None or (leaf.zeroed and leaf.fresh is None)
            running.had_gradient = running.had_gradient or not known_empty
            running.lost = running.lost or leaf.lost

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """See :class:`~gradcheck_suite.watching.doors.Watcher`."""
        running = self._running
        if running is None or running.optimizers[0] is not optimizer:
            return
        self._running = None
        stale: list[tuple[torch.Tensor, Leaf]] = []
        leaves: list[Leaf] = []
        for tensor in _parameters(running.optimizers):
            leaf = self._contributions.of(tensor)
            if leaf is None:
                continue
            leaves.append(leaf)
            running.had_gradient = running.had_gradient or leaf.waiting is not None
            # A step that wrote nothing (it skips, it collects) has used nothing.
            if id(leaf) in running.written:
                if leaf.waiting is not None and leaf.used is not None:
                    stale.append((tensor, leaf))
                leaf.use(running.moment)
        if stale:
            self._report_stale(running.moment, stale)
        self._note(optimizer, running, leaves)

    def update_by_hand(self, leaf: Leaf, tensor: torch.Tensor, location: Location | None) -> None:
        """A parameter was changed, outside any optimizer, by what was computed from its gradient."""
        if leaf.fresh is None:
            return  # the second operation of the same update
        moment = Moment(self._steps, location, "the update")
        if leaf.used_by_hand is not None and not leaf.stepped:
            self._report_by_hand(moment, tensor, leaf)
        leaf.used_by_hand = (leaf.fresh, moment)
        leaf.by_hand = True
        leaf.fresh, leaf.fresh_count, leaf.lost = None, 0, None

    def written_in_step(self, leaf: Leaf) -> bool:
        """A leaf's memory is written to; whether that was inside an optimizer step."""
        if self._running is None:
            return False
        self._running.written.add(id(leaf))
        return True

    def written_by(self, optimizer: torch.optim.Optimizer) -> set[int] | None:
        """The leaves, by ``id``, that the outermost step has written to; None if it is not this optimizer's."""
        running = self._running
        return None if running is None or running.optimizers[0] is not optimizer else running.written

    def location(self) -> Location | None:
        """Where the running step was called."""
        return None if self._running is None else self._running.moment.location

    @property
    def inside(self) -> bool:
        """Whether a step is running."""
        return self._running is not None

    def zeroing(self, owner: Any) -> Callable[[], None] | None:
        """``zero_grad`` of an optimizer or a module begins; call what is returned when it has ended."""
        tensors = owner.parameters() if isinstance(owner, torch.nn.Module) else _parameters((owner,))
        location, _ = self._sources.find(1, look_for_function=False)
        concerned = [t for t in tensors if self._contributions.of(t) is not None]
        if not concerned:
            return None
        # Who clears a gradient that is not finite skips a bad step on purpose.
        spoilt = self._spoilt(concerned)
        ended = self._contributions.zeroing(concerned, Moment(0, location, "zero_grad()"))

        def done() -> None:
            ended()
            if spoilt:
                for tensor in concerned:
                    leaf = self._contributions.of(tensor)
                    if leaf is not None:
                        leaf.lost = None

        return done

    # -- what it means -------------------------------------------------------------------------------------------

    def _on_stack(self, frame: Any) -> bool:
        while frame is not None:
            if frame.f_code is self._step_code:
                return True
            frame = frame.f_back
        return False

    def _spoilt(self, tensors: list[torch.Tensor]) -> bool:
        if self._checked >= _MOST_CHECKED or not any(
            leaf is not None and leaf.fresh for leaf in map(self._contributions.of, tensors)
        ):
            return False
        self._checked += 1
        with _disable_current_modes(), torch.no_grad():
            for tensor in tensors[:_WEIGHTS_CHECKED]:
                grad = tensor.grad
                if grad is not None and grad.layout is torch.strided and not bool(torch.isfinite(grad).all()):
                    return True
        return False

    def _report_stale(self, moment: Moment, stale: list[tuple[torch.Tensor, Leaf]]) -> None:
        first = stale[0][1]
        assert first.used is not None
        backward, step = first.used

        def make() -> Finding:
            return UnzeroedGrad.from_step(
                step=moment.what,
                location=moment.location,
                parameters=self._names.of([t for t, _ in stale]),
                backward=backward.location,
                earlier=step.location,
                latest=first.last_backward.location if first.last_backward is not None else None,
            )

        self._findings.add(("GC301", moment.location), moment.number, make)

    def _report_by_hand(self, moment: Moment, tensor: torch.Tensor, leaf: Leaf) -> None:
        assert leaf.used_by_hand is not None
        backward, earlier = leaf.used_by_hand
        known = self._by_hand.get(moment.location)
        if known is not None:
            if len(known[0]) < 100 and all(ref() is not tensor for ref in known[0]):
                known[0].append(weakref.ref(tensor))
            return
        if len(self._by_hand) < 100:
            finding = UnzeroedGrad.from_step(
                step=moment.what,
                location=moment.location,
                parameters=self._names.of([tensor]),
                backward=backward.location,
                earlier=earlier.location,
                latest=leaf.last_backward.location if leaf.last_backward is not None else None,
            )
            self._by_hand[moment.location] = ([weakref.ref(tensor)], moment, finding)

    def _note(self, optimizer: torch.optim.Optimizer, running: _Running, leaves: Iterable[Leaf]) -> None:
        known = self._optimizers.get(id(optimizer))
        if known is None or known.optimizer() is not optimizer:
            if len(self._optimizers) >= _MOST_OPTIMIZERS:
                return
            known = self._optimizers[id(optimizer)] = _Optimizer(
                weakref.ref(optimizer), type(optimizer).__name__
            )
        lost, running.lost = running.lost, None
        for leaf in leaves:
            leaf.lost = None
            leaf.note_step()
        if running.had_gradient:
            known.had_gradient = True
            known.cleared, known.empty = None, []
        elif not running.closure and not known.had_gradient:
            if lost is not None:
                known.cleared = known.cleared or (*lost, running.moment)
                known.cleared_count += 1
            elif running.none_at_all and self._backwards > known.last_step:
                known.empty = known.empty or [running.moment]
                known.empty_count += 1
        known.last_step, known.where = self._backwards, running.moment.location

    def findings(self) -> list[Finding]:
        """What can be said only when it is known how it went on."""
        found = [finding for refs, _, finding in self._by_hand.values() if self._never_stepped(refs)]
        for known in self._optimizers.values():
            if known.had_gradient:
                continue
            if known.cleared is not None and known.cleared_count >= 2:
                backward, clearing, step = known.cleared
                found.append(
                    ZeroedBeforeStep.from_moments(
                        step=step.what,
                        clearing=clearing.what,
                        location=clearing.location or step.location,
                        backward=backward.location,
                        stepped=step.location,
                        count=known.cleared_count,
                    )
                )
            elif known.empty:
                moment = known.empty[0]
                found.append(StepWithoutGradient.from_step(moment.what, moment.location, known.empty_count))
        return found

    def stepping(self) -> list[tuple[str, Location | None]]:
        """Class and latest line of every optimizer that has stepped with a gradient."""
        return [(known.name, known.where) for known in self._optimizers.values() if known.had_gradient]

    def _never_stepped(self, refs: list[weakref.ref[torch.Tensor]]) -> bool:
        leaves = [self._contributions.of(t) for t in (ref() for ref in refs) if t is not None]
        return not any(leaf is not None and leaf.stepped for leaf in leaves)


def _parameters(optimizers: Iterable[torch.optim.Optimizer]) -> list[torch.Tensor]:
    return [p for o in optimizers for group in o.param_groups for p in group["params"]]

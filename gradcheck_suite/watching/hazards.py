"""The hazards of one session: joins what happens (backwards, steps, zeroing, writes) with what is known about it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..capture.identity import _storage_address
from ..capture.modules import ModuleStack
from ..capture.versions import advance
from ..evidence import Finding, Location, Trace
from ..rules.non_leaf_grad import NonLeafGrad
from .calls import DirectCalls
from .collector import Collector
from .contributions import Contributions, Leaf, Moment, Token
from .explanations import PREFIX, Explanations, add_note, note_of
from .graphs import BackwardRun, Graphs, every_node
from .growth import Growth
from .leftovers import Leftovers
from .modes import GradModes
from .names import Names
from .non_finite import NonFinite
from .recorder import WatchingRecorder
from .saved import release
from .scales import Scales
from .silent import SilentWrites, Suspect
from .steps import Steps
from .stretches import AccumulateGrad, KnownSteps, is_undisturbed
from .training_modes import TrainingModes
from .unreached import Unreached

__all__ = ["Hazards", "Observation"]

_BACKWARDS = frozenset({"backward", "grad"})
_NON_LEAF = "The .grad attribute of a Tensor that is not a leaf"
_COMPACT_EVERY = 32
_UNSCALING = "aten::_amp_foreach_non_finite_check_and_unscale_"


@dataclass(eq=False, slots=True)
class Observation:
    """A backward that is running, as the hazards see it."""

    run: BackwardRun
    nodes: Sequence[Any]
    inner: Sequence[Any]  # those that are no leaf's
    roots: Sequence[torch.Tensor]
    token: Token
    create_graph: bool
    retained_by_user: bool
    inputs: Sequence[Any]
    suspects: dict[int, Suspect]
    frees: bool
    stepped_inside: bool = False


class Hazards:
    """Watches for the mistakes that the rules of groups 2, 3, 4, 5 and 7 describe."""

    def __init__(self, modules: ModuleStack, names: Names) -> None:
        self._modules = modules
        self._findings = Collector()
        self.recorder = WatchingRecorder(modules, self)
        self._contributions = Contributions(self.recorder.flow.__contains__)
        self._steps = Steps(self._contributions, self._findings, self.recorder.sources, names)
        self._leftovers = Leftovers(self._contributions, names, modules)
        self._unreached = Unreached(self._contributions, names)
        self._non_finite = NonFinite(self.recorder, self._contributions, self._findings, names)
        self._calls = DirectCalls(modules, self.recorder.sources, self._findings)
        self._graphs = Graphs(self.recorder, self._findings)
        self.modes = GradModes(self.recorder.sources, self._findings)
        self._explanations = Explanations(self.recorder.cuts, self.recorder.sources, self.modes, names)
        self._explained: tuple[tuple[int, str], Finding] | None = None
        self.training_modes = TrainingModes(modules, self.recorder.sources)
        self._scales = Scales(self._graphs, self._findings, names)
        self._growth = Growth(self._graphs)
        self.silent = SilentWrites(self.recorder, self._findings)
        self.known_steps = KnownSteps(
            self.recorder,
            self._wrote_unseen,
        )
        self._running: list[Observation] = []
        self._backwards = 0
        self._contributions_made = 0
        self._following = False
        self._off = False

    def give_up(self) -> None:
        """After a fault of our own: say nothing more, rather than something wrong."""
        self._off = True
        self._following = False
        self.known_steps.recover()

    def is_undisturbed(self, observation: Observation) -> bool:
        """Whether nothing of the user's runs in this backward, apart from hooks that were registered meanwhile."""
        return (
            not observation.create_graph
            and len(self._running) == 1
            and not self._steps.inside
            and is_undisturbed(observation.nodes, self.recorder)
        )

    @property
    def _blind(self) -> bool:
        # Where writes cannot be seen, a gradient that was zeroed in place would look stale.
        return self._off or self.recorder.broken is not None

    # -- backwards -----------------------------------------------------------------------------------------------

    def before_backward(
        self, outputs: Sequence[Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Observation | None:
        """A backward begins; None when nothing can be said about it."""
        if self._blind:
            return None
        roots = [o for o in outputs if isinstance(o, torch.Tensor)]
        nodes = every_node([o.grad_fn if isinstance(o, torch.Tensor) else o.node for o in outputs])
        inputs = args[3] if len(args) > 3 and args[3] else ()
        wanted = {id(t) for t in inputs if isinstance(t, torch.Tensor)}
        leaves: list[torch.Tensor] = []
        if kwargs.get("accumulate_grad", False):
            reached = [node.variable for node in nodes if type(node) is AccumulateGrad]
            reached += [root for root in roots if root.grad_fn is None]
            leaves = [t for t in reached if not inputs or id(t) in wanted]
        self._backwards += 1
        location, _ = self.recorder.sources.find(1, look_for_function=False)
        run = BackwardRun(self._backwards, location)
        self._following = False
        self._steps.backward_began()
        replaced = self._updates_by_assignment(leaves)
        create_graph = bool(args[2]) if len(args) > 2 else False
        keep_graph = bool(args[1]) if len(args) > 1 else False
        retained = keep_graph and not create_graph and _called_by_user(location)
        inner = [node for node in nodes if type(node) is not AccumulateGrad]
        suspects = self.silent.look(inner, replaced, location)
        token = self._contributions.before_backward(leaves)
        frees = not keep_graph and not inputs
        observation = Observation(
            run, nodes, inner, roots, token, create_graph, retained, inputs, suspects, frees
        )
        self._growth.begins(run)
        self._graphs.before(run, inner)
        self._growth.before(run, nodes)
        self._running.append(observation)
        return observation

    def after_backward(self, observation: Observation, error: BaseException | None) -> None:
        """It has ended, or raised ``error``, which gets a note if a rule explains it."""
        self._running.remove(observation)
        if not self._running and observation.run.number % _COMPACT_EVERY == 0:
            self.recorder.compact()
        run = observation.run
        if error is not None:
            self._contributions.forget(observation.token)
            if isinstance(error, RuntimeError) and not self._blind:
                self._explain(error, observation)
            return
        moment = Moment(run.number, run.location, "backward")
        if observation.stepped_inside:
            self._contributions.forget(observation.token)
        else:
            reached = self._contributions.after_backward(
                observation.token, moment, create_graph=observation.create_graph
            )
            self._steps.backward_ended(reached)
            if reached:
                self._contributions_made += 1
                self._scales.after(self._contributions_made, run.location, observation.nodes)
            self._unreached.backward_ended(self.recorder.cuts.latest)
        self.recorder.cuts.clear()
        if observation.roots:
            self._graphs.after(
                run, observation.inner, observation.roots[0], retained_by_user=observation.retained_by_user
            )
            self._growth.after(run, observation.nodes)
        self._following = self._contributions.has_gradients()

    def look_at_gradients(
        self,
        observation: Observation,
        given: Sequence[torch.Tensor | None] | None,
        targets: Sequence[Any] | None,
        observed: Trace | None,
    ) -> None:
        """A backward has ended: has it made a gradient NaN or Inf? ``observed`` is what was recorded of it, if it was."""
        run = observation.run
        if not self._blind and observation.token and len(given or ()) in (0, len(observation.roots)):
            self._non_finite.look(
                observation.token, observation.roots, given, targets, run.number, run.location, observed
            )

    def release(self, observation: Observation) -> None:
        """A backward that freed its graph has been looked at: nobody needs the values of its operations any more."""
        if observation.frees:
            mark = self.recorder._mark
            for node in observation.inner:
                known = node.metadata.get(mark)
                if known is not None and known[1] is not None:
                    release(known[1])

    def _explain(self, error: RuntimeError, observation: Observation) -> None:
        if self._has_note(error):
            return  # a backward inside this one has explained it
        roots = [root.grad_fn for root in observation.roots if root.grad_fn is not None]
        finding = self._graphs.explain(error, observation.run, observation.nodes, roots)
        if finding is not None:
            add_note(error, note_of(finding))
        else:
            self._explain_start(error, observation.roots, observation.inputs)

    def leaves(self) -> list[torch.Tensor]:
        """Those that backwards have contributed to, and their gradients."""
        known = [tensor for tensor, _ in self._contributions]
        return known + [tensor.grad for tensor in known if tensor.grad is not None]

    def refused(self, outputs: Sequence[Any], error: BaseException) -> None:
        """A backward could not begin."""
        if not self._blind and not self._has_note(error):
            self._explain_start(error, [o for o in outputs if isinstance(o, torch.Tensor)], ())

    def _explain_start(
        self, error: BaseException, roots: Sequence[torch.Tensor], inputs: Sequence[Any]
    ) -> None:
        note, finding = self._explanations.of_backward(error, roots, inputs, self._backwards)
        if note:
            add_note(error, note)
        if finding is not None:
            # Whoever catches it inside may have expected it.
            self._explained = (_identity(error), finding)

    def _add(self, finding: Finding) -> None:
        self._findings.add((finding.code, finding.location), self._backwards, lambda: finding)

    @staticmethod
    def _has_note(error: BaseException) -> bool:
        return any(note.startswith(PREFIX) for note in getattr(error, "__notes__", ()))

    def ended(self, error: BaseException | None, *, whole_program: bool) -> None:
        """The session ends, with ``error`` if it is left by one."""
        if self._blind:
            return
        if not whole_program:
            self.modes.ended(self._contributions_made)
        seen: set[int] = set()
        while error is not None and id(error) not in seen:
            seen.add(id(error))
            if self._explained is not None and self._explained[0] == _identity(error):
                self._add(self._explained[1])
            if not self._has_note(error):
                note = self._explanations.of_line(error, error.__traceback__)
                if note:
                    add_note(error, note)
            error = error.__cause__ or error.__context__

    # -- steps and zeroing ---------------------------------------------------------------------------------------

    def before_step(
        self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """An optimizer begins to step."""
        if self._blind:
            return
        for observation in self._running:
            observation.stepped_inside = True
        self._growth.turn()
        if not self._steps.inside:
            self.modes.check(self._backwards)
        outermost = not self._steps.inside
        self._steps.before_step(optimizer, args, kwargs)
        if outermost:
            self._non_finite.before_step(optimizer)
            self.training_modes.before_step(optimizer, self._steps.location())
        if not self._running:
            closure = kwargs.get("closure", args[1] if len(args) > 1 else None) is not None
            self.known_steps.begin(optimizer, closure=closure)

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """It has stepped."""
        self.known_steps.end(optimizer, step=self._steps.location())
        if not self._blind:
            written = self._steps.written_by(optimizer)
            location = self._steps.location()
            self._steps.after_step(optimizer)
            if written is not None:
                self._non_finite.after_step(written)
            if not self._steps.inside:
                self._leftovers.stepped()
                self._unreached.stepped(optimizer, location)

    def switched_unseen(self) -> bool:
        """Grad mode is about to be set; whether that is torch's doing, around a step that nobody looks at."""
        if not self.known_steps.unseen:
            return False
        self.known_steps.switched(self._steps.location())
        return True

    def zeroing(self, owner: Any) -> Callable[[], None] | None:
        """``owner.zero_grad()`` begins; call what is returned when it has ended."""
        if self._blind:
            return None
        self._growth.turn()
        return self._steps.zeroing(owner)

    def exposing(self, tensor: torch.Tensor) -> None:
        """A tensor's memory is handed to NumPy or to a kernel."""
        if not self._blind:
            self.recorder.expose(tensor)

    def warned(self, message: str, file: str, line: int) -> None:
        """A warning is shown."""
        if message.startswith(_NON_LEAF) and not self._blind:
            location = Location(file, line)
            self._findings.add(("GC505", location), self._backwards, lambda: NonLeafGrad.from_line(location))

    # -- writes (see WriteListener) ------------------------------------------------------------------------------

    def current_step(self) -> Location | None:
        """Where the optimizer step that is running was called, if one is."""
        return self._steps.location()

    def in_step(self) -> bool:
        """Whether an optimizer step is running."""
        return self._steps.inside

    def forward_runs(self, location: Location, path: str) -> None:
        """An operation runs at a line of a method named ``forward``."""
        self._calls.operation(location, path)

    def follows_gradients(self) -> bool:
        """Whether what is computed from gradients by hand is to be followed now."""
        return self._following and not self._running and not self._steps.inside

    def compared(self, call: Any) -> None:
        """An output that was made without gradients was compared with targets."""
        self.training_modes.compared(call)

    def grad_memory(self, memory: int) -> bool:
        """Whether some leaf's ``.grad`` lives there."""
        return self._contributions.holder_of(memory) is not None

    def wrote(self, op: str, target: torch.Tensor, memory: int, factor: Any, *, from_gradient: bool) -> None:
        """See :class:`~gradcheck_suite.watching.recorder.WriteListener`."""
        advance(op, target)
        self._wrote(op, target, memory, factor, from_gradient=from_gradient)

    def _wrote(self, op: str, target: torch.Tensor, memory: int, factor: Any, *, from_gradient: bool) -> None:
        holder = self._contributions.holder_of(memory)
        if op == _UNSCALING:
            self._non_finite.deliberate()
        if holder is not None:
            if not self._running or op in ("aten::zero_", "aten::_foreach_zero_", "aten::fill_"):
                self._contributions.grad_written(
                    holder, op, target, factor, self._moment_of_clearing, from_gradient=from_gradient
                )
            return
        owner = self._contributions.owner_of(memory)
        if owner is not None and not self._running and not self._steps.written_in_step(owner):
            owner.changed = True
            if from_gradient:
                self._update(owner, self.recorder.sources.find(1, look_for_function=False)[0])

    def _wrote_unseen(self, op: str, target: torch.Tensor, memory: int) -> None:
        if self._contributions.knows(memory):
            self._wrote(op, target, memory, None, from_gradient=False)

    def _moment_of_clearing(self) -> Moment:
        return Moment(self._backwards, self.recorder.sources.find(1, look_for_function=False)[0], "zeroing")

    def _update(self, leaf: Leaf, location: Location | None) -> None:
        tensor = leaf.tensor()
        if tensor is not None and self._contributions.of(tensor) is leaf:
            self._growth.turn()
            self._steps.update_by_hand(leaf, tensor, location)
            self._non_finite.updated(leaf)

    def _updates_by_assignment(self, leaves: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """``p.data = p.data - lr * p.grad`` gives a parameter other memory, which a gradient has flowed into.

        Returns:
            The leaves that live elsewhere than at their last backward.
        """
        flow = self.recorder.flow
        replaced = []
        for tensor in leaves:
            leaf = self._contributions.of(tensor)
            if tensor.layout is not torch.strided:
                continue
            if leaf is None:
                # No operation was seen to work on the memory that it has now.
                if self.recorder.memory_number(tensor) is None:
                    replaced.append(tensor)
                continue
            memory = _storage_address(tensor)
            if memory != leaf.own_memory and leaf.own_memory:
                replaced.append(tensor)
                if memory in flow:
                    self._growth.turn()
                    self._steps.update_by_hand(leaf, tensor, flow.line_of(memory))
        return replaced

    # -- what came of it -----------------------------------------------------------------------------------------

    def findings(self) -> list[Finding]:
        """What was found so far."""
        if self._off:
            return self._findings.findings()
        return [
            *self._findings.findings(),
            *self._steps.findings(),
            *self._non_finite.findings(),
            *self._leftovers.findings(self._steps.stepping()),
            *self._unreached.findings(),
            *self._graphs.findings(),
            *self._growth.findings(),
            *self.training_modes.findings(),
        ]


def _called_by_user(location: Location | None) -> bool:
    """Whether the innermost caller of ``backward`` or ``grad`` is the user, and not a function of a library."""
    if location is None or "site-packages" in location.file:
        return False
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename != torch.autograd.__file__:
        frame = frame.f_back  # type: ignore[assignment]
    while (
        frame is not None and frame.f_code.co_name in _BACKWARDS and frame.f_code.co_filename in _TORCH_FILES
    ):
        frame = frame.f_back  # type: ignore[assignment]
    return frame is not None and frame.f_code.co_filename == location.file


_TORCH_FILES = frozenset({torch.autograd.__file__, sys.modules["torch._tensor"].__file__})


def _identity(error: BaseException) -> tuple[int, str]:
    """Tells an error from others without holding it, and the frames on its traceback."""
    return id(error), str(error)

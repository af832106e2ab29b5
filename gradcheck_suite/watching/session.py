"""One watched stretch of a program: a recorder around it, and a look at every backward that runs inside."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import TracebackType
from typing import Any

import numpy as np
import torch

from .. import report as _formats  # announces the output formats to Report.save and str(report)
from .._version import __version__
from ..assembly import merge
from ..capture.graph import GraphRecording, walk
from ..capture.hooks import noting_tensor_hooks
from ..capture.modules import ModuleStack
from ..capture.origins import UnrecordableError
from ..capture.recorder import Recorder
from ..evidence import (
    Finding,
    Report,
    Trace,
    Unverified,
)
from ..rules.suppression import suppress
from ..rules.unverified import Unverified as UnverifiedRule
from ..witnesses.fallback import fallback_for
from .compilers import is_traced
from .doors import KNOWN, Watcher, innermost, missing_doors, open_doors
from .hazards import Hazards, Observation
from .layers import KnownLayers
from .ledger import Ledger
from .names import Names
from .recorder import WatchingRecorder
from .silent import Suspect
from .stretches import Apart, run_unseen
from .traced import CompiledRun, letting_through
from .verification import Verification

__all__ = ["Session", "watch"]

_ = _formats
_MOST_NODES = 2_000


def watch(
    *,
    verify: bool = True,
    name: str = "watch",
    ignore: Iterable[str] = (),
    shared: Ledger | None = None,
) -> Session:
    """Watch the code inside a ``with`` block; nothing about it changes.

    Args:
        verify: verify every backward that runs inside, node by node, with the engine. Equal nodes are verified a bounded
            number of times.
        name: title of the report.
        ignore: rules to silence, by code or name.
        shared: a ledger to share with other sessions, so that equal nodes are not verified again in each.

    Returns:
        The session, a context manager; ``session.report`` says what was seen, during and after.
    """
    return Session(verify=verify, name=name, ignore=tuple(ignore), ledger=shared or Ledger())


class Session:
    """See :func:`watch`. Sessions may be nested; each watches the thread that entered it."""

    def __init__(
        self,
        *,
        verify: bool,
        name: str,
        ignore: tuple[str, ...],
        ledger: Ledger,
        whole_program: bool = False,
    ) -> None:
        self._whole_program = whole_program  # nobody runs after it who could suffer from what it leaves
        self._verify = verify
        self._name = name
        self._ignore = ignore
        self._ledger = ledger
        self._started = 0.0
        self._seconds = 0.0
        self._own_seconds = 0.0
        self._thread = 0
        self._stack: ExitStack | None = None
        self._recorder: WatchingRecorder | None = None
        self._modules = ModuleStack()
        self._names = Names(self._modules.parameter_names)
        self._verification = Verification(ledger, self._modules, self._names)
        self._unverified, self._counts = self._verification.unverified, self._verification.counts
        self._hazards = Hazards(self._modules, self._names)
        self._layers = KnownLayers(self._hazards.recorder, self._modules, self._ran_otherwise)
        self._past: list[Finding] = []
        self._outer: Watcher | None = None
        self._compiled: list[CompiledRun] = []
        self._looking = False
        self._hooks_seen = False
        self.internal_errors: list[str] = []

    # -- life ----------------------------------------------------------------------------------------------------

    def __enter__(self) -> Session:
        if self._stack is not None:
            raise RuntimeError(
                f"entering the watch session {self._name!r} failed: it is entered already. A session watches one "
                "stretch of code at a time. Make another with watch()."
            )
        self._thread = threading.get_ident()
        self._started = time.perf_counter()
        stack = ExitStack()
        self._outer = innermost.get()
        stack.callback(innermost.set, self._outer)
        innermost.set(self)
        try:
            stack.callback(self._modules.forget)
            recorder = self._hazards.recorder
            self._layers = KnownLayers(recorder, self._modules, self._ran_otherwise)
            recorder.sources.stop_at(sys._getframe(1).f_back)
            recorder.backward_code = Session._backward.__code__
            stack.callback(recorder.sources.stop_at, None)
            self._recorder = recorder
            stack.enter_context(recorder)
            self._hazards.modes.begin()
            for door in missing_doors():
                self._unverified["every backward", f"this torch has no {door}"] += 1
            stack.enter_context(open_doors())
            if self._verify:
                stack.enter_context(noting_tensor_hooks(recorder, self._verification.hooked))
            stack.callback(lambda: self._hazards.known_steps.recover())
            if torch._C._autograd._top_saved_tensors_default_hooks(True) is not None:
                self.hooking(packs=True)
        except BaseException:
            stack.close()
            raise
        self._stack = stack
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._compiled:  # dynamo forgets to say so where it raises an error of its own
            self._compiled.pop().end(late=True)
            self._unverified[
                "everything after a compiled function", "it ended with an error of dynamo's"
            ] += 1
        stack, self._stack = self._stack, None
        recorder, self._recorder = self._recorder, None
        self._seconds += time.perf_counter() - self._started
        with self._guarded():
            self._hazards.ended(error, whole_program=self._whole_program)
        if stack is not None:
            stack.close()
        if recorder is not None:
            with self._guarded():
                self._past.extend(self._hazards.findings())
            self._hazards = Hazards(self._modules, self._names)
        if recorder is not None and recorder.broken is not None:
            self.internal_errors.append(recorder.broken)
        if recorder is not None:
            for subclass in sorted(recorder.subclasses):
                self._unverified[f"operations on {subclass}", "a tensor subclass dispatches by itself"] += 1

    def owns_thread(self) -> bool:
        """Whether the running thread is the one that is watched."""
        return self._recorder is not None and threading.get_ident() == self._thread

    def run_backward(
        self,
        original: Callable[..., Any],
        outputs: Sequence[Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """See :class:`~gradcheck_suite.watching.doors.Watcher`."""
        __tracebackhide__ = True
        if torch._C._functorch.peek_interpreter_stack() is not None:
            # vmap and friends hand over wrapped tensors, which stand for many or for none.
            self._unverified["a backward", "it runs inside a torch.func transform"] += 1
            return original(outputs, *args, **kwargs)
        if args and args[0] and any(map(_is_batched, args[0])):
            self._unverified["a backward", "it runs with many cotangents at once (is_grads_batched)"] += 1
            return original(outputs, *args, **kwargs)
        if is_traced():
            self._unverified["a backward", "it runs while a graph is made of it, or without data"] += 1
            return original(outputs, *args, **kwargs)
        return self._backward(original, outputs, args, kwargs)

    def entering_module(
        self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, ...]:
        """See :class:`~gradcheck_suite.watching.doors.Watcher`."""
        outer = self._outer
        if outer is not None and outer.owns_thread():
            outer.entering_module(module, args, kwargs)
        how: tuple[Any, ...] | None = None
        try:
            how = self._layers.template(module, args, kwargs)
            if how is not None and len(how) == KNOWN:
                return how
            self._modules.enter(module)
            if how is not None:
                return (*how[:2], (how[2], self._layers.learning()))
        except Exception:  # a watched program must not fail because its watcher did
            self._fault()
        return ()

    def run_layer(
        self, known: tuple[Any, ...], original: Callable[..., Any], module: torch.nn.Module, args: Any
    ) -> Any:
        """See :class:`~gradcheck_suite.watching.doors.Watcher`."""
        __tracebackhide__ = True
        return self._layers.run(known, original, module, args)

    def leaving_module(self, call: tuple[Any, ...], module: torch.nn.Module, out: Any, count: int) -> None:
        """See :class:`~gradcheck_suite.watching.doors.Watcher`."""
        self.module_raised(module)
        try:
            if call:
                layer, key, (given, learning) = call
                self._layers.learnt((layer, key, given), learning, out, count)
            elif innermost.get() is self:
                mark = self._hazards.recorder.evaluations.mark
                self._hazards.training_modes.returned(module, out, mark)
        except Exception:  # likewise
            self._fault()

    def module_raised(self, module: torch.nn.Module) -> None:
        """See :class:`~gradcheck_suite.watching.doors.Watcher`."""
        self._modules.leave(module)
        self._hazards.recorder.learning = None
        outer = self._outer
        if outer is not None and outer.owns_thread():
            outer.module_raised(module)

    def entering_compiled(self, apart: AbstractContextManager[None]) -> Callable[[], None]:
        """See :class:`~gradcheck_suite.watching.doors.Watcher`."""
        self._unverified["a call of a compiled function", "what it runs cannot be seen"] += 1
        try:
            self._compiled.append(CompiledRun(self._hazards.leaves(), apart))
        except Exception:  # a watched program must not fail because its watcher did
            self._fault()
            return lambda: None
        return self._compiled_ended

    def _compiled_ended(self) -> None:
        try:
            self._compiled.pop().end()
        except Exception:  # likewise
            self._fault()

    def _ran_otherwise(self, name: str) -> None:
        """A layer has run other operations than before."""
        self._unverified[f"a call of {name}", "it did not run the operations that it ran before"] += 1

    def before_step(
        self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """See :class:`~gradcheck_suite.watching.doors.Watcher`."""
        try:
            self._hazards.before_step(optimizer, args, kwargs)
        except Exception:  # a watched program must not fail because its watcher did
            self._fault()

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """See :class:`~gradcheck_suite.watching.doors.Watcher`."""
        try:
            self._hazards.after_step(optimizer)
        except Exception:  # likewise
            self._fault()

    def zeroing(self, owner: Any) -> Callable[[], None] | None:
        """See :class:`~gradcheck_suite.watching.doors.Watcher`."""
        try:
            return self._hazards.zeroing(owner)
        except Exception:  # likewise
            self._fault()
        return None

    def refused(self, outputs: Sequence[Any], error: BaseException) -> None:
        """See :class:`~gradcheck_suite.watching.doors.Watcher`."""
        with self._guarded():
            self._hazards.refused(outputs, error)

    def switching(self, enabled: bool) -> None:
        """See :class:`~gradcheck_suite.watching.doors.Watcher`."""
        if self._looking:
            return
        try:
            if not self._hazards.switched_unseen():
                self._hazards.modes.switching(enabled)
        except Exception:  # likewise
            self._fault()

    def inference(self, entered: bool) -> None:
        """See :class:`~gradcheck_suite.watching.doors.Watcher`."""
        with self._guarded():
            self._hazards.modes.inference(entered)

    def putting_to_eval(self, module: torch.nn.Module) -> None:
        """See :class:`~gradcheck_suite.watching.doors.Watcher`."""
        with self._guarded():
            self._hazards.training_modes.putting_to_eval(module)

    def exposing(self, tensor: torch.Tensor) -> None:
        """See :class:`~gradcheck_suite.watching.doors.Watcher`."""
        if self._looking:
            return  # at what was recorded, ourselves
        with self._guarded():
            self._hazards.exposing(tensor)

    def hooking(self, *, packs: bool = False) -> None:
        """See :class:`~gradcheck_suite.watching.doors.Watcher`."""
        self._hooks_seen = True
        self._hazards.recorder.packs |= packs

    def warned(self, message: str, file: str, line: int) -> None:
        """See :class:`~gradcheck_suite.watching.doors.Watcher`."""
        with self._guarded():
            self._hazards.warned(message, file, line)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """A watched program must not fail because its watcher did."""
        began = time.perf_counter()
        try:
            yield
        except Exception:
            self._fault()
        self._own_seconds += time.perf_counter() - began

    def _fault(self) -> None:
        """One of our own is being handled."""
        self._hazards.give_up()
        self.internal_errors.append(traceback.format_exc())

    # -- a backward ----------------------------------------------------------------------------------------------

    def _backward(
        self,
        original: Callable[..., Any],
        outputs: Sequence[Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        __tracebackhide__ = True
        recorder = self._recorder
        assert recorder is not None
        self._counts["backwards"] += 1
        began = time.perf_counter()
        graph: GraphRecording | None = None
        plan: dict[int, tuple[Any, ...]] = {}
        observed = False
        observation: Observation | None = None
        suspects: dict[int, Suspect] = {}
        unseen = False
        try:
            self._hazards.known_steps.recover()
            recorder.finish_forward()
            observation = self._hazards.before_backward(outputs, args, kwargs)
            if observation is not None:
                suspects = observation.suspects
            to_judge = self._hazards.silent.wants(suspects)
            if recorder.broken is None and (self._verify or to_judge):
                if all(isinstance(output, torch.Tensor) for output in outputs):
                    nodes = walk([o.grad_fn for o in outputs]) if observation is None else observation.nodes
                    plan = self._verification.plan(recorder, nodes, suspects) if self._verify else {}
                    observed = bool(plan) or to_judge
                    graph = GraphRecording(recorder, outputs) if observed else None
                else:
                    self._unverified["a backward", "it starts from graph edges, not from tensors"] += 1
            unseen = (
                observation is not None
                and not observed
                and not self._hooks_seen
                and self._hazards.is_undisturbed(observation)
            )
        except Exception:  # a watched program must not fail because its watcher did
            self._fault()
            graph = None
        self._own_seconds += time.perf_counter() - began
        given = (args[0] if args else None) or ()
        try:
            if unseen:
                result = run_unseen(recorder, original, outputs, args, kwargs)
            else:
                with (
                    recorder.backward_phase() if graph is None else graph.observing(given),
                    letting_through(() if observation is None else observation.nodes),
                ):
                    result = original(outputs, *args, **kwargs)
        except BaseException as error:
            self._ended(observation, error)
            raise
        self._ended(observation, None)
        began = time.perf_counter()
        self._looking = True
        try:
            with Apart(recorder):
                given = args[0] if args else None
                targets = args[3] if len(args) > 3 and args[3] else None
                trace: Trace | None = None
                if recorder.backward_writes and observation is not None:
                    disturbed = self._hazards.silent.during(
                        observation.inner,
                        recorder.backward_writes,
                        observation.run.location,
                        observed=graph is not None and observed,
                    )
                    suspects = {**disturbed, **suspects}
                    plan = {key: mark for key, mark in plan.items() if key not in disturbed}
                if graph is not None and observed:
                    trace = self._look_at(recorder, graph, plan, suspects, outputs, given, targets)
                elif suspects:
                    self._hazards.silent.judge(None, suspects, self._counts["backwards"], None)
                recorder.backward_writes.clear()
                if observation is not None:
                    self._hazards.look_at_gradients(observation, given, targets, trace)
        except UnrecordableError as error:
            self._unverified["a backward", f"it works on a {error.kind}"] += 1
        except Exception:  # likewise
            self.internal_errors.append(traceback.format_exc())
        finally:
            self._looking = False
        if observation is not None:
            try:
                self._hazards.release(observation)
            except Exception:  # likewise
                self._fault()
        self._own_seconds += time.perf_counter() - began
        return result

    def _ended(self, observation: Observation | None, error: BaseException | None) -> None:
        if observation is not None:
            try:
                self._hazards.after_backward(observation, error)
            except Exception:  # likewise
                self._fault()

    def _look_at(
        self,
        recorder: Recorder,
        graph: GraphRecording,
        plan: dict[int, tuple[Any, ...]],
        suspects: Mapping[int, Suspect],
        outputs: Sequence[torch.Tensor],
        given: Sequence[torch.Tensor | None] | None,
        targets: Sequence[Any] | None,
    ) -> Trace:
        cotangents = []
        for number, output in enumerate(outputs):
            cotangent = None if given is None else given[number]
            cotangents.append(torch.ones_like(output) if cotangent is None else cotangent)
        names = self._verification.leaf_names(graph)
        trace = graph.trace(cotangents, names, {}, {}, targets)
        fallback = fallback_for(recorder, graph.by_key)
        wrong = self._hazards.silent.judge(trace, suspects, self._counts["backwards"], fallback)
        if self._verify:
            self._verification.look_at(recorder, graph, trace, names, plan, wrong, fallback)
        return trace

    # -- what came of it -----------------------------------------------------------------------------------------

    @property
    def report(self) -> Report:
        """What was seen so far."""
        unverified = [
            Unverified(subject, reason, count) for (subject, reason), count in self._unverified.items()
        ]
        unverified.extend(self._verification.never_said())
        hazards = list(self._past)
        with self._guarded():
            hazards.extend(self._hazards.findings())
        findings = [*self._verification.findings, *merge(hazards), *UnverifiedRule.from_entries(unverified)]
        kept, suppressed = suppress(findings, self._ignore)
        kept.sort(key=lambda f: -f.severity)
        running = time.perf_counter() - self._started if self._stack is not None else 0.0
        counts = {
            "backwards": 0,
            "nodes": 0,
            "nodes_meaning": 0,
            "nodes_unverified": 0,
            "elements": 0,
            "sums": 0,
            **self._counts,
            "distinct_nodes": self._ledger.distinct,
            "suppressed": len(suppressed),
        }
        return Report(
            title=self._name,
            findings=tuple(kept),
            gradients=tuple(self._verification.gradients.values()),
            nodes=tuple(self._verification.nodes),
            unverified=tuple(unverified),
            environment={
                "gradcheck_suite": __version__,
                "torch": torch.__version__,
                "numpy": np.__version__,
            },
            timings={"total": self._seconds + running, "verification": self._own_seconds},
            counts=counts,
        )


def _is_batched(given: Any) -> bool:
    return isinstance(given, torch.Tensor) and torch._C._functorch.is_legacy_batchedtensor(given)

"""``check_gradients``: capture, trace, witnesses, verdicts, findings, report, in this order."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from . import report as _formats  # announces the output formats to Report.save and str(report)
from ._version import __version__
from .assembly import assemble, node_findings
from .aten import lookup
from .capture.drawing import draw_graph
from .capture.examples import check_examples, holds_strategy
from .capture.inputs import PreparedCall, ResolvedCall, prepare, resolve_inputs
from .capture.quiet import quiet
from .capture.state import preserved, rng_frozen, snapshot
from .compare.blame import behind_surrogates
from .compare.overrides import judging, overriding, read_tolerance
from .compare.padding import padding_elements
from .declare import declared_surrogates
from .errors import ConfigurationError, GradcheckError, ModelError
from .evidence import NodeVerdict, Outcome, Report, Supplement, Unverified
from .replay.operations import floating_outputs, further_meanings
from .replay.threads import few_threads
from .report.progress import Progress, progress_bar
from .rules.backward_side_effect import BackwardSideEffect
from .rules.compiled_mismatch import CompiledMismatch
from .rules.detached_graph import DetachedGraph
from .rules.device_mismatch import DeviceMismatch
from .rules.double_backward_mismatch import DoubleBackwardMismatch
from .rules.forward_mode_mismatch import ForwardModeMismatch
from .rules.nondeterministic import Nondeterministic
from .watching.nested import nested_gradients
from .witnesses.budget import Budget
from .witnesses.case import Case
from .witnesses.compiled import Backend, check_backends, read_backends
from .witnesses.decomposition import Decompositions
from .witnesses.device import check_devices, read_devices
from .witnesses.fallback import fallback_for
from .witnesses.finite_difference import excused, finite_difference, left_out
from .witnesses.nodes import CheckedNodes, check_nodes
from .witnesses.repetition import find_difference
from .witnesses.replay import ReplayTestimony, check_replay
from .witnesses.second_order import second_order
from .witnesses.side_effects import side_effects
from .witnesses.sums import check_sums
from .witnesses.torch_forward import forward_mode as verify_forward_mode
from .witnesses.torch_reverse import ReverseRun, record_reverse
from .witnesses.untracked_outputs import untracked_outputs
from .wording import plural

__all__ = ["check_gradients"]

_ = _formats


# How long the finite differences take at least, in forwards of the model: in float64, with a backward and a copy.
_DIFFERENCES = 12.0
# A recording is a forward and a backward, and what it costs to note them.
_FORWARD = 0.25


class _Clock:
    """Seconds by stage; tells who watches which one begins."""

    def __init__(self) -> None:
        self.stages: dict[str, float] = {}
        self.shown = Progress()
        self._name = ""
        self._start = time.perf_counter()

    def begin(self, stage: str, steps: int = 0) -> None:
        """What ran since the last stage began belongs to that."""
        now = time.perf_counter()
        if self._name:
            self.stages[self._name] = self.stages.get(self._name, 0.0) + now - self._start
        self._name, self._start = stage, now
        if stage:
            self.shown.stage(stage, steps)


def check_gradients(
    model_or_function: Callable[..., Any],
    inputs: Any = None,
    *,
    kwargs: dict[str, Any] | None = None,
    loss: Callable[[Any], Any] | None = None,
    wrt: str | Sequence[str] | None = None,
    order: int = 1,
    forward_mode: bool = False,
    devices: Sequence[str] | None = None,
    backends: Sequence[str | Callable[..., Any]] = ("eager",),
    surrogates: Iterable[type] = (),
    ignore: Iterable[str] = (),
    tolerance: float | Mapping[Any, Any] | None = None,
    budget: float | None = None,
    seed: int = 0,
    progress: bool | None = None,
    max_examples: int = 25,
) -> Report:
    """Verify every element of every gradient of a model or function.

    The model runs once as it is, in its own dtype and on its own device. Each autograd node's backward is compared with
    the engine's, each sum in between is checked, the whole recording is replayed in the engine from the leaves, and
    directional finite differences look at the function itself. The model, its inputs and the process are left as they
    were, also after an exception.

    Args:
        model_or_function: an ``nn.Module`` or any callable on tensors.
        inputs: a tensor, tuple, dict or pytree, a callable ``(rng) -> inputs``, or None to infer them. A Hypothesis
            strategy, or containers of some, for many inputs: the smallest that fails is reported, see
            ``docs/strategies.md``.
        kwargs: further keyword arguments of the call; strategies among them are drawn from as well.
        loss: applied to the output; default: a random projection of every differentiable output.
        wrt: names (or patterns) of the parameters and inputs to look at; default: all that the backward reaches.
        surrogates: Functions whose backward is intentionally not the derivative.
        ignore: rules to silence, by code or name.
        tolerance: the share of a tensor's largest entry that an error may be, instead of the derived first term: a number
            (for GC101 in every dtype) or a mapping from dtypes, rules or pairs of both; see ``docs/settings-of-a-check.md``.
        budget: seconds for the whole check. What does not fit is sampled and counted as unverified; custom Functions are
            always verified, and the model's own run cannot be cut.
        progress: show the stages on the error stream: a bar on a terminal by default, True also elsewhere, False never.
        seed: of everything random; the model's own random numbers are drawn from it as well.
        max_examples: how many inputs are drawn from strategies.
        order: up to which order derivatives are verified, 1, 2 or 3: with 2 the backward of every node is differentiated
            again (rule GC102), with 3 once more.
        forward_mode: also verify torch's forward mode, operation by operation and as a whole (rule GC103).
        devices: where the model is verified as well, node by node, and its gradients compared (rule GC104); one that is not
            available is counted as unverified.
        backends: of ``torch.compile``, names or callables, whose gradients are compared with the eager ones (rule GC105).

    Returns:
        The report; ``report.ok`` and ``report.raise_for_findings()`` sum it up.

    Raises:
        InputError: the inputs cannot be used or inferred.
        ModelError: the model is not callable, or it (or the loss) raised.
        NothingToVerifyError: no differentiable output, or nothing requires grad.
        ConfigurationError: a setting is not understood.
    """
    _refuse_order(order)
    tolerances, places, compilers = read_tolerance(tolerance), read_devices(devices), read_backends(backends)
    limit = Budget.begin(_seconds(budget))
    clock = _Clock()
    clock.begin("inputs")
    if not callable(model_or_function):
        raise ModelError(
            f"checking gradients failed: the model is {type(model_or_function).__name__}, which cannot be called. "
            "A check calls it as model(*inputs). Pass an nn.Module or a function."
        )
    if holds_strategy(inputs, kwargs):
        settings: dict[str, Any] = {
            "loss": loss,
            "wrt": wrt,
            "order": order,
            "forward_mode": forward_mode,
            "devices": devices,
            "backends": backends,
            "surrogates": tuple(surrogates),
            "ignore": tuple(ignore),
            "tolerance": tolerance,
            "seed": seed,
            "progress": False,
        }

        def check(inputs: Any, kwargs: dict[str, Any], budget: float | None) -> Report:
            return check_gradients(model_or_function, inputs, kwargs=kwargs, budget=budget, **settings)

        return check_examples(
            check, model_or_function, inputs, kwargs, max_examples=max_examples, seed=seed, budget=budget
        )
    model = model_or_function
    patterns = [wrt] if isinstance(wrt, str) else wrt
    with (
        quiet(),
        progress_bar(progress) as shown,
        preserved(model, inputs, kwargs) as start,
        declared_surrogates(surrogates),
        overriding(tolerances),
        ExitStack() as held,
    ):
        clock.shown = shown
        call = resolve_inputs(model, inputs, kwargs, seed)
        start.restore(quick=True)
        prepared = prepare(call, model)
        parameters, buffers, modules = _tensors_of(model)
        clock.begin("recording")
        processor = time.process_time()

        def record(prepared: PreparedCall) -> ReverseRun:
            return record_reverse(
                model,
                prepared.args,
                prepared.kwargs,
                named_leaves={**parameters, **prepared.leaves},
                buffers=buffers,
                modules=modules,
                loss=loss,
                wrt=patterns,
                seed=seed,
            )

        def recorded(prepared: PreparedCall) -> tuple[ReverseRun, Callable[[], None]]:
            """The run, and what puts the model and the inputs back to before it."""
            given = snapshot(None, prepared.args, prepared.kwargs)
            learnt = False

            def restore() -> None:
                # The first one learns what the forward writes to behind version counters.
                nonlocal learnt
                start.restore(quick=learnt)
                given.restore(quick=learnt)
                learnt = True

            with rng_frozen(seed):
                run = record(prepared)
            return run, restore

        try:
            run, restore = recorded(prepared)
        except ModelError as error:
            untracked = _untracked(call, prepared, model, parameters, patterns, error)
            if untracked is None:
                raise
            start.restore()
            try:
                run, restore = recorded(untracked)
            except GradcheckError:
                raise error from error.__cause__
            prepared = untracked
        trace = run.trace
        held.enter_context(few_threads(time.process_time() - processor))
        clock.begin("node by node", sum(key > 0 and n.ran for key, n in trace.nodes.items()))
        limit = limit.reserving(clock.stages["inputs"] + 1e-3 * len(trace.nodes))
        forward = _FORWARD * clock.stages["recording"]
        # The differences are a part of the proof, the replay is a second opinion.
        kept = (_DIFFERENCES + 1) * forward if 2 * (_DIFFERENCES + 1) * forward < limit.left() else 0.0
        decompositions = Decompositions()
        fallback = fallback_for(run.recorder, run.autograd_nodes, decompositions)
        unlooked: list[Unverified] = []
        sums = {}
        if limit.fits(0.0) or any(n.function is not None for n in trace.nodes.values()):
            sums = check_sums(trace, trace.leaf_gradients)
        else:  # then no node is looked at either
            unlooked.append(Unverified("the sums of the gradients", limit.reason))
        nodes = check_nodes(
            trace,
            run.probe,
            seed=seed,
            fallback=fallback,
            budget=limit,
            share=1 - kept / max(limit.left(), 1e-9),
            step=shown.step,
        )
        checked = nodes.verdicts
        clock.begin("replay")
        with further_meanings(decompositions):
            by = None if limit.deadline is None else limit.deadline - kept
            replay = check_replay(trace, seed=seed, deadline=by, late=limit.reason)
        clock.begin("repetition")
        different = None
        if limit.fits(3 * forward):
            different = find_difference(
                model,
                prepared.args,
                prepared.kwargs,
                run,
                restore=restore,
                modules=modules,
                loss=loss,
                seed=seed,
                record=lambda: record(prepared),
            )
        else:
            unlooked.append(Unverified("whether a second run gives the same", limit.reason))
        repetition = []
        if different is not None:
            repetition.append(
                Nondeterministic.from_runs(
                    different.testimony,
                    op=different.op,
                    location=different.location,
                    module=different.module,
                    from_outside=different.from_outside,
                )
            )
        clock.begin("drawing")
        dot = ""
        if limit.fits(1e-3 * len(trace.nodes)):
            dot = draw_graph([t for _, t in run.outputs], run.leaves, run.autograd_nodes)
        clock.begin("finite differences")
        named = {**parameters, **prepared.leaves}
        # What no gradient reaches may still reach the output, around autograd.
        around = {} if patterns is not None else {name: named[name] for name in run.unreached}
        meant = behind_surrogates(trace)
        forward = max(forward, 0.4 * clock.stages["repetition"] if different is None else 0.0)
        if limit.fits(_DIFFERENCES * forward):
            restore()
            difference = finite_difference(
                model,
                prepared,
                {name: leaf for name, leaf in {**run.leaves, **around}.items() if name not in meant},
                [(path, cotangent) for (path, _), cotangent in zip(run.outputs, run.cotangents)],
                loss=loss,
                budget=limit.left() if limit.limited else None,
                seed=seed,
                still=padding_elements(trace),
                known=_likely_gradients(run, replay, (verdict for verdict, _ in checked.values())),
                abstain=_moves_on_average(run),
            )
        else:
            difference = left_out(limit.reason)
        if tolerances is not None:
            difference = excused(difference, tolerances.let_pass("GC101"))
        case = Case(
            model=model,
            prepared=prepared,
            run=run,
            parameters=parameters,
            buffers=buffers,
            modules=modules,
            loss=loss,
            wrt=patterns,
            seed=seed,
            restore=restore,
            deadline=limit.deadline,
        )
        supplements: list[Supplement] = []
        for stage, compares, look in _further_looks(
            order, forward_mode, places, compilers, limit, shown.step, bool(run.untracked)
        ):
            clock.begin(stage)
            if limit.fits(0.0):
                with judging(compares):
                    supplements.append(look(case))
            else:
                unlooked.append(Unverified(stage, limit.reason))
        if tolerances is not None:
            supplements.append(Supplement(notes=tolerances.notes(), counts=tolerances.counts()))
        supplements.append(_left_out(nodes, unlooked, limit, clock.stages))
        clock.begin("")
        report = assemble(
            title=_title(model),
            run=run,
            parameters=parameters,
            checked=checked,
            sums=sums,
            replay=replay,
            difference=difference,
            repetition=repetition,
            graph_dot=dot,
            notes=(*prepared.notes, _loss_note(loss, [path for path, _ in run.outputs]), *difference.notes),
            environment=_environment(run.leaves, seed),
            timings=clock.stages,
            ignore=tuple(ignore),
            supplements=supplements,
        )
    return report


def _left_out(
    nodes: CheckedNodes, unlooked: Sequence[Unverified], limit: Budget, stages: Mapping[str, float]
) -> Supplement:
    """What the budget had no room for, and what cannot be cut."""
    notes = limit.kept_by(stages)
    if nodes.left_out:
        verified = len(nodes.verdicts) - nodes.left_out
        notes += (
            f"{limit.reason}: {verified:,} of {plural(len(nodes.verdicts), 'node')} were looked at, custom Functions "
            "first, then one of every operation and shape, then from the output backwards",
        )
    counts = {"nodes_beyond_the_budget": nodes.left_out} if limit.limited else {}
    return Supplement(unverified=tuple(unlooked), notes=notes, counts=counts)


def _seconds(budget: object) -> float | None:
    number = isinstance(budget, (int, float)) and not isinstance(budget, bool)
    if budget is None or (number and budget > 0):  # type: ignore[operator]
        return budget  # type: ignore[return-value]
    raise ConfigurationError(
        f"checking gradients failed: budget is {budget!r}. It is the time that the whole check may take. "
        "Give a positive number of seconds, or None for no limit."
    )


def _further_looks(
    order: int,
    forward_mode: bool,
    places: Sequence[str],
    compilers: Sequence[Backend],
    limit: Budget,
    step: Callable[[], None],
    untracked: bool,
) -> list[tuple[str, str, Callable[[Case], Supplement]]]:
    """What else was asked for, in order: the name of the stage, the rule that compares there, and who looks."""
    looks: list[tuple[str, str, Callable[[Case], Supplement]]] = [
        ("nested backwards", "GC101", nested_gradients),
        ("side effects", "GC107", lambda case: side_effects(case, BackwardSideEffect)),
    ]
    if untracked:
        looks.append(("untracked outputs", "GC501", lambda case: untracked_outputs(case, DetachedGraph)))
    if order > 1:
        looks.append(
            (f"order {order}", "GC102", lambda case: second_order(case, order, DoubleBackwardMismatch))
        )
    if forward_mode:
        looks.append(("forward mode", "GC103", lambda case: verify_forward_mode(case, ForwardModeMismatch)))
    if places:

        def on_devices(case: Case) -> Supplement:
            return check_devices(case, places, DeviceMismatch, node_findings, limit, step)

        looks.append(("devices", "GC104", on_devices))
    if compilers:
        looks.append(
            (
                "backends",
                "GC105",
                lambda case: check_backends(case, compilers, CompiledMismatch, limit, step),
            )
        )
    return looks


def _moves_on_average(run: ReverseRun) -> str:
    """Why differences cannot speak of a function that draws gamma or Dirichlet samples, or ""."""
    for op in run.trace.ops:
        known = lookup(op.name) if op.random else None
        if known is not None and known.accuracy and any(ref.edge is not None for ref in floating_outputs(op)):
            return (
                f"a sample of {op.name} follows its parameter through the distribution function; with the random "
                "numbers held fixed it moves in another way, or jumps"
            )
    return ""


# A gradient in float32 that is this near the engine's, relative to its largest element, passes for the one in float64.
_EXACT_ENOUGH = 2e-6


def _likely_gradients(
    run: ReverseRun, replay: ReplayTestimony, verdicts: Iterable[NodeVerdict]
) -> Mapping[str, torch.Tensor | None] | None:
    """Gradients that a run of the same function in float64 is to be expected to give, or None.

    The recorded ones where they are that exact; else the engine's of the whole recording, where both agree within the noise
    of the recorded precision and every single node agrees.
    """
    if replay.reason or any(op.random for op in run.trace.ops):
        return None
    exact = True
    for name, gradient in run.gradients.items():
        if gradient is None:
            continue
        if gradient.dtype is not torch.float32 or gradient.layout is not torch.strided:
            return None
        said = replay.gradients.get(name)
        if said is None or said.comparison is None or said.outcome is not Outcome.AGREE:
            return None
        exact = exact and said.comparison.max_error <= _EXACT_ENOUGH * said.comparison.scale
    if exact:
        return run.gradients
    if any(verdict.outcome is not Outcome.AGREE for verdict in verdicts):
        return None
    engine = {name: replay.values.get(name) for name in run.gradients}
    if any(engine[name] is None for name, g in run.gradients.items() if g is not None):
        return None
    # torch warns of arrays that cannot be written to, such as constants that stand for a gradient of zero.
    writable = {n: v if v is None or v.flags.writeable else v.copy() for n, v in engine.items()}
    return {name: None if value is None else torch.from_numpy(value) for name, value in writable.items()}


def _untracked(
    call: ResolvedCall,
    prepared: PreparedCall,
    model: Callable[..., Any],
    parameters: Mapping[str, torch.Tensor],
    patterns: Sequence[str] | None,
    error: ModelError,
) -> PreparedCall | None:
    """The call with inputs that require no grad, for models that raise when they do; None where it is no way out."""
    asked = any(tensor.requires_grad for _, tensor in call.named_tensors())
    if (
        not prepared.leaves
        or asked
        or patterns is not None
        or not any(p.requires_grad for p in parameters.values())
    ):
        return None
    cause = error.__cause__
    told = str(cause).strip().splitlines()[:1] if cause is not None else []
    why = f"{type(cause).__name__}: {told[0][:200]}" if told else type(error).__name__
    without = prepare(call, model, track=False)
    note = f"only parameters were checked: the model raises when its inputs require grad ({why})"
    return replace(without, notes=(*without.notes, note))


def _refuse_order(order: object) -> None:
    if isinstance(order, bool) or not isinstance(order, int) or not 1 <= order <= 3:
        raise ConfigurationError(
            f"checking gradients failed: order={order!r} is none of 1, 2 and 3. It says up to which order derivatives are "
            "verified: 2 for the gradient of the gradient. Pass one of them."
        )


def _tensors_of(
    model: Callable[..., Any],
) -> tuple[dict[str, torch.Tensor], list[torch.Tensor], list[torch.nn.Module]]:
    """Parameters by name, buffers, and the modules behind a callable (a module, a bound method, a partial)."""
    module = model
    while not isinstance(module, torch.nn.Module):
        inner = getattr(module, "__self__", None) or getattr(module, "func", None)
        if inner is None:
            return {}, [], []
        module = inner
    parameters: dict[str, torch.Tensor] = dict(module.named_parameters())
    return parameters, list(module.buffers()), [module]


def _title(model: Callable[..., Any]) -> str:
    if isinstance(model, torch.nn.Module):
        return type(model).__name__
    return getattr(model, "__qualname__", None) or type(model).__name__


def _loss_note(loss: Callable[[Any], Any] | None, outputs: Sequence[str]) -> str:
    shown = ", ".join(outputs[:4]) + (f" and {len(outputs) - 4} more" if len(outputs) > 4 else "")
    if loss is not None:
        return f"loss: {getattr(loss, '__qualname__', type(loss).__name__)} ({shown})"
    return f"loss: a random projection of every differentiable output ({shown})"


def _environment(leaves: Mapping[str, torch.Tensor], seed: int) -> dict[str, str]:
    dtypes = sorted({str(t.dtype).removeprefix("torch.") for t in leaves.values()})
    devices = sorted({str(t.device) for t in leaves.values()})
    return {
        "gradcheck_suite": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "dtype": ", ".join(dtypes),
        "device": ", ".join(devices),
        "seed": str(seed),
        "threads": str(torch.get_num_threads()),
    }

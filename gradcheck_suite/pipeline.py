"""``check_gradients``: capture, trace, witnesses, verdicts, findings, report, in this order."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from . import report as _formats  # announces the output formats to Report.save and str(report)
from ._version import __version__
from .assembly import assemble
from .capture.drawing import draw_graph
from .capture.inputs import PreparedCall, ResolvedCall, prepare, resolve_inputs
from .capture.quiet import quiet
from .capture.state import preserved, rng_frozen, snapshot
from .compare.blame import behind_surrogates
from .compare.padding import padding_elements
from .declare import declared_surrogates
from .errors import ConfigurationError, GradcheckError, ModelError
from .evidence import Report, Supplement
from .replay.operations import further_meanings
from .rules.nondeterministic import Nondeterministic
from .witnesses.case import Case
from .witnesses.decomposition import Decompositions
from .witnesses.engine import check_node
from .witnesses.fallback import fallback_for
from .witnesses.finite_difference import finite_difference
from .witnesses.repetition import find_difference
from .witnesses.replay import check_replay
from .witnesses.sums import check_sums
from .witnesses.torch_reverse import ReverseRun, record_reverse

__all__ = ["check_gradients"]

_ = _formats


class _Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.stages: dict[str, float] = {}
        self._start = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.stages[stage] = self.stages.get(stage, 0.0) + now - self._start
        self._start = now


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
    backends: Sequence[str] = ("eager",),
    surrogates: Iterable[type] = (),
    ignore: Iterable[str] = (),
    tolerance: None = None,
    budget: float | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> Report:
    """Verify every element of every gradient of a model or function.

    The model runs once as it is, in its own dtype and on its own device. Each autograd node's backward is compared with
    the engine's, each sum in between is checked, the whole recording is replayed in the engine from the leaves, and
    directional finite differences look at the function itself. The model, its inputs and the process are left as they
    were, also after an exception.

    Args:
        model_or_function: an ``nn.Module`` or any callable on tensors.
        inputs: a tensor, tuple, dict or pytree, a callable ``(rng) -> inputs``, or None to infer them.
        kwargs: further keyword arguments of the call.
        loss: applied to the output; default: a random projection of every differentiable output.
        wrt: names (or patterns) of the parameters and inputs to look at; default: all that the backward reaches.
        surrogates: Functions whose backward is intentionally not the derivative.
        ignore: rules to silence, by code or name.
        budget: seconds that the optional witnesses may take.
        seed: of everything random; the model's own random numbers are drawn from it as well.
        order, forward_mode, devices, backends, tolerance, progress: only their default values are understood by this
            version; another one is refused, never silently ignored.

    Returns:
        The report; ``report.ok`` and ``report.raise_for_findings()`` sum it up.

    Raises:
        InputError: the inputs cannot be used or inferred.
        ModelError: the model is not callable, or it (or the loss) raised.
        NothingToVerifyError: no differentiable output, or nothing requires grad.
        ConfigurationError: a setting is not understood.
    """
    _refuse_unknown(order, forward_mode, devices, backends, tolerance, progress)
    if not callable(model_or_function):
        raise ModelError(
            f"checking gradients failed: the model is {type(model_or_function).__name__}, which cannot be called. "
            "A check calls it as model(*inputs). Pass an nn.Module or a function."
        )
    clock = _Clock()
    deadline = None if budget is None else time.monotonic() + budget
    model = model_or_function
    patterns = [wrt] if isinstance(wrt, str) else wrt
    with quiet(), preserved(model, inputs, kwargs) as start, declared_surrogates(surrogates):
        call = resolve_inputs(model, inputs, kwargs, seed)
        start.restore(quick=True)
        prepared = prepare(call, model)
        parameters, buffers, modules = _tensors_of(model)
        clock.lap("inputs")

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
                run = record_reverse(
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
        clock.lap("recording")
        trace = run.trace
        decompositions = Decompositions()
        fallback = fallback_for(run.recorder, run.autograd_nodes, decompositions)
        checked = {
            key: check_node(n, run.probe, seed=seed, fallback=fallback)
            for key, n in trace.nodes.items()
            if key > 0 and n.ran
        }
        sums = check_sums(trace, trace.leaf_gradients)
        clock.lap("node by node")
        with further_meanings(decompositions):
            replay = check_replay(trace, seed=seed)
        clock.lap("replay")
        different = find_difference(
            model, prepared.args, prepared.kwargs, run, restore=restore, modules=modules, loss=loss, seed=seed
        )
        repetition = []
        if different is not None:
            op = different.op
            repetition.append(
                Nondeterministic.from_runs(
                    different.testimony,
                    op=op.name if op is not None else "",
                    location=op.location if op is not None else None,
                    module=op.module if op is not None else "",
                )
            )
        clock.lap("repetition")
        dot = draw_graph([t for _, t in run.outputs], run.leaves, run.autograd_nodes)
        clock.lap("drawing")
        restore()
        named = {**parameters, **prepared.leaves}
        # What no gradient reaches may still reach the output, around autograd.
        around = {} if patterns is not None else {name: named[name] for name in run.unreached}
        meant = behind_surrogates(trace)
        difference = finite_difference(
            model,
            prepared,
            {name: leaf for name, leaf in {**run.leaves, **around}.items() if name not in meant},
            [(path, cotangent) for (path, _), cotangent in zip(run.outputs, run.cotangents)],
            loss=loss,
            budget=budget,
            seed=seed,
            still=padding_elements(trace),
        )
        clock.lap("finite differences")
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
            deadline=deadline,
        )
        supplements: list[Supplement] = []
        for stage, look in _further_looks():
            supplements.append(look(case))
            clock.lap(stage)
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


def _further_looks() -> list[tuple[str, Callable[[Case], Supplement]]]:
    """What else was asked for, in order: the name of the stage and who looks."""
    return []


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


def _refuse_unknown(
    order: int,
    forward_mode: bool,
    devices: Sequence[str] | None,
    backends: Sequence[str],
    tolerance: object,
    progress: object,
) -> None:
    settings: list[tuple[str, object, bool]] = [
        ("order", order, order == 1),
        ("forward_mode", forward_mode, not forward_mode),
        ("devices", devices, devices is None),
        ("backends", backends, tuple(backends) == ("eager",)),
        ("tolerance", tolerance, tolerance is None),
        ("progress", progress, progress in (None, False)),
    ]
    for name, value, known in settings:
        if not known:
            raise ConfigurationError(
                f"checking gradients failed: {name}={value!r} is not understood by version {__version__}. "
                "A check that silently did something else would be worse. Leave it out."
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

"""The same program on another device: verified there node by node, and its gradients compared with those at home.

Model, inputs and loss are copied, and the copies moved; what runs at home is not touched. Random numbers differ from device to
device: gradients of a run that drew others are not compared. TensorFloat-32, autocast and operations that add in any order are
part of the tolerance (``witnesses/other_runs.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from ..capture.outputs import output_tensors
from ..capture.state import rng_frozen, snapshot
from ..compare.overrides import judging
from ..errors import ConfigurationError, GradcheckError, ModelError
from ..evidence import Finding, NodeVerdict, OpRecord, Outcome, Supplement, Testimony, Trace, Unverified
from ..wording import plural
from .budget import Budget
from .case import Case
from .decomposition import Decompositions
from .engine import EdgeOutcomes
from .fallback import fallback_for
from .float64_world import Twin, copied
from .nodes import CheckedNodes, check_nodes
from .other_runs import (
    Apart,
    Noise,
    apart,
    as_array,
    first_difference,
    gradients_of,
    precision_of,
    same_draws,
    silenced,
)
from .reduced_precision import tensor_float_nodes
from .torch_reverse import ReverseRun, record_reverse

__all__ = ["check_devices", "read_devices", "standing_in"]

_NodeFindings = Callable[[Trace, Mapping[int, tuple[NodeVerdict, EdgeOutcomes]]], list[Finding]]

_Kernels = Callable[[], AbstractContextManager[Any]]

_stand_ins: ContextVar[Mapping[str, _Kernels] | None] = ContextVar("gradcheck_stand_ins", default=None)


class Accuser(Protocol):
    """The rule that words a difference between devices."""

    def from_leaves(
        self,
        wrong: Sequence[Testimony],
        *,
        home: str,
        device: str,
        gradients: int,
        op: OpRecord | None,
        culprit: Finding | None,
    ) -> Finding:
        """One finding per device; the first of ``wrong`` is the worst."""
        ...


@contextmanager
def standing_in(device: str, kernels: _Kernels = nullcontext) -> Iterator[None]:
    """Let the CPU stand in for a device that is not there, for tests of what a check of several devices would say.

    Args:
        device: its name: ``"cuda"``.
        kernels: makes a context in which the program behaves as it would there; entered for every run "on" it.
    """
    token = _stand_ins.set({**(_stand_ins.get() or {}), device: kernels})
    try:
        yield
    finally:
        _stand_ins.reset(token)


def _stand_in(device: str) -> _Kernels | None:
    return (_stand_ins.get() or {}).get(device)


def read_devices(devices: object) -> tuple[str, ...]:
    """Understand ``devices=``; None gives none.

    Raises:
        ConfigurationError: no sequence of names, an unknown device, or one without values (``"meta"``).
    """
    if devices is None:
        return ()
    if isinstance(devices, (str, torch.device)):
        devices = (devices,)
    if not isinstance(devices, Sequence) or not devices:
        raise ConfigurationError(
            f"checking gradients failed: devices is {devices!r}. It names where the model is to be verified. "
            'Pass a tuple of names: devices=("cpu", "cuda").'
        )
    names = []
    for device in devices:
        try:
            known = torch.device(device)
        except (RuntimeError, TypeError) as error:
            raise ConfigurationError(
                f"checking gradients failed: {device!r} is no device of torch ({str(error).splitlines()[0]}). "
                "A check there is impossible. Use names like 'cpu', 'cuda' or 'cuda:1'."
            ) from error
        if known.type == "meta":
            raise ConfigurationError(
                "checking gradients failed: the device 'meta' has no values. There is nothing to compare on it. "
                "Name a device that computes."
            )
        names.append(str(known))
    return tuple(dict.fromkeys(names))


def _unavailable(name: str) -> str:
    """Why nothing can run on a device, or ""."""
    device = torch.device(name)
    if _stand_in(name) is not None or device.type == "cpu":
        return ""
    if device.type == "cuda" and not torch.cuda.is_available():
        return "torch sees no CUDA device here"
    try:
        torch.empty(1, device=device).zero_()
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        return f"torch cannot use it here: {(str(error).strip().splitlines() or [type(error).__name__])[0][:160]}"
    return ""


@dataclass(frozen=True)
class _There:
    """A run on another device."""

    run: ReverseRun
    nodes: CheckedNodes
    repeated: tuple[dict[str, Any], dict[str, Any]]


def check_devices(
    case: Case,
    devices: Sequence[str],
    rule: Accuser,
    node_findings: _NodeFindings,
    budget: Budget | None = None,
    step: Callable[[], None] = lambda: None,
) -> Supplement:
    """Verify the program on every device that is not its own, and compare.

    Args:
        case: the recorded run at home.
        devices: from :func:`read_devices`.
        rule: words what differs.
        node_findings: words what is wrong with single nodes.
        budget: of the whole check.
        step: called after every node.

    Raises:
        ModelError: the model cannot be copied.
    """
    parts = [_check(case, name, rule, node_findings, budget, step) for name in devices]
    counts: dict[str, int] = {"devices": 1}
    for part in parts:
        for name, count in part.counts.items():
            counts[name] = counts.get(name, 0) + count
    return Supplement(
        findings=tuple(f for part in parts for f in part.findings),
        unverified=tuple(u for part in parts for u in part.unverified),
        testimonies=tuple(t for part in parts for t in part.testimonies),
        notes=tuple(n for part in parts for n in part.notes),
        counts=counts,
    )


def _check(
    case: Case,
    name: str,
    rule: Accuser,
    node_findings: _NodeFindings,
    budget: Budget | None,
    step: Callable[[], None],
) -> Supplement:
    home = _home(case)
    if _stand_in(name) is None and _same_place(home, torch.device(name)):
        return Supplement()
    reason = _unavailable(name)
    if not reason and budget is not None and not budget.fits(0.0):
        reason = budget.reason
    if reason:
        return Supplement(unverified=(Unverified(f"the gradients on {name}", reason),))
    try:
        there = _run(case, name, budget, step)
    except ModelError as error:
        if error.__cause__ is None:
            raise
        return Supplement(
            unverified=(
                Unverified(f"the gradients on {name}", f"it does not run there: {_short(error.__cause__)}"),
            )
        )
    except GradcheckError as error:
        return Supplement(
            unverified=(Unverified(f"the gradients on {name}", f"it does not run there: {error}"),)
        )
    trace = there.run.trace
    culprits = [
        replace(f, message=f"{f.message}\non {name}") for f in node_findings(trace, there.nodes.verdicts)
    ]
    found = _compare(case, name, there)
    findings = list(culprits)
    if found.wrong:
        findings.append(
            rule.from_leaves(
                [found.testimonies[leaf] for leaf in found.wrong],
                home=str(home),
                device=name,
                gradients=len(found.testimonies),
                op=first_difference(case.run.trace.ops, trace.ops, precision_of(case.run.trace, trace)),
                culprit=culprits[0] if culprits else None,
            )
        )
    unverified = [
        Unverified(f"{testimony.subject} on {name}", testimony.reason)
        for verdict, _ in there.nodes.verdicts.values()
        for testimony in verdict.testimonies
        if testimony.outcome is Outcome.INCONCLUSIVE
    ]
    unverified.extend(
        Unverified(t.subject, t.reason)
        for t in found.testimonies.values()
        if t.outcome is Outcome.INCONCLUSIVE
    )
    agreeing = sum(t.outcome is Outcome.AGREE for t in found.testimonies.values())
    note = (
        f"on {name}: {plural(len(there.nodes.verdicts) - there.nodes.left_out, 'node')} verified one by one, "
        f"{agreeing} of {plural(len(found.testimonies), 'gradient')} as on {home}"
    )
    return Supplement(
        findings=tuple(findings),
        unverified=tuple(unverified),
        testimonies=tuple(found.testimonies.values()),
        notes=(note,),
        counts={"devices": 1, "nodes_on_other_devices": len(there.nodes.verdicts) - there.nodes.left_out},
    )


def _home(case: Case) -> torch.device:
    devices = [leaf.device for leaf in case.leaves.values()]
    return devices[0] if devices else torch.device("cpu")


def _same_place(a: torch.device, b: torch.device) -> bool:
    if a.type != b.type:
        return False
    return a.type == "cpu" or (a.index or 0) == (b.index or 0)


def _short(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def _moved(case: Case, name: str) -> Twin:
    """The copy, with every tensor on the device."""
    twin = copied(case.model, case.prepared, case.leaves, case.loss, False)
    if twin is None:
        raise ModelError(
            f"checking on {name} failed: {type(case.model).__name__} cannot be copied with everything that it uses. "
            "A closure over tensors, a lock or an open file has no copy that could be moved to another device. "
            "Pass a module that copy.deepcopy understands, or leave out devices."
        )
    if _stand_in(name) is not None:
        return twin
    for part in twin.parts:
        if isinstance(part, nn.Module):
            part.to(name)  # also what modules do on such an occasion (recurrent layers lay out their weights)
    for tensor in twin.memo.values():
        if isinstance(tensor, torch.Tensor) and tensor.device != torch.device(name):
            tensor.data = tensor.data.to(name)
    return twin


def _run(case: Case, name: str, budget: Budget | None, step: Callable[[], None]) -> _There:
    case.restore()
    twin = _moved(case, name)
    model, args, kwargs, loss = twin.parts
    kernels = _stand_in(name) or nullcontext
    named = {
        leaf: twin.memo[id(tensor)]
        for leaf, tensor in {**case.parameters, **case.prepared.leaves}.items()
        if id(tensor) in twin.memo
    }
    before = snapshot(model, args, kwargs, loss)
    with rng_frozen(case.seed), kernels():
        run = record_reverse(
            model,
            args,
            kwargs,
            named_leaves=named,
            buffers=[twin.memo[id(b)] for b in case.buffers if id(b) in twin.memo],
            modules=[twin.memo[id(m)] for m in case.modules if id(m) in twin.memo],
            loss=loss,
            wrt=case.wrt,
            seed=case.seed,
        )
    with kernels(), judging("GC101"):
        fallback = fallback_for(run.recorder, run.autograd_nodes, Decompositions())
        nodes = check_nodes(run.trace, run.probe, seed=case.seed, fallback=fallback, budget=budget, step=step)
    before.restore()
    with rng_frozen(case.seed), torch.enable_grad(), kernels():
        again = dict(output_tensors(model(*args, **kwargs) if loss is None else loss(model(*args, **kwargs))))
        same = [(again[path], c) for (path, _), c in zip(run.outputs, run.cotangents) if path in again]
        second = gradients_of([o for o, _ in same], [c for _, c in same], run.leaves)
    return _There(run, nodes, (_arrays(run), second))


def _arrays(run: ReverseRun) -> dict[str, Any]:
    return {leaf: None if g is None else as_array(g) for leaf, g in run.gradients.items()}


def _compare(case: Case, name: str, there: _There) -> Apart:
    home, other = case.run.trace, there.run.trace
    coarse = any(tensor_float_nodes(trace.nodes.values()) for trace in (home, other))
    found = apart(
        "device",
        f"on {name}",
        _arrays(case.run),
        there.repeated[0],
        [there.repeated],
        Noise(home, case.seed),
        precision_of(home, other, tensor_float=coarse),
    )
    if found.wrong and not same_draws(home.ops, other.ops):
        return silenced(found, f"the random numbers on {name} are others")
    weights = zip(case.run.cotangents, there.run.cotangents)
    if found.wrong and not all(np.array_equal(as_array(a), as_array(b)) for a, b in weights):
        # Outputs are weighed by powers of two of their norms, and rounding may choose another one.
        return silenced(found, f"the outputs were weighed otherwise on {name}")
    return found

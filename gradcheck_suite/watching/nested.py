"""Gradients that a backward computes in a backward of its own (checkpoints, reversible layers), for a check.

The recording of a check ends at the outer graph. A session sees every backward, also the inner ones, so the program is run
once more inside one, and its verdicts are taken for what the recording left open. Where the inner backward is called by a
Function that is not torch's, nobody knows that it begins with the right cotangent: differences have to confirm it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from ..capture.outputs import differentiable_outputs, random_projection
from ..capture.quiet import speaking
from ..capture.state import rng_frozen
from ..evidence import GradientVerdict, Outcome, Severity, Supplement, Testimony
from ..rules.gradient_mismatch import GradientMismatch
from ..witnesses.case import Case
from ..witnesses.finite_difference import FiniteDifferenceResult, finite_difference
from ..witnesses.torch_reverse import reentrant_backward
from .ledger import Ledger
from .session import watch

__all__ = ["nested_gradients"]

_ALWAYS = 1 << 60


def nested_gradients(case: Case) -> Supplement:
    """Verify what only an inner backward computes; empty where there is none."""
    names = list(case.run.inner)
    if not names:
        return Supplement()
    difference = _differences(case, names)
    case.restore()
    leaves = {**case.parameters, **case.prepared.leaves}
    session = watch(verify=True, shared=Ledger(_ALWAYS, _ALWAYS))
    with speaking(), rng_frozen(case.seed), torch.enable_grad(), session:
        outputs = differentiable_outputs(case.output())
        cotangents = random_projection(outputs, case.seed)
        reentrant_backward([t for _, t in outputs], [], cotangents, leaves.values())
    report = session.report
    said = {verdict.name: verdict for verdict in report.gradients}
    gradients = []
    for name in names:
        leaf, verdict = leaves[name], said.get(name)
        if verdict is None or session.internal_errors:
            continue
        scale = float(leaf.grad.detach().abs().max()) if leaf.grad is not None and leaf.numel() else 0.0
        gradients.append(
            GradientVerdict(
                name=name,
                kind="parameter" if name in case.parameters else "input",
                shape=tuple(leaf.shape),
                dtype=str(leaf.dtype).removeprefix("torch."),
                outcome=verdict.outcome,
                testimonies=verdict.testimonies,
                scale=scale,
                nodes=verdict.nodes,
                reason=verdict.reason or "computed in a backward inside the backward, which was watched",
            )
        )
    verified = sum(node.outcome is Outcome.AGREE for node in report.nodes)
    findings = [f for f in report.findings if f.severity >= Severity.ERROR]
    testimonies: tuple[Testimony, ...] = ()
    if difference is not None:
        testimonies = difference.testimonies
        gradients = [_confirmed(verdict, difference) for verdict in gradients]
        wrong = [t for t in testimonies if t.outcome is Outcome.DISAGREE]
        if wrong and not findings:
            callers = {n.function.name: n for n in case.run.trace.nodes.values() if n.function is not None}
            finding = GradientMismatch.from_model(
                wrong[-1],
                location=next((n.location for n in callers.values()), None) if len(callers) == 1 else None,
                suspects=tuple(f"the backward that {name} calls in its own" for name in callers),
            )
            findings.append(finding)
    return Supplement(
        findings=tuple(findings),
        unverified=report.unverified,
        gradients=tuple(gradients),
        testimonies=testimonies,
        counts={"nodes_of_nested_backwards": verified},
    )


def _differences(case: Case, names: Sequence[str]) -> FiniteDifferenceResult | None:
    """Differences along the leaves whose gradient is added to in the middle; None where torch's checkpoints do it all."""
    functions = [n for n in case.run.trace.nodes.values() if n.role == "function" or n.function is not None]
    if all(node.name == "CheckpointFunctionBackward" for node in functions):
        return None
    case.restore()
    leaves = {**case.parameters, **case.prepared.leaves}
    left = case.seconds_left()
    return finite_difference(
        case.model,
        case.prepared,
        # A Function that calls backward runs only where something before it wants a gradient.
        {**{name: leaves[name] for name in names}, **case.leaves},
        [(path, c.detach()) for (path, _), c in zip(case.run.outputs, case.run.cotangents)],
        loss=case.loss,
        budget=None if left == float("inf") else max(left, 0.0),
        seed=case.seed,
    )


def _confirmed(verdict: GradientVerdict, difference: FiniteDifferenceResult) -> GradientVerdict:
    """What is known once differences have spoken too."""
    if verdict.name in difference.disagreeing:
        reason = "differences of the model contradict what a backward inside the backward adds to it"
        return replace(verdict, outcome=Outcome.DISAGREE, reason=reason)
    if difference.outcome is Outcome.AGREE or verdict.outcome is Outcome.DISAGREE:
        return verdict
    reason = "added to by a backward inside the backward, and differences do not confirm it"
    return replace(verdict, outcome=Outcome.INCONCLUSIVE, reason=reason)

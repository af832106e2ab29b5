"""Gradients that a backward computes in a backward of its own (re-entrant checkpointing), for a check.

The recording of a check ends at the outer graph. A session sees every backward, also the inner ones, so the program is run
once more inside one, and its verdicts are taken for what the recording left open.
"""

from __future__ import annotations

import torch

from ..capture.outputs import differentiable_outputs, random_projection
from ..capture.quiet import speaking
from ..capture.state import rng_frozen
from ..evidence import GradientVerdict, Outcome, Severity, Supplement
from ..witnesses.case import Case
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
    return Supplement(
        findings=tuple(f for f in report.findings if f.severity >= Severity.ERROR),
        unverified=report.unverified,
        gradients=tuple(gradients),
        counts={"nodes_of_nested_backwards": verified},
    )

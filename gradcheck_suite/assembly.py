"""From what the witnesses said to the report: verdicts per gradient, findings, what stayed unverified, the drawn graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .capture.origins import BackwardWrite
from .compare.blame import Arrival, arrivals
from .compare.cuts import find_cuts, module_at
from .compare.known_defects import known_defect
from .evidence import (
    Array,
    Finding,
    GradientVerdict,
    GraphEdge,
    GraphNode,
    Location,
    NodeRecord,
    NodeVerdict,
    Outcome,
    RelatedLocation,
    Report,
    Severity,
    Supplement,
    Testimony,
    Trace,
    Unverified,
)
from .rules.detached_graph import DetachedGraph
from .rules.gradient_mismatch import GradientMismatch
from .rules.nan_gradient import NanGradient
from .rules.nonsmooth_point import NonsmoothPoint
from .rules.reproduction import reproduce
from .rules.suppression import suppress
from .rules.unused_parameter import UnusedParameter
from .rules.unverified import Unverified as UnverifiedRule
from .witnesses.engine import EdgeOutcomes
from .witnesses.finite_difference import FiniteDifferenceResult
from .witnesses.kinks import nonsmooth_points
from .witnesses.replay import ReplayTestimony
from .witnesses.sums import CHECKPOINT, MODULE_HOOK
from .witnesses.torch_reverse import ReverseRun
from .wording import listing, relative_path

__all__ = ["assemble", "collect_unverified", "merge", "node_findings", "split_hooked", "sum_findings"]

Checked = Mapping[int, tuple[NodeVerdict, EdgeOutcomes]]
Sums = Mapping[tuple[int, int], Testimony]


def assemble(
    *,
    title: str,
    run: ReverseRun,
    parameters: Mapping[str, Any],
    checked: Checked,
    sums: Sums,
    replay: ReplayTestimony,
    difference: FiniteDifferenceResult,
    repetition: Sequence[Finding],
    graph_dot: str,
    notes: Sequence[str],
    environment: Mapping[str, str],
    timings: Mapping[str, float],
    ignore: Sequence[str],
    supplements: Sequence[Supplement] = (),
) -> Report:
    """Build the report of one check; see :class:`~gradcheck_suite.evidence.Report` for the parts."""
    trace = run.trace
    edges = {key: outcomes for key, (_, outcomes) in checked.items()}
    plain_sums, hooked = split_hooked(sums, run.hooked)
    arrived = arrivals(trace, edges, {**plain_sums, **hooked})
    gradients = _gradient_verdicts(
        run, parameters, arrived, {**plain_sums, **hooked}, replay, difference, checked
    )
    findings = [
        *node_findings(trace, checked),
        *sum_findings(trace, plain_sums, run.recorder.backward_writes),
    ]
    findings.extend(NanGradient.from_trace(trace))
    findings.extend(
        NonsmoothPoint.from_line(
            point.ops,
            point.remarks,
            elements=point.elements,
            index=point.index,
            location=point.location,
            module=point.module,
        )
        for point in nonsmooth_points(trace, checked)
    )
    findings.extend(repetition)
    unverified = collect_unverified(checked, hooked, replay)
    # A hook that changes a gradient on purpose, or a node already found wrong, explains a difference of the whole.
    unsteady = [f for s in supplements for f in s.findings if f.evidence.get("kind") in _UNSTEADY]
    if (
        not has_errors([*findings, *unsteady])
        and not any(t.outcome is not Outcome.AGREE for t in hooked.values())
        and not _changed_by_module_hooks(checked, plain_sums)
    ):
        findings.extend(difference_findings(difference, trace, unverified))
    unverified.extend(
        Unverified(t.subject, f"finite differences: {t.reason}")
        for t in difference.testimonies
        if t.outcome is Outcome.INCONCLUSIVE
    )
    for supplement in supplements:
        findings.extend(supplement.findings)
        unverified.extend(supplement.unverified)
    further = {g.name: g for supplement in supplements for g in supplement.gradients}
    unseen = [name for name in run.inner if name not in further]
    if unseen:
        reason = f"{_inner_backward(trace)} computes it in a backward of its own, which was not recorded"
        unverified.append(Unverified(f"gradient of {', '.join(unseen[:4])}", reason, len(unseen)))
    unused = [name for name in run.unreached if name in parameters]
    findings.extend(UnusedParameter.from_names(unused, {name: parameters[name].numel() for name in unused}))
    findings.extend(UnverifiedRule.from_entries(unverified))
    kept, suppressed = suppress(merge(findings), ignore)
    kept.sort(key=lambda f: -f.severity)
    verdicts = [verdict for verdict, _ in checked.values()]
    verdicts.extend(node for supplement in supplements for node in supplement.nodes)
    return Report(
        title=title,
        findings=tuple(kept),
        gradients=(*gradients, *further.values()),
        nodes=tuple(verdicts),
        unverified=tuple(unverified),
        testimonies=(
            *difference.testimonies,
            *replay.outputs,
            *(t for supplement in supplements for t in supplement.testimonies),
        ),
        graph_nodes=tuple(_graph_nodes(trace, checked, arrived)),
        graph_edges=tuple(
            GraphEdge(node.key, edge.node)
            for node in trace.nodes.values()
            for edge in node.edges
            if edge is not None
        ),
        notes=(*notes, *(note for supplement in supplements for note in supplement.notes)),
        environment=environment,
        timings=timings,
        counts={
            "operations": len(trace.ops),
            "nodes": len(verdicts),
            **{f"nodes_{how or 'unverified'}": n for how, n in Counter(v.how for v in verdicts).items()},
            "elements": sum(v.elements for v in verdicts),
            "sums": len(sums),
            "replayed_operations": replay.operations,
            "suppressed": len(suppressed),
            **{name: count for supplement in supplements for name, count in supplement.counts.items()},
        },
        graph_dot=graph_dot,
    )


def _inner_backward(trace: Trace) -> str:
    """Who runs a backward inside the backward."""
    if any(node.name == CHECKPOINT for node in trace.nodes.values()):
        return "re-entrant checkpointing"
    names = dict.fromkeys(n.function.name for n in trace.nodes.values() if n.function is not None)
    return listing(list(names)) if names else "a hook"


def _changed_by_module_hooks(checked: Checked, sums: Sums) -> bool:
    said = [t for verdict, _ in checked.values() for t in verdict.testimonies]
    return any(t.reason == MODULE_HOOK for t in (*said, *sums.values()))


# Side effects by which a backward that was verified answers otherwise when the differences ask again.
_UNSTEADY = ("repetition", "random", "write")


def merge(findings: Sequence[Finding]) -> list[Finding]:
    """One finding per cause: the same rule at the same line about the same thing is counted, not repeated."""
    merged: dict[tuple[object, ...], Finding] = {}
    for finding in findings:
        subject = finding.evidence.get("subject", finding.message)
        key = (finding.code, finding.location, finding.op, subject)
        known = merged.get(key)
        merged[key] = finding if known is None else replace(known, count=known.count + finding.count)
    return list(merged.values())


def node_findings(trace: Trace, checked: Checked) -> list[Finding]:
    """One finding per gradient that a node got wrong."""
    findings = []
    for key, (verdict, _) in checked.items():
        function = trace.nodes[key].function
        for testimony in verdict.testimonies:
            if testimony.outcome is not Outcome.DISAGREE:
                continue
            finding = GradientMismatch.from_node(
                verdict,
                testimony,
                backward=function.backward if function is not None else None,
                function_name=function.name if function is not None else "",
            )
            names = [verdict.op] if function is None else [op.name for op in trace.nodes[key].ops]
            inside = function is not None
            defects = (known_defect(n, verdict.inputs, testimony.comparison, inside=inside) for n in names)
            defect = next((d for d in defects if d is not None), None)
            if defect is not None:
                whose = "a known defect of torch, not of your code"
                if function is not None:
                    whose = f"no less exact than torch's own gradient of {defect.op}, a known defect of torch"
                finding = replace(
                    finding,
                    severity=Severity.WARNING,
                    hint=f"{whose}: {defect.cause} (docs/known-torch-bugs.md)",
                )
            if function is None and testimony.comparison is not None:
                position = _position(testimony)
                text = reproduce(trace.nodes[key], testimony.comparison, position)
                finding = replace(finding, reproduction=text)
            findings.append(finding)
    return findings


def _position(testimony: Testimony) -> int:
    """Which returned gradient a node's testimony speaks of: ``"d loss / d input 2 of ..."``."""
    word = testimony.subject.removeprefix("d loss / d input").split(" of ")[0].strip()
    return int(word) if word.isdigit() else 0


def sum_findings(trace: Trace, sums: Sums, writes: Sequence[BackwardWrite] = ()) -> list[Finding]:
    """One finding per cotangent or leaf gradient that is not the sum of its contributions."""
    findings = []
    for (key, _), testimony in sums.items():
        if testimony.outcome is not Outcome.DISAGREE:
            continue
        node = trace.nodes[key]
        finding = GradientMismatch.from_sum(
            testimony, location=node.location, module=node.module, op=node.leaf_name or _node_name(node)
        )
        lines = {w.location: w.op for w in writes if w.location is not None}
        if lines:
            finding = replace(
                finding,
                related=(*finding.related, *(RelatedLocation("overwritten by", line) for line in lines)),
            )
        findings.append(finding)
    return findings


def difference_findings(
    difference: FiniteDifferenceResult, trace: Trace, unverified: Sequence[Unverified]
) -> list[Finding]:
    """What finite differences of the whole function say where no single node was found wrong."""
    findings = [
        DetachedGraph.from_stop(
            cut.kind, difference.stopped, cut.location, module=module_at(trace, cut.location)
        )
        for cut in difference.stops
    ]
    wrong = [t for t in difference.testimonies if t.outcome is Outcome.DISAGREE]
    if not wrong:
        return findings
    if unverified and not difference.cuts:
        return [GradientMismatch.from_model(wrong[0], suspects=tuple(u.subject for u in unverified[:4]))]
    cuts = difference.cuts or tuple(cut for cut in find_cuts(trace) if not cut.deliberate)[:1]
    lines = [(cut.location, cut.module or module_at(trace, cut.location)) for cut in cuts] or [(None, "")]
    return findings + [
        DetachedGraph.from_difference(wrong[0], difference.disagreeing, location, module=module)
        for location, module in lines
    ]


def collect_unverified(checked: Checked, hooked: Sums, replay: ReplayTestimony | None) -> list[Unverified]:
    """What no witness could speak about, by reason."""
    grouped: Counter[tuple[str, str]] = Counter()
    for verdict, _ in checked.values():
        for testimony in verdict.testimonies:
            if testimony.outcome is Outcome.INCONCLUSIVE:
                where = f" at {_place(verdict.location)}" if verdict.location is not None else ""
                grouped[f"{verdict.op or verdict.name}{where}", testimony.reason] += 1
    for testimony in hooked.values():
        if testimony.outcome is not Outcome.AGREE:
            grouped[testimony.subject, "a tensor hook changes this gradient"] += 1
    if replay is not None and replay.reason:
        grouped["the free-running replay", replay.reason] += 1
    return [Unverified(subject, reason, count) for (subject, reason), count in grouped.items()]


def split_hooked(
    sums: Sums, hooked: set[tuple[int, int]]
) -> tuple[dict[tuple[int, int], Testimony], dict[tuple[int, int], Testimony]]:
    """Sums at tensors with a user's hook are not judged: the hook may change the gradient on purpose."""
    plain: dict[tuple[int, int], Testimony] = {}
    with_hook: dict[tuple[int, int], Testimony] = {}
    for place, testimony in sums.items():
        if place in hooked and testimony.outcome is Outcome.DISAGREE:
            with_hook[place] = replace(
                testimony, outcome=Outcome.INCONCLUSIVE, reason="a tensor hook changes this gradient"
            )
        else:
            plain[place] = testimony
    return plain, with_hook


def _gradient_verdicts(
    run: ReverseRun,
    parameters: Mapping[str, Any],
    arrived: Mapping[int, Arrival],
    sums: Sums,
    replay: ReplayTestimony,
    difference: FiniteDifferenceResult,
    checked: Checked,
) -> list[GradientVerdict]:
    verdicts = []
    trace = run.trace
    for name, tensor in run.leaves.items():
        key = trace.leaves.get(name, run.recorder.leaf_key(tensor))
        arrival = arrived.get(key, Arrival(Outcome.AGREE, 0))
        testimonies = []
        at_leaf = sums.get((key, 0))
        if at_leaf is not None:
            testimonies.append(at_leaf)
        if name in replay.gradients:
            testimonies.append(replay.gradients[name])
        outcome = arrival.outcome
        reason = ""
        if outcome is not Outcome.AGREE:
            culprit = trace.nodes[arrival.culprit]
            where = f" ({_place(culprit.location)})" if culprit.location is not None else ""
            reason = f"{'wrong' if outcome is Outcome.DISAGREE else 'not verified'} at {_node_name(culprit)}{where}"
            error = _relative_error(arrival.culprit, checked, sums)
            if outcome is Outcome.DISAGREE and _value_agrees(error, replay.gradients.get(name), difference):
                outcome = Outcome.INCONCLUSIVE
                reason = f"computed by {_node_name(culprit)}{where}, which is wrong; what arrives here has the right value"
        if name in difference.disagreeing and outcome is not Outcome.DISAGREE:
            outcome = Outcome.DISAGREE
            reason = "the output depends on it in a way that autograd does not see"
        elif name in difference.stopped and outcome is Outcome.AGREE:
            lines = ", ".join(str(cut.location) for cut in difference.stops if cut.location is not None)
            reason = f"verified with a deliberate stop-gradient held constant{f' ({lines})' if lines else ''}"
        gradient = trace.leaf_gradients.get(name)
        scale = _scale(None if gradient is None else gradient.array())
        if outcome is Outcome.AGREE and not np.isfinite(scale):
            outcome, reason = Outcome.INCONCLUSIVE, "it is not finite"
        verdicts.append(
            GradientVerdict(
                name=name,
                kind="parameter"
                if name in parameters
                else ("other" if name.startswith("other[") else "input"),
                shape=tuple(tensor.shape),
                dtype=str(tensor.dtype).removeprefix("torch."),
                outcome=outcome,
                testimonies=tuple(testimonies),
                scale=scale,
                nodes=arrival.nodes,
                error=replay.errors.get(name),
                reason=reason,
            )
        )
    return verdicts


def _relative_error(culprit: int, checked: Checked, sums: Sums) -> float:
    """The largest error of what a node got wrong, relative to the largest entry; NaN where no number is known."""
    said = list(checked[culprit][0].testimonies) if culprit in checked else []
    said.extend(t for (key, _), t in sums.items() if key == culprit)
    errors = [
        t.comparison.max_error / t.comparison.scale
        for t in said
        if t.outcome is Outcome.DISAGREE and t.comparison is not None and t.comparison.scale > 0
    ]
    return max(errors, default=float("nan"))


# By how much smaller the error of what arrives must be than the node's, for errors that cancel on the way.
_CANCELLED = 0.01


def _value_agrees(error: float, at_leaf: Testimony | None, difference: FiniteDifferenceResult) -> bool:
    """Whether what arrives at a leaf is right although a node on its way is not: errors of two nodes may cancel."""
    said = [] if at_leaf is None else [at_leaf]
    if not said and difference.outcome is Outcome.AGREE:
        said = [t for t in difference.testimonies if t.outcome is Outcome.AGREE]
    numbers = [t.comparison for t in said if t.comparison is not None and t.comparison.scale > 0]
    if not numbers or any(t.outcome is not Outcome.AGREE for t in said):
        return False
    bound = _CANCELLED * error
    return all(max(n.max_error, 0.0 if at_leaf else n.tolerance) <= bound * n.scale for n in numbers)


def _scale(gradient: Array | None) -> float:
    return float(np.abs(gradient).max()) if gradient is not None and gradient.size else 0.0


def _place(location: Location) -> str:
    return f"{relative_path(location.file)}:{location.line}"


def _node_name(node: NodeRecord) -> str:
    return node.function.name if node.function is not None else node.name


def _graph_nodes(trace: Trace, checked: Checked, arrived: Mapping[int, Arrival]) -> list[GraphNode]:
    nodes = []
    for key, node in trace.nodes.items():
        if node.role == "leaf":
            arrival = arrived.get(key)
            outcome = arrival.outcome if arrival is not None else Outcome.INCONCLUSIVE
            nodes.append(GraphNode(key, node.leaf_name or node.name, "leaf", outcome))
            continue
        verdict = checked.get(key)
        nodes.append(
            GraphNode(
                key=key,
                label=_node_name(node),
                kind="function" if node.role == "function" else "op",
                outcome=verdict[0].outcome if verdict is not None else Outcome.INCONCLUSIVE,
                detail=_detail(verdict[0]) if verdict is not None else "did not run in this backward",
                module=node.module,
                location=node.location,
            )
        )
    return nodes


def _detail(verdict: NodeVerdict) -> str:
    worst = next((t for t in verdict.testimonies if t.outcome is verdict.outcome), None)
    shapes = f"{', '.join(i for i in verdict.inputs if i)} -> {', '.join(o for o in verdict.outputs if o)}"
    return f"{shapes}; {worst.reason}" if worst is not None and worst.reason else shapes


def has_errors(findings: Sequence[Finding]) -> bool:
    """Whether any finding is at or above ERROR."""
    return any(f.severity >= Severity.ERROR for f in findings)

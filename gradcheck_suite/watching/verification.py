"""The verification of the backwards of a session: which nodes are asked, and what came of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from ..assembly import collect_unverified, merge, node_findings, split_hooked, sum_findings
from ..capture.graph import GraphRecording
from ..capture.modules import ModuleStack
from ..capture.recorder import Recorder
from ..compare.blame import Arrival, arrivals
from ..evidence import (
    ArraySource,
    Finding,
    GradientVerdict,
    NodeVerdict,
    Outcome,
    Testimony,
    Trace,
    Unverified,
)
from ..witnesses.engine import EdgeOutcomes, Fallback, check_node, is_vacuous, worst
from ..witnesses.sums import check_sums
from .ledger import Ledger, glance, signature
from .names import Names
from .saved import is_released
from .scales import largest
from .silent import Suspect
from .stretches import AccumulateGrad
from .traced import traced_nodes

__all__ = ["Verification"]

_MOST_NODES = 2_000


class Verification:
    """Verifies nodes with the engine, each kind a bounded number of times.

    Args:
        ledger: how often each kind has been verified.
        modules: whose parameters are known.
        names: of tensors.

    Attributes:
        findings: about gradients that are wrong.
        nodes: what was said of each node.
        gradients: what is known of each leaf, by name.
        unverified: how often something was not verified, by what it is and why.
        counts: of what was verified.
        hooked: edges whose cotangent a hook changes.
    """

    def __init__(self, ledger: Ledger, modules: ModuleStack, names: Names) -> None:
        self._ledger = ledger
        self._modules = modules
        self._names = names
        self.findings: list[Finding] = []
        self.nodes: list[NodeVerdict] = []
        self.gradients: dict[str, GradientVerdict] = {}
        self.unverified: Counter[tuple[str, str]] = Counter()
        self.counts: Counter[str] = Counter()
        self.hooked: set[tuple[int, int]] = set()
        self._vacuous: dict[int, NodeVerdict] = {}

    def plan(
        self, recorder: Recorder, nodes: Sequence[Any], suspects: Mapping[int, Suspect]
    ) -> dict[int, tuple[Any, ...]]:
        """The nodes to verify in this backward, with their signatures."""
        plan: dict[int, tuple[Any, ...]] = {}
        by_key = {recorder.node_key(node): node for node in nodes if type(node) is not AccumulateGrad}
        traced = traced_nodes(recorder, by_key)
        for name, reason in dict.fromkeys(traced.values()):
            self.unverified[name, reason] += 1
        for key, node in by_key.items():
            if key in suspects or key in traced:
                continue
            origin = recorder.origin_of(node)
            if origin is not None and is_released(origin):
                continue  # it was verified when an earlier backward freed it
            if self._ledger.is_full(number := glance(node, origin)):
                continue
            mark = signature(node.name(), origin)
            if self._ledger.take(mark, function=origin is not None and origin.role == "function"):
                plan[key] = mark
            else:
                self._ledger.note_full(number)
        return plan

    def look_at(
        self,
        recorder: Recorder,
        graph: GraphRecording,
        trace: Trace,
        names: dict[int, str],
        plan: dict[int, tuple[Any, ...]],
        wrong: Iterable[int],
        fallback: Fallback,
    ) -> None:
        """Verify the nodes of a backward that was observed.

        Args:
            recorder, graph, trace: what was recorded of it.
            names: of its leaves.
            plan: from :meth:`plan`.
            wrong: nodes that are known to have returned something else already.
            fallback: for nodes that no meaning explains.
        """
        checked: dict[int, tuple[NodeVerdict, EdgeOutcomes]] = {}
        for key, mark in plan.items():
            record = trace.nodes[key]
            if not record.ran:
                self._ledger.give_back(mark)
                continue
            verdict, edges = check_node(record, fallback=fallback)
            checked[key] = (verdict, edges)
            if is_vacuous(verdict):
                # Asked again when an equal node gets a cotangent that says something; listed if none ever does.
                self._ledger.give_back(mark)
                self._vacuous.setdefault(hash(mark), verdict)
                del checked[key]
            else:
                self._vacuous.pop(hash(mark), None)
        arrived_at = {
            node.leaf_name: node.cotangents[0]
            for node in trace.nodes.values()
            if node.role == "leaf" and node.cotangents
        }
        hooked = self.hooked | {
            (key, 0) for key, node in graph.by_key.items() if key < 0 and node.variable._backward_hooks
        }
        sums, at_hooks = split_hooked(check_sums(trace, arrived_at), hooked)
        self.counts["sums"] += len(sums)
        self.counts["nodes"] += len(checked)
        self.counts["elements"] += sum(v.elements for v, _ in checked.values())
        for verdict, _ in checked.values():
            self.counts[f"nodes_{verdict.how or 'unverified'}"] += 1
        self.findings = merge(
            [
                *self.findings,
                *node_findings(trace, checked),
                *sum_findings(trace, sums, recorder.backward_writes),
            ]
        )
        self.nodes.extend(v for v, _ in checked.values() if len(self.nodes) < _MOST_NODES)
        for entry in collect_unverified(checked, at_hooks, None):
            self.unverified[entry.subject, entry.reason] += entry.count
        # Nodes that are not in the plan equal others that were verified before.
        edges_of = {
            key: checked[key][1] if key in checked else dict.fromkeys(range(len(node.edges)), Outcome.AGREE)
            for key, node in trace.nodes.items()
        }
        for key in traced_nodes(recorder, graph.by_key):
            edges_of[key] = dict.fromkeys(edges_of[key], Outcome.INCONCLUSIVE)
        for key in wrong:
            edges_of[key] = dict.fromkeys(edges_of[key], Outcome.DISAGREE)
        everywhere = {**sums, **at_hooks}
        nested = recorder.runs_backward
        self._note_leaves(
            graph, names, arrivals(trace, edges_of, everywhere), everywhere, arrived_at, nested=nested
        )

    def leaf_names(self, graph: GraphRecording) -> dict[int, str]:
        """What the leaves of a graph are called, by key."""
        leaves = [(key, node.variable) for key, node in graph.by_key.items() if key < 0]
        return dict(zip([key for key, _ in leaves], self._names.of([leaf for _, leaf in leaves])))

    def _note_leaves(
        self,
        graph: GraphRecording,
        names: dict[int, str],
        arrived: dict[int, Arrival],
        sums: dict[tuple[int, int], Testimony],
        arrived_at: Mapping[str, ArraySource | None],
        *,
        nested: bool,
    ) -> None:
        known = self._modules.parameter_names()
        for key, node in graph.by_key.items():
            if key >= 0 or key not in arrived:
                continue
            tensor = node.variable
            name = names[key]
            before = self.gradients.get(name)
            if nested and before is None and not isinstance(tensor, torch.nn.Parameter):
                continue  # cut off by a re-entrant checkpoint, for itself
            if before is None and len(self.gradients) >= _MOST_NODES:
                continue
            outcome = arrived[key].outcome
            at_leaf = sums.get((key, 0))
            self.gradients[name] = GradientVerdict(
                name=name,
                kind="parameter" if id(tensor) in known else "other",
                shape=tuple(tensor.shape),
                dtype=str(tensor.dtype).removeprefix("torch."),
                outcome=outcome if before is None else worst([outcome, before.outcome]),
                testimonies=() if at_leaf is None else (at_leaf,),
                scale=max(0.0 if before is None else before.scale, largest(arrived_at.get(name))),
                nodes=arrived[key].nodes,
            )

    def never_said(self) -> list[Unverified]:
        """Nodes that got no cotangent that says anything."""
        return collect_unverified({v.key: (v, EdgeOutcomes()) for v in self._vacuous.values()}, {}, None)

"""The second and the third order: every node's backward, differentiated, against the engine; then the whole gradient.

A backward may be right and its derivative wrong: whatever it uses that is not connected with its inputs (a detached copy,
an intermediate that ``forward`` saved) is a constant to autograd. Each kind of node is asked once, custom Functions more
often; differences of the whole gradient then look for what no node shows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from ..capture.state import rng_frozen
from ..evidence import (
    Finding,
    Location,
    NodeRecord,
    Outcome,
    Supplement,
    TensorRef,
    Testimony,
    Unverified,
)
from ..replay.higher import unique_edges
from ..wording import plural
from .case import Case
from .decomposition import Decompositions
from .gradient_function import examine_gradient
from .higher_order import Judged, check_order
from .sums import node_name

__all__ = ["Accuser", "second_order"]

# Calls of one Function with the same shapes that are looked at; of torch's own operations one.
_MOST_ALIKE = 4
_PROVED = "every node was found right by itself, so these differences are too coarse, or a value goes around autograd"


class Accuser(Protocol):
    """Turns what disagrees into findings; a rule stands above the witnesses and is handed in."""

    def from_node(
        self,
        testimony: Testimony,
        *,
        name: str,
        function: bool,
        backward: Location | None,
        location: Location | None,
        module: str,
        op: str,
        key: int,
        order: int,
        cut: bool,
        inner: Sequence[str] = (),
    ) -> Finding:
        """One node whose backward has a wrong derivative."""
        ...

    def from_model(
        self,
        testimony: Testimony,
        *,
        suspects: Sequence[str] = (),
        location: Location | None = None,
        module: str = "",
        backward: Location | None = None,
    ) -> Finding:
        """The whole gradient."""
        ...


@dataclass
class _Sheet:
    """What was found out so far."""

    findings: list[Finding] = field(default_factory=list)
    testimonies: list[Testimony] = field(default_factory=list)
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    nodes: int = 0
    elements: int = 0
    alike: int = 0
    unasked: int = 0  # calls of custom Functions among those alike
    doubtful: str = ""  # why the whole gradient must not be accused
    unknown: list[NodeRecord] = field(
        default_factory=list
    )  # custom Functions about which nothing could be said

    def left_open(self, subject: str, reason: str) -> None:
        self.reasons[subject, reason] += 1


def second_order(case: Case, order: int, accuser: Accuser) -> Supplement:
    """Verify derivatives of backwards up to ``order``, 2 or 3.

    Args:
        case: its recorded graph is asked, and kept.
        order: 2 asks for the gradient of the gradient, 3 for one more.
        accuser: makes the findings, the rule GC102.

    Returns:
        Findings of GC102, what no witness could speak about, testimonies and counts.
    """
    case.restore()
    sheet = _Sheet()
    decompositions = Decompositions()
    with rng_frozen(case.seed):
        _nodes(case, order, sheet, decompositions, accuser)
    case.restore()
    nodes = plural(sheet.nodes, "autograd node")
    notes = [f"order {order}: the derivative of the backward was verified for {nodes}"]
    if sheet.alike:
        notes[0] += f"; {plural(sheet.alike, 'further node')} of the same kind and shapes not asked again"
    if not sheet.findings and not sheet.doubtful:
        _whole(case, order, sheet, accuser)
    elif sheet.doubtful:
        sheet.left_open("the whole function's gradient, differentiated", sheet.doubtful)
    case.restore()
    return Supplement(
        findings=tuple(sheet.findings),
        unverified=tuple(Unverified(s, reason, n) for (s, reason), n in sheet.reasons.items()),
        testimonies=tuple(sheet.testimonies),
        notes=tuple(notes),
        counts={"higher_order_nodes": sheet.nodes, "higher_order_elements": sheet.elements},
    )


def _whole(case: Case, order: int, sheet: _Sheet, accuser: Accuser) -> None:
    """Differences of the whole gradient. They accuse only where some node was left open, or not asked."""
    proved = not sheet.reasons and not sheet.unasked
    for testimony in examine_gradient(case, order).testimonies:
        if testimony.outcome is Outcome.DISAGREE and proved:
            # Of a function that oscillates within one step they see another slope than there is.
            doubt = f"{_PROVED}; {testimony.reason}"
            testimony = replace(testimony, outcome=Outcome.INCONCLUSIVE, reason=doubt)
        sheet.testimonies.append(testimony)
        if testimony.outcome is Outcome.DISAGREE and not sheet.findings:
            sheet.findings.append(_of_the_whole(testimony, sheet, accuser))
        elif testimony.outcome is Outcome.INCONCLUSIVE:
            sheet.left_open(testimony.subject, f"finite differences: {testimony.reason}")


def _of_the_whole(testimony: Testimony, sheet: _Sheet, accuser: Accuser) -> Finding:
    """With the line of the one Function that nothing could be said about, if there is one."""
    suspects = tuple(dict.fromkeys(subject for subject, _ in sheet.reasons))
    alone = sheet.unknown[0] if len({str(n.location) for n in sheet.unknown}) == 1 else None
    backward = alone.function.backward if alone is not None and alone.function is not None else None
    return accuser.from_model(
        testimony,
        suspects=suspects[:4],
        location=None if alone is None else alone.location,
        module="" if alone is None else alone.module,
        backward=backward,
    )


def _nodes(case: Case, order: int, sheet: _Sheet, decompositions: Decompositions, accuser: Accuser) -> None:
    """Custom Functions first, then torch's own operations, each kind once."""
    trace, nodes = case.run.trace, case.run.autograd_nodes
    ran = [n for key, n in trace.nodes.items() if key > 0 and n.ran and any(n.edges)]
    seen: Counter[tuple[object, ...]] = Counter()
    late = 0
    for node in sorted(ran, key=lambda n: (n.role != "function", n.key)):
        subject = f"second derivative of {node_name(node)}"
        if node.function is not None and node.function.surrogate:
            sheet.doubtful = "a Function is declared a surrogate"
            sheet.left_open(subject, f"declared a surrogate: {node.function.surrogate}")
            continue
        kind = _kind(node)
        if seen[kind] >= (_MOST_ALIKE if node.role == "function" else 1):
            sheet.alike += 1
            sheet.unasked += node.role == "function"
            continue
        if case.seconds_left() <= 0:
            late += 1
            continue
        seen[kind] += 1
        hooked = {(node.key, slot) for slot in range(len(node.outputs))} | set(unique_edges(node))
        if hooked & case.run.hooked:
            sheet.left_open(subject, "a tensor hook changes its gradients")
            sheet.unknown += [node] if node.role == "function" else []
            continue
        for level in range(2, order + 1):
            judged = check_order(node, nodes, level, case.seed, decompositions)
            _note(node, level, judged, sheet, accuser)
            if any(t.outcome is not Outcome.AGREE for t in judged.testimonies):
                break
        else:
            sheet.nodes += 1
    if late:
        sheet.reasons["derivatives of backwards", "the time budget ran out"] += late


def _note(node: NodeRecord, level: int, judged: Judged, sheet: _Sheet, accuser: Accuser) -> None:
    if judged.first_differs:
        sheet.doubtful = "the gradient of some node is not the engine's already at first order"
    if judged.refused:
        sheet.doubtful = "a backward refuses to be differentiated"
    if node.role == "function" and any(t.outcome is Outcome.INCONCLUSIVE for t in judged.testimonies):
        sheet.unknown.append(node)
    for testimony in judged.testimonies:
        if testimony.outcome is Outcome.INCONCLUSIVE:
            which = "second" if level == 2 else "third"
            sheet.left_open(f"{which} derivative of {node_name(node)}", testimony.reason)
        elif testimony.comparison is not None:
            sheet.elements += testimony.comparison.elements
        if testimony.outcome is Outcome.DISAGREE:
            function, answer = node.function, judged.answer
            sheet.findings.append(
                accuser.from_node(
                    testimony,
                    name=function.name if function is not None else node.name,
                    function=function is not None,
                    backward=function.backward if function is not None else None,
                    location=node.location,
                    module=node.module,
                    op=node.name,
                    key=node.key,
                    order=level,
                    cut=answer is not None and answer.cut,
                    inner=answer.inner if answer is not None else (),
                )
            )


def _kind(node: NodeRecord) -> tuple[object, ...]:
    """Equal for nodes that differ in values only."""
    arguments: list[object] = []
    for op in node.ops if node.role != "function" else ():
        arguments.append(op.name)
        arguments.append(_plain((op.args, tuple(sorted(op.kwargs.items())))))
    backward = node.function.backward if node.function is not None else None
    described = tuple("" if ref is None else ref.describe() for ref in (*node.inputs, *node.outputs))
    tied = tuple(
        unique_edges(node).index((e.node, e.slot)) if e is not None else -1
        for e in node.edges  # x * x is another thing than x * y
    )
    return node.name, node.role, str(backward), described, tied, repr(arguments)


def _plain(value: object) -> object:
    if isinstance(value, TensorRef):
        return value.describe(), value.requires_grad
    if isinstance(value, list | tuple):
        return tuple(_plain(item) for item in value)
    return value

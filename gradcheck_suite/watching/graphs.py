"""What backwards do to graphs: which were freed or kept, what was saved and overwritten, and the rules about it."""

from __future__ import annotations

import re
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..evidence import Finding, Location, OpRecord, TensorRef
from ..rules.inplace_saved import InplaceSaved
from ..rules.needless_retain_graph import NeedlessRetainGraph
from ..rules.second_backward import SecondBackward
from ..rules.softmax_into_cross_entropy import SoftmaxIntoCrossEntropy
from .collector import Collector
from .recorder import WatchingRecorder

__all__ = ["BackwardRun", "Graphs", "every_node"]

AccumulateGrad: Any = torch._C._functions.AccumulateGrad

_FREED = re.compile(r"Trying to backward through the graph a second time")
_OVERWRITTEN = re.compile(
    r"modified by an inplace operation.*is at version (\d+); expected version (\d+)", re.DOTALL
)
_RESHAPES = re.compile(
    r"(View|UnsafeView|ReshapeAlias|Transpose|T|Permute|Squeeze|Unsqueeze|Clone|ToCopy|Alias)Backward\d"
)
_LogSoftmax = torch._C._functions.LogSoftmaxBackward0  # type: ignore[attr-defined]
_MOST_SITES = 500
_LATEST = 4


@dataclass(eq=False)
class BackwardRun:
    """One run of autograd's engine.

    Attributes:
        reused: a later backward ran over a part of its graph.
        iteration: how many steps, updates or zeroings lay between this backward and the session's first.
        since: the iteration of the oldest backward whose graph this one reaches back to.
    """

    number: int
    location: Location | None
    reused: bool = False
    iteration: int = 0
    since: int = 0


@dataclass(eq=False, slots=True)
class _Site:
    """A line that runs backwards with ``retain_graph=True``."""

    count: int = 0
    reused: bool = False
    latest: deque[tuple[BackwardRun, weakref.ref[torch.Tensor]]] = field(
        default_factory=lambda: deque(maxlen=_LATEST)
    )


class Graphs:
    """Follows every backward of the watched thread through the graph that it runs over."""

    def __init__(self, recorder: WatchingRecorder, findings: Collector) -> None:
        self._recorder = recorder
        self._findings = findings
        # On the node, so that it dies with the graph.
        self._mark = f"gradcheck_suite:{id(self)}:backward"
        self._sites: dict[Location, _Site] = {}

    def before(self, run: BackwardRun, nodes: Sequence[Any]) -> None:
        """A backward over these nodes begins; none of them is a leaf's."""
        mark = self._mark
        for node in nodes:
            earlier = node.metadata.get(mark)
            if earlier is not None:
                earlier.reused = True
                if earlier.since < run.since:
                    run.since = earlier.since
            if type(node) is _LogSoftmax:
                self._look_at_log_softmax(run, node, nodes)

    def after(
        self, run: BackwardRun, nodes: Sequence[Any], root: torch.Tensor, *, retained_by_user: bool
    ) -> None:
        """It has ended without an error."""
        mark = self._mark
        for node in nodes:
            node.metadata[mark] = run
        if retained_by_user and run.location is not None:
            site = self._sites.get(run.location)
            if site is None:
                if len(self._sites) >= _MOST_SITES:
                    return
                site = self._sites[run.location] = _Site()
            site.count += 1
            site.reused = site.reused or any(r.reused for r, _ in site.latest)
            if not site.reused:
                site.latest.append((run, weakref.ref(root)))

    def findings(self) -> list[Finding]:
        """Lines that kept every graph, none of which was used again."""
        found = []
        for location, site in self._sites.items():
            if site.reused or any(run.reused for run, _ in site.latest):
                continue
            # A graph whose loss is still at hand may be run over later.
            at_hand = sum(root() is not None for _, root in site.latest)
            if site.count > at_hand:
                found.append(NeedlessRetainGraph.from_site(location, site.count))
        return found

    # -- a backward that raised ----------------------------------------------------------------------------------

    def explain(
        self, error: RuntimeError, run: BackwardRun, nodes: Sequence[Any], roots: Sequence[Any]
    ) -> Finding | None:
        """What lies behind an error of torch's, with both lines; None if this is not one that is known."""
        text = str(error)
        if _FREED.search(text):
            return self._freed(run, nodes, roots)
        versions = _OVERWRITTEN.search(text)
        if versions:
            return self._overwritten(run, nodes, int(versions[1]) - int(versions[2]))
        return None

    def _freed(self, run: BackwardRun, nodes: Sequence[Any], roots: Sequence[Any]) -> Finding | None:
        # What this run itself has freed before it failed carries no mark.
        culprit = next((n for n in nodes if self.earlier(n) is not None and _saved_error(n, _FREED)), None)
        if culprit is None:
            unseen = SecondBackward.from_graph(location=run.location)
            return self._findings.add(("GC401", run.location, None), run.number, lambda: unseen)
        first = self.earlier(culprit)
        of_roots = {id(root) for root in roots}
        tie = self._tie(nodes, None)
        again = any(id(node) in of_roots and self.earlier(node) is not None for node in nodes)
        tied = None if again or tie is None else self.operation(tie)
        op = self.operation(culprit)
        output = tied.outputs[0] if tied is not None and tied.outputs else None

        def make() -> Finding:
            return SecondBackward.from_graph(
                location=run.location,
                first=None if first is None else first.location,
                op=culprit.name() if op is None else op.name,
                freed=None if op is None else op.location,
                tie=None if tied is None else tied.location,
                tensor=output.describe() if isinstance(output, TensorRef) else "",
                same_graph=again or tie is None,
                module="" if op is None else op.module,
            )

        key = ("GC401", run.location, None if tied is None else tied.location)
        return self._findings.add(key, run.number, make)

    def _tie(self, nodes: Sequence[Any], run: BackwardRun | None) -> Any:
        """The old end of the edge over which the new graph reaches into an older one."""
        return next(
            (
                parent
                for node in nodes
                if self.earlier(node) is run
                for parent, _ in node.next_functions
                if parent is not None
                and self.earlier(parent) is not run
                and type(parent).__name__ != "AccumulateGrad"
            ),
            None,
        )

    def tied_at(self, nodes: Sequence[Any]) -> OpRecord | None:
        """The operation whose result ties a graph that no backward has run over to one that some backward has."""
        tie = self._tie(nodes, None)
        return None if tie is None else self.operation(tie)

    def _overwritten(self, run: BackwardRun, nodes: Sequence[Any], writes: int) -> Finding | None:
        culprit = next((node for node in nodes if _saved_error(node, _OVERWRITTEN)), None)
        if culprit is None:
            return None
        origin = self._recorder.origin_of(culprit)
        saver = origin.ops[-1] if origin is not None and origin.ops else None
        function = None if origin is None else origin.function
        saved_at = function.location if function is not None else None if saver is None else saver.location
        name = function.name if function is not None else culprit.name() if saver is None else saver.name
        newest: dict[int, TensorRef] = {}
        for ref in _refs(
            [(*op.args, *op.kwargs.values(), op.outputs) for op in origin.ops] if origin else ()
        ):
            # What the operation itself wrote, it saved afterwards.
            if ref.storage not in newest or ref.epoch > newest[ref.storage].epoch:
                newest[ref.storage] = ref
        write, tensor = None, ""
        for ref in newest.values():
            found = self._recorder.first_write_after(ref.storage, ref.epoch)
            if found is not None and (write is None or found.epoch < write.epoch):
                write, tensor = found, ref.describe()
        key = ("GC201", saved_at, None if write is None else write.location)

        def make() -> Finding:
            return InplaceSaved.from_lines(
                saver=name,
                saved=saved_at,
                writer="" if write is None else write.op,
                written=None if write is None else write.location,
                backward=run.location,
                tensor=tensor,
                writes=writes,
                module="" if write is None else write.module,
            )

        return self._findings.add(key, run.number, make)

    def earlier(self, node: Any) -> BackwardRun | None:
        """The latest backward that has run over a node."""
        if type(node).__name__ == "AccumulateGrad":
            return None
        run: BackwardRun | None = node.metadata.get(self._mark)
        return run

    def operation(self, node: Any) -> OpRecord | None:
        """What a node differentiates, if it was recorded."""
        origin = self._recorder.origin_of(node)
        return origin.ops[-1] if origin is not None and origin.ops else None

    # -- what goes into cross_entropy ----------------------------------------------------------------------------

    def _look_at_log_softmax(self, run: BackwardRun, node: Any, nodes: Sequence[Any]) -> None:
        below = node.next_functions[0][0]
        while below is not None and _RESHAPES.fullmatch(type(below).__name__):
            below = below.next_functions[0][0]
        if below is None or type(below).__name__ != "SoftmaxBackward0":
            return
        if not _feeds_a_loss(node, nodes):
            return
        loss, softmax = self.operation(node), self.operation(below)
        if loss is None or softmax is None or _classes(loss) != _classes(softmax):
            return

        def make() -> Finding:
            return SoftmaxIntoCrossEntropy.from_lines(
                loss=loss.location,
                softmax=softmax.location,
                softmax_module=softmax.module,
                module=loss.module,
                classes=_classes(loss) or 0,
            )

        self._findings.add(("GC701", loss.location), run.number, make)


def every_node(roots: Sequence[Any]) -> list[Any]:
    """Every autograd node reachable from ``roots``, each once, as :func:`gradcheck_suite.capture.graph.walk` has it."""
    waiting = [node for node in roots if node is not None]
    nodes: list[Any] = []
    # The nodes are alive in the list, so that none has another's id.
    seen: set[int] = set()
    while waiting:
        node = waiting.pop()
        number = id(node)
        if number not in seen:
            seen.add(number)
            nodes.append(node)
            if type(node) is not AccumulateGrad:
                for parent, _ in node.next_functions:
                    if parent is not None:
                        waiting.append(parent)
    return nodes


def _classes(op: OpRecord) -> int | None:
    """How many entries an operation of the softmax family normalises over."""
    tensor, dim = op.args[0], op.args[1] if len(op.args) > 1 else op.kwargs.get("dim")
    if not isinstance(tensor, TensorRef) or not isinstance(dim, int) or not tensor.shape:
        return None
    return tensor.shape[dim]


def _feeds_a_loss(node: Any, nodes: Sequence[Any]) -> bool:
    """Whether log-probabilities go straight into a negative log-likelihood or are weighted with soft targets."""
    consumers = {
        type(other).__name__ for other in nodes for parent, _ in other.next_functions if parent is node
    }
    return any(re.match(r"(NllLoss|Mul)", name) for name in consumers)


def _saved_error(node: Any, wanted: re.Pattern[str]) -> bool:
    """Whether reading one of the tensors that a node has saved raises the error in question."""
    names = [name for name in dir(node) if name.startswith("_saved_")]
    if isinstance(node, torch.autograd.function.BackwardCFunction):
        names.append("saved_tensors")
    for name in names:
        try:
            getattr(node, name)
        except RuntimeError as error:
            if wanted.search(str(error)):
                return True
    return False


def _refs(values: Any) -> list[TensorRef]:
    found: list[TensorRef] = []
    for value in values:
        if isinstance(value, TensorRef):
            found.append(value)
        elif isinstance(value, list | tuple):
            found.extend(_refs(value))
    return found

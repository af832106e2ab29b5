"""The report: everything a check found out, as plain data.

Output formats live in ``gradcheck_suite.report`` and announce themselves with :func:`register_format`, so that
this layer needs none of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import GradientError
from .finding import Finding, Location, Severity
from .verdict import Outcome, Testimony

__all__ = [
    "SCHEMA_VERSION",
    "GradientVerdict",
    "GraphEdge",
    "GraphNode",
    "NodeVerdict",
    "Report",
    "Supplement",
    "Unverified",
    "register_format",
]

SCHEMA_VERSION = 1

_WRITERS: dict[str, Callable[[Report], str]] = {}


def register_format(suffix: str, writer: Callable[[Report], str]) -> None:
    """Announce the writer of one output format.

    Args:
        suffix: file suffix with its dot, ``".html"``; ``""`` is the plain-text form used by ``str(report)``.
        writer: turns a report into the whole text of the file.

    Raises:
        ValueError: the suffix has another writer already; both are named.
    """
    known = _WRITERS.get(suffix)
    if known is not None and known is not writer:
        raise ValueError(
            f"registering a report format failed: {suffix!r} already belongs to "
            f"{known.__module__}.{known.__qualname__}, refused {writer.__module__}.{writer.__qualname__}."
        )
    _WRITERS[suffix] = writer


@dataclass(frozen=True)
class NodeVerdict:
    """One autograd node: what was found out about its backward.

    Attributes:
        key: the node's key in the graph.
        name: torch's node name, ``"AddmmBackward0"``.
        op: the ATen operation(s) it differentiates, or the Function's class name.
        location: the user's line of the forward operation.
        module: dotted module path.
        outcome: agree only if every gradient it returned agrees.
        how: ``"meaning"`` (our own ATen meaning), ``"decomposition"``, ``"numerical"``, ``"exact"``
            (nothing to compute), or "" when unverified.
        testimonies: one per returned gradient and per check.
        inputs: for each edge a short description, ``"float32[3, 4]"``.
        outputs: likewise for outputs.
        elements: gradient elements compared.
    """

    key: int
    name: str
    op: str
    location: Location | None
    module: str
    outcome: Outcome
    how: str
    testimonies: tuple[Testimony, ...]
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    elements: int = 0


@dataclass(frozen=True)
class GradientVerdict:
    """The gradient of one parameter or input.

    Attributes:
        name: dotted parameter name or ``"inputs[0]"``.
        kind: ``"parameter"``, ``"input"`` or ``"other"`` (a leaf the model reached by itself).
        shape, dtype: of the tensor.
        outcome: proved (agree) when every node and every sum on its paths agrees.
        testimonies: by witness (node-by-node, sums, replay, finite differences).
        scale: largest absolute gradient.
        nodes: how many nodes its gradient passed through.
        error: largest absolute disagreement with the free-running replay, or None.
        reason: why it is inconclusive, or "".
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    dtype: str
    outcome: Outcome
    testimonies: tuple[Testimony, ...] = ()
    scale: float = 0.0
    nodes: int = 0
    error: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Unverified:
    """Something no witness could speak about, and why."""

    subject: str
    reason: str
    count: int = 1


@dataclass(frozen=True)
class Supplement:
    """What one further witness adds to a report.

    Attributes:
        findings, unverified, testimonies, notes: as in :class:`Report`.
        counts: totals by name, added to the report's.
        nodes: verdicts about nodes that the first run did not see.
        gradients: verdicts about leaves that the first run could say nothing of.
    """

    findings: tuple[Finding, ...] = ()
    unverified: tuple[Unverified, ...] = ()
    testimonies: tuple[Testimony, ...] = ()
    notes: tuple[str, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    nodes: tuple[NodeVerdict, ...] = ()
    gradients: tuple[GradientVerdict, ...] = ()


@dataclass(frozen=True)
class GraphNode:
    """A node of the drawn graph.

    ``kind`` is ``"op"``, ``"function"``, ``"leaf"`` or ``"output"``; ``outcome`` colours it.
    """

    key: int
    label: str
    kind: str
    outcome: Outcome
    detail: str = ""
    module: str = ""
    location: Location | None = None


@dataclass(frozen=True)
class GraphEdge:
    """A gradient flows from ``source`` to ``target`` in the backward."""

    source: int
    target: int


@dataclass(frozen=True)
class Report:
    """The result of a check.

    Attributes:
        title: what was checked.
        findings: everything worth saying, most severe first.
        gradients: one verdict per parameter and input.
        nodes: one verdict per autograd node.
        unverified: what no witness could speak about, and why.
        testimonies: statements about the whole model (finite differences, replay).
        graph_nodes, graph_edges: for drawing.
        notes: how inputs were inferred, which loss was used, ...
        environment: versions, device, dtype, seed.
        timings: seconds by stage.
        counts: totals by name (``"backwards"``, ``"nodes"``, ``"elements"``, ``"suppressed"``, ...).
        reproduction: a command or script that repeats the check, or "".
        graph_dot: the torchviz drawing of the autograd graph as DOT source, its nodes named ``n<key>`` after
            :attr:`GraphNode.key`; "" when none was made.
    """

    title: str
    findings: tuple[Finding, ...] = ()
    gradients: tuple[GradientVerdict, ...] = ()
    nodes: tuple[NodeVerdict, ...] = ()
    unverified: tuple[Unverified, ...] = ()
    testimonies: tuple[Testimony, ...] = ()
    graph_nodes: tuple[GraphNode, ...] = ()
    graph_edges: tuple[GraphEdge, ...] = ()
    notes: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    reproduction: str = ""
    graph_dot: str = ""

    @property
    def verified(self) -> tuple[GradientVerdict, ...]:
        """The gradients for which every element was verified."""
        return tuple(g for g in self.gradients if g.outcome is Outcome.AGREE)

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings at or above ERROR."""
        return tuple(f for f in self.findings if f.severity >= Severity.ERROR)

    @property
    def ok(self) -> bool:
        """No finding at or above ERROR, and at least one gradient verified."""
        return not self.errors and bool(self.verified)

    def raise_for_findings(self) -> Report:
        """Return the report if :attr:`ok`; otherwise raise.

        Raises:
            GradientError: with the text report; also when nothing could be verified.
        """
        if self.ok:
            return self
        if self.errors:
            head = f"{self.title}: {len(self.errors)} error-level finding(s)."
        else:
            head = (
                f"{self.title}: nothing was verified. A check that verified no gradient is not a pass; "
                "see the reasons below."
            )
        raise GradientError(f"{head}\n\n{self}", report=self)

    def save(self, path: str | os.PathLike[str]) -> str:
        """Write the report; the suffix chooses the format. Returns the path as a string.

        Raises:
            ValueError: no format is known for the suffix; the known ones are named.
        """
        text = os.fspath(path)
        suffix = os.path.splitext(text)[1].lower()
        writer = _WRITERS.get(suffix) if suffix else None
        if writer is None:
            known = ", ".join(sorted(s for s in _WRITERS if s))
            raise ValueError(
                f"saving the report to {text!r} failed: no format belongs to the suffix {suffix!r}. Use one of {known}."
            )
        folder = os.path.dirname(text)
        if folder:
            os.makedirs(folder, exist_ok=True)
        content = writer(self)
        temporary = f"{text}.tmp"
        with open(temporary, "w", encoding="utf-8", newline="\n") as stream:
            stream.write(content)
        os.replace(temporary, text)
        return text

    def __str__(self) -> str:
        writer = _WRITERS.get("")
        return writer(self) if writer else repr(self)

    def _repr_html_(self) -> str:
        """What notebooks show."""
        writer = _WRITERS.get(".fragment.html")
        return writer(self) if writer else f"<pre>{self}</pre>"

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-compatible data with ``schema_version``; inverse of ``Report.from_dict``."""
        from .serialise import report_to_dict

        return report_to_dict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Report:
        """Rebuild a report from :meth:`to_dict`.

        Raises:
            ValueError: the schema version is unknown, or a field is missing or of the wrong kind.
        """
        from .serialise import report_from_dict

        return report_from_dict(data)

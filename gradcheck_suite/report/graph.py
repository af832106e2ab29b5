"""The autograd graph as inline SVG, each node marked by its verdict.

Colour is left to the page's style sheet (light and dark); the drawing carries a class and a sign per node, so that
it reads without colour too. The layout program's output is not trusted: only known elements and attributes pass.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sysconfig
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from xml.etree import ElementTree

import graphviz
from markupsafe import escape

from ..evidence import GraphNode, Report
from ..wording import plural
from .view import MARKS, node_status, where

__all__ = ["GraphView", "draw", "layout_program"]

_MOST_NODES = (
    400  # beyond it, nodes are drawn by module: a larger picture cannot be read, and layout takes long
)
_LAYOUT_SECONDS = 20.0

# A font whose widths every layout program knows; the page shows its own monospaced one, which is as wide.
_FONT, _MARGIN = "Courier", "0.13,0.06"

_SVG = "{http://www.w3.org/2000/svg}"
_SHAPES = {"polygon", "ellipse", "polyline", "path"}
_PASSED = _SHAPES | {"g", "text", "svg"}
_ATTRIBUTES = {
    "class", "cx", "cy", "d", "font-size", "points", "rx", "ry", "stroke-dasharray", "text-anchor", "transform",
    "viewBox", "x", "y",
}  # fmt: skip
_WORST_FIRST = ("disagree", "inconclusive", "unverified", "agree")
_KIND_NAMES = {"op": "operation", "function": "custom Function", "leaf": "leaf", "output": "output"}


@dataclass(frozen=True)
class GraphView:
    """The drawn graph.

    Attributes:
        svg: markup that is safe to put into a page as it is, or "".
        caption: what is shown, in a sentence.
        problem: why there is no drawing, or "".
        legend: (status, sign, word, how many nodes).
    """

    svg: str = ""
    caption: str = ""
    problem: str = ""
    legend: tuple[tuple[str, str, str, int], ...] = ()


@dataclass
class _Drawn:
    """What the page says about one node of the drawing, by the drawing's node name."""

    status: str
    title: str
    link: str = ""
    kind: str = "op"


@dataclass
class _Plan:
    """DOT source and what its nodes mean."""

    dot: str
    nodes: dict[str, _Drawn] = field(default_factory=dict)
    caption: str = ""


def draw(report: Report, limit: int = _MOST_NODES) -> GraphView:
    """Lay out and colour the graph of a report.

    Args:
        report: its ``graph_dot`` is drawn if given, otherwise its ``graph_nodes`` and ``graph_edges``.
        limit: more nodes than this are drawn by module.
    """
    if not report.graph_nodes:
        return GraphView(problem="No graph was recorded.")
    statuses = _statuses(report)
    if len(report.graph_nodes) > limit:
        plan = _by_module(report, statuses, limit)
    else:
        plan = _coloured(report, statuses) if report.graph_dot else _generated(report, statuses)
    counts = Counter(statuses.values())
    legend = tuple((status, *MARKS[status], counts[status]) for status in MARKS if counts[status])
    svg, problem = _layout(plan.dot)
    if problem:
        return GraphView(caption=plan.caption, problem=problem, legend=legend)
    return GraphView(svg=_clean(svg, plan), caption=plan.caption, legend=legend)


def _statuses(report: Report) -> dict[int, str]:
    known = {node.key: node_status(node) for node in report.nodes}
    return {node.key: known.get(node.key, node.outcome.value) for node in report.graph_nodes}


# ------------------------------------------------------------------------------------------------ DOT source


def _new_graph() -> graphviz.Digraph:
    return graphviz.Digraph(
        graph_attr={"nodesep": "0.25", "ranksep": "0.35", "pad": "0.15"},
        node_attr={"shape": "box", "fontsize": "10", "fontname": _FONT, "margin": _MARGIN, "height": "0.3"},
        edge_attr={"arrowsize": "0.6"},
    )


def _dot_name(key: int) -> str:
    """The node's name in DOT: leaves have negative keys, and a minus sign would need quotes everywhere."""
    return f"n{key}".replace("-", "m")


def _label(text: str) -> str:
    """Text that DOT shows as it is: backslashes are no escapes, and angle brackets no HTML."""
    label: str = graphviz.nohtml(text.replace("\\", "\\\\").replace("\n", "\\n"))
    return label


def _described(node: GraphNode, status: str, has_row: bool) -> _Drawn:
    facts = [
        f"{node.label}: {MARKS[status][1]}",
        _KIND_NAMES.get(node.kind, node.kind),
        node.detail,
        f"in {node.module}" if node.module else "",
        where(node.location),
    ]
    link = f"#node-{node.key}" if has_row else ""
    return _Drawn(status, "\n".join(filter(None, facts)), link, node.kind)


def _all_described(report: Report, statuses: Mapping[int, str]) -> dict[str, _Drawn]:
    rows = {node.key for node in report.nodes}
    return {_dot_name(n.key): _described(n, statuses[n.key], n.key in rows) for n in report.graph_nodes}


def _generated(report: Report, statuses: Mapping[int, str]) -> _Plan:
    """Leaves above, output below, as torchviz draws: edges point the way the forward ran."""
    dot = _new_graph()
    for node in report.graph_nodes:
        lines = [node.label, *([node.detail] if node.kind == "leaf" and node.detail else [])]
        dot.node(_dot_name(node.key), label=_label("\n".join(lines)))
    for edge in report.graph_edges:
        dot.edge(_dot_name(edge.target), _dot_name(edge.source))
    return _Plan(dot.source, _all_described(report, statuses), _caption(len(report.graph_nodes)))


def _coloured(report: Report, statuses: Mapping[int, str]) -> _Plan:
    """The drawing that came with the report; later statements for a node add to the earlier ones."""
    defaults = f'\n\tnode [fontname="{_FONT}", margin="{_MARGIN}"]'
    source = re.sub(
        r"^\s*node \[[^\]]*\];?", lambda m: m[0] + defaults, report.graph_dot, count=1, flags=re.MULTILINE
    )
    body, brace, rest = source.rpartition("}")
    # torchviz asks for a page of 12 inches, which scales the text of larger graphs out of sight.
    dot = f'{body}\tgraph [size="", nodesep="0.25", ranksep="0.35", pad="0.15"]\n{brace}{rest}'
    return _Plan(dot, _all_described(report, statuses), _caption(len(report.graph_nodes)))


def _caption(count: int) -> str:
    return (
        f"{plural(count, 'node')}: parameters and inputs above, the loss below. Gradients flow upwards. "
        "A node leads to its row in the table of nodes."
    )


def _by_module(report: Report, statuses: Mapping[int, str], limit: int) -> _Plan:
    """One box per module, as deep as ``limit`` allows; a box carries the worst verdict inside it."""
    depth, group_of = 1, _grouping(report, 1)
    while True:
        deeper = _grouping(report, depth + 1)
        if len(set(deeper.values())) > limit or deeper == group_of:
            break
        depth, group_of = depth + 1, deeper
    members: dict[str, Counter[str]] = defaultdict(Counter)
    for key, name in group_of.items():
        members[name][statuses[key]] += 1
    dot, drawn = _new_graph(), {}
    ids = {name: f"n{place}" for place, name in enumerate(members)}
    for name, counts in members.items():
        worst = next(status for status in _WORST_FIRST if counts[status])
        content = ", ".join(f"{counts[s]:,} {MARKS[s][1]}" for s in _WORST_FIRST if counts[s])
        title = f"{name or '(outside any module)'}\n{plural(sum(counts.values()), 'node')}: {content}"
        dot.node(ids[name], label=_label(title))
        drawn[ids[name]] = _Drawn(worst, title, kind="module")
    edges = {(group_of.get(e.target), group_of.get(e.source)) for e in report.graph_edges}
    for source, target in sorted((s, t) for s, t in edges if s is not None and t is not None and s != t):
        dot.edge(ids[source], ids[target])
    caption = (
        f"{plural(len(report.graph_nodes), 'node')} are too many to draw one by one: each box is a module and "
        "carries the worst verdict inside it. The table of nodes holds them all."
    )
    return _Plan(dot.source, drawn, caption)


def _grouping(report: Report, depth: int) -> dict[int, str]:
    return {node.key: ".".join(node.module.split(".")[:depth]) for node in report.graph_nodes}


# ------------------------------------------------------------------------------------------------ layout


def layout_program() -> str | None:
    """Path of ``dot`` if installed, else of the program inside the ``graphviz-pure`` wheel, else None.

    The wheel's program lies in the environment's scripts folder, which is not on PATH when the environment is
    used without being activated.
    """
    for name in ("dot", "graphviz-pure"):
        found = shutil.which(name)
        if found:
            return found
    found = shutil.which("graphviz-pure", path=sysconfig.get_path("scripts"))
    if found:
        return found
    try:
        files = metadata.files("graphviz-pure") or []
    except metadata.PackageNotFoundError:
        return None
    for file in files:
        if file.name in ("graphviz-pure", "graphviz-pure.exe"):
            return str(Path(str(file.locate())).resolve())
    return None


def _layout(dot: str) -> tuple[str, str]:
    """(SVG text, reason why there is none)."""
    program = layout_program()
    if program is None:
        return "", (
            "The graph was not drawn: neither Graphviz's `dot` nor the graphviz-pure package is installed. "
            "`pip install graphviz-pure` is enough."
        )
    # The graphviz package can run a program too, but only one called `dot`, and without a time limit.
    try:
        done = subprocess.run(
            [program, "-Tsvg"],
            input=dot,
            capture_output=True,
            encoding="utf-8",
            timeout=_LAYOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "", f"The graph was not drawn: {Path(program).name} took longer than {_LAYOUT_SECONDS:.0f} s."
    except OSError as error:
        return "", f"The graph was not drawn: {program} could not be started ({error})."
    if done.returncode != 0 or "<svg" not in done.stdout:
        reason = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        return "", f"The graph was not drawn: {Path(program).name} failed ({reason[0]})."
    return done.stdout, ""


# ------------------------------------------------------------------------------------------------ SVG


def _clean(svg: str, plan: _Plan) -> str:
    """Inline markup from the layout program's SVG: known elements and attributes, our classes, signs and links."""
    root = ElementTree.fromstring(re.sub(r"^.*?(?=<svg)", "", svg, count=1, flags=re.DOTALL))
    width, height = (_points(root.get(side, "")) for side in ("width", "height"))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="group" aria-label="autograd graph" width="{width:.0f}" '
        f'height="{height:.0f}" viewBox="{escape(root.get("viewBox", ""))}">'
    ]
    for child in root:
        parts.extend(_element(child, plan))
    parts.append("</svg>")
    return "".join(parts)


def _points(text: str) -> float:
    """A length in pixels from Graphviz's points."""
    number = re.match(r"[\d.]+", text)
    return float(number[0]) * 4 / 3 if number else 0.0


def _element(node: ElementTree.Element, plan: _Plan) -> Iterator[str]:
    name = str(node.tag).removeprefix(_SVG)
    if name == "g" and node.get("class") == "node":
        yield from _graph_node(node, plan)
    elif name == "a":
        for child in node:
            yield from _element(child, plan)
    elif name == "polygon" and node.get("stroke") in ("none", "transparent"):
        return  # the page's own background shows through
    elif name in _PASSED:
        yield f"<{name}{_attributes(node)}>"
        yield str(escape(node.text)) if name == "text" and node.text else ""
        for child in node:
            yield from _element(child, plan)
        yield f"</{name}>"


def _attributes(node: ElementTree.Element) -> str:
    return "".join(f' {key}="{escape(value)}"' for key, value in node.attrib.items() if key in _ATTRIBUTES)


def _graph_node(group: ElementTree.Element, plan: _Plan) -> Iterator[str]:
    title = group.find(f"{_SVG}title")
    drawn = plan.nodes.get(title.text or "" if title is not None else "")
    if drawn is None:  # torchviz draws tensors too, which have no verdict
        yield '<g class="node">'
        for child in group:
            yield from _element(child, plan)
        yield "</g>"
        return
    yield f'<g class="node v-{drawn.status} k-{escape(drawn.kind)}">'
    # The text of <title> is both the tooltip and what a screen reader says.
    yield f"<title>{escape(drawn.title)}</title>"
    if drawn.link:
        yield f'<a href="{escape(drawn.link)}">'
    for child in group:
        yield from _element(child, plan)
    corner = _corner(group)
    if corner is not None:
        x, y = corner
        yield (
            f'<circle class="badge" cx="{x:.1f}" cy="{y:.1f}" r="6.5"></circle>'
            f'<text class="sign" x="{x:.1f}" y="{y + 3.2:.1f}" text-anchor="middle" font-size="9">'
            f"{MARKS[drawn.status][0]}</text>"
        )
    if drawn.link:
        yield "</a>"
    yield "</g>"


def _corner(group: ElementTree.Element) -> tuple[float, float] | None:
    """The upper left corner of a node's outline."""
    for shape in group.iter():
        name = str(shape.tag).removeprefix(_SVG)
        if name == "ellipse":
            cx, cy, rx, ry = (float(shape.get(key, "0")) for key in ("cx", "cy", "rx", "ry"))
            return cx - rx * 0.71, cy - ry * 0.71
        if name in ("polygon", "path"):
            numbers = [
                float(n) for n in re.findall(r"-?\d+(?:\.\d+)?", shape.get("points") or shape.get("d") or "")
            ]
            if numbers:
                return min(numbers[0::2]), min(numbers[1::2])
    return None

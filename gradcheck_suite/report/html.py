"""The report as one self-contained HTML page, and as a fragment for notebooks.

The page asks the network for nothing (its own content policy forbids it), works from ``file://``, and holds all of
its content without JavaScript, which only adds zooming and filtering.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import groupby

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from .._version import __version__
from ..evidence import Report
from .graph import draw
from .view import MARKS, FindingView, view_of

__all__ = ["FORMATS", "write_fragment", "write_html"]


def write_html(report: Report) -> str:
    """The text of a ``.html`` file."""
    graph = draw(report)
    view = view_of(report)
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            view=view,
            rules=_by_rule(view.findings),
            graph=graph,
            # Built from known elements and escaped texts only; see graph._clean.
            graph_svg=Markup(graph.svg),
            marks=MARKS,
            version=__version__,
        )
    )


def write_fragment(report: Report) -> str:
    """What a notebook shows: the verdict, the findings and the gradients, without graph or script."""
    view = view_of(report)
    template = _environment().get_template("fragment.html.j2")
    return template.render(view=view, rules=_by_rule(view.findings), marks=MARKS)


def _by_rule(findings: Sequence[FindingView]) -> list[tuple[FindingView, list[FindingView]]]:
    """Findings grouped by rule in the order of their weight; each group with one of them to speak for it."""
    ordered = sorted(findings, key=lambda f: (("error", "warning", "note").index(f.severity), f.code))
    groups = [list(group) for _, group in groupby(ordered, key=lambda f: f.code)]
    return [(group[0], group) for group in groups]


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("gradcheck_suite.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


FORMATS = {".html": write_html, ".fragment.html": write_fragment}

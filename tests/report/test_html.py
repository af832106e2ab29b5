"""The HTML report: one self-contained file that shows everything and executes nothing it was given."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import samples

from gradcheck_suite.evidence import Report
from gradcheck_suite.report.html import write_fragment, write_html

VOID = {"meta", "input", "br", "hr", "img", "link"}


class Outline(HTMLParser):
    """Tags, attributes and visible text; complains about tags that do not match."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.text.append(data)


def outline(html):
    parser = Outline()
    parser.feed(html)
    parser.close()
    assert parser.open == []
    return parser


ALL = [
    samples.failing(),
    samples.passing(),
    samples.passing(30),
    samples.nothing(),
    samples.hostile(),
    Report("t"),
]


@pytest.mark.parametrize("write", [write_html, write_fragment])
@pytest.mark.parametrize("report", ALL, ids=["failing", "passing", "many", "nothing", "hostile", "empty"])
def test_tags_match_and_nothing_comes_from_elsewhere(report, write):
    page = outline(write(report))
    for tag, name, value in page.attributes:
        if name in ("src", "href", "action", "data", "poster", "xlink:href"):
            assert value.startswith("#"), (tag, name, value)
        assert not name.startswith("on")
    assert not {"iframe", "object", "embed", "link", "base", "img"} & set(page.tags)


@pytest.mark.parametrize("write", [write_html, write_fragment])
def test_hostile_names_are_text(write):
    html = write(samples.hostile())
    page = outline(html)
    assert page.tags.count("script") == (1 if write is write_html else 0)
    assert "alert" not in "".join(re.findall(r"<script>.*?</script>", html, re.DOTALL))
    assert samples.HOSTILE in "".join(page.text)


def test_all_content_is_there_without_scripts():
    text = " ".join(" ".join(outline(write_html(samples.failing())).text).split())
    for expected in (
        "FAIL 1 error, 1 warning; 1 of 4 gradients verified",
        "GC101 gradient-mismatch",
        "d loss / d input[2, 7]: autograd 4.1200 engine 6.1800",
        "h = Cube.apply(h)",
        "def backward(ctx, g):",
        "the ratio is 2/3 everywhere",
        "check_gradients(Net())",
        "net.first.weight",
        "aten::solve has no meaning in the engine",
        "torch 2.15.0",
        "gradcheck check model.py:Net --seed 0",
    ):
        assert expected in text


def test_links_lead_somewhere():
    page = outline(write_html(samples.failing()))
    ids = {value for _, name, value in page.attributes if name == "id"}
    links = {value[1:] for _, name, value in page.attributes if name == "href"}
    assert len(links) > 8
    assert links <= ids
    assert len(ids) == len([1 for _, name, _ in page.attributes if name == "id"])


def test_the_page_forbids_itself_the_network():
    assert "default-src 'none'" in write_html(samples.passing())


def test_reader_s_preferences_are_followed():
    html = write_html(samples.passing())
    for expected in ('lang="en"', "prefers-color-scheme: dark", "width=device-width", "max-width: 40rem"):
        assert expected in html


def test_findings_are_grouped_by_rule_errors_first():
    base = samples.failing()
    report = replace(base, findings=(*reversed(base.findings), base.findings[0]))
    html = write_html(report)
    assert html.count("GC101 gradient-mismatch</h3>") == 1
    assert html.index("GC101 gradient-mismatch</h3>") < html.index("GC502 unused-parameter</h3>")
    assert html.count('<article class="finding') == 3


def test_large_reports_stay_small():
    from gradcheck_suite.evidence import GraphNode, Outcome

    nodes = tuple(samples.node(k, "AddBackward0", module=f"net.{k // 40}.{k % 40}") for k in range(1, 3001))
    drawn = tuple(GraphNode(n.key, n.name, "op", Outcome.AGREE, "", n.module) for n in nodes)
    html = write_html(replace(samples.passing(60), nodes=nodes, graph_nodes=drawn, graph_edges=()))
    assert len(html) < 2_000_000
    assert "more nodes are not listed" in html
    assert "too many to draw one by one" in html


def test_notebooks_show_the_fragment():
    assert samples.failing()._repr_html_() == write_fragment(samples.failing())


def test_json_is_strict_and_comes_back(tmp_path):
    path = samples.failing().save(tmp_path / "r.json")
    text = Path(path).read_text(encoding="utf-8")
    assert Report.from_dict(json.loads(text, parse_constant=pytest.fail)) == samples.failing()

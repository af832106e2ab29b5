"""The drawing: every node carries its verdict, whatever draws it, and nothing unsafe passes."""

from __future__ import annotations

import stat
import subprocess
import sys
from dataclasses import replace
from xml.etree import ElementTree

import pytest
import samples

from gradcheck_suite.evidence import GraphEdge, GraphNode, Outcome, Report
from gradcheck_suite.report import graph

SVG = "{http://www.w3.org/2000/svg}"


def nodes_of(svg):
    """Class and sign of every node by the first word of its tooltip."""
    root = ElementTree.fromstring(svg)
    found = {}
    for group in root.iter(f"{SVG}g"):
        if group.get("class", "").startswith("node v-"):
            sign = [t.text for t in group.iter(f"{SVG}text") if t.get("class") == "sign"]
            found[group.find(f"{SVG}title").text.split(":")[0]] = (group.get("class").split()[1], *sign)
    return found


def test_every_node_shows_its_verdict_by_class_and_sign():
    drawn = graph.draw(samples.failing())
    assert drawn.problem == ""
    assert nodes_of(drawn.svg) == {
        "MseLossBackward0": ("v-agree", "✓"),
        "AddmmBackward0": ("v-agree", "✓"),
        "CubeBackward": ("v-disagree", "✗"),
        "SolveBackward0": ("v-unverified", "–"),
        "TanhBackward0": ("v-inconclusive", "?"),
        "AccumulateGrad": ("v-agree", "✓"),
    }
    assert [(status, count) for status, _, _, count in drawn.legend] == [
        ("agree", 3), ("disagree", 1), ("inconclusive", 1), ("unverified", 1),
    ]  # fmt: skip


def test_torchviz_source_is_drawn_and_its_other_nodes_stay():
    dot = """digraph {
	graph [size="12,12"]
	node [align=left fontname=monospace fontsize=10 height=0.2 ranksep=0.1 shape=box style=filled]
	n3 [label=CubeBackward]
	n6 [label="weight
 (8, 8)" fillcolor=lightblue]
	saved [label="x
 (3, 8)" fillcolor=orange]
	saved -> n3 [dir=none]
	n6 -> n3
}
"""
    drawn = graph.draw(replace(samples.failing(), graph_dot=dot))
    assert nodes_of(drawn.svg) == {"CubeBackward": ("v-disagree", "✗"), "AccumulateGrad": ("v-agree", "✓")}
    assert "(3, 8)" in drawn.svg
    assert 'href="#node-3"' in drawn.svg


def test_leaves_have_negative_keys():
    nodes = (GraphNode(-5, "weight", "leaf", Outcome.AGREE), GraphNode(1, "Sum", "op", Outcome.DISAGREE))
    expected = {"weight": ("v-agree", "✓"), "Sum": ("v-disagree", "✗")}
    report = Report("t", graph_nodes=nodes, graph_edges=(GraphEdge(1, -5),))
    assert nodes_of(graph.draw(report).svg) == expected
    assert nodes_of(graph.draw(replace(report, graph_dot="digraph { nm5 -> n1 }")).svg) == expected


def test_real_torchviz_source_is_understood():
    pytest.importorskip("torch")
    torchviz = pytest.importorskip("torchviz")
    import torch

    weight = torch.ones(3, requires_grad=True)
    dot = torchviz.make_dot((weight * 2).sum(), params={"weight": weight}).source
    drawn = graph.draw(replace(samples.failing(), graph_dot=dot))
    assert drawn.problem == ""
    assert "SumBackward0" in drawn.svg


def test_larger_graphs_are_drawn_by_module_with_the_worst_verdict():
    drawn = graph.draw(samples.failing(), limit=3)
    assert "too many to draw one by one" in drawn.caption
    shown = {title.splitlines()[0]: verdict for title, verdict in nodes_of(drawn.svg).items()}
    assert shown == {
        "(outside any module)": ("v-agree", "✓"),
        "net.first": ("v-inconclusive", "?"),
        "net.block.3": ("v-disagree", "✗"),
    }
    assert len(nodes_of(graph.draw(samples.failing(), limit=2).svg)) == 2


def test_hostile_labels_are_text():
    drawn = graph.draw(samples.hostile())
    assert drawn.problem == ""
    assert "<script" not in drawn.svg
    texts = [t.text for t in ElementTree.fromstring(drawn.svg).iter(f"{SVG}text")]
    assert samples.HOSTILE in texts


def test_links_and_scripts_in_the_dot_source_do_not_pass():
    dot = 'digraph { n3 [label="a" URL="javascript:alert(1)" target="_top"] n1 [label="b" tooltip="x"] }'
    svg = graph.draw(replace(samples.failing(), graph_dot=dot)).svg
    assert "javascript" not in svg
    assert "_top" not in svg


@pytest.mark.parametrize(
    "label", ["back\\slash", "a\\nb", '"quoted"', "<b>bold</b>", "umlaut ä", "{x|y}", ""]
)
def test_labels_are_shown_as_they_are(label):
    node = GraphNode(1, label, "op", Outcome.AGREE)
    svg = graph.draw(Report("t", graph_nodes=(node,))).svg
    texts = [t.text or "" for t in ElementTree.fromstring(svg).iter(f"{SVG}text") if t.get("class") != "sign"]
    assert "".join(texts) == label


def test_no_graph_is_said():
    assert graph.draw(Report("t")).problem == "No graph was recorded."


def test_missing_program_is_said(monkeypatch):
    monkeypatch.setattr(graph, "layout_program", lambda: None)
    drawn = graph.draw(samples.failing())
    assert drawn.svg == ""
    assert "pip install graphviz-pure" in drawn.problem
    assert drawn.legend


def test_failing_program_is_said():
    drawn = graph.draw(replace(samples.failing(), graph_dot="digraph { this is -> -> broken }"))
    assert drawn.svg == ""
    assert "syntax error" in drawn.problem


def test_slow_program_is_stopped(monkeypatch, tmp_path):
    program = tmp_path / "dot"
    program.write_text(f"#!{sys.executable}\nimport time\ntime.sleep(30)\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(graph, "layout_program", lambda: str(program))
    monkeypatch.setattr(graph, "_LAYOUT_SECONDS", 0.2)
    assert "took longer" in graph.draw(samples.failing()).problem


def test_program_is_found_without_an_activated_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    program = graph.layout_program()
    assert program is not None
    assert subprocess.run([program, "-V"], capture_output=True, check=False).returncode == 0

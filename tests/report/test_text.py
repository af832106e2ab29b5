"""The text report: what a person reads first."""

from __future__ import annotations

import io

import pytest
import samples
from rich.console import Console

import gradcheck_suite.report
from gradcheck_suite.report.summary import node_status
from gradcheck_suite.report.text import finding_text, print_report, write_text
from gradcheck_suite.report.view import view_of

FINDING = """\
GC101 gradient-mismatch  model.py:31  in net.block.3 (CubeBackward)
  the backward of Cube disagrees with the derivative of its forward
  d loss / d input[2, 7]: autograd 4.1200  engine 6.1800  differences 6.1800
  21 of 24 elements differ, by up to 1/3 of the largest; tolerance 3e-6
  blamed: model.py:31: h = Cube.apply(h)
  backward: model.py:36: def backward(ctx, g):
  hint: the ratio is 2/3 everywhere: a factor is missing in backward (model.py:36)
"""


def test_a_finding_as_a_person_reads_it():
    view = view_of(samples.failing())
    assert finding_text(view.findings[0]) == FINDING
    assert FINDING in str(samples.failing())


@pytest.mark.parametrize(
    ("report", "head"),
    [
        (samples.failing(), "FAIL  net: 1 error, 1 warning; 1 of 4 gradients verified"),
        (samples.passing(), "PASS  mlp: every element of 3 gradients verified"),
        (samples.nothing(), "NOTHING VERIFIED  opaque: 0 of 1 gradient verified; that is not a pass"),
    ],
)
def test_first_line_is_the_verdict(report, head):
    assert str(report).splitlines()[0].startswith(head)


def test_facts_count_what_was_and_was_not_verified():
    text = str(samples.failing())
    assert "1 of 4 verified, 2 wrong, 1 inconclusive" in text
    assert "3 of 6 verified (2 by their meaning in the engine, 1 with nothing to compute)" in text
    assert "1,482 compared one by one" in text
    assert "SolveBackward0 (2 times): aten::solve has no meaning in the engine" in text
    assert "1 finding by ignore" in text
    assert "0.42 s (record 0.10 s, verify 0.31 s)" in text


def test_many_verified_gradients_need_no_table():
    assert "layers.0.weight" in str(samples.passing(3))
    assert "layers.0.weight" not in str(samples.passing(30))


def test_statements_of_one_witness_are_summed_up():
    from dataclasses import replace

    base = samples.failing()
    good = samples.passing().testimonies[0]
    text = str(replace(base, testimonies=(good, *base.testimonies, good)))
    assert "1 of 3 disagree, 2 of 3 agree; worst: 4.1200 instead of 6.1800" in " ".join(text.split())


@pytest.mark.parametrize("width", [40, 60, 100, 200])
def test_lines_keep_to_the_width(width):
    for report in (samples.failing(), samples.passing(30), samples.hostile()):
        assert max(map(len, write_text(report, width).splitlines())) <= width


def test_plain_text_is_ascii_and_without_colour():
    for report in (samples.failing(), samples.passing(), samples.nothing()):
        assert str(report).isascii()
        assert "\x1b" not in str(report)


def test_colour_on_a_terminal_only():
    terminal = Console(file=io.StringIO(), force_terminal=True, color_system="truecolor", width=100)
    print_report(samples.failing(), terminal)
    assert "\x1b[" in terminal.file.getvalue()
    plain = Console(file=io.StringIO(), width=100)
    print_report(samples.failing(), plain)
    assert plain.file.getvalue() == str(samples.failing())


def test_markup_in_names_is_shown_as_it_is():
    from dataclasses import replace

    report = replace(samples.passing(), title="[bold]net[/bold] :smile:")
    assert "[bold]net[/bold] :smile:" in str(report)


def test_unverified_is_told_apart_from_inconclusive():
    assert [node_status(n) for n in samples.failing().nodes] == [
        "agree", "agree", "disagree", "unverified", "inconclusive", "agree",
    ]  # fmt: skip


def test_every_format_is_announced(tmp_path):
    assert set(gradcheck_suite.report.formats()) >= {"", ".txt", ".html", ".json", ".fragment.html"}
    assert samples.passing().save(tmp_path / "deep" / "r.txt").endswith("r.txt")
    with pytest.raises(ValueError, match=r"no format belongs to the suffix '\.pdf'"):
        samples.passing().save(tmp_path / "r.pdf")

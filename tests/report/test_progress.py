"""The progress bar: silent where nobody looks, a line per stage in a log, a bar on a terminal that leaves nothing behind."""

from __future__ import annotations

import io
import sys

import pytest
import torch

from gradcheck_suite import check_gradients
from gradcheck_suite.report.progress import Progress, progress_bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


def stages(stream, wanted):
    with progress_bar(wanted, stream) as shown:
        shown.stage("recording")
        shown.stage("node by node", 3)
        for _ in range(3):
            shown.step()
        return shown


@pytest.mark.parametrize(("stream", "wanted"), [(io.StringIO, None), (io.StringIO, False), (Terminal, False)])
def test_it_is_silent_where_nobody_looks(stream, wanted):
    out = stream()
    assert type(stages(out, wanted)) is Progress
    assert out.getvalue() == ""


def test_a_quick_check_shows_no_bar():
    out = Terminal()
    stages(out, None)
    assert out.getvalue() == ""


def test_a_log_gets_one_line_per_stage():
    out = io.StringIO()
    stages(out, True)
    assert out.getvalue().splitlines() == ["gradcheck: recording", "gradcheck: node by node (3)"]


def test_a_terminal_gets_a_bar_and_its_streams_back(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    out, streams = Terminal(), (sys.stdout, sys.stderr)
    with progress_bar(True, out) as shown:
        shown.stage("node by node", 3)
        shown.step()
    assert "node by node" in out.getvalue()
    assert (sys.stdout, sys.stderr) == streams


def test_a_display_of_the_users_own_comes_first(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    from rich.console import Console
    from rich.live import Live

    console = Console(file=Terminal())
    with Live(console=console), progress_bar(True, Terminal()) as shown:
        shown.stage("node by node", 3)
        shown.step()


def test_a_missing_error_stream_is_no_error(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    with progress_bar(None) as shown:
        shown.stage("recording")


@pytest.mark.parametrize(("wanted", "said"), [(None, False), (False, False), (True, True)])
def test_a_check_tells_its_stages(wanted, said, capsys):
    report = check_gradients(torch.sin, torch.linspace(0, 1, 3), progress=wanted)
    assert report.ok
    told = capsys.readouterr()
    assert told.out == ""
    assert ("gradcheck: node by node (1)" in told.err) is said
    assert ("gradcheck: finite differences" in told.err) is said

"""Takes in the evidence of all tests, once per run, and tells of it: summary, files, exit code."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from .aggregate import RunTotals, run_report, totals
from .baseline import Baseline, Entry, entry_of
from .internal import InternalErrors
from .options import Options
from .summary import Epilogue, write_internal_errors, write_summary
from .transport import WORKER_ERRORS, PhaseEvidence, read

__all__ = ["Collector"]

_REPLACED = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED)
_CRASHED = "???"  # the phase that pytest-xdist gives for a test with which a worker died
_CHOOSING = ("keyword", "markexpr", "deselect", "lf", "stepwise", "continue_on_collection_errors")
"""Options by which a run leaves tests out."""


class Collector:
    """The pytest plugin of the process that reports the run: the only one, or the controller of pytest-xdist."""

    def __init__(self, config: pytest.Config, options: Options, internal: InternalErrors) -> None:
        self._config = config
        self._options = options
        self._internal = internal
        # By test and phase, so that a test which is run again replaces what its earlier run found.
        self._evidence: dict[tuple[str, str], PhaseEvidence] = {}
        self._passed: set[str] = set()
        self._errors: list[str] = []
        self._totals: RunTotals | None = None
        self._epilogue = Epilogue()
        self._session: pytest.Session | None = None

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        with self._internal.guard(f"reading what was found in {report.nodeid}"):
            evidence = read(report)
            if evidence is None:
                if report.when == _CRASHED:
                    self._evidence[report.nodeid, "call"] = PhaseEvidence(skip="its worker crashed")
                return
            if report.when == "setup" and report.skipped and not evidence.tells:
                return  # a test that is left out was not watched
            self._evidence[report.nodeid, report.when or ""] = evidence
            if report.when == "call" and report.passed and not evidence.skip:
                self._passed.add(report.nodeid)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: object) -> None:
        """A worker of pytest-xdist is done (or gone: then there is no output)."""
        output = getattr(node, "workeroutput", None) or {}
        self._errors += output.get(WORKER_ERRORS, ())

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        self._session = session
        with self._internal.guard("summing up the run"):
            self._totals = totals(self._evidence)
            if not self._config.getoption("collectonly"):
                # The baseline first: a file that cannot be written must not keep it from being kept.
                self._keep_baseline(self._totals, session)
                self._write_files(self._totals)
        self._own_up()

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._totals is not None and self._evidence:
            with self._internal.guard("printing the summary"):
                write_summary(terminalreporter, self._totals, self._epilogue)
                self._annotate(terminalreporter, self._totals)
        self._own_up()
        if self._errors:
            write_internal_errors(terminalreporter, self._errors)

    def _own_up(self) -> None:
        """Let the exit code say that something of ours failed, unless it says something graver already."""
        self._errors += self._internal.drain()
        if self._errors and self._session is not None and self._session.exitstatus in _REPLACED:
            self._session.exitstatus = pytest.ExitCode.INTERNAL_ERROR

    def _write_files(self, summed: RunTotals) -> None:
        options = self._options
        files = [path for path in (options.html, options.json) if path is not None]
        if not files and options.sarif is None:
            return
        import gradcheck_suite.report  # noqa: F401  announces the formats to Report.save

        title = f"{self._config.rootpath.name}: pytest --gradcheck"
        arguments = [str(argument) for argument in self._config.invocation_params.args]
        report = run_report(title, self._evidence, summed, arguments)
        for path in files:
            self._wrote(report.save(path))
        if options.sarif is not None:
            from gradcheck_suite.report.sarif import write_sarif

            options.sarif.parent.mkdir(parents=True, exist_ok=True)
            options.sarif.write_text(write_sarif(report, self._config.rootpath), encoding="utf-8")
            self._wrote(str(options.sarif))

    def _wrote(self, path: str) -> None:
        self._epilogue = replace(self._epilogue, written=(*self._epilogue.written, path))

    def _annotate(self, terminal: pytest.TerminalReporter, summed: RunTotals) -> None:
        """Commands for GitHub, whose paths begin at the checkout, which may lie above the root directory."""
        told = [found.finding for found in summed.findings if found.finding.severity.label != "note"]
        if os.environ.get("GITHUB_ACTIONS") != "true" or not told:
            return
        from gradcheck_suite.report.annotations import workflow_commands

        checkout = Path(os.environ.get("GITHUB_WORKSPACE") or self._config.rootpath)
        inside = checkout in (self._config.rootpath, *self._config.rootpath.parents)
        for line in workflow_commands(told, checkout if inside else self._config.rootpath):
            terminal.write_line(line)

    def _keep_baseline(self, summed: RunTotals, session: pytest.Session) -> None:
        path = self._options.baseline
        if path is None:
            return
        # Where the budget may have been spent, nothing follows from what was not found.
        ran = self._passed if self._options.budget is None else set()
        before = Baseline.read(path, missing_is_empty=True)
        if not self._options.update_baseline:
            self._epilogue = replace(self._epilogue, gone=tuple(before.gone(summed.known, ran)))
            return
        found: dict[str, Entry] = {}
        for each in summed.findings:
            if each.finding.severity.label == "note":
                continue
            entry = entry_of(each.finding, self._config.rootpath, each.tests)
            known = found.get(entry.fingerprint)
            tests = {*entry.tests, *(known.tests if known is not None else ())}
            found[entry.fingerprint] = replace(entry, tests=tuple(sorted(tests)))
        after = before.updated(found, ran, complete=self._complete(session))
        after.write(path)
        new, gone = after.entries.keys() - before.entries.keys(), before.entries.keys() - after.entries.keys()
        told = f"baseline: {len(after.entries):,} known, {len(new):,} new, {len(gone):,} gone"
        self._epilogue = replace(self._epilogue, baseline=told)
        self._wrote(str(path))

    def _complete(self, session: pytest.Session) -> bool:
        """Whether the run left no test of the project out."""
        config = self._config
        chosen = any(config.getoption(name, None) for name in _CHOOSING)
        named = config.args_source is pytest.Config.ArgsSource.ARGS
        stopped = bool(session.shouldstop or session.shouldfail) or session.exitstatus not in _REPLACED
        failed = bool(self._errors or self._internal.count)
        left_out = chosen or named or stopped or failed or self._options.budget is not None
        return bool(self._evidence) and not left_out

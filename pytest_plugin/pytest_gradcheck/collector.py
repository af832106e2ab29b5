"""Takes in the evidence of all tests, once per run, and tells of it: summary, files, exit code."""

from __future__ import annotations

import pytest

import gradcheck_suite.report  # noqa: F401  announces the formats to Report.save

from .aggregate import RunTotals, run_report, totals
from .internal import InternalErrors
from .options import Options
from .summary import write_internal_errors, write_summary
from .transport import WORKER_ERRORS, PhaseEvidence, read

__all__ = ["Collector"]

_REPLACED = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED)


class Collector:
    """The pytest plugin of the process that reports the run: the only one, or the controller of pytest-xdist."""

    def __init__(self, config: pytest.Config, options: Options, internal: InternalErrors) -> None:
        self._config = config
        self._options = options
        self._internal = internal
        # By test and phase, so that a test which is run again replaces what its earlier run found.
        self._evidence: dict[tuple[str, str], PhaseEvidence] = {}
        self._errors: list[str] = []
        self._totals: RunTotals | None = None
        self._written: list[str] = []
        self._session: pytest.Session | None = None

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        with self._internal.guard(f"reading what was found in {report.nodeid}"):
            evidence = read(report)
            if evidence is not None:
                self._evidence[report.nodeid, report.when or ""] = evidence

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: object) -> None:
        """A worker of pytest-xdist is done (or gone: then there is no output)."""
        output = getattr(node, "workeroutput", None) or {}
        self._errors += output.get(WORKER_ERRORS, ())

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        self._session = session
        with self._internal.guard("summing up the run"):
            self._totals = totals(self._evidence)
            self._write_files(self._totals)
        self._own_up()

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._totals is not None and self._evidence:
            with self._internal.guard("printing the summary"):
                write_summary(terminalreporter, self._totals, self._options, self._written)
        self._own_up()
        if self._errors:
            write_internal_errors(terminalreporter, self._errors)

    def _own_up(self) -> None:
        """Let the exit code say that something of ours failed, unless it says something graver already."""
        self._errors += self._internal.drain()
        if self._errors and self._session is not None and self._session.exitstatus in _REPLACED:
            self._session.exitstatus = pytest.ExitCode.INTERNAL_ERROR

    def _write_files(self, summed: RunTotals) -> None:
        files = [path for path in (self._options.html, self._options.json) if path is not None]
        if not files or self._config.getoption("collectonly"):
            return
        title = f"{self._config.rootpath.name}: pytest --gradcheck"
        arguments = [str(argument) for argument in self._config.invocation_params.args]
        report = run_report(title, self._evidence, summed, arguments)
        for path in files:
            self._written.append(report.save(path))

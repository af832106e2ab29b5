"""Runs set-up and call of every test watched, and lets the test fail if a finding says so."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import pytest

from gradcheck_suite.errors import GradientError
from gradcheck_suite.evidence import Finding, Report

from .collector import Collector
from .failure import add_findings, as_failure, failure_message
from .internal import InternalErrors
from .marker import Wishes, wishes_of
from .options import Options, read_options
from .phase import LedgerKeeper, WatchedPhase
from .transport import WORKER_ERRORS, PhaseEvidence, attach

__all__ = ["Watcher", "activate", "describe", "watcher_of"]

_WATCHER = pytest.StashKey["Watcher"]()


def activate(config: pytest.Config) -> None:
    """Switch the plugin on: a watcher where tests run, a collector where the run is reported.

    Raises:
        pytest.UsageError: a setting is not understood.
    """
    options = read_options(config)
    watcher = Watcher(config, options)
    config.stash[_WATCHER] = watcher
    config.pluginmanager.register(watcher, "gradcheck-watcher")
    if not hasattr(config, "workerinput"):  # a worker of pytest-xdist reports to its controller
        config.pluginmanager.register(Collector(config, options, watcher.internal), "gradcheck-collector")


def describe(config: pytest.Config) -> str:
    """One line for the head of pytest's output."""
    threshold = config.stash[_WATCHER].options.threshold
    fails = f"a finding from {threshold.label} up fails its test" if threshold else "no finding fails a test"
    return f"gradcheck: every backward is verified, {fails}"


def watcher_of(config: pytest.Config) -> Watcher | None:
    """The watcher, if ``--gradcheck`` was given."""
    return config.stash.get(_WATCHER, None)


@dataclass
class _Running:
    """The test that runs now.

    Attributes:
        wishes: of its markers.
        mistake: what is wrong with its markers, or "".
        checks: reports that the ``gradcheck`` fixture asserted in the phase that runs.
        interrupted: reports of the fixture's watched blocks that raised.
        evidence: of phases that have ended and are not attached to pytest's report yet, by name of the phase.
        findings: what its phases found and no phase has answered for yet; the call answers for the set-up.
        raised: the error by which a phase answered.
    """

    wishes: Wishes
    mistake: str = ""
    checks: list[Report] = field(default_factory=list)
    interrupted: list[Report] = field(default_factory=list)
    evidence: dict[str, PhaseEvidence] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    raised: GradientError | None = None


_RUNNING = pytest.StashKey[_Running]()


class Watcher:
    """The pytest plugin of a process that runs tests."""

    def __init__(self, config: pytest.Config, options: Options) -> None:
        self.options = options
        self.internal = InternalErrors()
        self._config = config
        self._worker: str = getattr(config, "workerinput", {}).get("workerid", "")
        self._ledgers = LedgerKeeper()
        self._running: _Running | None = None

    def add_check(self, report: Report) -> None:
        """Take in what a check of the ``gradcheck`` fixture asserted, for the summary and the files."""
        if self._running is not None:
            self._running.checks.append(report)

    def add_watched(self, report: Report) -> None:
        """Take in what nobody asserted, since the block that was watched raised: the test answers for it."""
        if self._running is not None:
            self._running.interrupted.append(report)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Read every marker before a test runs: a misspelt one is a usage error, not a rule that still fires."""
        for item in items:
            try:
                item.stash[_RUNNING] = _Running(wishes_of(item))
            except pytest.UsageError as error:
                if not self._worker:
                    raise
                # A usage error in a worker of pytest-xdist ends the run without saying why; so its test will say it.
                item.stash[_RUNNING] = _Running(Wishes(), mistake=str(error))

    # Innermost of all wrappers: what pytest and other plugins do around a test is none of its gradients.
    # The tear-down is not watched: a fixture may leave a torch mode there that it entered before, and torch leaves the
    # innermost mode, which would be the watcher's.

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, object, object]:
        running = item.stash.setdefault(_RUNNING, _Running(Wishes()))
        running.evidence, running.findings = {}, []  # of an earlier run, when a test is run again
        if running.mistake:
            pytest.fail(running.mistake, pytrace=False)
        with self._watched(item, running, "setup"):
            return (yield)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        __tracebackhide__ = True
        running = item.stash[_RUNNING]
        with self._watched(item, running, "call"):
            result = yield
        self._answer(item, running)
        return result

    # Outermost: skips, expected failures and unittest have had their say about the outcome.

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        running = item.stash.get(_RUNNING, None)
        # The tear-down has none. A subtest is reported while its test still runs, before there is any evidence.
        evidence = running.evidence.pop(call.when, None) if running is not None else None
        if running is None or evidence is None:
            return report
        with self.internal.guard(f"showing what was found in {item.nodeid}"):
            self._show(report, running, call, item)
        with self.internal.guard(f"packing what was found in {item.nodeid}"):
            attach(evidence, report)
        return report

    def pytest_sessionfinish(self) -> None:
        output = getattr(self._config, "workeroutput", None)
        if output is not None:
            output[WORKER_ERRORS] = list(self.internal.drain())

    @contextmanager
    def _watched(self, item: pytest.Item, running: _Running, when: str) -> Iterator[None]:
        """Watch the block and keep what it brought to light; what it raises goes through."""
        if running.wishes.skip:
            running.evidence[when] = PhaseEvidence(skip=running.wishes.skip)
            yield
            return
        self._running, running.checks, running.interrupted = running, [], []
        ignore = self.options.ignore | running.wishes.ignore
        phase = WatchedPhase(item.nodeid, ignore, self._ledgers, self.internal)
        with self.internal.guard(f"beginning to watch {item.nodeid}"):
            phase.open()
        error: BaseException | None = None
        try:
            yield
        except BaseException as caught:
            error = caught
            raise
        finally:
            self._running = None
            reports: list[Report] = []
            with self.internal.guard(f"ending to watch {item.nodeid}"):
                report = phase.close(error)
                reports = [self._wanted(r) for r in (report, *running.interrupted) if r is not None]
            running.findings += [f for r in reports for f in r.findings]
            reports += [self._wanted(check) for check in running.checks if _stands(check, error)]
            running.evidence[when] = PhaseEvidence(tuple(reports), worker=self._worker)

    def _answer(self, item: pytest.Item, running: _Running) -> None:
        """Let the phase fail by what was found; a phase that failed by itself does not get here."""
        __tracebackhide__ = True
        failing = tuple(f for f in running.findings if self.options.fails(f))
        if failing:
            running.raised = GradientError(
                failure_message(failing), report=Report(item.nodeid, findings=failing)
            )
            raise running.raised

    def _wanted(self, report: Report) -> Report:
        return replace(report, findings=tuple(f for f in report.findings if self.options.selected(f)))

    def _show(
        self, report: pytest.TestReport, running: _Running, call: pytest.CallInfo[None], item: pytest.Item
    ) -> None:
        style = self._config.getoption("tbstyle", "auto")
        error = call.excinfo.value if call.excinfo is not None else None
        if running.raised is not None and error is running.raised:
            failing = [f for f in running.findings if self.options.fails(f)]
            report.longrepr = as_failure(failing, item, style)
        elif report.failed:
            add_findings(report, running.findings, style)


def _stands(check: Report, error: BaseException | None) -> bool:
    """Whether a check of the fixture counts: not if the test expected its error and caught it."""
    return check.ok or (isinstance(error, GradientError) and error.report is check)

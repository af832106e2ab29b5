"""Runs set-up and call of every test watched, and lets the test fail if a finding says so."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from gradcheck_suite.errors import ConfigurationError, GradientError

from .calls import prepared_call
from .collector import Collector
from .internal import InternalErrors
from .judgement import Aside, Judge
from .marker import Wishes, wishes_of
from .models import ModelItem, collect_models
from .options import Options, read_options
from .phase import LedgerKeeper, WatchedPhase
from .properties import note_properties
from .transport import WORKER_ERRORS, PhaseEvidence, attach, says_something

if TYPE_CHECKING:
    from gradcheck_suite.evidence import Finding, Report
    from gradcheck_suite.watching import Session

__all__ = ["Watcher", "activate", "describe", "watcher_of"]

_WATCHER = pytest.StashKey["Watcher"]()

_MEASURING = {"benchmark": "pytest_benchmark", "latency": "pytest_torch", "perf_baseline": "pytest_torch"}
"""Fixtures that measure time, and the package of each: what is watched is slower."""


def activate(config: pytest.Config) -> None:
    """Switch the plugin on: a watcher where tests run, a collector where the run is reported.

    Raises:
        pytest.UsageError: a setting is not understood.
    """
    options = read_options(config)
    try:
        watcher = Watcher(config, options)
    except ConfigurationError as error:
        raise pytest.UsageError(str(error)) from error
    config.stash[_WATCHER] = watcher
    config.pluginmanager.register(watcher, "gradcheck-watcher")
    if not hasattr(config, "workerinput"):  # a worker of pytest-xdist reports to its controller
        config.pluginmanager.register(Collector(config, options, watcher.internal), "gradcheck-collector")


def describe(config: pytest.Config) -> str:
    """One line for the head of pytest's output."""
    options = config.stash[_WATCHER].options
    if options.update_baseline:
        fails = "what is found becomes the baseline"
    elif options.fail_on == "never":
        fails = "no finding fails a test"
    else:
        new = "new " if options.baseline is not None else ""
        fails = f"a {new}finding from {options.fail_on} up fails its test"
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
        answered: reports that nobody asserted, for which the test answers.
        evidence: of phases that have ended and are not attached to pytest's report yet, by name of the phase.
        findings: what its phases found and no phase has answered for yet; the call answers for the set-up.
        occurred: codes of all findings that were made, also of those that fail nothing.
        blind: whether something of it could not be looked at, so that nothing follows from what was not found.
        raised: the error by which a phase answered.
    """

    wishes: Wishes
    mistake: str = ""
    checks: list[Report] = field(default_factory=list)
    answered: list[Report] = field(default_factory=list)
    evidence: dict[str, PhaseEvidence] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    occurred: set[str] = field(default_factory=set)
    blind: bool = False
    raised: GradientError | None = None


_RUNNING = pytest.StashKey[_Running]()


class Watcher:
    """The pytest plugin of a process that runs tests."""

    def __init__(self, config: pytest.Config, options: Options) -> None:
        self.options = options
        self.internal = InternalErrors()
        self._config = config
        self._worker: str = getattr(config, "workerinput", {}).get("workerid", "")
        self._ledgers = LedgerKeeper(options.budget)
        self._judge = Judge(options, config.rootpath)
        self._running: _Running | None = None

    @property
    def wishes(self) -> Wishes:
        """Of the test that runs now."""
        return self._running.wishes if self._running is not None else Wishes()

    @property
    def budget_left(self) -> float | None:
        """Seconds that a check may still take, or None for no limit; never 0, which a check would refuse."""
        left = self._ledgers.left
        return None if left is None else max(left, 0.001)

    def add_check(self, report: Report) -> None:
        """Take in what a check of the ``gradcheck`` fixture asserted, for the summary and the files."""
        if self._running is not None:
            self._running.checks.append(report)

    def add_watched(self, report: Report) -> None:
        """Take in what nobody asserted, since the block that was watched raised: the test answers for it."""
        if self._running is not None:
            self._running.answered.append(report)

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, session: pytest.Session, items: list[pytest.Item]) -> None:
        """Add the models, before other plugins choose among the tests, and read every marker before a test runs.

        A misspelt marker is a usage error, not a rule that still fires.
        """
        items += collect_models(session, self.options)
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
        # Of an earlier run, when a test is run again.
        running.evidence, running.findings, running.occurred, running.blind = {}, [], set(), False
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
            if self._config.getoption("xmlpath", None):
                note_properties(item, call.when, evidence, self._config.rootpath)
        return report

    def pytest_sessionfinish(self) -> None:
        output = getattr(self._config, "workeroutput", None)
        if output is not None:
            output[WORKER_ERRORS] = list(self.internal.drain())

    @contextmanager
    def _watched(self, item: pytest.Item, running: _Running, when: str) -> Iterator[None]:
        """Watch the block and keep what it brought to light; what it raises goes through."""
        skip = f"marked skip: {running.wishes.skip}" if running.wishes.skip else _measures(item, when)
        if skip:
            running.blind = True
            running.evidence[when] = PhaseEvidence(skip=skip)
            yield
            return
        self._running, running.checks, running.answered = running, [], []
        ignore = self.options.ignore | running.wishes.ignore
        phase = WatchedPhase(item.nodeid, ignore, self._ledgers, self.internal)
        errors = self.internal.count
        if isinstance(item, ModelItem):  # a check looks for itself
            item.checked, item.budget = self.add_watched, self.budget_left
        else:
            with self.internal.guard(f"beginning to watch {item.nodeid}"):
                phase.open()
        call = ExitStack()
        if when == "call":
            with self.internal.guard(f"preparing the call of {item.nodeid}"):
                call.enter_context(prepared_call(item, phase, self._failing, _raise))
        error: BaseException | None = None
        try:
            yield
        except BaseException as caught:
            error = caught
            raise
        finally:
            with self.internal.guard(f"leaving the call of {item.nodeid}"):
                call.close()
            self._running = None
            with self.internal.guard(f"ending to watch {item.nodeid}"):
                self._end(running, phase, when, error)
            running.blind |= not phase.verifies or self.internal.count > errors

    def _end(self, running: _Running, phase: WatchedPhase, when: str, error: BaseException | None) -> None:
        aside = Aside()
        # Present whatever happens below: the test was watched.
        running.evidence[when] = PhaseEvidence(worker=self._worker)
        watched = phase.close(error)
        checks = [check for check in running.checks if self._stands(check, running.wishes, error)]
        for check in (*running.checks, *running.answered):
            self._ledgers.spend(sum(spent for name, spent in check.timings.items() if name != "total"))
        found = [r for r in (watched, *running.answered, *checks) if r is not None]
        running.occurred.update(f.code for r in (*found, *running.checks) for f in r.findings)

        def sort(report: Report) -> Report:
            return self._judge.sort(report, running.wishes, passed=error is None, aside=aside)

        reports = [sort(report) for report in (watched, *running.answered) if report is not None]
        running.findings += [f for report in reports for f in report.findings]
        reports += [sort(check) for check in checks]
        running.evidence[when] = PhaseEvidence(
            tuple(filter(says_something, reports)),
            worker=self._worker,
            expected=aside.expected,
            known=aside.known,
        )

    def asserted(self, report: Report) -> Report:
        """What of a check's report the test that runs now has to answer for."""
        return self._judge.sort(report, self.wishes, passed=True, aside=Aside())

    def _stands(self, check: Report, wishes: Wishes, error: BaseException | None) -> bool:
        """Whether a check of the fixture counts: not if the test expected its error and caught it."""
        judged = self._judge.sort(check, wishes, passed=True, aside=Aside())
        return judged.ok or (isinstance(error, GradientError) and error.report is check)

    def _failing(self, session: Session) -> list[Finding]:
        """What of the findings of one Hypothesis example, or of all so far, fails it."""
        ignore = self.wishes.ignore | self.options.ignore
        with self.internal.guard("looking at an example"):
            found = self.asserted(session.report).findings
            return [f for f in found if self.options.fails(f) and f.code not in ignore]
        return []

    def _answer(self, item: pytest.Item, running: _Running) -> None:
        """Let the phase fail by what was found; a phase that failed by itself does not get here."""
        __tracebackhide__ = True
        failing = [f for f in running.findings if self.options.fails(f)]
        if failing:
            running.raised = _error(failing, item.nodeid)
            raise running.raised
        missing = [] if running.blind else self._judge.missing(running.wishes, sorted(running.occurred))
        if missing:
            _fail_for_missing(missing, running.occurred)

    def _show(
        self, report: pytest.TestReport, running: _Running, call: pytest.CallInfo[None], item: pytest.Item
    ) -> None:
        if not running.findings:
            return
        from .failure import add_findings, as_failure

        style = self._config.getoption("tbstyle", "auto")
        error = call.excinfo.value if call.excinfo is not None else None
        if running.raised is not None and error is running.raised:
            failing = [f for f in running.findings if self.options.fails(f)]
            report.longrepr = as_failure(failing, item, style)
        elif report.failed:
            add_findings(report, running.findings, style)


def _error(failing: Sequence[Finding], title: str) -> GradientError:
    from gradcheck_suite.evidence import Report

    from .failure import failure_message

    return GradientError(failure_message(failing), report=Report(title, findings=tuple(failing)))


def _raise(failing: Sequence[Finding]) -> None:
    __tracebackhide__ = True
    if failing:
        raise _error(failing, "one example")


def _fail_for_missing(missing: Sequence[str], occurred: Iterable[str]) -> None:
    # Not hidden from tracebacks: pytest remarks on a failure all of whose frames are.
    found = ", ".join(sorted(occurred)) or "nothing"
    pytest.fail(
        f"gradcheck: {', '.join(missing)} was expected here and not found (found: {found}). "
        "If the fault is mended, take it out of expect=[...] of the gradcheck marker.",
        pytrace=False,
    )


def _measures(item: pytest.Item, when: str) -> str:
    """Why the call of a test must not be watched, or ""."""
    if when != "call":
        return ""
    names = set(getattr(item, "fixturenames", ())) & set(_MEASURING)
    definitions = getattr(getattr(item, "_fixtureinfo", None), "name2fixturedefs", {})
    for name in sorted(names):
        functions = [definition.func for definition in definitions.get(name, ())]
        if any(function.__module__.startswith(_MEASURING[name]) for function in functions):
            return f"the fixture {name} measures how long it takes"
    return ""

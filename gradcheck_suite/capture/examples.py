"""Many inputs instead of one: a check at every example of a Hypothesis strategy, shrunk to the smallest that fails.

Every example gets the whole check, nothing less: a small one costs about ten milliseconds, and so no detection is lost
to economy. Hypothesis is imported when a strategy was given, never before.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import ConfigurationError, GradcheckError, InputError, NothingToVerifyError
from ..evidence import Finding, Outcome, Report, Unverified
from .inputs import as_tensors, is_strategy
from .outputs import describe
from .spelling import MOST_ELEMENTS, expression, script, tensors_in

__all__ = ["check_examples", "holds_strategy"]

Check = Callable[[Any, dict[str, Any], "float | None"], Report]
"""``(inputs, kwargs, budget) -> report``: the whole check of one example."""

_LONGEST_LINE = 240  # of an input in a note; the script has it whole


def holds_strategy(inputs: Any, kwargs: Mapping[str, Any] | None) -> bool:
    """Whether inputs or keyword arguments contain a Hypothesis strategy, at any depth of tuples, lists and dicts."""
    return any(_holds(value) for value in (inputs, *(kwargs or {}).values()))


def _holds(value: Any) -> bool:
    if is_strategy(value):
        return True
    if type(value) is dict:
        return any(_holds(item) for item in value.values())
    return type(value) in (tuple, list) and any(_holds(item) for item in value)


@dataclass
class _Verdict:
    """What came of one example: a report, or the error instead of one."""

    inputs: Any
    kwargs: dict[str, Any]
    report: Report | None
    error: GradcheckError | None

    @property
    def key(self) -> tuple[Any, ...]:
        """What fails; () if nothing does. Shrinking keeps to one key, so that it cannot slip to another fault."""
        if self.report is not None:
            worst = self.report.errors
            return (worst[0].code, str(worst[0].location)) if worst else ()
        if self.error is None or isinstance(self.error, NothingToVerifyError):
            return ()
        return (type(self.error).__name__, type(self.error.__cause__).__name__)


class _BudgetSpent(BaseException):
    """Nothing more is to be tried. No ``Exception``: Hypothesis lets it pass, and so its search ends."""


class _FailedError(Exception):
    """Carries a failing verdict through Hypothesis."""

    def __init__(self, verdict: _Verdict) -> None:
        super().__init__("an example failed")
        self.verdict = verdict


@dataclass
class _Run:
    """All examples of one call."""

    check: Check
    model: Callable[..., Any]
    deadline: float | None
    tried: int = 0
    first_failed: int | None = None
    verdicts: dict[str, _Verdict] = field(default_factory=dict)
    kinds: dict[tuple[Any, ...], type[_FailedError]] = field(default_factory=dict)
    last_failed: _Verdict | None = None

    def verdict(self, inputs: Any, kwargs: dict[str, Any]) -> _Verdict:
        """That of an example.

        Raises:
            _BudgetSpent: there is no time for it.
        """
        if self.first_failed is None:
            self.tried += 1
        size = sum(tensor.numel() for tensor in tensors_in((inputs, kwargs)))
        key = expression((inputs, kwargs)) if size <= MOST_ELEMENTS else ""
        known = self.verdicts.get(key)
        if known is not None:
            return known
        left = None if self.deadline is None else self.deadline - time.monotonic()
        if left is not None and left <= 0:
            raise _BudgetSpent
        report: Report | None = None
        error: GradcheckError | None = None
        try:
            report = self.check(inputs, kwargs, left)
        except GradcheckError as raised:
            error = raised
        found = _Verdict(inputs, kwargs, report, error)
        if key:
            self.verdicts[key] = found
        else:
            self.verdicts[f"large {len(self.verdicts)}"] = found
        return found

    def judge(self, inputs: Any, kwargs: dict[str, Any]) -> None:
        """Check one example.

        Raises:
            _FailedError: it fails; of a class of its own for each fault, by which Hypothesis tells faults apart.
        """
        from hypothesis.errors import UnsatisfiedAssumption

        verdict = self.verdict(inputs, kwargs)
        if verdict.error is not None and isinstance(verdict.error.__cause__, UnsatisfiedAssumption):
            raise verdict.error.__cause__  # hypothesis.assume() inside the function
        key = verdict.key
        if not key:
            return
        if self.first_failed is None:
            self.first_failed = self.tried
        self.last_failed = verdict
        kind = self.kinds.setdefault(key, type("_FailedError", (_FailedError,), {}))
        raise kind(verdict)


def check_examples(
    check: Check,
    model: Callable[..., Any],
    inputs: Any,
    kwargs: Mapping[str, Any] | None,
    *,
    max_examples: int,
    seed: int,
    budget: float | None,
) -> Report:
    """The report of the smallest failing example, or one report over all examples.

    Args:
        check: the whole check of one example.
        model: what is checked, for the script of reproduction and for the dtype of drawn NumPy arrays.
        inputs, kwargs: a strategy, or tuples, lists and dicts that hold some.
        max_examples: how many are drawn; Hypothesis skips repetitions.
        seed: the same seed draws the same examples and shrinks them alike.
        budget: seconds for all examples; those that do not fit are counted in a note.

    Raises:
        ConfigurationError: called inside a test under ``@given``, or ``max_examples`` below 1.
        InputError: the strategy can draw nothing.
        GradcheckError: the function raised at an example; the same class as for that input alone, with the smallest
            input in its message. A function may refuse an input with ``hypothesis.assume``.
    """
    import hypothesis
    from hypothesis import strategies as st
    from hypothesis.errors import Flaky, Unsatisfiable

    from . import strategies  # torch's random numbers under Hypothesis' control

    if max_examples < 1:
        raise ConfigurationError(
            f"checking examples failed: max_examples={max_examples}. A check of no example verifies nothing. "
            "Ask for at least one."
        )
    if hypothesis.currently_in_test_context():
        raise ConfigurationError(
            "checking examples failed: a strategy was given to check_gradients inside a test that Hypothesis already "
            "runs. Examples within examples would shrink neither. Draw the input with @given(x=strategy) or "
            "data.draw(strategy) and pass the tensor."
        )
    deadline = None if budget is None else time.monotonic() + budget
    run = _Run(check, model, deadline)
    both = st.tuples(_whole(inputs), _whole(dict(kwargs or {})))

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=max_examples,
        database=None,
        deadline=None,
        phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
        suppress_health_check=list(hypothesis.HealthCheck),
        report_multiple_bugs=False,
        print_blob=False,
        verbosity=hypothesis.Verbosity.quiet,
    )
    @hypothesis.given(both)
    def examples(example: tuple[Any, dict[str, Any]]) -> None:
        run.judge(as_tensors(model, example[0], []), example[1])

    failed: _Verdict | None = None
    spent = False
    try:
        examples()
    except _FailedError as smallest:
        failed = smallest.verdict
    except _BudgetSpent:
        failed = run.last_failed
        spent = True
    except Flaky:
        failed = run.last_failed
        if failed is None:
            raise
    except Unsatisfiable:
        raise InputError(
            f"drawing inputs failed: the strategy {both!r} gave no example. Its filters or the function's assume() "
            "refuse everything. Loosen them."
        ) from None
    del strategies
    if failed is not None:
        return _failing(run, failed, max_examples, seed)
    return _passing(run, max_examples if spent else 0, seed)


def _whole(value: Any) -> Any:
    """A strategy for the whole value, where some of its parts are strategies."""
    from hypothesis import strategies as st

    if is_strategy(value):
        return value
    if type(value) is dict and _holds(value):
        return st.fixed_dictionaries({name: _whole(item) for name, item in value.items()})
    if type(value) in (tuple, list) and _holds(value):
        parts = st.tuples(*map(_whole, value))
        return parts if type(value) is tuple else parts.map(list)
    return st.just(value)


def _failing(run: _Run, failed: _Verdict, max_examples: int, seed: int) -> Report:
    size = sum(tensor.numel() for tensor in tensors_in((failed.inputs, failed.kwargs)))
    if size <= MOST_ELEMENTS:
        text = script(run.model, failed.inputs, failed.kwargs, seed)
        told = expression(failed.inputs)
        if failed.kwargs:
            told += f", kwargs={expression(failed.kwargs)}"
    else:
        text = (
            f"# {size} elements are too many to print; the same strategy finds them again with seed={seed}\n"
        )
        told = ""
    if not told or len(told) > _LONGEST_LINE:
        told = ", ".join(describe(t) for t in tensors_in((failed.inputs, failed.kwargs)))
    found = f"found after {run.first_failed} of {max_examples} examples; minimal input: {told}"
    if failed.report is None:
        assert failed.error is not None
        raise type(failed.error)(f"{failed.error}\n\n{found}\n\n{text}") from failed.error.__cause__
    counts = {**failed.report.counts, "examples": run.tried}
    return replace(failed.report, notes=(found, *failed.report.notes), reproduction=text, counts=counts)


def _passing(run: _Run, wanted: int, seed: int) -> Report:
    """One report over examples of which none fails: the most telling one's, with what is to be said of the others."""
    verdicts = list(run.verdicts.values())
    reports = [v.report for v in verdicts if v.report is not None]
    empty = [v.error for v in verdicts if v.error is not None]
    if not reports:
        if empty:
            raise empty[-1]
        raise NothingToVerifyError(
            "checking examples failed: not one example fitted into the budget. Nothing was verified. Raise budget."
        )
    base = max(reports, key=lambda report: (len(report.verified), sum(n.elements for n in report.nodes)))
    notes = [
        f"{len(reports)} different examples checked with seed {seed}, and none fails: {_variety(verdicts)}"
    ]
    if wanted:
        notes.append(f"the budget was spent after {run.tried - 1} of {wanted} examples")
    counts: Counter[str] = Counter()
    timings: dict[str, float] = {}
    for report in reports:
        counts.update(report.counts)
        for stage, seconds in report.timings.items():
            timings[stage] = timings.get(stage, 0.0) + seconds
    counts["examples"] = len(reports)
    return replace(
        base,
        findings=_findings(reports),
        unverified=_unverified(reports, empty),
        notes=(*notes, *base.notes),
        counts=dict(counts),
        timings=timings,
    )


def _findings(reports: Sequence[Report]) -> tuple[Finding, ...]:
    """Each remark once, however many examples led to it."""
    kept: dict[tuple[str, str, str], Finding] = {}
    for report in reports:
        for finding in report.findings:
            key = (finding.code, str(finding.location), finding.op)
            known = kept.get(key)
            kept[key] = finding if known is None else replace(known, count=known.count + finding.count)
    return tuple(sorted(kept.values(), key=lambda finding: -finding.severity))


def _unverified(reports: Sequence[Report], empty: Sequence[GradcheckError]) -> tuple[Unverified, ...]:
    kept: Counter[tuple[str, str]] = Counter()
    for report in reports:
        for entry in report.unverified:
            kept[entry.subject, entry.reason] += entry.count
        for gradient in report.gradients:
            if gradient.outcome is not Outcome.AGREE:
                kept[f"gradient of {gradient.name} at some examples", gradient.reason] += 1
    for error in empty:
        kept["examples without a gradient", str(error).split(". ")[0]] += 1
    return tuple(Unverified(subject, reason, count) for (subject, reason), count in kept.items())


def _variety(verdicts: Sequence[_Verdict]) -> str:
    """How different the examples were: shapes, dtypes and memory of all tensors together."""
    seen = [tensor for v in verdicts for tensor in tensors_in((v.inputs, v.kwargs))]
    shapes = {tuple(t.shape) for t in seen}
    kinds = sorted({str(t.dtype).removeprefix("torch.") for t in seen})
    strided = sum(not t.is_contiguous() for t in seen)
    return f"{len(shapes)} shapes, {', '.join(kinds)}, {strided} of {len(seen)} tensors not contiguous"

"""A stand-in for ``gradcheck_suite.watching`` whose sessions find what the test says they find; needs no torch.

The plugin's own behaviour (outcomes, output, transport) is tested with it in half a second per run; what the real
sessions find is tested in ``test_real.py``.
"""

from __future__ import annotations

import sys
import types
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from gradcheck_suite.evidence import (
    Finding,
    GradientVerdict,
    Location,
    Outcome,
    RelatedLocation,
    Report,
    Severity,
    Unverified,
)
from gradcheck_suite.rules import suppress
from gradcheck_suite.rules.excerpts import excerpts_of

_open: list[Session] = []
breakage = ""
"""Which part of a session fails with an error of its own: "", "begin", "inside" or "end"."""


class Version(str):
    """A text of another type, as ``torch.__version__`` is one: not every plugin can carry it."""


class Ledger:
    """One per process; counts the sessions that share it."""

    def __init__(self) -> None:
        self.sessions = 0
        self.distinct = 0


class Session:
    """What a test scripted, as a report."""

    def __init__(self, name: str, ignore: Sequence[str], ledger: Ledger, verify: bool = True) -> None:
        self.name = name
        self.verify = verify
        self.ledger = ledger
        self.internal_errors = ["Traceback: scripted to fail inside"] if breakage == "inside" else []
        self.ignore = ignore
        self.findings: list[Finding] = []
        self.unverified: list[Unverified] = []
        self.counts: Counter[str] = Counter()

    @property
    def report(self) -> Report:
        if breakage == "end":
            raise ZeroDivisionError("scripted to fail at the end")
        kept, silenced = suppress(self.findings, self.ignore)
        counts = {**self.counts, "suppressed": len(silenced), "distinct_nodes": self.ledger.distinct}
        return Report(
            self.name,
            findings=tuple(kept),
            unverified=tuple(self.unverified),
            counts=counts,
            environment={"torch": Version("2.15")},
            timings={"total": 100.0, "verification": 0.25 if self.counts and self.verify else 0.0},
        )


@contextmanager
def watch(
    *, verify: bool = True, name: str = "watch", ignore: Sequence[str] = (), shared: Ledger | None = None
) -> Iterator[Session]:
    """The signature of the real one."""
    if breakage == "begin":
        raise ZeroDivisionError("scripted to fail at the beginning")
    shared = shared or Ledger()
    shared.sessions += 1
    session = Session(name, ignore, shared, verify)
    _open.append(session)
    try:
        yield session
    finally:
        _open.remove(session)


def backward(nodes: int = 3) -> None:
    """A backward ran and all its nodes are right."""
    if _open:
        _open[-1].ledger.distinct += 1
        done = {"nodes": nodes, "elements": 10 * nodes} if _open[-1].verify else {}
        _open[-1].counts.update(backwards=1, **done)


def find(
    rule: str = "gradient-mismatch",
    code: str = "GC101",
    severity: str = "error",
    message: str = "the backward of Cube disagrees with the derivative of its forward\nratio 2/3 everywhere",
    above: int = 0,
    **evidence: Any,
) -> None:
    """A finding at the line of the call (or ``above`` it)."""
    if not _open:
        return
    frame = sys._getframe(1)
    location = Location(frame.f_code.co_filename, frame.f_lineno - above, frame.f_code.co_name)
    other = Location(frame.f_code.co_filename, 1, "<module>")
    _open[-1].findings.append(
        Finding(
            code=code,
            rule=rule,
            severity=Severity.parse(severity),
            message=message,
            location=location,
            related=(RelatedLocation("backward", other),),
            module="net.block.3",
            op="CubeBackward",
            evidence={"ratio": 2 / 3, "node": 4, **evidence},
            hint="a factor is missing in backward",
            excerpts=excerpts_of(location, other),
        )
    )


def unverified(subject: str = "aten::mystery", reason: str = "no meaning is known for it") -> None:
    """A node that no witness could speak about."""
    _open[-1].unverified.append(Unverified(subject, reason))
    _open[-1].counts.update(backwards=1, nodes=1, nodes_unverified=1)


calls: list[dict[str, Any]] = []
"""The keyword arguments of each check, the newest last."""


def check_gradients(model: Any, inputs: Any = None, **settings: Any) -> Report:
    """In the place of the real one: the model itself says what is found, by the findings it returns."""
    calls.append({"inputs": inputs, **settings})
    findings, _ = suppress(tuple(model()), settings.get("ignore", ()))
    verdict = GradientVerdict("x", "input", (2,), "float32", Outcome.AGREE)
    counts = {"backwards": 1, "nodes": 2, "elements": 20}
    return Report("check", findings=tuple(findings), gradients=(verdict,), counts=counts)


def finding(code: str = "GC101", rule: str = "gradient-mismatch", severity: str = "error") -> Finding:
    """A finding at no line."""
    return Finding(code, rule, Severity.parse(severity), f"found by {code}")


def install(broken: str = "") -> None:
    """Put this in the place of the real sessions, and something in the place of torch."""
    global breakage
    breakage = broken
    sys.modules["gradcheck_suite.watching"] = sys.modules[__name__]
    sys.modules["gradcheck_suite.pipeline"] = sys.modules[__name__]
    sys.modules.setdefault("torch", types.ModuleType("torch"))

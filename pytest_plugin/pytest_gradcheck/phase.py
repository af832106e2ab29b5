"""One phase (set-up, call or tear-down) of one test, inside ``gradcheck_suite.watch``."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from .arrival import TorchArrival, torch_is_here
from .internal import InternalErrors

if TYPE_CHECKING:
    from gradcheck_suite.evidence import Report
    from gradcheck_suite.watching import Ledger

__all__ = ["LedgerKeeper", "WatchedPhase"]


class LedgerKeeper:
    """What all phases of a process share: its ledger, and the seconds that verifying may still take.

    The ledger is made when the first test needs it, since making it imports torch.

    Args:
        budget: seconds, or None for no limit.
    """

    def __init__(self, budget: float | None = None) -> None:
        self._ledger: Ledger | None = None
        self._budget = budget
        self._spent = 0.0

    def get(self) -> Ledger:
        """The ledger of this process: equal nodes are verified a bounded number of times per run."""
        if self._ledger is None:
            from gradcheck_suite.watching import Ledger

            self._ledger = Ledger()
        return self._ledger

    def spend(self, seconds: float) -> None:
        """Note what verifying took."""
        self._spent += seconds

    @property
    def left(self) -> float | None:
        """Seconds that are left of the budget, or None where there is none."""
        return None if self._budget is None else max(0.0, self._budget - self._spent)


class WatchedPhase:
    """Watches from :meth:`open`, or from the moment torch is imported, to :meth:`close`.

    Attributes:
        verifies: whether its backwards are verified; hazards are looked for in any case.
        session: the session, once there is one.
    """

    def __init__(
        self, title: str, ignore: Iterable[str], ledgers: LedgerKeeper, internal: InternalErrors
    ) -> None:
        self.verifies = ledgers.left != 0.0
        self.session: Any = None
        self._title = title
        self._ignore = tuple(sorted(ignore))
        self._ledgers = ledgers
        self._internal = internal
        self._stack = ExitStack()
        self._thread = threading.get_ident()
        self._missed = ""

    def open(self) -> None:
        """Begin to watch; while there is no torch, wait for it."""
        if torch_is_here():
            self._watch()
        else:
            self._stack.enter_context(TorchArrival(self._torch_arrived))

    def close(self, error: BaseException | None) -> Report | None:
        """End it and say what was found; None if nothing was watched because torch never came.

        Args:
            error: what the phase raised; it is not caught.
        """
        # Cleared here and not where it is used, so that a report which fails to be built leaves nothing entered.
        stack, self._stack = self._stack, ExitStack()
        stack.__exit__(type(error) if error else None, error, error.__traceback__ if error else None)
        if self.session is not None:
            for text in self.session.internal_errors:
                self._internal.add(f"watching {self._title}", text)
            report: Report = self.session.report
            self._ledgers.spend(report.timings.get("verification", 0.0))
            return report if self.verifies else _unverified(report)
        if self._missed:
            from gradcheck_suite.evidence import Report as MadeReport
            from gradcheck_suite.evidence import Unverified

            return MadeReport(title=self._title, unverified=(Unverified(self._title, self._missed),))
        return None

    def _watch(self) -> None:
        from gradcheck_suite.watching import watch

        watching = watch(
            verify=self.verifies, name=self._title, ignore=self._ignore, shared=self._ledgers.get()
        )
        self.session = self._stack.enter_context(watching)

    def _torch_arrived(self) -> None:
        if threading.get_ident() != self._thread:
            self._missed = "torch was first imported by another thread of this test, which is not watched"
            return
        with self._internal.guard(f"beginning to watch {self._title}"):
            self._watch()


def _unverified(report: Report) -> Report:
    """A report of hazards alone, which says of its backwards that nobody verified them."""
    backwards = report.counts.get("backwards", 0)
    if not backwards:
        return report
    from dataclasses import replace

    from gradcheck_suite.evidence import Unverified

    entry = Unverified("a backward", "the budget of this run was spent (--gradcheck-budget)", backwards)
    return replace(report, unverified=(*report.unverified, entry))

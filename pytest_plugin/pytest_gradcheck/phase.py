"""One phase (set-up, call or tear-down) of one test, inside ``gradcheck_suite.watch``."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from gradcheck_suite.evidence import Report, Unverified

from .arrival import TorchArrival, torch_is_here
from .internal import InternalErrors

if TYPE_CHECKING:
    from gradcheck_suite.watching import Ledger

__all__ = ["LedgerKeeper", "WatchedPhase"]


class LedgerKeeper:
    """Makes the run's ledger when the first test needs it: making it imports torch."""

    def __init__(self) -> None:
        self._ledger: Ledger | None = None

    def get(self) -> Ledger:
        """The ledger of this process: equal nodes are verified a bounded number of times per run."""
        if self._ledger is None:
            from gradcheck_suite.watching import Ledger

            self._ledger = Ledger()
        return self._ledger


class WatchedPhase:
    """Watches from :meth:`open`, or from the moment torch is imported, to :meth:`close`."""

    def __init__(
        self, title: str, ignore: Iterable[str], ledgers: LedgerKeeper, internal: InternalErrors
    ) -> None:
        self._title = title
        self._ignore = tuple(sorted(ignore))
        self._ledgers = ledgers
        self._internal = internal
        self._stack = ExitStack()
        self._session: Any = None
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
        if self._session is not None:
            for text in self._session.internal_errors:
                self._internal.add(f"watching {self._title}", text)
            report: Report = self._session.report
            return report
        if self._missed:
            return Report(title=self._title, unverified=(Unverified(self._title, self._missed),))
        return None

    def _watch(self) -> None:
        from gradcheck_suite.watching import watch

        watching = watch(verify=True, name=self._title, ignore=self._ignore, shared=self._ledgers.get())
        self._session = self._stack.enter_context(watching)

    def _torch_arrived(self) -> None:
        if threading.get_ident() != self._thread:
            self._missed = "torch was first imported by another thread of this test, which is not watched"
            return
        with self._internal.guard(f"beginning to watch {self._title}"):
            self._watch()

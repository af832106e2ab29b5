"""A progress bar over the stages of a long check, on the error stream; silent where nobody looks at it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

__all__ = ["Progress", "progress_bar"]

# A check that is over before anybody has read its bar needs none.
_QUICK = 1.0


class Progress:
    """Says nothing; also the base of those that do."""

    def stage(self, name: str, steps: int = 0) -> None:
        """A stage begins, of so many steps; 0 where they are not known."""

    def step(self) -> None:
        """One step of the stage is done."""

    def close(self) -> None:
        """The check is over."""


class _Lines(Progress):
    """One line per stage, for a log."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def stage(self, name: str, steps: int = 0) -> None:
        print(f"gradcheck: {name}{f' ({steps:,})' if steps else ''}", file=self._stream, flush=True)


class _Bar(Progress):
    """A bar on a terminal that is gone when the check is over."""

    def __init__(self, stream: TextIO, delay: float) -> None:
        self._stream = stream
        self._begin = time.monotonic() + delay
        self._bar: RichProgress | None = None
        self._refused = False
        self._name, self._steps, self._done = "", 0, 0

    def stage(self, name: str, steps: int = 0) -> None:
        self._name, self._steps, self._done = name, steps, 0
        self._show(fresh=True)

    def step(self) -> None:
        self._done += 1
        self._show()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _show(self, fresh: bool = False) -> None:
        if self._refused or time.monotonic() < self._begin:
            return
        if self._bar is None:
            self._start()
            fresh = True
        bar = self._bar
        if bar is None:
            return
        if fresh:
            for known in bar.task_ids:
                bar.remove_task(known)
            bar.add_task(self._name, total=self._steps or None, completed=self._done)
        else:
            bar.update(bar.task_ids[-1], completed=self._done)

    def _start(self) -> None:
        from rich.console import Console
        from rich.errors import LiveError
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress

        bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=Console(file=self._stream),
            transient=True,
        )
        self._refused = True
        with suppress(LiveError):  # the user's own display is up; there is room for one only
            bar.start()
            self._bar, self._refused = bar, False


@contextmanager
def progress_bar(wanted: bool | None, stream: TextIO | None = None) -> Iterator[Progress]:
    """What a check reports its stages to.

    Args:
        wanted: True shows them (as lines where the stream is no terminal), False shows nothing, None shows a bar on a
            terminal once a check takes longer than a second.
        stream: default: the error stream.
    """
    out = sys.stderr if stream is None else stream
    terminal = out is not None and out.isatty()
    shown: Progress
    if wanted is False or out is None or (wanted is None and not terminal):
        shown = Progress()
    elif terminal:
        shown = _Bar(out, 0.0 if wanted else _QUICK)
    else:
        shown = _Lines(out)
    try:
        yield shown
    finally:
        shown.close()

"""Processes that measure entries, so that one that crashes or hangs takes nothing else with it.

    python -m benchmarks.coverage_workers [--quick]

is such a process: a line ``part<TAB>name`` comes in, a result goes out; without a name, the names of the part.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

__all__ = ["MARK", "Workers"]

MARK = "\x1eresult "  # models print; our lines are told apart by it


class _Worker:
    def __init__(self, quick: bool) -> None:
        arguments = [sys.executable, "-m", "benchmarks.coverage_workers"]
        one_thread = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        self.stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed with the worker
        self.process = subprocess.Popen(
            [*arguments, "--quick"] if quick else arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.stderr,
            text=True,
            env={**os.environ, **one_thread},
        )

    def ask(self, part: str, name: str = "") -> Any | None:
        """The answer, or None when the worker died over it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(f"{part}\t{name}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return None
        for line in self.process.stdout:
            place = line.find(MARK)
            if place >= 0:
                return json.loads(line[place + len(MARK) :])
        return None

    def close(self) -> str:
        """End the process; returns how it ended."""
        if self.process.stdin is not None and not self.process.stdin.closed:
            try:
                self.process.stdin.close()
            except BrokenPipeError:
                self.process.kill()
        status = self.process.wait()
        self.stderr.seek(0)
        last = [line.strip() for line in self.stderr if line.strip()][-1:]
        self.stderr.close()
        return " ".join([f"status {status}", *last])


class Workers:
    """A few worker processes; a context manager.

    Args:
        jobs: how many, at most 2.
        quick: whether they measure the quick share.
    """

    def __init__(self, jobs: int, *, quick: bool) -> None:
        self._quick = quick
        self._workers = [_Worker(quick) for _ in range(max(1, min(jobs, 2)))]

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            if kind is not None:
                worker.process.kill()
            worker.close()

    def names(self, part: str) -> list[str]:
        """The entries of a part.

        Raises:
            RuntimeError: the worker ended instead of answering.
        """
        found = self._workers[0].ask(part)
        if found is None:
            raise RuntimeError(
                f"listing the entries of {part} failed: the worker ended with {self._workers[0].close()}. "
                "Nothing can be measured without the list. Run python -m benchmarks.coverage_workers by hand."
            )
        return list(found)

    def measure(
        self, part: str, names: Sequence[str], progress: Callable[[int], None]
    ) -> list[dict[str, Any]]:
        """Results in the order of ``names``; ``progress`` is told how many are done."""
        waiting = list(reversed(names))
        results: dict[str, dict[str, Any]] = {}
        lock = threading.Lock()

        def serve(number: int) -> None:
            while True:
                with lock:
                    if not waiting:
                        return
                    name = waiting.pop()
                result = self._workers[number].ask(part, name)
                if result is None:
                    ended = self._workers[number].close()
                    result = {"part": part, "name": name, "error": f"its process ended with {ended}"}
                    self._workers[number] = _Worker(self._quick)
                with lock:
                    results[name] = result
                    progress(len(results))

        threads = [threading.Thread(target=serve, args=(number,)) for number in range(len(self._workers))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [results[name] for name in names]


def _serve(quick: bool) -> None:
    import torch

    from .coverage_entries import Entry, entries, measure

    torch.set_num_threads(1)
    known: dict[str, dict[str, Entry]] = {}
    for line in sys.stdin:
        part, _, name = line.rstrip("\n").partition("\t")
        if part not in known:
            known[part] = {entry.name: entry for entry in entries(part, quick=quick)}
        if name:
            result = measure(known[part][name])
            answer: Any = {**vars(result), "verified": result.verified}
        else:
            answer = list(known[part])
        print("\n" + MARK + json.dumps(answer), flush=True)


if __name__ == "__main__":
    _serve("--quick" in sys.argv[1:])

"""What ``watch()`` costs: a training step inside it, against the same step alone and inside torch's ``detect_anomaly``.

    python -m benchmarks.watch_overhead [--quick]

A step is zeroing, forward, loss, backward and SGD with momentum, on one thread. The ways of running it take turns in one
process, so that whatever disturbs the machine meets all of them; times are CPU times of the thread, and ratios are those
of the fastest steps. Two more columns say what cannot be undercut in Python: ``floor`` is a dispatch mode that does
nothing, and ``steady`` is ``watch(verify=True)`` when all that is to be verified has been. ``verify`` is the mean over
the first steps of a session (100, quick: 30), verification included.

Peak memory is the high-water mark of the resident set (``VmHWM``) in a process of its own per way of running, less
what the process held before its first step; torch's CPU allocator is not visible to ``tracemalloc``.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from gradcheck_suite import watch

from .models import MissingPackageError, mlp

__all__ = ["Row", "main", "measure", "peak_memory", "tasks"]

Step = Callable[[], object]

TARGETS = {"MLP 10k": 2.5, "MLP 1M": 1.15, "resnet18, batch 2": 1.15, "resnet18, batch 16": 1.15}
"""Largest ratio of hazards only to plain that is aimed at."""
TARGET_VERIFY = 1.3
TARGET_MEMORY = 1.1


class Nothing(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's __init_subclass__ is untyped
    """A mode that lets every operation pass: the least that seeing operations from Python can cost."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class LanguageModel(nn.Module):
    """A small transformer that predicts the next token."""

    def __init__(self, vocabulary: int = 256, width: int = 64) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        layer = nn.TransformerEncoderLayer(width, 4, dim_feedforward=256, dropout=0.1, batch_first=True)
        self.body = nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of shape (batch, vocabulary, time) for tokens of shape (batch, time)."""
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        out: Tensor = self.head(self.body(self.embedding(tokens), mask=mask, is_causal=True))
        return out.transpose(1, 2)


def _training(model: nn.Module, inputs: Tensor, targets: Tensor) -> Step:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    loss_of = nn.CrossEntropyLoss()

    def step() -> None:
        optimizer.zero_grad()
        loss_of(model(inputs), targets).backward()
        optimizer.step()

    return step


def _mlp(parameters: int) -> Step:
    return _training(mlp(parameters), torch.randn(64, 16), torch.randint(10, (64,)))


def _resnet18(batch: int) -> Step:
    try:
        from torchvision.models import resnet18
    except ImportError:
        raise MissingPackageError("torchvision is not installed: pip install '.[zoo]'") from None
    return _training(resnet18(weights=None), torch.randn(batch, 3, 32, 32), torch.randint(10, (batch,)))


def _language_model() -> Step:
    tokens = torch.randint(256, (4, 65))
    return _training(LanguageModel(), tokens[:, :-1], tokens[:, 1:])


def tasks() -> dict[str, Callable[[], Step]]:
    """What is measured: makes a step, always the same one, which trains a model in train mode."""
    makers: dict[str, Callable[[], Step]] = {
        "MLP 10k": lambda: _mlp(10_000),
        "MLP 1M": lambda: _mlp(1_000_000),
        "resnet18, batch 2": lambda: _resnet18(2),
        "resnet18, batch 16": lambda: _resnet18(16),
        "transformer LM": _language_model,
    }
    return {name: _seeded(maker) for name, maker in makers.items()}


def _seeded(maker: Callable[[], Step]) -> Callable[[], Step]:
    def make() -> Step:
        torch.manual_seed(0)
        return maker()

    return make


@contextmanager
def _anomaly() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.autograd.detect_anomaly():
            yield


def ways() -> dict[str, Callable[[], AbstractContextManager[Any]]]:
    """The ways of running steps, each a context to run them in."""
    return {
        "plain": nullcontext,
        "floor": Nothing,
        "hazards": lambda: watch(verify=False),
        "steady": lambda: watch(verify=True),
        "anomaly": _anomaly,
    }


@dataclass
class Row:
    """One task.

    Attributes:
        name: of the task.
        milliseconds: the fastest step, by way of running.
        ratios: to plain, of the fastest steps; and ``verify``, of means over the first steps of a session.
        medians: likewise, of medians.
        steps: how many the mean of ``verify`` is over.
        peak_mib: by way of running, what a process of its own needed at most, above what it held before.
        memory_ratio: of the whole process, hazards only to plain.
        errors: of the watcher's own.
    """

    name: str
    milliseconds: dict[str, float]
    ratios: dict[str, float]
    medians: dict[str, float]
    steps: int
    peak_mib: dict[str, float]
    memory_ratio: float | None
    errors: int = 0

    def met(self) -> dict[str, bool]:
        """Which of the aims that are stated for this task it reaches."""
        met = {"below_anomaly": self.ratios["hazards"] < self.ratios["anomaly"]}
        if self.name in TARGETS:
            met["hazards"] = self.ratios["hazards"] <= TARGETS[self.name]
        if self.name.startswith("resnet18"):
            met["verify"] = self.ratios["verify"] <= TARGET_VERIFY
        if self.memory_ratio is not None:
            met["memory"] = self.memory_ratio <= TARGET_MEMORY
        return met


def timed(step: Step, count: int) -> list[float]:
    """CPU seconds of so many steps."""
    times = []
    for _ in range(count):
        start = time.thread_time()
        step()
        times.append(time.thread_time() - start)
    return times


def measure(name: str, make: Callable[[], Step], *, seconds: float, verified_steps: int) -> Row:
    """The times of one task.

    Args:
        name: of the task.
        make: makes its step.
        seconds: about how long the ways of running take turns.
        verified_steps: how many steps the session with verification is averaged over.
    """
    step = make()
    timed(step, 2)
    plain = min(timed(step, 3))
    begun = time.thread_time()
    errors = 0
    with watch(verify=True) as session:
        for _ in range(verified_steps):
            step()
    verified = (time.thread_time() - begun) / verified_steps
    errors += len(session.internal_errors)
    block = max(2, min(50, int(seconds / 30 / plain)))
    rounds = max(2, int(seconds / (block + 2) / plain / 8))
    times: dict[str, list[float]] = {way: [] for way in ways()}
    for _ in range(min(rounds, 40)):
        for way, context in ways().items():
            with context() as entered:
                timed(step, 4 if way == "steady" else 2)  # a watcher learns; what is new has been verified
                times[way] += timed(step, block)
            errors += len(getattr(entered, "internal_errors", ()))
    least = {way: min(taken) for way, taken in times.items()}
    middle = {way: statistics.median(taken) for way, taken in times.items()}
    ratios = {way: least[way] / least["plain"] for way in times if way != "plain"}
    ratios["verify"] = verified / middle["plain"]
    return Row(
        name=name,
        milliseconds={way: 1e3 * taken for way, taken in least.items()},
        ratios=ratios,
        medians={way: middle[way] / middle["plain"] for way in times if way != "plain"},
        steps=verified_steps,
        peak_mib={},
        memory_ratio=None,
        errors=errors,
    )


# -- memory --------------------------------------------------------------------------------------------------------

_ALONE = "from benchmarks.watch_overhead import _print_memory; _print_memory({name!r}, {way!r}, {steps})"


def _print_memory(name: str, way: str, steps: int) -> None:
    """Run in a process of its own: the high-water mark before the steps and after them, in bytes."""
    torch.set_num_threads(1)
    step = tasks()[name]()
    before = high_water_mark()
    with ways()[way]():
        for _ in range(steps):
            step()
    print(json.dumps([before, high_water_mark()]))


def high_water_mark() -> int:
    """Largest resident set of this process so far, in bytes.

    Linux hands ``ru_maxrss`` on from the process that started this one, so the kernel's own count is read there.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(entry for entry in status.read_text().splitlines() if entry.startswith("VmHWM:"))
        return int(line.split()[1]) * 2**10
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 2**10)


def peak_memory(name: str, way: str, steps: int) -> tuple[float, float]:
    """What a process that runs so many steps this way needs at most, in MiB: above what it held before, and altogether."""
    command = [sys.executable, "-W", "ignore", "-c", _ALONE.format(name=name, way=way, steps=steps)]
    ended = subprocess.run(command, check=True, capture_output=True, text=True)
    before, after = json.loads(ended.stdout.splitlines()[-1])
    return (after - before) / 2**20, after / 2**20


def _add_memory(row: Row, steps: int) -> None:
    whole = {}
    for way in ("plain", "hazards"):
        row.peak_mib[way], whole[way] = peak_memory(row.name, way, steps)
    row.memory_ratio = whole["hazards"] / whole["plain"]


# -- what is shown -------------------------------------------------------------------------------------------------


def show(rows: Sequence[Row], skipped: Sequence[str], console: Console) -> None:
    """The table for people."""
    table = Table(title="a training step, times as long as the same step alone", title_justify="left")
    table.add_column("task", no_wrap=True)
    for heading in ("ms", "hazards", "verify", "steady", "anomaly", "floor", "peak memory", "missed"):
        table.add_column(heading, justify="right")
    for row in rows:
        memory = "-" if row.memory_ratio is None else f"{row.memory_ratio:.2f}"
        missed = ", ".join(aim for aim, reached in row.met().items() if not reached) or "-"
        ratios = [f"{row.ratios[way]:.2f}" for way in ("hazards", "verify", "steady", "anomaly", "floor")]
        table.add_row(row.name, f"{row.milliseconds['plain']:.2f}", *ratios, memory, missed)
    console.print(table)
    for message in skipped:
        console.print(message, markup=False)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, show the table and print the JSON line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.watch_overhead", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--quick", action="store_true", help="under a minute on two cores")
    quick = parser.parse_args(arguments).quick
    begun = time.perf_counter()
    torch.set_num_threads(1)
    rows: list[Row] = []
    skipped: list[str] = []
    for name, make in tasks().items():
        heavy = name.startswith("resnet18")
        try:
            row = measure(
                name,
                make,
                seconds=(3.0 if heavy else 1.0) if quick else 20.0,
                verified_steps=30 if quick else 100,
            )
        except MissingPackageError as error:
            skipped.append(f"{name}: skipped: {error}")
            continue
        if not quick or name in ("MLP 1M", "resnet18, batch 2"):
            _add_memory(row, 5)
        rows.append(row)
    show(rows, skipped, Console(width=120, highlight=False))
    result = {
        "benchmark": "watch_overhead",
        "quick": quick,
        "seconds": round(time.perf_counter() - begun, 1),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": 1,
        "targets": {"hazards": TARGETS, "verify": TARGET_VERIFY, "memory": TARGET_MEMORY},
        "tasks": [_rounded({**asdict(row), "met": row.met()}) for row in rows],
        "skipped": skipped,
    }
    print(json.dumps(result))


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _rounded(entry) for key, entry in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()

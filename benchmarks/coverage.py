"""How much of PyTorch the engine understands, measured against the installed torch.

    python -m benchmarks.coverage [--quick] [--part op_db|module_db|zoo] [--only NAME] [--jobs N]

``op_db``: every differentiable entry of torch's operation database in float64, every sample input. ``module_db``: every
module in train and eval mode. ``zoo``: real models with random weights, forward and loss. Nothing is left out by hand.
Each entry runs in one of at most two worker processes; an entry that kills its worker is counted and named. The last
line is one JSON object with the counts.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from .coverage_workers import Workers

__all__ = ["PartSummary", "main", "run_part"]

MOST_SHOWN = 10_000


@dataclass
class PartSummary:
    """The counts of one part.

    Attributes:
        entries: how many there are.
        verified: entries with every node of every sample verified and nothing that disagrees.
        wrong_in_torch: entries that are not, because of a bug of torch that has a reproduction.
        nodes: by how they were verified (``meaning``, ``decomposition``, ``numerical``, ``inconclusive``).
        disagreements: gradients that differ.
        forward_disagreements: engine values that differ from torch's outputs.
        torch_bugs: bugs of torch among both kinds, by reproduction in docs/torch_bugs; not counted above.
        failed: entries that raised.
    """

    entries: int = 0
    verified: int = 0
    wrong_in_torch: int = 0
    samples: int = 0
    without_gradient: int = 0
    nodes: Counter[str] = field(default_factory=Counter)
    disagreements: int = 0
    forward_disagreements: int = 0
    torch_bugs: Counter[str] = field(default_factory=Counter)
    failed: int = 0
    seconds: float = 0.0


def run_part(
    part: str, *, only: Sequence[str], workers: Workers, console: Console
) -> tuple[PartSummary, list[dict[str, Any]]]:
    """Measure every entry of a part; returns the counts and the result of each entry."""
    began = time.perf_counter()
    names = workers.names(part)
    if only:
        names = [name for name in names if any(wanted in name for wanted in only)]

    def progress(done: int) -> None:
        if done % 50 == 0:
            console.print(f"  {part}: {done} of {len(names)}, {time.perf_counter() - began:.0f} s")

    results = workers.measure(part, names, progress)
    summary = PartSummary(entries=len(names), seconds=round(time.perf_counter() - began, 1))
    for result in results:
        _add(summary, result)
    return summary, results


def _add(summary: PartSummary, result: dict[str, Any]) -> None:
    summary.samples += result.get("runs", 0)
    summary.without_gradient += result.get("without_gradient", 0)
    summary.nodes.update(result.get("nodes", {}))
    summary.disagreements += len(result.get("disagreements", ()))
    summary.forward_disagreements += len(result.get("forward", ()))
    summary.torch_bugs.update(result.get("torch_bugs", {}))
    summary.failed += bool(result["error"])
    summary.verified += bool(result.get("verified"))
    summary.wrong_in_torch += bool(result.get("torch_bugs"))


def _print_details(part: str, results: Sequence[dict[str, Any]], console: Console) -> None:
    def show(title: str, lines: list[str]) -> None:
        if lines:
            console.print(f"\n{part}: {title} ({len(lines)})")
            for line in lines[:MOST_SHOWN]:
                console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)

    show("disagreements", [f"{r['name']}: {d}" for r in results for d in r.get("disagreements", ())])
    show("forward values that differ", [f"{r['name']}: {d}" for r in results for d in r.get("forward", ())])
    show(
        "bugs of torch",
        [f"{r['name']}: {bug} (x{n})" for r in results for bug, n in r.get("torch_bugs", {}).items()],
    )
    show("entries that raised", [f"{r['name']}: {r['error']}" for r in results if r["error"]])
    unverified = [
        f"{r['name']}: {reason} (x{count})" for r in results for reason, count in r.get("reasons", {}).items()
    ]
    show("not fully verified", unverified)


def _table(summaries: dict[str, PartSummary]) -> Table:
    table = Table(title="What the engine verified")
    for column in (
        "part", "entries", "fully verified", "wrong in torch", "samples", "meaning", "decomposition", "numerical", "inconclusive",
        "disagree", "forward differs", "raised", "s",
    ):  # fmt: skip
        table.add_column(column, justify="left" if column == "part" else "right")
    for part, s in summaries.items():
        share = 100 * s.verified / s.entries if s.entries else 0.0
        kinds = [
            str(s.nodes.get(how, 0)) for how in ("meaning", "decomposition", "numerical", "inconclusive")
        ]
        table.add_row(
            part, str(s.entries), f"{s.verified} ({share:.1f} %)", str(s.wrong_in_torch), str(s.samples), *kinds,
            str(s.disagreements), str(s.forward_disagreements), str(s.failed), f"{s.seconds:.0f}",
        )  # fmt: skip
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 0 when nothing disagrees and no entry raised, else 1."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="one sample of each entry, and every eighth model"
    )
    parser.add_argument(
        "--part", action="append", choices=("op_db", "module_db", "zoo"), help="default: all three"
    )
    parser.add_argument(
        "--only", action="append", default=[], help="entries whose name contains this; repeatable"
    )
    parser.add_argument("--jobs", type=int, default=2, help="worker processes, at most 2")
    parser.add_argument("--details", help="write every result to this file, one JSON object a line")
    options = parser.parse_args(arguments)
    parts = options.part or ["op_db", "module_db", "zoo"]
    console = Console(width=170 if not sys.stdout.isatty() else None)
    summaries: dict[str, PartSummary] = {}
    everything: list[dict[str, Any]] = []
    with Workers(options.jobs, quick=options.quick) as workers:
        for part in parts:
            summaries[part], results = run_part(part, only=options.only, workers=workers, console=console)
            _print_details(part, results, console)
            everything.extend(results)
    if options.details:
        with open(options.details, "w", encoding="utf-8") as stream:
            stream.writelines(json.dumps(r) + "\n" for r in everything)
    console.print()
    console.print(_table(summaries))
    print(
        json.dumps(
            {"quick": options.quick, "only": options.only, **{p: vars(s) for p, s in summaries.items()}}
        )
    )
    return int(any(s.disagreements or s.failed for s in summaries.values()))


if __name__ == "__main__":
    sys.exit(main())

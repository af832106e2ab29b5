"""How many wrong backwards are found, and who is blamed.

    python -m benchmarks.mutation [--quick] [--only OP] [--details]

Every entry of torch's operation database that the rule in ``benchmarks/mutants.py`` selects is wrapped in a custom Function
whose backward is torch's own gradient, made wrong in one of the stated ways. One forward and backward is recorded and each
node of it checked, without finite differences of the whole. A mutant counts only where the gradient that it really returned
differs from torch's by more than rounding. It is *found* when there is a finding GC101, and *blamed* rightly when every such
finding names the mutant's Function and the line that called it. Unmutated wraps must not be accused. An error no larger than
a known defect of torch's own gradient (docs/known-torch-bugs.md) is a warning, which is neither: such wraps are counted by
themselves. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from gradcheck_suite.assembly import node_findings, sum_findings
from gradcheck_suite.evidence import Finding, NodeVerdict, Outcome, Severity
from gradcheck_suite.witnesses.engine import check_node
from gradcheck_suite.witnesses.fallback import fallback_for
from gradcheck_suite.witnesses.sums import check_sums
from gradcheck_suite.witnesses.torch_reverse import record_reverse

from .mutants import MUTATIONS, ROUNDING, Mutant, Subject, entry_names, subjects

__all__ = ["Judged", "Summary", "judge_mutant", "main", "measure"]

QUICK_STEP = 6
"""``--quick`` takes every so manyth entry."""


@dataclass(frozen=True)
class Judged:
    """What was said about one wrap.

    Attributes:
        name, mutation, sample: which one; mutation is "" for the unmutated wrap.
        change: of the gradient, relative to its largest element.
        found: a finding GC101 at the severity of an error.
        blamed: all of them name the wrap's Function and its line.
        warned: a finding GC101 below that severity: torch's own gradient is known to be this inexact.
        inconclusive: nothing was found, and the wrap's node stayed unverified.
        how: by what its node was verified.
        details: the findings or the reasons.
    """

    name: str
    mutation: str
    sample: int
    change: float
    found: bool
    blamed: bool
    warned: bool
    inconclusive: bool
    how: str
    details: str


@dataclass
class Summary:
    """All counts; ``left_out`` holds the entries that the rule does not select, by name."""

    entries: int = 0
    wraps: int = 0
    accused: list[Judged] = field(default_factory=list)
    wraps_inconclusive: list[Judged] = field(default_factory=list)
    warned: list[Judged] = field(default_factory=list)
    mutants: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    blamed: Counter[str] = field(default_factory=Counter)
    inconclusive: Counter[str] = field(default_factory=Counter)
    missed: list[Judged] = field(default_factory=list)
    misblamed: list[Judged] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    how: Counter[str] = field(default_factory=Counter)

    def add(self, judged: Judged) -> None:
        """Count one wrap."""
        if not judged.mutation:
            self.wraps += 1
            self.how[judged.how or "inconclusive"] += 1
            if judged.found:
                self.accused.append(judged)
            elif judged.warned:
                self.warned.append(judged)
            elif judged.inconclusive:
                self.wraps_inconclusive.append(judged)
            return
        self.mutants[judged.mutation] += 1
        self.found[judged.mutation] += judged.found
        self.blamed[judged.mutation] += judged.blamed
        self.inconclusive[judged.mutation] += judged.inconclusive
        if not judged.found:
            self.missed.append(judged)
        elif not judged.blamed:
            self.misblamed.append(judged)


def judge_mutant(mutant: Mutant) -> Judged:
    """Record a forward and a backward of the mutant's program and look at every node and sum.

    A checker that raises has found nothing, and the error is shown.
    """
    try:
        return _judge(mutant)
    except Exception as error:  # of whatever kind: the next mutant is still judged
        text = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        name = mutant.mutation.name if mutant.mutation is not None else ""
        change = 0.0 if mutant.mutation is None else float("inf")
        return Judged(
            name=mutant.subject.name,
            mutation=name,
            sample=mutant.subject.number,
            change=change,
            found=False,
            blamed=False,
            warned=False,
            inconclusive=True,
            how="",
            details=f"raised {text}",
        )


def _judge(mutant: Mutant) -> Judged:
    subject = mutant.subject
    leaves = {f"inputs[{i}]": t for i, t in enumerate(subject.tensors) if t.requires_grad}
    others = [t for t in subject.tensors if not t.requires_grad]
    mutant.change = float("nan")
    run = record_reverse(mutant.program, subject.tensors, {}, named_leaves=leaves, buffers=others)
    trace = run.trace
    fallback = fallback_for(run.recorder, run.autograd_nodes)
    checked = {
        key: check_node(node, run.probe, fallback=fallback)
        for key, node in trace.nodes.items()
        if key > 0 and node.ran
    }
    sums = check_sums(trace, trace.leaf_gradients)
    mismatches = [
        f for f in [*node_findings(trace, checked), *sum_findings(trace, sums)] if f.code == "GC101"
    ]
    findings = [f for f in mismatches if f.severity >= Severity.ERROR]
    own = next(v for k, (v, _) in checked.items() if _is_own(trace.nodes[k].function, mutant))
    inconclusive = not findings and any(t.outcome is Outcome.INCONCLUSIVE for t in own.testimonies)
    return Judged(
        name=subject.name,
        mutation=mutant.mutation.name if mutant.mutation is not None else "",
        sample=subject.number,
        change=mutant.change,
        found=bool(findings),
        warned=bool(mismatches) and not findings,
        blamed=bool(findings) and all(_blames(finding, mutant) for finding in findings),
        inconclusive=inconclusive,
        how=own.how,
        details=_details(findings, own),
    )


def _is_own(function: Any, mutant: Mutant) -> bool:
    return function is not None and function.name == mutant.function.__name__


def _blames(finding: Finding, mutant: Mutant) -> bool:
    place = finding.location
    return (
        f"the backward of {mutant.function.__name__} " in finding.message
        and place is not None
        and place.file == Mutant.program.__code__.co_filename
        and place.line == mutant.line
    )


def _details(findings: Sequence[Finding], own: NodeVerdict) -> str:
    if findings:
        return "; ".join(f"{f.location}: {f.message}" for f in findings)
    said = []
    for testimony in own.testimonies:
        numbers = testimony.comparison
        text = f"{testimony.subject} {testimony.outcome.value}"
        if numbers is not None:
            text += f" (error {numbers.max_error:.3g}, tolerance {numbers.tolerance:.3g}, scale {numbers.scale:.3g})"
        said.append(f"{text}: {testimony.reason}" if testimony.reason else text)
    return "; ".join(said)


def measure(names: Sequence[str] | None = None, *, console: Console | None = None) -> Summary:
    """Judge every mutant, and the unmutated wrap at every sample that was taken."""
    summary = Summary()
    found: Iterable[tuple[str, list[Subject], str]] = subjects(names)
    if console is not None:
        total = len(names) if names is not None else len(entry_names())
        found = track(found, "mutants", total=total, console=console, transient=True)
    for name, samples, reason in found:
        if not samples:
            summary.left_out[name] = reason
            continue
        summary.entries += 1
        taken: dict[int, Subject] = {samples[0].number: samples[0]}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for mutation in MUTATIONS:
                mutant = next((m for s in samples if (m := Mutant(s, mutation)).changes()), None)
                if mutant is None:
                    continue
                judged = judge_mutant(mutant)
                # Another cotangent is delivered than the one that it was chosen with.
                if judged.change > ROUNDING:
                    taken[mutant.subject.number] = mutant.subject
                    summary.add(judged)
            for subject in taken.values():
                summary.add(judge_mutant(Mutant(subject)))
    return summary


def show(summary: Summary, console: Console, *, details: bool) -> None:
    """The table for people."""
    table = Table(title=f"wrong backwards of {summary.entries} operations", title_justify="left")
    table.add_column("what is wrong")
    for heading in ("mutants", "found", "blamed", "inconclusive"):
        table.add_column(heading, justify="right")
    for mutation in MUTATIONS:
        n = mutation.name
        counts = (summary.mutants[n], summary.found[n], summary.blamed[n], summary.inconclusive[n])
        table.add_row(mutation.what, *map(str, counts))
    totals = [sum(c.values()) for c in (summary.mutants, summary.found, summary.blamed, summary.inconclusive)]
    table.add_section()
    table.add_row("all", *map(str, totals))
    console.print(table)
    console.print(
        f"unmutated wraps: {summary.wraps}, accused {len(summary.accused)}, "
        f"inconclusive {len(summary.wraps_inconclusive)}; by how they were verified: {dict(summary.how)}",
        soft_wrap=True,
    )
    console.print(f"left out by the rule: {len(summary.left_out)} entries", markup=False)
    if details:
        for name, reason in summary.left_out.items():
            console.print(f"left out: {name}: {reason}", markup=False, soft_wrap=True)
    for word, cases in (
        ("missed", summary.missed),
        ("blamed wrongly", summary.misblamed),
        ("accused", summary.accused),
        ("warned of a known defect of torch", summary.warned),
        ("wrap inconclusive", summary.wraps_inconclusive),
    ):
        for case in cases if details else cases[:12]:
            change = f" (change {case.change:.2g})" if case.mutation else ""
            what = f"{case.name} [{case.sample}] {case.mutation}{change}"
            text = f"{word}: {what}: {case.how or 'unverified'}: {case.details}"
            console.print(text[:600], markup=False, soft_wrap=True)


def result(summary: Summary, *, quick: bool, seconds: float) -> dict[str, Any]:
    """The JSON object."""
    mutants = sum(summary.mutants.values())

    def share(counts: Counter[str]) -> float:
        return round(100 * sum(counts.values()) / mutants, 3) if mutants else 0.0

    return {
        "benchmark": "mutation",
        "quick": quick,
        "seconds": round(seconds, 1),
        "torch": torch.__version__,
        "entries": summary.entries,
        "left_out": len(summary.left_out),
        "mutants": mutants,
        "found_percent": share(summary.found),
        "blamed_percent": share(summary.blamed),
        "inconclusive": sum(summary.inconclusive.values()),
        "wraps": summary.wraps,
        "accused": len(summary.accused),
        "warned_of_known_defects": [j.name for j in summary.warned],
        "wraps_inconclusive": len(summary.wraps_inconclusive),
        "by_mutation": {
            m.name: {
                "mutants": summary.mutants[m.name],
                "found": summary.found[m.name],
                "blamed": summary.blamed[m.name],
                "inconclusive": summary.inconclusive[m.name],
            }
            for m in MUTATIONS
        },
        "missed": [f"{j.name}[{j.sample}] {j.mutation}" for j in summary.missed],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, show the table and print the JSON line; 1 where the aims are not reached."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.mutation", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--quick", action="store_true", help=f"every {QUICK_STEP}th entry; under a minute")
    parser.add_argument("--only", metavar="OP", action="append", help="entries of this name (repeatable)")
    parser.add_argument("--details", action="store_true", help="show every case that went wrong")
    options = parser.parse_args(arguments)
    names = entry_names()
    if options.only:
        names = [n for n in names if n in options.only or n.split(".")[-1] in options.only]
        if not names:
            parser.error(f"no entry is called {', '.join(options.only)}")
    elif options.quick:
        names = names[::QUICK_STEP]
    begun = time.perf_counter()
    console = Console(width=120, highlight=False)
    summary = measure(names, console=console if console.is_terminal else None)
    show(summary, console, details=options.details)
    found = result(summary, quick=options.quick, seconds=time.perf_counter() - begun)
    print(json.dumps(found))
    reached = found["found_percent"] >= 99.5 and found["blamed_percent"] >= 99 and not found["accused"]
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())

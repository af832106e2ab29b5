"""Graphs that outlive their iteration: kept alive by a sum, a list or a state that was carried on, and growing."""

from __future__ import annotations

import gc
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..capture.graph import walk
from ..evidence import Finding, Location, TensorRef
from ..rules.growing_graph import GrowingGraph
from .graphs import BackwardRun, Graphs

__all__ = ["Growth"]

_MANY = 8
_WINDOW = 4
_GROWN = 3
_MOST_SITES = 200
_MOST_RUNS = 1_024
_MOST_SEARCHES = 3
_MOST_NODES = 20_000


@dataclass(slots=True)
class _Site:
    """A line that runs backwards.

    Attributes:
        runs: its backwards of which some node was still alive when last looked at, with their iterations.
        unlisted: how many more there are.
        most: of how many iterations a graph was alive at one time.
        sliding: old graphs die one by one while younger ones live: a window of fixed length.
        nodes: size of the latest graph.
        reached_back: how often in a row that graph reached back further and was larger than the one before.
        iterations: which iteration that was.
        holder: line and description of the tensors that keep the graphs alive.
        tie: line and description of the tensor over which a graph reaches back, and how far.
        sizes: of the graphs, when that was found and at most.
    """

    runs: deque[tuple[int, weakref.ref[BackwardRun]]] = field(
        default_factory=lambda: deque(maxlen=_MOST_RUNS)
    )
    unlisted: int = 0
    most: int = 0
    next_look: int = _MANY
    sliding: bool = False
    nodes: int = 0
    reached_back: int = 0
    iterations: int = 0
    holder: tuple[Location | None, str] | None = None
    candidate: tuple[Location | None, str] | None = None
    tie: tuple[Location | None, str, int] | None = None
    sizes: tuple[int, int] = (0, 0)


class Growth:
    """Counts, per line, the iterations whose graphs are alive still, and how far back a graph reaches."""

    def __init__(self, graphs: Graphs) -> None:
        self._graphs = graphs
        self._sites: dict[Location | None, _Site] = {}
        self._searches = 0
        self.iteration = 0
        self._turned = False

    def turn(self) -> None:
        """Something that begins or ends an iteration: a step, an update, a zeroing."""
        self._turned = True

    def begins(self, run: BackwardRun) -> None:
        """A backward begins; its graph was not looked at yet."""
        if self._turned:
            self._turned = False
            self.iteration += 1
        run.iteration = run.since = self.iteration

    def before(self, run: BackwardRun, nodes: Sequence[Any]) -> None:
        """Its graph was looked at; nothing has run over it yet."""
        if run.since == run.iteration:
            return
        site = self._sites.get(run.location)
        if site is not None and site.tie is None and site.reached_back >= _GROWN - 1:
            tied = self._graphs.tied_at(nodes)
            if tied is not None:
                output = tied.outputs[0] if tied.outputs else None
                words = output.describe() if isinstance(output, TensorRef) else ""
                site.candidate = (tied.location, words)

    def after(self, run: BackwardRun, nodes: Sequence[Any]) -> None:
        """It has ended without an error."""
        site = self._sites.get(run.location)
        if site is None:
            if len(self._sites) >= _MOST_SITES:
                return
            site = self._sites[run.location] = _Site()
        self._reaches_back(site, run, nodes)
        runs = site.runs
        gone = 0
        while runs and runs[0][1]() is None:
            runs.popleft()
            gone += 1
        if gone:
            site.unlisted = 0
            site.sliding = site.sliding or len(runs) >= _WINDOW
        if len(runs) == _MOST_RUNS:
            site.unlisted += 1
        runs.append((run.iteration, weakref.ref(run)))
        if len(runs) + site.unlisted >= site.next_look and not site.sliding:
            self._look(site, run)

    def _reaches_back(self, site: _Site, run: BackwardRun, nodes: Sequence[Any]) -> None:
        depth = run.iteration - run.since
        grown = depth >= 1 and len(nodes) > site.nodes > 0
        site.reached_back = site.reached_back + 1 if grown else 0
        if site.reached_back >= _GROWN and site.tie is None and site.candidate is not None:
            site.tie = (*site.candidate, depth)
            site.sizes = (site.nodes, len(nodes))
        site.candidate = None
        if site.tie is not None:
            site.tie = (site.tie[0], site.tie[1], max(site.tie[2], depth))
            site.sizes = (site.sizes[0], max(site.sizes[1], len(nodes)))
        site.nodes = len(nodes)

    def _look(self, site: _Site, run: BackwardRun) -> None:
        living = _living(site)
        if len(living) >= _MANY and site.holder is None and self._searches < _MOST_SEARCHES:
            # What waits for the garbage collector in a cycle is nobody's any more.
            gc.collect()
            living = _living(site)
            if len(living) >= _MANY:
                self._searches += 1
                site.holder = self._holder(run, living)
        kept = [entry for entry in site.runs if entry[1]() is not None]
        site.runs = deque(kept, maxlen=_MOST_RUNS)
        count = len(living) + site.unlisted
        if len(living) >= _MANY:
            site.most = max(site.most, count)
            site.iterations = run.iteration
        site.next_look = max(_MANY, len(kept) + site.unlisted + max(len(kept) // 8, 1))

    def _holder(self, run: BackwardRun, living: set[int]) -> tuple[Location | None, str]:
        """The line that made the tensors which keep most of the old graphs alive, and what they look like."""
        reached: dict[Location | None, set[int]] = {}
        words: dict[Location | None, str] = {}
        budget = _MOST_NODES
        for tensor in [o for o in gc.get_objects() if type(o) is torch.Tensor]:
            node = _node_of(tensor)
            if node is None or budget <= 0:
                continue
            nodes = walk([node])
            budget -= len(nodes)
            iterations = {
                earlier.iteration
                for earlier in map(self._graphs.earlier, nodes)
                if earlier is not None and earlier.iteration in living and earlier is not run
            }
            if iterations:
                operation = self._graphs.operation(node)
                line = None if operation is None else operation.location
                reached.setdefault(line, set()).update(iterations)
                shape = "x".join(map(str, tensor.shape)) or "scalar"
                words[line] = f"{str(tensor.dtype).removeprefix('torch.')} {shape}"
        if not reached:
            return None, ""
        line = max(reached, key=lambda place: (len(reached[place]), place is not None))
        return line, words[line]

    def findings(self) -> list[Finding]:
        """Lines whose graphs pile up, or reach back further and further."""
        found = []
        for location, site in self._sites.items():
            if site.tie is not None:
                place, tensor, depth = site.tie
                found.append(
                    GrowingGraph.from_reach(
                        backward=location, tie=place, tensor=tensor, iterations=depth, sizes=site.sizes
                    )
                )
            elif site.holder is not None and not site.sliding and site.most >= _MANY:
                place, tensor = site.holder
                found.append(
                    GrowingGraph.from_alive(
                        backward=location,
                        created=place,
                        tensor=tensor,
                        alive=site.most,
                        iterations=site.iterations,
                        nodes=site.nodes,
                    )
                )
        return found


def _living(site: _Site) -> set[int]:
    return {iteration for iteration, reference in site.runs if reference() is not None}


def _node_of(tensor: torch.Tensor) -> Any:
    try:
        return tensor.grad_fn
    except RuntimeError:  # a view whose base was written to in a way that torch forbids
        return None

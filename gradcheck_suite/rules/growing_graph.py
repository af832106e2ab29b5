"""Graphs of earlier iterations are kept alive, and every iteration adds another.

Why: a tensor that came out of a forward holds the whole graph behind it. Adding losses up for a mean, collecting outputs in
    a list or carrying a hidden state on keeps every graph since the beginning: memory grows until the process is killed,
    and where the backward runs over the old graphs too, every iteration takes longer than the one before.

Bad::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    total = 0.0
    with watch() as session:
        for _ in range(20):
            optimizer.zero_grad()
            loss = model(torch.randn(4, 3)).pow(2).mean()
            loss.backward()
            optimizer.step()
            total += loss  # <-
    report = session.report

Bad::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    outputs = []
    with watch() as session:
        for _ in range(20):
            optimizer.zero_grad()
            out = model(torch.randn(4, 3))  # <-
            out.pow(2).mean().backward()
            optimizer.step()
            outputs.append(out)
    report = session.report

Bad::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    weight = torch.randn(3, requires_grad=True)
    state = torch.zeros(3)
    with watch() as session:
        for _ in range(8):
            state = torch.tanh(state + weight * torch.randn(3))  # <-
            state.pow(2).sum().backward(retain_graph=True)
            weight.data = weight.data - 0.1 * weight.grad
            weight.grad = None
    report = session.report

Good::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    total, outputs = 0.0, []
    with watch() as session:
        for _ in range(20):
            optimizer.zero_grad()
            out = model(torch.randn(4, 3))
            loss = out.pow(2).mean()
            loss.backward()
            optimizer.step()
            total += loss.item()
            outputs.append(out.detach())
    report = session.report

Good::

    from collections import deque

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    latest = deque(maxlen=3)
    with watch() as session:
        for _ in range(20):
            optimizer.zero_grad()
            latest.append(model(torch.randn(4, 3)).pow(2).mean())
            latest[-1].backward()
            optimizer.step()
    report = session.report

Good::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    cell = torch.nn.GRUCell(3, 4)
    optimizer = torch.optim.SGD(cell.parameters(), lr=0.01)
    state = torch.zeros(2, 4)
    with watch() as session:
        for _ in range(4):
            losses = []
            for _ in range(10):  # one sequence, many losses
                state = cell(torch.randn(2, 3), state)
                losses.append(state.pow(2).mean())
            optimizer.zero_grad()
            sum(losses).backward()
            optimizer.step()
            state = state.detach()
    report = session.report

Misses: graphs that no backward has run over (a validation loop without ``no_grad``), and growth over fewer than eight
    iterations.
"""

from __future__ import annotations

from ..evidence import Finding, Location, RelatedLocation, Severity
from ..wording import plural, relative_path
from .registry import Rule, rule

__all__ = ["GrowingGraph"]


@rule("GC403", "growing-graph", Severity.WARNING)
class GrowingGraph(Rule):
    """Turns graphs that pile up, or reach back further and further, into a finding."""

    @classmethod
    def from_alive(
        cls,
        *,
        backward: Location | None,
        created: Location | None,
        tensor: str,
        alive: int,
        iterations: int,
        nodes: int,
    ) -> Finding:
        """The graphs of many iterations are alive at one time.

        Args:
            backward: the line that runs their backwards.
            created: the line that made the tensors which keep them alive, or None.
            tensor: what those look like.
            alive: of how many iterations a graph is alive.
            iterations: how many there were by then.
            nodes: size of one of the graphs.
        """
        what = (
            f"tensors ({tensor}) made at {_place(created)} hold" if created is not None else "something holds"
        )
        return cls.finding(
            [
                f"the graphs of {alive:,} iterations are alive at the same time, and every iteration adds one",
                f"{what} them: {plural(nodes, 'node')} each, {alive * nodes:,} by iteration {max(alive, iterations):,}",
            ],
            location=created or backward,
            related=[RelatedLocation("backward", backward)] if backward is not None else [],
            evidence={
                "alive": alive,
                "iterations": max(alive, iterations),
                "nodes": nodes,
                "subject": _place(backward),
            },
            hint="keep the number, not its graph: loss.item() for a sum, out.detach() in a list",
            count=alive,
        )

    @classmethod
    def from_reach(
        cls,
        *,
        backward: Location | None,
        tie: Location | None,
        tensor: str,
        iterations: int,
        sizes: tuple[int, int],
    ) -> Finding:
        """A backward runs over the graphs of ever more iterations.

        Args:
            backward: its line.
            tie: the line that made the tensor over which the newest graph reaches into the older ones.
            tensor: type and shape of that tensor.
            iterations: how many iterations it reached back.
            sizes: nodes of the graph when it was noticed, and at most.
        """
        return cls.finding(
            [
                f"the backward reaches back over {plural(iterations, 'earlier iteration')}, one more every time: "
                f"its graph grew from {sizes[0]:,} to {plural(sizes[1], 'node')}",
                f"the tensor {tensor} made at {_place(tie)} carries the old graph on"
                if tie is not None
                else "",
            ],
            location=tie or backward,
            related=[RelatedLocation("backward", backward)] if backward is not None else [],
            evidence={"iterations": iterations, "nodes_first": sizes[0], "nodes_last": sizes[1]},
            hint="detach() what is carried into the next iteration, and leave retain_graph=True out",
        )


def _place(location: Location | None) -> str:
    return "" if location is None else f"{relative_path(location.file)}:{location.line}"

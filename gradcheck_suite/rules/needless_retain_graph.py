"""A backward keeps its graph with ``retain_graph=True``, and no further backward uses it.

Why: everything that the forward saved stays in memory until the last reference to the loss is gone, which in a loop is
    after the next forward: two graphs at a time. It also hides the error that torch raises when one iteration reaches
    into the one before.

Bad::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    with watch() as session:
        for _ in range(3):
            model.zero_grad()
            loss = model(torch.randn(4, 3)).pow(2).mean()
            loss.backward(retain_graph=True)  # <-
    report = session.report

Bad::

    import torch
    from gradcheck_suite import watch

    def gradient_at(x):
        x = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(x.sin().sum(), x, retain_graph=True)  # <-
        return gradient

    weight = torch.randn(3, requires_grad=True)
    with watch() as session:
        gradient_at(torch.ones(3))
        (weight * 2).sum().backward()
    report = session.report

Good::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    with watch() as session:
        for _ in range(3):
            out = model(torch.randn(4, 3)).tanh()
            for column in range(2):  # the last one keeps the graph for nobody, the others do not
                out[:, column].sum().backward(retain_graph=True)
    report = session.report

Good::

    import torch
    from gradcheck_suite import watch

    x = torch.randn(3, requires_grad=True)
    with watch() as session:
        (slope,) = torch.autograd.grad(x.pow(3).sum(), x, create_graph=True)
        slope.pow(2).sum().backward()
    report = session.report

Good::

    import torch
    from gradcheck_suite import watch

    x = torch.randn(3, requires_grad=True)
    with watch() as session:
        loss = x.exp().sum()
        loss.backward(retain_graph=True)
    report = session.report
    loss.backward()  # after the session

Misses: a line that sometimes keeps a graph for a reason, and graphs whose loss is still at hand when the session ends.
"""

from __future__ import annotations

from ..evidence import Finding, Location, Severity
from ..wording import plural
from .registry import Rule, rule

__all__ = ["NeedlessRetainGraph"]


@rule("GC402", "needless-retain-graph", Severity.WARNING)
class NeedlessRetainGraph(Rule):
    """Turns a line that keeps graphs for nobody into a finding."""

    @classmethod
    def from_site(cls, location: Location, count: int) -> Finding:
        """A line kept the graph of every backward that it ran.

        Args:
            location: the line of the backward.
            count: how many graphs it kept.
        """
        return cls.finding(
            [
                f"retain_graph=True keeps the graph, and no further backward used it ({plural(count, 'backward')})"
            ],
            location=location,
            evidence={"backwards": count},
            hint="leave retain_graph=True out; if torch then raises, something ties the iterations together",
            count=count,
        )

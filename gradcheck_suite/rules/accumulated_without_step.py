"""Several backwards add into ``.grad``, and no step uses the sum.

Why: gradients that are collected over several batches count only when the optimizer steps. Where the number of batches is
    no multiple of the number that is collected, the last ones of an epoch are lost, or they leak into the first step
    of the next. Where the step was forgotten altogether, nothing is trained.

Bad::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with watch() as session:
        for number in range(6):
            model(torch.randn(4, 3)).pow(2).mean().backward()  # <-
            if number % 4 == 3:
                optimizer.step()
                optimizer.zero_grad()
    report = session.report

Bad::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.Adam(model.parameters())
    with watch() as session:
        for number in range(3):
            model(torch.randn(4, 3)).pow(2).mean().backward()  # <-
    report = session.report

Good::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with watch() as session:
        for number in range(6):
            model(torch.randn(4, 3)).pow(2).mean().backward()
            if number % 4 == 3 or number == 5:
                optimizer.step()
                optimizer.zero_grad()
    report = session.report

Good::

    import torch
    from gradcheck_suite import watch

    weight = torch.ones(3, requires_grad=True)
    with watch() as session:  # only the gradient is wanted: there is no optimizer
        weight.sin().sum().backward()
        weight.cos().sum().backward()
    report = session.report
    assert weight.grad.shape == (3,)

Good::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with watch() as session:
        for number in range(3):  # gradients are only looked at
            optimizer.zero_grad()
            model(torch.randn(4, 3)).pow(2).mean().backward()
    report = session.report

Misses: a single backward that no step follows, and what happens after the session.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..evidence import Finding, Location, Severity
from ..wording import listing, plural
from .registry import Rule, rule

__all__ = ["AccumulatedWithoutStep"]


@rule("GC303", "accumulated-without-step", Severity.NOTE)
class AccumulatedWithoutStep(Rule):
    """Turns gradients that were collected and never used into a finding."""

    @classmethod
    def from_backward(cls, location: Location | None, parameters: Sequence[str], backwards: int) -> Finding:
        """The session has ended, and the sum of several backwards is still unused.

        Args:
            location: the last of the backwards.
            parameters: the parameters that hold the sum.
            backwards: how many backwards it is a sum of.
        """
        return cls.finding(
            [
                f"{plural(backwards, 'backward')} added to the .grad of {plural(len(parameters), 'parameter')} "
                f"({listing(list(parameters))}), and no step has used the sum"
            ],
            location=location,
            evidence={"parameters": list(parameters), "backwards": backwards},
            hint="step after the last batch too, whether or not it completes a group",
        )

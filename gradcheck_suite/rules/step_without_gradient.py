"""An optimizer steps although none of its parameters has a gradient.

Why: ``step`` skips parameters whose ``.grad`` is None without a word. If all of them are, the backward reached other
    tensors than those the optimizer holds: a copy of the model, parameters from before it was moved or rebuilt, a
    frozen part, or no backward at all before this step.

Bad::

    import copy
    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(copy.deepcopy(model).parameters(), lr=0.01)
    with watch() as session:
        for _ in range(3):
            model.zero_grad()
            model(torch.randn(4, 3)).pow(2).mean().backward()
            optimizer.step()  # <-
    report = session.report

Bad::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    body, head = torch.nn.Linear(3, 3), torch.nn.Linear(3, 1)
    optimizer = torch.optim.Adam(body.parameters())
    with watch() as session:
        for _ in range(3):
            head.zero_grad()
            features = body(torch.randn(4, 3)).detach()
            head(features).pow(2).mean().backward()
            optimizer.step()  # <-
    report = session.report

Good::

    import torch
    from gradcheck_suite import watch

    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    with watch() as session:
        model(torch.randn(4, 3)).sum().backward()
        model.zero_grad()
        with torch.no_grad():
            model(torch.randn(4, 3))
    with watch() as session:
        torch.ones(3, requires_grad=True).sum().backward()
    with watch() as schedule_only:
        for _ in range(4):  # only the schedule is looked at, nothing is trained
            optimizer.step()
            schedule.step()
    assert not schedule_only.report.findings
    report = session.report

Good::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with watch() as session:
        for number in range(4):
            model(torch.randn(4, 3)).pow(2).mean().backward()
            if number % 2:
                optimizer.step()
                optimizer.zero_grad()
        optimizer.step()  # for batches that are left over; here there are none
    report = session.report

Good::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=2)
    data = torch.randn(4, 3)

    def closure():
        optimizer.zero_grad()
        loss = model(data).pow(2).mean()
        loss.backward()
        return loss

    with watch() as session:
        optimizer.step(closure)  # there is no gradient yet: the closure makes it
        optimizer.zero_grad()
        optimizer.step(closure)
    report = session.report

Misses: an optimizer some of whose parameters never get a gradient.
"""

from __future__ import annotations

from ..evidence import Finding, Location, Severity
from ..wording import plural
from .registry import Rule, rule

__all__ = ["StepWithoutGradient"]


@rule("GC704", "step-without-gradient", Severity.WARNING)
class StepWithoutGradient(Rule):
    """Turns an optimizer that never had a gradient into a finding."""

    @classmethod
    def from_step(cls, step: str, location: Location | None, count: int) -> Finding:
        """Backwards ran, and still no parameter of this optimizer ever had a gradient when it stepped.

        Args:
            step: ``"SGD.step()"``.
            location: its line.
            count: how many such steps.
        """
        return cls.finding(
            [
                f"{step} changes nothing: none of its parameters has a gradient ({plural(count, 'step')})",
                "the backwards before it reached other tensors than those this optimizer holds",
            ],
            location=location,
            evidence={"steps": count},
            hint="make the optimizer from the parameters of the model that is trained, after it was built and moved, "
            "and call backward before step",
            count=count,
        )

"""Gradients are cleared between backward and step, so that the step does nothing.

Why: the order is zero, backward, step. With ``zero_grad`` between the other two the optimizer finds no gradient (or
    zeros), and skips every parameter without a word. Momentum and weight decay may still move the parameters, which
    looks like training.

Bad::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with watch() as session:
        for _ in range(3):
            loss = model(torch.randn(4, 3)).pow(2).mean()
            loss.backward()
            optimizer.zero_grad()  # <-
            optimizer.step()
    report = session.report

Bad::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.Adam(model.parameters())
    with watch() as session:
        for _ in range(3):
            model.zero_grad(set_to_none=False)  # <-
            optimizer.step()
            model(torch.randn(4, 3)).pow(2).mean().backward()
    report = session.report

Good::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with watch() as session:
        for _ in range(3):
            model(torch.randn(4, 3)).pow(2).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    report = session.report

Good::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with watch() as session:
        for number in range(4):
            loss = model(torch.randn(4, 3)).pow(2).mean() * (float("inf") if number == 2 else 1.0)
            loss.backward()
            if not all(p.grad.isfinite().all() for p in model.parameters()):
                optimizer.zero_grad()  # a bad batch is skipped
            optimizer.step()
            optimizer.zero_grad()
    report = session.report

Good::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    parameters = list(model.parameters())
    optimizer = torch.optim.SGD(parameters, lr=0.01)
    with watch() as session:
        for _ in range(3):
            merged = [torch.zeros_like(p) for p in parameters]
            for _ in range(2):  # gradients of two tasks are taken one by one and put together by hand
                optimizer.zero_grad()
                model(torch.randn(4, 3)).pow(2).mean().backward()
                for total, p in zip(merged, parameters):
                    total += p.grad
            optimizer.zero_grad()
            for total, p in zip(merged, parameters):
                p.grad = total
            optimizer.step()
    report = session.report

Misses: an order that is wrong only now and then; it fires when an optimizer has stepped at least twice and never with a
    gradient.
"""

from __future__ import annotations

from ..evidence import Finding, Location, RelatedLocation, Severity
from ..wording import plural
from .registry import Rule, rule

__all__ = ["ZeroedBeforeStep"]


@rule("GC302", "zeroed-before-step", Severity.ERROR)
class ZeroedBeforeStep(Rule):
    """Turns steps whose gradients were cleared into a finding."""

    @classmethod
    def from_moments(
        cls,
        *,
        step: str,
        clearing: str,
        location: Location | None,
        backward: Location | None,
        stepped: Location | None,
        count: int,
    ) -> Finding:
        """An optimizer never had a gradient, since each was cleared before it could be used.

        Args:
            step: ``"SGD.step()"``.
            clearing: ``"zero_grad()"``.
            location: the line that cleared.
            backward: the backward whose gradients were lost.
            stepped: the line of the step.
            count: how many steps.
        """
        related = [
            RelatedLocation(role, place)
            for role, place in (("gradient made by", backward), ("step without it", stepped))
            if place is not None
        ]
        return cls.finding(
            [
                f"{clearing} clears the gradients after the backward and before {step}: "
                f"{plural(count, 'step')}, none of which had a gradient",
            ],
            location=location,
            related=related,
            evidence={"steps": count},
            hint="clear the gradients before the backward or after the step",
            count=count,
        )

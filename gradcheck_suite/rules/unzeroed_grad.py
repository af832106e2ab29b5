"""A step uses a gradient contribution that an earlier step already used.

Why: ``backward`` adds to ``.grad``, it does not replace it. Where nobody clears the gradient between a step and the
    next backward, every step uses the gradients of all earlier batches again. Training still goes down for a while,
    with a step size that grows by itself, and ends at a worse loss or diverges.

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
            optimizer.step()  # <-
    report = session.report

Bad::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    optimizer = torch.optim.Adam(model.parameters())
    with watch() as session:
        for epoch in range(2):
            optimizer.zero_grad()  # once per epoch is not enough
            for batch in range(3):
                model(torch.randn(4, 3)).pow(2).mean().backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()  # <-
    report = session.report

Bad::

    import torch
    from gradcheck_suite import watch

    weight = torch.randn(3, requires_grad=True)
    with watch() as session:
        for _ in range(3):
            loss = (weight * torch.randn(4, 3)).sum(1).pow(2).mean()
            loss.backward()
            with torch.no_grad():
                weight -= 0.01 * weight.grad  # <-
    report = session.report

Good::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with watch() as session:
        for number in range(8):  # gradients of four batches add up to one step
            (model(torch.randn(4, 3)).pow(2).mean() / 4).backward()
            if number % 4 == 3:
                optimizer.step()
                optimizer.zero_grad()
    report = session.report

Good::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    generator, critic = torch.nn.Linear(2, 3), torch.nn.Linear(3, 1)
    for_generator = torch.optim.SGD(generator.parameters(), lr=0.01)
    for_critic = torch.optim.SGD(critic.parameters(), lr=0.01)
    with watch() as session:
        for _ in range(3):
            fake = generator(torch.randn(4, 2))
            for_critic.zero_grad()
            (critic(fake.detach()).mean() - critic(torch.randn(4, 3)).mean()).backward()
            for_critic.step()
            for_generator.zero_grad()
            (-critic(fake).mean()).backward()  # adds to the critic's gradients too; they are cleared before its step
            for_generator.step()
    report = session.report

Good::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    data, target = torch.randn(8, 3), torch.randn(8, 1)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=4)

    def closure():
        optimizer.zero_grad()
        loss = (model(data) - target).pow(2).mean()
        loss.backward()
        return loss

    with watch() as session:
        for _ in range(3):
            optimizer.step(closure)
    report = session.report

Good::

    import torch
    from gradcheck_suite import watch

    weight = torch.randn(3, requires_grad=True)
    with watch() as session:
        for _ in range(3):
            loss = (weight * torch.randn(4, 3)).sum(1).pow(2).mean()
            loss.backward()
            weight.data -= 0.01 * weight.grad.data
            weight.grad.data.zero_()
    report = session.report

Misses: gradients that somebody assigned or rewrote between the backwards, a parameter that an optimizer steps and that
    is also updated by hand, updates inside compiled code, and evaluations of a closure that add up within one step.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..evidence import Finding, Location, RelatedLocation, Severity
from ..wording import listing, plural
from .registry import Rule, rule

__all__ = ["UnzeroedGrad"]


@rule("GC301", "unzeroed-grad", Severity.ERROR)
class UnzeroedGrad(Rule):
    """Turns a step with stale contributions into a finding."""

    @classmethod
    def from_step(
        cls,
        *,
        step: str,
        location: Location | None,
        parameters: Sequence[str],
        backward: Location | None,
        earlier: Location | None,
        latest: Location | None,
    ) -> Finding:
        """A step used what an earlier step of the same parameters had used already.

        Args:
            step: what stepped, ``"SGD.step()"`` or ``"the update"``.
            location: its line.
            parameters: names of the parameters with a stale part in ``.grad``.
            backward: the backward that made the stale part.
            earlier: the step that used it first.
            latest: the backward that added to it.
        """
        related = [
            RelatedLocation(role, place)
            for role, place in (
                ("gradient made by", backward),
                ("already used by", earlier),
                ("added to by", latest),
            )
            if place is not None
        ]
        return cls.finding(
            [
                f"{step} uses gradients again that an earlier step has used already: the .grad of "
                f"{plural(len(parameters), 'parameter')} ({listing(list(parameters))}) was not cleared in between",
                "backward adds to .grad, so that this step is one along the sum of old and new gradients",
            ],
            location=location,
            related=related,
            evidence={"parameters": list(parameters)},
            hint="clear the gradients once per step, before the backward: optimizer.zero_grad(), or "
            "parameter.grad = None for parameters that are updated by hand",
        )

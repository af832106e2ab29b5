"""A model is trained in evaluation mode, or evaluated in training mode.

Why: dropout and batch norm behave differently in the two modes. Trained in evaluation mode, dropout does nothing and batch
    norm's statistics stand still. Evaluated in training mode, the numbers are noisy and depend on the batch, and the
    evaluation itself changes the statistics that the model is deployed with.

Bad::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch() as session:
        for epoch in range(2):
            for _ in range(3):
                optimizer.zero_grad()
                model(torch.randn(4, 3)).pow(2).mean().backward()
                optimizer.step()  # <-
            model.eval()  # and never train() again
            with torch.no_grad():
                model(torch.randn(4, 3))
    report = session.report

Bad::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch() as session:
        for epoch in range(2):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(torch.randn(4, 3)), torch.tensor([0, 1, 0, 1])).backward()
            optimizer.step()
            with torch.no_grad():
                out = model(torch.randn(4, 3))  # <-
                accuracy = (out.argmax(1) == torch.tensor([0, 1, 0, 1])).float().mean()
    report = session.report

Good::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(), torch.nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    target = torch.tensor([0, 1, 0, 1])
    with watch() as session:
        for epoch in range(3):
            model.train()
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(torch.randn(4, 3)), target).backward()
            optimizer.step()
            model.eval()
            with torch.no_grad():
                accuracy = (model(torch.randn(4, 3)).argmax(1) == target).float().mean()
    report = session.report

Good::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model[1].eval()  # fine-tuning with the statistics as they are
    with watch() as session:
        for _ in range(4):
            optimizer.zero_grad()
            model(torch.randn(4, 3)).pow(2).mean().backward()
            optimizer.step()
    report = session.report

Good::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    target = torch.tensor([0, 1, 0, 1])
    with watch() as session:
        for _ in range(3):
            model.train()
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(torch.randn(4, 3)), target).backward()
            optimizer.step()
            model.eval()
            model[1].train()  # Monte-Carlo dropout: several samples of every prediction
            with torch.no_grad():
                samples = torch.stack([model(torch.randn(4, 3)).softmax(1) for _ in range(5)])
                accuracy = (samples.mean(0).argmax(1) == target).float().mean()
    report = session.report

Good::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    generator = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 3))
    critic = torch.nn.Linear(3, 1)
    for_generator = torch.optim.Adam(generator.parameters())
    for_critic = torch.optim.Adam(critic.parameters())
    with watch() as session:
        for _ in range(4):
            with torch.no_grad():
                fake = generator(torch.randn(4, 2))  # in training mode, as in most GANs
            for_critic.zero_grad()
            (critic(fake).mean() - critic(torch.randn(4, 3)).mean()).backward()
            for_critic.step()
            for_generator.zero_grad()
            (-critic(generator(torch.randn(4, 2))).mean()).backward()
            for_generator.step()
            with torch.no_grad():
                pictures = generator(torch.ones(4, 2)).clamp(0, 1).numpy()
    report = session.report

Misses: fewer than three steps in evaluation mode, a model of which a part is frozen, and an evaluation in training mode
    beside others that are right.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..evidence import Finding, Location, RelatedLocation, Severity
from ..wording import listing, plural
from .registry import Rule, rule

__all__ = ["WrongMode"]


@rule("GC703", "wrong-mode", Severity.WARNING)
class WrongMode(Rule):
    """Turns a mode that does not fit what is done into a finding."""

    @classmethod
    def from_steps(
        cls,
        model: str,
        layers: Sequence[str],
        location: Location | None,
        *,
        put_at: Location | None,
        steps: int,
    ) -> Finding:
        """A model is trained in evaluation mode.

        Args:
            model: its class.
            layers: the kinds of its layers that behave differently in the two modes.
            location: the first of the steps.
            put_at: the line of the ``eval()``.
            steps: how many steps in a row.
        """
        return cls.finding(
            [
                f"{plural(steps, 'step')} trained {model} in evaluation mode: {listing(list(layers))} had no effect"
            ],
            location=location,
            related=[RelatedLocation("put into evaluation mode by", put_at)] if put_at is not None else [],
            evidence={"layers": list(layers), "steps": steps},
            hint="call model.train() before training goes on, at the beginning of every epoch",
            count=steps,
        )

    @classmethod
    def from_evaluation(
        cls, model: str, layers: Sequence[str], location: Location | None, *, calls: int
    ) -> Finding:
        """A model is evaluated in training mode.

        Args:
            model: its class.
            layers: the kinds of its layers that behave differently in the two modes.
            location: the call.
            calls: how often.
        """
        return cls.finding(
            [
                f"{model} is evaluated in training mode ({plural(calls, 'call')} under no_grad, compared with targets): "
                f"{listing(list(layers))} make the result depend on chance or on the batch"
            ],
            location=location,
            evidence={"layers": list(layers), "calls": calls},
            hint="call model.eval() before the evaluation and model.train() after it",
            count=calls,
        )

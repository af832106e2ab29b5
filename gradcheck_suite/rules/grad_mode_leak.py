"""Gradients were switched off and not switched on again.

Why: grad mode belongs to the thread, not to the function that sets it. After a forgotten ``set_grad_enabled(True)``, an
    ``__exit__`` that an exception skipped, or a ``yield`` inside ``no_grad``, everything that runs later builds no graph: the
    next backward fails far away from the cause, or a part of the model quietly stops learning.

Bad::

    import torch
    from gradcheck_suite import watch

    def evaluate(model):
        torch.set_grad_enabled(False)  # <-
        return model(torch.randn(4, 3)).mean()

    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    with watch() as session:
        model(torch.randn(4, 3)).mean().backward()
        evaluate(model)
    report = session.report
    torch.set_grad_enabled(True)

Bad::

    import torch
    from gradcheck_suite import watch

    def batches():
        with torch.no_grad():  # <-
            for _ in range(2):
                yield torch.randn(4, 3)

    torch.manual_seed(0)
    model, head = torch.nn.Linear(3, 2), torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([*model.parameters(), head], lr=0.1)
    with watch() as session:
        for batch in batches():
            features = model(batch)
            with torch.enable_grad():
                loss = (features * head).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    report = session.report

Good::

    import torch
    from gradcheck_suite import watch

    def evaluate(model):
        before = torch.is_grad_enabled()
        torch.set_grad_enabled(False)
        try:
            return model(torch.randn(4, 3)).mean()
        finally:
            torch.set_grad_enabled(before)

    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    with watch() as session:
        model(torch.randn(4, 3)).mean().backward()
        evaluate(model)
    report = session.report

Good::

    import torch
    from gradcheck_suite import watch

    @torch.no_grad()
    def batches():  # torch switches at every yield
        for _ in range(2):
            yield torch.randn(4, 3)

    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch() as session:
        for batch in batches():
            optimizer.zero_grad()
            model(batch).mean().backward()
            optimizer.step()
    report = session.report

Good::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch() as session:
        for phase in ("train", "val", "train"):
            with torch.set_grad_enabled(phase == "train"):
                loss = model(torch.randn(4, 3)).mean()
            if phase == "train":
                optimizer.zero_grad()
                loss.backward()
                with torch.no_grad():
                    optimizer.step()
    report = session.report

Misses: a switch in a script's own body, as long as no backward fails because of it, and a mode that was on for too long.
"""

from __future__ import annotations

from ..evidence import Finding, Location, Severity
from .registry import Rule, rule

__all__ = ["GradModeLeak"]


@rule("GC504", "grad-mode-leak", Severity.WARNING)
class GradModeLeak(Rule):
    """Turns a switch that outlived its function into a finding."""

    @classmethod
    def from_switch(cls, location: Location | None, *, suspended: bool, inference: bool) -> Finding:
        """Gradients are off because of a function that does not run any more.

        Args:
            location: where they were switched off.
            suspended: the function is a generator that waits inside the block.
            inference: by inference mode.
        """
        name = "inference mode" if inference else "grad mode"
        state = "left on" if inference else "left off"
        who = (
            "the generator that has entered the block is suspended inside it, and its caller runs in that mode"
            if suspended
            else "the function that has set it has returned"
        )
        return cls.finding(
            [f"{name} was {state}: {who}", "what runs from here on builds no graph"],
            location=location,
            evidence={"suspended": suspended, "inference": inference},
            hint="leave the block before every yield, or decorate the generator with @torch.no_grad()"
            if suspended
            else "use it as `with torch.no_grad():`, which switches back also after an exception",
        )

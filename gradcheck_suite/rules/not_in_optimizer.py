"""A parameter receives gradients, and belongs to no optimizer that steps.

Why: its gradient is computed in every backward and never used; the parameter keeps its initial value. Mostly a layer
    was added after the optimizer was made, or a list of parameters was written by hand and one was forgotten.

Bad::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    model.append(torch.nn.Linear(4, 1))
    with watch() as session:
        for _ in range(3):
            model.zero_grad()
            model(torch.randn(4, 3)).pow(2).mean().backward()
            optimizer.step()  # <-
    report = session.report

Bad::

    import torch
    from gradcheck_suite import watch

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = torch.nn.Linear(3, 4), torch.nn.Linear(4, 1)
            self.scale = torch.nn.Parameter(torch.ones(4))

        def forward(self, x):
            return self.head(self.body(x).tanh() * self.scale)

    torch.manual_seed(0)
    net = Net()
    optimizer = torch.optim.Adam([*net.body.parameters(), *net.head.parameters()])
    with watch() as session:
        for _ in range(3):
            net.zero_grad()
            net(torch.randn(4, 3)).pow(2).mean().backward()
            optimizer.step()  # <-
    report = session.report

Bad::

    import torch
    from gradcheck_suite import watch

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = [torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)]  # a list hides them
            self.head = torch.nn.Linear(3, 1)

        def forward(self, x):
            for layer in self.layers:
                x = layer(x).tanh()
            return self.head(x)

    def main():
        net = Net()
        optimizer = torch.optim.Adam(net.parameters())
        for _ in range(3):
            optimizer.zero_grad()
            net(torch.randn(4, 3)).pow(2).mean().backward()
            optimizer.step()  # <-

    torch.manual_seed(0)
    with watch() as session:
        main()
    report = session.report

Good::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    model[0].requires_grad_(False)  # frozen: it gets no gradient
    optimizer = torch.optim.SGD(model[2].parameters(), lr=0.01)
    with watch() as session:
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.randn(4, 3)).pow(2).mean().backward()
            optimizer.step()
    report = session.report

Good::

    import torch
    from gradcheck_suite import watch

    class ActorCritic(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.actor, self.critic = torch.nn.Linear(3, 2), torch.nn.Linear(3, 1)

        def forward(self, x):
            return self.actor(x), self.critic(x)

    torch.manual_seed(0)
    net = ActorCritic()
    for_actor = torch.optim.SGD(net.actor.parameters(), lr=0.01)
    for_critic = torch.optim.SGD(net.critic.parameters(), lr=0.01)
    with watch() as session:
        for number in range(3):
            net.zero_grad()
            policy, value = net(torch.randn(4, 3))
            (policy.pow(2).mean() + value.pow(2).mean()).backward()
            for_actor.step()  # the critic has an optimizer of its own, whose turn has not come
    report = session.report

Good::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    features = torch.nn.Linear(3, 4)  # only looked at: what is optimised is the picture
    picture = torch.randn(4, 3, requires_grad=True)
    optimizer = torch.optim.Adam([picture])
    with watch() as session:
        for _ in range(3):
            optimizer.zero_grad()
            features(picture).pow(2).mean().backward()
            optimizer.step()
    report = session.report

Good::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with watch() as session:
        for _ in range(3):
            x = torch.randn(4, 3)
            noise = torch.nn.Parameter(torch.zeros(4, 3))  # an adversarial example, new for every batch
            for _ in range(2):
                model(x + noise).pow(2).mean().backward()
                with torch.no_grad():
                    noise += 0.1 * noise.grad.sign()
                    noise.grad = None
            optimizer.zero_grad()
            model(x + noise.detach()).pow(2).mean().backward()
            optimizer.step()
    report = session.report

Misses: a module none of whose parameters is trained, a parameter that got a gradient only once, and a tensor that
    requires a gradient and is neither an nn.Parameter nor registered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..evidence import Finding, Location, RelatedLocation, Severity
from ..wording import listing, plural
from .registry import Rule, rule

__all__ = ["NotInOptimizer"]


@rule("GC503", "not-in-optimizer", Severity.WARNING)
class NotInOptimizer(Rule):
    """Turns parameters that are never trained into one finding per model."""

    @classmethod
    def from_names(
        cls,
        sizes: Mapping[str, int],
        *,
        optimizers: Sequence[str],
        location: Location | None,
        backward: Location | None,
        registered: bool = True,
    ) -> Finding:
        """Parameters of a model that is trained, which no optimizer holds.

        Args:
            sizes: number of elements by dotted name.
            optimizers: classes of the optimizers that step.
            location: a line where one of them steps.
            backward: the backward that makes the gradients.
            registered: False when no model knows them, so that ``parameters()`` leaves them out.
        """
        names = list(sizes)
        verb = "receives a gradient and belongs" if len(names) == 1 else "receive gradients and belong"
        return cls.finding(
            [
                f"{listing(names)} ({plural(sum(sizes.values()), 'element')}) {verb} to no optimizer; "
                f"what steps is {listing(list(dict.fromkeys(optimizers)))}",
                *(() if registered else ("no module that was called has it among its parameters()",)),
                "its value stays what it was at the beginning"
                if len(names) == 1
                else "their values stay what they were at the beginning",
            ],
            location=location,
            related=() if backward is None else (RelatedLocation("gradient made by", backward),),
            evidence={"parameters": names, "elements": sum(sizes.values())},
            hint=_HINT if registered else _UNREGISTERED,
        )


_HINT = (
    "make the optimizer after the model is complete, from model.parameters(); if they are meant to stay as "
    "they are, requires_grad_(False) saves the work"
)
_UNREGISTERED = (
    "a module finds parameters and layers in its attributes only: keep lists of layers in nn.ModuleList, dictionaries of "
    "parameters in nn.ParameterDict, before the optimizer is made"
)

"""``model.forward(x)`` is called where ``model(x)`` was meant.

Why: calling the module runs its hooks and then ``forward``; calling ``forward`` skips them. Forward hooks collect
    features, spectral and weight norm recompute weights, distributed wrappers synchronise gradients, and pruning masks
    weights there: without a word none of that happens.

Bad::

    import torch
    from gradcheck_suite import watch

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(3, 1)

        def forward(self, x):
            return self.linear(x).tanh()

    net = Net()
    with watch() as session:
        out = net.forward(torch.ones(2, 3))  # <-
        out.sum().backward()
    report = session.report

Bad::

    import torch
    from gradcheck_suite import watch

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(3))

        def forward(self, x):
            return x * self.scale

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.block = Block()

        def forward(self, x):
            return self.block.forward(x).sum()  # <-

    net = Net()
    with watch() as session:
        for _ in range(2):
            net(torch.ones(2, 3)).backward()
            net.zero_grad()
    report = session.report

Good::

    import torch
    from gradcheck_suite import watch

    class Base(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(3, 1)

        def forward(self, x):
            return self.linear(x).tanh()

    class Derived(Base):
        def forward(self, x):
            return super().forward(x) * 2

    with watch() as session:
        Derived()(torch.ones(2, 3)).sum().backward()
    report = session.report

Good::

    import torch
    from gradcheck_suite import watch

    class Scale:  # no module: it has no hooks
        def __init__(self, weight):
            self.weight = weight

        def forward(self, x):
            return x * self.weight

    weight = torch.ones(3, requires_grad=True)
    with watch() as session:
        Scale(weight).forward(torch.ones(2, 3)).sum().backward()
    report = session.report

Good::

    import torch
    from torch.utils.checkpoint import checkpoint
    from gradcheck_suite import watch

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(3, 3)

        def forward(self, x):
            return self.linear(x).tanh() * x

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.block = Block()

        def forward(self, x):
            return checkpoint(self.block, x, use_reentrant=False).sum()

    with watch() as session:
        Net()(torch.ones(2, 3, requires_grad=True)).backward()
    report = session.report

Misses: modules of torch itself, and a ``forward`` that does nothing but call other modules.
"""

from __future__ import annotations

from ..evidence import Finding, Location, RelatedLocation, Severity
from .registry import Rule, rule

__all__ = ["ForwardCalledDirectly"]


@rule("GC702", "forward-called-directly", Severity.WARNING)
class ForwardCalledDirectly(Rule):
    """Turns a forward that ran without its module's call into a finding."""

    @classmethod
    def from_call(cls, location: Location, module_class: str, inside: Location, *, hooks: int) -> Finding:
        """A module's forward ran, and nobody had called the module.

        Args:
            location: the line that called ``forward``.
            module_class: the module's class.
            inside: a line of that ``forward``.
            hooks: how many hooks of the module were skipped.
        """
        skipped = f"its {hooks} hooks were skipped" if hooks > 1 else "its hook was skipped"
        return cls.finding(
            [
                f"{module_class}.forward is called directly: "
                + (skipped if hooks else "hooks, if there were any, would be skipped")
            ],
            location=location,
            related=[RelatedLocation("forward", inside)],
            evidence={"hooks": hooks},
            hint="call the module: model(x) instead of model.forward(x)",
        )

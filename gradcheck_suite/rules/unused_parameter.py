"""A trainable parameter never receives a gradient.

Why: it is carried through every optimizer step, checkpoint and all-reduce and never learns. Often a layer was
    defined and then forgotten in ``forward``, or its result is not used for the loss. Distributed training fails on
    it with a message about reduction.

Bad::

    import torch
    from gradcheck_suite import check_gradients

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first = torch.nn.Linear(3, 4)
            self.forgotten = torch.nn.Linear(4, 4)
            self.last = torch.nn.Linear(4, 2)

        def forward(self, x):
            return self.last(self.first(x).tanh())

    torch.manual_seed(0)
    report = check_gradients(Net(), torch.randn(5, 3))

Bad::

    import torch
    from gradcheck_suite import check_gradients

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Linear(3, 4)
            self.scale = torch.nn.Parameter(torch.ones(4))
            self.last = torch.nn.Linear(4, 2)

        def forward(self, x):
            hidden = self.inner(x)
            scaled = hidden * self.scale  # computed, and not passed on
            return self.last(hidden)

    torch.manual_seed(0)
    report = check_gradients(Net(), torch.randn(5, 3))

Bad::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    body, head = torch.nn.Linear(3, 4), torch.nn.Linear(4, 1)
    optimizer = torch.optim.Adam([*body.parameters(), *head.parameters()])
    with watch() as session:
        for _ in range(20):
            optimizer.zero_grad()
            features = body(torch.randn(5, 3)).tanh().detach()  # cuts the body off
            head(features).pow(2).mean().backward()
            optimizer.step()  # <-
    report = session.report

Bad::

    import torch
    from gradcheck_suite import watch

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.ModuleList(torch.nn.Linear(3, 3) for _ in range(3))

        def forward(self, x):
            for layer in self.layers[:-1]:  # and the last one?
                x = layer(x).tanh()
            return x

    torch.manual_seed(0)
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    with watch() as session:
        for _ in range(12):
            optimizer.zero_grad()
            net(torch.randn(5, 3)).pow(2).mean().backward()
            optimizer.step()  # <-
    report = session.report

Good::

    import torch
    from gradcheck_suite import check_gradients

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first = torch.nn.Linear(3, 4)
            self.last = torch.nn.Linear(4, 2)

        def forward(self, x):
            return self.last(self.first(x).tanh())

    torch.manual_seed(0)
    report = check_gradients(Net(), torch.randn(5, 3))

Good::

    import torch
    from gradcheck_suite import check_gradients

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    model[0].requires_grad_(False)  # frozen on purpose
    report = check_gradients(model, torch.randn(5, 3))

Good::

    import torch
    from gradcheck_suite import check_gradients

    class Residual(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Linear(4, 4)
            self.gate = torch.nn.Parameter(torch.zeros(1))  # it begins closed: the inner gradient is zero, and arrives

        def forward(self, x):
            return x + self.gate * self.inner(x)

    torch.manual_seed(0)
    report = check_gradients(Residual(), torch.randn(5, 4))

Good::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    experts = torch.nn.ModuleList(torch.nn.Linear(3, 1) for _ in range(3))
    optimizer = torch.optim.SGD(experts.parameters(), lr=0.01)
    with watch() as session:
        for step in range(24):  # each has its turn, some of them late
            optimizer.zero_grad(set_to_none=True)
            experts[step // 8](torch.randn(5, 3)).pow(2).mean().backward()
            optimizer.step()
    report = session.report

Good::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    body, head = torch.nn.Linear(3, 4), torch.nn.Linear(4, 1)
    body.requires_grad_(False)  # frozen until further notice; the optimizer may hold it already
    optimizer = torch.optim.Adam([*body.parameters(), *head.parameters()])
    with watch() as session:
        for _ in range(20):
            optimizer.zero_grad()
            head(body(torch.randn(5, 3)).tanh()).pow(2).mean().backward()
            optimizer.step()
    report = session.report

Misses: a parameter that other inputs, another branch or another loss would use. ``watch`` looks at what an optimizer holds,
    after ten of its steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..evidence import Finding, Location, RelatedLocation, Severity
from ..wording import listing, plural
from .registry import Rule, rule

__all__ = ["UnusedParameter"]


@rule("GC502", "unused-parameter", Severity.WARNING)
class UnusedParameter(Rule):
    """Turns parameters without a gradient into one finding per module."""

    @classmethod
    def from_names(
        cls,
        names: Sequence[str],
        sizes: Mapping[str, int] | None = None,
        *,
        location: Location | None = None,
        steps: int = 0,
        cuts: Sequence[tuple[Location, str]] = (),
    ) -> list[Finding]:
        """One finding per owning module, so that a forgotten layer is one line, not one per tensor.

        Args:
            names: dotted names of the parameters.
            sizes: their numbers of elements, for the message.
            location: the line that steps the optimizer that holds them, if one does.
            steps: how many of its steps were seen.
            cuts: lines at which the graph was left, and by what.
        """
        by_module: dict[str, list[str]] = {}
        for name in names:
            by_module.setdefault(name.rpartition(".")[0], []).append(name)
        findings = []
        for module, group in by_module.items():
            total = sum((sizes or {}).get(name, 0) for name in group)
            size = f" ({plural(total, 'element')})" if total else ""
            verb = "requires" if len(group) == 1 else "require"
            findings.append(
                cls.finding(
                    [
                        f"{listing(group)}{size} {verb} a gradient and never {verb.replace('require', 'receive')} one",
                        *(
                            [f"none of the {steps} steps of the optimizer that holds them had one"]
                            if steps
                            else ()
                        ),
                    ],
                    location=location,
                    related=[RelatedLocation(f"graph left here ({what})", place) for place, what in cuts],
                    module=module,
                    evidence={"parameters": list(group), "elements": total},
                    hint=_CUT
                    if cuts
                    else "use it in forward, remove it, or set requires_grad_(False) if it is meant to stay fixed",
                )
            )
        return findings


_CUT = (
    "if its values pass one of the lines at which the graph is left, that is what keeps the gradient away; else use it in "
    "forward, remove it, or set requires_grad_(False) if it is meant to stay fixed"
)

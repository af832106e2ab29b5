"""The gradient grows along the depth of the model: its first layers get enormous gradients.

Why: weights that are too large multiply the gradient in every layer. The first step throws the first layers far away, and
    from then on the loss is NaN or does not move.


Bad::

    import torch
    from gradcheck_suite import watch

    class Sine(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(32, 32)  # a SIREN divides the initialisation by the 30 below

        def forward(self, x):
            return torch.sin(30 * self.linear(x))

    torch.manual_seed(0)
    model = torch.nn.Sequential(*[Sine() for _ in range(10)], torch.nn.Linear(32, 1))
    with watch() as session:
        model(torch.randn(8, 32)).pow(2).mean().backward()  # <-
    report = session.report

Bad::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    layers = []
    for _ in range(60):
        layers += [torch.nn.Linear(64, 64), torch.nn.Tanh()]
        torch.nn.init.normal_(layers[-2].weight, std=3 / 8)  # gain 3
    model = torch.nn.Sequential(*layers)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-12)
    with watch() as session:
        for _ in range(2):
            optimizer.zero_grad()
            loss = model(torch.randn(8, 64)).mean()
            loss.backward()  # <-
            optimizer.step()
    report = session.report

Good::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    layers = []
    for _ in range(20):
        layers += [torch.nn.Linear(16, 16), torch.nn.BatchNorm1d(16), torch.nn.ReLU()]
        torch.nn.init.normal_(layers[-3].weight, std=3.0)  # normalised away
    model = torch.nn.Sequential(*layers, torch.nn.Linear(16, 1))
    with watch() as session:
        model(torch.randn(8, 16)).pow(2).mean().backward()
    report = session.report

Good::

    import torch
    from gradcheck_suite import watch

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Linear(16, 16)
            self.outer = torch.nn.Linear(16, 16)
            torch.nn.init.zeros_(self.outer.weight)  # a block begins as the identity

        def forward(self, x):
            return x + self.outer(torch.relu(self.inner(x)))

    torch.manual_seed(0)
    model = torch.nn.Sequential(*[Block() for _ in range(12)], torch.nn.Linear(16, 1))
    with watch() as session:
        (1e6 * model(torch.randn(8, 16)).pow(2).mean()).backward()  # a large loss
    report = session.report

Good::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    body = torch.nn.Sequential(*[torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.Tanh()) for _ in range(8)])
    head = torch.nn.Linear(16, 2)
    torch.nn.init.normal_(head.weight, std=1e-7)  # policies begin undecided
    with watch() as session:
        head(body(torch.randn(8, 16))).pow(2).sum().backward()
    report = session.report

Misses: growth that activations and gradients share (linear layers with large weights: every layer's gradient is equally
    large), growth from iteration to iteration, and along time in a recurrent network. It looks at the first
    backward and then ever more rarely.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..evidence import Finding, Location, Severity
from ..wording import small
from .registry import Rule, rule

__all__ = ["ExplodingGradient"]


@rule("GC603", "exploding-gradient", Severity.WARNING)
class ExplodingGradient(Rule):
    """Turns the gradient scales of a model's layers into a finding."""

    @classmethod
    def from_layers(
        cls,
        *,
        location: Location | None,
        names: Sequence[str],
        scales: Sequence[float],
        layers: int,
        orders: float,
        activation: str,
    ) -> Finding:
        """The gradient grows steadily from the last layer to the first.

        Args:
            location: the line of the backward.
            names: some of the layers' weights, from the first layer to the last.
            scales: root mean squares of their gradients.
            layers: how many layers there are.
            orders: by how many orders of magnitude the last layers' gradients differ from the first ones'.
            activation: the nonlinearity in between, or "".
        """
        return cls.finding(
            [
                f"over {layers} layers the gradient grows by a factor of 1e{orders:.0f} from the last layer to the first",
                "root mean square of the gradient: "
                + ", ".join(f"{name} {small(scale)}" for name, scale in zip(names, scales)),
            ],
            location=location,
            evidence={"layers": list(names), "scales": list(scales), "orders": round(orders, 2)},
            hint="scale the initialisation with the width (kaiming_normal_, xavier_uniform_) or normalise; "
            "clip_grad_norm_ only hides it",
        )

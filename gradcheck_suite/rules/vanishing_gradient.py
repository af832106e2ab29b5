"""The gradient collapses along the depth of the model: its first layers do not learn.

Why: a saturating activation or too small an initialisation makes every layer pass on a fraction of the gradient that it
    gets. Over many layers nothing is left. The loss still falls a little, since the last layers learn.


Bad::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    layers = []
    for _ in range(20):
        layers += [torch.nn.Linear(16, 16), torch.nn.Sigmoid()]
    model = torch.nn.Sequential(*layers, torch.nn.Linear(16, 1))
    with watch() as session:
        model(torch.randn(8, 16)).pow(2).mean().backward()  # <-
    report = session.report

Bad::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    model = torch.nn.Sequential(*[torch.nn.Linear(32, 32) for _ in range(12)])
    for layer in model:
        torch.nn.init.normal_(layer.weight, std=0.02)  # however wide the layer is
    with watch() as session:
        out = model(torch.randn(8, 32))
        out.sum().backward()  # <-
    report = session.report

Good::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    layers = []
    for _ in range(20):
        layers += [torch.nn.Linear(16, 16), torch.nn.ReLU()]
        torch.nn.init.kaiming_normal_(layers[-2].weight, nonlinearity="relu")
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
        (1e-6 * model(torch.randn(8, 16)).pow(2).mean()).backward()  # a small loss
    report = session.report

Good::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    words = torch.nn.Embedding(1000, 16)
    encoder = torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 6)
    head = torch.nn.Linear(16, 1000)
    for p in encoder.layers[0].parameters():
        p.requires_grad_(False)
    with watch() as session:
        out = head(encoder(words(torch.randint(50, (4, 8)))))
        torch.nn.functional.cross_entropy(out.flatten(0, 1), torch.randint(1000, (32,))).backward()
    report = session.report

Misses: a collapse along time in a recurrent network, whose steps share their weights, and models of fewer than eight
    layers. It looks at the first backward and then ever more rarely.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..evidence import Finding, Location, Severity
from ..wording import small
from .registry import Rule, rule

__all__ = ["VanishingGradient"]


@rule("GC602", "vanishing-gradient", Severity.WARNING)
class VanishingGradient(Rule):
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
        """The gradient shrinks steadily from the last layer to the first.

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
                f"over {layers} layers the gradient shrinks by a factor of 1e{orders:.0f} from the last layer to the first",
                "root mean square of the gradient: "
                + ", ".join(f"{name} {small(scale)}" for name, scale in zip(names, scales)),
            ],
            location=location,
            evidence={"layers": list(names), "scales": list(scales), "orders": round(orders, 2)},
            hint=f"{activation} passes on a fraction of the gradient at best: use relu or gelu, normalisation or residual "
            "connections"
            if activation in ("sigmoid", "tanh", "softmax")
            else "scale the initialisation with the width (kaiming_normal_, xavier_uniform_), add normalisation or residual "
            "connections",
        )

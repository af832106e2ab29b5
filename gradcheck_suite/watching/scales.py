"""How large the gradients of a model's layers are, along its depth; looked at ever more rarely as a run goes on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import _disable_current_modes

from ..evidence import ArraySource, Location
from ..rules.exploding_gradient import ExplodingGradient
from ..rules.vanishing_gradient import VanishingGradient
from .collector import Collector
from .graphs import Graphs
from .names import Names
from .stretches import AccumulateGrad

__all__ = ["Scales", "largest"]

_FEWEST_LAYERS = 8
_ORDERS = 5.0
_SAME_DIRECTION = 0.7
_ONE_JUMP = 0.5
_SAMPLE = 2_048
_DENSE = 0.5
_ACTIVATIONS = ("Sigmoid", "Tanh", "Softmax", "Relu", "Gelu", "Elu", "Silu")


class Scales:
    """Compares the gradient of every layer with that of the layers behind it."""

    def __init__(self, graphs: Graphs, findings: Collector, names: Names) -> None:
        self._graphs = graphs
        self._findings = findings
        self._names = names

    def after(self, number: int, location: Location | None, nodes: Sequence[Any]) -> None:
        """Backward ``number`` has ended; its first, second, fourth, eighth ... is looked at."""
        if number & (number - 1):
            return
        layers = self._layers(nodes)
        if len(layers) < _FEWEST_LAYERS:
            return
        with _disable_current_modes(), torch.no_grad():
            measured = [(weight, _scale(weight.grad)) for weight in layers]
        if any(scale is None for _, scale in measured):
            return  # an overflow has rules of its own
        kept = [(weight, scale) for weight, scale in measured if scale]
        if len(kept) < _FEWEST_LAYERS:
            return
        logs = np.log10([scale for _, scale in kept if scale is not None])
        change = float(np.median(logs[-3:]) - np.median(logs[:3]))
        steps = np.diff(logs) * np.sign(change)
        if (
            abs(change) < _ORDERS
            or (steps > 0).mean() < _SAME_DIRECTION
            # One jump is a layer of its own scale: a zero-initialised head, a small weight on one loss.
            or steps.max() > _ONE_JUMP * abs(change)
        ):
            return
        rule = VanishingGradient if change > 0 else ExplodingGradient
        shown = [kept[i] for i in np.linspace(0, len(kept) - 1, 6).round().astype(int)]
        names = self._names.of([weight for weight, _ in shown])
        scales = [float(scale or 0.0) for _, scale in shown]

        def make() -> Any:
            return rule.from_layers(
                location=location,
                names=names,
                scales=scales,
                layers=len(kept),
                orders=abs(change),
                activation=_activation(nodes),
            )

        self._findings.add((rule.code, location), number, make)

    def _layers(self, nodes: Sequence[Any]) -> list[torch.Tensor]:
        """Weights with a gradient, in the order in which the forward used them."""
        first: dict[int, tuple[int, torch.Tensor]] = {}
        for node in nodes:
            for parent, _ in node.next_functions:
                if parent is None or type(parent) is not AccumulateGrad:
                    continue
                weight = parent.variable
                operation = self._graphs.operation(node)
                if operation is None or weight.dim() < 2 or "embedding" in operation.name:
                    continue  # rows of a table are no layer
                known = first.get(id(weight))
                if weight.grad is not None and (known is None or operation.index < known[0]):
                    first[id(weight)] = (operation.index, weight)
        return [weight for _, weight in sorted(first.values(), key=lambda entry: entry[0])]


def _scale(gradient: torch.Tensor | None) -> float | None:
    """Root mean square of the elements that are not zero; 0 if all are, None if one is not finite."""
    if gradient is None or gradient.layout is not torch.strided or gradient.is_meta:
        return 0.0
    gradient = gradient.detach()
    norm = float(torch._foreach_norm([gradient])[0])  # several times as fast as other norms
    if not 0 < norm < np.inf:
        norm = float(torch.linalg.vector_norm(gradient, dtype=torch.float64))
    if norm == 0 or not np.isfinite(norm):
        return 0.0 if norm == 0 else None
    return float(norm / _count(gradient) ** 0.5)


def _count(gradient: torch.Tensor) -> int:
    """How many elements are not zero, of a tensor that is not all zeros; of a large dense one, as a sample has it."""
    step = gradient.numel() // _SAMPLE
    if step > 1 and gradient.is_contiguous():
        sample = gradient.view(-1)[:: step | 1]
        share = int(torch.count_nonzero(sample)) / sample.numel()
        if share >= _DENSE:
            return round(share * gradient.numel())
    return max(1, int(torch.count_nonzero(gradient)))


def _activation(nodes: Sequence[Any]) -> str:
    """The nonlinearity that occurs most often, by its name in torch."""
    kinds = Counter(type(node).__name__ for node in nodes)
    found = [(kinds[f"{name}Backward0"], name) for name in _ACTIVATIONS if kinds[f"{name}Backward0"] > 1]
    return max(found)[1].lower() if found else ""


def largest(gradient: ArraySource | None) -> float:
    """The largest magnitude among the elements that are finite."""
    if gradient is None:
        return 0.0
    magnitudes = np.abs(gradient.array())
    return float(np.max(magnitudes, initial=0.0, where=np.isfinite(magnitudes)))

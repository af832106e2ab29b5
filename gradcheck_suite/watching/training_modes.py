"""Whether models are trained in training mode and evaluated in evaluation mode, where that makes a difference."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import torch

from ..capture.modules import ModuleStack
from ..capture.sources import SourceFinder
from ..evidence import Finding, Location
from ..rules.wrong_mode import WrongMode

__all__ = ["TrainingModes"]

_FEWEST_STEPS = 3
_MOST_KNOWN = 500
_DROPOUT = torch.nn.modules.dropout._DropoutNd
_NORM = torch.nn.modules.batchnorm._NormBase


@dataclass(slots=True)
class _Root:
    """What is known of a module that is called from outside of any module.

    Attributes:
        layers: its layers that behave differently in the two modes, by kind.
        streak: steps in a row that trained it while all of it was in evaluation mode.
        stepped_at: where those were.
        put_at: the line of the ``eval()`` that put it there.
        trained: a step has trained it.
        evaluated_rightly: it has run without gradients in evaluation mode.
        evaluated_wrongly: where its output in training mode was compared with targets, without gradients.
        evaluations: how often.
    """

    layers: list[tuple[str, weakref.ref[torch.nn.Module]]]
    streak: int = 0
    stepped_at: Location | None = None
    put_at: Location | None = None
    trained: bool = False
    evaluated_rightly: bool = False
    evaluated_wrongly: Location | None = None
    evaluations: int = 0


class TrainingModes:
    """Looks at every step, and at every call without gradients of a model that steps have trained."""

    def __init__(self, modules: ModuleStack, sources: SourceFinder) -> None:
        self._modules = modules
        self._sources = sources
        self._roots: weakref.WeakKeyDictionary[torch.nn.Module, _Root] = weakref.WeakKeyDictionary()
        self._known: list[tuple[str, _Root]] = []  # also when the module is gone
        self._put: weakref.WeakKeyDictionary[torch.nn.Module, Location | None] = weakref.WeakKeyDictionary()

    def putting_to_eval(self, module: torch.nn.Module) -> None:
        """``module.eval()`` is called."""
        self._put[module], _ = self._sources.find(1, look_for_function=False)

    # -- steps ---------------------------------------------------------------------------------------------------

    def before_step(self, optimizer: torch.optim.Optimizer, location: Location | None) -> None:
        """An optimizer begins to step."""
        if all(map(self._is_settled, self._modules._roots)):
            return
        roots = [module for module in self._modules._roots if self._is_trained(module, optimizer)]
        if not roots:
            return
        asleep = all(not getattr(module, "training", True) for module in roots)  # TorchScript's may lack it
        for module in roots:
            root = self._root(module)
            root.trained = True
            if not asleep or not self._all_inactive(root) or self._has_frozen(module):
                root.streak = 0
                continue
            if not root.streak:
                root.stepped_at, root.put_at = location, self._put.get(module)
            root.streak += 1

    def _is_settled(self, module: torch.nn.Module) -> bool:
        """Whether a step can change nothing of what is known of a module."""
        root = self._roots.get(module)
        if root is not None and root.trained:
            return not root.streak and bool(getattr(module, "training", False))
        return not module._parameters and not module._modules  # a loss, an activation

    def _is_trained(self, module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> bool:
        first = next((p for p in module.parameters() if p.grad is not None), None)
        return first is not None and any(
            p is first for group in optimizer.param_groups for p in group["params"]
        )

    def _all_inactive(self, root: _Root) -> bool:
        layers = [layer for _, reference in root.layers if (layer := reference()) is not None]
        return bool(layers) and not any(layer.training for layer in layers)

    def _has_frozen(self, module: torch.nn.Module) -> bool:
        # Who freezes a part fine-tunes, and keeps statistics as they are on purpose.
        return any(not p.requires_grad for p in module.parameters())

    def _root(self, module: torch.nn.Module) -> _Root:
        root = self._roots.get(module)
        if root is None:
            layers = [
                (type(layer).__name__, weakref.ref(layer)) for layer in module.modules() if _matters(layer)
            ]
            root = self._roots[module] = _Root(layers)
            if layers and len(self._known) < _MOST_KNOWN:
                self._known.append((type(module).__name__, root))
        return root

    # -- evaluation ----------------------------------------------------------------------------------------------

    def returned(self, module: torch.nn.Module, output: Any, mark: Any) -> None:
        """A module has returned.

        Args:
            module: that was called.
            output: what it returned.
            mark: called with what a trained model returned, in training mode and without gradients.
        """
        if torch.is_grad_enabled() or module not in self._modules._roots:
            return
        root = self._root(module)
        if not module.training:
            root.evaluated_rightly = True
        elif root.trained and any(
            layer.training for _, reference in root.layers if (layer := reference()) is not None
        ):
            mark(output, (root, self._sources.find(1, look_for_function=False)[0]))

    def compared(self, call: tuple[_Root, Location | None]) -> None:
        """What such a call returned went into a loss or was compared with targets."""
        root, location = call
        root.evaluated_wrongly = root.evaluated_wrongly or location
        root.evaluations += 1

    # -- what came of it -----------------------------------------------------------------------------------------

    def findings(self) -> list[Finding]:
        """Models that were still trained in evaluation mode at the last look, or only ever evaluated in training mode."""
        found = []
        for name, root in self._known:
            kinds = sorted({kind for kind, _ in root.layers})
            if root.streak >= _FEWEST_STEPS:
                found.append(
                    WrongMode.from_steps(name, kinds, root.stepped_at, put_at=root.put_at, steps=root.streak)
                )
            if root.evaluations and not root.evaluated_rightly:
                found.append(
                    WrongMode.from_evaluation(name, kinds, root.evaluated_wrongly, calls=root.evaluations)
                )
        return found


def _matters(layer: torch.nn.Module) -> bool:
    if isinstance(layer, _DROPOUT):
        return layer.p > 0
    return isinstance(layer, _NORM) and layer.track_running_stats

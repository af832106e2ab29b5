"""What is being checked: the call, its tensors and the recorded run, as every further witness is given it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..capture.inputs import PreparedCall
from .torch_reverse import ReverseRun

__all__ = ["Case"]


@dataclass(frozen=True, eq=False)
class Case:
    """One check, after its first run was recorded.

    Attributes:
        model: what was given to the check.
        prepared: the call, its differentiable inputs being leaves of their own.
        run: the recorded forward and backward.
        parameters: by dotted name.
        buffers: further tensors of the model.
        modules: the model's module, if it has one.
        loss: applied to the output, or None.
        wrt: patterns of names that were asked for, or None.
        seed: of everything random; a run that is to repeat the first begins inside ``rng_frozen(seed)``.
        restore: puts model, inputs and process back to before the first run; call it before every run of one's own.
        deadline: ``time.monotonic()`` after which optional work is not begun, or None.
    """

    model: Callable[..., Any]
    prepared: PreparedCall
    run: ReverseRun
    parameters: Mapping[str, torch.Tensor]
    buffers: Sequence[torch.Tensor]
    modules: Sequence[torch.nn.Module]
    loss: Callable[[Any], Any] | None
    wrt: Sequence[str] | None
    seed: int
    restore: Callable[[], None]
    deadline: float | None = None

    @property
    def leaves(self) -> Mapping[str, torch.Tensor]:
        """Parameters and inputs that the gradient is taken with respect to, by name."""
        return self.run.leaves

    def output(self) -> Any:
        """Run the model (and the loss) as it is; the caller has restored the state and froze the generators."""
        output = self.model(*self.prepared.args, **self.prepared.kwargs)
        return output if self.loss is None else self.loss(output)

    def seconds_left(self) -> float:
        """Until the deadline; infinite without one."""
        return float("inf") if self.deadline is None else self.deadline - time.monotonic()

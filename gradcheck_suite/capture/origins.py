"""The recorder's own nouns: where a node comes from, a running custom Function, a write during the backward."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch

from ..errors import CaptureError
from ..evidence import FunctionCall, Location, OpRecord, TensorRef
from .values import TensorValue

__all__ = ["BackwardWrite", "HalfRecorded", "NodeOrigin", "Segment", "UnrecordableError"]


@dataclass(eq=False, slots=True)
class NodeOrigin:
    """Which recorded operations an autograd node differentiates."""

    role: str
    ops: list[OpRecord] = field(default_factory=list)
    function: FunctionCall | None = None
    function_class: type | None = None
    base_before: TensorRef | None = None
    base_after: TensorRef | None = None
    view: TensorRef | None = None
    opaque: str = ""
    arguments: tuple[Any, ...] | None = None  # of a custom Function's forward, tensors as TensorRef
    returned: list[TensorRef] = field(
        default_factory=list
    )  # by it, where no operation's own result is what it returned


@dataclass(frozen=True)
class BackwardWrite:
    """A recorded value that was overwritten while the backward ran."""

    value: TensorValue
    op: str
    location: Location | None


class UnrecordableError(CaptureError):
    """A tensor of a kind that the recorder cannot follow."""

    def __init__(self, kind: str) -> None:
        super().__init__(
            f"recording an operation failed: it works on a {kind}. Its elements have no common shape that a gradient could "
            "be compared in. Convert it to padded or packed dense tensors before the part that is checked."
        )
        self.kind = kind


class Segment:
    """The operations of one running custom Function call."""

    __slots__ = ("call", "first_epoch", "frame", "origin", "outputs")

    def __init__(self, frame: FrameType, call: FunctionCall, first_epoch: int) -> None:
        self.frame: FrameType | None = frame
        self.call = call
        self.origin = NodeOrigin("function", function=call)
        self.outputs: list[tuple[torch.Tensor, TensorRef]] = []
        self.first_epoch = first_epoch


@dataclass(eq=False, slots=True)
class HalfRecorded:
    """An operation between its two halves."""

    op: OpRecord
    segment: Segment | None
    inputs: list[tuple[torch.Tensor, TensorRef]]
    before: list[tuple[torch.Tensor, TensorRef]]
    bases: list[tuple[torch.Tensor, TensorRef]]
    relooks: bool

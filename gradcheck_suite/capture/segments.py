"""Which operations belong to one call of a custom Function, and to the node that autograd makes for it."""

from __future__ import annotations

import inspect
from types import FrameType
from typing import Any

import numpy as np
import torch

from ..declare import surrogate_reason
from ..evidence import FunctionCall, OpRecord, TensorRef
from .identity import Identities
from .origins import NodeOrigin, Segment
from .sources import SourceFinder, function_line

__all__ = ["Segments", "node_of"]

_PLAIN = (bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size, np.ndarray)


class Segments(Identities):
    """The part of the recorder that follows the forwards of custom Functions."""

    sources: SourceFinder

    def __init__(self) -> None:
        super().__init__()
        self._calls = 0
        # Memory that the last forward without a node of its own wrote to (``scratch.data[0] = x; return scratch``).
        self._unclaimed: set[int] = set()
        self._epoch_clock = 0

    def _settle_one(self, tensor: torch.Tensor, ref: TensorRef, origin: NodeOrigin) -> None:
        """Say where the node comes from that made a tensor."""
        raise NotImplementedError

    def _segment_for(self, frame: FrameType | None) -> Segment | None:
        segment = self._segment
        if segment is not None and segment.frame is not frame:
            self._close_segment()
            segment = None
        if frame is not None and segment is None:
            self._calls += 1
            call = FunctionCall(self._calls, frame.f_code.co_name, self.sources.caller_of(frame))
            segment = self._segment = Segment(frame, call, self._epoch_clock)
            segment.origin.arguments = self._forward_arguments(frame)
        return segment

    def _forward_arguments(self, frame: FrameType) -> tuple[Any, ...] | None:
        """What a Function's forward was called with, seen at its first operation; None when that cannot be kept.

        Only plain values are kept besides tensors: any other object might hold a graph.
        """
        code = frame.f_code
        names = code.co_varnames[: code.co_argcount]
        values = [frame.f_locals.get(name) for name in names]
        if code.co_flags & inspect.CO_VARARGS:
            values.extend(frame.f_locals.get(code.co_varnames[code.co_argcount + code.co_kwonlyargcount], ()))
        if values and isinstance(values[0], type):  # a forward that is a class method
            del values[0]
        if values and isinstance(values[0], torch.autograd.function.FunctionCtx):
            del values[0]
        kept: list[Any] = []
        for value in values:
            if isinstance(value, torch.Tensor):
                kept.append(self._ref(value))
            elif value is None or isinstance(value, _PLAIN):
                kept.append(value)
            else:
                return None
        return tuple(kept)

    def _close_segment(self) -> None:
        segment = self._segment
        self._segment = None
        if segment is None:
            return
        segment.frame = None
        found = False
        last: dict[tuple[int, int], tuple[torch.Tensor, TensorRef]] = {}
        for tensor, ref in segment.outputs:
            node = node_of(tensor)
            if isinstance(node, torch.autograd.function.BackwardCFunction) and (
                self._set_origin(node, segment.origin) or self.origin_of(node) is segment.origin
            ):
                found = True
                ref.edge = (self.node_key(node), tensor.output_nr)
                ref.requires_grad = True
                last[ref.edge] = (tensor, ref)
                _describe_call(segment.call, segment.origin, node)
        for edge, (tensor, ref) in last.items():
            if ref.epoch == self._epochs.get(ref.storage, 0):
                continue
            # Written through a view after it was made (``out = torch.empty(...); out[0] = x``): what the Function returned
            # is its memory as it is now.
            for _, earlier in segment.outputs:
                if earlier.edge == edge:
                    earlier.edge, earlier.requires_grad = None, False
            segment.origin.returned.append(self._ref(tensor))
        self._unclaimed = set()
        if not found:
            self._unclaimed = {after.storage for op in segment.origin.ops for _, after in op.written}
            # Without a node (under no_grad, or nothing required grad) these are ordinary operations.
            for op in segment.origin.ops:
                op.function = None
            for tensor, ref in segment.outputs:
                self._settle_one(tensor, ref, NodeOrigin("unknown"))
        segment.outputs = []

    def _passed_through(self, node: Any, ref: TensorRef, op: OpRecord) -> None:
        """A Function that returns its own input: ``apply`` makes a view of it, after a forward without operations.

        Any other operation whose call could not be told must not pass for the Function's forward.
        """
        if ref.storage in self._unclaimed:
            return  # it changed what it returns in a way that autograd was not to see: no identity
        given = op.args[0] if op.name == "aten::view" and not op.grad_enabled else None
        if isinstance(given, TensorRef) and given.edge is not None and given.shape == ref.shape:
            self._calls += 1
            call = FunctionCall(self._calls, "", op.location)
            origin = NodeOrigin("function", [op], function=call)
            _describe_call(call, origin, node)
            self._set_origin(node, origin)


def node_of(tensor: torch.Tensor) -> Any:
    """The node that made a tensor that a Function's forward touched, or None.

    A view that the forward wrote through (``out[0] = x``) has none, and torch raises when it is asked: by then ``out`` has
    been returned and has a history that the view missed.
    """
    try:
        return tensor.grad_fn
    except RuntimeError:
        return None


def _describe_call(call: FunctionCall, origin: NodeOrigin, node: Any) -> None:
    cls = getattr(node, "_forward_cls", None)
    if cls is None:
        call.name = node.name().removesuffix("Backward")
        return
    origin.function_class = cls
    call.name = cls.__name__
    call.backward = function_line(cls, "backward") or function_line(cls, "vjp")
    call.surrogate = surrogate_reason(cls)

"""`Function`: an operation whose backward is written by hand, as in torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .errors import EngineError, GraphFreedError, InplaceError, NotDifferentiableError
from .modes import THREAD, no_grad
from .tape import Node
from .tensor import Tensor, Version, describe, wrap


class Context:
    """Carries values from a Function's forward to its backward; any attribute may be set on it.

    `needs_input_grad`: one bool per argument of `apply`.
    """

    def __init__(self, needs_input_grad: tuple[bool, ...]) -> None:
        self.needs_input_grad = needs_input_grad
        self._saved: tuple[tuple[Any, int], ...] = ()
        self._freed = False
        self._name = "Function"
        self._constants: tuple[Any, ...] = ()
        self._outputs: dict[int, tuple[FunctionNode, int, Version]] = {}

    def save_for_backward(self, *tensors: Any) -> None:
        """Keep tensors (None is allowed) for backward; a later write to them in place is noticed there."""
        self._saved = tuple((t, t._version[0] if isinstance(t, Tensor) else -1) for t in tensors)

    def mark_non_differentiable(self, *tensors: Tensor) -> None:
        """Declare outputs that carry no gradient."""
        self._constants = tensors

    @property
    def saved_tensors(self) -> tuple[Any, ...]:
        """What `save_for_backward` kept. Raises GraphFreedError after a backward without retain_graph,
        InplaceError when a saved tensor was overwritten."""
        if self._freed:
            raise GraphFreedError(
                f"reading the saved tensors of {self._name} failed: an earlier backward freed them. A graph is "
                f"good for one backward unless it is kept. Pass retain_graph=True to the earlier backward."
            )
        found: list[Any] = []
        for position, (kept, version) in enumerate(self._saved):
            if not isinstance(kept, Tensor):
                found.append(kept)
                continue
            node = self._outputs.get(position)
            cell = kept._version if node is None else node[2]
            if cell[0] != version:
                raise InplaceError(
                    f"backward through {self._name} failed: {describe(kept)}, saved by {self._name} at version "
                    f"{version}, is at version {cell[0]}. {cell[2]} overwrote it in place after it was saved. "
                    f"Use the out-of-place form of {cell[2]}, or clone() the tensor before it."
                )
            if node is not None:  # an output: hand it out with its place in the graph
                kept = wrap(kept.data)
                kept._requires_grad, kept._edge, kept._version = True, node[:2], cell
            found.append(kept)
        return tuple(found)


class FunctionNode(Node):
    """One execution of a Function."""

    __slots__ = ("context", "function", "single")

    def __init__(
        self, function: type[Function], context: Context, edges: Any, metas: Any, single: bool
    ) -> None:
        Node.__init__(self, edges, metas)
        self.function = function
        self.context = context
        self.single = single

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.function.__name__

    def pull(
        self, cotangents: list[Tensor | None], active: Sequence[bool] | None = None
    ) -> Sequence[Tensor | None]:
        given = [wrap(np.zeros(*meta)) if g is None else g for g, meta in zip(cotangents, self.metas)]
        answer = self.function.backward(self.context, *given)
        answers = answer if isinstance(answer, (tuple, list)) else (answer,)
        if len(answers) != len(self.edges):
            raise EngineError(
                f"backward through {self.name} failed: it returned {len(answers)} gradients for "
                f"{len(self.edges)} arguments of forward. There is one per argument, None for constants. "
                f"Return as many."
            )
        return [None if a is None else a if isinstance(a, Tensor) else Tensor(a) for a in answers]

    def release(self) -> None:
        if self.context._saved:
            self.context._freed = True
            self.context._saved = ()
            self.context._outputs = {}


class Function:
    """Base of operations with a hand-written backward.

    Subclasses define static methods `forward(ctx, *args)`, which runs unrecorded and returns a Tensor,
    an ndarray or a tuple of them, and `backward(ctx, *cotangents)`, which returns one gradient per
    argument of forward (None for constants) and is written in engine operations if it is to be
    differentiated again. Call `apply(*args)`.
    """

    @staticmethod
    def forward(ctx: Context, *args: Any) -> Any:
        raise NotImplementedError("a Function defines forward(ctx, *args)")

    @staticmethod
    def backward(ctx: Context, *cotangents: Any) -> Any:
        raise NotImplementedError("a Function defines backward(ctx, *cotangents)")

    @classmethod
    def apply(cls, *args: Any) -> Any:
        """Run forward and record the Function as one node."""
        wanted = tuple(isinstance(a, Tensor) and a._requires_grad for a in args)
        if THREAD.mode.levels and any(isinstance(a, Tensor) and a._tangents for a in args):
            raise NotDifferentiableError(
                f"forward mode through {cls.__name__} failed: a Function has a backward and no JVP. Its "
                f"derivative in forward mode is unknown. Use reverse mode, or write it with primitives."
            )
        context = Context(wanted)
        context._name = cls.__name__
        with no_grad():
            returned = cls.forward(context, *args)
        single = not isinstance(returned, tuple)
        outs = [_output(o, args) for o in ((returned,) if single else returned)]
        if THREAD.mode.grad and any(wanted):
            edges = tuple(a._gradient_edge() if w else None for a, w in zip(args, wanted))
            metas = tuple((o.shape, o.dtype) for o in outs)
            node = FunctionNode(cls, context, edges, metas, single)
            originals = (returned,) if single else returned
            for index, (out, original) in enumerate(zip(outs, originals)):
                if any(original is c for c in context._constants) or out.dtype.kind not in "fc":
                    continue
                out._requires_grad, out._edge = True, (node, index)
                for position, (kept, _) in enumerate(context._saved):
                    if kept is original and not any(kept is a for a in args):
                        context._saved = _replace(context._saved, position, wrap(out.data))
                        context._outputs[position] = (node, index, out._version)
        return outs[0] if single else tuple(outs)


def _replace(
    saved: tuple[tuple[Any, int], ...], position: int, tensor: Tensor
) -> tuple[tuple[Any, int], ...]:
    """The saved pairs with an output exchanged for a tensor that does not refer to the node."""
    return (*saved[:position], (tensor, saved[position][1]), *saved[position + 1 :])


def _output(value: Any, args: tuple[Any, ...]) -> Tensor:
    """What forward returned, as a tensor of its own (forward may return an argument as it is)."""
    if not isinstance(value, Tensor):
        return Tensor(value)
    if any(value is a for a in args):
        twin = wrap(value.data)
        twin._version[1] = value._version[1] = True
        return twin
    return value

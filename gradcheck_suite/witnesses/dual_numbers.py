"""A run of torch under dual numbers, with the tangents that every operation and custom Function received and returned.

What it relies on:

- A leaf is given its tangent in place: a zero that carries the tangent is added to it, without a version, so whoever
  holds the leaf (a module, a closure, an optimizer) holds the dual number. Leaving the level takes all tangents away.
- A dispatch handler runs below autograd, where tensors still carry their tangents but may not be asked for them; they
  can be once autograd's keys are let in again.
- torch computes a tangent by operations of its own, after the operation itself. Those work on tangents and on primals
  that were stripped, so none of their arguments carries a tangent; that tells the two kinds apart. Only ``alias``,
  ``detach`` and ``clone`` see the dual number itself on the way.
- The tangent of a result is set after the handler has returned, so it is read when the next operation on dual numbers
  arrives.
- Every custom ``jvp`` is called by ``BackwardCFunction.apply_jvp``, with the tangents as they were received.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.autograd import forward_ad
from torch.autograd.function import BackwardCFunction
from torch.autograd.grad_mode import _unsafe_preserve_version_counter

from ..capture.dynamo import skip_by_dynamo
from ..capture.modules import ModuleStack
from ..capture.origins import NodeOrigin
from ..capture.outputs import unusual_seed
from ..capture.recorder import Recorder
from ..capture.traits import read_traits, tensors_of
from ..capture.undisturbed import undisturbed
from ..capture.values import to_array
from ..evidence import Array, Location, OpRecord, TensorRef
from ..replay.forward import Stretch
from ..replay.memory import is_differentiable
from ..replay.segment import tensors_in

__all__ = ["DualRecorder", "FunctionPush", "Push", "drawn_tangent", "dual_leaves", "tangent_of"]

_KEYS = (torch._C.DispatchKey.AutogradFunctionality, torch._C.DispatchKey.ADInplaceOrView)
# torch asks these of dual numbers while it works on another operation, which is not finished when they arrive. Asking a
# view for its tangent at that time would set it, and torch would find it set already.
_IN_BETWEEN = frozenset(
    {
        "aten::alias",
        "aten::detach",
        "aten::detach_",
        "aten::lift_fresh",
        "aten::is_same_size",
        "aten::_has_same_storage_numel",
        "aten::_new_zeros_with_same_feature_meta",
        "aten::_local_scalar_dense",
        "aten::resize_",
        "aten::set_.source_Tensor",
    }
)


_ASKED_UNDER_A_LOCK = frozenset({"aten::is_same_size", "aten::_has_same_storage_numel"})
# Untyped in torch.
_make_dual: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = forward_ad.make_dual


def tangent_of(tensor: torch.Tensor) -> torch.Tensor | None:
    """The tangent that a tensor carries at the present level, or None; also from within a dispatch handler."""
    exclude = torch._C._dispatch_tls_local_exclude_set()
    for key in _KEYS:
        exclude = exclude.remove(key)
    include = torch._C._dispatch_tls_local_include_set()
    # Where forward mode is switched off, as in a Function's forward, no tensor admits to a tangent.
    with torch._C._ForceDispatchKeyGuard(include, exclude), forward_ad._set_fwd_grad_enabled(True):
        return torch._VF._unpack_dual(tensor, level=0)[1]


def drawn_tangent(tensor: torch.Tensor, seed: int) -> torch.Tensor:
    """A standard normal tangent (complex normal for complex tensors), drawn in float64 on the CPU."""
    generator = torch.Generator().manual_seed(unusual_seed(seed))
    wide = torch.complex128 if tensor.is_complex() else torch.float64
    drawn = torch.randn(tensor.shape, generator=generator, dtype=wide)
    return drawn.to(device=tensor.device, dtype=tensor.dtype)


@contextmanager
def dual_leaves(leaves: Mapping[str, torch.Tensor], tangents: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Inside, the leaves carry these tangents; afterwards, also after an exception, no tensor carries one.

    Raises:
        RuntimeError: torch's, when a leaf cannot be written to or has a layout without dual numbers.
    """
    with forward_ad.dual_level():
        for name, leaf in leaves.items():
            # Minus zero is the one number that changes nothing when it is added, not even the sign of a zero.
            zero = complex(-0.0, -0.0) if leaf.is_complex() else -0.0
            nothing = torch.full_like(leaf, zero, requires_grad=False)
            with torch.no_grad(), _unsafe_preserve_version_counter(leaf):
                leaf.add_(_make_dual(nothing, tangents[name]))
        yield


@dataclass(eq=False)
class Push:
    """One operation and its tangents.

    Attributes:
        op: as recorded.
        inputs: the arguments that carried a tangent, and those.
        outputs: what it returned or wrote, with the tangent that it carried afterwards; None for none.
        tracked: per output, whether autograd tracks it.
    """

    op: OpRecord
    inputs: list[tuple[TensorRef, Array]]
    outputs: list[tuple[TensorRef, Array | None]] = field(default_factory=list)
    tracked: list[bool] = field(default_factory=list)

    @property
    def location(self) -> Location | None:
        """The user's line."""
        return self.op.location

    def stretch(self) -> Stretch:
        """It alone."""
        return Stretch(self.op.name, (self.op,), [r for r, _ in self.inputs], [r for r, _ in self.outputs])


@dataclass(eq=False)
class FunctionPush:
    """One call of a custom ``jvp``.

    Attributes:
        cls: the Function.
        node: its autograd node, which the recorder knows the forward by.
        received, returned: tangents; None where it got or gave None.
        finished: False when it raised.
        location: the user's line that called ``apply``, as far as it could be told.
        module: dotted path.
    """

    cls: type
    node: Any
    received: list[Array | None]
    returned: list[Array | None] = field(default_factory=list)
    finished: bool = False
    location: Location | None = None
    module: str = ""


class DualRecorder(Recorder):  # type: ignore[no-untyped-call]  # torch's __init_subclass__ is untyped
    """A recorder that also keeps the tangents; use inside :func:`dual_leaves`, by :meth:`watching_functions`.

    Attributes:
        pushes: operations on dual numbers, in order.
        calls: custom ``jvp`` calls, in order.
    """

    def __init__(self, modules: ModuleStack | None = None, known: Any = ()) -> None:
        super().__init__(modules, known)
        self.pushes: list[Push] = []
        self.calls: list[FunctionPush] = []
        # With the arguments of a view: its tangent is a view of theirs, and a write in between changes both.
        self._unread: list[tuple[Push, list[torch.Tensor], list[torch.Tensor]]] = []
        # A conjugate or negative view reaches most operations as a copy made below autograd, without its tangent.
        self._resolved: dict[int, tuple[torch.Tensor, Array | None]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        plain = all(t is torch.Tensor or t is torch.nn.Parameter for t in types)
        if any(t.is_meta for t in tensors_of(args)):
            # torch asks its own reference implementation for the shape of a product with zeros: no operation of the model's.
            return undisturbed(func, args, kwargs)
        forward = torch._C._is_fwd_grad_enabled()
        if not plain or (not forward and not self._unread):
            return super().__torch_dispatch__(func, types, args, kwargs)
        name = func.name() if hasattr(func, "name") else str(func)
        if not forward:
            if self.sources.find(1, look_for_function=True)[1] is not None:
                self.read()
            return super().__torch_dispatch__(func, types, args, kwargs)
        if name in _ASKED_UNDER_A_LOCK:
            # The recorder would ask other tensors for their grad_fn, of which torch may hold one's lock.
            return undisturbed(func, args, kwargs)
        if name in _IN_BETWEEN:
            return super().__torch_dispatch__(func, types, args, kwargs)
        given = [*tensors_of(args), *tensors_of(kwargs.values())]
        carried = [self._carried(t) for t in given]
        if all(t is None for t in carried):
            return super().__torch_dispatch__(func, types, args, kwargs)
        views = read_traits(func).views
        if not views:
            # Autograd may be making the node of a written view anew, and holds that view's lock meanwhile.
            self.read()
        count = len(self.ops)
        lazy = any(t.is_conj() or t.is_neg() for t in given)
        out = super().__torch_dispatch__(func, types, args, kwargs)
        if name == "aten::clone" and lazy:
            self._resolved[id(out)] = out, carried[0]
        elif lazy and self.ops[count:] and self.ops[-1].written:
            return out  # the last step of a write through a conjugate view, whose tangent is not there yet
        if len(self.ops) == count + 1 and self.ops[-1].function is None:
            self._note(self.ops[-1], given, carried, out, views=views)
        return out

    def _carried(self, tensor: torch.Tensor) -> Array | None:
        known = self._resolved.get(id(tensor))
        return _array(tensor) if known is None else known[1]

    def _note(
        self, op: OpRecord, given: list[torch.Tensor], carried: list[Array | None], out: Any, *, views: bool
    ) -> None:
        refs = tensors_in((op.args, op.kwargs), TensorRef)
        if len(refs) != len(given):
            return
        push = Push(op, [(ref, t) for ref, t in zip(refs, carried) if t is not None])
        results = list(tensors_of(out if isinstance(out, list | tuple) else (out,)))
        wanted = tensors_in((op.outputs,), TensorRef)
        pairs = list(zip(results, wanted)) if len(results) == len(wanted) else []
        for before, after in op.written:
            target = next((t for t, ref in zip(given, refs) if ref is before), None)
            if target is not None and all(t is not target for t, _ in pairs):
                pairs.append((target, after))
        pairs = [(t, ref) for t, ref in pairs if is_differentiable(ref.dtype)]
        if pairs:
            push.outputs = [(ref, None) for _, ref in pairs]
            looked_at = [t for t, tangent in zip(given, carried) if tangent is not None] if views else []
            self._unread.append((push, [t for t, _ in pairs], looked_at))

    def read(self) -> None:
        """Take the tangents of results whose operations have finished."""
        for push, tensors, looked_at in self._unread:
            now = [self._carried(t) for t in looked_at]
            if looked_at and all(t is not None for t in now):
                push.inputs = [(ref, t) for (ref, _), t in zip(push.inputs, now) if t is not None]
            push.outputs = [(ref, _array(t)) for (ref, _), t in zip(push.outputs, tensors)]
            push.tracked = [t.requires_grad for t in tensors]
            self.pushes.append(push)
        self._unread.clear()

    def drop_unread(self) -> None:
        """Forget the operation that an exception interrupted."""
        self._unread.clear()

    @contextmanager
    def watching_functions(self) -> Iterator[None]:
        """While it lasts, calls of custom ``jvp`` functions are kept; works on every thread's calls of this run only."""
        original: Callable[..., Any] = BackwardCFunction.apply_jvp

        def apply_jvp(node: Any, *tangents: torch.Tensor | None) -> Any:
            location, _ = self.sources.find(0, look_for_function=False)
            call = FunctionPush(
                node._forward_cls,
                node,
                [None if t is None else _copied(t) for t in tangents],
                location=location,
                module=self._modules.current if self._modules is not None else "",
            )
            self.calls.append(call)
            returned = original(node, *tangents)
            flat = returned if isinstance(returned, tuple) else (returned,)
            call.returned = [_copied(t) if isinstance(t, torch.Tensor) else None for t in flat]
            call.finished = True
            return returned

        BackwardCFunction.apply_jvp = apply_jvp  # type: ignore[method-assign]
        try:
            yield
        finally:
            BackwardCFunction.apply_jvp = original  # type: ignore[method-assign]

    def stretch_of(self, call: FunctionPush) -> tuple[Stretch, list[Array | None], NodeOrigin] | str:
        """The recorded forward of a Function call with the tangents of its inputs; or why it is not known."""
        name = call.cls.__name__
        origin = self.origin_of(call.node)
        if origin is None or origin.function is None:
            return f"the forward of {name} ran no operation that could be recorded"
        arguments = origin.arguments
        if arguments is None and len(origin.ops) == 1 and len(call.received) == 1:
            arguments = origin.ops[0].args[:1]  # it returned its only input as it is
        if arguments is None or len(arguments) != len(call.received):
            return f"the arguments that {name} was called with are not known"
        inputs = [(ref, t) for ref, t in zip(arguments, call.received) if isinstance(ref, TensorRef)]
        inputs = [(ref, t) for ref, t in inputs if is_differentiable(ref.dtype)]
        key = self.node_key(call.node)
        slots: dict[int, TensorRef] = {}
        for op in origin.ops:
            for ref in tensors_in((op.outputs, [after for _, after in op.written]), TensorRef):
                if ref.edge is not None and ref.edge[0] == key:
                    slots[ref.edge[1]] = ref
        for ref in origin.returned:
            if ref.edge is not None:
                slots[ref.edge[1]] = ref
        outputs = [slots.get(slot) for slot in range(len(call.returned))]
        stretch = Stretch(name, origin.ops, [ref for ref, _ in inputs], outputs, origin.function)
        return stretch, [t for _, t in inputs], origin


def _array(tensor: torch.Tensor) -> Array | None:
    if not (tensor.is_floating_point() or tensor.is_complex()) or tensor.is_inference():
        return None
    tangent = tangent_of(tensor)
    return None if tangent is None else _copied(tangent)


def _copied(tensor: torch.Tensor) -> Array:
    return np.array(to_array(tensor.detach()))


skip_by_dynamo(DualRecorder.__torch_dispatch__.__code__)

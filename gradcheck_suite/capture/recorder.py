"""The recorder: sees every ATen operation of a run below autograd, with its real tensors.

What it relies on, and why it is written as it is:

- An output's ``grad_fn`` is set only *after* the dispatch handler has returned, so outputs are settled when the
  next operation arrives (for a custom Function: when its forward has ended).
- Inside ``Function.forward`` grad mode is off and no operation has a ``grad_fn``; the running forward's frame tells
  which call an operation belongs to.
- A write in place happens to memory, not to a tensor object: values are copied just before their memory is written.
- Nothing here may keep a graph alive: values are held as aliases without history, and what is known about a node is
  kept on the node itself (``node.metadata``), so that it dies with the graph.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack

from ..evidence import OpRecord, TensorRef
from .dynamo import skip_by_dynamo
from .identity import _storage_address
from .modules import ModuleStack
from .origins import BackwardWrite, HalfRecorded, NodeOrigin, Segment, UnrecordableError
from .segments import Segments, node_of
from .sources import SourceFinder, is_running
from .traits import OpTraits, any_requires_grad, read_traits, tensors_of
from .undisturbed import call_plainly, undisturbed
from .values import TensorValue
from .versions import advance

__all__ = ["Recorder"]

_PLAIN = (bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size, np.ndarray)


class Recorder(Segments, TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's __init_subclass__ is untyped
    """Records the forward of a run; during the backward it only protects values and notes who writes.

    Use as a context manager; :meth:`backward_phase` switches. After the run, ``ops`` and ``origin_of`` (a node)
    describe it; :mod:`gradcheck_suite.capture.graph` joins them with the autograd graph.

    Args:
        modules: gives the module path of each operation, or None.
        known: tensors that exist before the run (parameters, buffers, inputs): their memory has a known origin.
        keep_operations: keep every operation in ``ops``, which a replay of the whole run needs; otherwise an operation
            lives as long as the autograd node it belongs to.
        forgiving: a fault of the recorder's own stops the recording (``broken`` holds the traceback) instead of raising
            in the middle of somebody's program.
    """

    # A higher-order operator (cond, flex_attention) would otherwise raise under the mode.
    supports_higher_order_operators = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Wrapping the handler in dynamo's disable would import torch._dynamo (seconds) on the first operation.
        return False

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        """Leave, also where a mode that was entered later stays: a fixture's, say, that lives on after its set-up.

        Torch leaves whatever mode is innermost. The later ones are therefore taken off and put back, by the base class's
        methods: their own may do more (a FLOP counter prints its table when it is left).
        """
        modes = [m for m in _get_current_dispatch_mode_stack() if getattr(m, "_mode_key", None) is None]
        later = modes[modes.index(self) + 1 :] if self in modes else []
        for mode in reversed(later):
            TorchDispatchMode.__exit__(mode, None, None, None)  # type: ignore[no-untyped-call]
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        for mode in later:
            TorchDispatchMode.__enter__(mode)  # type: ignore[no-untyped-call]

    def __init__(
        self,
        modules: ModuleStack | None = None,
        known: Iterable[torch.Tensor] = (),
        *,
        keep_operations: bool = True,
        forgiving: bool = False,
    ) -> None:
        super().__init__()
        self.broken: str | None = None
        self.subclasses: set[str] = set()
        # Who observes the backward that runs now: the last one; re-entrant backwards nest.
        self.observed_by: list[object] = []
        self._forgiving = forgiving
        self.ops: list[OpRecord] = []
        self.backward_writes: list[BackwardWrite] = []
        self.sources = SourceFinder()
        self._modules = modules
        self._traits: dict[int, OpTraits] = {}
        self._keep_operations = keep_operations
        self._describes_later = not keep_operations
        self._operation_count = 0
        self._pending: list[tuple[torch.Tensor, TensorRef, NodeOrigin]] = []
        self._in_backward = False
        for tensor in known:
            self.register(tensor)

    # -- identities ----------------------------------------------------------------------------------------------

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.broken is not None:
            return undisturbed(func, args, kwargs)
        if types and any(t is not torch.Tensor and t is not torch.nn.Parameter for t in types):
            # A tensor subclass dispatches to itself; what it does inside arrives here again as plain operations.
            self.subclasses.update(t.__name__ for t in types)
            return undisturbed(func, args, kwargs)
        # By id, with the overload held beside it: torch hashes overloads by a method in Python.
        traits = self._traits.get(id(func))
        if traits is None:
            traits = self._traits[id(func)] = read_traits(func)
        if traits.blind and not self._keep_operations:
            return func(*args, **kwargs)  # profiler marks, at every step of an optimizer
        if _without_data(args):
            return undisturbed(func, args, kwargs)
        if self._in_backward and not torch.is_grad_enabled() and not self._runs_a_forward_again():
            if traits.effects:
                self._protect_in_backward(traits, args, kwargs)
            return undisturbed(func, args, kwargs)
        try:
            if not self._keep_operations and not self._matters(traits, args, kwargs):
                # No node can come of it; all that matters when watching is what it overwrites.
                if self._pending and not traits.views:
                    self._settle()  # the last results are held until the next operation, not for longer
                if traits.effects:
                    self._overwrite(traits, args, kwargs)
                call = None
            else:
                call = self._before(traits, args, kwargs)
        except UnrecordableError as error:
            self._leave_out(error)
            call = None
        except Exception:  # a watched program must not fail because its watcher did
            self._give_up()
            call = None
        if call is None:
            return undisturbed(func, args, kwargs)
        out = func(*args, **kwargs) if call_plainly(call.inputs) else undisturbed(func, args, kwargs)
        if self._keep_operations and traits.effects:  # who only watches is told of writes, and does so itself
            for tensor, _ in call.before:
                advance(traits.name, tensor)
        if isinstance(out, torch.Tensor):
            if out.is_meta:
                return out
        elif _without_data(out if isinstance(out, list | tuple) else (out,)):
            return out
        try:
            self._after(call, out)
        except UnrecordableError as error:
            self._leave_out(error)
        except Exception:  # likewise
            self._give_up()
        return out

    def _runs_a_forward_again(self) -> bool:
        """Whether a backward runs the forward of a custom Function, as a re-entrant checkpoint does; nobody looks here."""
        return False

    def _leave_out(self, error: UnrecordableError) -> None:
        """An operation on a tensor of a kind that cannot be recorded: refused when checking, noted when watching."""
        if not self._forgiving:
            raise error
        self.subclasses.add(error.kind)

    def _matters(self, traits: OpTraits, args: Any, kwargs: Any) -> bool:
        """Whether an operation can become part of a node: an input is tracked, or a custom Function is running.

        Inside a Function's forward grad mode is off and intermediate results require no grad.
        """
        if any_requires_grad(args) or (kwargs and any_requires_grad(kwargs.values())):
            return True
        if torch.is_grad_enabled():
            return False
        return self.sources.function(2) is not None

    def _give_up(self) -> None:
        """Stop recording after a fault of our own: loudly when checking, quietly noted when watching."""
        if not self._forgiving:
            raise
        self.broken = traceback.format_exc()
        self._pending.clear()
        self._segment = None

    def _before(self, traits: OpTraits, args: Any, kwargs: Any) -> HalfRecorded:
        grad_enabled = torch.is_grad_enabled()
        location, forward_frame = self.sources.find(2, look_for_function=True)
        segment: Segment | None = None
        # Autograd makes the node of a written complex or conjugate view anew by calling view operations while it holds
        # that view's lock: nobody may ask for its grad_fn from within. What is pending can wait for another operation.
        if (forward_frame is not None or self._segment is not None) and not (
            traits.views and forward_frame is None
        ):
            segment = self._segment_for(forward_frame)
        if not traits.views and self._pending:
            self._settle()
        inputs: list[tuple[torch.Tensor, TensorRef]] = []
        record = self._record_value
        # What an operation overwrites is its own to hold: nobody else may count it among what some node has saved.
        share = not traits.effects
        recorded: list[Any] = []
        for a in args:
            kind = type(a)
            if kind is torch.Tensor or kind is torch.nn.Parameter:
                ref = self._ref(a, share=share)
                inputs.append((a, ref))
                recorded.append(ref)
            elif a is None or kind is int or kind is float or kind is bool:
                recorded.append(a)
            else:
                recorded.append(record(a, inputs, share=share))
        record_kwargs = {k: record(v, inputs, share=share) for k, v in kwargs.items()} if kwargs else {}
        before = self._written_tensors(traits, args, kwargs, inputs) if traits.effects else []
        bases: list[tuple[torch.Tensor, TensorRef]] = []
        if before and segment is None:
            for _, ref in before:
                # No node saves what its own operation overwrites; a Function's forward may have saved it before that.
                if isinstance(ref.source, TensorValue):
                    ref.source.unsaved = True
        if before and not traits.relooks:
            for tensor, _ in before:
                base = tensor._base if tensor._is_view() else None
                if base is not None:
                    bases.append((base, self._ref(base)))
            for storage in {ref.storage for _, ref in before}:
                self.values.before_write(storage)
        # By position, in the order of the fields: this is made for every operation.
        op = OpRecord(
            self._operation_count,
            traits.name,
            tuple(recorded),
            record_kwargs,
            (),
            (),
            location,
            self._modules.current if self._modules is not None else "",
            None if segment is None else segment.call,
            grad_enabled,
            traits.random,
        )
        self._operation_count += 1
        return HalfRecorded(op, segment, inputs, before, bases, traits.relooks)

    def _after(self, call: HalfRecorded, out: Any) -> None:
        op = call.op
        if call.before and not call.relooks:
            for storage in {ref.storage for _, ref in call.before}:
                self._epoch_clock += 1
                self._epochs[storage] = self._epoch_clock
        outputs: list[tuple[torch.Tensor, TensorRef]] = []
        if isinstance(out, torch.Tensor):
            ref = self._ref(out, self._memory_of_result(out, call.inputs))
            self._known.add(ref.storage)
            ref.known = True
            outputs.append((out, ref))
            op.outputs = (ref,)
        else:
            flat = out if isinstance(out, list | tuple) else (out,)
            for item in tensors_of(flat):
                self._memory_of_result(item, call.inputs)
            op.outputs = tuple([self._record_value(o, outputs) for o in flat])
            for _, ref in outputs:
                self._known.add(ref.storage)
                ref.known = True
        if call.before:
            op.written = self._written_refs(call.before, outputs)
        if self._keep_operations:
            self.ops.append(op)
        self._note_outputs(op, call.segment, outputs, call.before, call.bases)

    def _memory_of_result(
        self, tensor: torch.Tensor, inputs: list[tuple[torch.Tensor, TensorRef]]
    ) -> int | None:
        """The number of the memory that an operation's result lives in; None where it has none of its own."""
        if tensor.layout is not torch.strided:
            return None
        pointer = _storage_address(tensor)
        number = self._storages.get(pointer)
        if number is not None:
            for _, ref in inputs:
                if ref.storage == number:
                    return number
        # Fresh memory, possibly at an address that earlier memory had.
        self._storage_count = number = self._storage_count + 1
        self._storages[pointer] = number
        return number

    def _written_refs(
        self, before: list[tuple[torch.Tensor, TensorRef]], outputs: list[tuple[torch.Tensor, TensorRef]]
    ) -> tuple[tuple[TensorRef, TensorRef], ...]:
        written = []
        for tensor, ref in before:
            after = next((r for t, r in outputs if t is tensor), None) or self._ref(tensor)
            after.known = True
            written.append((ref, after))
        return tuple(written)

    def _note_outputs(
        self,
        op: OpRecord,
        segment: Segment | None,
        outputs: list[tuple[torch.Tensor, TensorRef]],
        before: list[tuple[torch.Tensor, TensorRef]],
        bases: list[tuple[torch.Tensor, TensorRef]],
    ) -> None:
        results = outputs
        if before:
            results = list(outputs)
            for (tensor, _), (_, after) in zip(before, op.written):
                if not any(t is tensor for t, _ in results):
                    results.append((tensor, after))
        if segment is not None:
            segment.origin.ops.append(op)
            segment.outputs.extend(results)
            if op.grad_enabled:
                # A forward that turns gradients on differentiates something of its own, inside.
                inner = NodeOrigin("op", [op])
                self._pending.extend((tensor, ref, inner) for tensor, ref in results)
            return
        origin = NodeOrigin("op", [op])
        for tensor, ref in results:
            self._pending.append((tensor, ref, origin))
        for base, base_before in bases:
            base_after = self._ref(base)
            through = NodeOrigin("write-through-view", [op], base_before=base_before, base_after=base_after)
            self._pending.append((base, base_after, through))

    def _written_tensors(
        self, traits: OpTraits, args: Any, kwargs: Any, inputs: list[tuple[torch.Tensor, TensorRef]]
    ) -> list[tuple[torch.Tensor, TensorRef]]:
        if not traits.writes and not traits.writes_by_name:
            return []
        targets: list[torch.Tensor] = []
        for position in traits.writes:
            value = args[position] if position < len(args) else kwargs.get(traits.argument_names[position])
            targets.extend(tensors_of(value if isinstance(value, list | tuple) else (value,)))
        for name in traits.writes_by_name:
            value = kwargs.get(name)
            targets.extend(tensors_of(value if isinstance(value, list | tuple) else (value,)))
        return [next((t, ref) for t, ref in inputs if t is target) for target in targets]

    def _protect_in_backward(self, traits: OpTraits, args: Any, kwargs: Any) -> None:
        saved = self._overwrite(traits, args, kwargs)
        if saved:
            location, _ = self.sources.find(2, look_for_function=False)
            self.backward_writes.extend(BackwardWrite(value, traits.name, location) for value in saved)

    def _overwrite(self, traits: OpTraits, args: Any, kwargs: Any) -> list[TensorValue]:
        """Save what an unrecorded operation is about to overwrite; returns the values that had to be copied."""
        if traits.relooks:
            return []
        targets: list[torch.Tensor] = []
        for position in traits.writes:
            value = args[position] if position < len(args) else kwargs.get(traits.argument_names[position])
            targets.extend(tensors_of(value if isinstance(value, list | tuple) else (value,)))
        for name in traits.writes_by_name:
            value = kwargs.get(name)
            targets.extend(tensors_of(value if isinstance(value, list | tuple) else (value,)))
        saved: list[TensorValue] = []
        for target in targets:
            if target.layout is not torch.strided:
                continue
            number = self._storages.get(_storage_address(target))
            if number is None:
                continue
            saved.extend(self.values.before_write(number))
            self._epoch_clock += 1
            self._epochs[number] = self._epoch_clock
        return saved

    # -- custom Functions and settling ---------------------------------------------------------------------------

    def _settle(self) -> None:
        pending = self._pending
        if pending:
            for tensor, ref, origin in pending:
                self._settle_one(tensor, ref, origin)
            pending.clear()

    def _settle_one(self, tensor: torch.Tensor, ref: TensorRef, origin: NodeOrigin) -> None:
        if not tensor.requires_grad:
            return
        try:
            node = tensor.grad_fn
        except RuntimeError:
            return  # a view from under no_grad whose base was written to since: it is part of no graph
        if node is None:
            ref.requires_grad = True
            ref.edge = (self.leaf_key(tensor), 0)
            return
        entry = self._entry(node)
        ref.requires_grad = True
        ref.edge = (entry[0], tensor.output_nr)
        role = origin.role
        if role == "op":
            self._note_unsaved(node, ref, origin.ops[0])
        if role == "unknown" or entry[1] is not None:
            return
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            self._passed_through(node, ref, origin.ops[0])
            return
        if role != "write-through-view" and origin.ops[0].written:
            base = tensor._base if tensor._is_view() else None
            written = any(before.epoch != after.epoch for before, after in origin.ops[0].written)
            if base is not None and written and node_of(base) is not None:
                # The view's node was made anew after a write to its base: it reads the base, nothing else.
                if node.name() != "AsStridedBackward0":
                    return  # by operations of its own, which were recorded as they ran
                base_ref = self._ref(base)
                origin = NodeOrigin("view-of-written", origin.ops, base_after=base_ref, view=ref)
        entry[1] = origin

    def _note_unsaved(self, node: Any, ref: TensorRef, op: OpRecord) -> None:
        """Whether a node has saved what its operation made matters to those who watch; see :mod:`..watching.saved`."""

    # -- phases --------------------------------------------------------------------------------------------------

    def finish_forward(self) -> None:
        """Settle what is pending; call after the forward and before the backward.

        A custom Function whose forward is still running (it differentiates inside) stays open.
        """
        segment = self._segment
        if segment is None or not is_running(segment.frame):
            self._close_segment()
        self._settle()

    @property
    def runs_backward(self) -> bool:
        """Whether a backward is running."""
        return self._in_backward

    @contextmanager
    def backward_phase(self) -> Iterator[None]:
        """While it lasts, operations are not recorded; values are still protected from writes."""
        self.finish_forward()
        before = self._in_backward
        self._in_backward = True
        try:
            yield
        finally:
            self._in_backward = before

    def hold(self, tensor: torch.Tensor) -> TensorValue:
        """A protected value for a gradient seen in a hook.

        Raises:
            UnrecordableError: it is a tensor of a kind that cannot be followed.
        """
        if tensor.is_nested:
            raise UnrecordableError("nested tensor")
        value = TensorValue(tensor.detach())
        if tensor.layout is torch.strided:
            self.values.watch(self._storage(tensor), value)
        return value

    def origin_of_view(self, node: Any, view: TensorRef, base: TensorRef | None) -> NodeOrigin | None:
        """The origin of a view's node that autograd made anew when the view was read after a write to its base.

        Args:
            node: the node.
            view: what it produced.
            base: what the node before it produced.
        """
        if node.name() != "AsStridedBackward0" or not node.next_functions:
            return None
        parent, _ = node.next_functions[0]
        if parent is None:
            return None
        origin = self.origin_of(parent) if getattr(parent, "variable", None) is None else None
        if origin is not None and origin.base_after is not None:
            base = origin.base_after
        if base is None or base.storage != view.storage:
            return None
        ops = [] if origin is None else list(origin.ops)
        return NodeOrigin("view-of-written", ops, base_after=base, view=view)


def _without_data(values: Any) -> bool:
    """Whether a tensor among these is on the meta device: torch asks its reference implementations for shapes there."""
    for value in values:
        kind = type(value)
        if kind is torch.Tensor or kind is torch.nn.Parameter or isinstance(value, torch.Tensor):
            if value.is_meta:
                return True
        elif isinstance(value, (list, tuple)) and value and _without_data(value):
            return True
    return False


skip_by_dynamo(Recorder.__torch_dispatch__.__code__)

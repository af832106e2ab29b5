"""The recorder of a session: besides recording, it says who wrote into which memory, and where gradients flow by hand."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import CodeType
from typing import Any, Protocol

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from ..capture.dynamo import skip_by_dynamo
from ..capture.identity import _storage_address
from ..capture.modules import ModuleStack
from ..capture.recorder import Recorder
from ..capture.seen import SeenRef
from ..capture.traits import OpTraits, any_requires_grad
from ..evidence import Location, OpRecord
from .evaluations import Evaluations
from .explanations import Cuts
from .saved import Copies, is_foreign, results_saved
from .templates import Learning

__all__ = ["Flow", "WatchingRecorder", "Write", "WriteListener"]

_MOST_MEMORIES = 2_048
_MOST_STORAGES = 1_024
_WRITES_EACH = 4
_MOST_FLOWS = 512
_MOST_LINES = 10_000
_DIFFERENTIABLE = frozenset(
    dtype
    for dtype in vars(torch).values()
    if isinstance(dtype, torch.dtype) and (dtype.is_floating_point or dtype.is_complex)
)
_CUTS = {"aten::detach": "detach()", "aten::_local_scalar_dense": "item()"}


@dataclass(slots=True)
class Write:
    """An operation that wrote into memory: which value of that memory it made, and where."""

    epoch: int
    op: str
    location: Location | None
    module: str


class WriteListener(Protocol):
    """Who is told about writes."""

    def current_step(self) -> Location | None:
        """Where the optimizer step that is running was called, if one is."""

    def in_step(self) -> bool:
        """Whether an optimizer step is running."""

    def forward_runs(self, location: Location, path: str) -> None:
        """An operation runs at a line of a method named ``forward``, inside the module at ``path``."""

    def follows_gradients(self) -> bool:
        """Whether what is computed from gradients by hand is to be followed now."""

    def compared(self, call: Any) -> None:
        """An output that was marked as made without gradients was compared with targets."""

    def grad_memory(self, memory: int) -> bool:
        """Whether some leaf's ``.grad`` lives there."""

    def wrote(self, op: str, target: torch.Tensor, memory: int, factor: Any, *, from_gradient: bool) -> None:
        """Memory was written to by an operation (its name without the overload)."""


class Flow:
    """Memory that holds what was computed from some leaf's gradient, by hand.

    Weak references keep a memory's number from being given to another one, and keep no memory alive.
    """

    def __init__(self) -> None:
        self._memories: OrderedDict[int, tuple[StorageWeakRef, Location | None]] = OrderedDict()

    def __contains__(self, memory: int) -> bool:
        known = self._memories.get(memory)
        return known is not None and not _expired(known[0])

    def add(self, tensor: torch.Tensor, location: Location | None) -> None:
        """This tensor was computed from a gradient."""
        storage = tensor.untyped_storage()
        self._memories[storage._cdata] = (StorageWeakRef(storage), location)  # type: ignore[no-untyped-call]
        if len(self._memories) > _MOST_FLOWS:
            alive = {m: known for m, known in self._memories.items() if not _expired(known[0])}
            self._memories = OrderedDict(alive)
            while len(self._memories) > _MOST_FLOWS:
                self._memories.popitem(last=False)

    def discard(self, memory: int) -> None:
        """It was overwritten with something else."""
        self._memories.pop(memory, None)

    def line_of(self, memory: int) -> Location | None:
        """Where it was computed."""
        known = self._memories.get(memory)
        return None if known is None else known[1]


class WatchingRecorder(Recorder):  # type: ignore[no-untyped-call]  # torch's __init_subclass__ is untyped
    """A recorder that keeps no operations and reports writes to a listener."""

    def __init__(self, modules: ModuleStack, listener: WriteListener) -> None:
        super().__init__(modules, keep_operations=False, forgiving=True)
        self.values: Copies = Copies()
        self._listener = listener
        self._writes: OrderedDict[int, deque[Write]] = OrderedDict()
        self.flow = Flow()
        self.cuts = Cuts()
        self._lines: dict[
            tuple[int, str], Location
        ] = {}  # by id, and the line itself, so that the id stays its own
        self.evaluations = Evaluations()
        self._tracked = False
        # Of whoever calls autograd's engine: what runs above it on the stack, the backward itself has called.
        self.backward_code: CodeType | None = None
        self.packs = False  # somebody packs what is saved, or may
        self.learning: Learning | None = None  # of the call of a layer that runs

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._tracked = False
        out = super().__torch_dispatch__(func, types, args, kwargs)
        if self.broken is None:
            traits = self._traits.get(id(func))
            if self.learning is not None:
                self._learn(self.learning, traits, args, kwargs or {}, out)
            try:
                if traits is not None and traits.effects:
                    if not traits.relooks:
                        self._notice_write(traits, args, kwargs or {})
                elif (
                    not self._tracked  # what became a part of the graph works on no gradient by hand
                    and self._listener.follows_gradients()
                    and not (traits and "_like" in traits.name)
                ):
                    self._follow(args, out)
                if self.evaluations and traits is not None:
                    if torch.is_grad_enabled() and any_requires_grad(args):
                        self.evaluations.used_in_a_graph()
                    else:
                        name = traits.name.partition(".")[0]
                        self.evaluations.operation(name, args, out, self._listener.compared)
            except Exception:  # a watched program must not fail because its watcher did
                self._give_up()
        return out

    def _learn(self, learning: Learning, traits: Any, args: Any, kwargs: dict[str, Any], out: Any) -> None:
        made = out if isinstance(out, list | tuple) else (out,)
        if traits is None or not all(item is None or isinstance(item, torch.Tensor) for item in made):
            # It works on tensors of another class, or what runs next may depend on what it has read from one.
            learning.left_out = True
        elif traits.effects:
            learning.written.append((traits.name, list(_written(traits, args, kwargs))))

    def _before(self, traits: Any, args: Any, kwargs: Any) -> Any:
        call = super()._before(traits, args, kwargs)
        op = call.op
        location = op.location
        if location is not None and location.function == "forward":
            self._note_line(location, op.module)
        if op.grad_enabled:
            self._tracked = not traits.effects
            if traits.name in _CUTS and call.segment is None and not call.before:
                self.cuts.note(op, _CUTS[traits.name])
        elif call.segment is None and not call.before:
            self.cuts.note(op, _CUTS.get(op.name) or "gradients are switched off")
        return call

    def _after(self, call: Any, out: Any) -> None:
        super()._after(call, out)
        if self.learning is not None:
            self.learning.recorded.append((call, out))
        if isinstance(out, torch.Tensor) and out.dtype not in _DIFFERENTIABLE:
            self.cuts.note(
                call.op, f"{call.op.name.removeprefix('aten::').partition('.')[0]} makes whole numbers"
            )
        # Taken when the operation has returned: only then is complete what it saved.
        exposed = self.values._exposed
        for tensor, ref in call.inputs:
            if (not ref.requires_grad or ref.storage in exposed) and is_foreign(tensor):
                self.values.set_aside(ref.storage, ref.source)

    def _note_unsaved(self, node: Any, ref: Any, op: OpRecord) -> None:
        saved = results_saved(node, op.name)
        if saved is None:
            return
        for position in saved:
            if op.outputs[position] is ref:
                return
        if type(ref) is SeenRef:
            ref.unsaved = True
        elif not ref.source.shared:
            ref.source.unsaved = True

    def expose(self, tensor: torch.Tensor) -> None:
        """A tensor's memory is handed to NumPy or to whoever asks for its address."""
        if tensor.layout is torch.strided and tensor.device.type == "cpu":
            location, _ = self.sources.find(1, look_for_function=False)
            self.values.expose(self._storage(tensor), location)

    def memory_number(self, tensor: torch.Tensor) -> int | None:
        """The number of the memory that a tensor lives in, if any operation was recorded on it."""
        memory = _memory(tensor)
        return None if memory is None else self._storages.get(memory)

    def _runs_a_forward_again(self) -> bool:
        return self.sources.runs_function_above(self.backward_code, 3)

    def _matters(self, traits: OpTraits, args: Any, kwargs: Any) -> bool:
        grad_enabled = torch.is_grad_enabled()
        # Nothing that an optimizer does outside a closure's forward can become part of a graph.
        if not grad_enabled and self._listener.in_step():
            return False
        tracked = any_requires_grad(args) or bool(kwargs and any_requires_grad(kwargs.values()))
        if grad_enabled:
            if traits.creates:
                return False
            if not tracked or traits.name != "aten::detach" or not torch._C._is_fwd_grad_enabled():
                return tracked
            kind = "detach()"
        else:
            # After a forward that returns its own input, ``apply`` makes a view of that.
            in_apply = not torch._C._is_fwd_grad_enabled()
            if self.sources.function(2) is not None or (tracked and (traits.effects or in_apply)):
                return True
            if not tracked:
                return False
            kind = "gradients are switched off"
        # It makes no node, outside any custom Function; where it ran may matter still.
        if self.learning is not None:
            self.learning.cut(args)
        self._note_cut(kind)
        return False

    def _note_cut(self, kind: str) -> None:
        location, _ = self.sources.find(3, look_for_function=False)
        if location is not None:
            path = self._module()
            if location.function == "forward":
                self._note_line(location, path)
            op = OpRecord(self._operation_count, "", (), {}, (), (), location, path, None, False)
            self.cuts.note(op, kind)

    def _note_line(self, location: Location, path: str) -> None:
        """Tell the listener about a line of a ``forward``, once."""
        key = (id(location), path)
        if self._lines.get(key) is not location:
            if len(self._lines) < _MOST_LINES:
                self._lines[key] = location
            self._listener.forward_runs(location, path)

    def first_write_after(self, storage: int, epoch: int) -> Write | None:
        """The first known write to memory number ``storage`` that made a later value than ``epoch``."""
        return next((w for w in self._writes.get(storage, ()) if w.epoch > epoch), None)

    def note_write(self, number: int, op: str, location: Location | None) -> None:
        """Memory was written to by an operation that the recorder did not see; call before_write of its values first."""
        self._epoch_clock += 1
        self._epochs[number] = self._epoch_clock
        self._log(number, Write(self._epoch_clock, op, location, self._module()))

    def compact(self) -> None:
        """Forget memory that nobody looks at any more, so that a long loop does not fill the books."""
        live = self.values._live
        for storage in list(live):
            living = [reference for reference in live[storage] if reference() is not None]
            if living:
                live[storage] = living
            else:
                del live[storage]
        if len(self._storages) > _MOST_STORAGES:
            # Addresses that nobody's values live at: whoever is given them later gets a number of its own.
            kept = live.keys() | self.values.remembered()
            self._storages = {address: n for address, n in self._storages.items() if n in kept}
        known = set(self._storages.values()) | live.keys()
        self._known &= known
        for storage in self._epochs.keys() - known:
            del self._epochs[storage]

    def _notice_write(self, traits: Any, args: Any, kwargs: dict[str, Any]) -> None:
        targets = list(_written(traits, args, kwargs))
        if (
            self._in_backward
            and not torch.is_grad_enabled()
            and not any(self._is_interesting(t) for t in targets)
        ):
            return
        from_gradient = self._listener.follows_gradients() and self._reads_gradient(traits, args, kwargs)
        factor = args[1] if len(args) > 1 else None
        name = traits.name.partition(".")[0]
        find: Callable[[], Location | None] = lambda: self.sources.find(1, look_for_function=False)[0]
        location: Location | None = None
        for target in targets:
            memory = _memory(target)
            if memory is None:
                continue
            number = self._storages.get(memory)
            if number is not None:
                location = location or self._listener.current_step() or find()
                self._log(number, Write(self._epochs.get(number, 0), traits.name, location, self._module()))
            self._listener.wrote(name, target, memory, factor, from_gradient=from_gradient)
            if from_gradient:
                self.flow.add(target, location)
            elif memory in self.flow and name in ("aten::copy_", "aten::zero_", "aten::fill_"):
                self.flow.discard(memory)

    def _is_interesting(self, target: torch.Tensor) -> bool:
        memory = _memory(target)
        return memory is not None and (memory in self._storages or self._listener.grad_memory(memory))

    def _reads_gradient(self, traits: Any, args: Any, kwargs: dict[str, Any]) -> bool:
        read = [a for position, a in enumerate(args) if position not in traits.writes]
        read += [a for name, a in kwargs.items() if name not in traits.writes_by_name]
        return any(self._carries(t) for t in _flat(read))

    def _carries(self, tensor: torch.Tensor) -> bool:
        memory = _memory(tensor)
        return memory is not None and (memory in self.flow or self._listener.grad_memory(memory))

    def _follow(self, args: Any, out: Any) -> None:
        """An operation outside the graph: what it makes of a gradient, element by element, carries the gradient."""
        shapes = []
        for tensor in _flat(args):
            if torch.is_grad_enabled() and tensor.requires_grad:
                return
            if self._carries(tensor):
                shapes.append(tensor.shape)
        if shapes:
            location, _ = self.sources.find(1, look_for_function=False)
            for made in _flat((out,)):
                if made.shape in shapes and made.layout is torch.strided:
                    self.flow.add(made, location)

    def _log(self, number: int, write: Write) -> None:
        writes = self._writes.get(number)
        if writes is None:
            writes = self._writes[number] = deque(maxlen=_WRITES_EACH)
            if len(self._writes) > _MOST_MEMORIES:
                self._writes.popitem(last=False)
        writes.append(write)

    def _module(self) -> str:
        return self._modules.current if self._modules is not None else ""


def _expired(reference: StorageWeakRef) -> bool:
    return bool(reference.expired())  # type: ignore[no-untyped-call]


def _written(traits: Any, args: Any, kwargs: dict[str, Any]) -> Iterator[torch.Tensor]:
    for position in traits.writes:
        yield from _flat(
            (args[position] if position < len(args) else kwargs.get(traits.argument_names[position]),)
        )
    for name in traits.writes_by_name:
        yield from _flat((kwargs.get(name),))


def _flat(values: Any) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _flat(value)


def _memory(tensor: torch.Tensor) -> int | None:
    """Which memory a tensor looks at, or None if it has none of its own (sparse, nested, fake)."""
    if tensor.layout is not torch.strided:
        return None
    try:
        return _storage_address(tensor)  # type: ignore[no-any-return]
    except (NotImplementedError, RuntimeError):
        return None


skip_by_dynamo(WatchingRecorder.__torch_dispatch__.__code__)

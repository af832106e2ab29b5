"""One custom Function's backward, called by itself, with an eye on what it writes to.

``node.apply`` is the user's ``backward`` as torch calls it, before torch sums, casts or refuses what it returned; no hook
of the user takes part.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge
from torch.utils._python_dispatch import TorchDispatchMode

from ..capture.sources import SourceFinder
from ..capture.state import rng_frozen
from ..capture.traits import read_traits, tensors_of
from ..capture.undisturbed import undisturbed
from ..capture.values import TensorValue
from ..evidence import Array, ArraySource, Location, NodeRecord
from .sums import reduced

__all__ = ["Answer", "BackwardCall", "Write", "raised_at", "same_bits"]


@dataclass(frozen=True)
class Write:
    """The backward wrote into something that is not its own.

    Attributes:
        role: ``"grad_output"``, ``"saved"``, ``"input"``, ``"output"`` or ``"ctx"``.
        name: as the user would say it: ``"saved_tensors[0]"``.
        op: the operation that wrote, or "" when it was not torch's (NumPy, a kernel of one's own).
        location: its line, if known.
        changed: whether other values were left behind.
    """

    role: str
    name: str
    op: str
    location: Location | None
    changed: bool


@dataclass(frozen=True, eq=False)
class Answer:
    """What one call of the backward gave.

    Attributes:
        gradients: by position among ``apply``'s arguments; empty where it raised.
        error: what it raised, or None.
        writes: what it wrote to.
    """

    gradients: tuple[Tensor | None, ...] = ()
    error: Exception | None = None
    writes: tuple[Write, ...] = ()


@dataclass(eq=False)
class _Watched:
    role: str
    name: str
    tensor: Tensor
    before: Tensor
    version: int

    def changed(self) -> bool:
        return not _same_bits(self.tensor, self.before)

    def put_back(self) -> None:
        if self.changed():
            # Of elements that share their memory, one is enough; torch refuses to write to all.
            once = tuple(slice(0, 1) if step == 0 else slice(None) for step in self.tensor.stride())
            self.tensor.data[once].copy_(self.before[once])
        if self.tensor._version != self.version:
            torch._C._autograd._unsafe_set_version_counter((self.tensor,), (self.version,))


class _Writes(TorchDispatchMode):
    """Notes operations that write into memory that is watched."""

    def __init__(self, memory: Mapping[int, Sequence[_Watched]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's __init__ is untyped
        self.found: dict[int, tuple[str, Location | None]] = {}
        self._memory = memory
        self._sources = SourceFinder()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        traits = read_traits(func)
        if traits.writes or traits.writes_by_name:
            written = [
                args[i] if i < len(args) else kwargs.get(traits.argument_names[i]) for i in traits.writes
            ]
            written.extend(kwargs.get(name) for name in traits.writes_by_name)
            for target in tensors_of(written):
                for watched in self._memory.get(_memory_of(target), ()):
                    if id(watched) not in self.found:
                        self.found[id(watched)] = (
                            traits.name,
                            self._sources.find(1, look_for_function=False)[0],
                        )
        return undisturbed(func, args, kwargs)


class BackwardCall:
    """A custom Function's node, ready to be asked again.

    Args:
        record: the node as it was recorded; it ran.
        node: torch's node.
        leaves: the leaf tensors by the node key of their edge.
        seed: every call begins with generators seeded by it.
    """

    def __init__(self, record: NodeRecord, node: Any, leaves: Mapping[int, Tensor], seed: int) -> None:
        self.record = record
        self.node = node
        self.seed = seed
        self.delivered = {
            slot: source.tensor
            for slot, source in enumerate(record.cotangents)
            if isinstance(source, TensorValue) and source.tensor.layout is torch.strided
        }
        self.slots = len(node._input_metadata)
        needed = [i for i, need in enumerate(node.needs_input_grad) if need]
        edges = [i for i, (parent, _) in enumerate(node.next_functions) if parent is not None]
        self.wanted = list(zip(needed, edges)) if len(needed) == len(edges) else []
        self._leaves = leaves
        self._others: tuple[Tensor | None, ...] = (None,) * self.slots

    def learn(self, cotangents: Mapping[int, Tensor]) -> tuple[Any, ...]:
        """Run the node in torch's engine; returns what its backward was given, undefined gradients made or left None.

        What the slots without a cotangent got is kept, and given to every later call.
        """
        seen: list[tuple[Any, ...]] = []
        apply = self.node.apply

        def spy(*given: Any) -> Any:
            seen.append(given)
            return apply(*given)

        targets = [(fn, slot) for fn, slot in self.node.next_functions if fn is not None]
        self.node.apply = spy
        try:
            with rng_frozen(self.seed):
                torch.autograd.grad(
                    [GradientEdge(self.node, slot) for slot in cotangents],
                    [GradientEdge(fn, slot) for fn, slot in targets],
                    list(cotangents.values()),
                    retain_graph=True,
                    allow_unused=True,
                )
        finally:
            del self.node.apply
        return seen[0] if seen else ()

    def keep_others(self, given: Sequence[Any]) -> None:
        """What slots without a cotangent get from now on: zeros that torch made, or None."""
        self._others = tuple(given)

    def ask(
        self, cotangents: Mapping[int, Tensor | None], *, moved_on: int = 0, keep_ctx: bool = False
    ) -> Answer:
        """Call the backward; what it wrote to is put back.

        Args:
            cotangents: by slot; slots left out get what torch gives them, None says undefined.
            moved_on: begin with generators of another seed.
            keep_ctx: leave what it wrote into attributes of ``ctx``, as torch would.
        """
        given = [cotangents[s] if s in cotangents else _copy(self._others[s]) for s in range(self.slots)]
        with (
            self._watching(cotangents, keep_ctx) as (watched, mode),
            rng_frozen(self.seed + moved_on),
            torch.no_grad(),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            returned: Any = ()
            error: Exception | None = None
            try:
                with mode:
                    returned = self.node.apply(*given)
            except Exception as raised:  # whatever the user's backward raises
                error = raised
            kept = tuple(
                g.detach().clone() if isinstance(g, Tensor) else None
                for g in (returned if isinstance(returned, tuple) else (returned,))
            )
            writes = tuple(w for w in (_look_at(item, mode) for item in watched) if w is not None)
        return Answer(() if error is not None else kept, error, writes)

    @contextmanager
    def _watching(
        self, cotangents: Mapping[int, Tensor | None], keep_ctx: bool
    ) -> Iterator[tuple[list[_Watched], _Writes]]:
        watched: list[_Watched] = []
        known: set[Any] = set()

        def watch(role: str, name: str, tensor: Any) -> None:
            if not isinstance(tensor, Tensor) or not _is_plain(tensor):
                return
            place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
            if tensor.numel() and place not in known:
                known.add(place)
                watched.append(_Watched(role, name, tensor, tensor.detach().clone(), tensor._version))

        for slot, cotangent in cotangents.items():
            watch("grad_output", "grad_output" if self.slots == 1 else f"grad_outputs[{slot}]", cotangent)
        for number, tensor in enumerate(_saved(self.node)):
            watch("saved", f"saved_tensors[{number}]", tensor)
        for position, edge in self.wanted:
            target, ref = self.record.edges[edge], self.record.inputs[edge]
            if target is not None and target.node in self._leaves:
                watch("input", f"argument {position} of forward", self._leaves[target.node])
            elif ref is not None and isinstance(ref.source, TensorValue):
                watch("input", f"argument {position} of forward", ref.source.tensor)
        for slot, ref in enumerate(self.record.outputs):
            if ref is not None and isinstance(ref.source, TensorValue):
                watch("output", f"output {slot} of forward", ref.source.tensor)
        for name, value in list(vars(self.node).items()):
            for tensor in tensors_of(value if isinstance(value, list | tuple) else (value,)):
                watch("ctx", f"ctx.{name}", tensor)
        memory: dict[int, list[_Watched]] = {}
        for item in watched:
            memory.setdefault(_memory_of(item.tensor), []).append(item)
        try:
            yield watched, _Writes(memory)
        finally:
            for item in watched:
                if item.role != "grad_output" and not (keep_ctx and item.role == "ctx"):
                    item.put_back()

    def gradient(self, answer: Answer, position: int, edge: int) -> Array | None:
        """One returned gradient, summed to its input's shape and made real as torch does."""
        gradient = answer.gradients[position] if position < len(answer.gradients) else None
        if gradient is None:
            return None
        array = TensorValue(gradient).wide()
        ref = self.record.inputs[edge]
        if ref is not None:
            array = reduced(array, ref.shape)
            if array.dtype.kind == "c" and not ref.dtype.startswith("complex"):
                array = array.real
        return array


def raised_at(error: BaseException, near: Location | None) -> Location | None:
    """The innermost line of ``near``'s file that an exception passed through."""
    if near is None:
        return None
    found = near
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if code.co_filename == near.file:
            found = Location(code.co_filename, trace.tb_lineno, code.co_name)
        trace = trace.tb_next
    return found


def _look_at(item: _Watched, mode: _Writes) -> Write | None:
    changed = item.changed()
    op, location = mode.found.get(id(item), ("", None))
    if not changed and item.tensor._version == item.version:
        return None
    if not changed and not op and item.role != "grad_output":
        return None  # its memory belongs to a larger tensor, elsewhere in which something was written
    return Write(item.role, item.name, op, location, changed)


def _saved(node: Any) -> Sequence[Any]:
    try:
        return tuple(node.saved_tensors)
    except Exception:  # freed, or hooks of the user that raise: the call itself will tell
        return ()


def _copy(value: Tensor | None) -> Tensor | None:
    return value.clone() if isinstance(value, Tensor) else None


def _is_plain(tensor: Tensor) -> bool:
    strided = tensor.layout is torch.strided and not tensor.is_nested and not tensor.is_quantized
    return (
        strided and tensor.device.type != "meta" and not tensor.is_inference() and not tensor._is_zerotensor()
    )


def _memory_of(tensor: Tensor) -> int:
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # sparse and opaque layouts have no storage
        return -id(tensor)


def same_bits(tensor: Tensor, source: ArraySource) -> bool:
    """Whether a tensor holds exactly what was recorded."""
    return isinstance(source, TensorValue) and _same_bits(tensor, source.tensor)


def _same_bits(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype is not b.dtype or a.device != b.device:
        return False
    with torch.no_grad():
        # Of one element any stride is contiguous, but bytes can only be seen at a stride of one.
        plain = (t.detach().resolve_conj().resolve_neg().contiguous() for t in (a, b))
        first, second = (t.as_strided((t.numel(),), (1,)).view(torch.uint8) for t in plain)
        return torch.equal(first, second)

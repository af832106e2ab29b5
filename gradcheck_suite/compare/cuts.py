"""Where a value leaves the autograd graph: the lines at which something tracked becomes something untracked.

Such a cut is often meant (target networks, stop-gradient losses). Written out as ``detach()`` or ``no_grad`` it counts
as deliberate; a value that leaves as a Python number or through ``.data`` does not. See ``docs/stop-gradients.md``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..evidence import Location, OpRecord, TensorRef, Trace

__all__ = ["Cut", "find_cuts", "module_at"]


@dataclass(frozen=True)
class Cut:
    """One place where a tracked value is read without its history.

    Attributes:
        kind: ``"detach"``, ``"no_grad"``, ``"number"`` (``.item()``, ``float()``), ``"data"``, ``"numpy"``, or
            ``"function"`` for a function whose result has no history, such as ``torch.tensor(x)``.
        location: the user's line.
        module: dotted module path.
    """

    kind: str
    location: Location | None
    module: str

    @property
    def deliberate(self) -> bool:
        """Whether the cut is written out in so many words."""
        return self.kind in ("detach", "no_grad")


def find_cuts(trace: Trace) -> list[Cut]:
    """Every cut of the forward that a recording shows, the least deliberate first, each line once.

    Below autograd, ``.data`` looks like ``detach()``, and NumPy does not show at all; the
    finite differences' own search (:mod:`~gradcheck_suite.capture.stops`) tells them apart.
    """
    tracked: set[tuple[int, int]] = {
        (ref.storage, ref.epoch) for ref in trace.leaf_values.values() if ref.requires_grad
    }
    detached: set[tuple[int, int]] = set()
    consumed = _read_contents(trace)
    found: dict[tuple[str, Location | None], Cut] = {}

    def note(kind: str, op: OpRecord) -> None:
        found.setdefault((kind, op.location), Cut(kind, op.location, op.module))

    for op in trace.ops:
        inputs = list(_tensors((op.args, tuple(op.kwargs.values()))))
        outputs = [*_tensors(op.outputs), *(after for _, after in op.written)]
        history = any(ref.edge is not None for ref in inputs)
        if op.function is None:
            if op.name == "aten::_local_scalar_dense" and history:
                note("number", op)
            elif op.name == "aten::detach" and history:
                # Autograd detaches what it saves; nobody reads that.
                if any((ref.storage, ref.epoch, op.index) in consumed for ref in outputs):
                    detached.update((ref.storage, ref.epoch) for ref in outputs)
                    note("detach", op)
            elif history and not op.grad_enabled and outputs and all(ref.edge is None for ref in outputs):
                if any(ref.dtype.startswith(("float", "bfloat", "complex")) for ref in outputs):
                    note("no_grad", op)
            elif op.grad_enabled:
                for ref in inputs:
                    place = (ref.storage, ref.epoch)
                    if ref.edge is None and place in tracked and place not in detached:
                        note("data", op)
        tracked.update((ref.storage, ref.epoch) for ref in outputs if ref.edge is not None)
    order = {"number": 0, "data": 1, "no_grad": 2, "detach": 3}
    return sorted(found.values(), key=lambda cut: order[cut.kind])


def module_at(trace: Trace, location: Location | None) -> str:
    """Dotted path of the module whose forward ran this line, or ""."""
    if location is None:
        return ""
    return next((op.module for op in trace.ops if op.location == location and op.module), "")


class _Reads:
    """Asks whether some operation after ``index`` reads untracked contents of a memory."""

    def __init__(self) -> None:
        self._last: dict[tuple[int, int], int] = {}

    def add(self, ref: TensorRef, index: int) -> None:
        if ref.edge is None:
            self._last[ref.storage, ref.epoch] = index

    def __contains__(self, key: tuple[int, int, int]) -> bool:
        storage, epoch, index = key
        return self._last.get((storage, epoch), -1) > index


def _read_contents(trace: Trace) -> _Reads:
    reads = _Reads()
    for op in trace.ops:
        for ref in _tensors((op.args, tuple(op.kwargs.values()))):
            reads.add(ref, op.index)
    return reads


def _tensors(values: Any) -> Iterator[TensorRef]:
    for value in values:
        if isinstance(value, TensorRef):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)
        elif isinstance(value, dict):
            yield from _tensors(value.values())

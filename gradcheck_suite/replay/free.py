"""The whole trace run through the engine from its leaves: forward and backward, no value taken from torch in between.

Integer results, random numbers and discrete decisions are taken as recorded, so that the engine walks the same branch.
Where autograd does not track a tensor (``detach``, ``no_grad``), the engine cuts too: this witness answers "is the
recorded graph's gradient right end to end", not "is the graph the function".
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..engine import Perturbation, Tensor, perturbed
from ..engine import grad as engine_grad
from ..evidence import Array, OpRecord, TensorRef, Trace
from .memory import Memory, as_recorded, is_differentiable, to_engine_array
from .operations import NoMeaningError, compute, floating_outputs, looks_anew, moves_memory_only

__all__ = ["TOO_LATE", "FreeRun", "run_free"]

TOO_LATE = "it would not be over in time"
"""The reason in ``FreeRun.missing`` of a run that was given up."""


@dataclass
class FreeRun:
    """What the engine computed.

    Attributes:
        gradients: by leaf name; None where the engine saw no path.
        outputs: one value per root, or None.
        missing: operations on the gradient path that the engine could not compute, with the reason; when there are
            any, gradients are not to be trusted.
        operations: how many operations the engine ran.
    """

    gradients: dict[str, Array | None]
    outputs: list[Array | None]
    missing: dict[str, str] = field(default_factory=dict)
    operations: int = 0


# A backward takes about twice its forward, and here it cannot be left half-way.
_BACKWARD = 2.5


class _Runner:
    def __init__(
        self, trace: Trace, eps: float | None, rng: np.random.Generator, deadline: float = float("inf")
    ) -> None:
        self.trace = trace
        self.deadline = deadline
        self.eps = eps
        self.rng = rng
        self.memory = Memory()
        self.leaves: dict[int, list[Tensor]] = {}
        self.at_epoch: dict[tuple[int, int, int, Any], Tensor] = {}
        # With the epoch of its memory: what was written later, through another tensor, it has not seen.
        self.by_edge: dict[tuple[int, int], tuple[int, Any]] = {}
        self.missing: dict[str, str] = {}
        self.operations = 0
        # Copies that torch makes of conjugate and negative views below autograd: they continue the view's history.
        self.resolved: set[int] = set()
        self.function: int | None = None
        # Leaves of the graph; a Function may make further ones for itself inside its forward.
        self.reached = set(trace.leaves.values())
        # Memories whose history the running Function's node continues: those of its tracked inputs, and its own.
        self.connected: set[int] = set()
        self.nodes_by_call = {
            node.function.number: node for node in trace.nodes.values() if node.function is not None
        }

    def leaf(self, ref: TensorRef) -> Tensor:
        """The engine's leaf for a tensor that torch treats as one, with its contents at this time."""
        assert ref.edge is not None
        key = (ref.edge[0], ref.storage, ref.epoch, ref.geometry)
        known = self.at_epoch.get(key)
        if known is None:
            content = self.memory.read(ref)
            data = content.data if isinstance(content, Tensor) else np.asarray(content)
            if self.eps is not None:
                data = Perturbation(self.eps, self.rng)(data)
            known = self.at_epoch[key] = Tensor(data, requires_grad=True)
            self.leaves.setdefault(ref.edge[0], []).append(known)
            self.memory.bind(ref, known)
        return known

    def read(self, ref: TensorRef) -> Any:
        if not is_differentiable(ref.dtype):
            return to_engine_array(ref)
        if self.function is not None:
            value = self.memory.read(ref)
            tracked = not isinstance(value, Tensor) or ref.storage in self.connected
            return value if tracked else value.detach()
        if ref.edge is None:
            value = self.memory.read(ref)
            if ref.storage in self.resolved:
                return value
            return value.detach() if isinstance(value, Tensor) and value.requires_grad else value
        if ref.edge[0] < 0:
            return self.leaf(ref)
        epoch, tracked = self.by_edge.get(ref.edge, (-1, None))
        if isinstance(tracked, Tensor) and tracked.shape == ref.shape:
            if epoch == ref.epoch:
                # Another tensor may look at the same memory with another history (``y.detach().requires_grad_()``).
                return tracked
            # Written since, and autograd has not noticed: new contents, but the history that it always had.
            content = self.memory.read(ref)
            if isinstance(content, Tensor) and content.dtype == tracked.dtype:
                return tracked + Tensor(content.data - tracked.data)
        constants = len(self.memory.constants)
        value = self.memory.read(ref)
        if isinstance(value, Tensor) and not value.requires_grad and len(self.memory.constants) > constants:
            self.missing.setdefault(
                f"edge {ref.edge}",
                f"a {ref.describe()} tensor that autograd tracks was not made by recorded operations",
            )
        return value

    def run(self) -> bool:
        """The forward; False where it, or the backward that follows, would not be over by the deadline."""
        started = time.monotonic()
        for op in self.trace.ops:
            if op.phase == "forward":
                self.step(op)
                if time.monotonic() > self.deadline:
                    return False
        self.function = None
        now = time.monotonic()
        return now + _BACKWARD * (now - started) <= self.deadline

    def step(self, op: OpRecord) -> None:
        if op.function is not None:
            if self.function != op.function.number:
                self._enter_function(op)
        else:
            self.function = None
        if moves_memory_only(op):
            looked_at = op.args[0] if op.args else None
            if isinstance(looked_at, TensorRef) and looked_at.edge is not None and looked_at.edge[0] < 0:
                # The window is read from its memory, which nothing may have named before.
                self.leaf(looked_at)
            return
        outputs = floating_outputs(op)
        written = [after for _, after in op.written]
        tracked = any(ref.edge is not None for ref in [*outputs, *written]) or self.function is not None
        if not outputs and not any(is_differentiable(ref.dtype) for ref in written):
            return
        try:
            results = compute(op, self.read)
            self.operations += 1
        except NoMeaningError as error:
            if tracked:
                self.missing.setdefault(op.name, str(error))
            results = [(ref, Tensor(to_engine_array(ref))) for ref in [*outputs, *written]]
        self._store(op, results)

    def _enter_function(self, op: OpRecord) -> None:
        """Bind what autograd tracks, so that reads by memory inside the forward are connected."""
        assert op.function is not None
        self.function = None
        if op.function.shared_memory:
            self.missing.setdefault(f"call {op.function.number}", op.function.shared_memory)
        node = self.nodes_by_call.get(op.function.number)
        self.connected = set() if node is None else {ref.storage for ref in node.inputs if ref is not None}
        for other in self.trace.ops[op.index :]:
            if other.function is not op.function:
                break
            for ref in _tensors((other.args, tuple(other.kwargs.values()))):
                if ref.edge is not None:
                    self.connected.add(ref.storage)
                    if ref.edge[0] in self.reached:
                        self.leaf(ref)
        self.function = op.function.number

    def _store(self, op: OpRecord, results: list[tuple[TensorRef, Any]]) -> None:
        written = {id(after): before for before, after in op.written}
        arguments = _tensors((op.args, tuple(op.kwargs.values())))
        inputs = {ref.storage for ref in arguments}
        if op.grad_enabled and (
            (op.name == "aten::clone" and arguments[0].lazy)
            or (op.written and all(before.storage in self.resolved for before, _ in op.written))
        ):
            self.resolved.update(ref.storage for ref, _ in results if ref.edge is None)
        for ref, value in results:
            if self.function is not None:
                self.connected.add(ref.storage)
            if ref.storage in self.resolved:
                self.memory.write(ref, value)
                continue
            if (
                self.function is None
                and ref.edge is None
                and isinstance(value, Tensor)
                and value.requires_grad
            ):
                value = value.detach()
            if id(ref) in written and not looks_anew(op):
                if self.memory.holds_another_kind(ref):
                    self.missing.setdefault(
                        op.name,
                        f"{op.name} writes through a real view of complex memory, or the other way round",
                    )
                if self.function is None and (ref.edge is None or not op.grad_enabled):
                    value = self._behind_autograd(written[id(ref)], value)
                self.memory.write(ref, value)
            elif ref.storage in inputs:
                shared = value
                if isinstance(value, Tensor) and ref.edge is None and self.function is None:
                    # A detached view: windows of this memory keep their history, this tensor object does not.
                    continue
                self.memory.bind(ref, shared)
            else:
                self.memory.forget(ref.storage)
                self.memory.bind(ref, value)
            if ref.edge is not None:
                self.by_edge[ref.edge] = ref.epoch, value

    def _behind_autograd(self, before: TensorRef, value: Any) -> Any:
        """What a write that autograd does not see (under ``no_grad``, through a detached twin) leaves in memory.

        The contents are new; whoever looks at this memory with a history keeps that history, as in torch.
        """
        old = self.memory.read(before)
        if not isinstance(old, Tensor) or not old.requires_grad or not isinstance(value, Tensor):
            return value.detach() if isinstance(value, Tensor) and value.requires_grad else value
        return old + Tensor(value.data - old.data)


def _tensors(values: Any) -> list[TensorRef]:
    found: list[TensorRef] = []
    for value in values:
        if isinstance(value, TensorRef):
            found.append(value)
        elif isinstance(value, list | tuple):
            found.extend(_tensors(value))
        elif isinstance(value, dict):
            found.extend(_tensors(value.values()))
    return found


def run_free(
    trace: Trace,
    *,
    eps: float | None = None,
    seed: int = 0,
    deadline: float | None = None,
    narrow: bool = False,
) -> FreeRun:
    """Run the trace in the engine.

    Args:
        trace: forward and backward as recorded.
        eps: run in Monte-Carlo arithmetic with this relative error instead (for measuring sensitivity).
        seed: of the perturbations.
        deadline: ``time.monotonic()`` by which it must be over; what would take longer is given up, with a reason in
            ``missing``.
        narrow: compute in float32, for a trace in which everything is.
    """
    rng = np.random.default_rng(seed)
    noisy: AbstractContextManager[None] = nullcontext() if eps is None else perturbed(eps, rng)
    runner = _Runner(trace, eps, rng, float("inf") if deadline is None else deadline)
    with np.errstate(all="ignore"), noisy, as_recorded() if narrow else nullcontext():
        if not runner.run():
            return FreeRun(
                dict.fromkeys(trace.leaves), [None] * len(trace.roots), {"time": TOO_LATE}, runner.operations
            )
        heads: list[Tensor] = []
        cotangents: list[Tensor] = []
        outputs: list[Array | None] = []
        for root in trace.roots:
            _, value = runner.by_edge.get((root.node, root.slot), (0, None))
            if root.value is not None:
                value = runner.read(root.value)
            outputs.append(value.data if isinstance(value, Tensor) else None)
            if isinstance(value, Tensor) and value.requires_grad:
                heads.append(value)
                cotangent = root.cotangent.array()
                kind = np.complex128 if value.dtype.kind == "c" else np.float64
                cotangents.append(Tensor(cotangent if narrow else cotangent.astype(kind, copy=False)))
        wanted = [(name, leaf) for name, key in trace.leaves.items() for leaf in runner.leaves.get(key, [])]
        found: tuple[Tensor | None, ...] = (None,) * len(wanted)
        if heads and wanted:
            found = engine_grad(heads, [leaf for _, leaf in wanted], cotangents, allow_unused=True)
    gradients: dict[str, Array | None] = dict.fromkeys(trace.leaves)
    for (name, _), gradient in zip(wanted, found):
        if gradient is None:
            continue
        known = gradients[name]
        gradients[name] = gradient.data if known is None else known + gradient.data
    return FreeRun(gradients, outputs, runner.missing, runner.operations)

"""A gradient holds NaN or Inf, made by one operation from finite values.

Why: one NaN spreads to every parameter with the next step, and where it is noticed is rarely where it was made.
    The operation named here is the first, forward or backward, that turned finite values into a non-finite one;
    the others only passed it on. A classic: ``torch.where`` hides the bad value in the forward, while the backward
    still multiplies zero by infinity.

Bad::

    import torch
    from gradcheck_suite import check_gradients

    def model(x):
        logs = torch.log(x)  # <-
        return torch.where(x > 0, logs, torch.zeros_like(x))

    report = check_gradients(model, torch.tensor([0.0, 1.0, 2.0]))

Bad::

    import torch
    from gradcheck_suite import check_gradients

    def model(x):
        length = x.norm()
        return torch.sqrt(length - length.detach())  # <-

    report = check_gradients(model, torch.tensor([1.0, 2.0, 3.0]))

Good::

    import torch
    from gradcheck_suite import check_gradients

    def model(x):
        safe = torch.where(x > 0, x, torch.ones_like(x))
        return torch.where(x > 0, torch.log(safe), torch.zeros_like(x))

    report = check_gradients(model, torch.tensor([0.0, 1.0, 2.0]))

Good::

    import torch
    from gradcheck_suite import check_gradients

    def model(scores):  # a mask with -inf: softmax turns it into zeros, forward and backward
        mask = torch.triu(torch.ones(4, 4, dtype=torch.bool), 1)
        return torch.softmax(scores.masked_fill(mask, float("-inf")), dim=-1)

    torch.manual_seed(0)
    report = check_gradients(model, torch.randn(4, 4))

Good::

    import torch
    from gradcheck_suite import check_gradients

    def model(x):  # the norm of zeros: torch takes the subgradient 0
        return x.norm() + (x + 1).pow(2).sum()

    report = check_gradients(model, torch.zeros(3))

Misses: a non-finite value that no gradient ever meets.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from ..evidence import (
    Array,
    Finding,
    Location,
    NodeRecord,
    OpRecord,
    RelatedLocation,
    Severity,
    TensorRef,
    Trace,
)
from ..wording import listing, number, plural
from .registry import Rule, rule

__all__ = ["NanGradient"]

Place = tuple[int, int, tuple[int, ...], tuple[int, ...], int]

# Their contents are whatever the memory held; nothing was computed.
_UNINITIALISED = ("aten::empty", "aten::new_empty", "aten::resize")


@rule("GC601", "nan-gradient", Severity.ERROR)
class NanGradient(Rule):
    """Turns the first non-finite value into a finding."""

    @classmethod
    def from_trace(cls, trace: Trace) -> list[Finding]:
        """The operations that made a leaf's gradient non-finite, each once; [] when every gradient is finite.

        A node that received finite cotangents and returned a non-finite gradient is a producer if its inputs were
        finite; otherwise the operation of the forward that made those inputs non-finite is.
        """
        victims = [
            name for name, g in trace.leaf_gradients.items() if g is not None and not _finite(g.array())
        ]
        if not victims:
            return []
        findings = []
        forward: dict[Place, OpRecord | None] | None = None
        seen: set[object] = set()
        for node in sorted(trace.nodes.values(), key=lambda n: -n.sequence):
            if node.key <= 0 or not node.ran or not _made_here(node):
                continue
            broken = [ref for ref in node.inputs if ref is not None and not _finite(_values(ref))]
            if not broken:
                findings.append(cls._from_node(node, victims))
                continue
            forward = _origins(trace) if forward is None else forward
            for origin in [forward.get(_place(ref)) for ref in broken]:
                if origin is not None and origin.index not in seen:
                    seen.add(origin.index)
                    findings.append(cls._from_op(origin, node, victims))
        if findings:
            return findings
        return [
            cls.from_input(name, *_count(_values(ref)))
            for name, ref in trace.leaf_values.items()
            if not _finite(_values(ref))
        ]

    @classmethod
    def _from_node(cls, node: NodeRecord, victims: Sequence[str]) -> Finding:
        arrays = [g.array() for g in node.gradients if g is not None]
        worst = max(arrays, key=lambda a: a.size - int(np.isfinite(a).sum()))
        nans, infinities, elements = _count(worst)
        return cls.from_producer(
            op=node.function.name if node.function is not None else node.name,
            phase="backward",
            nans=nans,
            infinities=infinities,
            elements=elements,
            location=node.location,
            module=node.module,
            victims=victims,
            origin=_origin_text(node, worst),
        )

    @classmethod
    def _from_op(cls, op: OpRecord, meets: NodeRecord, victims: Sequence[str]) -> Finding:
        broken = next(ref for ref in _results(op) if not _finite(_values(ref)))
        nans, infinities, elements = _count(_values(broken))
        passed_on: tuple[RelatedLocation, ...] = ()
        if meets.location is not None and meets.location != op.location:
            passed_on = (RelatedLocation("first met in the backward by", meets.location),)
        return cls.from_producer(
            op=op.name,
            phase="forward",
            nans=nans,
            infinities=infinities,
            elements=elements,
            location=op.location,
            module=op.module,
            victims=victims,
            propagators=passed_on,
        )

    @classmethod
    def from_producer(
        cls,
        *,
        op: str,
        phase: str,
        nans: int,
        infinities: int,
        elements: int,
        location: Location | None = None,
        module: str = "",
        victims: Sequence[str] = (),
        propagators: Sequence[RelatedLocation] = (),
        origin: str = "",
    ) -> Finding:
        """The operation that made a non-finite value from finite ones.

        Args:
            op: operation or node name.
            phase: ``"forward"`` or ``"backward"``.
            nans, infinities: how many of its ``elements`` are NaN or infinite.
            victims: gradients that became non-finite because of it.
            propagators: lines that passed it on.
            origin: what the values were that it failed on ("the input is 0 there"), or "".
        """
        parts = [
            text for count, text in ((nans, f"{nans:,} NaN"), (infinities, f"{infinities:,} Inf")) if count
        ]
        lines = [
            f"{op} makes {' and '.join(parts) or 'non-finite values'} in its {phase} from finite values "
            f"({plural(elements, 'element')})"
        ]
        if origin:
            lines.append(origin)
        if victims:
            lines.append(f"it reaches the gradient of {listing(list(victims))}")
        if phase == "backward":
            hint = (
                "replace the offending value before the operation (a second torch.where), not only after it"
            )
        else:
            hint = "keep the operation's input inside its domain: clamp it, or add a small constant"
        return cls.finding(
            lines,
            location=location,
            related=tuple(propagators),
            module=module,
            op=op,
            evidence={
                "phase": phase,
                "nan": nans,
                "inf": infinities,
                "elements": elements,
                "victims": list(victims),
            },
            hint=hint,
        )

    @classmethod
    def from_input(cls, name: str, nans: int, infinities: int, elements: int) -> Finding:
        """A parameter or input that was non-finite before anything ran: every NaN after it is inherited.

        Args:
            name: of the parameter or input.
        """
        return cls.finding(
            [
                f"{name} holds {nans:,} NaN and {infinities:,} Inf among {plural(elements, 'element')} "
                "before the forward; no operation made them"
            ],
            evidence={"nan": nans, "inf": infinities, "elements": elements, "victims": [name]},
            hint="check how it is initialised or loaded",
        )


def _finite(values: Array) -> bool:
    return values.dtype.kind not in "fc" or bool(np.isfinite(values).all())


def _values(ref: TensorRef) -> Array:
    return ref.source.array()


def _place(ref: TensorRef) -> Place:
    return (ref.storage, ref.epoch, *ref.geometry)


def _count(values: Array) -> tuple[int, int, int]:
    """How many NaN, how many infinities, of how many."""
    return int(np.isnan(values).sum()), int(np.isinf(values).sum()), int(values.size)


def _made_here(node: NodeRecord) -> bool:
    received = all(_finite(c.array()) for c in node.cotangents if c is not None)
    return received and not all(_finite(g.array()) for g in node.gradients if g is not None)


def _refs(value: Any) -> Iterator[TensorRef]:
    if isinstance(value, TensorRef):
        yield value
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from _refs(entry)


def _results(op: OpRecord) -> Iterable[TensorRef]:
    return [*_refs(op.outputs), *(after for _, after in op.written)]


def _origins(trace: Trace) -> dict[Place, OpRecord | None]:
    """For every non-finite value of the forward, the operation that first made it; None if it came in so."""
    origins: dict[Place, OpRecord | None] = {}
    for op in trace.ops:
        if op.phase != "forward" or op.name.startswith(_UNINITIALISED):
            continue
        broken = [ref for ref in _results(op) if not _finite(_values(ref))]
        if not broken:
            continue
        passed = [r for r in _refs((*op.args, *op.kwargs.values())) if not _finite(_values(r))]
        origin = origins.get(_place(passed[0])) if passed else op
        for ref in broken:
            origins.setdefault(_place(ref), origin)
    return origins


def _origin_text(node: NodeRecord, gradient: Array) -> str:
    """What the input was where the gradient is not finite, when it is the same everywhere there."""
    bad = ~np.isfinite(gradient)
    for ref in node.inputs:
        if ref is None or ref.shape != gradient.shape:
            continue
        found = np.unique(_values(ref)[bad])
        if found.size == 1 and found.dtype.kind in "fiu":
            return f"its input is {number(float(found[0]))} there"
    return ""

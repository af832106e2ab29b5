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

Bad::

    import torch
    from gradcheck_suite import check_gradients

    mask = torch.tensor([True, True, False])

    def entropy(logits):
        logps = torch.log_softmax(logits.masked_fill(~mask, float("-inf")), dim=-1)  # this is meant
        return -(logps.exp() * logps).sum(-1)  # <-

    report = check_gradients(entropy, torch.tensor([[0.3, -0.2, 0.5]]))

Bad::

    import torch
    from gradcheck_suite import watch

    def train():
        model = torch.nn.Linear(4, 4)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for signal in (torch.randn(3, 4), torch.zeros(3, 4)):
            optimizer.zero_grad()
            energy = torch.sqrt(((model(signal) * signal) ** 2).sum(1))  # <-
            energy.mean().backward()
            optimizer.step()

    torch.manual_seed(0)
    with watch() as session:
        train()
    report = session.report

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

Good::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch() as session:
        for scale in (1.0, 1e38, 1.0):  # a step whose gradients overflow is left out on purpose
            optimizer.zero_grad()
            (model(torch.randn(3, 4)).pow(2).mean() * scale * scale).backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            if torch.isfinite(norm):
                optimizer.step()
    report = session.report

Misses: a non-finite value that no gradient ever meets; under watch() a gradient that ``torch.autograd.grad`` returns, and
    one that no step uses although others of the same parameter were used.
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
from .nan_reasons import reason_for
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
        forward: _Origins | None = None
        seen: set[object] = set()
        for node in sorted(trace.nodes.values(), key=lambda n: -n.sequence):
            if node.key <= 0 or not node.ran or not _made_here(node):
                continue
            known = [ref for ref in (*node.inputs, *node.outputs) if ref is not None]
            if len(node.ops) == 1:  # what it read and needs no gradient of, too
                known += _refs((*node.ops[0].args, *node.ops[0].kwargs.values()))
            broken = [ref for ref in known if not _finite(_values(ref))]
            if not broken:
                findings.append(cls._from_node(node, victims))
                continue
            forward = _Origins(trace) if forward is None else forward
            origins = [forward.of(ref) for ref in broken]
            if not any(origins) and all(forward.is_meant(ref) for ref in broken):
                # Infinities that were put there on purpose, as a mask: who multiplies them by zero has made the NaN.
                findings.append(cls._from_node(node, victims))
            for origin in origins:
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
            operands=_operands(node.ops[0]) if node.ops and node.function is None else "",
            dtype=next((ref.dtype for ref in node.inputs if ref is not None), ""),
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
            operands=_operands(op),
            dtype=broken.dtype,
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
        operands: str = "",
        dtype: str = "",
    ) -> Finding:
        """The operation that made a non-finite value from finite ones.

        Args:
            op: operation or node name.
            phase: ``"forward"`` or ``"backward"``.
            nans, infinities: how many of its ``elements`` are NaN or infinite.
            victims: gradients that became non-finite because of it.
            propagators: lines that passed it on.
            origin: what the values were that it failed on ("the input is 0 there"), or "".
            operands: ranges of what it worked on, or "".
            dtype: of what it made, or "".
        """
        parts = [
            text for count, text in ((nans, f"{nans:,} NaN"), (infinities, f"{infinities:,} Inf")) if count
        ]
        lines = [
            f"{op} makes {' and '.join(parts) or 'non-finite values'} in its {phase} from finite values "
            f"({plural(elements, 'element')})"
        ]
        lines += [text for text in (origin, operands, reason_for(op, phase, dtype, nans, infinities)) if text]
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
    def from_reader(cls, trace: Trace) -> list[Finding]:
        """The first operation that read a non-finite value which no recorded operation had made; [] if there is none."""
        made = _Origins(trace)
        read = [(op, ref) for op in trace.ops for ref in _refs((*op.args, *op.kwargs.values()))]
        for wanted in (np.isnan, np.isinf):
            for op, ref in read:
                values = _values(ref)
                if values.dtype.kind not in "fc" or made.knows(ref) or not bool(wanted(values).any()):
                    continue
                nans, infinities, elements = _count(values)
                victims = [n for n, g in trace.leaf_gradients.items() if g and not _finite(g.array())]
                return [
                    cls.finding(
                        [
                            f"{op.name} was given {ref.describe()} with {nans:,} NaN and {infinities:,} Inf among "
                            f"{plural(elements, 'element')}, which no operation with a gradient has made",
                            f"it reaches the gradient of {listing(victims)}",
                        ],
                        location=op.location,
                        module=op.module,
                        op=op.name,
                        evidence={"nan": nans, "inf": infinities, "elements": elements, "victims": victims},
                        hint="look at the data, and at what was computed from it without gradients",
                    )
                ]
        return []

    @classmethod
    def from_nowhere(cls, victims: Sequence[str], location: Location | None) -> Finding:
        """Gradients that are not finite although no operation makes them so: a backward of the user's, or a hook, does.

        Args:
            victims: gradients that are not finite.
            location: the backward that made them.
        """
        return cls.finding(
            [
                f"the gradient of {listing(list(victims))} is not finite after this backward, and the derivatives of the "
                "recorded operations are finite one by one, or could not be computed"
            ],
            location=location,
            evidence={"victims": list(victims)},
            hint="look at custom backwards, at hooks, and in half precision at sums of many gradients that overflow; "
            "check_gradients on this model looks at each node",
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


class _Origins:
    """For every non-finite value of the forward: the operation that first made it, or that nobody is to blame for it."""

    def __init__(self, trace: Trace) -> None:
        self._origins: dict[Place, OpRecord | None] = {}
        self._infinite: set[Place] = set()
        for op in trace.ops:
            if op.phase == "forward" and not op.name.startswith(_UNINITIALISED):
                self._add(op)

    def _add(self, op: OpRecord) -> None:
        broken = [(ref, values) for ref in _results(op) if not _finite(values := _values(ref))]
        if not broken:
            return
        passed = [r for r in _refs((*op.args, *op.kwargs.values())) if not _finite(_values(r))]
        has_nan = any(bool(np.isnan(values).any()) for _, values in broken)
        origin = next((o for o in (self.of(ref) for ref in passed) if o is not None), None)
        if not passed:
            origin = op if has_nan or not _names_infinity(op) else None
        elif origin is None and has_nan and not any(bool(np.isnan(_values(ref)).any()) for ref in passed):
            # Infinities that are meant, or came in with the data, become NaN here: zero times infinity.
            origin = op
        for ref, values in broken:
            self._origins.setdefault(_place(ref), origin)
            if not bool(np.isnan(values).any()):
                self._infinite.add(_place(ref))

    def of(self, ref: TensorRef) -> OpRecord | None:
        """Who made a value non-finite; None where it came in so, or is meant to be."""
        return self._origins.get(_place(ref))

    def knows(self, ref: TensorRef) -> bool:
        """Whether some operation has put a value there."""
        return _place(ref) in self._origins

    def is_meant(self, ref: TensorRef) -> bool:
        """Whether a value holds infinities that an operation was told to write, and no NaN."""
        return _place(ref) in self._infinite


def _names_infinity(op: OpRecord) -> bool:
    """Whether an argument is infinity itself: ``masked_fill(mask, -inf)`` makes what it is told to."""
    values = [*op.args, *op.kwargs.values()]
    return any(isinstance(v, float) and np.isinf(v) for v in values)


def _operands(op: OpRecord) -> str:
    """The ranges of what an operation worked on: ``"operands: float32[3] from 0 to 2.5; 0"``."""
    parts = []
    for value in op.args:
        if isinstance(value, TensorRef):
            values = _values(value)
            if values.dtype.kind == "f" and values.size:
                finite = values[np.isfinite(values)]
                among = (
                    f"from {number(float(finite.min()))} to {number(float(finite.max()))}"
                    if finite.size
                    else ""
                )
                other = values.size - finite.size
                parts.append(
                    " ".join(
                        t
                        for t in (value.describe(), among, f"and {other:,} not finite" if other else "")
                        if t
                    )
                )
        elif isinstance(value, int | float) and not isinstance(value, bool):
            parts.append(number(float(value)))
    return f"operands: {'; '.join(parts[:4])}" if parts else ""


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

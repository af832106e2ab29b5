"""Saved tensors that were overwritten without autograd's knowledge: found before a backward, judged after it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import _disable_current_modes

from ..capture.origins import BackwardWrite
from ..evidence import (
    Comparison,
    Finding,
    Location,
    NodeVerdict,
    OpRecord,
    Outcome,
    TensorRef,
    Testimony,
    Trace,
)
from ..rules.inplace_silent import InplaceSilent
from ..witnesses.engine import Fallback, check_node, is_vacuous
from .collector import Collector
from .recorder import WatchingRecorder, Write
from .saved import refs_of, saved_tensors

__all__ = ["SilentWrites", "Suspect"]

_MOST_JUDGED = 3
_MOST_SUSPECTS = 64


@dataclass(frozen=True, eq=False, slots=True)
class Suspect:
    """A node whose backward will read something else than its operation had.

    Attributes:
        key: of the node.
        saver: the operation's name.
        saved: its line.
        module: where it ran.
        tensor: type and shape of what was overwritten.
        write: who overwrote it, or None when nobody was seen: NumPy, a kernel.
        exposed: where somebody got hold of the memory.
        changed: how many elements differ now.
        elements: of how many.
        backward: the line that runs the backward.
    """

    key: int
    saver: str
    saved: Location | None
    module: str
    tensor: str
    write: Write | None
    exposed: Location | None
    changed: int
    elements: int
    backward: Location | None

    @property
    def cause(self) -> tuple[Location | None, Location | None]:
        """What the same mistake has in common."""
        place = self.write.location if self.write is not None else self.exposed
        return (place, None if place is not None else self.saved)


class SilentWrites:
    """Compares what nodes have saved with what their operations had, where somebody may have written in between."""

    def __init__(self, recorder: WatchingRecorder, findings: Collector) -> None:
        self._recorder = recorder
        self._findings = findings
        self._judged: Counter[tuple[Location | None, Location | None]] = Counter()
        self._guilty: set[tuple[Location | None, Location | None]] = set()
        self._disturbed = False

    def look(
        self, nodes: Sequence[Any], replaced: Iterable[torch.Tensor], backward: Location | None
    ) -> dict[int, Suspect]:
        """The nodes that will read changed values, by key.

        Args:
            nodes: of the graph that the backward is about to run over.
            replaced: leaves that were given other memory (``p.data = ...``) since the last backward.
            backward: its line.
        """
        recorder = self._recorder
        touched = recorder.values.touched()
        moved = {(recorder.leaf_key(leaf), 0) for leaf in replaced}
        if not touched and not moved:
            return {}
        suspects: dict[int, Suspect] = {}
        with _disable_current_modes(), torch.no_grad():
            for node in nodes:
                if len(suspects) >= _MOST_SUSPECTS:
                    break
                if type(node).__name__ == "AccumulateGrad":
                    continue
                origin = recorder.origin_of(node)
                if origin is None:
                    continue
                newest: dict[Any, tuple[TensorRef, OpRecord]] = {}
                for op in origin.ops:
                    for ref in refs_of((op.args, op.kwargs.values(), op.outputs)):
                        if ref.storage in touched or ref.edge in moved:
                            # What the operation itself wrote, it saved afterwards.
                            place = (ref.storage, *ref.geometry)
                            if place not in newest or ref.epoch >= newest[place][0].epoch:
                                newest[place] = (ref, op)
                if newest:
                    suspect = self._compare(node, newest, moved, backward)
                    if suspect is not None:
                        suspects[suspect.key] = suspect
        return suspects

    def _compare(
        self,
        node: Any,
        newest: dict[Any, tuple[TensorRef, OpRecord]],
        moved: set[tuple[int, int]],
        backward: Location | None,
    ) -> Suspect | None:
        recorder = self._recorder
        for tensor in saved_tensors(node, packs=recorder.packs):
            if tensor.layout is not torch.strided or tensor.is_meta:
                continue
            geometry = (tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset()))
            number = recorder.memory_number(tensor)
            known = newest.get((number, *geometry))
            if known is None and moved and tensor.requires_grad and tensor.grad_fn is None:
                edge = (recorder.leaf_key(tensor), 0)
                known = next((k for k in newest.values() if k[0].edge == edge), None)
            if known is None:
                continue
            ref, op = known
            before = getattr(ref.source, "tensor", None)
            if before is None or before.shape != tensor.shape or before.dtype != tensor.dtype:
                continue
            now = tensor.detach()
            if torch.equal(before, now):
                continue
            different = before != now
            # NaN differs from itself.
            different &= ~((before != before) & (now != now))
            changed = int(different.sum())
            if not changed:
                continue
            write = recorder.first_write_after(ref.storage, ref.epoch)
            return Suspect(
                key=recorder.node_key(node),
                saver=op.function.name if op.function is not None else op.name,
                saved=op.function.location if op.function is not None else op.location,
                module=op.module,
                tensor=ref.describe(),
                write=write,
                exposed=None if write is not None else recorder.values.exposed_at(ref.storage),
                changed=changed,
                elements=tensor.numel(),
                backward=backward,
            )
        return None

    def wants(self, suspects: Mapping[int, Suspect]) -> bool:
        """Whether the backward has to be observed to judge them, or because an earlier one was disturbed."""
        disturbed, self._disturbed = self._disturbed, False
        return disturbed or any(self._judged[s.cause] < _MOST_JUDGED for s in suspects.values())

    def during(
        self,
        nodes: Sequence[Any],
        writes: Sequence[BackwardWrite],
        backward: Location | None,
        *,
        observed: bool,
    ) -> dict[int, Suspect]:
        """The nodes of whose operations something was overwritten while a backward ran, by a hook for instance.

        They may have run before that.

        Args:
            nodes: of its graph, without those of leaves.
            writes: that were seen.
            backward: its line.
            observed: whether they can be judged; otherwise the next backward is to be observed.
        """
        by_value = {id(write.value): write for write in writes}
        suspects: dict[int, Suspect] = {}
        for node in nodes if by_value else ():
            origin = self._recorder.origin_of(node)
            for op in () if origin is None else origin.ops:
                for ref in refs_of((op.args, op.kwargs.values(), op.outputs)):
                    write = by_value.get(id(ref.source))
                    if write is None or len(suspects) >= _MOST_SUSPECTS:
                        continue
                    key = self._recorder.node_key(node)
                    suspects[key] = _overwritten(key, op, ref, write, backward)
        if not observed:
            self._disturbed = any(self._judged[s.cause] < _MOST_JUDGED for s in suspects.values())
        return suspects

    def judge(
        self, trace: Trace | None, suspects: Mapping[int, Suspect], moment: int, fallback: Fallback | None
    ) -> set[int]:
        """Compare what the suspects returned with the derivative at the values that were saved; the wrong ones."""
        wrong: dict[tuple[Location | None, Location | None], list[tuple[Suspect, NodeVerdict | None]]] = {}
        asked: Counter[tuple[Location | None, Location | None]] = Counter()
        for key, suspect in suspects.items():
            cause = suspect.cause
            if trace is None or self._judged[cause] >= _MOST_JUDGED:
                if cause in self._guilty:
                    wrong.setdefault(cause, []).append((suspect, None))
                continue
            record = trace.nodes.get(key)
            if record is None or not record.ran:
                continue
            asked[cause] += 1
            verdict, _ = check_node(record, fallback=fallback)
            if verdict.outcome is Outcome.AGREE or is_vacuous(verdict):
                continue
            wrong.setdefault(cause, []).append((suspect, verdict))
        self._judged.update(asked.keys())
        for cause, group in wrong.items():
            self._guilty.add(cause)
            self._findings.add(("GC202", *cause), moment, lambda group=group: _finding(group))  # type: ignore[misc]
        return {suspect.key for group in wrong.values() for suspect, _ in group}


def _overwritten(
    key: int, op: OpRecord, ref: TensorRef, write: BackwardWrite, backward: Location | None
) -> Suspect:
    """A node whose operation had something that was overwritten during its backward."""
    elements = int(np.prod(ref.shape, dtype=np.int64))
    before, now = write.value.tensor, getattr(ref, "alias", None)
    changed = elements
    if now is not None and now.shape == before.shape:
        changed = int((before != now).sum())
    return Suspect(
        key=key,
        saver=op.function.name if op.function is not None else op.name,
        saved=op.function.location if op.function is not None else op.location,
        module=op.module,
        tensor=ref.describe(),
        write=Write(0, write.op, write.location, ""),
        exposed=None,
        changed=changed,
        elements=elements,
        backward=backward,
    )


def _finding(group: Sequence[tuple[Suspect, NodeVerdict | None]]) -> Finding:
    def weight(entry: tuple[Suspect, NodeVerdict | None]) -> float:
        numbers = _comparison(entry[1])
        return -1.0 if numbers is None else numbers.max_error / (numbers.scale or 1.0)

    suspect, verdict = max(group, key=weight)
    numbers = _comparison(verdict)
    return InplaceSilent.from_suspect(
        saver=suspect.saver,
        saved=suspect.saved,
        writer="" if suspect.write is None else suspect.write.op,
        written=None if suspect.write is None else suspect.write.location,
        exposed=suspect.exposed,
        backward=suspect.backward,
        tensor=suspect.tensor,
        changed=suspect.changed,
        elements=suspect.elements,
        others=len(group) - 1,
        comparison=numbers,
        subject="" if verdict is None else _subject(verdict),
        module=(suspect.write.module if suspect.write is not None else "") or suspect.module,
    )


def _comparison(verdict: NodeVerdict | None) -> Comparison | None:
    testimony = _worst(verdict)
    return None if testimony is None else testimony.comparison


def _subject(verdict: NodeVerdict) -> str:
    testimony = _worst(verdict)
    return "" if testimony is None else testimony.subject


def _worst(verdict: NodeVerdict | None) -> Testimony | None:
    if verdict is None:
        return None
    wrong = [t for t in verdict.testimonies if t.outcome is Outcome.DISAGREE and t.comparison is not None]
    return max(wrong, key=_error, default=None)


def _error(testimony: Testimony) -> float:
    numbers = testimony.comparison
    return 0.0 if numbers is None else numbers.max_error / (numbers.scale or 1.0)

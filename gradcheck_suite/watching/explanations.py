"""What lies behind the errors that autograd raises: which of the user's lines led to them."""

from __future__ import annotations

import linecache
import re
import sys
from collections import OrderedDict
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import torch

from ..capture.graph import walk
from ..capture.sources import SourceFinder, is_user_file
from ..evidence import Finding, Location, OpRecord
from ..rules.detached_graph import DetachedGraph
from ..wording import listing, relative_path
from .modes import GradModes
from .names import Names

__all__ = ["PREFIX", "Cuts", "Explanations", "add_note", "note_of"]

PREFIX = "gradcheck: "
_NO_GRAPH = re.compile(r"does not require grad and does not have a grad_fn")
_NOT_SCALAR = re.compile(r"grad can be implicitly created only for scalar outputs")
_UNUSED = re.compile(r"appears to not have been used in the graph")
_NOT_FLOATING = re.compile(r"only Tensors of floating point", re.IGNORECASE)
_LEAF_WRITTEN = re.compile(r"a (?:view of a )?leaf Variable that requires grad is being used in an in-place")
_MOST = 16
_SHOWN = 3


class Cuts:
    """The latest lines at which a value left the graph."""

    def __init__(self) -> None:
        self._lines: OrderedDict[tuple[Location, str], None] = OrderedDict()

    def note(self, op: OpRecord, kind: str) -> None:
        """An operation on tracked tensors has a result that is not tracked."""
        if op.location is not None:
            key = (op.location, kind)
            self._lines[key] = None
            self._lines.move_to_end(key)
            if len(self._lines) > _MOST:
                self._lines.popitem(last=False)

    def clear(self) -> None:
        """A backward went well: what was cut before it is history."""
        self._lines.clear()

    def latest(self) -> list[tuple[Location, str]]:
        """Lines and what cut the graph there, the latest first."""
        found: list[tuple[Location, str]] = []
        for location, kind in reversed(self._lines):
            # Autograd detaches too, for itself, at the line of whichever operation saves its result.
            if kind == "detach()" and "detach" not in linecache.getline(location.file, location.line):
                continue
            if all(place != location for place, _ in found):
                found.append((location, kind))
        return found[:_SHOWN]


class Explanations:
    """Explains an error of torch's in a note; see :meth:`explain`."""

    def __init__(self, cuts: Cuts, sources: SourceFinder, modes: GradModes, names: Names) -> None:
        self._cuts = cuts
        self._sources = sources
        self._modes = modes
        self._names = names

    def of_backward(
        self, error: BaseException, roots: Sequence[torch.Tensor], inputs: Sequence[Any], moment: int
    ) -> tuple[str, Finding | None]:
        """Note and finding for an error raised where a backward begins; ("", None) if it is none that is known.

        Args:
            error: what was raised.
            roots: tensors that the backward was to start from.
            inputs: tensors whose gradients were asked for; empty for all leaves.
            moment: number of the backward.
        """
        text = str(error)
        if _NO_GRAPH.search(text):
            return self._no_graph(moment)
        if _NOT_SCALAR.search(text):
            return self._not_scalar(roots), None
        if _UNUSED.search(text):
            return self._unused(roots, inputs), None
        return "", None

    def of_line(self, error: BaseException, trace: TracebackType | None) -> str:
        """A note for an error that an ordinary line raised, or ""."""
        text = str(error)
        if not (_NOT_FLOATING.search(text) or _LEAF_WRITTEN.search(text)):
            return ""
        line = self._raised_at(trace)
        place = f" at {_place(line)}" if line is not None else ""
        if _NOT_FLOATING.search(text):
            return (
                f"{PREFIX}whole numbers and truth values have no derivative, so no such tensor can require a gradient{place}\n"
                "  hint: make it floating first (tensor.float(), or 1.0 instead of 1); indices and labels need no gradient"
            )
        return (
            f"{PREFIX}a parameter was overwritten while autograd watches{place}: the write would become part of the graph of "
            "the very tensor that gradients are to arrive at\n"
            "  hint: update parameters inside `with torch.no_grad():`; for a value computed from it use an operation that "
            "makes a new tensor"
        )

    def _no_graph(self, moment: int) -> tuple[str, Finding]:
        leak = self._modes.check(moment)
        if leak is not None:
            return note_of(leak), leak
        off = self._modes.switched_off_at()
        cuts = self._cuts.latest()
        if off is not None and not cuts:
            cuts = [(off, "gradients are switched off")]
        backward, _ = self._sources.find(1, look_for_function=False)
        finding = DetachedGraph.from_error(cuts, backward)
        return note_of(finding), finding

    def _not_scalar(self, roots: Sequence[torch.Tensor]) -> str:
        root = next((r for r in roots if r.numel() != 1), None)
        shape = f" of shape {list(root.shape)}" if root is not None else ""
        line, _ = self._sources.find(1, look_for_function=False)
        return (
            f"{PREFIX}backward was called at {_place(line)} on a tensor{shape}; a gradient is that of one number\n"
            "  hint: reduce it first (loss.mean().backward()), or say what each element counts "
            "(out.backward(gradient=torch.ones_like(out)))"
        )

    def _unused(self, roots: Sequence[torch.Tensor], inputs: Sequence[Any]) -> str:
        reached = {id(node) for node in walk([root.grad_fn for root in roots])}
        leaves = {
            id(node.variable)
            for node in walk([root.grad_fn for root in roots])
            if type(node).__name__ == "AccumulateGrad"
        }
        lost = []
        for position, tensor in enumerate(inputs):
            if not isinstance(tensor, torch.Tensor):
                continue
            node = tensor.grad_fn
            known = id(tensor) in leaves if node is None else id(node) in reached
            if not known:
                name = self._names.of([tensor])[0] if node is None else f"a result of {node.name()}"
                lost.append(f"input {position} ({name})")
        cuts = self._cuts.latest()
        left = "; ".join(f"{kind} at {_place(place)}" for place, kind in cuts)
        return (
            f"{PREFIX}no path leads from the output to {listing(lost) or 'one of the inputs'}\n"
            + (f"  the graph was left by {left}\n" if left else "")
            + "  hint: use the very tensor object that the output was computed from (not a later view, slice or copy of it); "
            "allow_unused=True where it is meant"
        )

    def _raised_at(self, trace: TracebackType | None) -> Location | None:
        found = None
        while trace is not None:
            code = trace.tb_frame.f_code
            if is_user_file(code.co_filename):
                found = Location(code.co_filename, trace.tb_lineno, code.co_name)
            trace = trace.tb_next
        return found


def add_note(error: BaseException, note: str) -> None:
    """Attach a note, once; Python 3.10 has none."""
    if sys.version_info >= (3, 11) and not any(n.startswith(PREFIX) for n in getattr(error, "__notes__", ())):
        error.add_note(note)


def note_of(finding: Finding) -> str:
    """A finding as the note of an error."""
    message = finding.message.replace("\n", "\n  ")
    lines = [f"{PREFIX}{finding.code} {finding.rule}: {message}"]
    if finding.location is not None:
        lines.append(f"  at {_place(finding.location)}")
    lines += [f"  {r.role} {_place(r.location)}" for r in finding.related]
    if finding.hint:
        lines.append(f"  hint: {finding.hint}")
    return "\n".join(lines)


def _place(location: Location | None) -> str:
    return "an unknown line" if location is None else f"{relative_path(location.file)}:{location.line}"

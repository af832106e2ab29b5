"""Every custom Function's backward, asked again on purpose: does it leave things alone, and is it always right?

Compared are only answers of the backward with each other: whether they are the derivative is the engine's question. What
is called an error must be a situation that torch itself produces; anything else that goes wrong is listed as unverified.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from ..capture.outputs import unusual_seed
from ..capture.sources import function_line
from ..evidence import (
    Comparison,
    Finding,
    Location,
    NodeRecord,
    Severity,
    Supplement,
    Unverified,
)
from .answers import AnswerJudge, copies
from .backward_call import Answer, BackwardCall, Write, raised_at, same_bits
from .case import Case
from .cotangent_layouts import Layout, constant, drawn, layouts
from .function_again import CalledAgain, call_again
from .sums import node_name

__all__ = ["Accuser", "side_effects"]

# Calls of one Function that differ in shapes or dtypes: what these show, the next will show too.
_MOST_OF_A_CLASS = 4
_MOST_SLOTS = 4
_OF_OPERATORS = "torch._library.autograd"
_ANOTHER_SEED = 7919


class Accuser(Protocol):
    """Turns what a backward did into findings; a rule stands above the witnesses and is handed in."""

    def from_write(self, *facts: Any, **further: Any) -> Finding:
        """It wrote into what is not its own."""
        ...

    def from_difference(self, *facts: Any, **further: Any) -> Finding:
        """It answered otherwise than it should."""
        ...

    def from_error(self, *facts: Any, **further: Any) -> Finding:
        """It raised."""
        ...


def side_effects(case: Case, accuser: Accuser) -> Supplement:
    """Ask every distinct custom Function of the recorded graph again.

    Costs nothing where there is none, and else some ten calls of each Function's backward and one or two of its forward.
    Memory that a backward writes to is put back after every call.

    Args:
        case: its graph is still alive.
        accuser: makes the findings, the rule GC107.

    Returns:
        Findings of GC107, what could not be asked, and ``counts["functions"]``.
    """
    trace = case.run.trace
    leaves = {trace.leaves[name]: tensor for name, tensor in case.run.leaves.items() if name in trace.leaves}
    findings: list[Finding] = []
    unverified: list[Unverified] = []
    notes: list[str] = []
    asked = 0
    further: Counter[str] = Counter()
    for record, node in _distinct(case, further):
        if case.seconds_left() <= 0:
            notes.append("the time budget ended before every custom Function was asked for side effects")
            break
        call = BackwardCall(record, node, leaves, case.seed)
        if not call.delivered or not call.wanted:
            continue
        asked += 1
        examination = _Examination(call, case, accuser)
        findings.extend(examination.examine())
        unverified.extend(Unverified(f"side effects of {examination.name}", why) for why in examination.open)
    for name, count in further.items():
        notes.append(f"{count} further kinds of call of {name} were not asked for side effects")
    if asked:
        case.restore()
    return Supplement(
        findings=tuple(findings),
        unverified=tuple(unverified),
        notes=tuple(notes),
        counts={"functions": asked} if asked else {},
    )


def _distinct(case: Case, further: Counter[str]) -> Iterator[tuple[NodeRecord, Any]]:
    """Nodes of the user's Functions and ``torch.library`` operators, one per kind of call; ``further`` counts the rest."""
    seen: dict[type, set[Any]] = {}
    for key, record in case.run.trace.nodes.items():
        if not record.ran:
            continue
        node: Any = case.run.autograd_nodes.get(key)
        cls = getattr(node, "_forward_cls", None)
        if not isinstance(cls, type) or _is_torchs_own(cls):
            continue
        described = tuple(r.describe() if r is not None else "" for r in (*record.inputs, *record.outputs))
        delivered = tuple(c is not None for c in record.cotangents)
        kinds = seen.setdefault(cls, set())
        kind = (described, delivered, tuple(node.needs_input_grad))
        if kind in kinds:
            continue
        kinds.add(kind)
        if len(kinds) <= _MOST_OF_A_CLASS:
            yield record, node
        else:
            further[node_name(record)] += 1


def _is_torchs_own(cls: type) -> bool:
    """Functions of torch; what ``register_autograd`` wraps around a user's backward is the user's."""
    return cls.__module__.split(".")[0] == "torch" and cls.__module__ != _OF_OPERATORS


class _Examination:
    """The course of the examination of one node."""

    def __init__(self, call: BackwardCall, case: Case, accuser: Accuser) -> None:
        self.accuser = accuser
        self.call = call
        self.case = case
        self.record = call.record
        self.name = _name(call)
        self.surrogate = bool(call.record.function is not None and call.record.function.surrogate)
        self.backward = _backward_line(call)
        self.cotangents = drawn(call.delivered, unusual_seed(case.seed + call.record.key))
        self.open: list[str] = []
        self.judge = AnswerJudge(call, self.cotangents, case.seed)

    def examine(self) -> list[Finding]:
        """Everything there is to say."""
        if self.call.slots > len(self.cotangents):
            try:
                self.call.keep_others(self.call.learn(self.cotangents))
            except Exception as error:  # a hook of the user's, or a backward that serves once
                self.open.append(_cannot("asked again", error))
                return []
        first = self.call.ask(copies(self.cotangents), keep_ctx=True)
        if first.error is not None:
            self.open.append(_cannot("asked again", first.error))
            return []
        roles = tuple(self._role(write) for write in first.writes)
        drifts = any(was.role != now.role for was, now in zip(first.writes, roles))
        first = replace(first, writes=roles)
        wrote = any(w.role == "grad_output" for w in first.writes)
        repeated = self._repeated(first, any(w.role != "ctx" for w in first.writes))
        randomly = [] if repeated or first.writes or self.surrogate else self._random(first)
        steady = not (repeated or randomly or drifts or self.surrogate)
        layouts = self._layouts(first, steady, wrote)
        findings = self._writes(first, layouts if wrote else [])
        findings.extend(repeated)
        findings.extend(randomly)
        if not wrote:
            findings.extend(layouts)
        findings.extend(self._undefined(steady))
        together = call_again(self.case, self.call, self.cotangents, None)
        if together is not None and together.error is not None:
            self.open.append(_cannot("called again with its recorded arguments", together.error))
        elif together is not None:
            if steady and not findings:
                findings.extend(self._remembers(first, together))
            if len(self.call.wanted) > 1:
                findings.extend(self._single_inputs(together, steady))
        return findings

    # -- writes and repetitions ----------------------------------------------------------------------------------

    def _writes(self, answer: Answer, consequences: Sequence[Finding]) -> list[Finding]:
        findings: dict[str, Finding] = {}
        for write in answer.writes:
            if write.role == "ctx" or write.role in findings:
                continue
            if write.role in ("input", "output") and not write.changed:
                continue
            findings[write.role] = self.accuser.from_write(
                self.name,
                write.name,
                what=write.role,
                operation=write.op,
                consequences=[f.message.splitlines()[0] for f in consequences]
                if write.role == "grad_output"
                else [],
                location=write.location or self.backward or self.record.location,
                **self._place(),
            )
        return list(findings.values())

    def _role(self, write: Write) -> Write:
        """An attribute of ``ctx`` that was an input or output when the run's own backward wrote to it, by that name."""
        if write.role != "ctx" or write.location is None:
            return write
        same = [
            w.value
            for w in self.case.run.recorder.backward_writes
            if w.op == write.op and w.location == write.location
        ]
        for position, edge in self.call.wanted:
            ref = self.record.inputs[edge]
            if ref is not None and any(value is ref.source for value in same):
                return replace(write, role="input", name=f"argument {position} of forward", changed=True)
        for slot, ref in enumerate(self.record.outputs):
            if ref is not None and any(value is ref.source for value in same):
                return replace(write, role="output", name=f"output {slot} of forward", changed=True)
        return write

    def _repeated(self, first: Answer, wrote: bool) -> list[Finding]:
        """Once more with equal cotangents and equally seeded generators."""
        second = self.call.ask(copies(self.cotangents), keep_ctx=True)
        if wrote:
            return []  # the write is the cause; its memory was put back
        if second.error is not None:
            self.open.append(_cannot("asked a third time", second.error))
            return []
        found = self.judge.compare(first, second, measure=False)
        if found is None or self.surrogate:
            return []
        where, numbers = found
        state = [w for w in (*first.writes, *second.writes) if w.role == "ctx"]
        names = list(dict.fromkeys(w.name for w in state))
        line = next((w.location for w in state if w.location is not None), None)
        remarks = [f"it writes into {', '.join(names)} in between"] if names else []
        return [
            self._difference(
                "when it is called again with the same cotangent and equally seeded generators",
                where,
                numbers,
                kind="repetition",
                reference="the time before",
                remarks=remarks,
                hint="keep nothing in the backward that changes from call to call; a graph may be run more than once "
                "(retain_graph=True, several losses)",
                location=line,
            )
        ]

    def _random(self, first: Answer) -> list[Finding]:
        other = self.call.ask(copies(self.cotangents), moved_on=_ANOTHER_SEED)
        found = self.judge.compare(first, other, measure=False) if other.error is None else None
        if found is None:
            return []
        where, numbers = found
        return [
            self._difference(
                "when the random generators have moved on: it draws random numbers",
                where,
                numbers,
                kind="random",
                reference="with the generators before",
                hint="draw in the forward and save what was drawn; declare an estimator that is random on purpose "
                "(@surrogate_gradient)",
                severity=Severity.WARNING,
            )
        ]

    # -- memory layouts ------------------------------------------------------------------------------------------

    def _layouts(self, first: Answer, values: bool, wrote: bool) -> list[Finding]:
        """The same values in other kinds of memory; of a backward that writes only the one with which it cannot work."""
        raised: list[tuple[Layout, Exception]] = []
        wrong: list[tuple[Layout, str, Comparison]] = []
        flat = constant(self.cotangents, self.case.seed)
        flat_answer: Answer | None = None
        for layout in layouts(self.cotangents):
            if wrote and not layout.constant:
                continue
            given = layout.of(flat if layout.constant else self.cotangents)
            answer = self.call.ask(given)
            if answer.error is not None:
                if not isinstance(answer.error, torch.OutOfMemoryError | MemoryError):
                    raised.append((layout, answer.error))
                continue
            if not values:
                continue
            expected = first
            if layout.constant:
                flat_answer = flat_answer or self.call.ask(copies(flat))
                expected = flat_answer
            found = self.judge.compare(expected, answer)
            if found is not None:
                wrong.append((layout, *found))
        findings = []
        if raised:
            error = raised[0][1]
            findings.append(
                self.accuser.from_error(
                    self.name,
                    [layout.situation for layout, _ in raised],
                    _short(error),
                    kind="layout",
                    hint="use .reshape() where it says .view(), or begin with grad_output = grad_output.contiguous()",
                    location=raised_at(error, self.backward) or self.record.location,
                    **self._place(),
                )
            )
        if wrong:
            layout, where, numbers = wrong[0]
            others = [item[0].situation for item in wrong[1:]]
            findings.append(
                self._difference(
                    layout.situation,
                    where,
                    numbers,
                    kind="layout",
                    reference="for the same values in contiguous memory",
                    remarks=[f"and also {', '.join(others)}"] if others else [],
                    hint="it reads memory without regard to strides: begin with grad_output = grad_output.contiguous()",
                )
            )
        return findings

    # -- undefined gradients -------------------------------------------------------------------------------------

    def _undefined(self, values: bool) -> list[Finding]:
        """Only one of several outputs used: what the others receive is None, unless torch makes zeros of it."""
        slots = list(self.cotangents)
        if len(slots) < 2:
            return []
        try:
            given = self.call.learn({slots[0]: self.cotangents[slots[0]].clone()})
        except Exception as error:  # whatever the user's backward raises, but only for None is it asked here
            given = None
            failure = error
        if given is not None and all(given[s] is not None for s in slots):
            return []
        for slot in slots[:_MOST_SLOTS]:
            alone: dict[int, Tensor | None] = dict.fromkeys(slots)
            alone[slot] = self.cotangents[slot].clone()
            answer = self.call.ask(alone)
            if answer.error is not None:
                return [
                    self.accuser.from_error(
                        self.name,
                        [f"when only output {slot} is used"],
                        _short(answer.error),
                        kind="undefined",
                        hint="with set_materialize_grads(False) a gradient that nothing sends is None: handle it, or leave "
                        "the setting out",
                        location=raised_at(answer.error, self.backward) or self.record.location,
                        **self._place(),
                    )
                ]
            zeros = {s: torch.zeros_like(c) for s, c in self.cotangents.items()}
            zeros[slot] = self.cotangents[slot].clone()
            expected = self.call.ask(zeros)
            found = self.judge.compare(expected, answer) if values and expected.error is None else None
            if found is not None:
                return [
                    self._difference(
                        f"when only output {slot} is used and the other grad_outputs are None",
                        *found,
                        kind="undefined",
                        reference="with zeros in their place",
                        hint="an undefined gradient means zero: leave out its terms, and keep the others",
                    )
                ]
        if given is None:
            self.open.append(_cannot("asked for one output alone", failure))
        return []

    # -- one input at a time -------------------------------------------------------------------------------------

    def _remembers(self, first: Answer, anew: CalledAgain) -> list[Finding]:
        """A graph of its own, which has seen no other cotangent, answers the same."""
        for slot, output in anew.outputs.items():
            ref = self.record.outputs[slot] if slot < len(self.record.outputs) else None
            if ref is None or not same_bits(output, ref.source):
                return []  # its forward is random or has a state: nothing to compare with
        for position, edge in self.call.wanted:
            found = self.judge.one(
                anew.gradients.get(position), self.call.gradient(first, position, edge), position
            )
            if found is not None:
                return [
                    self._difference(
                        "when it was called with another cotangent before",
                        *found,
                        kind="repetition",
                        reference="with this cotangent first",
                        hint="keep nothing in ctx that depends on grad_output; a graph may be run more than once "
                        "(retain_graph=True, several losses)",
                    )
                ]
        return []

    def _single_inputs(self, together: CalledAgain, values: bool) -> list[Finding]:
        """The Function called anew with a gradient required for one input alone, the others frozen."""
        for position, _ in self.call.wanted:
            alone = call_again(self.case, self.call, self.cotangents, position)
            if alone is None:
                continue
            if alone.error is not None:
                if not alone.in_backward:
                    self.open.append(
                        _cannot(f"called with argument {position} alone requiring grad", alone.error)
                    )
                    continue
                return [
                    self.accuser.from_error(
                        self.name,
                        [f"when only argument {position} of its forward requires grad"],
                        _short(alone.error),
                        kind="single input",
                        hint="ask ctx.needs_input_grad, and return None in the place of every input that needs nothing",
                        location=raised_at(alone.error, self.backward) or self.record.location,
                        **self._place(),
                    )
                ]
            apart = (together.gradients.get(position), alone.gradients.get(position))
            found = self.judge.one(*apart, position) if values else None
            if found is not None:
                return [
                    self._difference(
                        f"when only argument {position} of its forward requires grad",
                        *found,
                        kind="single input",
                        reference="when all require it",
                        hint="what is returned must not depend on which inputs need a gradient, but for the Nones; look at "
                        "the uses of ctx.needs_input_grad",
                    )
                ]
        return []

    # -- wording -------------------------------------------------------------------------------------------------

    def _difference(
        self,
        situation: str,
        where: str,
        numbers: Comparison,
        *,
        location: Location | None = None,
        **rest: Any,
    ) -> Finding:
        return self.accuser.from_difference(
            self.name,
            situation,
            where,
            numbers,
            location=location or self.backward or self.record.location,
            **rest,
            **self._place(),
        )

    def _place(self) -> Mapping[str, Any]:
        return {
            "applied": self.record.location if self.backward is not None else None,
            "module": self.record.module,
            "op": self.record.name,
        }


def _backward_line(call: BackwardCall) -> Location | None:
    function = call.record.function
    known = function.backward if function is not None else None
    cls = call.node._forward_cls
    if cls.__module__ == _OF_OPERATORS:
        return None  # torch's wrapper of it
    return known or function_line(cls, "backward") or function_line(cls, "vjp")


def _name(call: BackwardCall) -> str:
    if call.node._forward_cls.__module__ == _OF_OPERATORS and call.record.ops:
        return call.record.ops[0].name
    return node_name(call.record)


def _short(error: BaseException) -> str:
    lines: Sequence[str] = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def _cannot(attempt: str, error: BaseException) -> str:
    return f"its backward could not be {attempt}: {_short(error)}"

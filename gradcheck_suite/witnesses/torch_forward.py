"""Forward mode: torch's JVP, operation by operation against the engine's, and as a whole.

1. The model runs once under dual numbers with a random tangent on every leaf. Every operation and every custom ``jvp``
   is judged by the tangents that it really received and the ones that it really returned, so blame is local.
2. What that run said nothing about (all its tangents were zero, or torch stopped before it because something has no
   forward mode) is asked by itself, from recorded values with random tangents; a custom Function also with one
   tangent at a time.
3. The whole (:mod:`.forward_whole`): differences along the direction, and the adjoint identity with reverse mode.

What torch has no forward mode for is not verified, never wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

from ..capture.sources import function_line
from ..capture.state import rng_frozen
from ..compare.known_defects import known_defect
from ..declare import surrogate_reason
from ..evidence import (
    Finding,
    Location,
    OpRecord,
    Outcome,
    Severity,
    Supplement,
    TensorRef,
    Testimony,
    Unverified,
)
from ..replay.memory import is_differentiable
from ..replay.operations import further_meanings
from ..replay.segment import tensors_in
from .case import Case
from .decomposition import Decompositions
from .dual_numbers import DualRecorder, FunctionPush, drawn_tangent
from .forward_nodes import FORWARD_DEFECTS, HERMITIAN, check_tangents, is_hermitian, is_vacuous
from .forward_run import Attempt, ask_function, ask_operation, can_be_dual, run_dual, short
from .forward_whole import NESTED, check_whole

__all__ = ["Findings", "forward_mode"]

_NO_JVP = "implement the jvp"
_MODEL = "the model under dual numbers"
_VACUOUS = "every tangent that reached it is zero, which any JVP would pass"


class Findings(Protocol):
    """What makes findings of wrong tangents: rule GC103."""

    def from_operation(
        self,
        name: str,
        testimony: Testimony,
        *,
        location: Location | None,
        module: str,
        jvp: Location | None,
        custom: bool,
    ) -> Finding:
        """One operation or custom Function returned a wrong tangent."""
        ...

    def from_failure(
        self,
        name: str,
        told: str,
        *,
        location: Location | None,
        module: str,
        jvp: Location | None,
        returned: bool,
    ) -> Finding:
        """A custom ``jvp`` raised, or returned what torch refuses."""
        ...

    def from_model(self, testimony: Testimony, *, suspects: tuple[str, ...], nested: bool) -> Finding:
        """The whole is wrong, and no part of it was found to be."""
        ...


def forward_mode(case: Case, rule: Findings) -> Supplement:
    """Verify the model's forward mode.

    Args:
        case: what is checked. Everything is put back by the caller; no dual level stays open, also after an exception.
        rule: makes the findings.
    """
    return _Examination(case, rule).run()


class _Examination:
    """The course of the check."""

    def __init__(self, case: Case, rule: Findings) -> None:
        self.case = case
        self.rule = rule
        self.findings: list[Finding] = []
        self.testimonies: list[Testimony] = []
        self.counts: Counter[str] = Counter()
        self.silent: Counter[tuple[str, str]] = Counter()
        # What was verified, by name and shapes; what is still to be asked by itself.
        self.settled: set[Any] = set()
        self.open: dict[Any, tuple[str, Any]] = {}

    def run(self) -> Supplement:
        case = self.case
        case.restore()
        leaves = {name: leaf for name, leaf in case.leaves.items() if can_be_dual(leaf)}
        for name in case.leaves:
            if name not in leaves:
                self._unverified(name, "a tensor of its kind or layout cannot be given a tangent in place")
        with further_meanings(Decompositions()):
            self._in_place(leaves)
            self._by_themselves()
            case.restore()
        local = bool(self.findings)
        whole = check_whole(case, list(leaves))
        case.restore()
        self.testimonies.extend(whole.testimonies)
        if whole.accused is not None and not local:
            suspects = tuple(dict.fromkeys(s for s, _ in self.silent if s != _MODEL))[:4]
            self.findings.append(self.rule.from_model(whole.accused, suspects=suspects, nested=whole.nested))
        for testimony in whole.testimonies:
            if testimony.outcome is Outcome.INCONCLUSIVE:
                self._unverified(testimony.subject, testimony.reason)
        unverified = [
            Unverified(subject, f"forward mode: {reason}", count)
            for (subject, reason), count in self.silent.items()
        ]
        agreed = self.counts["forward_tangents"]
        note = f"forward mode: {agreed} tangents of {self.counts['forward_operations']} operations verified"
        return Supplement(
            tuple(self.findings), tuple(unverified), tuple(self.testimonies), (note,), dict(self.counts)
        )

    def _unverified(self, subject: str, reason: str) -> None:
        self.silent[subject, reason] += 1

    # -- the model itself ----------------------------------------------------------------------------------------

    def _in_place(self, leaves: dict[str, Any]) -> None:
        case = self.case
        if any(before.lazy for op in case.run.trace.ops for before, _ in op.written):
            # torch holds a lock of the view while it makes it anew; observing that run would wait for it for ever.
            self._unverified(
                _MODEL, "it writes through a conjugate or negative view, which cannot be observed"
            )
            self._take_over()
            return
        tangents = {
            name: drawn_tangent(leaf, case.seed * 7919 + number)
            for number, (name, leaf) in enumerate(leaves.items())
        }
        known = [*case.parameters.values(), *case.prepared.leaves.values(), *case.buffers]
        with rng_frozen(case.seed):
            attempt = run_dual(leaves, tangents, case.output, modules=case.modules, known=known)
        self._judge(attempt, again=True)
        if attempt.error is not None:
            self._failed(attempt)
            self._take_over()

    def _judge(self, attempt: Attempt, *, again: bool) -> None:
        """Every tangent that a run shows; ``again``: what it says nothing about is to be asked by itself."""
        recorder = attempt.recorder
        for push in recorder.pushes:
            stretch = push.stretch()
            given = [t for _, t in push.inputs]
            key = _key(push.op, stretch.inputs)
            lopsided = push.op.name in HERMITIAN and not all(is_hermitian(t) for t in given)
            if again and (lopsided or is_vacuous(given)):
                self.open.setdefault(key, ("operation", (push.op, stretch.inputs)))
            if is_vacuous(given) or (again and lopsided):
                continue
            found = check_tangents(
                stretch, given, [t for _, t in push.outputs], push.tracked, seed=self.case.seed
            )
            self._weigh(found, push.op.name, push.op, key=key)
        for call in recorder.calls:
            self._judge_function(recorder, call, again=again)

    def _judge_function(self, recorder: DualRecorder, call: FunctionPush, *, again: bool) -> None:
        name = call.cls.__name__
        if not call.finished:
            return
        surrogate = surrogate_reason(call.cls)
        if surrogate:
            self._unverified(name, f"declared a surrogate: {surrogate}")
            return
        known = recorder.stretch_of(call)
        if isinstance(known, str):
            self._unverified(name, known)
            return
        stretch, given, origin = known
        location = origin.function.location if origin.function is not None else call.location
        key = _function_key(call.cls, stretch.inputs)
        if again and origin.arguments is not None:
            self.open.setdefault(
                ("again", key),
                ("function", (call.cls, origin.arguments, call.received, location, call.module)),
            )
        if is_vacuous(given):
            return
        tracked = [ref is not None and ref.edge is not None for ref in stretch.outputs]
        found = check_tangents(stretch, given, call.returned, tracked, seed=self.case.seed)
        self._weigh(
            found, name, None, key=key, cls=call.cls, location=location or call.location, module=call.module
        )

    def _weigh(
        self,
        found: Sequence[Testimony],
        name: str,
        op: OpRecord | None,
        *,
        key: Any,
        cls: type | None = None,
        location: Location | None = None,
        module: str = "",
    ) -> None:
        self.counts["forward_operations"] += bool(found)
        if found and all(t.outcome is Outcome.AGREE for t in found):
            self.settled.add(key)
        for testimony in found:
            if testimony.outcome is Outcome.AGREE:
                self.counts["forward_tangents"] += 1
                self.counts["forward_elements"] += (
                    testimony.comparison.elements if testimony.comparison else 0
                )
            elif testimony.outcome is Outcome.INCONCLUSIVE:
                self._unverified(name, testimony.reason)
            else:
                self._accuse(testimony, name, op, cls, location, module)

    def _accuse(
        self,
        testimony: Testimony,
        name: str,
        op: OpRecord | None,
        cls: type | None,
        location: Location | None,
        module: str,
    ) -> None:
        self.testimonies.append(testimony)
        finding = self.rule.from_operation(
            name,
            testimony,
            location=op.location if op is not None else location,
            module=op.module if op is not None else module,
            jvp=None if cls is None else function_line(cls, "jvp"),
            custom=cls is not None,
        )
        if op is not None:
            dtypes = tuple(ref.describe() for ref in tensors_in((op.args, op.kwargs), TensorRef))
            defect = known_defect(op.name, dtypes, testimony.comparison)
            defect = defect or next((d for d in FORWARD_DEFECTS if d.op == op.name), None)
            if defect is not None:
                hint = f"a known defect of torch, not of your code: {defect.cause} (docs/known-torch-bugs.md)"
                finding = replace(finding, severity=Severity.WARNING, hint=hint)
        if all(f.message != finding.message or f.location != finding.location for f in self.findings):
            self.findings.append(finding)

    def _failed(self, attempt: Attempt) -> None:
        """The run did not come to its end: why, and whether a custom ``jvp`` is to blame."""
        error = attempt.error
        assert error is not None
        text = str(error)
        call = attempt.recorder.calls[-1] if attempt.recorder.calls else None
        if call is not None and _NO_JVP in text and isinstance(error, NotImplementedError):
            self._unverified(
                call.cls.__name__,
                "it has no jvp: add a static method jvp(ctx, *tangents) that returns one tangent per output",
            )
        elif call is not None and (not call.finished or ("jvp" in text and isinstance(error, RuntimeError))):
            self.findings.append(
                self.rule.from_failure(
                    call.cls.__name__,
                    short(error),
                    location=call.location,
                    module=call.module,
                    jvp=function_line(call.cls, "jvp"),
                    returned=call.finished,
                )
            )
        elif NESTED in text:
            self._unverified(
                _MODEL,
                "it uses forward mode itself, so its operations were asked one by one instead",
            )
        else:
            self._unverified(_MODEL, short(error))

    # -- operations by themselves ---------------------------------------------------------------------------------

    def _take_over(self) -> None:
        """What the run did not come to, from the recording of reverse mode."""
        run = self.case.run
        for key, node in sorted(run.trace.nodes.items()):
            if key < 0 or not node.ops:
                continue
            if node.role == "function":
                origin = run.recorder.origin_of(run.autograd_nodes[key])
                cls = None if origin is None else origin.function_class
                if origin is None or cls is None or origin.arguments is None or surrogate_reason(cls):
                    if not (node.function is not None and node.function.surrogate):
                        self._unverified(node.name, "what it was called with is not known")
                    continue
                received = [v if isinstance(v, TensorRef) and v.edge else None for v in origin.arguments]
                refs = [r for r in received if r is not None]
                entry: Any = (cls, origin.arguments, received, node.location, node.module)
                if _function_key(cls, refs) not in self.settled:
                    self.open.setdefault(("again", _function_key(cls, refs)), ("function", entry))
            elif len(node.ops) == 1 and node.role in ("op", "write-through-view"):
                op = node.ops[0]
                refs = [
                    r
                    for r in tensors_in((op.args, op.kwargs), TensorRef)
                    if r.edge is not None and is_differentiable(r.dtype)
                ]
                if refs and _key(op, refs) not in self.settled:
                    self.open.setdefault(_key(op, refs), ("operation", (op, refs)))

    def _by_themselves(self) -> None:
        for number, (key, (kind, what)) in enumerate(self.open.items()):
            if self.case.seconds_left() <= 0:
                self._unverified("operations asked by themselves", "the time budget is used up")
                return
            if kind == "operation":
                if key not in self.settled:
                    op, refs = what
                    self._ask_operation(op, refs, number)
            else:
                cls, arguments, received, location, module = what
                self._ask_function(cls, arguments, received, location, module, number)

    def _ask_operation(self, op: OpRecord, refs: Sequence[TensorRef], number: int) -> None:
        with rng_frozen(self.case.seed):
            attempt = ask_operation(op, refs, self.case.seed * 7919 + 31 * number)
        if isinstance(attempt, str):
            self._unverified(op.name, attempt)
            return
        if attempt.error is not None:
            self._unverified(op.name, short(attempt.error))
            return
        for push in attempt.recorder.pushes:
            # Where it happened is known from the first run only.
            push.op.location, push.op.module = op.location, op.module
        if not attempt.recorder.pushes:
            self._unverified(op.name, _VACUOUS)
        self._judge(attempt, again=False)

    def _ask_function(
        self,
        cls: type,
        arguments: Sequence[Any],
        received: Sequence[Any],
        location: Location | None,
        module: str,
        number: int,
    ) -> None:
        """All tangents at once, then one at a time; only those of arguments that the model differentiates by."""
        differentiable = [
            i
            for i, (value, tangent) in enumerate(zip(arguments, received))
            if isinstance(value, TensorRef) and tangent is not None and is_differentiable(value.dtype)
        ]
        alone = [[i] for i in differentiable] if len(differentiable) > 1 else []
        for part in [differentiable, *alone] if differentiable else []:
            self.case.restore()
            with rng_frozen(self.case.seed):
                attempt = ask_function(cls, arguments, part, self.case.seed * 7919 + 31 * number)
            if isinstance(attempt, str):
                self._unverified(cls.__name__, attempt)
                return
            error = attempt.error
            if isinstance(error, NotImplementedError) and _NO_JVP in str(error):
                self._unverified(
                    cls.__name__,
                    "it has no jvp: add a static method jvp(ctx, *tangents) that returns one tangent per output",
                )
                return
            if error is not None:
                self._unverified(f"{cls.__name__} by itself", short(error))
                continue
            for call in attempt.recorder.calls:
                call.location, call.module = location, module
                origin = attempt.recorder.origin_of(call.node)
                if origin is not None and origin.function is not None:
                    origin.function.location = location
            self._judge(attempt, again=False)


def _plain(value: Any) -> Any:
    if isinstance(value, TensorRef):
        return value.dtype, value.shape
    if isinstance(value, list | tuple):
        return tuple(_plain(v) for v in value)
    return repr(value)


def _key(op: OpRecord, differentiable: Sequence[TensorRef]) -> Any:
    """Two operations alike in everything but their values."""
    wanted = {id(ref) for ref in differentiable}
    places = tuple(
        i for i, ref in enumerate(tensors_in((op.args, op.kwargs), TensorRef)) if id(ref) in wanted
    )
    kwargs = tuple((k, _plain(v)) for k, v in op.kwargs.items())
    return op.name, _plain(op.args), kwargs, places


def _function_key(cls: type, inputs: Sequence[TensorRef]) -> Any:
    return cls, tuple((ref.dtype, ref.shape) for ref in inputs)

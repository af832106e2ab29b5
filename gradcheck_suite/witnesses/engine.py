"""The engine's testimony: every node's backward, and every sum in between.

Two local facts are looked at. A node's returned gradients must be the VJP of the operation that it really ran. What is
delivered to a node must be the sum of what its consumers returned. Together with the leaves they prove every element
of every gradient, relative to the recorded graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from ..aten import MeaningUndefinedError, lookup
from ..compare.tolerance import (
    EPS,
    SPREAD,
    accumulation,
    coarsest_eps,
    granted,
    is_differentiable_dtype,
    judge,
    long_sum,
    settles,
)
from ..evidence import (
    Array,
    ArraySource,
    Comparison,
    NodeRecord,
    NodeVerdict,
    OpRecord,
    Outcome,
    TensorRef,
    Testimony,
)
from ..replay import LocalGradients, Unexplained, local_gradients, narrow_gradients
from .forward_value import MORE_SAMPLES, check_forward, within_the_forward
from .held_shape import along_symmetric_changes, only_hermitian_part
from .joint_choice import NO_CHOICE, accused_together
from .rounding import only_rounding
from .second_opinion import (
    CONTRADICTED,
    NOT_TOGETHER,
    Accusation,
    among_the_choices,
    beyond_the_domain,
    second_opinion,
)
from .sums import MODULE_HOOK, is_module_hook, node_name, reduced
from .terms import lost_in_attention, terms_of_gradient

__all__ = ["EdgeOutcomes", "Fallback", "check_node", "is_vacuous", "worst"]

EdgeOutcomes = dict[int, Outcome]

Probe = Callable[
    [NodeRecord, int], "tuple[tuple[ArraySource | None, ...], tuple[ArraySource | None, ...]] | None"
]


class Fallback(Protocol):
    """Asked for the gradients of a node that the engine cannot speak about, with a seed and the reason why."""

    def __call__(
        self,
        node: NodeRecord,
        cotangents: Sequence[ArraySource | None],
        seed: int,
        reason: str,
        *,
        numerically: bool = False,
    ) -> LocalGradients:
        """``numerically``: from differences only. Raises ``Unexplained`` where it cannot say either."""
        ...

    def in_float64(self, node: NodeRecord, cotangents: Sequence[ArraySource | None]) -> Mapping[int, Array]:
        """torch's own backward of the node, run again in float64, by edge. Raises ``Unexplained`` where that cannot be."""
        ...


_BRANCHES = "by differences: its forward decides by comparisons, so the engine's derivative on the recorded branches is none"

_BY_FORMULA = (
    "but the formula's derivative is what torch gives: torch's forward loses what differences look for"
)

_NOT_UNIQUE = "its singular vectors or eigenvectors are not unique here, and which are meant is open"

_SYMMETRIC = "its input is a symmetric matrix, and the gradient is right along changes that keep it symmetric, and only there"

_VACUOUS = "its cotangent is zero in every element, which any backward would pass"


# Its steps are one operation of the engine, so that roundings between them are not sampled.
_INSIDE_ATTENTION = 4.0

_ORDER = {Outcome.AGREE: 0, Outcome.INCONCLUSIVE: 1, Outcome.DISAGREE: 2}


def worst(outcomes: Sequence[Outcome]) -> Outcome:
    """Disagree over inconclusive over agree; agree for none at all."""
    return max(outcomes, key=_ORDER.__getitem__, default=Outcome.AGREE)


@np.errstate(all="ignore")
def check_node(
    node: NodeRecord, probe: Probe | None = None, *, seed: int = 0, fallback: Fallback | None = None
) -> tuple[NodeVerdict, EdgeOutcomes]:
    """Is what this node returned the derivative of what it computed?

    Args:
        node: with the cotangents torch delivered and the gradients it returned.
        probe: asks the torch node again with a random cotangent; used where the delivered one is zero, since zero
            times anything is right.
        seed: of perturbations and probes.
        fallback: asked for the gradients of a node that no meaning explains; raises ``Unexplained`` where it cannot
            say either.

    Returns:
        The verdict, and the outcome of each returned gradient by its position.
    """
    testimonies: list[Testimony] = []
    edges: EdgeOutcomes = {}
    how = ""
    elements = 0
    positions = [i for i, edge in enumerate(node.edges) if edge is not None]
    surrogate = node.function.surrogate if node.function is not None else ""
    if surrogate:
        testimonies.append(
            Testimony(
                "engine", _subject(node), Outcome.INCONCLUSIVE, reason=f"declared a surrogate: {surrogate}"
            )
        )
        edges = dict.fromkeys(positions, Outcome.INCONCLUSIVE)
        return _verdict(node, testimonies, "", 0), edges
    cotangents, gradients = node.cotangents, node.gradients
    remark = ""
    if all(_is_zero(c) for c in cotangents):
        asked = probe(node, seed) if probe is not None else None
        if asked is None:
            testimonies.append(
                Testimony(
                    "engine",
                    _subject(node),
                    Outcome.INCONCLUSIVE,
                    reason=_VACUOUS,
                )
            )
            return _verdict(node, testimonies, "", 0), dict.fromkeys(positions, Outcome.INCONCLUSIVE)
        silent = [p for p in positions if p < len(gradients) and _says_something(gradients[p])]
        if silent:
            testimonies.append(
                Testimony(
                    "engine",
                    _subject(node, silent[0]),
                    Outcome.DISAGREE,
                    reason="it returned a gradient that is not zero for a cotangent of zeros",
                )
            )
            edges = dict.fromkeys(silent, Outcome.DISAGREE)
        cotangents, gradients = asked
        remark = "probed with a random cotangent, since the delivered one is zero"
    narrow = _at_first_sight(node, cotangents, gradients, remark)
    if narrow:
        elements = sum(t.comparison.elements for t in narrow.values() if t.comparison is not None)
        outcomes = dict.fromkeys(narrow, Outcome.AGREE)
        return _verdict(node, [*testimonies, *narrow.values()], "meaning", elements), {**outcomes, **edges}
    try:
        try:
            local = local_gradients(node, cotangents, seed=seed)
        except Unexplained as error:
            if fallback is None or _left_open(error):
                raise
            local = fallback(node, cotangents, seed, str(error))
    except Unexplained as error:
        testimonies.append(Testimony("engine", _subject(node), Outcome.INCONCLUSIVE, reason=str(error)))
        return _verdict(node, testimonies, "", 0), dict.fromkeys(positions, Outcome.INCONCLUSIVE)
    how = local.how
    _, dtype = coarsest_eps(_dtypes(node))
    own, forward = local, check_forward(node, local, dtype)
    if forward is not None:
        try:
            if fallback is None or node.role == "unknown":
                raise Unexplained(forward.reason)
            local = fallback(node, cotangents, seed, forward.reason, numerically=True)
        except Unexplained as error:
            testimonies.append(replace(forward, reason=str(error)))
            return _verdict(node, testimonies, "", 0), dict.fromkeys(positions, Outcome.INCONCLUSIVE)
        how, remark = local.how, "; ".join(r for r in (remark, forward.reason) if r)
    said = [
        _check_group(node, local, number, gradients, cotangents, dtype, remark, fallback)
        for number in range(len(local.groups))
    ]
    if own is not local and len(own.groups) == len(said):
        said = [
            t
            if t.outcome is not Outcome.DISAGREE
            or _check_group(node, own, n, gradients, cotangents, dtype, "", None).outcome is not Outcome.AGREE
            else replace(t, outcome=Outcome.INCONCLUSIVE, reason=f"{t.reason}; {_BY_FORMULA}", value=None)
            for n, t in enumerate(said)
        ]
    if node.role == "function" and fallback is not None and any(t.reason == CONTRADICTED for t in said):
        # A bisection: its result follows the input, but on the recorded branches it does not.
        try:
            again = fallback(node, cotangents, seed, CONTRADICTED, numerically=True)
            said = [
                _check_group(node, again, number, gradients, cotangents, dtype, _BRANCHES, fallback)
                for number in range(len(again.groups))
            ]
            local, how = again, again.how
        except Unexplained:
            pass  # it stays open
    if node.role == "function" and len(local.groups) > 1 and forward is None and how != "numerical":
        said = _looked_at_together(node, local, said, gradients, dtype)
    for group, testimony in zip(local.groups, said):
        if testimony.outcome is Outcome.DISAGREE and is_module_hook(node):
            testimony = replace(testimony, outcome=Outcome.INCONCLUSIVE, reason=MODULE_HOOK, value=None)
        if forward is not None:
            testimony = within_the_forward(testimony, forward)
        testimonies.append(testimony)
        elements += testimony.comparison.elements if testimony.comparison is not None else 0
        for position in group:
            edges[position] = worst([testimony.outcome, edges.get(position, Outcome.AGREE)])
    return _verdict(node, testimonies, how, elements), edges


def _looked_at_together(
    node: NodeRecord,
    local: LocalGradients,
    said: list[Testimony],
    gradients: Sequence[ArraySource | None],
    dtype: str,
) -> list[Testimony]:
    """At a tie of two inputs each may get the whole gradient, but not both."""
    if all(t.comparison is None or t.comparison.max_error <= NO_CHOICE * t.comparison.scale for t in said):
        return said
    bases: dict[int, Array] = {}
    actual: dict[int, Array] = {}
    for number, group in enumerate(local.groups):
        ref = node.inputs[group[0]]
        if ref is None:
            continue
        found = _returned(gradients, group, ref.shape)
        bases[number] = ref.source.wide()
        actual[number] = found if found is not None else np.zeros(ref.shape)
    return accused_together(local, bases, actual, said, coarsest_eps([dtype])[0])


def _at_first_sight(
    node: NodeRecord,
    cotangents: Sequence[ArraySource | None],
    gradients: Sequence[ArraySource | None],
    remark: str,
) -> dict[int, Testimony]:
    """What the engine says in float32 where that settles agreement in every element, by edge; empty where not."""
    found = narrow_gradients(node, cotangents)
    if found is None:
        return {}
    expected, values = found
    for slot, value in enumerate(values):
        ref = node.outputs[slot] if slot < len(node.outputs) else None
        if value is None or ref is None or not is_differentiable_dtype(ref.dtype):
            continue
        if not settles(value, ref.source.array(), dtype="float32", slack=4.0):
            return {}
    said: dict[int, Testimony] = {}
    for position, gradient in enumerate(expected):
        if gradient is None:
            continue
        actual = _returned(gradients, (position,), gradient.shape)
        slack = long_sum(terms_of_gradient(node, gradient, cotangents), "float32")
        comparison = settles(gradient, actual, dtype="float32", slack=slack)
        if comparison is None:
            return {}
        said[position] = Testimony(
            "engine", _subject(node, position), Outcome.AGREE, comparison, reason=remark
        )
    return said


def is_vacuous(verdict: NodeVerdict) -> bool:
    """Whether nothing can be said of a node only because the cotangent it got was zero."""
    return bool(verdict.testimonies) and all(t.reason == _VACUOUS for t in verdict.testimonies)


def _left_open(error: BaseException | None) -> bool:
    """Whether torch itself leaves open what is right here."""
    while error is not None:
        if isinstance(error, MeaningUndefinedError):
            return True
        error = error.__cause__
    return False


def _is_zero(source: ArraySource | None) -> bool:
    if source is None:
        return True
    array = source.array()
    return array.size > 0 and not np.any(array)


def _says_something(source: ArraySource | None) -> bool:
    """Whether a gradient is not zero somewhere; zero times infinity is NaN by the rules of arithmetic."""
    if source is None:
        return False
    array = source.array()
    return bool(np.any(array[np.isfinite(array)]))


def _where_stored(ref: TensorRef | None, gradient: Array) -> Array:
    """Of a sparse input only what it stores is a variable; torch returns the gradient of that, or of all of it."""
    if ref is None or ref.strides or not ref.shape or ref.shape != gradient.shape:
        return gradient
    return np.where(ref.source.array() != 0, gradient, 0.0)


def _check_group(
    node: NodeRecord,
    local: LocalGradients,
    number: int,
    gradients: Sequence[ArraySource | None],
    cotangents: Sequence[ArraySource | None],
    dtype: str,
    remark: str,
    fallback: Fallback | None,
) -> Testimony:
    group = local.groups[number]
    expected = local.gradients[number]
    ref = node.inputs[group[0]] if group[0] < len(node.inputs) else None
    numerical = local.how == "numerical"
    actual = _returned(gradients, group, ref.shape if numerical and ref is not None else expected.shape)
    eps, _ = coarsest_eps([dtype])
    real_input = ref is not None and not ref.dtype.startswith("complex")
    if actual is not None and actual.dtype.kind == "c" and real_input:
        actual = actual.real
    if local.project is not None and actual is not None:
        actual = local.project(number, actual)
    if actual is not None and actual.shape == expected.shape:
        expected, actual = only_hermitian_part(node, expected), only_hermitian_part(node, actual)
        expected, actual = _where_stored(ref, expected), _where_stored(ref, actual)
    terms = 0.0 if numerical else terms_of_gradient(node, expected, cotangents)
    grown = 1.0 if numerical else accumulation(terms, dtype)
    slack = long_sum(terms, dtype)
    attention = lost_in_attention(node)
    if attention:
        slack = max(slack, attention * EPS[dtype] / granted(dtype))
        grown *= _INSIDE_ATTENTION
    accuracy = max((known.accuracy for op in node.ops for known in [lookup(op.name)] if known), default=0.0)
    if accuracy and not numerical:
        slack = max(slack, accuracy / granted(dtype))
        approximate = f"compared to {accuracy:.0e}: torch approximates this derivative by design"
        remark = f"{remark}; {approximate}" if remark else approximate
    outcome, comparison = judge(
        expected,
        actual,
        dtype=dtype,
        noise=lambda: local.noise(number, eps) * grown,
        slack=slack,
        spread=SPREAD if numerical else None,  # the error of a difference is its own, whatever the dtype
        input_value=None if ref is None or numerical else (lambda: ref.source.array()),
    )

    def again(expected: Array) -> tuple[Outcome, Comparison]:
        return judge(
            expected,
            actual,
            dtype=dtype,
            noise=lambda: local.noise(number, eps, MORE_SAMPLES) * grown,
            slack=slack,
            input_value=None if ref is None else (lambda: ref.source.array()),
        )

    if outcome is Outcome.DISAGREE and not numerical:
        outcome, comparison = again(expected)
    if outcome is Outcome.DISAGREE and not numerical:
        beyond = beyond_the_domain(node, ref, actual)
        if beyond is not None:
            expected = np.where(beyond, np.nan, expected)
            outcome, comparison = again(expected)
            remark = (
                remark or "torch's NaN at elements that are not finite themselves, where nothing is defined"
            )
    subject = _subject(node, group[0])
    if outcome is Outcome.DISAGREE and not numerical and fallback is not None and actual is not None:
        rounded = only_rounding(
            node, number, expected, actual, cotangents, fallback.in_float64, dtype=dtype, terms=terms
        )
        if rounded is not None:
            comparison, why = rounded
            return Testimony(
                "engine", subject, Outcome.AGREE, comparison, reason="; ".join(r for r in (remark, why) if r)
            )
    base = None if ref is None else ref.source.wide
    if outcome is Outcome.AGREE and not numerical and actual is not None and not attention:
        case = Accusation(local, number, subject, remark, dtype, expected, actual, again, base)
        accused = among_the_choices(case, comparison)
        if accused is not None:
            return _of_unique_vectors(node, accused)
    if outcome is not Outcome.DISAGREE:
        reason = remark
        if outcome is Outcome.INCONCLUSIVE:
            reason = (
                "differences of the forward are too rough for some elements"
                if numerical
                else "what rounding may do to some elements cannot be told: perturbed values leave the domain"
                if np.isfinite(expected).all()
                else "the engine has no finite value for some elements"
            )
        return Testimony(
            "finite_difference" if numerical else "engine", subject, outcome, comparison, reason=reason
        )
    if numerical:
        whole = ref is not None and expected.shape == ref.shape
        along = "" if whole else f"compared along {expected.size} random directions"
        reason = "; ".join(r for r in (remark, along) if r)
        return Testimony("finite_difference", subject, Outcome.DISAGREE, comparison, reason=reason)
    reason = "; ".join(
        r for r in (remark, "the backward returned no gradient (None)" if actual is None else "") if r
    )
    found = actual if actual is not None else np.zeros(expected.shape)
    case = Accusation(local, number, subject, reason, dtype, expected, found, again, base)
    said = _of_unique_vectors(node, second_opinion(case, comparison))
    if said.outcome is Outcome.DISAGREE and node.role == "function" and ref is not None:
        same_along = along_symmetric_changes(ref, expected, found)
        if same_along is not None:
            outcome, comparison = again(same_along)
            if outcome is Outcome.AGREE:
                return replace(said, outcome=Outcome.INCONCLUSIVE, reason=_SYMMETRIC, value=None)
            # What is wrong along those is to be told, not which half was meant.
            return replace(said, comparison=comparison, value=None)
    return said


def _of_unique_vectors(node: NodeRecord, said: Testimony) -> Testimony:
    """Equal or zero singular values leave a whole space of gradients open, which no sample of points beside spans."""
    if said.outcome is not Outcome.DISAGREE or NOT_TOGETHER not in said.reason or node.role != "op":
        return said
    if not any(name in op.name for op in node.ops for name in ("svd", "eig", "matrix_norm", "pinv")):
        return said
    return replace(said, outcome=Outcome.INCONCLUSIVE, reason=_NOT_UNIQUE)


def _returned(
    gradients: Sequence[ArraySource | None], group: Sequence[int], shape: tuple[int, ...]
) -> Array | None:
    """What torch returned for a group of edges, as the autograd engine passes it on.

    torch sums a returned gradient down to its input's shape where it is merely broadcast; so do we.
    """
    total: Array | None = None
    for position in group:
        source = gradients[position] if position < len(gradients) else None
        if source is None:
            continue
        array = reduced(source.array(), shape)
        total = (
            array
            if total is None
            else np.asarray(total + array, dtype=np.result_type(total, array, np.float64))
        )
    return total


def _dtypes(node: NodeRecord) -> list[str]:
    found = [ref.dtype for ref in (*node.inputs, *node.outputs) if ref is not None]
    for op in node.ops:
        found.extend(_op_dtypes(op))
    return [d for d in found if is_differentiable_dtype(d)]


def _op_dtypes(op: OpRecord) -> list[str]:
    found: list[str] = []

    def collect(values: Sequence[object]) -> None:
        for value in values:
            if isinstance(value, TensorRef):
                found.append(value.dtype)
            elif isinstance(value, list | tuple):
                collect(value)

    collect(op.args)
    collect(op.outputs)
    return found


def _subject(node: NodeRecord, position: int | None = None) -> str:
    if position is None:
        return f"backward of {node_name(node)}"
    which = "input" if len(node.edges) == 1 else f"input {position}"
    return f"d loss / d {which} of {node_name(node)}"


def _verdict(node: NodeRecord, testimonies: Sequence[Testimony], how: str, elements: int) -> NodeVerdict:
    outcome = worst([t.outcome for t in testimonies])
    op = (
        node.function.name
        if node.function is not None
        else ", ".join(dict.fromkeys(o.name for o in node.ops))
    )
    return NodeVerdict(
        key=node.key,
        name=node.name,
        op=op,
        location=node.location,
        module=node.module,
        outcome=outcome,
        how=how if outcome is not Outcome.INCONCLUSIVE else "",
        testimonies=tuple(testimonies),
        inputs=tuple("" if r is None else r.describe() for r in node.inputs),
        outputs=tuple("" if r is None else r.describe() for r in node.outputs),
        elements=elements,
    )

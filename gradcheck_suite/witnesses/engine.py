"""The engine's testimony: every node's backward, and every sum in between.

Two local facts are looked at. A node's returned gradients must be the VJP of the operation that it really ran. What is
delivered to a node must be the sum of what its consumers returned. Together with the leaves they prove every element
of every gradient, relative to the recorded graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from ..aten import MeaningUndefinedError
from ..compare.tolerance import SPREAD, accumulation, coarsest_eps, is_differentiable_dtype, judge
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
from ..replay import LocalGradients, Unexplained, local_gradients
from .sums import node_name, reduced

__all__ = ["EdgeOutcomes", "Fallback", "check_node", "is_vacuous", "worst"]

EdgeOutcomes = dict[int, Outcome]

Probe = Callable[
    [NodeRecord, int], "tuple[tuple[ArraySource | None, ...], tuple[ArraySource | None, ...]] | None"
]

Fallback = Callable[[NodeRecord, Sequence[ArraySource | None], int, str], LocalGradients]

_VACUOUS = "its cotangent is zero in every element, which any backward would pass"

# Before accusing: that two samples of an element's noise are both ten times too small happens once in a hundred
# elements, that twelve are does not happen.
_MORE_SAMPLES = 12
# torch's algorithm may lose a few more digits than the engine's (a product of reflectors that is undone by their
# inverses): below this many units in the last place a disagreement needs a second witness.
_HAIR = 1e3

_ORDER = {Outcome.AGREE: 0, Outcome.INCONCLUSIVE: 1, Outcome.DISAGREE: 2}


def worst(outcomes: Sequence[Outcome]) -> Outcome:
    """Disagree over inconclusive over agree; agree for none at all."""
    return max(outcomes, key=_ORDER.__getitem__, default=Outcome.AGREE)


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
            Testimony("engine", _subject(node), Outcome.INCONCLUSIVE, reason=f"declared a surrogate: {surrogate}")
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
    forward = _check_forward(node, local, dtype)
    if forward is not None:
        testimonies.append(forward)
        return _verdict(node, testimonies, "", 0), dict.fromkeys(positions, Outcome.INCONCLUSIVE)
    for number, group in enumerate(local.groups):
        testimony = _check_group(node, local, number, gradients, cotangents, dtype, remark)
        testimonies.append(testimony)
        elements += testimony.comparison.elements if testimony.comparison is not None else 0
        for position in group:
            edges[position] = worst([testimony.outcome, edges.get(position, Outcome.AGREE)])
    return _verdict(node, testimonies, how, elements), edges


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


def _check_forward(node: NodeRecord, local: LocalGradients, dtype: str) -> Testimony | None:
    """None when the engine's forward values are torch's; otherwise why its gradients must not be trusted here."""
    eps, _ = coarsest_eps([dtype])
    for slot, value in enumerate(local.outputs):
        ref = node.outputs[slot] if slot < len(node.outputs) else None
        if value is None or ref is None or not is_differentiable_dtype(ref.dtype):
            continue
        outcome, comparison = judge(
            value, ref.source.array(), dtype=dtype, noise=partial(local.output_noise, slot, eps), slack=4.0
        )
        if outcome is Outcome.DISAGREE:
            noise = partial(local.output_noise, slot, eps, _MORE_SAMPLES)
            outcome, comparison = judge(value, ref.source.array(), dtype=dtype, noise=noise, slack=4.0)
        if outcome is Outcome.DISAGREE:
            return Testimony(
                "engine",
                f"value of output {slot} of {node_name(node)}",
                Outcome.INCONCLUSIVE,
                comparison,
                reason="the engine's forward value differs from torch's, so it cannot speak about the gradient",
            )
    return None


def _check_group(
    node: NodeRecord,
    local: LocalGradients,
    number: int,
    gradients: Sequence[ArraySource | None],
    cotangents: Sequence[ArraySource | None],
    dtype: str,
    remark: str,
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
    grown = 1.0 if numerical else accumulation(_terms(node, expected, cotangents))
    outcome, comparison = judge(
        expected,
        actual,
        dtype=dtype,
        noise=lambda: local.noise(number, eps) * grown,
        spread=SPREAD if numerical else None,  # the error of a difference is its own, whatever the dtype
        input_value=None if ref is None or numerical else (lambda: ref.source.array()),
    )
    if outcome is Outcome.DISAGREE and not numerical:
        outcome, comparison = judge(
            expected,
            actual,
            dtype=dtype,
            noise=lambda: local.noise(number, eps, _MORE_SAMPLES) * grown,
            input_value=None if ref is None else (lambda: ref.source.array()),
        )
    if outcome is Outcome.DISAGREE and not numerical:
        beyond = _beyond_the_domain(node, ref, actual)
        if beyond is not None:
            outcome, comparison = judge(
                np.where(beyond, np.nan, expected), actual, dtype=dtype, noise=lambda: local.noise(number, eps) * grown
            )
            remark = remark or "torch's NaN at elements that are not finite themselves, where nothing is defined"
    subject = _subject(node, group[0])
    if outcome is not Outcome.DISAGREE:
        reason = remark
        if outcome is Outcome.INCONCLUSIVE:
            reason = (
                "differences of the forward are too rough for some elements"
                if numerical
                else "the engine has no finite value for some elements"
            )
        return Testimony("finite_difference" if numerical else "engine", subject, outcome, comparison, reason=reason)
    if numerical:
        whole = ref is not None and expected.shape == ref.shape
        along = "" if whole else f"compared along {expected.size} random directions"
        reason = "; ".join(r for r in (remark, along) if r)
        return Testimony("finite_difference", subject, Outcome.DISAGREE, comparison, reason=reason)
    return _second_opinion(local, number, comparison, subject, remark, dtype=dtype, nothing=actual is None)


def _beyond_the_domain(node: NodeRecord, ref: TensorRef | None, actual: Array | None) -> Array | None:
    """Where torch returned NaN for an input that is NaN or infinite, if the operation's own value is not finite.

    The slope of ``logsumexp`` where all its inputs are -inf is as undefined as its value is infinite. A softmax that
    gets -inf beside finite numbers has a finite value, and zero is its slope.
    """
    if ref is None or actual is None or actual.shape != ref.shape:
        return None
    beyond = ~np.isfinite(ref.source.array()) & np.isnan(actual)
    values = [r.source.array() for r in node.outputs if r is not None and is_differentiable_dtype(r.dtype)]
    if not beyond.any() or all(np.isfinite(v).all() for v in values):
        return None
    return np.asarray(beyond)


def _terms(node: NodeRecord, gradient: Array, cotangents: Sequence[ArraySource | None]) -> float:
    """About how many terms were added up for one element of the gradient.

    Exact for a plain sum (elements of the cotangent per element of the gradient) and for a contraction of the
    cotangent with one other operand, whose sizes multiply to gradient size times the square of the summed extent.
    """
    size = max(gradient.size, 1)
    cotangent = max((c.array().size for c in cotangents if c is not None), default=1)
    other = max((int(np.prod(ref.shape)) for ref in node.inputs if ref is not None), default=1)
    return max(cotangent / size, float(np.sqrt(cotangent * other / size)))


def _second_opinion(
    local: LocalGradients,
    number: int,
    comparison: Comparison,
    subject: str,
    remark: str,
    *,
    dtype: str,
    nothing: bool,
) -> Testimony:
    """Before accusing: does a finite difference of the forward, at the worst element, contradict the engine?"""
    reason = "; ".join(r for r in (remark, "the backward returned no gradient (None)" if nothing else "") if r)
    expected = complex(comparison.expected)
    actual = complex(comparison.actual)
    if not np.isfinite([expected.real, actual.real]).all():  # also when the shapes differ: no element is the worst
        return Testimony("engine", subject, Outcome.DISAGREE, comparison, reason=reason)
    unit = 1j if abs((expected - actual).imag) > abs((expected - actual).real) else 1
    try:
        difference = local.difference(number, comparison.index, unit)
    except Unexplained:
        difference = None
    unit_in_last_place = coarsest_eps([dtype])[0] * comparison.scale
    unsettled = difference is None or difference.error >= abs(expected - actual) / 4
    if unsettled and comparison.error <= _HAIR * unit_in_last_place:
        return Testimony(
            "engine",
            subject,
            Outcome.INCONCLUSIVE,
            comparison,
            reason=f"they differ by {comparison.error / unit_in_last_place:.0f} units in the last place of the largest "
            "element: more than the operation's own noise, too little for a finite difference to settle",
        )
    if difference is None:
        return Testimony("engine", subject, Outcome.DISAGREE, comparison, reason=reason)
    e, a = (expected.imag, actual.imag) if unit == 1j else (expected.real, actual.real)
    low, high = sorted((difference.left, difference.right))
    margin = 1e-3 * max(abs(high), abs(low))
    if difference.kink and low - margin <= a <= high + margin:
        return Testimony(
            "engine",
            subject,
            Outcome.AGREE,
            comparison,
            reason=f"at a kink: torch's choice {a:.4g} lies between the one-sided slopes {low:.4g} and {high:.4g}",
        )
    if abs(difference.value - e) > 3 * difference.error + abs(e - a) / 2:
        return Testimony(
            "engine",
            subject,
            Outcome.INCONCLUSIVE,
            comparison,
            reason="the engine and a finite difference of the forward contradict each other here",
            value=difference.value,
        )
    confirmed = difference.error < abs(e - a) / 4
    return Testimony(
        "engine", subject, Outcome.DISAGREE, comparison, reason=reason, value=difference.value if confirmed else None
    )


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
        total = array if total is None else np.asarray(total + array, dtype=np.result_type(total, array, np.float64))
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
    if node.function is not None:
        op = node.function.name
    else:
        op = ", ".join(dict.fromkeys(o.name for o in node.ops))
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

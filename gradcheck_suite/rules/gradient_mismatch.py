"""A backward disagrees with the derivative of its forward.

Why: training still runs, the loss may even fall, and nothing raises: the step simply goes in a wrong direction.
    The operation that is blamed was given the very inputs and the very cotangent it had in your run; an
    independent engine differentiated the forward that really ran, and its answer differs by more than rounding
    can explain. Since every operation is judged alone, the one that is named is the one to correct.

Bad::

    import torch
    from gradcheck_suite import check_gradients

    class Cube(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x * x

        @staticmethod
        def backward(ctx, grad_output):
            (x,) = ctx.saved_tensors
            return 2 * x * x * grad_output

    def model(x):
        return Cube.apply(x)  # <-

    report = check_gradients(model, torch.linspace(-2, 2, 12).reshape(3, 4))

Good::

    import torch
    from gradcheck_suite import check_gradients

    class Cube(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x * x

        @staticmethod
        def backward(ctx, grad_output):
            (x,) = ctx.saved_tensors
            return 3 * x * x * grad_output

    def model(x):
        return Cube.apply(x)

    report = check_gradients(model, torch.linspace(-2, 2, 12).reshape(3, 4))

Misses: a backward that is wrong only for values, shapes or branches that your inputs do not reach; a Function
    that is declared a surrogate (``@surrogate_gradient``); errors below the rounding of the dtype it ran in.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..evidence import Comparison, Finding, Location, NodeVerdict, RelatedLocation, Severity, Testimony
from ..wording import element, number, pair, plural, relative_path, share, small
from .excerpts import definition
from .registry import Rule, rule

__all__ = ["GradientMismatch"]

_WITNESS_NAMES = {
    "engine": "engine",
    "sum": "sum",
    "replay": "replay",
    "finite_difference": "differences",
}


@rule("GC101", "gradient-mismatch", Severity.ERROR)
class GradientMismatch(Rule):
    """Turns disagreeing testimonies into findings."""

    @classmethod
    def from_node(
        cls,
        verdict: NodeVerdict,
        testimony: Testimony,
        *,
        backward: Location | None = None,
        function_name: str = "",
    ) -> Finding:
        """One node whose backward is wrong.

        Args:
            verdict: the node.
            testimony: the disagreeing statement about one of its gradients.
            backward: the line of a custom Function's ``backward``.
            function_name: class name of a custom Function, or "" for an operation of torch.
        """
        name = function_name or verdict.op or verdict.name
        if backward is not None:
            backward = definition(backward)
        return cls.finding(
            [f"the backward of {name} disagrees with the derivative of its forward", *_numbers(testimony)],
            location=verdict.location,
            related=() if backward is None else (RelatedLocation("backward", backward),),
            module=verdict.module,
            op=verdict.name,
            evidence={"node": verdict.key, "how": verdict.how, **_evidence(testimony)},
            hint=_hint(testimony, backward, function_name),
        )

    @classmethod
    def from_sum(
        cls,
        testimony: Testimony,
        *,
        location: Location | None = None,
        module: str = "",
        op: str = "",
        hooked: bool = False,
    ) -> Finding:
        """What was delivered to a node, or added to ``.grad``, is not the sum of what was returned for it.

        Args:
            testimony: of witness "sum".
            location: where the value was made.
            op: node or leaf that received the wrong sum.
            hooked: whether a tensor hook is known to sit on that value.
        """
        cause = (
            "a tensor hook on this value changes its gradient"
            if hooked
            else "a tensor hook changes it, or a backward writes into its grad_output in place"
        )
        pattern = testimony.comparison.pattern if testimony.comparison else ""
        return cls.finding(
            [
                f"the gradient that arrived at {op or _subject(testimony)} is not the sum of its contributions",
                *_numbers(testimony),
            ],
            location=location,
            module=module,
            op=op,
            evidence=_evidence(testimony),
            hint=f"{pattern}; {cause}" if pattern else cause,
        )

    @classmethod
    def from_model(
        cls, testimony: Testimony, *, location: Location | None = None, suspects: tuple[str, ...] = ()
    ) -> Finding:
        """The whole model's gradient disagrees with finite differences although no single node was found wrong.

        Args:
            testimony: of the witness that looked at the whole model.
            suspects: what was not verified node by node and may hold the cause.
        """
        if suspects:
            hint = f"nothing verified these, so the cause is likely there: {', '.join(suspects)}"
        else:
            hint = "every node agrees by itself, so look for a value that reaches the output around autograd"
        return cls.finding(
            [
                "the gradient of the whole model disagrees with how its output really changes",
                *_numbers(testimony),
            ],
            location=location,
            evidence=_evidence(testimony),
            hint=hint,
        )


def _subject(testimony: Testimony) -> str:
    return testimony.subject.split(" of ")[0]


def _numbers(testimony: Testimony) -> Iterator[str]:
    """The worst element by every witness, then how much of the tensor is affected."""
    numbers = testimony.comparison
    if numbers is None:
        yield f"{_subject(testimony)}: {testimony.reason}"
        return
    if numbers.pattern and numbers.expected != numbers.expected and numbers.actual != numbers.actual:
        # No element could be compared with another: the shapes differ.
        yield f"{_subject(testimony)}: {numbers.pattern}"
        return
    actual, expected = pair(numbers.actual, numbers.expected)
    place, subject = element(numbers.index), _subject(testimony)
    # "input 1[2, 7]" would read as one number.
    where = f"{subject} {place}" if place and subject[-1:].isdigit() else f"{subject}{place}"
    other = "" if testimony.value is None else f"  differences {number(testimony.value)}"
    witness = _WITNESS_NAMES.get(testimony.witness, testimony.witness.replace("_", " "))
    yield f"{where}: autograd {actual}  {witness} {expected}{other}"
    yield _extent(numbers)
    if testimony.reason:
        yield testimony.reason


def _extent(numbers: Comparison) -> str:
    tolerance = f"tolerance {small(numbers.tolerance)}"
    if numbers.scale > 0:
        size = f"{share(numbers.max_error, numbers.scale)} of the largest"
    else:
        size = f"{small(numbers.max_error)} where zero is expected"
    if numbers.elements == 1:
        return f"off by {small(numbers.error)}; {tolerance}"
    verb = "differs" if numbers.differing == 1 else "differ"
    return (
        f"{numbers.differing:,} of {plural(numbers.elements, 'element')} {verb}, by up to {size}; {tolerance}"
    )


def _evidence(testimony: Testimony) -> dict[str, Any]:
    numbers = testimony.comparison
    facts: dict[str, Any] = {"witness": testimony.witness, "subject": testimony.subject}
    if numbers is not None:
        facts |= {
            "element": list(numbers.index),
            "autograd": _plain(numbers.actual),
            "expected": _plain(numbers.expected),
            "error": numbers.error,
            "tolerance": numbers.tolerance,
            "largest_error": numbers.max_error,
            "largest_expected": numbers.scale,
            "differing": numbers.differing,
            "elements": numbers.elements,
        }
    if testimony.value is not None:
        facts["differences"] = testimony.value
    return facts


def _plain(value: complex | float) -> float | str:
    """A number that JSON can hold."""
    return number(value, 17) if isinstance(value, complex) else float(value)


def _hint(testimony: Testimony, backward: Location | None, function_name: str) -> str:
    pattern = testimony.comparison.pattern if testimony.comparison else ""
    place = f" ({relative_path(backward.file)}:{backward.line})" if backward else ""
    if not function_name:
        return pattern or (
            "this operation is torch's own: check that its meaning here is the one you expect, then report it "
            "to PyTorch with the reproduction"
        )
    meant = _meant(testimony, function_name)
    if pattern.endswith("in backward") or "backward" in pattern:
        return f"{pattern}{place}{meant}"
    target = f"the backward of {function_name}{place}"
    look = (
        f"{pattern}; look at {target}" if pattern else f"compare {target} with the derivative of its forward"
    )
    return look + meant


def _meant(testimony: Testimony, function_name: str) -> str:
    """How to declare what looks like a surrogate: a slope where there is none, or one that is reversed."""
    numbers = testimony.comparison
    if numbers is None:
        return ""
    if numbers.scale == 0 and numbers.expected == 0:
        kind = "straight-through"
        which = "the derivative of its forward is zero; if another stands in for it on purpose"
    elif numbers.pattern.startswith(("the sign is flipped everywhere", "the ratio is -")):
        kind, which = "gradient reversal", "if the gradient is reversed on purpose"
    else:
        return ""
    return f'; {which}, declare it: @surrogate_gradient("{kind}") on {function_name}, or surrogates=({function_name},)'

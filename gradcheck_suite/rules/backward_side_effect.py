"""A backward writes into what is not its own, or answers differently for the same cotangent.

Why: torch hands the tensor in ``grad_output`` to others as well, runs a backward again under ``retain_graph=True``,
    delivers gradients that are expanded (from ``.sum()``), transposed or channels-last, leaves gradients of unused
    outputs undefined, and asks for gradients of some inputs only. A backward that is right in one run may therefore be
    wrong in the next model that it is used in. Every custom Function of the run (and operator with
    ``register_autograd``) is asked again on purpose, in each of these situations, with fresh cotangents; a wrong answer
    is one that differs from the answer for the same values in plain contiguous memory.

Bad::

    import torch
    from gradcheck_suite import check_gradients

    class Relu(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.clamp(min=0)

        @staticmethod
        def backward(ctx, grad_output):
            (x,) = ctx.saved_tensors
            grad_output[x < 0] = 0  # <-
            return grad_output

    report = check_gradients(Relu.apply, torch.linspace(-2, 2, 12).reshape(3, 4))

Bad::

    import torch
    from gradcheck_suite import check_gradients

    class Flat(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.shape = x.shape
            return 2 * x

        @staticmethod
        def backward(ctx, grad_output):
            return 2 * grad_output.view(-1).reshape(ctx.shape)  # <-

    report = check_gradients(Flat.apply, torch.linspace(-2, 2, 12).reshape(3, 4))

Bad::

    import torch
    from gradcheck_suite import check_gradients

    class Scale(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, w):
            ctx.save_for_backward(x, w)
            return x * w

        @staticmethod
        def backward(ctx, grad_output):
            x, w = ctx.saved_tensors
            return grad_output * w, x.mul_(grad_output)  # <-

    report = check_gradients(Scale.apply, (torch.linspace(1, 2, 6), torch.linspace(2, 3, 6)))

Good::

    import torch
    from gradcheck_suite import check_gradients

    class Relu(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.clamp(min=0)

        @staticmethod
        def backward(ctx, grad_output):
            (x,) = ctx.saved_tensors
            grad_input = grad_output.clone()
            grad_input[x < 0] = 0
            return grad_input

    report = check_gradients(Relu.apply, torch.linspace(-2, 2, 12).reshape(3, 4))

Good::

    import torch
    from gradcheck_suite import check_gradients

    class Cached(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.sin()

        @staticmethod
        def backward(ctx, grad_output):
            if not hasattr(ctx, "cosine"):
                ctx.cosine = ctx.saved_tensors[0].cos()
            return grad_output * ctx.cosine

    report = check_gradients(Cached.apply, torch.linspace(-2, 2, 12))

Good::

    import torch
    from gradcheck_suite import check_gradients

    class SineAndCosine(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.set_materialize_grads(False)
            ctx.save_for_backward(x)
            return x.sin(), x.cos()

        @staticmethod
        def backward(ctx, of_sine, of_cosine):
            (x,) = ctx.saved_tensors
            gradient = torch.zeros_like(x)
            if of_sine is not None:
                gradient += of_sine * x.cos()
            if of_cosine is not None:
                gradient -= of_cosine * x.sin()
            return gradient

    def model(x):
        sine, cosine = SineAndCosine.apply(x)
        return sine * cosine

    report = check_gradients(model, torch.linspace(-2, 2, 12))

Misses: Functions that did not run; torch's own; situations in which the recorded call has no neighbour (inputs that
    required no gradient, outputs that nothing used). What torch repairs by itself is documented behaviour and not
    reported: a gradient that is summed to its input's shape, converted to its dtype, or returned for an input that
    needs none. Writes into ``ctx`` attributes count only if the next answer differs, writes into inputs that need no
    gradient (buffers) not at all, and a declared surrogate may return other values from call to call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..evidence import Comparison, Finding, Location, RelatedLocation, Severity
from ..wording import element, listing, pair, plural, small
from .registry import Rule, rule

__all__ = ["BackwardSideEffect"]


@rule("GC107", "backward-side-effect", Severity.ERROR)
class BackwardSideEffect(Rule):
    """Turns what a custom Function's backward did when it was asked again into findings."""

    @classmethod
    def from_write(
        cls,
        name: str,
        into: str,
        *,
        what: str,
        consequences: Sequence[str] = (),
        operation: str = "",
        location: Location | None = None,
        applied: Location | None = None,
        module: str = "",
        op: str = "",
    ) -> Finding:
        """It wrote into a tensor that is not its own.

        Args:
            name: class name of the Function.
            into: how its backward knows the tensor, ``"saved_tensors[0]"``.
            what: ``"grad_output"``, ``"saved"``, ``"input"`` or ``"output"``.
            consequences: further facts, one per line.
            operation: what wrote, when it was an operation of torch.
            location: the line that wrote, or of the backward.
            applied: where the Function was called.
            module, op: of the node.
        """
        with_what = f" ({operation})" if operation else ""
        return cls.finding(
            [f"the backward of {name} writes into {into}{with_what}", _HARM[what], *consequences],
            location=location,
            related=_applied(applied),
            module=module,
            op=op,
            evidence={"subject": f"{name} writes into {what}", "kind": "write", "tensor": into},
            hint=_REMEDY[what],
        )

    @classmethod
    def from_difference(
        cls,
        name: str,
        situation: str,
        input_name: str,
        numbers: Comparison,
        *,
        kind: str,
        reference: str,
        remarks: Sequence[str] = (),
        hint: str = "",
        severity: Severity = Severity.ERROR,
        location: Location | None = None,
        applied: Location | None = None,
        module: str = "",
        op: str = "",
    ) -> Finding:
        """Its answer differs from the one that is right.

        Args:
            situation: when, completing "answers differently ...".
            input_name: which gradient.
            numbers: the differing answer (``actual``) against the other.
            kind: ``"repetition"``, ``"random"``, ``"layout"``, ``"undefined"`` or ``"single input"``.
            reference: what the other answer is to.
        """
        actual, expected = pair(numbers.actual, numbers.expected)
        place = element(numbers.index)
        return cls._of_severity(
            severity,
            [
                f"the backward of {name} answers differently {situation}",
                f"d loss / d {input_name}{f' {place}' if place else ''}: {actual}  {reference}: {expected}",
                f"{numbers.differing:,} of {plural(numbers.elements, 'element')} "
                f"{'differs' if numbers.differing == 1 else 'differ'}, by up to {small(numbers.max_error)}",
                *remarks,
            ],
            location=location,
            related=_applied(applied),
            module=module,
            op=op,
            evidence={
                "subject": f"{name}: {kind}",
                "kind": kind,
                "element": list(numbers.index),
                "differing": numbers.differing,
                "largest_error": numbers.max_error,
            },
            hint=hint,
        )

    @classmethod
    def from_error(
        cls,
        name: str,
        situations: Sequence[str],
        error: str,
        *,
        kind: str,
        hint: str = "",
        location: Location | None = None,
        applied: Location | None = None,
        module: str = "",
        op: str = "",
    ) -> Finding:
        """It raises in a situation that torch produces.

        Args:
            situations: when, each completing "raises for ...".
            error: type and first line.
        """
        return cls.finding(
            [f"the backward of {name} raises {situations[0]}", error, _also(situations[1:])],
            location=location,
            related=_applied(applied),
            module=module,
            op=op,
            evidence={"subject": f"{name} raises: {kind}", "kind": kind, "error": error},
            hint=hint,
        )

    @classmethod
    def _of_severity(cls, severity: Severity, lines: Sequence[str], **rest: object) -> Finding:
        return replace(cls.finding(lines, **rest), severity=severity)  # type: ignore[arg-type]


_HARM = {
    "grad_output": "others may read the same memory: the gradient of whatever else uses this output is wrong then",
    "saved": "a second backward through the same graph (retain_graph=True) works on overwritten values",
    "input": "whoever uses this tensor afterwards, a second backward included, works on overwritten values",
    "output": "whoever uses this tensor afterwards, the next operation's backward included, reads overwritten values",
}
_REMEDY = {
    "grad_output": "compute a new tensor: grad_output * mask instead of grad_output.mul_(mask), or write into a clone",
    "saved": "compute a new tensor instead of writing into a saved one",
    "input": "compute a new tensor instead of writing into an input",
    "output": "compute a new tensor instead of writing into an output",
}


def _applied(location: Location | None) -> tuple[RelatedLocation, ...]:
    return () if location is None else (RelatedLocation("applied", location),)


def _also(situations: Sequence[str]) -> str:
    return f"and also {listing(list(situations))}" if situations else ""

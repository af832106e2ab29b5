"""A tangent disagrees with the derivative of the forward.

Why: forward mode (``torch.func.jvp``, ``jacfwd``, Hessian-vector products, Laplacians) does not use the backward: a
    custom Function has a second derivative rule of its own, ``jvp``, that no training run ever executes. A wrong one
    raises nothing. The operation that is blamed was given the very inputs and tangents that it had in your run; an
    independent engine pushed the same tangents through the forward that really ran, and its answer differs by more
    than rounding can explain.

Bad::

    import torch
    from gradcheck_suite import check_gradients

    class Cube(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            ctx.save_for_forward(x)
            return x * x * x

        @staticmethod
        def backward(ctx, grad_output):
            (x,) = ctx.saved_tensors
            return 3 * x * x * grad_output

        @staticmethod
        def jvp(ctx, tangent):
            (x,) = ctx.saved_tensors
            return 2 * x * x * tangent

    def model(x):
        return Cube.apply(x)  # <-

    report = check_gradients(model, torch.linspace(-2, 2, 12).reshape(3, 4), forward_mode=True)

Bad::

    import torch
    from gradcheck_suite import check_gradients

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, y):
            ctx.save_for_backward(x, y)
            ctx.save_for_forward(x, y)
            return x * y

        @staticmethod
        def backward(ctx, grad_output):
            x, y = ctx.saved_tensors
            return grad_output * y, grad_output * x

        @staticmethod
        def jvp(ctx, x_tangent, y_tangent):
            x, y = ctx.saved_tensors
            return x_tangent * y

    def model(x, y):
        return Product.apply(x, y).tanh()  # <-

    report = check_gradients(model, (torch.rand(3, 4), torch.rand(3, 4)), forward_mode=True)

Good::

    import torch
    from gradcheck_suite import check_gradients

    class Cube(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            ctx.save_for_forward(x)
            return x * x * x

        @staticmethod
        def backward(ctx, grad_output):
            (x,) = ctx.saved_tensors
            return 3 * x * x * grad_output

        @staticmethod
        def jvp(ctx, tangent):
            (x,) = ctx.saved_tensors
            return 3 * x * x * tangent

    def model(x):
        return Cube.apply(x)

    report = check_gradients(model, torch.linspace(-2, 2, 12).reshape(3, 4), forward_mode=True)

Good::

    import torch
    from gradcheck_suite import check_gradients

    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.mark_dirty(x)
            return x.mul_(2)

        @staticmethod
        def backward(ctx, grad_output):
            return grad_output * 2

        @staticmethod
        def jvp(ctx, tangent):
            return tangent.mul_(2)

    def model(x):
        y = x.sin()
        Doubled.apply(y)
        return torch.relu(y - y.detach().median())

    report = check_gradients(model, torch.linspace(-2, 2, 12).reshape(3, 4), forward_mode=True)

Good::

    import torch
    from gradcheck_suite import check_gradients

    class Scaled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, y):
            ctx.set_materialize_grads(False)
            ctx.save_for_backward(x, y)
            ctx.save_for_forward(x, y)
            return x * y, y > 0

        @staticmethod
        def backward(ctx, grad_output, _):
            x, y = ctx.saved_tensors
            return grad_output * y, grad_output * x

        @staticmethod
        def jvp(ctx, x_tangent, y_tangent):
            x, y = ctx.saved_tensors
            tangent = torch.zeros_like(x)
            if x_tangent is not None:
                tangent = tangent + x_tangent * y
            if y_tangent is not None:
                tangent = tangent + y_tangent * x
            return tangent, None

    def model(x):
        product, positive = Scaled.apply(x, torch.linspace(0.5, 1.5, 4))
        return torch.where(positive, product, 0.0)

    report = check_gradients(model, torch.linspace(-2, 2, 4), forward_mode=True)

Misses: a JVP that is wrong only for values, shapes or branches that your inputs do not reach; operations for which
    torch has no forward mode, and Functions without a ``jvp`` (both are listed as unverified).
"""

from __future__ import annotations

from ..evidence import Comparison, Finding, Location, RelatedLocation, Severity, Testimony
from ..wording import element, number, pair, plural, share, small
from .excerpts import definition
from .registry import Rule, rule

__all__ = ["ForwardModeMismatch"]


@rule("GC103", "forward-mode-mismatch", Severity.ERROR)
class ForwardModeMismatch(Rule):
    """Turns disagreeing tangents into findings."""

    @classmethod
    def from_operation(
        cls,
        name: str,
        testimony: Testimony,
        *,
        location: Location | None = None,
        module: str = "",
        jvp: Location | None = None,
        custom: bool = False,
    ) -> Finding:
        """One operation or custom Function returned a wrong tangent.

        Args:
            name: overload or class name.
            testimony: the disagreement.
            location: the user's line.
            module: dotted path.
            jvp: the line of a custom Function's ``jvp``.
            custom: whether it is a custom Function.
        """
        jvp = None if jvp is None else definition(jvp)
        pattern = testimony.comparison.pattern if testimony.comparison else ""
        hint = f"compare the jvp of {name} with the derivative of its forward"
        if not custom:
            hint = "this operation is torch's own: report it to PyTorch with the reproduction"
        return cls.finding(
            [f"the JVP of {name} disagrees with the derivative of its forward", *_numbers(testimony)],
            location=location,
            related=() if jvp is None else (RelatedLocation("jvp", jvp),),
            module=module,
            op=name,
            evidence=_evidence(testimony),
            hint=f"{pattern.replace('backward', 'jvp')}; {hint}" if pattern else hint,
        )

    @classmethod
    def from_failure(
        cls,
        name: str,
        told: str,
        *,
        location: Location | None = None,
        module: str = "",
        jvp: Location | None = None,
        returned: bool = False,
    ) -> Finding:
        """A custom ``jvp`` that raises, or returns what torch refuses.

        Args:
            name: class name.
            told: the exception.
            returned: torch refused what it returned; else it raised itself.
        """
        jvp = None if jvp is None else definition(jvp)
        fact = "torch refuses what the jvp returns" if returned else "the jvp raises"
        return cls.finding(
            [f"{fact}: {name} cannot be used in forward mode", told],
            location=location,
            related=() if jvp is None else (RelatedLocation("jvp", jvp),),
            module=module,
            op=name,
            hint="a jvp returns one tangent per output, in its output's shape and dtype: a view of a tangent where the "
            "output is a view of an input, the same tangent written in place where the input is",
        )

    @classmethod
    def from_model(
        cls, testimony: Testimony, *, suspects: tuple[str, ...] = (), nested: bool = False
    ) -> Finding:
        """The whole model's JVP disagrees with differences, reverse mode agrees, and no single operation was found wrong.

        Args:
            testimony: of the whole.
            suspects: what was not verified by itself and may hold the cause.
            nested: the model uses forward mode itself, so that this was forward mode over forward mode.
        """
        hint = "every operation agrees by itself: look for a value that forward mode does not follow (detach, .data, NumPy)"
        if suspects:
            hint = (
                f"nothing verified these in forward mode, so the cause is likely there: {', '.join(suspects)}"
            )
        if nested:
            hint = (
                "forward mode over forward mode: torch loses the outer tangents in a custom jvp (pytorch issue 197867), and "
                "some JVPs of its own are wrong when nested (198017); reverse mode over forward mode is right"
            )
        return cls.finding(
            [
                "the JVP of the whole model disagrees with how its output really changes, which reverse mode gets right",
                *_numbers(testimony),
            ],
            evidence=_evidence(testimony),
            hint=hint,
        )


def _numbers(testimony: Testimony) -> list[str]:
    """The worst element by every witness, then how much of the tensor is affected."""
    numbers = testimony.comparison
    if numbers is None:
        return [f"{testimony.subject}: {testimony.reason}"]
    if numbers.expected != numbers.expected and numbers.actual != numbers.actual:
        # No element could be compared with another: the shapes differ.
        return [f"{testimony.subject.split(' of ')[0]}: {numbers.pattern}"]
    actual, expected = pair(numbers.actual, numbers.expected)
    what = testimony.subject.split(" of ")[0]
    place = element(numbers.index)
    where = f"{what} {place}" if place and what[-1:].isdigit() else f"{what}{place}"
    witness = "differences" if testimony.witness == "finite_difference" else "engine"
    other = ""
    if testimony.value is not None and witness == "engine":
        other = f"  differences {number(testimony.value)}"
    lines = [f"{where}: forward mode {actual}  {witness} {expected}{other}"]
    if numbers.elements == 1:
        lines.append(f"off by {small(numbers.error)}; tolerance {small(numbers.tolerance)}")
    else:
        size = f"{small(numbers.max_error)} where zero is expected"
        if numbers.scale > 0:
            size = f"{share(numbers.max_error, numbers.scale)} of the largest"
        verb = "differs" if numbers.differing == 1 else "differ"
        total = plural(numbers.elements, "element")
        lines.append(
            f"{numbers.differing:,} of {total} {verb}, by up to {size}; tolerance {small(numbers.tolerance)}"
        )
    return [*lines, testimony.reason] if testimony.reason else lines


def _evidence(testimony: Testimony) -> dict[str, object]:
    numbers: Comparison | None = testimony.comparison
    facts: dict[str, object] = {"witness": testimony.witness, "subject": testimony.subject}
    if numbers is not None:
        facts |= {
            "element": list(numbers.index),
            "forward_mode": _plain(numbers.actual),
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

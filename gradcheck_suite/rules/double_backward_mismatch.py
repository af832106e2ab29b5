"""The gradient of a gradient is wrong, though the gradient itself is right.

Why: gradient penalties, physics-informed losses, meta-learning and Hessian-vector products differentiate a backward.
    Whatever that backward uses and is not connected with the inputs (a detached copy, an intermediate that
    ``forward`` computed and saved) is a constant to autograd: the first gradient is right, every check of it passes,
    and the second silently lacks a term. The Function that is named was asked alone, with a random cotangent; an
    independent engine differentiated the forward that really ran twice.

Bad::

    import torch
    from gradcheck_suite import check_gradients

    class Sigmoid(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            decay = (-x).exp()
            ctx.save_for_backward(decay)
            return 1 / (1 + decay)

        @staticmethod
        def backward(ctx, grad_output):
            (decay,) = ctx.saved_tensors
            return grad_output * decay / (1 + decay) ** 2

    def model(x):
        return Sigmoid.apply(x)  # <-

    report = check_gradients(model, torch.linspace(-2, 2, 12, dtype=torch.float64), order=2)

Bad::

    import torch
    from gradcheck_suite import check_gradients

    class Cube(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.x = x.detach()
            return x**3

        @staticmethod
        def backward(ctx, grad_output):
            return 3 * ctx.x**2 * grad_output

    def model(x):
        return Cube.apply(x)  # <-

    report = check_gradients(model, torch.linspace(-2, 2, 12), order=2)

Good::

    import torch
    from gradcheck_suite import check_gradients

    class Sigmoid(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            out = 1 / (1 + (-x).exp())
            ctx.save_for_backward(out)
            return out

        @staticmethod
        def backward(ctx, grad_output):
            (out,) = ctx.saved_tensors
            return grad_output * out * (1 - out)

    report = check_gradients(Sigmoid.apply, torch.linspace(-2, 2, 12, dtype=torch.float64), order=2)

Good::

    import torch
    from gradcheck_suite import check_gradients

    class Positive(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            mask = x > 0
            ctx.save_for_backward(mask)
            return x * mask

        @staticmethod
        def backward(ctx, grad_output):
            (mask,) = ctx.saved_tensors
            return grad_output * mask

    report = check_gradients(Positive.apply, torch.linspace(-2, 2, 12), order=2)

Good::

    import torch
    from gradcheck_suite import check_gradients

    model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))

    def penalty(x):
        out = model(x)
        (slope,) = torch.autograd.grad(out.sum(), x, create_graph=True)
        return ((slope.norm(dim=1) - 1) ** 2).mean()

    x = torch.linspace(-1, 1, 12, dtype=torch.float32).reshape(4, 3).requires_grad_()
    report = check_gradients(penalty, x, order=2)

Misses: a Function whose forward runs in NumPy or C++ (only finite differences of the whole gradient see it, which
    abstain at kinks); a backward marked ``once_differentiable``, which raises by itself; a Function that is already
    wrong at first order (GC101); what only other values, shapes or branches reach.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..evidence import Finding, Location, RelatedLocation, Severity, Testimony
from ..wording import listing, relative_path
from .excerpts import definition
from .gradient_mismatch import _evidence, _numbers
from .registry import Rule, rule

__all__ = ["DoubleBackwardMismatch"]

_SAVE = "save the inputs or outputs with ctx.save_for_backward and compute with them in backward, or return it as an output"

# Found by this check in torch 2.15; the derivative is really wrong, whoever is to blame.
_IN_TORCH = {
    "NativeLayerNormBackward0": "its second derivative takes mean and rstd for constants, so a third one lacks terms "
    "(pytorch issue 175754); write the normalisation with mean() and var() where it is needed",
    "WeightNormInterfaceBackward0": "the second derivative of weight_norm takes the norms it saved for constants; write "
    "g * v / v.norm(...) where it is needed",
    "GeneratedBackwardFor_torch_nn__linear_cross_entropy_batch_chunked_defaultBackward": "its backward returns gradients "
    "that its forward computed, so its second derivative is zero; use cross_entropy(linear(...)) where it is needed",
}


@rule("GC102", "double-backward-mismatch", Severity.ERROR)
class DoubleBackwardMismatch(Rule):
    """Turns disagreeing derivatives of a backward into findings."""

    @classmethod
    def from_node(
        cls,
        testimony: Testimony,
        *,
        name: str,
        function: bool,
        backward: Location | None,
        location: Location | None,
        module: str,
        op: str,
        key: int,
        order: int,
        cut: bool,
        inner: Sequence[str] = (),
    ) -> Finding:
        """One node whose backward has a wrong derivative.

        Args:
            testimony: the disagreeing statement about one of the derivatives.
            name: of the custom Function, or of torch's node.
            function: whether it is a custom Function.
            backward: the line of a custom Function's ``backward``.
            location: where the Function or operation was called.
            module, op: module path and node name.
            key: of the node.
            order: 2 or 3.
            cut: nothing that the backward returned requires grad.
            inner: custom Functions whose own backward ran.
        """
        if backward is not None:
            backward = definition(backward)
        which = "gradient" if order == 2 else "second gradient"
        return cls.finding(
            [
                f"the {which} that {name} returns is right, its derivative is wrong (order {order})",
                *_numbers(testimony),
            ],
            location=location,
            related=() if backward is None else (RelatedLocation("backward", backward),),
            module=module,
            op=op,
            evidence={"node": key, "order": order, **_evidence(testimony)},
            hint=_hint(testimony, name, op, function, backward, cut, inner),
        )

    @classmethod
    def from_model(
        cls,
        testimony: Testimony,
        *,
        suspects: Sequence[str] = (),
        location: Location | None = None,
        module: str = "",
        backward: Location | None = None,
    ) -> Finding:
        """The whole gradient's derivative disagrees with how the gradient really changes.

        Args:
            testimony: of the witness that looked at the whole function's gradient.
            suspects: what was not verified node by node and may hold the cause.
            location, module, backward: of the one custom Function among them, if there is one alone.
        """
        if backward is not None:
            backward = definition(backward)
        if suspects:
            hint = f"nothing verified these, so the cause is likely there: {listing(list(suspects))}"
        else:
            hint = (
                "every node agrees by itself, so look for a value that goes around autograd inside a backward"
            )
        return cls.finding(
            [
                "the gradient of the gradient disagrees with how the gradient really changes",
                *_numbers(replace(testimony, value=None)),
            ],
            location=location,
            related=() if backward is None else (RelatedLocation("backward", backward),),
            module=module,
            evidence=_evidence(testimony),
            hint=hint,
        )


def _hint(
    testimony: Testimony,
    name: str,
    op: str,
    function: bool,
    backward: Location | None,
    cut: bool,
    inner: Sequence[str],
) -> str:
    numbers = testimony.comparison
    if op in _IN_TORCH:
        return f"a defect of torch, not of your code: {_IN_TORCH[op]}"
    if not function:
        return "this operation is torch's own: report it to PyTorch"
    place = f" ({relative_path(backward.file)}:{backward.line})" if backward else ""
    by_cotangent = "grad_output" in testimony.subject
    missing = numbers is not None and numbers.actual == 0 and _all_zero(numbers.pattern, testimony)
    if cut or missing:
        what = "grad_output was" if by_cotangent else "a tensor used in backward was"
        if by_cotangent:
            return f"{what} detached, or used around autograd, in the backward of {name}{place}"
        return (
            f"{what} detached or is an intermediate saved in forward, so autograd takes it for a constant: "
            f"{_SAVE}; look at the backward of {name}{place}"
        )
    if inner:
        return (
            f"the backward of {name}{place} calls {listing(list(inner))}: compare the backward of "
            f"{'that Function' if len(inner) == 1 else 'those Functions'} with its forward, and look for a tensor "
            "that is detached"
        )
    pattern = numbers.pattern if numbers is not None else ""
    lacking = (
        "a term is missing: one of the tensors used in backward was detached or is an intermediate saved in forward; "
        f"{_SAVE}"
    )
    told = f"{pattern}; " if pattern else ""
    return f"{told}{lacking}; look at the backward of {name}{place}"


def _all_zero(pattern: str, testimony: Testimony) -> bool:
    return "None" in testimony.reason or "zero" in pattern

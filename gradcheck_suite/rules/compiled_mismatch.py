"""The gradients of ``torch.compile`` are not those of the same program in eager mode.

Why: a compiler rewrites forward and backward: it fuses, reorders, decomposes, and now and then gets one wrong, or takes a
    custom Function, a mutation or a stride for something that it is not. Training goes on, on other gradients than
    those that were tested. The eager gradients were verified node by node; the compiled ones are compared with them
    element by element, and what rounding in fused kernels can do is measured, not guessed.

Bad::

    import torch
    from gradcheck_suite import check_gradients

    def lossy(graph, example_inputs):  # a backend that drops a factor on the way
        def run(*args):
            return [out * 1.01 if torch.is_tensor(out) else out for out in graph.forward(*args)]
        return run

    def model(x, weight):
        return torch.tanh(x @ weight)

    torch.manual_seed(0)
    report = check_gradients(model, (torch.randn(3, 4), torch.randn(4, 2)), backends=("eager", lossy))

Bad::

    import torch
    from gradcheck_suite import check_gradients

    class Zeroed(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad_output):
            return grad_output * (torch.arange(grad_output.numel()).reshape(grad_output.shape) != 2)

    def forgetful(graph, example_inputs):  # right values, one element of the gradient lost
        return lambda *args: [Zeroed.apply(out) for out in graph.forward(*args)]

    def model(x):
        return x.sin()  # <-

    report = check_gradients(model, torch.linspace(0.1, 1, 6), backends=(forgetful,))

Good::

    import torch
    from gradcheck_suite import check_gradients

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.GELU(), torch.nn.LayerNorm(8), torch.nn.Linear(8, 2))
    report = check_gradients(model, torch.randn(6, 4), backends=("eager", "aot_eager"))

Good::

    import torch
    from gradcheck_suite import check_gradients

    class Cube(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx, grad_output):
            (x,) = ctx.saved_tensors
            return 3 * x**2 * grad_output

    def model(x):
        y = Cube.apply(x)
        print(end="")  # a graph break: what lies between is run eagerly
        return y.exp()

    report = check_gradients(model, torch.linspace(-1, 1, 8), backends=("aot_eager",))

Good::

    import torch
    from gradcheck_suite import check_gradients

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.5), torch.nn.BatchNorm1d(4))
    report = check_gradients(model, torch.randn(6, 4), backends=("eager", "aot_eager"))

Misses: backends whose compiler is missing or fails, and programs of which nothing is compiled (both are counted as
    unverified); graphs for other shapes than the given ones; programs whose random numbers the backend draws otherwise.
    The line is that of the node nearest to the output which every wrong gradient passes through and no right one does
    (of the only custom Function among such nodes, if there is one): what lies between it and the leaves may be meant as
    well. Where the output differs already, no line is named.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..evidence import Finding, NodeRecord, Severity, Testimony
from ..wording import element, listing, pair, plural, share, small
from .registry import Rule, rule

__all__ = ["CompiledMismatch"]


@rule("GC105", "compiled-mismatch", Severity.ERROR)
class CompiledMismatch(Rule):
    """Turns gradients that differ from the eager ones into a finding."""

    @classmethod
    def from_leaves(
        cls,
        wrong: Sequence[Testimony],
        *,
        backend: str,
        gradients: int,
        output: Testimony | None,
        breaks: int,
        suspect: NodeRecord | None = None,
    ) -> Finding:
        """What a backend of ``torch.compile`` got wrong.

        Args:
            wrong: one statement per gradient that differs, the worst first; ``expected`` is the eager one.
            backend: its name.
            gradients: how many were compared.
            output: the first output whose value differs already, or None.
            breaks: how often the compiled program was left for eager mode.
            suspect: the node that all of these gradients pass through, and none of the right ones, nearest to the output.
        """
        worst = wrong[0]
        numbers = worst.comparison
        name = _leaf(worst, backend)
        lines = [f"the gradient of {name} compiled with {backend} is not the eager one"]
        evidence: dict[str, object] = {
            "subject": name,
            "backend": backend,
            "gradients": len(wrong),
            "breaks": breaks,
        }
        pattern = ""
        if numbers is not None:
            compiled, eager = pair(numbers.actual, numbers.expected)
            lines.append(f"{name}{element(numbers.index)}: compiled {compiled}  eager {eager}")
            extent = (
                share(numbers.max_error, numbers.scale) if numbers.scale > 0 else small(numbers.max_error)
            )
            lines.append(
                f"{numbers.differing:,} of {plural(numbers.elements, 'element')} differ, by up to {extent} of the "
                f"largest; rounding explains {small(numbers.tolerance)}"
            )
            evidence |= {
                "element": list(numbers.index),
                "largest_error": numbers.max_error,
                "tolerance": numbers.tolerance,
                "differing": numbers.differing,
            }
            pattern = numbers.pattern
        others = [_leaf(t, backend) for t in wrong[1:]]
        if others:
            lines.append(f"so do {len(others):,} more of {plural(gradients, 'gradient')}: {listing(others)}")
        if output is not None:
            lines.append("the output itself differs already, so the forward was compiled wrongly")
        else:
            lines.append("the output is the eager one, so it is the backward that was compiled wrongly")
        if suspect is not None:
            what = suspect.function.name if suspect.function is not None else suspect.name
            alone = "" if gradients == len(wrong) else ", and none of the right ones"
            lines.append(
                f"all of them pass through {what} here{alone}: it happens there, or between there and the leaves"
            )
        advice = (
            "wrap parts of the model in torch.compiler.disable to find the one that is compiled wrongly, and report it "
            "to the backend's authors"
        )
        return cls.finding(
            lines,
            location=suspect.location if suspect is not None else None,
            module=suspect.module if suspect is not None else "",
            op=suspect.name if suspect is not None else "",
            evidence=evidence,
            hint=f"{pattern}; {advice}" if pattern else advice,
        )


def _leaf(testimony: Testimony, backend: str) -> str:
    return testimony.subject.removeprefix("gradient of ").removesuffix(f" compiled with {backend}")

"""The output depends on a tensor that autograd thinks it does not depend on.

Why: ``detach()``, ``.data``, ``.item()``, ``torch.no_grad()`` and a round trip through NumPy cut the graph. The
    forward is right, every recorded backward is right, and still the gradient is not the derivative: a part of it
    is missing, silently. Only changing the values and watching the output can show it.

Bad::

    import torch
    from gradcheck_suite import check_gradients

    class Normalised(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Linear(3, 3)

        def forward(self, x):
            hidden = self.inner(x)
            length = hidden.norm().item()  # <-
            return hidden / length

    torch.manual_seed(0)
    report = check_gradients(Normalised(), torch.randn(4, 3))

Bad::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    model = torch.nn.Linear(3, 4)
    try:
        with watch() as session:
            chosen = model(torch.randn(5, 3)).argmax(1)  # <-
            loss = (chosen.float() - 1).pow(2).mean()
            loss.backward()
    except RuntimeError as error:  # does not require grad and does not have a grad_fn
        print(error)
    report = session.report

Good::

    import torch
    from gradcheck_suite import check_gradients

    class Normalised(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Linear(3, 3)

        def forward(self, x):
            hidden = self.inner(x)
            length = hidden.norm()
            return hidden / length

    torch.manual_seed(0)
    report = check_gradients(Normalised(), torch.randn(4, 3))

Good::

    import torch
    from gradcheck_suite import check_gradients

    class Logging(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Linear(3, 3)

        def forward(self, x):
            hidden = self.inner(x)
            self.length = hidden.norm().item()  # the output does not depend on it
            return hidden.tanh()

    torch.manual_seed(0)
    report = check_gradients(Logging(), torch.randn(4, 3))

Good::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    model = torch.nn.Linear(3, 4)
    with watch() as session:
        out = model(torch.randn(5, 3))
        accuracy = (out.argmax(1) == 1).float().mean().item()  # beside the loss, not on its way
        torch.nn.functional.cross_entropy(out, torch.ones(5, dtype=torch.long)).backward()
    report = session.report

Misses: a cut that is written out, ``detach()`` or ``no_grad()``, counts as meant: the gradient is checked with that
    value held constant, and the line is only noted, also where it was a mistake. Other cuts are reported even where
    they are meant, which ``# gradcheck: ignore[detached-graph]`` on the line says. ``x.detach().numpy()`` is such a
    one, since torch insists on that ``detach``. A cut whose effect is smaller than the error of the finite
    differences is not seen. The whole policy: ``docs/stop-gradients.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..evidence import Finding, Location, RelatedLocation, Severity, Testimony
from ..wording import listing, pair, relative_path, small
from .registry import Rule, rule

__all__ = ["DetachedGraph"]


@rule("GC501", "detached-graph", Severity.ERROR)
class DetachedGraph(Rule):
    """Turns a difference between the function and its graph into a finding."""

    @classmethod
    def from_difference(
        cls, testimony: Testimony, parameters: Sequence[str], cut: Location | None, *, module: str = ""
    ) -> Finding:
        """The output changes along a direction in which autograd says it does not (or less).

        Args:
            testimony: finite differences against autograd; its ``expected`` is how the output really changed.
            parameters: names of the parameters or inputs whose gradient lacks a part.
            cut: the line where the value left the graph, when it is known.
        """
        numbers = testimony.comparison
        lines = [
            f"the output depends on {listing(list(parameters))} around autograd: part of the gradient is lost"
        ]
        if numbers is not None:
            actual, expected = pair(numbers.actual, numbers.expected)
            lines.append(
                f"change of the output along a random direction: autograd {actual}  really {expected}"
            )
            lines.append(
                f"the difference, {small(numbers.error)}, is far above its error of {small(numbers.tolerance)}"
            )
        if testimony.reason:
            lines.append(testimony.reason)
        if cut is None:
            hint = "look for detach(), .data, .item(), no_grad() or NumPy between these values and the output"
        else:
            hint = (
                f"the value leaves the graph at {relative_path(cut.file)}:{cut.line}; if that is meant, write "
                "`# gradcheck: ignore[detached-graph]` there"
            )
        return cls.finding(
            lines,
            location=cut,
            module=module,
            evidence={
                "parameters": list(parameters),
                **({} if numbers is None else {"error": numbers.error, "tolerance": numbers.tolerance}),
            },
            hint=hint,
        )

    @classmethod
    def from_output(
        cls, outputs: Sequence[str], depends_on: Sequence[str], cut: Location | None, *, module: str = ""
    ) -> Finding:
        """An output without history, beside others with one, that follows what is differentiated.

        Args:
            outputs: paths of such outputs.
            depends_on: names of parameters or inputs that move them.
            cut: the line where the value left the graph, when it is known.
        """
        verb = "depends" if len(outputs) == 1 else "depend"
        finding = cls.finding(
            [
                f"{listing(list(outputs))} {verb} on {listing(list(depends_on))} around autograd: no gradient comes back",
                "a loss that uses this output does not learn from it; the other outputs are not concerned",
            ],
            location=cut,
            module=module,
            evidence={"parameters": list(depends_on), "outputs": list(outputs)},
            hint="if it is only reported (a metric), return value.detach() to say so",
        )
        return replace(finding, severity=Severity.WARNING)

    @classmethod
    def from_error(cls, cuts: Sequence[tuple[Location, str]], backward: Location | None) -> Finding:
        """A backward was asked for on a tensor that has no graph.

        Args:
            cuts: the latest lines at which a value left the graph, and what cut it there; the latest first.
            backward: the line that asked.
        """
        if not cuts:
            lines = [
                "backward was called on a tensor that has no graph, and nothing that was recorded has left one: "
                "no tensor that requires a gradient took part, or .data was used"
            ]
            hint = "check that the parameters require gradients and that the output is computed from them"
        else:
            lines = ["backward was called on a tensor that has no graph"]
            lines += [
                f"the graph was left at {relative_path(place.file)}:{place.line}: {kind}"
                for place, kind in cuts
            ]
            hint = "compute the loss from the tensor itself, by operations that have a derivative"
        return cls.finding(
            lines,
            location=cuts[0][0] if cuts else backward,
            related=[RelatedLocation("backward", backward)] if cuts and backward is not None else [],
            evidence={"cuts": [kind for _, kind in cuts]},
            hint=hint,
        )

    @classmethod
    def from_stop(
        cls, kind: str, parameters: Sequence[str], cut: Location | None, *, module: str = ""
    ) -> Finding:
        """A deliberate stop-gradient that the gradient depends on: right, and worth knowing.

        Args:
            kind: ``"detach"`` or ``"no_grad"``.
            parameters: names of the parameters or inputs whose gradient holds the value constant.
            cut: the line of the stop-gradient.
        """
        written = "detach()" if kind == "detach" else "no_grad()"
        lines = [
            f"deliberate stop-gradient: {written} here holds a value constant that depends on "
            f"{listing(list(parameters))}"
            if parameters
            else f"deliberate stop-gradient: {written} here holds a value constant that moves the output",
            "the gradient is verified: it is the derivative of the function in which that value does not move",
        ]
        hint = (
            "nothing to do if it is meant: a target, a stop-gradient loss, a straight-through estimator (written as a "
            "Function, that is declared with @surrogate_gradient). `# gradcheck: ignore[detached-graph]` on the line "
            "silences this note; if it is not meant, take the stop-gradient away"
        )
        found = cls.finding(
            lines,
            location=cut,
            module=module,
            evidence={"parameters": list(parameters), "kind": kind, "deliberate": True},
            hint=hint,
        )
        return replace(found, severity=Severity.NOTE)

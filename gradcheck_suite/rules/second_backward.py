"""A backward runs through a graph that an earlier backward has freed.

Why: a backward frees what the graph has saved. Torch raises at the second one and says to specify
    ``retain_graph=True``, which is nearly always the wrong cure: usually some tensor (a hidden state, a running
    average, a target, a cached term) ties this iteration to the one before, and with ``retain_graph=True`` the graph
    grows with every iteration. What ties them is named here.

Bad::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    cell = torch.nn.RNNCell(3, 4)
    hidden = torch.zeros(2, 4)
    with watch() as session:
        try:
            for _ in range(3):
                hidden = cell(torch.randn(2, 3), hidden)  # carries the graph of the iteration before
                hidden.pow(2).mean().backward()  # <-
        except RuntimeError:
            pass
    report = session.report

Bad::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    with watch() as session:
        loss = model(torch.randn(4, 3)).pow(2).mean()
        loss.backward()
        try:
            loss.backward()  # <-
        except RuntimeError:
            pass
    report = session.report

Bad::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    penalty = model.weight.pow(2).sum()  # computed once, before the loop
    with watch() as session:
        try:
            for _ in range(3):
                loss = model(torch.randn(4, 3)).pow(2).mean() + 0.1 * penalty
                loss.backward()  # <-
        except RuntimeError:
            pass
    report = session.report

Good::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    cell = torch.nn.RNNCell(3, 4)
    hidden = torch.zeros(2, 4)
    with watch() as session:
        for _ in range(3):
            hidden = cell(torch.randn(2, 3), hidden.detach())
            hidden.pow(2).mean().backward()
    report = session.report

Good::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    with watch() as session:
        out = model(torch.randn(4, 3)).tanh()
        out[:, 0].sum().backward(retain_graph=True)
        out[:, 1].sum().backward()
    report = session.report

Good::

    import torch
    from gradcheck_suite import watch

    x = torch.randn(3, requires_grad=True)
    with watch() as session:
        total = x + 1  # an addition saves nothing, so that two backwards may share it
        total.sum().backward()
        total.mean().backward()
    report = session.report

Misses: what the earlier backward was, if it ran before the session began.
"""

from __future__ import annotations

from ..evidence import Finding, Location, RelatedLocation, Severity
from ..wording import relative_path
from .registry import Rule, rule

__all__ = ["SecondBackward"]


@rule("GC401", "second-backward", Severity.ERROR)
class SecondBackward(Rule):
    """Turns torch's error about a freed graph into a finding that says who freed it and what leads there."""

    @classmethod
    def from_graph(
        cls,
        *,
        location: Location | None,
        first: Location | None = None,
        op: str = "",
        freed: Location | None = None,
        tie: Location | None = None,
        tensor: str = "",
        same_graph: bool = False,
        module: str = "",
    ) -> Finding:
        """A backward met an operation whose saved tensors are gone.

        Args:
            location: the backward that raised.
            first: the backward that freed the graph, or None when it was not seen.
            op: the operation whose saved tensors are gone, or "" when nothing is known of the earlier backward.
            freed: its line.
            tie: the line that made the tensor through which the new graph reaches the old one.
            tensor: that tensor's type and shape.
            same_graph: the very same loss is run backward again.
        """
        before = (
            "by an earlier backward"
            if first is None
            else f"by the backward at {relative_path(first.file)}:{first.line}"
        )
        lines = [f"this backward needs what {op or 'an operation'} had saved, and that was freed {before}"]
        if not op:
            lines.append("the earlier backward was not seen: it ran before the session began, or it failed")
            hint = (
                "look for a tensor that is made before the loop, or carried from one iteration into the next"
            )
        elif same_graph:
            lines.append("it starts from the same graph as the earlier one")
            hint = "call backward once, on the sum of the losses; or retain_graph=True in the first call"
        else:
            where = "" if tie is None else f" made at {relative_path(tie.file)}:{tie.line}"
            lines.append(
                f"the new graph reaches the old one through a tensor {tensor}{where}".replace("  ", " ")
            )
            hint = (
                "detach() that tensor before it is used again, or compute it anew in each iteration; "
                "retain_graph=True would let the graph grow from iteration to iteration"
            )
        related = [
            RelatedLocation(role, place)
            for role, place in (("freed by", first), ("tied by", tie), ("needed by", freed))
            if place is not None
        ]
        return cls.finding(lines, location=location, related=related, module=module, op=op, hint=hint)

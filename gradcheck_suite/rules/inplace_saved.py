"""A tensor that backward needs was overwritten.

Why: torch notices and raises, but names neither the line that had saved the tensor nor the one that overwrote it; anomaly
    mode names the first only. Both are named here.

Bad::

    import torch
    from gradcheck_suite import watch

    x = torch.randn(3, requires_grad=True)
    with watch() as session:
        y = x.exp()
        y += 1  # <-
        try:
            y.sum().backward()
        except RuntimeError:
            pass
    report = session.report

Bad::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch() as session:
        out = model(torch.randn(4, 3))
        out.mean().backward(retain_graph=True)
        optimizer.step()  # <-
        optimizer.zero_grad()
        try:
            out.pow(2).mean().backward()
        except RuntimeError:
            pass
    report = session.report

Bad::

    import torch
    from gradcheck_suite import watch

    weight = torch.randn(3, requires_grad=True)
    with watch() as session:
        state = torch.zeros(3)
        loss = 0.0
        for step in range(3):
            loss = loss + (weight * state).sum()
            state[step] = 1.0  # <-
        try:
            loss.backward()
        except RuntimeError:
            pass
    report = session.report

Good::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv1d(2, 3, 2), torch.nn.BatchNorm1d(3), torch.nn.ReLU(inplace=True))
    with watch() as session:
        model(torch.randn(4, 2, 5)).pow(2).mean().backward()
    report = session.report

Good::

    import torch
    from gradcheck_suite import watch

    x = torch.randn(3, requires_grad=True)
    with watch() as session:
        y = x.exp()
        z = y.clone()
        z += 1  # a copy: what exp has saved stays as it is
        y.mul(z).sum().backward()
    report = session.report

Good::

    import torch
    from gradcheck_suite import watch

    weight = torch.randn(3, requires_grad=True)
    with watch() as session:
        total = torch.zeros(3)
        for step in range(3):
            total += weight * step  # an addition saves nothing
        total.sum().backward()
    report = session.report

Misses: writes that torch does not notice either (through ``.data`` or NumPy).
"""

from __future__ import annotations

from ..evidence import Finding, Location, RelatedLocation, Severity
from ..wording import plural, relative_path
from .registry import Rule, rule

__all__ = ["InplaceSaved"]


@rule("GC201", "inplace-saved", Severity.ERROR)
class InplaceSaved(Rule):
    """Turns torch's error about an overwritten tensor into a finding with both lines."""

    @classmethod
    def from_lines(
        cls,
        *,
        saver: str,
        saved: Location | None,
        writer: str,
        written: Location | None,
        backward: Location | None,
        tensor: str,
        writes: int,
        module: str = "",
    ) -> Finding:
        """An operation saved a tensor, another one overwrote it, and the backward needs it.

        Args:
            saver: the operation that saved it.
            saved: its line.
            writer: the operation that overwrote it, or "" when it was not seen.
            written: its line.
            backward: the backward that raised.
            tensor: type and shape of the memory, or "".
            writes: how often it was written to in between.
            module: the module in which it was overwritten, or "".
        """
        place = "" if saved is None else f" at {relative_path(saved.file)}:{saved.line}"
        by = f" by {writer}" if writer else ""
        subject = f"the tensor {tensor}".rstrip()
        lines = [
            f"{subject} that {saver}{place} saved for its backward was overwritten{by} "
            f"({plural(writes, 'write')} in between)"
        ]
        related = [
            RelatedLocation(role, where)
            for role, where in (("saved by", saved), ("needed by the backward", backward))
            if where is not None
        ]
        return cls.finding(
            lines,
            location=written or saved,
            related=related,
            module=module,
            op=writer or saver,
            evidence={"writes": writes},
            hint="write the result to a new tensor (x = x + 1 instead of x += 1), or clone() before one of the two; "
            "if an optimizer step did it, run the forward again after the step",
        )

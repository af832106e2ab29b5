"""A tensor that backward needs was overwritten behind autograd's back, and the gradient is wrong.

Why: torch counts the writes to every tensor and refuses a backward whose saved tensors were overwritten. A write through
    ``.data``, through a NumPy array that shares the memory, or by a kernel that was handed an address is not counted:
    nothing is raised, and the backward computes with values that the forward never had.

Bad::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    x = torch.randn(4, requires_grad=True)
    with watch() as session:
        y = x.exp()
        y.data.clamp_(max=0.5)  # <-
        y.sum().backward()
    report = session.report

Bad::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    x = torch.randn(4, requires_grad=True)
    with watch() as session:
        y = x.tanh()
        picture = y.detach().numpy()  # <-
        picture *= 255  # the same memory
        y.sum().backward()
    report = session.report

Bad::

    import torch
    from gradcheck_suite import watch

    class OldSGD(torch.optim.Optimizer):
        @torch.no_grad()
        def step(self):
            for group in self.param_groups:
                for p in group["params"]:
                    p.data.add_(p.grad.data, alpha=-group["lr"])

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    optimizer = OldSGD(model.parameters(), {"lr": 0.5})
    with watch() as session:
        out = model(torch.randn(5, 3))
        out.mean().backward(retain_graph=True)
        optimizer.step()  # <-
        optimizer.zero_grad()
        out.pow(2).mean().backward()
    report = session.report

Bad::

    import numpy as np
    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    buffer = np.ones((4, 3), np.float32)
    weight = torch.randn(3, requires_grad=True)
    with watch() as session:
        losses = []
        for number in range(2):
            buffer[:] = number + 1  # one array for every batch
            losses.append((torch.from_numpy(buffer) @ weight).pow(2).mean())  # <-
        sum(losses).backward()
    report = session.report

Good::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    x = torch.randn(4, requires_grad=True)
    with watch() as session:
        y = x + 1  # an addition saves nothing
        y.data.clamp_(max=0.5)
        y.sum().backward()
    report = session.report

Good::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.RReLU(), torch.nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    average = [p.detach().clone() for p in model.parameters()]
    with watch() as session:
        for _ in range(3):
            optimizer.zero_grad()
            loss = model(torch.randn(5, 3)).mean() + model(torch.randn(5, 3)).pow(2).mean()
            loss.backward()
            for p in model.parameters():
                p.data.sub_(p.grad, alpha=0.1)  # after the backward
            for a, p in zip(average, model.parameters()):
                a.mul_(0.9).add_(p.data, alpha=0.1)
    report = session.report

Good::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    buffer = torch.empty(5, 3).numpy()
    with watch() as session:
        for number in range(3):
            buffer[:] = number  # when nobody needs the last batch any more
            loss = model(torch.from_numpy(buffer)).pow(2).mean()
            history = loss.detach().numpy()
            loss.backward()
    report = session.report

Good::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    x = torch.randn(4, requires_grad=True)
    with watch() as session:
        y = x.exp()
        picture = y.detach().numpy().copy()
        picture *= 255
        y.sum().backward()
    report = session.report

Misses: what a kernel on an accelerator writes outside of torch's operations, memory of more than 256 MB that NumPy
    shares, and what autograd's hooks have packed (checkpointed and offloaded tensors).
"""

from __future__ import annotations

from ..evidence import Comparison, Finding, Location, RelatedLocation, Severity
from ..wording import element, pair, plural, relative_path, share
from .registry import Rule, rule

__all__ = ["InplaceSilent"]


@rule("GC202", "inplace-silent", Severity.ERROR)
class InplaceSilent(Rule):
    """Turns a saved tensor that changed without a trace into a finding with the damage."""

    @classmethod
    def from_suspect(
        cls,
        *,
        saver: str,
        saved: Location | None,
        writer: str,
        written: Location | None,
        exposed: Location | None,
        backward: Location | None,
        tensor: str,
        changed: int,
        elements: int,
        others: int,
        comparison: Comparison | None,
        subject: str,
        module: str = "",
    ) -> Finding:
        """An operation saved a tensor, its contents are others now, and the backward has used them.

        Args:
            saver: the operation that saved it.
            saved: its line.
            writer: the operation that overwrote it, or "" when nobody was seen.
            written: its line.
            exposed: where the memory was handed to NumPy or a kernel, if that was seen.
            backward: the backward that has used it.
            tensor: type and shape.
            changed: how many elements are others.
            elements: of how many.
            others: how many more nodes of this backward the same write has hit.
            comparison: the node's gradient against the derivative at the values that were saved; None if not known.
            subject: which gradient that is.
            module: the module in which it was overwritten, or "".
        """
        first = _place(exposed or saved)
        if writer:
            by = f"by {writer}{f' at {_place(written)}' if written is not None else ''}"
        else:
            by = f"between {first or 'the forward'} and {_place(backward) or 'the backward'}, by no operation of torch's"
        lines = [
            f"the tensor {tensor} that {saver}{f' at {_place(saved)}' if saved is not None else ''} saved for its backward "
            f"was overwritten {by}; torch did not notice",
            f"{changed:,} of {plural(elements, 'element')} {'differs' if changed == 1 else 'differ'} "
            "from what was saved",
        ]
        evidence: dict[str, object] = {"changed": changed, "elements": elements, "nodes": others + 1}
        if comparison is not None:
            actual, expected = pair(comparison.actual, comparison.expected)
            lines.append(
                f"{subject}{element(comparison.index)}: autograd {actual}  at the saved values {expected}; "
                f"off by up to {share(comparison.max_error, comparison.scale)} of the largest"
            )
            evidence |= {
                "actual": _plain(comparison.actual),
                "expected": _plain(comparison.expected),
                "max_error": float(comparison.max_error),
                "scale": float(comparison.scale),
            }
        if others:
            lines.append(
                f"{plural(others, 'more operation')} of this backward used what the same line overwrote"
            )
        related = [
            RelatedLocation(role, where)
            for role, where in (("saved by", saved), ("used by the backward", backward))
            if where is not None
        ]
        return cls.finding(
            lines,
            location=written or exposed or saved,
            related=related,
            module=module,
            op=writer or saver,
            evidence=evidence,
            hint="write to a copy (clone(), numpy().copy()), or after the backward; without .data torch would have raised"
            if writer
            else "give NumPy a copy: tensor.detach().numpy().copy(), torch.tensor(array) instead of from_numpy(array)",
        )


def _place(location: Location | None) -> str:
    return "" if location is None else f"{relative_path(location.file)}:{location.line}"


def _plain(value: complex | float) -> float | str:
    return str(value) if isinstance(value, complex) else float(value)

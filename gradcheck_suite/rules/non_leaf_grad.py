"""The ``.grad`` of a tensor that is no leaf is read, and nobody asked for it to be kept.

Why: backward keeps gradients of leaves only: of tensors that were made by you, not by an operation. ``.to(device)``,
    a multiplication by a scale or an ``unsqueeze`` after ``requires_grad=True`` make a new tensor that is no leaf, and
    its ``.grad`` stays None. The update that should have followed never happens.

Bad::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    with watch() as session:
        weight = torch.randn(3, requires_grad=True) * 0.1
        (weight * torch.randn(4, 3)).sum().backward()
        print(weight.grad)  # <-
    report = session.report

Bad::

    import torch
    from gradcheck_suite import watch

    model = torch.nn.Linear(3, 4)
    with watch() as session:
        hidden = model(torch.ones(2, 3)).tanh()
        hidden.sum().backward()
        if hidden.grad is not None:  # <-
            print(hidden.grad.norm())
    report = session.report

Good::

    import torch
    from gradcheck_suite import watch

    model = torch.nn.Linear(3, 4)
    with watch() as session:
        hidden = model(torch.ones(2, 3)).tanh()
        hidden.retain_grad()
        hidden.sum().backward()
        print(hidden.grad.norm())
    report = session.report

Good::

    import torch
    from gradcheck_suite import watch

    weight = (torch.randn(3) * 0.1).requires_grad_()
    frozen = torch.randn(3)
    with watch() as session:
        print(weight.grad)  # a leaf without a gradient yet
        (weight * frozen).sum().backward()
        print(weight.grad, frozen.grad, (weight * 2).detach().grad)
    report = session.report

Good::

    import torch
    from gradcheck_suite import watch

    model = torch.nn.Linear(3, 4)
    seen = []
    with watch() as session:
        hidden = model(torch.ones(2, 3)).tanh()
        hidden.register_hook(seen.append)
        hidden.sum().backward()
        assert seen and not hidden.is_leaf
        (again,) = torch.autograd.grad(model(torch.ones(2, 3)).sum(), model.bias)
    report = session.report

Misses: a line whose warning torch has shown before in the same process, or that a filter of warnings hides.
"""

from __future__ import annotations

from ..evidence import Finding, Location, Severity
from .registry import Rule, rule

__all__ = ["NonLeafGrad"]


@rule("GC505", "non-leaf-grad", Severity.WARNING)
class NonLeafGrad(Rule):
    """Turns a look at a gradient that is not there into a finding."""

    @classmethod
    def from_line(cls, location: Location) -> Finding:
        """A line reads the ``.grad`` of a tensor that an operation made.

        Args:
            location: that line.
        """
        return cls.finding(
            [".grad is read of a tensor that an operation made (it is no leaf): it is None and stays None"],
            location=location,
            hint="read the .grad of the leaf it was made from; to keep the gradient of this tensor, call "
            "retain_grad() on it before the backward; to make it a leaf, end its making with .detach().requires_grad_()",
        )

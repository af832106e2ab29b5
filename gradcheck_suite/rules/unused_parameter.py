"""A trainable parameter never receives a gradient.

Why: it is carried through every optimizer step, checkpoint and all-reduce and never learns. Often a layer was
    defined and then forgotten in ``forward``, or its result is not used for the loss. Distributed training fails on
    it with a message about reduction.

Bad::

    import torch
    from gradcheck_suite import check_gradients

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first = torch.nn.Linear(3, 4)
            self.forgotten = torch.nn.Linear(4, 4)
            self.last = torch.nn.Linear(4, 2)

        def forward(self, x):
            return self.last(self.first(x).tanh())

    torch.manual_seed(0)
    report = check_gradients(Net(), torch.randn(5, 3))

Bad::

    import torch
    from gradcheck_suite import check_gradients

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Linear(3, 4)
            self.scale = torch.nn.Parameter(torch.ones(4))
            self.last = torch.nn.Linear(4, 2)

        def forward(self, x):
            hidden = self.inner(x)
            scaled = hidden * self.scale  # computed, and not passed on
            return self.last(hidden)

    torch.manual_seed(0)
    report = check_gradients(Net(), torch.randn(5, 3))

Good::

    import torch
    from gradcheck_suite import check_gradients

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first = torch.nn.Linear(3, 4)
            self.last = torch.nn.Linear(4, 2)

        def forward(self, x):
            return self.last(self.first(x).tanh())

    torch.manual_seed(0)
    report = check_gradients(Net(), torch.randn(5, 3))

Good::

    import torch
    from gradcheck_suite import check_gradients

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    model[0].requires_grad_(False)  # frozen on purpose
    report = check_gradients(model, torch.randn(5, 3))

Good::

    import torch
    from gradcheck_suite import check_gradients

    class Residual(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Linear(4, 4)
            self.gate = torch.nn.Parameter(torch.zeros(1))  # it begins closed: the inner gradient is zero, and arrives

        def forward(self, x):
            return x + self.gate * self.inner(x)

    torch.manual_seed(0)
    report = check_gradients(Residual(), torch.randn(5, 4))

Misses: a parameter that other inputs, another branch or another loss would use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..evidence import Finding, Severity
from ..wording import listing, plural
from .registry import Rule, rule

__all__ = ["UnusedParameter"]


@rule("GC502", "unused-parameter", Severity.WARNING)
class UnusedParameter(Rule):
    """Turns parameters without a gradient into one finding per module."""

    @classmethod
    def from_names(cls, names: Sequence[str], sizes: Mapping[str, int] | None = None) -> list[Finding]:
        """One finding per owning module, so that a forgotten layer is one line, not one per tensor.

        Args:
            names: dotted names of the parameters.
            sizes: their numbers of elements, for the message.
        """
        by_module: dict[str, list[str]] = {}
        for name in names:
            by_module.setdefault(name.rpartition(".")[0], []).append(name)
        findings = []
        for module, group in by_module.items():
            total = sum((sizes or {}).get(name, 0) for name in group)
            size = f" ({plural(total, 'element')})" if total else ""
            verb = "requires" if len(group) == 1 else "require"
            findings.append(
                cls.finding(
                    [
                        f"{listing(group)}{size} {verb} a gradient and never {verb.replace('require', 'receive')} one"
                    ],
                    module=module,
                    evidence={"parameters": list(group), "elements": total},
                    hint="use it in forward, remove it, or set requires_grad_(False) if it is meant to stay fixed",
                )
            )
        return findings

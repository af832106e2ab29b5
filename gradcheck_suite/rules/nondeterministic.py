"""The same inputs and the same seed gave a different output or gradient.

Why: a run that cannot be repeated cannot be debugged, and a gradient that differs from call to call cannot be
    verified by finite differences. Usual causes: a generator that is not seeded, the clock, iteration over a set,
    a layer that changes its own state, or GPU operations that add in any order.

Bad::

    import torch
    from gradcheck_suite import check_gradients

    own = torch.Generator()

    def model(x):
        return x * torch.rand(x.shape, generator=own)

    report = check_gradients(model, torch.linspace(1, 2, 4))

Good::

    import torch
    from gradcheck_suite import check_gradients

    def model(x):
        return x * torch.rand(x.shape)

    report = check_gradients(model, torch.linspace(1, 2, 4))

Misses: what differs only between processes, machines or library versions; what happens to agree in the two runs
    that were compared.
"""

from __future__ import annotations

from ..evidence import Finding, Location, Severity, Testimony
from ..wording import element, pair, plural, small
from .registry import Rule, rule

__all__ = ["Nondeterministic"]


@rule("GC106", "nondeterministic", Severity.WARNING)
class Nondeterministic(Rule):
    """Turns two unequal runs into a finding."""

    @classmethod
    def from_runs(
        cls,
        testimony: Testimony,
        *,
        op: str = "",
        location: Location | None = None,
        module: str = "",
        from_outside: bool = False,
    ) -> Finding:
        """Two runs from one state differ.

        Args:
            testimony: the second run (``actual``) against the first (``expected``); its subject says of what.
            op: the first operation whose result differed, when known.
            location: its line.
            from_outside: the operation only takes in a value that was made outside of torch.
        """
        numbers = testimony.comparison
        lines = [f"{testimony.subject} differs between two runs from the same state"]
        if numbers is not None:
            second, first = pair(numbers.actual, numbers.expected)
            place = element(numbers.index)
            lines.append(f"element {place or '()'}: first run {first}  second run {second}")
            total = plural(numbers.elements, "element")
            lines.append(f"{numbers.differing:,} of {total} differ, by up to {small(numbers.max_error)}")
        if from_outside:
            lines.append(
                "what differs first is a value from outside of torch (a Python number, NumPy) that comes in here"
            )
        elif op:
            lines.append(f"the first operation whose result differs is {op}")
        return cls.finding(
            lines,
            location=location,
            module=module,
            op=op,
            evidence={}
            if numbers is None
            else {"differing": numbers.differing, "largest_error": numbers.max_error},
            hint="seed every generator from torch.manual_seed, or pass a seeded generator in; "
            "on a GPU try torch.use_deterministic_algorithms(True)",
        )

"""The same program has other gradients on another device, by more than rounding explains.

Why: a model is developed on one device and trained on another. A kernel that is right on the CPU and wrong on the GPU, a
    branch on ``x.is_cuda``, a constant or a table that was filled differently there: each device's run is consistent in
    itself, and only the comparison shows that they are not one function. On every device each node is also verified by
    itself; a backward that is wrong on one device only is reported as gradient-mismatch, and named here as the cause.

Bad::

    from contextlib import contextmanager

    import torch
    from gradcheck_suite import check_gradients
    from gradcheck_suite.witnesses.device import standing_in

    kernels = {"slope": 0.01}

    @contextmanager
    def kernels_of_the_gpu():  # the CPU stands in for a device that not every machine has
        kernels["slope"] = 0.02
        yield
        kernels["slope"] = 0.01

    def model(x, weight):
        return torch.nn.functional.leaky_relu(x * weight, kernels["slope"])  # <-

    inputs = (torch.linspace(-2, 2, 12), torch.linspace(1, 3, 12))
    with standing_in("cuda", kernels_of_the_gpu):
        report = check_gradients(model, inputs, devices=("cpu", "cuda"))

Bad::

    from contextlib import contextmanager

    import torch
    from gradcheck_suite import check_gradients
    from gradcheck_suite.witnesses.device import standing_in

    class Scaled(torch.nn.Module):
        on_gpu = False

        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(4, 3)

        def forward(self, x):
            y = self.linear(x).tanh()
            if Scaled.on_gpu:
                y = y * 1.001  # <-
            return y

    @contextmanager
    def on_the_gpu():
        Scaled.on_gpu = True
        yield
        Scaled.on_gpu = False

    torch.manual_seed(0)
    with standing_in("cuda", on_the_gpu):
        report = check_gradients(Scaled(), torch.randn(5, 4), devices=("cpu", "cuda"))

Good::

    import torch
    from gradcheck_suite import check_gradients

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    report = check_gradients(model, torch.randn(6, 4), devices=("cpu", "cuda"))

Good::

    from contextlib import contextmanager

    import torch
    from gradcheck_suite import check_gradients
    from gradcheck_suite.witnesses.device import standing_in

    backwards = {"order": (0, 1)}

    @contextmanager
    def kernels_of_the_gpu():  # they add in another order, so the last digits differ
        backwards["order"] = (1, 0)
        yield
        backwards["order"] = (0, 1)

    def model(x, y):
        first, second = ((x, y), (y, x))[backwards["order"][0]]
        return (first * 1e3).exp().log() * 1e-3 + second

    inputs = (torch.linspace(0.01, 0.05, 12), torch.linspace(0.01, 0.05, 12))
    with standing_in("cuda", kernels_of_the_gpu):
        report = check_gradients(model, inputs, devices=("cpu", "cuda"))

Good::

    from contextlib import contextmanager

    import torch
    from gradcheck_suite import check_gradients
    from gradcheck_suite.witnesses.device import standing_in

    @contextmanager
    def generator_of_the_gpu():  # the same seed gives other random numbers there
        torch.manual_seed(1234)
        yield

    def model(x):
        return torch.nn.functional.dropout(x * x, 0.5)

    with standing_in("cuda", generator_of_the_gpu):
        report = check_gradients(model, torch.linspace(1, 2, 16), devices=("cpu", "cuda"))

Misses: devices that this machine does not have (counted as unverified), gradients of programs that draw random numbers
    (each device draws its own), and differences smaller than what rounding can do to the whole of a deep network.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..evidence import Finding, OpRecord, RelatedLocation, Severity, Testimony
from ..wording import element, listing, pair, plural, share, small
from .registry import Rule, rule

__all__ = ["DeviceMismatch"]


@rule("GC104", "device-mismatch", Severity.ERROR)
class DeviceMismatch(Rule):
    """Turns gradients that differ from device to device into a finding."""

    @classmethod
    def from_leaves(
        cls,
        wrong: Sequence[Testimony],
        *,
        home: str,
        device: str,
        gradients: int,
        op: OpRecord | None,
        culprit: Finding | None,
    ) -> Finding:
        """What differs between two devices.

        Args:
            wrong: one statement per gradient that differs, the worst first; ``expected`` is the one at home.
            home, device: their names.
            gradients: how many were compared.
            op: the first operation whose result differs, when there is one.
            culprit: what was found wrong with a single node there.
        """
        worst = wrong[0]
        numbers = worst.comparison
        name = _leaf(worst, device)
        lines = [f"the gradient of {name} on {device} is not what it is on {home}"]
        evidence: dict[str, object] = {
            "subject": name,
            "device": device,
            "home": home,
            "gradients": len(wrong),
        }
        if numbers is not None:
            there, here = pair(numbers.actual, numbers.expected)
            lines.append(f"{name}{element(numbers.index)}: {device} {there}  {home} {here}")
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
        others = [_leaf(t, device) for t in wrong[1:]]
        if others:
            lines.append(f"so do {len(others):,} more of {plural(gradients, 'gradient')}: {listing(others)}")
        location, related, module = None, [], ""
        hint = f"compare the outputs of single modules on {home} and {device} to find where they part"
        if op is not None:
            location, module = op.location, op.module
            lines.append(f"the first operation that gives something else there is {op.name}")
            hint = f"look at what this line computes on {device}: a branch on the device, a constant, a kernel of its own"
        elif culprit is not None:
            location, module = culprit.location, culprit.module
            hint = f"the backward of {culprit.op} is wrong on {device}: see {culprit.code} there"
        if culprit is not None and culprit.location is not None and culprit.location != location:
            related.append(RelatedLocation("wrong backward there", culprit.location))
        return cls.finding(
            lines,
            location=location,
            related=related,
            module=module,
            op=op.name if op is not None else "",
            evidence=evidence,
            hint=hint,
        )


def _leaf(testimony: Testimony, device: str) -> str:
    return testimony.subject.removeprefix("gradient of ").removesuffix(f" on {device}")

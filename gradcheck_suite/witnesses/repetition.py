"""Does the same run give the same output twice? If not, which operation was the first to differ?

The cheap question comes first: the forward alone, once more, unrecorded. Only when its output differs is the run recorded
again and the two recordings walked side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..capture.modules import ModuleStack
from ..capture.outputs import output_tensors
from ..capture.recorder import Recorder
from ..capture.state import rng_frozen
from ..evidence import Array, Comparison, OpRecord, Outcome, TensorRef, Testimony
from .torch_reverse import ReverseRun

__all__ = ["Difference", "find_difference"]


class Difference:
    """Two runs from one state that differ.

    Attributes:
        testimony: the second output against the first.
        op: the first operation whose result differed, or None when it cannot be told.
        from_outside: that operation only takes in a value that was made outside of torch.
    """

    def __init__(self, testimony: Testimony, op: OpRecord | None, from_outside: bool = False) -> None:
        self.testimony = testimony
        self.op = op
        self.from_outside = from_outside


# What changes from run to run may happen to be as in the first run; what alternates is so in every second one.
_MOST_RECORDINGS = 2


def find_difference(
    function: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    run: ReverseRun,
    *,
    restore: Callable[[], None],
    modules: Sequence[torch.nn.Module] = (),
    loss: Callable[[Any], Any] | None = None,
    seed: int = 0,
) -> Difference | None:
    """Run the forward again from the same state; None when its output is the same bit for bit.

    Args:
        function, args, kwargs, loss: the call.
        run: the first run.
        restore: puts model, inputs and process back to where the first run began.
        modules: roots for module paths.
        seed: the seed the first run began with.
    """

    def forward() -> Any:
        output = function(*args, **kwargs)
        return output if loss is None else loss(output)

    restore()
    # With gradients on: a model may differentiate inside its forward, or behave differently without.
    with rng_frozen(seed), torch.enable_grad():
        again = dict(output_tensors(forward()))
    testimony = None
    for path, first in run.outputs:
        second = again.get(path)
        if second is None or second.shape != first.shape or not _same(second, first):
            testimony = _compare(path, first, second)
            break
    if testimony is None:
        return None
    for _ in range(_MOST_RECORDINGS):
        restore()
        stack = ModuleStack(*modules)
        recorder = Recorder(stack)
        with rng_frozen(seed), torch.enable_grad(), stack.observing(), recorder:
            forward()
        recorder.finish_forward()
        op = _first_different(run.trace.ops, recorder.ops)
        if op is not None:
            return Difference(testimony, op, from_outside=_comes_in(op))
    return Difference(testimony, None)


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool(
        torch.equal(a.detach(), b.detach())
        or (torch.equal(torch.isnan(a), torch.isnan(b)) and _same_numbers(a, b))
    )


def _same_numbers(a: torch.Tensor, b: torch.Tensor) -> bool:
    known = ~torch.isnan(a.detach())
    return torch.equal(a.detach()[known], b.detach()[known])


def _compare(path: str, first: torch.Tensor, second: torch.Tensor | None) -> Testimony:
    if second is None or second.shape != first.shape:
        shape = "no tensor" if second is None else f"shape {list(second.shape)}"
        return Testimony(
            "torch_reverse", path, Outcome.DISAGREE, reason=f"the second run gives {shape} there"
        )
    a = first.detach().to(torch.complex128 if first.is_complex() else torch.float64).cpu().clone().numpy()
    b = second.detach().to(torch.complex128 if second.is_complex() else torch.float64).cpu().clone().numpy()
    error = np.abs(b - a)
    worst = int(np.argmax(np.nan_to_num(error, nan=np.inf)))
    index = tuple(int(i) for i in np.unravel_index(worst, a.shape))
    return Testimony(
        "torch_reverse",
        path,
        Outcome.DISAGREE,
        Comparison(
            elements=int(a.size),
            differing=int(np.count_nonzero(error)),
            index=index,
            expected=_number(a[index]),
            actual=_number(b[index]),
            error=float(error[index]),
            tolerance=0.0,
            scale=float(np.nanmax(np.abs(a))),
            max_error=float(error[index]),
        ),
    )


def _number(value: Any) -> float | complex:
    number = complex(value)
    return number.real if number.imag == 0 else number


def _first_different(first: Sequence[OpRecord], second: Sequence[OpRecord]) -> OpRecord | None:
    """The first operation that had equal inputs and another result, or that the other run did not have."""
    unwritten: set[int] = set()
    for a, b in zip(first, second):
        if a.name != b.name or a.location != b.location:
            return a
        results = _results(a)
        if "empty" in a.name:
            # Whatever was in memory; so it is in every look at it before something is written there.
            unwritten |= {ref.storage for ref in results}
            continue
        written = {after.storage for _, after in a.written}
        unwritten -= written
        for x, y in zip(results, _results(b)):
            if x.storage in unwritten:
                continue
            if x.shape != y.shape or not _equal(x.source.array(), y.source.array()):
                return a
    if len(first) != len(second):
        return max((first, second), key=len)[min(len(first), len(second))]
    return None


def _comes_in(op: OpRecord) -> bool:
    """Whether an operation only hands on memory that no recorded operation has made."""
    return op.name == "aten::lift_fresh" or (
        op.name in ("aten::detach", "aten::alias") and all(r.edge is None for r in _tensors(op.args))
    )


def _results(op: OpRecord) -> list[TensorRef]:
    return [*_tensors(op.outputs), *(after for _, after in op.written)]


def _tensors(values: Any) -> Iterator[TensorRef]:
    for value in values:
        if isinstance(value, TensorRef):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _equal(a: Array, b: Array) -> bool:
    return bool(np.array_equal(a, b, equal_nan=a.dtype.kind in "fc"))

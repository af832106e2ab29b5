"""Does the same run give the same output and gradients twice? If not, which operation was the first to differ?

The cheap question comes first: forward and backward once more, unrecorded. Only when something differs is the run recorded
again and the two recordings walked side by side: forward for an output, backward for a gradient.
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
from ..evidence import (
    Array,
    ArraySource,
    Comparison,
    Location,
    NodeRecord,
    OpRecord,
    Outcome,
    TensorRef,
    Testimony,
)
from .torch_reverse import ReverseRun

__all__ = ["Difference", "find_difference"]


class Difference:
    """Two runs from one state that differ.

    Attributes:
        testimony: the second output or gradient against the first.
        op: name of the first operation (or node of the backward) whose result differed; "" when it cannot be told.
        location, module: of that operation.
        from_outside: that operation only takes in a value that was made outside of torch.
    """

    def __init__(
        self, testimony: Testimony, first: OpRecord | NodeRecord | None, from_outside: bool = False
    ) -> None:
        self.testimony = testimony
        self.op = first.name if first is not None else ""
        self.location: Location | None = first.location if first is not None else None
        self.module = first.module if first is not None else ""
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
    record: Callable[[], ReverseRun],
) -> Difference | None:
    """Run forward and backward again from the same state; None when both are the same bit for bit.

    What a custom Function's backward alone makes differ is not told here: it is asked again by itself (``side_effects``).

    Args:
        function, args, kwargs, loss: the call.
        run: the first run.
        restore: puts model, inputs and process back to where the first run began.
        modules: roots for module paths.
        seed: the seed the first run began with.
        record: records such a run once more.
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
            testimony = _gradient_again(run, again)
            if testimony is None:
                return None
            del again
            node = _first_different_node(run, record, restore, seed)
            if node is not None and node.function is not None:
                return None
            return Difference(testimony, node)
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


def _gradient_again(run: ReverseRun, outputs: Mapping[str, torch.Tensor]) -> Testimony | None:
    """The first gradient of this second run that differs; None where none does, or where it cannot be asked for."""
    names = [n for n in run.leaves if run.gradients.get(n) is not None and not n.startswith("other[")]
    inside = any(node.name.endswith("CheckpointFunctionBackward") for node in run.trace.nodes.values())
    if not names or inside or run.inner:
        return None
    # A custom backward may write to what the first run has saved, and is asked twice by itself in any case. Other devices
    # add in any order, which concerns the operations beside it.
    custom = any(node.function is not None for node in run.trace.nodes.values())
    if custom and all(run.leaves[name].device.type == "cpu" for name in names):
        return None
    tensors = [outputs[path] for path, _ in run.outputs]
    leaves = [run.leaves[name] for name in names]
    try:
        found = torch.autograd.grad(tensors, leaves, [c.clone() for c in run.cotangents], allow_unused=True)
    except Exception as error:  # the user's backward, which ran before
        reason = f"the second backward raised {type(error).__name__}: {error}"
        return Testimony("torch_reverse", "the backward", Outcome.DISAGREE, reason=reason)
    for name, second in zip(names, found):
        first = run.gradients[name]
        if first is None or first.layout is not torch.strided:
            continue
        if second is None or second.layout is not torch.strided or second.shape != first.shape:
            return _compare(f"the gradient of {name}", first, None)
        if not _same(second, first):
            return _compare(f"the gradient of {name}", first, second)
    return None


def _first_different_node(
    run: ReverseRun, record: Callable[[], ReverseRun], restore: Callable[[], None], seed: int
) -> NodeRecord | None:
    """The first node of the backward that was given the same and returned something else."""
    for _ in range(_MOST_RECORDINGS):
        restore()
        with rng_frozen(seed):
            second = record().trace.nodes
        for key, node in sorted(run.trace.nodes.items(), key=lambda entry: -entry[1].sequence):
            other = second.get(key)
            if other is None or other.name != node.name or not (node.ran and other.ran):
                continue
            if _all_equal(node.cotangents, other.cotangents) and not _all_equal(
                node.gradients, other.gradients
            ):
                return node
    return None


def _all_equal(first: Sequence[ArraySource | None], second: Sequence[ArraySource | None]) -> bool:
    if len(first) != len(second):
        return False
    return all(
        (a is None) == (b is None) and (a is None or b is None or _equal(a.array(), b.array()))
        for a, b in zip(first, second)
    )


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

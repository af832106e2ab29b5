"""One recorded operation, computed by the engine from its meaning."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np

from ..aten import RECORDED, Meaning, MeaningUnavailableError, lookup
from ..engine import Tensor
from ..engine import ops as e
from ..errors import GradcheckError
from ..evidence import Array, OpRecord, TensorRef
from .memory import is_as_recorded, is_differentiable, to_engine_array
from .selections import positions_anew, selected_anew

__all__ = [
    "NoMeaningError",
    "compute",
    "deciding_anew",
    "floating_outputs",
    "further_meanings",
    "looks_anew",
    "moves_memory_only",
]

Read = Callable[[TensorRef], Any]
Further = Callable[[OpRecord], "Meaning | None"]

_FURTHER: ContextVar[Further | None] = ContextVar("gradcheck_suite_further_meanings", default=None)

_ANEW: ContextVar[bool] = ContextVar("gradcheck_suite_deciding_anew", default=False)

_DECISIONS: Mapping[str, Callable[..., Any]] = {
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "eq": np.equal,
    "ne": np.not_equal,
    "isnan": np.isnan,
    "isinf": np.isinf,
    "isfinite": np.isfinite,
    "signbit": np.signbit,
    "logical_and": np.logical_and,
    "logical_or": np.logical_or,
    "logical_xor": np.logical_xor,
    "logical_not": np.logical_not,
    "bitwise_and": np.bitwise_and,
    "bitwise_or": np.bitwise_or,
    "bitwise_xor": np.bitwise_xor,
    "bitwise_not": np.bitwise_not,
}

# Of one boolean tensor, another with the same elements in the same order.
_SAME_ORDER = frozenset(
    {
        "view",
        "_unsafe_view",
        "reshape",
        "unsqueeze",
        "squeeze",
        "expand",
        "clone",
        "detach",
        "alias",
        "contiguous",
    }
)

# These only change how memory is looked at; their result is read from memory by its geometry.
_BY_GEOMETRY = frozenset(
    {
        "aten::as_strided",
        "aten::as_strided_",
        "aten::set_.source_Tensor",
        "aten::set_.source_Storage",
        "aten::resize_",
    }
)


class NoMeaningError(GradcheckError):
    """The engine does not know what an operation means, or not for these arguments."""


@contextmanager
def further_meanings(find: Further) -> Iterator[None]:
    """While it lasts, ``find`` is asked about a recorded operation that has no meaning, or not for its arguments."""
    token = _FURTHER.set(find)
    try:
        yield
    finally:
        _FURTHER.reset(token)


@contextmanager
def deciding_anew() -> Iterator[None]:
    """While it lasts, comparisons of tensors and selections among them are made again instead of taken as recorded.

    A bisection finds its root by comparisons alone: on the recorded branches its result does not follow the input. And
    beside a tie another element is the largest than the recorded one.
    """
    token = _ANEW.set(True)
    try:
        yield
    finally:
        _ANEW.reset(token)


def moves_memory_only(op: OpRecord) -> bool:
    """Whether the operation is done by reading memory through its output's geometry."""
    return op.name in _BY_GEOMETRY


def looks_anew(op: OpRecord) -> bool:
    """Whether an operation in place changed how its tensor looks at memory (``transpose_``), not the memory."""
    return bool(op.written) and all(
        before.storage == after.storage and before.epoch == after.epoch for before, after in op.written
    )


def floating_outputs(op: OpRecord) -> list[TensorRef]:
    """The outputs that could carry a gradient."""
    found: list[TensorRef] = []
    _collect(op.outputs, found)
    return [ref for ref in found if is_differentiable(ref.dtype)]


def _collect(values: Any, found: list[TensorRef]) -> None:
    for value in values:
        if isinstance(value, TensorRef):
            found.append(value)
        elif isinstance(value, list | tuple):
            _collect(value, found)


def _resolve(value: Any, read: Read) -> Any:
    if isinstance(value, TensorRef):
        return read(value)
    if isinstance(value, list | tuple):
        return [_resolve(item, read) for item in value]
    if isinstance(value, Mapping):
        return {k: _resolve(v, read) for k, v in value.items()}
    return value


def compute(op: OpRecord, read: Read) -> list[tuple[TensorRef, Any]]:
    """The engine's value of everything the operation produced or wrote.

    Args:
        op: the operation.
        read: gives the engine value of an argument.

    Returns:
        (ref after the operation, engine value) for each tensor it produced or wrote; a value of ``RECORDED`` has been
        replaced by torch's own result as a constant.

    Raises:
        NoMeaningError: no entry in ``aten/``, or the entry does not cover these arguments.
    """
    outputs: list[TensorRef] = []
    _collect(op.outputs, outputs)
    for _, after in op.written:
        if not any(o is after for o in outputs):
            outputs.append(after)
    if not any(is_differentiable(ref.dtype) for ref in outputs):
        decided = _decided(op, read, outputs) if _ANEW.get() else None
        return [(ref, to_engine_array(ref)) for ref in outputs] if decided is None else decided
    found = lookup(op.name)
    if found is None:
        if op.random or not _takes_tensors(op):
            return [(ref, _constant(ref)) for ref in outputs]
        found = _further(op)
        if found is None:
            raise NoMeaningError(f"{op.name} has no meaning in the engine yet")
    try:
        return _apply(found, op, read)
    except MeaningUnavailableError as error:
        other = _further(op)
        if other is None or other is found:
            raise NoMeaningError(f"{op.name}: {error}") from error
        try:
            return _apply(other, op, read)
        except MeaningUnavailableError as further:
            raise NoMeaningError(f"{op.name}: {error}; {further}") from further


def _decided(op: OpRecord, read: Read, outputs: Sequence[TensorRef]) -> list[tuple[TensorRef, Any]] | None:
    """The result of a comparison, or of an operation on comparisons, for the arguments as they are now."""
    name = op.name.removeprefix("aten::").split(".")[0]
    if len(outputs) == 1 and name in ("argmax", "argmin"):
        place = positions_anew(name, [_resolve(a, read) for a in op.args], to_engine_array(outputs[0]))
        return None if place is None else [(outputs[0], place)]
    if len(outputs) != 1 or outputs[0].dtype != "bool":
        return None
    shape = outputs[0].shape
    if name in _SAME_ORDER:
        given = np.asarray(_resolve(op.args[0], read))
        return [(outputs[0], given.reshape(shape) if name != "expand" else np.broadcast_to(given, shape))]
    function = _DECISIONS.get(name.removesuffix("_"))
    if function is None or op.kwargs:
        return None
    arguments = [_resolve(a, read) for a in op.args]
    plain = [a.data if isinstance(a, Tensor) else np.asarray(a) for a in arguments]
    return [(outputs[0], np.broadcast_to(function(*plain), shape).astype(bool))]


def _takes_tensors(op: OpRecord) -> bool:
    """Whether a tensor goes in; ``full``, ``arange`` or ``scalar_tensor`` make a constant.

    Integers are no constants: an operation without a meaning may read their bits as floating numbers.
    """
    inputs: list[TensorRef] = []
    made = {id(before) for before, _ in op.written}
    _collect((*op.args, *(v for v in op.kwargs.values() if id(v) not in made)), inputs)
    return bool(inputs)


def _further(op: OpRecord) -> Meaning | None:
    find = _FURTHER.get()
    return None if find is None else find(op)


def _apply(found: Meaning, op: OpRecord, read: Read) -> list[tuple[TensorRef, Any]]:
    args = [_resolve(a, read) for a in op.args]
    kwargs = {k: _resolve(v, read) for k, v in op.kwargs.items()}
    if found.mode == "out":
        for name in [k for k, v in op.kwargs.items() if _is_written(v, op)]:
            kwargs.pop(name)
    anew: Array | None = None
    if found.uses_outputs:
        flat: list[TensorRef] = []
        _collect(op.outputs, flat)
        kwargs["recorded"] = tuple(to_engine_array(ref) for ref in flat)
        if _ANEW.get():
            anew = selected_anew(op.name, args, kwargs)
            if anew is not None:
                kwargs["recorded"] = (kwargs["recorded"][0], anew)
    with np.errstate(all="ignore"):
        result = found.function(*args, **kwargs)
    if found.mode == "functional":
        targets: list[TensorRef] = []
        _collect(op.outputs, targets)
    else:
        targets = [after for _, after in op.written]
    values = list(result) if isinstance(result, list | tuple) else [result]
    if len(values) == len(op.outputs) != len(targets):  # torch returned None for some (an output mask)
        values = [value for value, output in zip(values, op.outputs) if output is not None]
    if len(values) != len(targets):
        raise NoMeaningError(
            f"{op.name}: its meaning gave {len(values)} results where torch gave {len(targets)}"
        )
    if anew is not None:
        return [(targets[0], _fit(targets[0], values[0])), (targets[1], anew)]
    return [(ref, _fit(ref, value)) for ref, value in zip(targets, values)]


def _is_written(value: Any, op: OpRecord) -> bool:
    """Whether an argument is what ``out=`` names; by place, since ``mul(x, 2, out=x)`` is recorded as a write to x."""
    return isinstance(value, TensorRef) and any(
        (before.storage, before.offset, before.shape, before.strides)
        == (value.storage, value.offset, value.shape, value.strides)
        for before, _ in op.written
    )


def _constant(ref: TensorRef) -> Any:
    array = to_engine_array(ref)
    return Tensor(array) if array.dtype.kind in "fc" else array


def _fit(ref: TensorRef, value: Any) -> Any:
    """The value as the recorded tensor would hold it: constant if recorded, broadcast and of its kind of number."""
    if value is RECORDED or not is_differentiable(ref.dtype):
        return _constant(ref)
    if not isinstance(value, Tensor):
        value = Tensor(np.asarray(value, dtype=np.complex128 if np.iscomplexobj(value) else np.float64))
    if value.dtype.kind not in "fc":
        value = Tensor(value.data.astype(np.float64))
    if value.shape != ref.shape:
        value = e.broadcast_to(value, shape=ref.shape)
    if ref.dtype.startswith("complex") and value.dtype.kind != "c":
        value = e.cast(value, dtype="complex128")
    elif not ref.dtype.startswith("complex") and value.dtype.kind == "c":
        value = e.real(value)
    if value.dtype.name != ref.dtype and ref.dtype == "float32" and is_as_recorded():
        value = e.cast(value, dtype="float32")  # some meaning met a constant in double precision
    return value

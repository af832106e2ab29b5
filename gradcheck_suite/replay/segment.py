"""A recorded stretch of operations, used as the meaning of the one operation that it computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..aten import RECORDED, MeaningUnavailableError
from ..engine import Tensor
from ..evidence import OpRecord, TensorRef
from .local import Unexplained, execute
from .memory import Memory, is_differentiable

__all__ = ["Segment", "tensors_in"]


@dataclass(frozen=True)
class Segment:
    """Operations that compute the same as one other operation.

    Attributes:
        name: the operation they stand for.
        ops: in order, as recorded.
        inputs: where the tensors among the arguments of the other operation went in, in order of appearance; None
            for one that was not used as a tensor.
        outputs: where its results came out; anything but a tensor is None.
    """

    name: str
    ops: Sequence[OpRecord]
    inputs: Sequence[TensorRef | None]
    outputs: Sequence[TensorRef | None]

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Compute it in the engine, for the arguments of the other operation.

        Raises:
            MeaningUnavailableError: an operation of the segment has no meaning, or a value does not come from the
                recorded operations.
        """
        memory = Memory()
        for ref, value in zip(self.inputs, tensors_in((args, kwargs), (Tensor, np.ndarray)), strict=True):
            if ref is not None:
                memory.bind(ref, value)
        produced: dict[tuple[int, int], Any] = {}
        for op in self.ops:
            try:
                execute(op, memory, produced)
            except Unexplained as error:
                raise MeaningUnavailableError(
                    f"its decomposition needs an operation that has no meaning: {error}"
                ) from error
        results = []
        for ref in self.outputs:
            if ref is None or not is_differentiable(ref.dtype):
                results.append(RECORDED)
                continue
            before = len(memory.constants)
            value = memory.read(ref)
            if len(memory.constants) > before:
                raise MeaningUnavailableError(
                    "a result of its decomposition was not made by recorded operations"
                )
            results.append(value)
        return tuple(results)


def tensors_in(values: Any, kinds: type | tuple[type, ...]) -> list[Any]:
    """Every value of one of these types in nested lists, tuples and mappings, in order."""
    found: list[Any] = []
    for value in values.values() if isinstance(values, Mapping) else values:
        if isinstance(value, kinds):
            found.append(value)
        elif isinstance(value, list | tuple | Mapping):
            found.extend(tensors_in(value, kinds))
    return found

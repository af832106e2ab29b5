"""Version counters that a write leaves behind because somebody watches.

On the CPU, ``torch._foreach_*_`` calls the ordinary in-place operation on each tensor, and that one advances the version.
Below a dispatch mode it does not, and autograd would use an overwritten tensor without a word.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

__all__ = ["advance"]

_MANY = "aten::_foreach_"


def advance(operation: str, target: torch.Tensor) -> None:
    """Advance the version of what this operation has written to, if it has not done so by itself.

    Args:
        operation: its name.
        target: one of the tensors that it wrote to.
    """
    if (
        operation.startswith(_MANY)
        and target.device.type == "cpu"
        and not target.is_inference()
        and _are_left_behind()
    ):
        torch.autograd.graph.increment_version(target)


class _Passing(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's __init_subclass__ is untyped
    """A mode that does nothing."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


@functools.cache
def _are_left_behind() -> bool:
    """Whether this torch has that fault."""
    with torch.inference_mode(False), torch.no_grad(), _disable_current_modes():
        tensor = torch.zeros(1)
        before = tensor._version
        with _Passing():  # type: ignore[no-untyped-call]
            torch._foreach_add_([tensor], 1.0)
        return tensor._version == before

"""An operation called from within a dispatch mode's handler, with the result it has without a mode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..evidence import TensorRef

__all__ = ["call_plainly", "undisturbed"]


def call_plainly(arguments: Sequence[tuple[torch.Tensor, TensorRef]]) -> bool:
    """Whether an operation on these arguments needs nothing of what :func:`undisturbed` does: none is complex."""
    return not any(tensor.is_complex() for tensor, _ in arguments)


def undisturbed(func: Any, args: Any, kwargs: Any) -> Any:
    """Call the operation as it runs without a mode.

    Inside a handler torch leaves out its handling of lazy conjugation, and a kernel that multiplies by a conjugate
    transpose of its own (``linalg_pinv``, ``linalg_polar``) then gets complex results wrong. The handling is put back,
    except for arguments that are lazily conjugated themselves: those are in the middle of being resolved.
    """
    for value in args:
        if isinstance(value, torch.Tensor) and value.is_complex():
            break
    else:
        return func(*args, **kwargs)
    tensors = [a for a in args if isinstance(a, torch.Tensor)]
    if any(t.is_conj() or t.is_neg() for t in tensors):
        return func(*args, **kwargs)
    exclude = torch._C._dispatch_tls_local_exclude_set()
    for key in (torch._C.DispatchKey.Conjugate, torch._C.DispatchKey.Negative):
        exclude = exclude.remove(key)
    with torch._C._ForceDispatchKeyGuard(torch._C._dispatch_tls_local_include_set(), exclude):
        return func(*args, **kwargs)

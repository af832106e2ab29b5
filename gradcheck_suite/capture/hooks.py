"""Which tensors carry a user's gradient hook: such a hook may change a gradient on purpose."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from .recorder import Recorder

__all__ = ["noting_tensor_hooks"]


@contextmanager
def noting_tensor_hooks(recorder: Recorder, hooked: set[tuple[int, int]]) -> Iterator[None]:
    """While it lasts, put the place (node key, slot) of every tensor that gets a hook into ``hooked``."""
    original: Callable[..., Any] = torch.Tensor.register_hook

    def register_hook(self: torch.Tensor, hook: Callable[..., Any]) -> Any:
        handle = original(self, hook)
        node = self.grad_fn
        hooked.add(
            (recorder.leaf_key(self), 0) if node is None else (recorder.node_key(node), self.output_nr)
        )
        return handle

    torch.Tensor.register_hook = register_hook  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.Tensor.register_hook = original  # type: ignore[method-assign]

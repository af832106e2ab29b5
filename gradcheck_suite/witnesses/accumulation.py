"""Gradients that do not come back from a backward but are added to ``.grad`` in the middle of it.

A reversible layer's Function recomputes its activations in its backward and calls ``backward`` on them, so the parameters
inside never appear in the outer graph. ``torch.autograd.grad`` by itself leaves every ``.grad`` alone: what is found there
afterwards was put there by such a backward inside the backward.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["inner_accumulation"]


@contextmanager
def inner_accumulation(leaves: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor | None]]:
    """What the block adds to the ``.grad`` of each of these leaves; known when it is over.

    Every ``.grad`` is as before afterwards. Hooks that act on it (an optimizer that steps in the backward) do not run.

    Args:
        leaves: some may be given twice.

    Returns:
        One entry per leaf, None where nothing was added.
    """
    added: list[torch.Tensor | None] = []
    unique = {id(leaf): leaf for leaf in leaves if leaf.is_leaf}
    before = {key: leaf.grad for key, leaf in unique.items()}
    waiting: list[tuple[dict[Any, Any], dict[Any, Any]]] = []
    for leaf in unique.values():
        leaf.grad = None
        hooks = leaf._post_accumulate_grad_hooks
        if hooks:
            # Emptied, not taken away: torch keeps the dictionary itself.
            waiting.append((hooks, dict(hooks)))
            hooks.clear()
    try:
        yield added
        added.extend(leaf.grad if id(leaf) in unique else None for leaf in leaves)
    finally:
        for hooks, content in waiting:
            hooks.update(content)
        for key, leaf in unique.items():
            leaf.grad = before[key]

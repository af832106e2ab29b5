"""The autograd graph as DOT source, drawn by torchviz, with nodes named after the recorder's keys."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["draw_graph"]

_NODE = re.compile(r"^\t(\d+) \[", re.MULTILINE)
_EDGE = re.compile(r"^\t(\d+) -> (\d+)", re.MULTILINE)


@contextmanager
def _without_missing_tensors(torchviz_dot: Any) -> Iterator[None]:
    """torchviz raises at a custom Function that saved None (an optional mask) beside its tensors; those stay undrawn."""

    def has(node: Any, name: str) -> bool:
        if name == "saved_tensors" and any(saved is None for saved in getattr(node, name, ())):
            return False
        return hasattr(node, name)

    torchviz_dot.hasattr = has
    try:
        yield
    finally:
        del torchviz_dot.hasattr


def draw_graph(
    outputs: Sequence[torch.Tensor], leaves: Mapping[str, torch.Tensor], keys: Mapping[int, Any]
) -> str:
    """DOT source of the graph behind ``outputs``.

    Args:
        outputs: tensors with a history.
        leaves: named leaves, labelled with their names.
        keys: torch's node objects by recorder key; a node is named ``n<key>``, with ``m`` for a minus sign.

    Returns:
        The source; nodes torchviz adds for tensors (leaves, outputs) are named ``t<number>``.
    """
    with warnings.catch_warnings():
        # torchviz compares versions with distutils, which warns; a user may have turned warnings into errors.
        warnings.simplefilter("ignore", DeprecationWarning)
        import torchviz

        with _without_missing_tensors(torchviz.dot):
            dot = torchviz.make_dot(tuple(o for o in outputs if o.grad_fn is not None), params=dict(leaves))
    source: str = dot.source
    names = {str(id(node)): f"n{key}".replace("-", "m") for key, node in keys.items()}
    others: dict[str, str] = {}

    def name(identity: str) -> str:
        known = names.get(identity)
        if known is None:
            known = others.setdefault(identity, f"t{len(others)}")
        return known

    source = _EDGE.sub(lambda m: f"\t{name(m[1])} -> {name(m[2])}", source)
    return _NODE.sub(lambda m: f"\t{name(m[1])} [", source)

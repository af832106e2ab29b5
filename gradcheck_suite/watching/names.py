"""What to call the leaves of a session: two models may both have a ``weight``."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import torch

__all__ = ["Names"]

_MOST = 10_000


class Names:
    """Gives every leaf one name for the whole session, and no two living leaves the same.

    Args:
        known: the dotted names of parameters, by ``id``.
    """

    def __init__(self, known: Callable[[], dict[int, str]]) -> None:
        self._known = known
        self._given: dict[int, tuple[weakref.ref[torch.Tensor], str]] = {}
        self._taken: dict[str, weakref.ref[torch.Tensor]] = {}

    def of(self, tensors: list[torch.Tensor]) -> list[str]:
        """The names of these tensors: a parameter's dotted name, or what kind of leaf it is."""
        known: dict[int, str] | None = None
        names = []
        for tensor in tensors:
            given = self._given.get(id(tensor))
            if given is not None and given[0]() is tensor:
                names.append(given[1])
                continue
            known = self._known() if known is None else known
            names.append(self._give(tensor, known.get(id(tensor))))
        return names

    def _give(self, tensor: torch.Tensor, wanted: str | None) -> str:
        shape = "x".join(str(n) for n in tensor.shape) or "scalar"
        base = wanted or f"leaf ({shape})"
        name, number = base, 1
        while (owner := self._owner_of(name)) is not None and owner is not tensor:
            number += 1
            name = f"{base} #{number}"
        if len(self._given) < _MOST:
            reference = weakref.ref(tensor)
            self._given[id(tensor)] = (reference, name)
            self._taken[name] = reference
        return name

    def _owner_of(self, name: str) -> torch.Tensor | None:
        reference = self._taken.get(name)
        return None if reference is None else reference()

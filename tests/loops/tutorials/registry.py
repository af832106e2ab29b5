"""Where the loops are kept: a function, and the tutorial whose loop it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

__all__ = ["TUTORIALS", "Loop", "Tutorial", "tutorial"]

Loop = Callable[[], "list[torch.Tensor]"]


@dataclass(frozen=True)
class Tutorial:
    """A loop, named after its function; ``title`` says which tutorial or example it is taken from."""

    title: str
    train: Loop
    slow: bool = False
    needs: tuple[str, ...] = ()
    open: str = ""

    @property
    def name(self) -> str:
        return self.train.__name__


TUTORIALS: dict[str, Tutorial] = {}


def tutorial(
    title: str, *, slow: bool = False, needs: tuple[str, ...] = (), open: str = ""
) -> Callable[[Loop], Loop]:
    """Add the decorated function; it returns the tensors it has trained.

    Args:
        title: of the tutorial or the example.
        slow: it takes more than a few seconds.
        needs: modules without which it cannot run.
        open: why it is not left in peace yet; empty if it is.
    """

    def add(train: Loop) -> Loop:
        assert train.__name__ not in TUTORIALS, f"there are two loops {train.__name__}"
        TUTORIALS[train.__name__] = Tutorial(title, train, slow, needs, open)
        return train

    return add

"""What an operation's schema says: which arguments it writes, and whether it draws random numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["OpTraits", "any_requires_grad", "read_traits", "tensors_of"]


@dataclass(slots=True)
class OpTraits:
    """What an overload's schema says, looked up once."""

    name: str
    writes: tuple[int, ...]  # positions of written positional arguments
    writes_by_name: tuple[str, ...]
    argument_names: tuple[str, ...]
    random: bool
    relooks: bool  # changes how a tensor looks at its memory, not the memory: transpose_, unsqueeze_, set_
    views: bool  # gives a view of an argument, and writes nothing


def any_requires_grad(values: Iterable[Any]) -> bool:
    for value in values:
        if isinstance(value, torch.Tensor):
            if value.requires_grad:
                return True
        elif isinstance(value, (list, tuple)) and value and any_requires_grad(value):
            return True
    return False


def read_traits(func: Any) -> OpTraits:
    schema = getattr(func, "_schema", None)
    if schema is None:  # a higher-order operator
        return OpTraits(str(func), (), (), (), False, False, False)
    writes, by_name, names = [], [], []
    for position, argument in enumerate(schema.arguments):
        names.append(argument.name)
        if argument.alias_info is not None and argument.alias_info.is_write:
            if argument.kwarg_only:
                by_name.append(argument.name)
            else:
                writes.append(position)
    random = torch.Tag.nondeterministic_seeded in func.tags
    relooks = torch.Tag.inplace_view in func.tags
    views = not writes and not by_name and any(r.alias_info is not None for r in schema.returns)
    return OpTraits(func.name(), tuple(writes), tuple(by_name), tuple(names), random, relooks, views)


def tensors_of(values: Any) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from tensors_of(value)

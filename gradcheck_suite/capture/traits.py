"""What an operation's schema says: which arguments it writes, and whether it draws random numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

_CREATING = {
    *(f"{name}_like" for name in ("empty", "ones", "zeros", "full", "rand", "randn", "randint")),
    *(f"new_{name}" for name in ("empty", "empty_strided", "ones", "zeros", "full")),
}

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
    overload: Any = None  # keeps the overload alive, which others are looked up beside by id
    effects: bool = False  # writes to some argument
    creates: bool = False  # takes nothing of a tensor but its shape
    blind: bool = False  # takes no tensor and makes none


def any_requires_grad(values: Iterable[Any]) -> bool:
    for value in values:
        kind = type(value)
        if kind is torch.Tensor or kind is torch.nn.Parameter or isinstance(value, torch.Tensor):
            if value.requires_grad:
                return True
        elif isinstance(value, (list, tuple)) and value and any_requires_grad(value):
            return True
    return False


def read_traits(func: Any) -> OpTraits:
    schema = getattr(func, "_schema", None)
    if schema is None:  # a higher-order operator
        return OpTraits(str(func), (), (), (), False, False, False, func)
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
    return OpTraits(
        func.name(),
        tuple(writes),
        tuple(by_name),
        tuple(names),
        random,
        relooks,
        views,
        func,
        effects=bool(writes or by_name),
        creates=func.namespace == "aten" and func.__name__.partition(".")[0] in _CREATING,
        blind=not any("Tensor" in str(v.type) for v in (*schema.arguments, *schema.returns)),
    )


def tensors_of(values: Any) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from tensors_of(value)

"""Reads from a VJP's bytecode which arguments it needs, so that a node saves no more than that.

`lambda g, out, x, y: g * y` needs the value of y and nothing else; `lambda g, out, x: full(g, x.shape)`
needs only the shape of x. What is not saved costs no memory and may be overwritten in place, exactly
as in torch. Anything unfamiliar counts as "needs the value". Read once, when the VJP is declared.
"""

from __future__ import annotations

import dis
import inspect
import types
from collections.abc import Callable
from typing import Any

NOTHING, META, VALUE = 0, 1, 2

_META_ATTRIBUTES = frozenset({"shape", "dtype", "ndim", "size"})
_IGNORED = frozenset({"MAKE_CELL", "COPY_FREE_VARS"})


class Meta:
    """Stands in for a tensor of which a VJP reads only shape and dtype."""

    __slots__ = ("dtype", "ndim", "shape", "size")

    def __init__(self, data: Any) -> None:
        self.shape = data.shape
        self.dtype = data.dtype
        self.ndim = data.ndim
        self.size = data.size


def usage(function: Callable[..., Any], count: int) -> tuple[int, ...]:
    """How `function` uses its first `count` positional parameters: NOTHING, META or VALUE for each."""
    if not isinstance(function, types.FunctionType):
        return (VALUE,) * count
    code = function.__code__
    if code.co_flags & inspect.CO_VARARGS or code.co_argcount < count:
        return (VALUE,) * count
    names = code.co_varnames[:count]
    found = {name: VALUE if name in code.co_cellvars else NOTHING for name in names}
    instructions = list(dis.get_instructions(code))
    for position, instruction in enumerate(instructions):
        if instruction.opname in _IGNORED:
            continue
        several = isinstance(instruction.argval, tuple)
        touched = instruction.argval if several else (instruction.argval,)
        for name in touched:
            if not isinstance(name, str) or name not in found:
                continue
            if not _is_local(instruction.opname):
                continue
            following = instructions[position + 1] if position + 1 < len(instructions) else None
            only_meta = (
                instruction.opname.startswith("LOAD_FAST")
                and name == touched[-1]
                and touched.count(name) == 1
                and following is not None
                and following.opname == "LOAD_ATTR"
                and following.argval in _META_ATTRIBUTES
            )
            found[name] = max(found[name], META if only_meta else VALUE)
    return tuple(found[name] for name in names)


def _is_local(opname: str) -> bool:
    """Whether the instruction names a local variable (a global or attribute may share its name)."""
    return "FAST" in opname or "DEREF" in opname or "CLOSURE" in opname


def keywords(function: Callable[..., Any]) -> frozenset[str] | None:
    """The keyword-only parameters of a rule; None when it takes any (`**static`)."""
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return frozenset(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)

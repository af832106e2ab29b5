"""Random programs of views and writes in place: what a recorder of memory has to survive.

A program is a list of instructions over registers. Every instruction is made valid for whatever its registers hold
(indices are taken modulo sizes), so that almost every program runs and Hypothesis can shrink it freely.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

Registers = list[Tensor]


@dataclass(frozen=True)
class Instruction:
    """``name`` applied to registers ``a`` and ``b`` with small numbers ``p``, ``q``."""

    name: str
    a: int
    b: int
    p: int
    q: int


def _dim(x: Tensor, n: int) -> int:
    return n % max(x.dim(), 1)


def _slice(x: Tensor, p: int, q: int) -> Tensor:
    if not x.dim():
        return x.view(())
    dim = _dim(x, p)
    size = x.shape[dim]
    start = q % max(size, 1)
    return x[(slice(None),) * dim + (slice(start, None, 1 + q % 2),)]


def _select(x: Tensor, p: int, q: int) -> Tensor:
    dim = _dim(x, p)
    return x.select(dim, q % x.shape[dim]) if x.dim() and x.shape[dim] else x.view(x.shape)


def _expand(x: Tensor, p: int, q: int) -> Tensor:
    return x.unsqueeze(0).expand(1 + p % 3, *x.shape)


def _overlapping(x: Tensor, p: int, q: int) -> Tensor:
    """Windows that overlap: rows of two, shifted by one."""
    flat = x.reshape(-1)
    if flat.numel() < 3:
        return x
    return flat.as_strided((flat.numel() - 1, 2), (flat.stride(0), flat.stride(0)), flat.storage_offset())


def _strided(x: Tensor, p: int, q: int) -> Tensor:
    if not x.is_contiguous() or x.numel() < 4:
        return x
    return x.as_strided((2, 2), (1, 2) if p % 2 else (2, 1), x.storage_offset())


def _unfold(x: Tensor, p: int, q: int) -> Tensor:
    if not x.dim():
        return x
    dim = _dim(x, p)
    return x.unfold(dim, min(2, x.shape[dim]), 1) if x.shape[dim] else x


VIEWS: dict[str, Callable[[Tensor, int, int], Tensor]] = {
    "slice": _slice,
    "select": _select,
    "transpose": lambda x, p, q: x.transpose(_dim(x, p), _dim(x, q)) if x.dim() else x,
    "unsqueeze": lambda x, p, q: x.unsqueeze(p % (x.dim() + 1)) if x.dim() < 4 else x,
    "squeeze": lambda x, p, q: x.squeeze(),
    "expand": lambda x, p, q: _expand(x, p, q) if x.dim() < 4 else x,
    "expanded copy": lambda x, p, q: _expand(x, p, q).clone() if x.dim() < 4 else x,
    "flatten": lambda x, p, q: x.reshape(-1),
    "diagonal": lambda x, p, q: x.diagonal(offset=p % 2) if x.dim() > 1 else x,
    "view": lambda x, p, q: x.view(-1) if x.is_contiguous() else x.view(x.shape),
    "flip": lambda x, p, q: x.flip(_dim(x, p)) if x.dim() else x,
    "unbind": lambda x, p, q: x.unbind(0)[p % x.shape[0]] if x.dim() and x.shape[0] else x,
    "chunk": lambda x, p, q: x.chunk(2, _dim(x, p))[-1] if x.dim() else x,
    "movedim": lambda x, p, q: x.movedim(0, -1) if x.dim() else x,
    "strided": _strided,
    "overlapping": _overlapping,
    "unfold": _unfold,
    "contiguous": lambda x, p, q: x.contiguous(),
    "detach": lambda x, p, q: x.detach().clone(),
    "alias": lambda x, p, q: x.view_as(x),
    "detached twin": lambda x, p, q: x.detach(),
}


def _fitting(target: Tensor, source: Tensor) -> Tensor:
    """The source in a shape that broadcasts to the target: itself if it does, else its mean."""
    try:
        if torch.broadcast_shapes(target.shape, source.shape) == target.shape:
            return source
    except RuntimeError:
        pass
    return source.mean() if source.numel() else source.sum()


def _index_assign(x: Tensor, y: Tensor, p: int, q: int) -> None:
    if x.dim() and x.shape[0]:
        x[p % x.shape[0]] = _fitting(x[p % x.shape[0]], y)


def _slice_assign(x: Tensor, y: Tensor, p: int, q: int) -> None:
    if x.dim():
        x[..., p % 2 :] = _fitting(x[..., p % 2 :], y)


def _gathered_assign(x: Tensor, y: Tensor, p: int, q: int) -> None:
    if x.dim() and x.shape[0]:
        index = torch.tensor([p % x.shape[0], q % x.shape[0]])
        if p % x.shape[0] == q % x.shape[0]:
            index = index[:1]
        x[index] = _fitting(x[index], y)


def _index_add(x: Tensor, y: Tensor, p: int, q: int) -> None:
    if x.dim() and x.shape[0]:
        index = torch.tensor([p % x.shape[0], q % x.shape[0]])
        x.index_add_(0, index, _fitting(x[index], y).expand(x[index].shape))


def _swap(x: Tensor, y: Tensor, p: int, q: int) -> None:
    if x.dim():
        x.transpose_(_dim(x, p), _dim(x, q))


def _untracked(x: Tensor, y: Tensor, p: int, q: int) -> None:
    with torch.no_grad():
        x.mul_(1.5) if p % 2 else x.add_(0.25)


WRITES: dict[str, Callable[[Tensor, Tensor, int, int], object]] = {
    "add_ number": lambda x, y, p, q: x.add_(0.5 + p),
    "add_": lambda x, y, p, q: x.add_(_fitting(x, y), alpha=1 + p % 2),
    "mul_": lambda x, y, p, q: x.mul_(_fitting(x, y)),
    "mul_ number": lambda x, y, p, q: x.mul_(1.5),
    "sub_": lambda x, y, p, q: x.sub_(_fitting(x, y)),
    "copy_": lambda x, y, p, q: x.copy_(_fitting(x, y)),
    "zero_": lambda x, y, p, q: x.zero_(),
    "sin_": lambda x, y, p, q: x.sin_(),
    "tanh_": lambda x, y, p, q: x.tanh_(),
    "masked_fill_": lambda x, y, p, q: x.masked_fill_(x.detach() > 0.3, 0.7),
    "masked assign": lambda x, y, p, q: x.__setitem__(x.detach() > 0.3, 0.4),
    "index assign": _index_assign,
    "slice assign": _slice_assign,
    "gathered assign": _gathered_assign,
    "index_add_": _index_add,
    "transpose_": _swap,
    "unsqueeze_": lambda x, y, p, q: x.unsqueeze_(0) if x.dim() < 4 else None,
    "under no_grad": _untracked,
}

VALUES: dict[str, Callable[[Tensor, Tensor, int, int], Tensor]] = {
    "mul": lambda x, y, p, q: x * _fitting(x, y),
    "add": lambda x, y, p, q: x + _fitting(x, y),
    "sin": lambda x, y, p, q: x.sin(),
    "clone": lambda x, y, p, q: x.clone(),
    "cat": lambda x, y, p, q: torch.cat([x.reshape(-1), y.reshape(-1)])[:24],
    "sum": lambda x, y, p, q: x.sum(0) if x.dim() else x,
    "gather": lambda x, y, p, q: x.reshape(-1)[[0, 0]] if x.numel() else x,
    "constant": lambda x, y, p, q: torch.full(x.shape, 0.3, dtype=x.dtype),
}

NAMES = (*VIEWS, *WRITES, *WRITES, *VALUES)

instructions = st.builds(
    Instruction,
    name=st.sampled_from(NAMES),
    a=st.integers(0, 5),
    b=st.integers(0, 5),
    p=st.integers(0, 3),
    q=st.integers(0, 3),
)
programs = st.lists(instructions, min_size=1, max_size=10)


def _overlaps(x: Tensor) -> bool:
    """Whether two elements of the window are one in memory: what a write does to it, torch leaves undefined."""
    places = torch.zeros(x.shape, dtype=torch.int64)
    for dim, (size, stride) in enumerate(zip(x.shape, x.stride())):
        steps = torch.arange(size) * stride
        places += steps.reshape([-1 if d == dim else 1 for d in range(x.dim())])
    return places.unique().numel() < places.numel()


def _same_memory(x: Tensor, y: Tensor) -> bool:
    return x.untyped_storage().data_ptr() == y.untyped_storage().data_ptr()


def _same_window(x: Tensor, y: Tensor) -> bool:
    return (x.shape, x.stride(), x.storage_offset()) == (y.shape, y.stride(), y.storage_offset())


def run_program(program: Sequence[Instruction], x: Tensor) -> Tensor:
    """The scalar that the program computes from its input: every register takes part in it."""
    registers: Registers = [x, x * 1.25]
    for step in program:
        # The newest registers are the most interesting: count from the end. Register 0 is a leaf: read only.
        a = len(registers) - 1 - step.a % (len(registers) - 1)
        b = len(registers) - 1 - step.b % len(registers)
        if step.name in VIEWS:
            registers.append(VIEWS[step.name](registers[a], step.p, step.q))
        elif step.name in VALUES:
            registers.append(VALUES[step.name](registers[a], registers[b], step.p, step.q))
        elif not _overlaps(registers[a]):
            target, other = registers[a], registers[b]
            if not target.requires_grad and any(
                _same_memory(target, r) and r.requires_grad for r in registers
            ):
                # Two histories in one memory: what is written through a detached twin stays untracked.
                other = other.detach()
            if _same_memory(target, other) and not _same_window(target, other):
                # What a write from a partly overlapping window does, torch leaves undefined.
                other = other.clone()
            WRITES[step.name](target, other, step.p, step.q)
    total = registers[0].sum()
    for number, register in enumerate(registers[1:]):
        weights = torch.linspace(0.5, 1.5 + number, max(register.numel(), 1), dtype=x.dtype)[
            : register.numel()
        ]
        total = total + (register.sin() * weights.reshape(register.shape)).sum()
    return total

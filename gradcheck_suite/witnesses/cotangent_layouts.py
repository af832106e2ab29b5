"""One cotangent's values in every kind of memory in which torch may deliver them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Layout", "constant", "drawn", "layouts"]


@dataclass(frozen=True)
class Layout:
    """A kind of memory.

    Attributes:
        situation: when torch delivers it, for people.
        arrange: a cotangent with the same values in such memory.
        fits: whether a cotangent can be in such memory and would differ by it from a contiguous one.
        constant: it holds one value only.
    """

    situation: str
    arrange: Callable[[Tensor], Tensor]
    fits: Callable[[Tensor], bool]
    constant: bool = False

    def of(self, cotangents: Mapping[int, Tensor]) -> dict[int, Tensor | None]:
        """Every cotangent that fits in this memory, copies of the others."""
        return {s: self.arrange(c) if self.fits(c) else c.clone() for s, c in cotangents.items()}


def _transposed(tensor: Tensor) -> Tensor:
    order = list(reversed(range(tensor.dim())))
    return tensor.permute(order).contiguous().permute(order)


def _stepped(tensor: Tensor) -> Tensor:
    return torch.stack([tensor, torch.full_like(tensor, 3.0)], -1)[..., 0]


def _expanded(tensor: Tensor) -> Tensor:
    return tensor.flatten()[0].clone().expand(tensor.shape)


def _channels_last(tensor: Tensor) -> Tensor:
    kind = torch.channels_last if tensor.dim() == 4 else torch.channels_last_3d
    return tensor.contiguous(memory_format=kind)


def _shifted(tensor: Tensor) -> Tensor:
    flat = torch.cat([torch.full((3,), 5.0, dtype=tensor.dtype, device=tensor.device), tensor.flatten()])
    return flat[3:].view(tensor.shape)


def _conjugated(tensor: Tensor) -> Tensor:
    return tensor.conj().resolve_conj().conj()


_LAYOUTS = (
    Layout(
        "for a grad_output that is not contiguous (as a later transpose delivers it)",
        _transposed,
        lambda t: t.dim() >= 2 and not _transposed(t).is_contiguous(),
    ),
    Layout(
        "for a grad_output of every second element (as a later stack delivers it)",
        _stepped,
        lambda t: t.numel() > 1,
    ),
    Layout(
        "for an expanded grad_output (as a later .sum() delivers it)",
        _expanded,
        lambda t: t.numel() > 1,
        constant=True,
    ),
    Layout(
        "for a channels-last grad_output (as a channels-last convolution delivers it)",
        _channels_last,
        lambda t: t.dim() in (4, 5) and not _channels_last(t).is_contiguous(),
    ),
    Layout(
        "for a grad_output with a storage offset (as a later cat delivers it)",
        _shifted,
        lambda t: t.numel() > 0,
    ),
    Layout(
        "for a lazily conjugated grad_output (as a later .conj() delivers it)",
        _conjugated,
        lambda t: t.is_complex(),
    ),
)


def layouts(cotangents: Mapping[int, Tensor]) -> list[Layout]:
    """The layouts in which at least one of these can be."""
    return [layout for layout in _LAYOUTS if any(layout.fits(c) for c in cotangents.values())]


def drawn(like: Mapping[int, Tensor], seed: int) -> dict[int, Tensor]:
    """Random normal cotangents, contiguous, with the shapes, dtypes and devices of these."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for slot, tensor in like.items():
        wide = torch.complex128 if tensor.is_complex() else torch.float64
        values = torch.randn(tensor.shape, generator=generator, dtype=wide)
        found[slot] = values.to(dtype=tensor.dtype, device=tensor.device)
    return found


def constant(like: Mapping[int, Tensor], seed: int) -> dict[int, Tensor]:
    """Cotangents of one value each, as of a sum or mean, contiguous."""
    generator = torch.Generator().manual_seed(seed)
    return {
        slot: torch.full_like(
            tensor, 0.5 + float(torch.rand((), generator=generator)), memory_format=torch.contiguous_format
        )
        for slot, tensor in like.items()
    }

"""Random directions through all leaves at once, and leaves moved along them, in few passes over memory.

A large model is not evaluated slowly, it is *moved* slowly: fresh memory and full-size temporaries cost more than its
forward. So a direction is one byte per element, and everything is done in pieces that stay in the cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

__all__ = ["Direction", "aligned", "flat", "norm", "put", "signed_bytes"]

_PIECE = 1 << 17
_KEPT = 0xBFBFBFBFBFBFBFBF - (1 << 64)
_SECOND = 0x4040404040404040
_UNIT = 1.0 / 128.0
# Root mean square of the magnitudes 64..127 over 128.
_TYPICAL = math.sqrt(sum(k * k for k in range(64, 128)) / 64.0) * _UNIT


def signed_bytes(count: int, generator: torch.Generator) -> Tensor:
    """``int8[count]``: random signs, magnitudes 64 to 128, so that every element takes part in every direction."""
    words = torch.empty((count + 7) // 8, dtype=torch.int64).random_(-(2**63), None, generator=generator)
    for piece in torch.split(words, _PIECE // 8):
        # In two's complement the magnitude is at least 64 just when the second bit is not the first.
        second = piece.bitwise_not().bitwise_right_shift_(1).bitwise_and_(_SECOND)
        piece.bitwise_and_(_KEPT).bitwise_or_(second)
    return words.view(torch.int8)[:count]


def _dense(tensor: Tensor) -> bool:
    extent = 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride()))
    return tensor.numel() == extent and all(s > 0 for s in tensor.stride())


def flat(tensor: Tensor) -> Tensor:
    """The real numbers of a tensor in one row: a view in order of memory where it has no gaps, else a copy."""
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    if _dense(tensor):
        return tensor.as_strided((tensor.numel(),), (1,))
    return tensor.resolve_neg().reshape(-1)


def aligned(tensor: Tensor, like: Tensor) -> Tensor:
    """The same values, such that :func:`flat` gives them in the order in which it gives those of ``like``."""
    tensor = tensor.resolve_conj().resolve_neg()
    if tensor.stride() == like.stride() and tensor.shape == like.shape:
        return tensor
    if not _dense(like):
        return tensor.contiguous()
    return torch.empty_strided(like.shape, like.stride(), dtype=tensor.dtype, device=tensor.device).copy_(
        tensor
    )


def norm(tensor: Tensor) -> float:
    """Root of the sum of squares; not finite where an element is not."""
    values = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
    if values.dtype in (torch.float64, torch.float32):
        found = float(torch.linalg.vector_norm(values, dtype=torch.float64))
        if 1e-140 < found < math.inf:
            return found
    if not values.numel():
        return 0.0
    magnitudes = values.abs().to(torch.float64)
    largest = float(magnitudes.max())
    if largest == 0.0 or not math.isfinite(largest):
        return largest
    return largest * float((magnitudes / largest).norm())


class Direction:
    """A signed step for every element of some leaves.

    Args:
        leaves: the tensors to move, by name, in the layout in which they will be moved.
        sizes: length of a typical step of each.
        seed: of the draw.
        still: masks, in the shape of a leaf, of elements that are not to move.
        held: leaves that stay ``"hermitian"``, ``"lower"`` or ``"upper"`` (triangular) matrices.
    """

    def __init__(
        self,
        leaves: Mapping[str, Tensor],
        sizes: Mapping[str, float],
        seed: int,
        still: Mapping[str, Tensor] | None = None,
        held: Mapping[str, str] | None = None,
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        counts = {n: t.numel() * (2 if t.is_complex() else 1) for n, t in leaves.items()}
        drawn = signed_bytes(sum(counts.values()), generator)
        self.sizes = {name: float(sizes[name]) for name in leaves}
        self._signs: dict[str, Tensor] = {}
        start = 0
        for name, leaf in leaves.items():
            self._signs[name] = drawn[start : start + counts[name]].to(leaf.device)
            start += counts[name]
        for name, mask in (still or {}).items():
            if name in self._signs and not leaves[name].is_complex():
                self._signs[name][flat(aligned(mask.to(leaves[name].device), leaves[name]))] = 0
        for name, shape in (held or {}).items():
            if name in self._signs:
                _hold(self._signs[name], leaves[name], shape)

    def __contains__(self, name: str) -> bool:
        return name in self._signs

    def inner(self, gradients: Mapping[str, Tensor]) -> float:
        """Sum over the leaves of the real inner product with gradients in the order of :func:`flat`."""
        total = 0.0
        for name, signs in self._signs.items():
            part = 0.0
            for values, entries in _pieces(gradients[name], signs):
                part += float(torch.dot(values.to(torch.float64), entries.to(torch.float64)))
            total += part * _UNIT * self.sizes[name]
        return total

    def terms(self, norms: Mapping[str, float]) -> float:
        """What that inner product amounts to when nothing cancels, from the norms of the gradients."""
        return math.hypot(*(_TYPICAL * self.sizes[name] * norms[name] for name in self._signs))

    def move(self, name: str, base: Tensor, leaf: Tensor, step: float) -> None:
        """Write ``base + step * direction`` into a leaf's memory.

        Args:
            base: :func:`flat` values, possibly of a narrower dtype.
            leaf: written through ``.data``.
        """
        factor = step * _UNIT * self.sizes[name]
        target = flat(leaf.data)
        for values, entries, place in _pieces(base, self._signs[name], target):
            torch.add(values.to(target.dtype), entries.to(target.dtype), alpha=factor, out=place)
        _write_back(leaf, target)

    def moved(self, name: str, base: Tensor, step: float, dtype: torch.dtype) -> Tensor:
        """``base + step * direction`` as a new row of values of a real dtype."""
        factor = step * _UNIT * self.sizes[name]
        return torch.add(base.to(dtype), self._signs[name].to(dtype), alpha=factor)


def put(base: Tensor, leaf: Tensor) -> None:
    """Write the values of a row in the order of :func:`flat` into a leaf's memory."""
    target = flat(leaf.data)
    target.copy_(base)
    _write_back(leaf, target)


def _write_back(leaf: Tensor, values: Tensor) -> None:
    if values.untyped_storage().data_ptr() != leaf.untyped_storage().data_ptr():
        shaped = values.view(*leaf.shape, 2) if leaf.is_complex() else values.view(leaf.shape)
        leaf.data.copy_(torch.view_as_complex(shaped) if leaf.is_complex() else shaped)


def _hold(signs: Tensor, leaf: Tensor, shape: str) -> None:
    """Change a row of signed bytes, in the order of :func:`flat`, into those of matrices of that shape."""
    real = torch.view_as_real(leaf.data.resolve_conj()) if leaf.is_complex() else leaf.data
    dense = _dense(real)
    entries = signs.as_strided(real.shape, real.stride()) if dense else signs.view(real.shape)
    if leaf.is_complex():
        held = (_shaped(entries[..., 0], shape, 1), _shaped(entries[..., 1], shape, -1))
        entries.copy_(torch.stack(held, -1))
    else:
        entries.copy_(_shaped(entries, shape, 1))


def _shaped(entries: Tensor, shape: str, sign: int) -> Tensor:
    if shape == "upper":
        return entries.triu()
    if shape == "lower":
        return entries.tril()
    strict = entries.tril(-1)
    # The imaginary part of a Hermitian matrix is antisymmetric; -128 has no opposite in a byte.
    strict = strict.clamp(min=-127)
    mirrored = strict + sign * strict.mT
    return mirrored + torch.diag_embed(entries.diagonal(dim1=-2, dim2=-1)) if sign > 0 else mirrored


def _pieces(*rows: Tensor) -> Iterator[tuple[Tensor, ...]]:
    if rows[0].numel() <= _PIECE:
        yield rows
        return
    yield from zip(*(torch.split(row, _PIECE) for row in rows))

"""Data movement: views, copies, concatenation, padding, and dtype conversion.

Views are ordinary functions here; that they share memory is the replay's business.
"""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import math

import numpy as np

from ..engine import ops as e
from .registry import meaning
from .values import Array, axis_of, convert, raw, shape_of


def _filled(size, count):
    """Sizes with a -1 replaced by what is left."""
    size = [int(s) for s in size]
    if -1 in size:
        known = math.prod(s for s in size if s != -1)
        size[size.index(-1)] = count // known if known else 0
    return tuple(size)


def slices(ndim, axis, index):
    """The index that applies ``index`` to one axis and takes the others whole."""
    return (slice(None),) * axis + (index,)


@meaning("aten::detach", "aten::alias", "aten::lift_fresh", "aten::lift")
def identity(self):
    return self


@meaning("aten::clone")
def clone(self, *, memory_format=None):
    return self


@meaning("aten::_to_copy")
def to_copy(
    self, *, dtype=None, layout=None, device=None, pin_memory=None, non_blocking=False, memory_format=None
):
    return convert(self, dtype)


@meaning("aten::copy_", "aten::copy")
def copy(self, src, non_blocking=False):
    """The source, broadcast to the destination and in its kind of number."""
    src = convert(src, raw(self).dtype.name)
    return src if shape_of(src) == shape_of(self) else e.broadcast_to(src, shape=shape_of(self))


@meaning("aten::view", "aten::_unsafe_view")
def view(self, size):
    return e.reshape(self, shape=_filled(size, self.size))


@meaning("aten::_reshape_alias")
def reshape_alias(self, size, stride):
    return e.reshape(self, shape=_filled(size, self.size))


@meaning("aten::t")
def t(self):
    return e.transpose(self, axes=(1, 0)) if self.ndim == 2 else self


@meaning("aten::transpose.int")
def transpose(self, dim0, dim1):
    return (
        e.swapaxes(self, axis1=axis_of(dim0, self.ndim), axis2=axis_of(dim1, self.ndim))
        if self.ndim
        else self
    )


@meaning("aten::permute")
def permute(self, dims):
    return e.transpose(self, axes=tuple(axis_of(d, self.ndim) for d in dims))


@meaning("aten::expand")
def expand(self, size, *, implicit=False):
    shape = list(size)
    for back in range(1, self.ndim + 1):
        if shape[-back] == -1:
            shape[-back] = self.shape[-back]
    return e.broadcast_to(self, shape=tuple(shape))


@meaning("aten::unsqueeze")
def unsqueeze(self, dim):
    return e.expand_dims(self, axis=dim % (self.ndim + 1))


def _squeezed(self, dims):
    axes = tuple(axis for axis in dims if self.shape[axis] == 1)
    return e.squeeze(self, axis=axes) if axes else self


@meaning("aten::squeeze")
def squeeze(self):
    return _squeezed(self, range(self.ndim))


@meaning("aten::squeeze.dim")
def squeeze_dim(self, dim):
    return _squeezed(self, [axis_of(dim, self.ndim)] if self.ndim else [])


@meaning("aten::squeeze.dims")
def squeeze_dims(self, dim):
    return _squeezed(self, sorted({axis_of(d, self.ndim) for d in dim}) if self.ndim else [])


@meaning("aten::slice.Tensor")
def slice_tensor(self, dim=0, start=None, end=None, step=1):
    return e.getitem(self, index=slices(self.ndim, axis_of(dim, self.ndim), slice(start, end, step)))


@meaning("aten::narrow_copy")
def narrow(self, dim, start, length):
    axis = axis_of(dim, self.ndim)
    start = start + self.shape[axis] if start < 0 else start
    return e.getitem(self, index=slices(self.ndim, axis, slice(start, start + length)))


@meaning("aten::select.int")
def select(self, dim, index):
    return e.getitem(self, index=slices(self.ndim, axis_of(dim, self.ndim), int(index)))


def _pieces(self, sizes, dim):
    axis = axis_of(dim, self.ndim)
    ends = np.cumsum(sizes).tolist()
    return tuple(
        e.getitem(self, index=slices(self.ndim, axis, slice(end - size, end)))
        for size, end in zip(sizes, ends)
    )


def _equal_sizes(length, size):
    if length == 0 or size == 0:
        return [length]
    return [min(size, length - start) for start in range(0, length, size)]


@meaning("aten::split.Tensor", "aten::unsafe_split.Tensor")
def split(self, split_size, dim=0):
    return _pieces(self, _equal_sizes(self.shape[axis_of(dim, self.ndim)], split_size), dim)


@meaning("aten::split_with_sizes", "aten::unsafe_split_with_sizes")
def split_with_sizes(self, split_sizes, dim=0):
    return _pieces(self, [int(s) for s in split_sizes], dim)


@meaning("aten::unsafe_chunk")
def chunk(self, chunks, dim=0):
    length = self.shape[axis_of(dim, self.ndim)]
    return _pieces(self, _equal_sizes(length, -(-length // chunks)), dim)


@meaning("aten::unbind.int")
def unbind(self, dim=0):
    axis = axis_of(dim, self.ndim)
    return tuple(e.getitem(self, index=slices(self.ndim, axis, i)) for i in range(self.shape[axis]))


@meaning("aten::cat")
def cat(tensors, dim=0):
    # torch still skips tensors of shape (0,) among tensors of other dimensions.
    ndim = max(len(shape_of(x)) for x in tensors)
    kept = [x for x in tensors if shape_of(x) != (0,) or ndim == 1]
    return e.concatenate(kept, axis=axis_of(dim, ndim))


@meaning("aten::stack")
def stack(tensors, dim=0):
    return e.stack(tensors, axis=dim % (len(shape_of(tensors[0])) + 1))


@meaning("aten::repeat")
def repeat(self, repeats):
    return e.tile(self, tuple(int(r) for r in repeats)) if len(repeats) else self


@meaning("aten::flip")
def flip(self, dims):
    axes = tuple(axis_of(d, self.ndim) for d in dims) if self.ndim else ()
    return e.flip(self, axis=axes) if axes else self


@meaning("aten::roll")
def roll(self, shifts, dims=()):
    shifts = [shifts] if isinstance(shifts, int) else list(shifts)
    dims = [dims] if isinstance(dims, int) else list(dims)
    if not self.ndim or not self.size:
        return self
    if not dims:
        return e.roll(self, shift=shifts[0], axis=None)
    return e.roll(self, shift=tuple(shifts), axis=tuple(axis_of(d, self.ndim) for d in dims))


@meaning("aten::rot90")
def rot90(self, k=1, dims=(0, 1)):
    first, second = (axis_of(d, self.ndim) for d in dims)
    turns = k % 4
    if turns == 0:
        return self
    if turns == 2:
        return e.flip(self, axis=(first, second))
    if turns == 1:
        return e.flip(e.swapaxes(self, axis1=first, axis2=second), axis=(first,))
    return e.swapaxes(e.flip(self, axis=(first,)), axis1=first, axis2=second)


@meaning("aten::diagonal")
def diagonal(self, offset=0, dim1=0, dim2=1):
    return e.diagonal(self, offset=offset, axis1=axis_of(dim1, self.ndim), axis2=axis_of(dim2, self.ndim))


@meaning("aten::diag_embed")
def diag_embed(self, offset=0, dim1=-2, dim2=-1):
    return e.diag_embed(self, offset=offset, axis1=dim1 % (self.ndim + 1), axis2=dim2 % (self.ndim + 1))


@meaning("aten::tril")
def tril(self, diagonal=0):
    return e.tril(self, k=diagonal)


@meaning("aten::triu")
def triu(self, diagonal=0):
    return e.triu(self, k=diagonal)


@meaning("aten::unfold")
def unfold(self, dimension, size, step):
    def windows(x, axis):
        return e.unfold_windows(x, axis=axis, size=size, step=step)

    if not self.ndim:
        return e.reshape(self, shape=(size,))
    return windows(self, axis_of(dimension, self.ndim))


@meaning("aten::block_diag")
def block_diag(tensors):
    blocks = [e.reshape(x, shape=(1,) * (2 - len(shape_of(x))) + shape_of(x)) for x in tensors]
    width = sum(block.shape[1] for block in blocks)
    rows, left = [], 0
    for block in blocks:
        right = width - left - block.shape[1]
        rows.append(e.pad(block, widths=((0, 0), (left, right)), value=0.0))
        left += block.shape[1]
    return e.concatenate(rows, axis=0)


def _padding(ndim, pad):
    """Torch's flat padding, last dimension first, as one (before, after) pair per axis."""
    pairs = [(int(pad[2 * i]), int(pad[2 * i + 1])) for i in range(len(pad) // 2)][::-1]
    return [(0, 0)] * (ndim - len(pairs)) + pairs


@meaning("aten::constant_pad_nd")
def constant_pad(self, pad, value=0):
    """Padding with a constant; a negative width crops."""
    widths = _padding(self.ndim, pad)
    if any(min(w) < 0 for w in widths):
        crop = tuple(
            slice(max(0, -before), size - max(0, -after)) for (before, after), size in zip(widths, self.shape)
        )
        self = e.getitem(self, index=crop)
        widths = [(max(0, before), max(0, after)) for before, after in widths]
    return e.pad(self, widths=tuple(widths), value=value)


def padded_positions(shape, padding, mode):
    """Per padded axis, the source position of every padded element ("reflect" or "edge"), else None."""
    positions: list[Array | None] = []
    for size, (before, after) in zip(shape, _padding(len(shape), padding)):
        if not (before or after):
            positions.append(None)
            continue
        inside = np.arange(-before, size + after)
        if mode == "reflect":
            inside = np.abs(inside)
            inside = np.where(inside >= size, 2 * (size - 1) - inside, inside)
        positions.append(np.clip(inside, 0, size - 1))
    return positions


def _padded_by(self, padding, mode):
    for axis, positions in enumerate(padded_positions(self.shape, padding, mode)):
        if positions is not None:
            self = e.getitem(self, index=slices(self.ndim, axis, positions))
    return self


@meaning("aten::reflection_pad1d", "aten::reflection_pad2d", "aten::reflection_pad3d")
def reflection_pad(self, padding):
    return _padded_by(self, padding, "reflect")


@meaning("aten::replication_pad1d", "aten::replication_pad2d", "aten::replication_pad3d")
def replication_pad(self, padding):
    return _padded_by(self, padding, "edge")


@meaning("aten::pixel_shuffle")
def pixel_shuffle(self, upscale_factor):
    """(..., C r^2, H, W) to (..., C, H r, W r)."""
    r = upscale_factor
    *lead, channels, height, width = self.shape
    n = len(lead)
    split = e.reshape(self, shape=(*lead, channels // (r * r), r, r, height, width))
    moved = e.transpose(split, axes=(*range(n), n, n + 3, n + 1, n + 4, n + 2))
    return e.reshape(moved, shape=(*lead, channels // (r * r), height * r, width * r))


@meaning("aten::pixel_unshuffle")
def pixel_unshuffle(self, downscale_factor):
    """(..., C, H r, W r) to (..., C r^2, H, W)."""
    r = downscale_factor
    *lead, channels, height, width = self.shape
    n = len(lead)
    split = e.reshape(self, shape=(*lead, channels, height // r, r, width // r, r))
    moved = e.transpose(split, axes=(*range(n), n, n + 2, n + 4, n + 1, n + 3))
    return e.reshape(moved, shape=(*lead, channels * r * r, height // r, width // r))


@meaning("aten::channel_shuffle", "aten::native_channel_shuffle")
def channel_shuffle(self, groups):
    batch, channels, *spatial = self.shape
    split = e.reshape(self, shape=(batch, groups, channels // groups, *spatial))
    return e.reshape(e.swapaxes(split, axis1=1, axis2=2), shape=self.shape)

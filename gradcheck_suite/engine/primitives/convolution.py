"""Convolution in one, two and three spatial dimensions, with its two adjoints.

A convolution ``y = conv(x, w)`` is bilinear, so the trilinear form ``<g, conv(x, w)>`` holds all its
derivatives: solving it for ``x`` gives :func:`convolution_input_gradient`, for ``w``
:func:`convolution_weight_gradient`. The three primitives are each other's derivatives, whatever the order.

All three gather the windows of a few samples into a matrix that fits the cache ("im2col") and leave the
arithmetic to one batched BLAS product; groups are the batch of that product, so depthwise needs no loop.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import as_strided

from ..primitive import primitive
from ..registry import derived
from ..tensor import Tensor
from .complex_parts import conj

Array = npt.NDArray[Any]
PerAxis = int | Sequence[int]
Padding = int | Sequence[int] | Sequence[tuple[int, int]]

COLUMN_BYTES = 1 << 22
"""Size of the window matrix of one chunk: about what stays in the second-level cache."""


class Geometry(NamedTuple):
    """Sizes of one convolution: everything but the numbers."""

    batch: int
    channels: int
    spatial: tuple[int, ...]
    filters: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int
    out: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Rows of the window matrix of one group."""
        return self.channels // self.groups * math.prod(self.kernel)

    @property
    def pointwise(self) -> bool:
        """True where a window is one element and no padding is seen: the convolution is a matrix product."""
        return math.prod(self.kernel) == 1 and not any(lo or hi for lo, hi in self.padding)

    def group_parts(self, itemsize: int) -> list[tuple[Geometry, slice, slice]]:
        """The convolution as several of fewer groups, whose windows of one sample fit the cache; each with its
        channels and its filters."""
        per_group = self.rows * math.prod(self.out) * itemsize
        step = max(1, COLUMN_BYTES // max(per_group, 1))
        channels, filters = self.channels // self.groups, self.filters // self.groups
        parts = []
        for start in range(0, self.groups, step):
            groups = min(step, self.groups - start)
            of_x, of_y = (slice(start * n, (start + groups) * n) for n in (channels, filters))
            part = self._replace(channels=groups * channels, filters=groups * filters, groups=groups)
            parts.append((part, of_x, of_y))
        return parts

    def chunk(self, itemsize: int) -> int:
        """Number of samples per window matrix."""
        per_sample = self.rows * self.groups * math.prod(self.out) * itemsize
        return max(1, min(self.batch, COLUMN_BYTES // max(per_sample, 1)))


def per_axis(value: PerAxis, dimensions: int, name: str) -> tuple[int, ...]:
    """The value once per spatial axis; an int or a single entry stands for all."""
    values = (value,) if isinstance(value, (int, np.integer)) else tuple(value)
    if len(values) == 1:
        values *= dimensions
    if len(values) != dimensions:
        raise ValueError(
            f"reading {name}={value!r} failed: it has {len(values)} entries for {dimensions} spatial axes. "
            f"Give one int or {dimensions} of them."
        )
    return tuple(int(v) for v in values)


def padding_pairs(padding: Padding, dimensions: int) -> tuple[tuple[int, int], ...]:
    """The padding as (before, after) per spatial axis; a plain int pads both sides."""
    values: tuple[Any, ...] = (padding,) if isinstance(padding, (int, np.integer)) else tuple(padding)
    if len(values) == 1:
        values *= dimensions
    if len(values) != dimensions:
        raise ValueError(
            f"reading padding={padding!r} failed: it has {len(values)} entries for {dimensions} spatial axes. "
            f"Give one int, {dimensions} ints or {dimensions} (before, after) pairs."
        )
    return tuple(
        (int(v), int(v)) if isinstance(v, (int, np.integer)) else (int(v[0]), int(v[1])) for v in values
    )


def _geometry(
    batch: int,
    channels: int,
    spatial: tuple[int, ...],
    weight_shape: tuple[int, ...],
    stride: PerAxis,
    padding: Padding,
    dilation: PerAxis,
    groups: int,
) -> Geometry:
    dimensions = len(spatial)
    if len(weight_shape) != dimensions + 2:
        raise ValueError(
            f"convolution failed: the weight {weight_shape} has {len(weight_shape) - 2} spatial axes, the input "
            f"{(batch, channels, *spatial)} has {dimensions}. Both must be (batch or filters, channels, *spatial)."
        )
    filters, kernel = weight_shape[0], weight_shape[2:]
    if groups < 1 or channels != weight_shape[1] * groups or filters % groups:
        raise ValueError(
            f"convolution failed: input channels {channels}, weight {weight_shape}, groups {groups}. The weight must "
            f"be (filters, channels / groups, *kernel) and groups must divide both. Check the weight's shape."
        )
    strides = per_axis(stride, dimensions, "stride")
    dilations = per_axis(dilation, dimensions, "dilation")
    pads = padding_pairs(padding, dimensions)
    out = tuple(
        (size + lo + hi - d * (k - 1) - 1) // s + 1
        for size, (lo, hi), d, k, s in zip(spatial, pads, dilations, kernel, strides)
    )
    if any(o < 0 for o in out):
        raise ValueError(
            f"convolution failed: the kernel {kernel} with dilation {dilations} is larger than the padded input "
            f"{spatial} with padding {pads}. Pad more or shrink the kernel."
        )
    return Geometry(batch, channels, spatial, filters, kernel, strides, pads, dilations, groups, out)


def _at(spatial: Iterable[Any]) -> tuple[Any, ...]:
    """An index of the last axes."""
    return (Ellipsis, *spatial)


def _padded(x: Array, geo: Geometry) -> Array:
    if not any(lo or hi for lo, hi in geo.padding):
        return x
    spatial = tuple(lo + size + hi for size, (lo, hi) in zip(geo.spatial, geo.padding))
    if any(lo < 0 or hi < 0 for lo, hi in geo.padding):  # a negative padding crops
        x = x[_at(slice(max(-lo, 0), n - max(-hi, 0)) for n, (lo, hi) in zip(geo.spatial, geo.padding))]
    padded = np.zeros((*x.shape[:2], *spatial), dtype=x.dtype)
    inner = tuple(slice(max(lo, 0), max(lo, 0) + size) for (lo, _), size in zip(geo.padding, x.shape[2:]))
    padded[_at(inner)] = x
    return padded


class _Columns:
    """Window matrices (groups, rows, samples * positions) of a padded input, a chunk of samples at a time."""

    def __init__(self, padded: Array, geo: Geometry) -> None:
        self.padded, self.geo = padded, geo
        self.size = geo.chunk(padded.itemsize)
        positions = math.prod(geo.out)
        # The innermost axis of the copy should be the longer one: long kernels (patch embeddings) go first.
        self.kernel_last = geo.groups == 1 and geo.kernel[-1] >= geo.out[-1]
        shape = (
            (self.size * positions, geo.rows)
            if self.kernel_last
            else (geo.groups * geo.rows * self.size * positions,)
        )
        self.buffer = np.empty(shape, dtype=padded.dtype)

    def __call__(self, start: int, stop: int) -> Array:
        geo, strides = self.geo, self.padded.strides
        kernel_strides = tuple(s * d for s, d in zip(strides[2:], geo.dilation))
        out_strides = tuple(s * step for s, step in zip(strides[2:], geo.stride))
        part = self.padded[start:stop]
        count = stop - start
        positions = math.prod(geo.out)
        if self.kernel_last:
            shape = (count, *geo.out, geo.channels, *geo.kernel)
            windows = as_strided(part, shape, (strides[0], *out_strides, strides[1], *kernel_strides))
            columns = self.buffer[: count * positions]
            np.copyto(columns.reshape(shape), windows)
            return np.asarray(columns.T[np.newaxis])
        shape = (geo.channels, *geo.kernel, count, *geo.out)
        windows = as_strided(part, shape, (strides[1], *kernel_strides, strides[0], *out_strides))
        columns = self.buffer[: geo.groups * geo.rows * count * positions]
        np.copyto(columns.reshape(shape), windows)
        return np.asarray(columns.reshape(geo.groups, geo.rows, count * positions))


def _fold(y: Array, groups: int) -> Array:
    """(samples, channels, *spatial) as (groups, channels / groups, samples * positions)."""
    return np.moveaxis(y, 0, 1).reshape(groups, y.shape[1] // groups, -1)


def _unfold_into(out: Array, folded: Array) -> None:
    """The inverse of :func:`_fold`, written into ``out``."""
    channels_first = np.moveaxis(out, 0, 1)
    channels_first[...] = folded.reshape(channels_first.shape)


def _crop(x: Array, geo: Geometry) -> Array:
    """The elements that a kernel of size one with this stride looks at."""
    return np.asarray(x[_at(slice(None, (o - 1) * s + 1, s) for o, s in zip(geo.out, geo.stride))])


def _forward(x: Array, w: Array, geo: Geometry) -> Array:
    dtype = np.result_type(x, w)
    x, w = x.astype(dtype, copy=False), w.astype(dtype, copy=False)
    shape = (geo.batch, geo.filters, *geo.out)
    if math.prod(shape) == 0 or geo.rows == 0:
        return np.zeros(shape, dtype=dtype)
    matrix = w.reshape(geo.groups, geo.filters // geo.groups, geo.rows)
    if geo.pointwise:
        pixels = _crop(x, geo).reshape(geo.batch, geo.groups, geo.rows, -1)
        return np.asarray(np.matmul(matrix, pixels).reshape(shape))
    out = np.empty(shape, dtype=dtype)
    for part, of_x, of_y in geo.group_parts(dtype.itemsize):
        _forward_into(out[:, of_y], x[:, of_x], w[of_y], part)
    return out


def _forward_into(out: Array, x: Array, w: Array, geo: Geometry) -> None:
    matrix = w.reshape(geo.groups, geo.filters // geo.groups, geo.rows)
    columns = _Columns(_padded(x, geo), geo)
    for start in range(0, geo.batch, columns.size):
        stop = min(start + columns.size, geo.batch)
        if stop - start == 1:  # the product is the answer: no transposition
            np.matmul(
                matrix,
                columns(start, stop),
                out=out[start].reshape(geo.groups, geo.filters // geo.groups, -1),
            )
        else:
            _unfold_into(out[start:stop], np.matmul(matrix, columns(start, stop)))


def _weight_gradient(x: Array, g: Array, geo: Geometry) -> Array:
    dtype = np.result_type(x, g)
    x, g = x.astype(dtype, copy=False), g.astype(dtype, copy=False)
    shape = (geo.filters, geo.channels // geo.groups, *geo.kernel)
    if g.size == 0 or geo.rows == 0:
        return np.zeros(shape, dtype=dtype)
    if geo.pointwise:
        pixels = _fold(_crop(x, geo), geo.groups)
        return np.asarray(np.matmul(_fold(g, geo.groups), pixels.swapaxes(1, 2)).reshape(shape))
    total = np.empty(shape, dtype=dtype)
    for part, of_x, of_y in geo.group_parts(dtype.itemsize):
        sums = total[of_y].reshape(part.groups, -1, part.rows)
        columns = _Columns(_padded(x[:, of_x], part), part)
        for start in range(0, geo.batch, columns.size):
            stop = min(start + columns.size, geo.batch)
            of_g, windows = _fold(g[start:stop, of_y], part.groups), columns(start, stop).swapaxes(1, 2)
            if start == 0:
                np.matmul(of_g, windows, out=sums)
            else:
                sums += np.matmul(of_g, windows)
    return total


def _input_gradient(g: Array, w: Array, geo: Geometry) -> Array:
    dtype = np.result_type(g, w)
    g, w = g.astype(dtype, copy=False), w.astype(dtype, copy=False)
    shape = (geo.batch, geo.channels, *geo.spatial)
    if g.size == 0 or geo.rows == 0 or math.prod(shape) == 0:
        return np.zeros(shape, dtype=dtype)
    if geo.pointwise:
        matrix = w.reshape(geo.groups, geo.filters // geo.groups, geo.rows).swapaxes(1, 2)
        pixels = np.matmul(matrix, g.reshape(geo.batch, geo.groups, geo.filters // geo.groups, -1))
        pixels = pixels.reshape(geo.batch, geo.channels, *geo.out)
        if geo.out == geo.spatial:
            return np.asarray(pixels)
        gradient = np.zeros(shape, dtype=dtype)
        _crop(gradient, geo)[...] = pixels
        return gradient
    # To mirror a weight is to copy it: a deep layer's is larger than all the windows it is applied to.
    few_windows = geo.filters > geo.batch * math.prod(geo.out)
    if all(s == 1 for s in geo.stride) and not few_windows:
        return _forward(g, _mirrored(w, geo.groups), _mirrored_geometry(geo))
    return _scatter_columns(g, w, geo)


def _mirrored(w: Array, groups: int) -> Array:
    """The weight of the adjoint of a convolution with stride one: reversed kernel, channels for filters."""
    grouped = w.reshape(groups, w.shape[0] // groups, *w.shape[1:])
    reversed_kernel = np.flip(grouped, axis=tuple(range(3, grouped.ndim))).swapaxes(1, 2)
    return np.ascontiguousarray(reversed_kernel).reshape(-1, w.shape[0] // groups, *w.shape[2:])


def _mirrored_geometry(geo: Geometry) -> Geometry:
    padding = tuple(
        (d * (k - 1) - lo, size - o + lo)
        for lo, d, k, size, o in zip(
            (lo for lo, _ in geo.padding), geo.dilation, geo.kernel, geo.spatial, geo.out
        )
    )
    return geo._replace(
        channels=geo.filters, filters=geo.channels, spatial=geo.out, out=geo.spatial, padding=padding
    )


def _scatter_columns(g: Array, w: Array, geo: Geometry) -> Array:
    """The adjoint of gathering windows: every window adds to the elements it was read from."""
    extents = tuple(
        max(lo + size + hi, (o - 1) * s + d * (k - 1) + 1)
        for size, (lo, hi), o, s, d, k in zip(
            geo.spatial, geo.padding, geo.out, geo.stride, geo.dilation, geo.kernel
        )
    )
    padded = np.zeros((geo.batch, geo.channels, *extents), dtype=g.dtype)
    matrix = w.reshape(geo.groups, geo.filters // geo.groups, geo.rows).swapaxes(1, 2)
    size = geo.chunk(g.itemsize)
    for start in range(0, geo.batch, size):
        stop = min(start + size, geo.batch)
        columns = np.matmul(matrix, _fold(g[start:stop], geo.groups))
        windows = columns.reshape(geo.channels, *geo.kernel, stop - start, *geo.out)
        windows = np.moveaxis(windows, len(geo.kernel) + 1, 0)
        target = padded[start:stop]
        for offset in itertools.product(*(range(k) for k in geo.kernel)):
            tap = (slice(None), slice(None), *offset)
            target[
                _at(
                    slice(i * d, i * d + (o - 1) * s + 1, s)
                    for i, d, o, s in zip(offset, geo.dilation, geo.out, geo.stride)
                )
            ] += windows[tap]
    if any(lo < 0 or hi < 0 for lo, hi in geo.padding):
        gradient = np.zeros((geo.batch, geo.channels, *geo.spatial), dtype=g.dtype)
        kept = tuple(slice(max(-lo, 0), n - max(-hi, 0)) for n, (lo, hi) in zip(geo.spatial, geo.padding))
        inner = tuple(
            slice(max(lo, 0), max(lo, 0) + len(range(*k.indices(n))))
            for (lo, _), k, n in zip(geo.padding, kept, geo.spatial)
        )
        gradient[_at(kept)] = padded[_at(inner)]
        return gradient
    return np.asarray(padded[_at(slice(lo, lo + n) for n, (lo, _) in zip(geo.spatial, geo.padding))])


# --------------------------------------------------------------------------------------------- primitives


def _samples(draw: Any) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    return [
        ((draw.real(2, 3, 7), draw.real(4, 3, 3)), {}),
        ((draw.real(2, 4, 6, 5), draw.real(6, 2, 3, 2)), {"stride": (2, 1), "padding": (1, 0), "groups": 2}),
        ((draw.real(1, 3, 7, 8), draw.real(3, 1, 3, 3)), {"padding": 2, "dilation": (2, 1), "groups": 3}),
        ((draw.real(2, 2, 5, 6), draw.real(3, 2, 1, 1)), {"stride": (2, 1)}),
        ((draw.real(2, 2, 6, 7), draw.real(3, 2, 3, 3)), {"stride": 2, "padding": ((0, 1), (2, 1))}),
        ((draw.real(1, 2, 4, 4), draw.real(2, 2, 4, 4)), {"stride": 4}),
        ((draw.real(1, 2, 4, 3, 4), draw.real(2, 2, 2, 3, 2)), {"padding": (1, 1, 0), "stride": (2, 1, 1)}),
        ((draw.complex(1, 2, 4, 4), draw.complex(2, 2, 2, 3)), {"padding": 1}),
        ((draw.real(0, 2, 5, 5), draw.real(3, 2, 3, 3)), {}),
    ]  # fmt: skip


def _input_gradient_samples(draw: Any) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    return [
        ((draw.real(2, 4, 5), draw.real(4, 3, 3)), {"input_shape": (7,)}),
        ((draw.real(2, 6, 3, 4), draw.real(6, 2, 3, 2)),
         {"input_shape": (6, 5), "stride": (2, 1), "padding": (1, 0), "groups": 2}),
        ((draw.real(2, 3, 2, 3), draw.real(3, 2, 1, 1)), {"input_shape": (4, 6), "stride": 2}),
        ((draw.complex(1, 2, 3, 2), draw.complex(2, 2, 3, 3)), {"input_shape": (3, 2), "padding": 1}),
        ((draw.real(0, 2, 3, 3), draw.real(2, 2, 3, 3)), {"input_shape": (5, 5)}),
    ]  # fmt: skip


def _weight_gradient_samples(draw: Any) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    return [
        ((draw.real(2, 3, 7), draw.real(2, 4, 5)), {"kernel_shape": (3,)}),
        ((draw.real(2, 4, 6, 5), draw.real(2, 6, 3, 4)),
         {"kernel_shape": (3, 2), "stride": (2, 1), "padding": (1, 0), "groups": 2}),
        ((draw.real(2, 2, 4, 6), draw.real(2, 3, 2, 3)), {"kernel_shape": (1, 1), "stride": 2}),
        ((draw.complex(1, 2, 3, 2), draw.complex(1, 2, 3, 2)), {"kernel_shape": (3, 3), "padding": 1}),
        ((draw.real(0, 2, 5, 5), draw.real(0, 3, 3, 3)), {"kernel_shape": (3, 3)}),
    ]  # fmt: skip


@primitive(samples=_samples)
def convolution(
    x: Array, w: Array, *, stride: PerAxis = 1, padding: Padding = 0, dilation: PerAxis = 1, groups: int = 1
) -> Array:
    """Cross-correlation of ``x`` with the filters ``w``, as deep learning calls convolution.

    ``x`` is (batch, channels, *spatial), ``w`` (filters, channels / groups, *kernel); the result is
    (batch, filters, *out). ``padding`` is zeros on both sides, or a (before, after) pair per axis; negative
    padding crops. Real or complex. Raises ValueError where the shapes do not fit. From the definition.
    """
    geo = _geometry(x.shape[0], x.shape[1], x.shape[2:], w.shape, stride, padding, dilation, groups)
    return _forward(x, w, geo)


@primitive(samples=_input_gradient_samples)
def convolution_input_gradient(
    g: Array,
    w: Array,
    *,
    input_shape: Sequence[int],
    stride: PerAxis = 1,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    groups: int = 1,
) -> Array:
    """The adjoint of :func:`convolution` in its input: ``g`` (batch, filters, *out) gives (batch, channels,
    *input_shape). No conjugation: linear in both arguments. Raises ValueError where the shapes do not fit.
    """
    channels = w.shape[1] * groups
    geo = _geometry(g.shape[0], channels, tuple(input_shape), w.shape, stride, padding, dilation, groups)
    _same_output(g, geo, "input")
    return _input_gradient(g, w, geo)


@primitive(samples=_weight_gradient_samples)
def convolution_weight_gradient(
    x: Array,
    g: Array,
    *,
    kernel_shape: Sequence[int],
    stride: PerAxis = 1,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    groups: int = 1,
) -> Array:
    """The adjoint of :func:`convolution` in its weight: (filters, channels / groups, *kernel_shape).

    No conjugation: linear in both arguments. Raises ValueError where the shapes do not fit.
    """
    weight_shape = (g.shape[1], x.shape[1] // groups, *kernel_shape)
    geo = _geometry(x.shape[0], x.shape[1], x.shape[2:], weight_shape, stride, padding, dilation, groups)
    _same_output(g, geo, "weight")
    return _weight_gradient(x, g, geo)


def _same_output(g: Array, geo: Geometry, what: str) -> None:
    if g.shape != (geo.batch, geo.filters, *geo.out):
        raise ValueError(
            f"{what} gradient of a convolution failed: the cotangent is {g.shape}, the convolution's output is "
            f"{(geo.batch, geo.filters, *geo.out)}. Check stride, padding and dilation."
        )


convolution.vjp(
    x=lambda g, out, x, w, **geometry: convolution_input_gradient(
        g, conj(w), input_shape=x.shape[2:], **geometry
    ),
    w=lambda g, out, x, w, **geometry: convolution_weight_gradient(
        conj(x), g, kernel_shape=w.shape[2:], **geometry
    ),
)
convolution.jvp(x="linear", w="linear")

convolution_input_gradient.vjp(
    g=lambda h, out, g, w, *, input_shape, **geometry: convolution(h, conj(w), **geometry),
    w=lambda h, out, g, w, *, input_shape, **geometry: convolution_weight_gradient(
        h, conj(g), kernel_shape=w.shape[2:], **geometry
    ),
)
convolution_input_gradient.jvp(g="linear", w="linear")

convolution_weight_gradient.vjp(
    x=lambda h, out, x, g, *, kernel_shape, **geometry: convolution_input_gradient(
        conj(g), h, input_shape=x.shape[2:], **geometry
    ),
    g=lambda h, out, x, g, *, kernel_shape, **geometry: convolution(conj(x), h, **geometry),
)
convolution_weight_gradient.jvp(x="linear", g="linear")


@derived
def convolution_transpose(
    x: Tensor,
    w: Tensor,
    *,
    stride: PerAxis = 1,
    padding: PerAxis = 0,
    output_padding: PerAxis = 0,
    dilation: PerAxis = 1,
    groups: int = 1,
) -> Any:
    """Transposed convolution: the adjoint of the convolution with the same weight.

    ``x`` is (batch, channels, *spatial), ``w`` (channels, filters / groups, *kernel); an output axis has
    ``(size - 1) * stride - 2 * padding + dilation * (kernel - 1) + output_padding + 1`` elements.
    """
    n = len(x.shape) - 2
    paddings = per_axis(padding, n, "padding")
    extras = per_axis(output_padding, n, "output_padding")
    sizes = tuple(
        (size - 1) * s - 2 * p + d * (k - 1) + extra + 1
        for size, s, p, d, k, extra in zip(
            x.shape[2:],
            per_axis(stride, n, "stride"),
            paddings,
            per_axis(dilation, n, "dilation"),
            w.shape[2:],
            extras,
        )
    )
    # The forward convolution must not see the extra elements, however many they are: crop them at the end.
    pairs = tuple((p, p - extra) for p, extra in zip(paddings, extras))
    return convolution_input_gradient(
        x, w, input_shape=sizes, stride=stride, padding=pairs, dilation=dilation, groups=groups
    )

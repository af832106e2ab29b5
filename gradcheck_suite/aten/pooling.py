"""Pooling, unpooling, and windows as columns.

Which element of a window was the largest is torch's recorded index: at a tie both are right, and the gradient
goes where torch's went.
"""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import math

import numpy as np

from ..engine import ops as e
from .indexing import refuse_repeated
from .registry import RECORDED, meaning
from .values import constant


def _batched(x, spatial, f):
    """``f`` of (batch, channels, *spatial); an input without the batch axis is given one for the while."""
    if x.ndim == spatial + 2:
        return f(x)
    return e.squeeze(f(e.expand_dims(x, axis=0)), axis=0)


def at_positions(x, index, spatial):
    """The element of each plane at the recorded flat positions: (..., *spatial) to (..., *out)."""
    if x.ndim == spatial + 2:
        return e.max_pool_at(x, index)
    return e.squeeze(e.max_pool_at(e.expand_dims(x, axis=0), index[None]), axis=0)


@meaning("aten::max_pool2d_with_indices", uses_outputs=True)
def max_pool2d(self, kernel_size, stride=(), padding=0, dilation=1, ceil_mode=False, *, recorded):
    return at_positions(self, recorded[1], 2), RECORDED


@meaning("aten::max_pool3d_with_indices", uses_outputs=True)
def max_pool3d(self, kernel_size, stride=(), padding=0, dilation=1, ceil_mode=False, *, recorded):
    return at_positions(self, recorded[1], 3), RECORDED


@meaning("aten::adaptive_max_pool2d", uses_outputs=True)
def adaptive_max_pool2d(self, output_size, *, recorded):
    return at_positions(self, recorded[1], 2), RECORDED


@meaning("aten::adaptive_max_pool3d", uses_outputs=True)
def adaptive_max_pool3d(self, output_size, *, recorded):
    return at_positions(self, recorded[1], 3), RECORDED


@meaning("aten::fractional_max_pool2d", uses_outputs=True)
def fractional_max_pool2d(self, kernel_size, output_size, random_samples, *, recorded):
    return at_positions(self, recorded[1], 2), RECORDED


@meaning("aten::fractional_max_pool3d", uses_outputs=True)
def fractional_max_pool3d(self, kernel_size, output_size, random_samples, *, recorded):
    return at_positions(self, recorded[1], 3), RECORDED


def _average(self, spatial, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override):
    return _batched(
        self,
        spatial,
        lambda x: e.avg_pool(
            x,
            kernel=tuple(kernel_size),
            stride=tuple(stride) or None,
            padding=padding if isinstance(padding, int) else tuple(padding),
            ceil_mode=ceil_mode,
            count_include_pad=count_include_pad,
            divisor_override=divisor_override,
        ),
    )


@meaning("aten::avg_pool2d")
def avg_pool2d(
    self, kernel_size, stride=(), padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None
):
    return _average(self, 2, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


@meaning("aten::avg_pool3d")
def avg_pool3d(
    self, kernel_size, stride=(), padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None
):
    return _average(self, 3, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


@meaning("aten::_adaptive_avg_pool2d")
def adaptive_avg_pool2d(self, output_size):
    return _batched(self, 2, lambda x: e.adaptive_avg_pool(x, output_size=tuple(output_size)))


@meaning("aten::_adaptive_avg_pool3d")
def adaptive_avg_pool3d(self, output_size):
    return _batched(self, 3, lambda x: e.adaptive_avg_pool(x, output_size=tuple(output_size)))


def _unpooled(self, indices, spatial):
    """Zero planes of size ``spatial`` with the values written at flat positions of their plane."""
    lead = self.shape[: self.ndim - len(spatial)]
    planes, size = math.prod(lead), math.prod(spatial)
    flat = (np.arange(planes)[:, None] * size + indices.reshape(planes, -1)).ravel()
    if self.requires_grad:
        refuse_repeated(flat)
    out = e.setitem(constant(np.zeros(planes * size)), e.reshape(self, shape=(-1,)), index=flat)
    return e.reshape(out, shape=(*lead, *spatial))


@meaning("aten::max_unpool2d")
def max_unpool2d(self, indices, output_size):
    return _unpooled(self, indices, tuple(output_size))


@meaning("aten::max_unpool3d")
def max_unpool3d(self, indices, output_size, stride, padding):
    return _unpooled(self, indices, tuple(output_size))


@meaning("aten::im2col")
def im2col(self, kernel_size, dilation, padding, stride):
    def columns(x):
        return e.im2col(
            x,
            kernel=tuple(kernel_size),
            stride=tuple(stride),
            padding=tuple(padding),
            dilation=tuple(dilation),
        )

    return _batched(self, 2, columns)


@meaning("aten::col2im")
def col2im(self, output_size, kernel_size, dilation, padding, stride):
    def image(x):
        return e.col2im(
            x,
            output_size=tuple(output_size),
            kernel=tuple(kernel_size),
            stride=tuple(stride),
            padding=tuple(padding),
            dilation=tuple(dilation),
        )

    return _batched(self, 1, image)

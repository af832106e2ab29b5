"""Resampling on regular grids and sampling at given points."""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import numpy as np

from ..engine import ops as e
from .registry import meaning
from .values import constant, raw


def _resized(self, size, scales, mode, align_corners=False, antialias=False, precision=np.float32):
    """torch places nearest neighbours in float32 for inputs up to float32; it shows at exact boundaries only."""
    return e.interpolate(
        self,
        size=tuple(int(n) for n in size),
        mode=mode,
        align_corners=align_corners,
        scales=scales,
        antialias=antialias,
        precision=precision,
    )


@meaning("aten::upsample_nearest1d")
def upsample_nearest1d(self, output_size, scales=None):
    return _resized(self, output_size, (scales,), "nearest")


@meaning("aten::upsample_nearest2d")
def upsample_nearest2d(self, output_size, scales_h=None, scales_w=None):
    return _resized(self, output_size, (scales_h, scales_w), "nearest")


@meaning("aten::upsample_nearest3d")
def upsample_nearest3d(self, output_size, scales_d=None, scales_h=None, scales_w=None):
    return _resized(self, output_size, (scales_d, scales_h, scales_w), "nearest")


@meaning("aten::_upsample_nearest_exact1d")
def upsample_nearest_exact1d(self, output_size, scales=None):
    return _resized(self, output_size, (scales,), "nearest-exact")


@meaning("aten::_upsample_nearest_exact2d")
def upsample_nearest_exact2d(self, output_size, scales_h=None, scales_w=None):
    return _resized(self, output_size, (scales_h, scales_w), "nearest-exact")


@meaning("aten::_upsample_nearest_exact3d")
def upsample_nearest_exact3d(self, output_size, scales_d=None, scales_h=None, scales_w=None):
    return _resized(self, output_size, (scales_d, scales_h, scales_w), "nearest-exact")


@meaning("aten::upsample_linear1d")
def upsample_linear1d(self, output_size, align_corners, scales=None):
    return _resized(self, output_size, (scales,), "linear", align_corners, precision=np.float64)


@meaning("aten::upsample_bilinear2d")
def upsample_bilinear2d(self, output_size, align_corners, scales_h=None, scales_w=None):
    return _resized(self, output_size, (scales_h, scales_w), "linear", align_corners, precision=np.float64)


@meaning("aten::upsample_trilinear3d")
def upsample_trilinear3d(self, output_size, align_corners, scales_d=None, scales_h=None, scales_w=None):
    scales = (scales_d, scales_h, scales_w)
    return _resized(self, output_size, scales, "linear", align_corners, precision=np.float64)


@meaning("aten::upsample_bicubic2d")
def upsample_bicubic2d(self, output_size, align_corners, scales_h=None, scales_w=None):
    return _resized(self, output_size, (scales_h, scales_w), "cubic", align_corners, precision=np.float64)


@meaning("aten::_upsample_bilinear2d_aa")
def upsample_bilinear2d_aa(self, output_size, align_corners, scales_h=None, scales_w=None):
    scales = (scales_h, scales_w)
    return _resized(self, output_size, scales, "linear", align_corners, True, np.float64)


@meaning("aten::_upsample_bicubic2d_aa")
def upsample_bicubic2d_aa(self, output_size, align_corners, scales_h=None, scales_w=None):
    scales = (scales_h, scales_w)
    return _resized(self, output_size, scales, "cubic", align_corners, True, np.float64)


_MODES = ("bilinear", "nearest", "bicubic")
_PADDINGS = ("zeros", "border", "reflection")


@meaning("aten::grid_sampler_2d", "aten::grid_sampler_3d", "aten::_grid_sampler_2d_cpu_fallback")
def grid_sampler(input, grid, interpolation_mode, padding_mode, align_corners):
    return e.grid_sample(
        input,
        grid,
        mode=_MODES[interpolation_mode],
        padding_mode=_PADDINGS[padding_mode],
        align_corners=align_corners,
    )


def _coordinates(size, align_corners):
    """Homogeneous coordinates of the points of a regular grid, last axis first: (points, dimensions + 1)."""
    lines = []
    for n in size[2:]:
        line = np.linspace(-1.0, 1.0, n) if n > 1 else np.zeros(n)
        lines.append(line if align_corners else line * ((n - 1) / n))
    points = np.stack([*np.meshgrid(*lines, indexing="ij")[::-1], np.ones(tuple(size[2:]))], axis=-1)
    return points.reshape(-1, len(lines) + 1)


@meaning("aten::affine_grid_generator")
def affine_grid_generator(theta, size, align_corners):
    """The points of a regular grid, each multiplied by the (dimensions, dimensions + 1) matrix of its sample."""
    points = constant(_coordinates(size, align_corners))
    grid = e.matmul(points, e.swapaxes(theta, axis1=-1, axis2=-2))
    return e.reshape(grid, shape=(size[0], *size[2:], len(size) - 2))


@meaning("aten::affine_grid_generator_backward")
def affine_grid_generator_backward(grad, size, align_corners):
    points = constant(_coordinates(size, align_corners))
    flat = e.reshape(grad, shape=(size[0], -1, len(size) - 2))
    return e.matmul(e.swapaxes(flat, axis1=-1, axis2=-2), points)


@meaning("torchvision::roi_align")
def roi_align(input, rois, spatial_scale, pooled_height, pooled_width, sampling_ratio, aligned):
    """Mean of bilinear samples in each bin of each region (He et al., Mask R-CNN, 2017, section 3).

    Regions are (sample, x1, y1, x2, y2); a sample more than one element outside the image counts as zero.
    """
    boxes = raw(rois)
    offset = 0.5 if aligned else 0.0
    left, top, right, bottom = (boxes[:, i] * spatial_scale - offset for i in range(1, 5))
    width, height = right - left, bottom - top
    if not aligned:
        width, height = np.maximum(width, 1.0), np.maximum(height, 1.0)
    pieces = []
    for box in range(boxes.shape[0]):
        rows = _bin_matrix(top[box], height[box], pooled_height, sampling_ratio, input.shape[2])
        columns = _bin_matrix(left[box], width[box], pooled_width, sampling_ratio, input.shape[3])
        image = e.getitem(input, index=(int(boxes[box, 0]),))
        pieces.append(e.matmul(e.matmul(constant(rows), image), constant(columns.T)))
    if not pieces:
        return constant(np.zeros((0, input.shape[1], pooled_height, pooled_width)))
    return e.stack(pieces, axis=0)


def _bin_matrix(start, length, bins, sampling_ratio, size):
    """The (bins, size) matrix that averages the bilinear samples of each bin along one axis."""
    count = sampling_ratio if sampling_ratio > 0 else max(int(np.ceil(length / bins)), 1)
    samples = start + (np.arange(bins)[:, None] + (np.arange(count) + 0.5) / count) * (length / bins)
    counted = (samples >= -1.0) & (samples <= size)
    position = np.clip(samples, 0.0, size - 1.0)
    weights = np.maximum(1.0 - np.abs(position[..., None] - np.arange(size)), 0.0)
    return (weights * counted[..., None]).mean(axis=1)

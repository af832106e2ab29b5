"""Convolutions of every spatial dimension, transposed or not, with the device-specific names of the same thing."""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

from ..engine import ops as e
from .registry import meaning
from .values import broadcast_dims, shape_of


def convolve(input, weight, bias, stride, padding, dilation, transposed, output_padding, groups):
    """Convolution as torch's arguments describe it; an input without a batch axis is given one for the while."""
    spatial = len(weight.shape) - 2
    batched = len(input.shape) == spatial + 2
    x = input if batched else e.expand_dims(input, axis=0)
    geometry = {
        "stride": tuple(stride),
        "padding": tuple(padding),
        "dilation": tuple(dilation),
        "groups": groups,
    }
    if transposed:
        out = e.convolution_transpose(x, weight, output_padding=tuple(output_padding), **geometry)
    else:
        out = e.convolution(x, weight, **geometry)
    if bias is not None:
        out = e.add(out, broadcast_dims(bias, spatial + 2, 1))
    return out if batched else e.squeeze(out, axis=0)


@meaning("aten::convolution")
def convolution(input, weight, bias, stride, padding, dilation, transposed, output_padding, groups):
    return convolve(input, weight, bias, stride, padding, dilation, transposed, output_padding, groups)


@meaning("aten::_convolution")
def convolution_with_flags(
    input,
    weight,
    bias,
    stride,
    padding,
    dilation,
    transposed,
    output_padding,
    groups,
    benchmark,
    deterministic,
    cudnn_enabled,
    allow_tf32,
):
    return convolve(input, weight, bias, stride, padding, dilation, transposed, output_padding, groups)


@meaning("aten::mkldnn_convolution")
def mkldnn_convolution(self, weight, bias, padding, stride, dilation, groups):
    return convolve(self, weight, bias, stride, padding, dilation, False, (), groups)


@meaning("aten::cudnn_convolution")
def cudnn_convolution(self, weight, padding, stride, dilation, groups, benchmark, deterministic, allow_tf32):
    return convolve(self, weight, None, stride, padding, dilation, False, (), groups)


@meaning("aten::cudnn_convolution_transpose")
def cudnn_convolution_transpose(
    self, weight, padding, output_padding, stride, dilation, groups, benchmark, deterministic, allow_tf32
):
    return convolve(self, weight, None, stride, padding, dilation, True, output_padding, groups)


@meaning("aten::_slow_conv2d_forward", "aten::slow_conv3d_forward")
def slow_convolution(self, weight, kernel_size, bias, stride, padding):
    return convolve(self, weight, bias, stride, padding, (1,) * len(kernel_size), False, (), 1)


@meaning("aten::slow_conv_dilated2d", "aten::slow_conv_dilated3d")
def slow_dilated_convolution(self, weight, kernel_size, bias=None, stride=1, padding=0, dilation=1):
    return convolve(self, weight, bias, stride, padding, dilation, False, (), 1)


@meaning("aten::_conv_depthwise2d", "aten::conv_depthwise3d")
def depthwise_convolution(self, weight, kernel_size, bias, stride, padding, dilation):
    return convolve(self, weight, bias, stride, padding, dilation, False, (), shape_of(weight)[0])

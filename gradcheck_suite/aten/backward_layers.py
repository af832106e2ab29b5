"""The ``*_backward`` operations of layers: linear, convolution, normalisation, pooling, attention, resampling."""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import numpy as np

from ..engine import ops as e
from . import attention, interpolation, normalization, pooling, recurrent
from .adjoint import adjoint, pulled_each
from .convolution import convolve
from .registry import RECORDED, meaning
from .values import constant, raw, shape_of


@meaning("aten::convolution_backward")
def convolution_backward(
    grad_output,
    input,
    weight,
    bias_sizes,
    stride,
    padding,
    dilation,
    transposed,
    output_padding,
    groups,
    output_mask,
):
    filters = shape_of(weight)[1] * groups if transposed else shape_of(weight)[0]
    bias = constant(np.zeros(filters, dtype=raw(grad_output).dtype)) if output_mask[2] else None

    def forward(x, w, b):
        return convolve(x, w, b, stride, padding, dilation, transposed, output_padding, groups)

    return pulled_each(forward, [grad_output], [input, weight, bias], output_mask)


@meaning("aten::native_batch_norm_backward")
def native_batch_norm_backward(
    grad_out,
    input,
    weight,
    running_mean,
    running_var,
    save_mean,
    save_invstd,
    train,
    eps,
    output_mask,
):
    """The saved statistics are functions of the input and computed from it anew."""
    shift = constant(np.zeros(shape_of(input)[1]))

    def forward(x, w, b):
        return normalization.batch_normalised(x, w, b, running_mean, running_var, train, eps)[0]

    scale = weight if weight is not None else constant(np.ones(shape_of(input)[1]))
    return pulled_each(forward, [grad_out], [input, scale, shift], output_mask)


@meaning("aten::cudnn_batch_norm_backward")
def cudnn_batch_norm_backward(
    input, grad_output, weight, running_mean, running_var, save_mean, save_var, epsilon, reserveSpace
):
    mask = (True, True, True)
    return native_batch_norm_backward(grad_output, input, weight, None, None, None, None, True, epsilon, mask)


@meaning("aten::native_layer_norm_backward")
def native_layer_norm_backward(grad_out, input, normalized_shape, mean, rstd, weight, bias, output_mask):
    """The saved statistics are functions of the input; eps, which is not passed, follows from them."""

    def forward(x, w, b):
        return normalization.layer_normalised(x, normalized_shape, w, b, eps)[0]

    axes = tuple(range(-len(normalized_shape), 0))
    eps = _eps(raw(input).var(axis=axes, keepdims=True), raw(rstd))
    return pulled_each(forward, [grad_out], [input, weight, bias], output_mask)


def _eps(variance, rstd):
    """What was added to the variance before ``rstd = (variance + eps) ** -0.5``: typically 1e-5.

    Where the variance is smallest the difference is least spoilt by rounding.
    """
    if not variance.size:
        return 0.0
    least = int(np.argmin(variance))
    return float(rstd.ravel()[least]) ** -2 - float(variance.ravel()[least])


@meaning("aten::native_group_norm_backward")
def native_group_norm_backward(grad_out, input, mean, rstd, weight, N, C, HxW, group, output_mask):
    grouped = raw(input).reshape(N, group, C // group * HxW)
    eps = _eps(grouped.var(axis=2), raw(rstd))
    scale = weight if weight is not None else constant(np.ones(C))

    def forward(x, w, b):
        return e.group_norm(x, group, w, b, eps=eps)

    return pulled_each(forward, [grad_out], [input, scale, constant(np.zeros(C))], output_mask)


@meaning("aten::_weight_norm_interface_backward")
def weight_norm_backward(grad_w, saved_v, saved_g, saved_norms, dim):
    return pulled_each(
        lambda v, g: normalization.weight_norm(v, g, dim)[0], [grad_w], [saved_v, saved_g], (True, True)
    )


# Pooling -------------------------------------------------------------------------------------------------------


@meaning("aten::max_pool2d_with_indices_backward")
def max_pool2d_backward(grad_output, self, kernel_size, stride, padding, dilation, ceil_mode, indices):
    return adjoint(lambda x: pooling.at_positions(x, indices, 2), shape_of(self), grad_output)


@meaning("aten::max_pool3d_with_indices_backward")
def max_pool3d_backward(grad_output, self, kernel_size, stride, padding, dilation, ceil_mode, indices):
    return adjoint(lambda x: pooling.at_positions(x, indices, 3), shape_of(self), grad_output)


@meaning("aten::adaptive_max_pool2d_backward")
def adaptive_max_pool2d_backward(grad_output, self, indices):
    return adjoint(lambda x: pooling.at_positions(x, indices, 2), shape_of(self), grad_output)


@meaning("aten::adaptive_max_pool3d_backward")
def adaptive_max_pool3d_backward(grad_output, self, indices):
    return adjoint(lambda x: pooling.at_positions(x, indices, 3), shape_of(self), grad_output)


@meaning("aten::fractional_max_pool2d_backward")
def fractional_max_pool2d_backward(grad_output, self, kernel_size, output_size, indices):
    return adjoint(lambda x: pooling.at_positions(x, indices, 2), shape_of(self), grad_output)


@meaning("aten::fractional_max_pool3d_backward")
def fractional_max_pool3d_backward(grad_output, self, kernel_size, output_size, indices):
    return adjoint(lambda x: pooling.at_positions(x, indices, 3), shape_of(self), grad_output)


@meaning("aten::avg_pool2d_backward")
def avg_pool2d_backward(
    grad_output, self, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
):
    def forward(x):
        return pooling.avg_pool2d(
            x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
        )

    return adjoint(forward, shape_of(self), grad_output)


@meaning("aten::avg_pool3d_backward")
def avg_pool3d_backward(
    grad_output, self, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
):
    def forward(x):
        return pooling.avg_pool3d(
            x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
        )

    return adjoint(forward, shape_of(self), grad_output)


@meaning("aten::_adaptive_avg_pool2d_backward")
def adaptive_avg_pool2d_backward(grad_output, self):
    size = shape_of(grad_output)[-2:]
    return adjoint(lambda x: pooling.adaptive_avg_pool2d(x, size), shape_of(self), grad_output)


@meaning("aten::_adaptive_avg_pool3d_backward")
def adaptive_avg_pool3d_backward(grad_output, self):
    size = shape_of(grad_output)[-3:]
    return adjoint(lambda x: pooling.adaptive_avg_pool3d(x, size), shape_of(self), grad_output)


# Attention -----------------------------------------------------------------------------------------------------


def _attention_backward(grad, query, key, value, mask, dropout_p, causal, scale, wanted=(True, True, True)):
    def forward(q, k, v):
        return attention.attend(q, k, v, mask, dropout_p, causal, scale)

    return pulled_each(forward, [grad], [query, key, value], wanted)


@meaning("aten::_scaled_dot_product_flash_attention_for_cpu_backward")
def flash_attention_for_cpu_backward(
    grad_out, query, key, value, out, logsumexp, dropout_p, is_causal, *, attn_mask=None, scale=None
):
    return _attention_backward(grad_out, query, key, value, attn_mask, dropout_p, is_causal, scale)


@meaning("aten::_scaled_dot_product_flash_attention_backward")
def flash_attention_backward(
    grad_out,
    query,
    key,
    value,
    out,
    logsumexp,
    cum_seq_q,
    cum_seq_k,
    max_q,
    max_k,
    dropout_p,
    is_causal,
    philox_seed,
    philox_offset,
    *,
    scale=None,
):
    return _attention_backward(grad_out, query, key, value, None, dropout_p, is_causal, scale)


@meaning("aten::_scaled_dot_product_efficient_attention_backward")
def efficient_attention_backward(
    grad_out_,
    query,
    key,
    value,
    attn_bias,
    out,
    logsumexp,
    philox_seed,
    philox_offset,
    dropout_p,
    grad_input_mask,
    is_causal=False,
    *,
    scale=None,
):
    def forward(q, k, v, bias):
        return attention.attend(q, k, v, bias, dropout_p, is_causal, scale)

    return pulled_each(forward, [grad_out_], [query, key, value, attn_bias], grad_input_mask)


# Resampling ----------------------------------------------------------------------------------------------------


@meaning("aten::upsample_nearest2d_backward")
def upsample_nearest2d_backward(grad_output, output_size, input_size, scales_h=None, scales_w=None):
    return adjoint(
        lambda x: interpolation.upsample_nearest2d(x, output_size, scales_h, scales_w),
        input_size,
        grad_output,
    )


@meaning("aten::upsample_nearest1d_backward")
def upsample_nearest1d_backward(grad_output, output_size, input_size, scales=None):
    return adjoint(
        lambda x: interpolation.upsample_nearest1d(x, output_size, scales), input_size, grad_output
    )


@meaning("aten::upsample_bilinear2d_backward")
def upsample_bilinear2d_backward(
    grad_output, output_size, input_size, align_corners, scales_h=None, scales_w=None
):
    return adjoint(
        lambda x: interpolation.upsample_bilinear2d(x, output_size, align_corners, scales_h, scales_w),
        input_size,
        grad_output,
    )


@meaning("aten::upsample_bicubic2d_backward")
def upsample_bicubic2d_backward(
    grad_output, output_size, input_size, align_corners, scales_h=None, scales_w=None
):
    return adjoint(
        lambda x: interpolation.upsample_bicubic2d(x, output_size, align_corners, scales_h, scales_w),
        input_size,
        grad_output,
    )


@meaning("aten::upsample_linear1d_backward")
def upsample_linear1d_backward(grad_output, output_size, input_size, align_corners, scales=None):
    return adjoint(
        lambda x: interpolation.upsample_linear1d(x, output_size, align_corners, scales),
        input_size,
        grad_output,
    )


@meaning("aten::upsample_nearest3d_backward")
def upsample_nearest3d_backward(
    grad_output, output_size, input_size, scales_d=None, scales_h=None, scales_w=None
):
    return adjoint(
        lambda x: interpolation.upsample_nearest3d(x, output_size, scales_d, scales_h, scales_w),
        input_size,
        grad_output,
    )


@meaning("aten::upsample_trilinear3d_backward")
def upsample_trilinear3d_backward(
    grad_output, output_size, input_size, align_corners, scales_d=None, scales_h=None, scales_w=None
):
    scales = (scales_d, scales_h, scales_w)
    return adjoint(
        lambda x: interpolation.upsample_trilinear3d(x, output_size, align_corners, *scales),
        input_size,
        grad_output,
    )


@meaning("aten::_upsample_nearest_exact1d_backward")
def upsample_nearest_exact1d_backward(grad_output, output_size, input_size, scales=None):
    return adjoint(
        lambda x: interpolation.upsample_nearest_exact1d(x, output_size, scales), input_size, grad_output
    )


@meaning("aten::_upsample_nearest_exact2d_backward")
def upsample_nearest_exact2d_backward(grad_output, output_size, input_size, scales_h=None, scales_w=None):
    return adjoint(
        lambda x: interpolation.upsample_nearest_exact2d(x, output_size, scales_h, scales_w),
        input_size,
        grad_output,
    )


@meaning("aten::_upsample_nearest_exact3d_backward")
def upsample_nearest_exact3d_backward(
    grad_output, output_size, input_size, scales_d=None, scales_h=None, scales_w=None
):
    return adjoint(
        lambda x: interpolation.upsample_nearest_exact3d(x, output_size, scales_d, scales_h, scales_w),
        input_size,
        grad_output,
    )


@meaning("aten::_upsample_bilinear2d_aa_backward")
def upsample_bilinear2d_aa_backward(
    grad_output, output_size, input_size, align_corners, scales_h=None, scales_w=None
):
    return adjoint(
        lambda x: interpolation.upsample_bilinear2d_aa(x, output_size, align_corners, scales_h, scales_w),
        input_size,
        grad_output,
    )


@meaning("aten::_upsample_bicubic2d_aa_backward")
def upsample_bicubic2d_aa_backward(
    grad_output, output_size, input_size, align_corners, scales_h=None, scales_w=None
):
    return adjoint(
        lambda x: interpolation.upsample_bicubic2d_aa(x, output_size, align_corners, scales_h, scales_w),
        input_size,
        grad_output,
    )


@meaning("aten::grid_sampler_2d_backward", "aten::grid_sampler_3d_backward")
def grid_sampler_backward(
    grad_output, input, grid, interpolation_mode, padding_mode, align_corners, output_mask
):
    def forward(x, points):
        return interpolation.grid_sampler(x, points, interpolation_mode, padding_mode, align_corners)

    return pulled_each(forward, [grad_output], [input, grid], output_mask)


# Recurrent layers ----------------------------------------------------------------------------------------------


@meaning("aten::mkldnn_rnn_layer_backward")
def mkldnn_rnn_layer_backward(
    input,
    weight1,
    weight2,
    weight3,
    weight4,
    hx_,
    cx_tmp,
    output,
    hy_,
    cy_,
    grad_output,
    grad_hy,
    grad_cy,
    reverse,
    mode,
    hidden_size,
    num_layers,
    has_biases,
    train,
    bidirectional,
    batch_sizes,
    batch_first,
    workspace,
):
    def forward(x, w_ih, w_hh, b_ih, b_hh, h, c):
        flags = (has_biases, bidirectional, batch_first, train)
        return recurrent.mkldnn_rnn_layer(
            x, w_ih, w_hh, b_ih, b_hh, h, c, reverse, batch_sizes, mode, hidden_size, num_layers, *flags
        )[:3]

    given = [
        constant(np.zeros(shape_of(value)))
        if cotangent is None
        else e.reshape(cotangent, shape=shape_of(value))
        for cotangent, value in ((grad_output, output), (grad_hy, hx_), (grad_cy, cx_tmp))
    ]
    primals = [input, weight1, weight2, weight3, weight4, hx_, cx_tmp]
    x, w_ih, w_hh, b_ih, b_hh, h, c = pulled_each(forward, given, primals, (True,) * 7)
    if not has_biases:  # placeholders stand where the biases would
        b_ih = b_hh = RECORDED
    return x, w_ih, w_hh, b_ih, b_hh, h, c

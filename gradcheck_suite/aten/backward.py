"""The ``*_backward`` operations of elementwise functions, losses and data movement."""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import numpy as np

from ..engine import ops as e
from . import activation, elementwise, grouping, indexing, loss, reduction, shape
from .adjoint import adjoint, pulled
from .registry import meaning
from .values import along, constant, raw, shape_of

# Elementwise ---------------------------------------------------------------------------------------------------


@meaning("aten::threshold_backward")
def threshold_backward(grad_output, self, threshold):
    return e.where(raw(self) > threshold, grad_output, 0.0)


@meaning("aten::tanh_backward")
def tanh_backward(grad_output, output):
    return grad_output * e.conj(1.0 - e.square(output))


@meaning("aten::sigmoid_backward")
def sigmoid_backward(grad_output, output):
    return grad_output * e.conj(output * (1.0 - output))


@meaning("aten::silu_backward")
def silu_backward(grad_output, self):
    return pulled(activation.silu, grad_output, self)


@meaning("aten::gelu_backward")
def gelu_backward(grad_output, self, *, approximate="none"):
    return pulled(lambda x: activation.gelu(x, approximate=approximate), grad_output, self)


@meaning("aten::mish_backward")
def mish_backward(grad_output, self):
    return pulled(activation.mish, grad_output, self)


@meaning("aten::elu_backward")
def elu_backward(grad_output, alpha, scale, input_scale, is_result, self_or_result):
    """From the input, or from the result ``y``: there the derivative is ``input_scale (y + alpha scale)``."""
    if not is_result:
        return pulled(lambda x: activation.elu(x, alpha, scale, input_scale), grad_output, self_or_result)
    slope = e.where(raw(self_or_result) > 0, float(scale), (self_or_result + alpha * scale) * input_scale)
    return grad_output * slope


@meaning("aten::leaky_relu_backward")
def leaky_relu_backward(grad_output, self, negative_slope, self_is_result):
    return e.where(raw(self) > 0, grad_output, grad_output * negative_slope)


@meaning("aten::_prelu_kernel_backward")
def prelu_backward(grad_output, self, weight):
    positive = raw(self) > 0
    return e.where(positive, grad_output, weight * grad_output), e.where(positive, 0.0, self * grad_output)


@meaning("aten::rrelu_with_noise_backward")
def rrelu_backward(grad_output, self, noise, lower, upper, training, self_is_result):
    if training and upper - lower > 1e-6:
        return grad_output * noise
    return leaky_relu_backward(grad_output, self, (lower + upper) / 2, self_is_result)


@meaning("aten::hardtanh_backward")
def hardtanh_backward(grad_output, self, min_val, max_val):
    data = raw(self)
    return e.where((data > min_val) & (data < max_val), grad_output, 0.0)


@meaning("aten::hardsigmoid_backward")
def hardsigmoid_backward(grad_output, self):
    return pulled(activation.hardsigmoid, grad_output, self)


@meaning("aten::hardswish_backward")
def hardswish_backward(grad_output, self):
    return pulled(activation.hardswish, grad_output, self)


@meaning("aten::hardshrink_backward")
def hardshrink_backward(grad_out, self, lambd):
    return e.where(np.abs(raw(self)) > lambd, grad_out, 0.0)


@meaning("aten::softshrink_backward")
def softshrink_backward(grad_output, self, lambd):
    return e.where(np.abs(raw(self)) > lambd, grad_output, 0.0)


@meaning("aten::softplus_backward")
def softplus_backward(grad_output, self, beta, threshold):
    return pulled(lambda x: activation.softplus(x, beta, threshold), grad_output, self)


@meaning("aten::log_sigmoid_backward")
def log_sigmoid_backward(grad_output, self, buffer):
    return pulled(e.log_sigmoid, grad_output, self)


@meaning("aten::logit_backward")
def logit_backward(grad_output, self, eps=None):
    return pulled(lambda x: elementwise.logit(x, eps), grad_output, self)


@meaning("aten::glu_backward")
def glu_backward(grad_output, self, dim):
    return pulled(lambda x: activation.glu(x, dim), grad_output, self)


@meaning("aten::_softmax_backward_data")
def softmax_backward(grad_output, output, dim, input_dtype):
    def backward(y, axis):
        g = e.reshape(grad_output, shape=shape_of(y))
        return y * (g - e.sum(y * g, axis=axis, keepdims=True))

    return along(output, dim, backward)


@meaning("aten::_log_softmax_backward_data")
def log_softmax_backward(grad_output, output, dim, input_dtype):
    def backward(y, axis):
        g = e.reshape(grad_output, shape=shape_of(y))
        return g - e.exp(y) * e.sum(g, axis=axis, keepdims=True)

    return along(output, dim, backward)


# Losses --------------------------------------------------------------------------------------------------------


@meaning("aten::mse_loss_backward")
def mse_loss_backward(grad_output, self, target, reduction):
    return pulled(lambda x: loss.mse_loss(x, target, reduction), _as(grad_output, self, reduction), self)


def _as(cotangent, self, reduction):
    """Torch may pass a reduced loss's cotangent already expanded: every element of it is the same number."""
    if reduction == 0 or not shape_of(cotangent):
        return cotangent
    return e.reshape(e.getitem(e.reshape(cotangent, shape=(-1,)), index=slice(0, 1)), shape=())


@meaning("aten::smooth_l1_loss_backward")
def smooth_l1_loss_backward(grad_output, self, target, reduction, beta):
    return pulled(
        lambda x: loss.smooth_l1_loss(x, target, reduction, beta), _as(grad_output, self, reduction), self
    )


@meaning("aten::huber_loss_backward")
def huber_loss_backward(grad_output, self, target, reduction, delta):
    return pulled(
        lambda x: loss.huber_loss(x, target, reduction, delta), _as(grad_output, self, reduction), self
    )


@meaning("aten::binary_cross_entropy_backward")
def binary_cross_entropy_backward(grad_output, self, target, weight=None, reduction=1):
    return pulled(
        lambda x: loss.binary_cross_entropy(x, target, weight, reduction),
        _as(grad_output, self, reduction),
        self,
    )


@meaning("aten::soft_margin_loss_backward")
def soft_margin_loss_backward(grad_output, self, target, reduction):
    return pulled(
        lambda x: loss.soft_margin_loss(x, target, reduction), _as(grad_output, self, reduction), self
    )


@meaning("aten::multi_margin_loss_backward")
def multi_margin_loss_backward(grad_output, self, target, p, margin, weight=None, reduction=1):
    return pulled(
        lambda x: loss.multi_margin_loss(x, target, p, margin, weight, reduction),
        _as(grad_output, self, reduction),
        self,
    )


@meaning("aten::multilabel_margin_loss_backward")
def multilabel_margin_loss_backward(grad_output, self, target, reduction, is_target):
    return pulled(
        lambda x: loss.multilabel_margin_loss(x, target, reduction)[0],
        _as(grad_output, self, reduction),
        self,
    )


@meaning("aten::nll_loss_backward", "aten::nll_loss2d_backward")
def nll_loss_backward(grad_output, self, target, weight, reduction, ignore_index, total_weight):
    return pulled(
        lambda x: loss.nll(x, target, weight, reduction, ignore_index)[0],
        _as(grad_output, self, reduction),
        self,
    )


# Data movement -------------------------------------------------------------------------------------------------


@meaning("aten::select_backward")
def select_backward(grad_output, input_sizes, dim, index):
    return adjoint(lambda x: shape.select(x, dim, index), input_sizes, grad_output)


@meaning("aten::slice_backward")
def slice_backward(grad_output, input_sizes, dim, start, end, step):
    return adjoint(lambda x: shape.slice_tensor(x, dim, start, end, step), input_sizes, grad_output)


@meaning("aten::diagonal_backward")
def diagonal_backward(grad_output, input_sizes, offset, dim1, dim2):
    return adjoint(lambda x: shape.diagonal(x, offset, dim1, dim2), input_sizes, grad_output)


@meaning("aten::unfold_backward")
def unfold_backward(grad_in, input_sizes, dim, size, step):
    return adjoint(lambda x: shape.unfold(x, dim, size, step), input_sizes, grad_in)


@meaning(
    "aten::reflection_pad1d_backward", "aten::reflection_pad2d_backward", "aten::reflection_pad3d_backward"
)
def reflection_pad_backward(grad_output, self, padding):
    return adjoint(lambda x: shape.reflection_pad(x, padding), shape_of(self), grad_output)


@meaning(
    "aten::replication_pad1d_backward", "aten::replication_pad2d_backward", "aten::replication_pad3d_backward"
)
def replication_pad_backward(grad_output, self, padding):
    return adjoint(lambda x: shape.replication_pad(x, padding), shape_of(self), grad_output)


@meaning("aten::embedding_dense_backward")
def embedding_dense_backward(grad_output, indices, num_weights, padding_idx, scale_grad_by_freq):
    width = shape_of(grad_output)[-1]
    return adjoint(
        lambda weight: indexing.embedding(weight, indices, padding_idx, scale_grad_by_freq),
        (num_weights, width),
        grad_output,
    )


@meaning("aten::masked_scatter_backward")
def masked_scatter_backward(grad_output, mask, sizes):
    zeros = constant(np.zeros(shape_of(grad_output), dtype=raw(grad_output).dtype))
    return adjoint(lambda source: indexing.masked_scatter(zeros, mask, source), sizes, grad_output)


@meaning("aten::_cdist_backward")
def cdist_backward(grad_output, x1, x2, p, cdist):
    """Of ``x1`` as it is after broadcasting its batch axes; the distance is an argument of its own."""
    if not raw(grad_output).size:
        return constant(np.zeros(shape_of(x1)))
    difference = e.subtract(e.expand_dims(x1, axis=-2), e.expand_dims(x2, axis=-3))
    slope = reduction.distance_slope(difference, e.expand_dims(cdist, axis=-1), p)
    return e.sum(slope * e.expand_dims(grad_output, axis=-1), axis=-2)


@meaning("aten::_pdist_backward")
def pdist_backward(grad_output, self, p, pdist):
    """The distance is an argument of its own."""
    first, second = np.triu_indices(shape_of(self)[0], 1)
    difference = e.subtract(e.getitem(self, index=first), e.getitem(self, index=second))
    slope = reduction.distance_slope(difference, e.expand_dims(pdist, axis=-1), p)
    pull = slope * e.expand_dims(grad_output, axis=-1)
    zeros = constant(np.zeros(shape_of(self)))
    return e.index_add(e.index_add(zeros, pull, index=first, axis=0), -pull, index=second, axis=0)


@meaning("aten::_segment_reduce_backward")
def segment_reduce_backward(grad, output, data, reduce, *, lengths=None, offsets=None, axis=0, initial=None):
    return pulled(
        lambda x: grouping.segment_reduce(
            x, reduce, lengths=lengths, offsets=offsets, axis=axis, initial=initial
        ),
        grad,
        data,
    )

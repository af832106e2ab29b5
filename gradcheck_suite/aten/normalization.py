"""Batch, layer, group and root-mean-square normalisation, and weight normalisation.

The statistics that torch returns beside the result are those the engine computed; running statistics are buffers
that no gradient passes through, and their update is taken as recorded.
"""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import numpy as np

from ..engine import ops as e
from .registry import RECORDED, meaning
from .values import axis_of


def batch_normalised(x, weight, bias, running_mean, running_var, training, eps):
    """Output, mean and reciprocal deviation; with running statistics the last two are torch's own buffers."""
    if training or running_mean is None or running_var is None:
        return e.batch_norm_with_statistics(x, weight, bias, training=True, eps=eps)
    out = e.batch_norm(x, weight, bias, running_mean, running_var, training=False, eps=eps)
    return out, RECORDED, RECORDED


@meaning("aten::native_batch_norm", "aten::_native_batch_norm_legit")
def native_batch_norm(input, weight, bias, running_mean, running_var, training, momentum, eps):
    return batch_normalised(input, weight, bias, running_mean, running_var, training, eps)


@meaning("aten::_native_batch_norm_legit.no_stats")
def batch_norm_without_statistics(input, weight, bias, training, momentum, eps):
    return batch_normalised(input, weight, bias, None, None, training, eps)


@meaning("aten::_native_batch_norm_legit_no_training")
def batch_norm_inference(input, weight, bias, running_mean, running_var, momentum, eps):
    return batch_normalised(input, weight, bias, running_mean, running_var, False, eps)


@meaning("aten::_native_batch_norm_legit_functional")
def batch_norm_functional(input, weight, bias, running_mean, running_var, training, momentum, eps):
    return (
        *batch_normalised(input, weight, bias, running_mean, running_var, training, eps),
        RECORDED,
        RECORDED,
    )


@meaning("aten::_batch_norm_with_update")
def batch_norm_with_update(input, weight, bias, running_mean, running_var, momentum, eps):
    return (batch_normalised(input, weight, bias, None, None, True, eps)[0], RECORDED, RECORDED, RECORDED)


@meaning("aten::_batch_norm_with_update_functional")
def batch_norm_with_update_functional(input, weight, bias, running_mean, running_var, momentum, eps):
    out = batch_normalised(input, weight, bias, None, None, True, eps)[0]
    return (out, RECORDED, RECORDED, RECORDED, RECORDED, RECORDED)


@meaning("aten::_batch_norm_no_update")
def batch_norm_no_update(input, weight, bias, running_mean, running_var, momentum, eps):
    out = batch_normalised(input, weight, bias, running_mean, running_var, False, eps)[0]
    return (out, RECORDED, RECORDED, RECORDED)


@meaning("aten::cudnn_batch_norm")
def cudnn_batch_norm(
    input, weight, bias, running_mean, running_var, training, exponential_average_factor, epsilon
):
    out = batch_normalised(input, weight, bias, running_mean, running_var, training, epsilon)[0]
    return (out, RECORDED, RECORDED, RECORDED)


def layer_normalised(input, normalized_shape, weight, bias, eps):
    axes = tuple(range(-len(normalized_shape), 0))
    return e.layer_norm_with_statistics(input, weight, bias, axes=axes, eps=eps)


@meaning("aten::native_layer_norm")
def native_layer_norm(input, normalized_shape, weight, bias, eps):
    return layer_normalised(input, normalized_shape, weight, bias, eps)


@meaning("aten::native_group_norm")
def native_group_norm(input, weight, bias, N, C, HxW, group, eps):
    return e.group_norm_with_statistics(input, group, weight, bias, eps=eps)


@meaning("aten::_fused_rms_norm", uses_outputs=True)
def fused_rms_norm(input, normalized_shape, weight, eps, *, recorded):
    """Without an eps it is the machine epsilon of the precision torch computes in, which its statistics have."""
    axes = tuple(range(-len(normalized_shape), 0))
    eps = float(np.finfo(recorded[1].dtype).eps) if eps is None else eps
    normal, rstd = e.scale_to_unit(input, axes=axes, eps=eps)
    return (normal if weight is None else e.multiply(normal, weight)), rstd


@meaning("aten::_weight_norm_interface")
def weight_norm(v, g, dim=0):
    """``g v / |v|``, the norm over all dimensions but ``dim`` (Salimans and Kingma, 2016, equation 2)."""
    kept = axis_of(dim, v.ndim)
    norm = e.norm(v, ord=2.0, axis=tuple(i for i in range(v.ndim) if i != kept), keepdims=True)
    return e.multiply(v, e.divide(g, norm)), norm

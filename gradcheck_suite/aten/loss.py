"""Loss functions. ``reduction`` is 0 none, 1 mean, 2 sum."""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import numpy as np

from ..engine import ops as e
from .registry import RECORDED, meaning
from .values import constant, raw, reduced


def nll(self, target, weight, reduction, ignore_index):
    """Negative log-likelihood of (batch, classes, *positions), and the total weight of what is not ignored."""
    classes_axis = 0 if self.ndim == 1 else 1
    used = target != ignore_index
    chosen = np.where(used, target, 0)
    picked = e.squeeze(
        e.take_along_axis(self, index=np.expand_dims(chosen, classes_axis), axis=classes_axis),
        axis=classes_axis,
    )
    weights = used.astype(raw(self).dtype) if weight is None else e.getitem(weight, index=chosen) * used
    loss = e.negative(picked * weights)
    total = constant(np.sum(raw(weights)))
    if reduction == 0:
        return loss, RECORDED
    if reduction == 1 and not used.any():
        # The mean of nothing is NaN whatever the input is, so it does not depend on it: its slope is zero.
        return e.sum(e.where(used, loss, 0.0)) + np.nan, total
    summed = e.sum(loss)
    return (summed / total if reduction == 1 else summed), total


@meaning("aten::nll_loss_forward", "aten::nll_loss2d_forward")
def nll_loss_forward(self, target, weight, reduction, ignore_index):
    return nll(self, target, weight, reduction, ignore_index)


@meaning("aten::mse_loss")
def mse_loss(self, target, reduction=1):
    return reduced(e.square(e.subtract(self, target)), reduction)


@meaning("aten::smooth_l1_loss")
def smooth_l1_loss(self, target, reduction=1, beta=1.0):
    difference = e.subtract(self, target)
    size = e.absolute(difference)
    if beta == 0:
        return reduced(size, reduction)
    near = raw(size) < beta
    return reduced(e.where(near, e.square(difference) * (0.5 / beta), size - 0.5 * beta), reduction)


@meaning("aten::huber_loss")
def huber_loss(self, target, reduction=1, delta=1.0):
    difference = e.subtract(self, target)
    size = e.absolute(difference)
    near = raw(size) <= delta
    return reduced(e.where(near, e.square(difference) * 0.5, (size - 0.5 * delta) * delta), reduction)


# Below this product x (1 - x) torch replaces the denominator of the slope, "so that the backward stays linear".
_SATURATED = 1e-12


@meaning("aten::binary_cross_entropy")
def binary_cross_entropy(self, target, weight=None, reduction=1):
    """``-(t log x + (1 - t) log(1 - x))`` with each logarithm at least -100.

    At a saturated probability the slope is ``(x - t) / 1e-12``, torch's documented finite slope.
    """
    data = raw(self)
    saturated = data * (1.0 - data) < _SATURATED
    inner = e.where(saturated, 0.5, self)
    loss = e.negative(target * e.log(inner) + (1.0 - target) * e.log1p(e.negative(inner)))
    if bool(saturated.any()):
        label = raw(target)
        with np.errstate(divide="ignore"):
            logs = np.maximum(np.log(data), -100.0), np.maximum(np.log1p(-data), -100.0)
        level = constant(np.where(saturated, (label - 1.0) * logs[1] - label * logs[0], 0.0))
        slope = constant(np.where(saturated, (data - label) / _SATURATED, 0.0))
        line = (
            level
            + slope * (self - constant(data))
            + (target - constant(label)) * constant(np.where(saturated, logs[1] - logs[0], 0.0))
        )
        loss = e.where(saturated, line, loss)
    return reduced(loss if weight is None else loss * weight, reduction)


@meaning("aten::binary_cross_entropy_with_logits")
def binary_cross_entropy_with_logits(self, target, weight=None, pos_weight=None, reduction=1):
    """``(1 - t) x + (1 + (w - 1) t) log(1 + exp(-x))``."""
    surprise = e.negative(e.log_sigmoid(self))
    if pos_weight is not None:
        surprise = ((pos_weight - 1.0) * target + 1.0) * surprise
    loss = (1.0 - target) * self + surprise
    return reduced(loss if weight is None else loss * weight, reduction)


@meaning("aten::soft_margin_loss")
def soft_margin_loss(self, target, reduction=1):
    return reduced(e.softplus(e.negative(target * self)), reduction)


@meaning("aten::multi_margin_loss")
def multi_margin_loss(self, target, p=1, margin=1, weight=None, reduction=1):
    """Mean over the other classes of ``max(0, margin - x[target] + x[i]) ** p``."""
    x = self if self.ndim == 2 else e.reshape(self, shape=(1, -1))
    label = np.reshape(target, (-1, 1))
    classes = x.shape[1]
    excess = margin - e.take_along_axis(x, index=label, axis=1) + x
    counted = (np.arange(classes) != label) & (raw(excess) > 0)
    hinge = e.where(counted, excess if p == 1 else e.square(excess), 0.0)
    if weight is not None:
        hinge = hinge * e.getitem(weight, index=label)
    loss = e.sum(hinge, axis=1) / float(classes)
    if reduction == 0:
        return loss if self.ndim == 2 else e.reshape(loss, shape=np.shape(target))
    return reduced(loss, reduction)


@meaning("aten::multilabel_margin_loss_forward")
def multilabel_margin_loss(self, target, reduction):
    """Mean over pairs (label, other class) of ``max(0, 1 - (x[label] - x[other]))``; labels end at the first -1."""
    x = self if self.ndim == 2 else e.reshape(self, shape=(1, -1))
    labels = np.reshape(target, x.shape)
    valid = np.cumsum(labels < 0, axis=1) == 0
    chosen = np.where(valid, labels, 0)
    is_target = np.zeros(x.shape, dtype=bool)
    rows = np.broadcast_to(np.arange(x.shape[0])[:, None], labels.shape)
    is_target[rows[valid], labels[valid]] = True
    wanted = e.expand_dims(e.take_along_axis(x, index=chosen, axis=1), axis=2)
    excess = 1.0 - wanted + e.expand_dims(x, axis=1)
    counted = valid[:, :, None] & ~is_target[:, None, :] & (raw(excess) > 0)
    loss = e.sum(e.where(counted, excess, 0.0), axis=(1, 2)) / float(x.shape[1])
    if reduction == 0:
        return (loss if self.ndim == 2 else e.reshape(loss, shape=())), RECORDED
    return reduced(loss, reduction), RECORDED


def _linear_cross_entropy(input, linear_weight, target, linear_bias, weight, ignore_index):
    """Per-sample losses, and what a mean divides by; probability targets weigh every class.

    torch differentiates in the input, the layer's weight and bias only.
    """
    weight = None if weight is None else constant(weight)
    logits = e.matmul(input, e.swapaxes(linear_weight, axis1=0, axis2=1))
    log_probs = e.log_softmax(logits if linear_bias is None else logits + linear_bias, axis=-1)
    if raw(target).dtype.kind == "f":
        weighted = constant(target) if weight is None else constant(target) * weight
        return e.negative(e.sum(weighted * log_probs, axis=-1)), float(log_probs.shape[0])
    losses = nll(log_probs, target, weight, 0, ignore_index)[0]
    used = target != ignore_index
    counted = used if weight is None else raw(weight)[np.where(used, target, 0)] * used
    return losses, float(np.sum(counted))


@meaning("torch_nn::_linear_cross_entropy_batch_chunked")
def linear_cross_entropy(
    input,
    linear_weight,
    target,
    linear_bias,
    weight,
    reduction,
    ignore_index,
    label_smoothing,
    batch_chunk_size,
    acc_policy,
    acc_dtype,
    allow_retain_graph,
    compute_input_grad,
    compute_linear_weight_grad,
    compute_linear_bias_grad,
):
    """A linear layer and cross entropy at once; the gradients it returns beside the loss serve its own backward."""
    losses, total = _linear_cross_entropy(input, linear_weight, target, linear_bias, weight, ignore_index)
    loss = e.sum(losses)
    return (loss / total if reduction == "mean" else loss), RECORDED, RECORDED, RECORDED


@meaning("torch_nn::_linear_cross_entropy_batch_chunked_no_reduction")
def linear_cross_entropy_per_sample(
    input,
    linear_weight,
    target,
    linear_bias,
    weight,
    ignore_index,
    batch_chunk_size,
    acc_policy,
    acc_dtype,
):
    return _linear_cross_entropy(input, linear_weight, target, linear_bias, weight, ignore_index)[0]

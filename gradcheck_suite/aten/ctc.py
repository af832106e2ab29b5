"""Connectionist temporal classification (Graves et al., 2006)."""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import numpy as np

from ..engine import ops as e
from .adjoint import pulled
from .registry import RECORDED, meaning
from .values import constant, raw, shape_of

# Stands for log 0: sums of it stay finite, so that no difference of infinities arises in a gradient.
_NEVER = -1e30


def _padded_targets(targets, lengths, blank):
    """Targets as (batch, longest), from one row per sample or from one row after the other."""
    longest = int(lengths.max(initial=0))
    inside = np.arange(longest) < lengths[:, None]
    padded = np.full(inside.shape, blank, dtype=np.int64)
    if targets.ndim == 1:
        padded[inside] = targets[: int(lengths.sum())]
    else:
        padded[inside] = targets[:, :longest][inside]
    return padded


def _lengths(lengths):
    return np.atleast_1d(np.asarray(raw(lengths) if hasattr(lengths, "shape") else lengths, dtype=np.int64))


def negative_log_likelihood(log_probs, targets, input_lengths, target_lengths, blank, zero_infinity):
    """Of each sample (batch,), from log_probs (time, batch, classes): the forward recursion, section 4.1."""
    batched = log_probs.ndim == 3
    x = log_probs if batched else e.expand_dims(log_probs, axis=1)
    steps, batch, _ = shape_of(x)
    times, sizes = _lengths(input_lengths), _lengths(target_lengths)
    labels = _padded_targets(targets, sizes, blank)
    states = np.full((batch, 2 * labels.shape[1] + 1), blank, dtype=np.int64)
    states[:, 1::2] = labels
    skips = np.zeros(states.shape, dtype=bool)
    skips[:, 2:] = (states[:, 2:] != blank) & (states[:, 2:] != states[:, :-2])
    emitted = e.take_along_axis(x, index=np.broadcast_to(states, (steps, *states.shape)), axis=2)

    alpha = e.where(np.arange(states.shape[1]) < 2, e.getitem(emitted, index=(0,)), _NEVER)
    history = [alpha]
    for t in range(1, steps):
        before = e.pad(alpha, widths=((0, 0), (2, 0)), value=_NEVER)
        one = e.getitem(before, index=(slice(None), slice(1, -1)))
        two = e.where(skips, e.getitem(before, index=(slice(None), slice(0, -2))), _NEVER)
        alpha = e.logsumexp(e.stack([alpha, one, two], axis=0), axis=(0,)) + e.getitem(emitted, index=(t,))
        history.append(alpha)

    rows = np.arange(batch)
    last = e.getitem(e.stack(history, axis=0), index=(np.maximum(times - 1, 0), rows))
    final_blank = e.getitem(last, index=(rows, 2 * sizes))
    final_label = e.where(sizes > 0, e.getitem(last, index=(rows, np.maximum(2 * sizes - 1, 0))), _NEVER)
    loss = e.negative(e.logsumexp(e.stack([final_blank, final_label], axis=0), axis=(0,)))
    impossible = raw(loss) > -0.1 * _NEVER

    # Each step's log_probs are logarithms of probabilities that add up to one. Off that set the loss is free to
    # choose; torch chooses it so that its gradient is the one of the logits. This term is zero and says the same.
    spare = e.sum(e.exp(x), axis=2) * (np.arange(steps)[:, None] < times).astype(np.float64)
    loss = loss + e.sum(spare - constant(spare), axis=0)
    loss = e.where(impossible, 0.0 if zero_infinity else np.inf, loss)
    return loss if batched else e.reshape(loss, shape=())


@meaning("aten::_ctc_loss", "aten::_ctc_loss.Tensor")
def ctc_loss(log_probs, targets, input_lengths, target_lengths, blank=0, zero_infinity=False):
    loss = negative_log_likelihood(log_probs, targets, input_lengths, target_lengths, blank, zero_infinity)
    return loss, RECORDED


@meaning("aten::_ctc_loss_backward", "aten::_ctc_loss_backward.Tensor")
def ctc_loss_backward(
    grad,
    log_probs,
    targets,
    input_lengths,
    target_lengths,
    neg_log_likelihood,
    log_alpha,
    blank,
    zero_infinity=False,
):
    def forward(x):
        return negative_log_likelihood(x, targets, input_lengths, target_lengths, blank, zero_infinity)

    return pulled(forward, grad, log_probs)

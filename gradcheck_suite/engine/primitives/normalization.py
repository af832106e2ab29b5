"""The normalisations: layer, batch, group and root mean square, composed of :mod:`.standardization`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..modes import THREAD
from ..registry import derived
from ..tensor import Tensor
from .arithmetic import add
from .reduction import mean as mean_over
from .shape import reshape
from .standardization import normalize, positive_axes, rescale, scale_shift, scale_to_unit, standardize


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None, shape: tuple[int, ...]) -> Any:
    """Weight and bias, seen in ``shape``, applied where they are given."""
    weight, bias = _seen(weight, shape), _seen(bias, shape)
    if weight is not None and bias is not None:
        return scale_shift(x, weight, bias)
    if weight is not None:
        return rescale(x, weight)
    return x if bias is None else add(x, bias)


def _seen(a: Any, shape: tuple[int, ...]) -> Any:
    return a if a is None or tuple(a.shape) == shape else a.reshape(shape)


def _normalized(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    shape: tuple[int, ...],
    axes: int | Sequence[int],
    eps: float,
) -> tuple[Any, Any, Any]:
    """Standardised over ``axes``, then scaled and shifted by weight and bias seen in ``shape``; mean and rstd.

    Step by step while rounding errors are simulated: ``x - mean`` cancels: over one value, or equal ones, it is zero
    only in exact arithmetic, and an error relative to a result that is zero would say that nobody may be off.
    """
    if THREAD.mode.perturbation is not None:
        mean = mean_over(x, axis=axes, keepdims=True)
        centred = x - mean
        rstd = (mean_over(centred * centred, axis=axes, keepdims=True) + eps) ** -0.5
        return _affine(centred * rstd, weight, bias, shape), mean, rstd
    if weight is None:
        normal, mean, rstd = standardize(x, axes=axes, eps=eps)
        return _affine(normal, None, bias, shape), mean, rstd
    shift = np.zeros(shape, dtype=weight.dtype) if bias is None else _seen(bias, shape)
    result, mean, rstd = normalize([x, _seen(weight, shape), shift], axes=axes, eps=eps)
    # The same numbers under another name: writing to the result in place must not touch what the node saved.
    return reshape(result, shape=x.shape), mean, rstd


def _per_channel(x: Tensor) -> tuple[int, ...]:
    return (x.shape[1], *(1,) * (x.ndim - 2))


@derived
def layer_norm(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    axes: int | Sequence[int] = -1,
    eps: float = 1e-5,
) -> Tensor:
    """Standardise over the trailing ``axes``, then scale and shift with weight and bias of their shape."""
    return layer_norm_with_statistics(x, weight, bias, axes=axes, eps=eps)[0]


@derived
def layer_norm_with_statistics(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    axes: int | Sequence[int] = -1,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`layer_norm`, with the mean and the reciprocal deviation (reduced axes kept with length one)."""
    shape = tuple(x.shape[a] for a in positive_axes(axes, x.ndim))
    return _normalized(x, weight, bias, shape, axes, eps)


@derived
def rms_norm(
    x: Tensor, weight: Tensor | None = None, *, axes: int | Sequence[int] = -1, eps: float = 1e-6
) -> Any:
    """Divide by the root mean square over the trailing ``axes``, then scale with the weight of their shape."""
    normal, _ = scale_to_unit(x, axes=axes, eps=eps)
    return _affine(normal, weight, None, tuple(x.shape[a] for a in positive_axes(axes, x.ndim)))


@derived
def batch_norm(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    mean: Tensor | None = None,
    var: Tensor | None = None,
    *,
    training: bool = True,
    eps: float = 1e-5,
) -> Tensor:
    """Standardise each channel of ``x`` (batch, channels, *spatial), then scale and shift it.

    Over the batch's own statistics when ``training`` (or when no ``mean`` and ``var`` are given), else over the given
    ones, (channels,). Running statistics are the caller's to update.
    """
    return batch_norm_with_statistics(x, weight, bias, mean, var, training=training, eps=eps)[0]


@derived
def batch_norm_with_statistics(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    mean: Tensor | None = None,
    var: Tensor | None = None,
    *,
    training: bool = True,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`batch_norm`, with the mean and the reciprocal deviation that it used, both (channels,)."""
    shape = _per_channel(x)
    if training or mean is None or var is None:
        axes = (0, *range(2, x.ndim))
        result, batch_mean, rstd = _normalized(x, weight, bias, shape, axes, eps)
        return result, batch_mean.reshape(shape[:1]), rstd.reshape(shape[:1])
    rstd = (var + eps) ** -0.5
    scale = rstd if weight is None else rstd * weight
    shift = -(mean * scale) if bias is None else bias - mean * scale
    return scale_shift(x, scale.reshape(shape), shift.reshape(shape)), mean, rstd


@derived
def group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    eps: float = 1e-5,
) -> Tensor:
    """Standardise ``groups`` runs of channels of ``x`` (batch, channels, *spatial) per sample, then scale and shift
    each channel."""
    return group_norm_with_statistics(x, groups, weight, bias, eps=eps)[0]


@derived
def group_norm_with_statistics(
    x: Tensor,
    groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`group_norm`, with the mean and the reciprocal deviation, both (batch, groups)."""
    channels = x.shape[1] // groups
    grouped = x.reshape(x.shape[0], groups, channels, math.prod(x.shape[2:]))
    result, mean, rstd = _normalized(grouped, weight, bias, (groups, channels, 1), (2, 3), eps)
    statistics = (x.shape[0], groups)
    return result.reshape(x.shape), mean.reshape(statistics), rstd.reshape(statistics)

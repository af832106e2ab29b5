"""The normalisations: layer, batch, group and root mean square.

All normalisations are :func:`standardize` over some axes and then :func:`scale_shift`. The kernels take parts of the
array through all their steps while the cache holds them (:mod:`._blocks`): what counts at these sizes is how often
memory is walked through.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..modes import THREAD
from ..primitive import primitive
from ..registry import derived
from ..tensor import Tensor
from ._blocks import Scratch, blocks, kept, kept_shape, merged, runs, total, total_of_products, unbuffered
from .arithmetic import add, conj
from .reduction import mean as mean_over
from .shape import broadcast_to

Array = npt.NDArray[Any]
Samples = list[tuple[tuple[Any, ...], dict[str, Any]]]


def _positive_axes(axes: int | Sequence[int], ndim: int) -> tuple[int, ...]:
    given = (axes,) if isinstance(axes, (int, np.integer)) else tuple(axes)
    return tuple(sorted(int(a) % ndim for a in given))


def _standardize_samples(draw: Any) -> Samples:
    return [
        ((draw.real(3, 5),), {"axes": (-1,), "eps": 1e-5}),
        ((draw.real(3, 2, 4),), {"axes": (0, 2), "eps": 1e-3}),
        ((draw.real(2, 3, 2),), {"axes": (1, 2), "eps": 0.1}),
        ((draw.real(0, 3),), {"axes": (1,), "eps": 1e-5}),
    ]


@primitive(samples=_standardize_samples)
def standardize(x: Array, *, axes: int | Sequence[int], eps: float) -> tuple[Array, Array, Array]:
    """(x - mean) * rstd over ``axes``, with the mean and rstd = 1 / sqrt(biased variance + eps).

    The statistics keep the reduced axes with length one. Two passes: no cancellation.
    """
    reduced = _positive_axes(axes, x.ndim)
    shape, where = merged(x.shape, reduced)
    count, values, normal = _count(x.shape, axes), x.reshape(shape), np.empty(shape, dtype=x.dtype)
    mean, rstd = (np.empty(kept_shape(shape, where), dtype=x.dtype) for _ in range(2))
    scratch = Scratch(x.dtype)
    with unbuffered(shape[-1]):
        for part in blocks(shape, where, x.itemsize):
            mean[part] = total(values[part], where) / count
            centred = np.subtract(values[part], mean[part], out=normal[part])
            rstd[part] = _rstd(centred, where, count, eps, scratch)
            centred *= rstd[part]
    statistics = kept_shape(x.shape, reduced)
    return normal.reshape(x.shape), mean.reshape(statistics), rstd.reshape(statistics)


def _rstd(centred: Array, where: tuple[int, ...], count: int, eps: float, scratch: Scratch) -> Array:
    squares = total_of_products(centred, centred, where, scratch(centred.shape))
    return np.asarray(1 / np.sqrt(squares / count + centred.dtype.type(eps)))


@primitive(samples=_standardize_samples)
def scale_to_unit(x: Array, *, axes: int | Sequence[int], eps: float) -> tuple[Array, Array]:
    """x * r and r = 1 / sqrt(mean(x²) + eps) over ``axes``, which ``r`` keeps with length one."""
    reduced = _positive_axes(axes, x.ndim)
    shape, where = merged(x.shape, reduced)
    count, values, normal = _count(x.shape, axes), x.reshape(shape), np.empty(shape, dtype=x.dtype)
    factor, scratch = np.empty(kept_shape(shape, where), dtype=x.dtype), Scratch(x.dtype)
    with unbuffered(shape[-1]):
        for part in blocks(shape, where, x.itemsize):
            factor[part] = _rstd(values[part], where, count, eps, scratch)
            np.multiply(values[part], factor[part], out=normal[part])
    return normal.reshape(x.shape), factor.reshape(kept_shape(x.shape, reduced))


def _standardize_gradient_samples(draw: Any) -> Samples:
    return [
        ((draw.real(3, 5), draw.real(3, 5), draw.positive(3, 1)), {"axes": (-1,)}),
        ((draw.real(3, 2, 4), draw.real(3, 2, 4), draw.positive(1, 2, 1)), {"axes": (0, 2)}),
        ((draw.real(3, 5), draw.real(3, 5), draw.positive(3, 1)), {"axes": (1,), "center": False}),
    ]


@primitive(samples=_standardize_gradient_samples)
def standardize_gradient(
    g: Array, normal: Array, rstd: Array, *, axes: int | Sequence[int], center: bool = True
) -> Array:
    """rstd (g - mean(g) - normal mean(g normal)) over ``axes``; without mean(g) unless ``center``.

    The derivative of :func:`standardize` at its value ``normal``, a symmetric map of ``g``.
    """
    shape, where = merged(g.shape, _positive_axes(axes, g.ndim))
    dtype, count = np.result_type(g, normal), _count(g.shape, axes)
    incoming, values = (a.astype(dtype, copy=False).reshape(shape) for a in (g, normal))
    factor, gradient = rstd.reshape(kept_shape(shape, where)), np.empty(shape, dtype=dtype)
    with unbuffered(shape[-1]):
        for part in blocks(shape, where, dtype.itemsize):
            block = gradient[part]
            slope = total_of_products(incoming[part], values[part], where, block) / -count
            np.multiply(values[part], slope, out=block)
            block += incoming[part]
            if center:
                block -= total(incoming[part], where) / count
            block *= factor[part]
    return gradient.reshape(g.shape)


def _slope(g: Tensor, normal: Tensor, *, axes: int | Sequence[int], center: bool) -> Any:
    """What :func:`standardize_gradient` multiplies with rstd, in differentiable operations."""
    slope = g - normal * mean_over(g * normal, axis=axes, keepdims=True)
    return slope - mean_over(g, axis=axes, keepdims=True) if center else slope


def _through_normal(h: Tensor, g: Tensor, normal: Tensor, rstd: Tensor, axes: int | Sequence[int]) -> Any:
    scaled = h * rstd
    forward = g * mean_over(scaled * normal, axis=axes, keepdims=True)
    return -(scaled * mean_over(g * normal, axis=axes, keepdims=True) + forward)


standardize_gradient.vjp(
    g=lambda h, out, g, normal, rstd, *, axes, center=True: standardize_gradient(
        h, normal, rstd, axes=axes, center=center
    ),
    normal=lambda h, out, g, normal, rstd, *, axes, center=True: _through_normal(h, g, normal, rstd, axes),
    rstd=lambda h, out, g, normal, rstd, *, axes, center=True: (
        h * _slope(g, normal, axes=axes, center=center)
    ),
)
standardize_gradient.jvp(
    g="linear",
    normal=lambda d, out, g, normal, rstd, *, axes, center=True: (
        -rstd
        * (
            d * mean_over(g * normal, axis=axes, keepdims=True)
            + normal * mean_over(g * d, axis=axes, keepdims=True)
        )
    ),
    rstd=lambda d, out, g, normal, rstd, *, axes, center=True: (
        d * _slope(g, normal, axes=axes, center=center)
    ),
)


def _count(shape: tuple[int, ...], axes: int | Sequence[int]) -> int:
    return math.prod(shape[a] for a in _positive_axes(axes, len(shape)))


def _plus(total: Tensor | None, term: Tensor) -> Tensor:
    return term if total is None else total + term


def _standardize_vjp(g: Any, out: Any, x: Tensor, *, axes: int | Sequence[int], eps: float) -> Tensor | None:
    normal, _, rstd = out
    total: Tensor | None = None
    if g[0] is not None:
        total = standardize_gradient(g[0], normal, rstd, axes=axes)
    if g[1] is not None:
        total = _plus(total, g[1] * np.full(x.shape, 1 / max(_count(x.shape, axes), 1), dtype=x.dtype))
    if g[2] is not None:
        total = _plus(total, normal * (g[2] * rstd * rstd * (-1 / max(_count(x.shape, axes), 1))))
    return total


def _standardize_jvp(
    dx: Tensor, out: Any, x: Tensor, *, axes: int | Sequence[int], eps: float
) -> tuple[Tensor, ...]:
    normal, _, rstd = out
    return (
        standardize_gradient(dx, normal, rstd, axes=axes),
        mean_over(dx, axis=axes, keepdims=True),
        -(rstd * rstd * mean_over(normal * dx, axis=axes, keepdims=True)),
    )


def _unit_vjp(g: Any, out: Any, x: Tensor, *, axes: int | Sequence[int], eps: float) -> Tensor | None:
    normal, factor = out
    total: Tensor | None = None
    if g[0] is not None:
        total = standardize_gradient(g[0], normal, factor, axes=axes, center=False)
    if g[1] is not None:
        total = _plus(total, normal * (g[1] * factor * factor * (-1 / max(_count(x.shape, axes), 1))))
    return total


def _unit_jvp(
    dx: Tensor, out: Any, x: Tensor, *, axes: int | Sequence[int], eps: float
) -> tuple[Tensor, ...]:
    normal, factor = out
    return (
        standardize_gradient(dx, normal, factor, axes=axes, center=False),
        -(factor * factor * mean_over(normal * dx, axis=axes, keepdims=True)),
    )


standardize.vjp(x=_standardize_vjp)
standardize.jvp(x=_standardize_jvp)
scale_to_unit.vjp(x=_unit_vjp)
scale_to_unit.jvp(x=_unit_jvp)


# -------------------------------------------------------------------------------------------- scale, shift


def _products_samples(draw: Any) -> Samples:
    return [
        ((draw.real(3, 4), draw.real(3, 4)), {"shape": (4,)}),
        ((draw.real(2, 3, 4), draw.real(2, 3, 4)), {"shape": (3, 1)}),
        ((draw.complex(2, 3), draw.complex(2, 3)), {"shape": (2, 1)}),
        ((draw.real(0, 3), draw.real(0, 3)), {"shape": (3,)}),
    ]


def _stretched(shape: tuple[int, ...], small: Sequence[int]) -> tuple[int, ...]:
    """The axes of ``shape`` that broadcasting from ``small`` adds or stretches."""
    extra = len(shape) - len(small)
    return tuple(i for i, n in enumerate(shape) if i < extra or small[i - extra] != n)


def _aligned(small: Array, shape: tuple[int, ...]) -> tuple[Array, tuple[int, ...], tuple[int, ...]]:
    """What broadcasts to ``shape``, brought to its merged form; that form, and its axes that are stretched."""
    axes = _stretched(shape, small.shape)
    form, where = merged(shape, axes)
    return small.reshape(kept_shape(form, where)), form, where


@primitive(samples=_products_samples)
def sum_of_products(a: Array, b: Array, *, shape: Sequence[int]) -> Array:
    """The sum of ``a * b`` (equal shapes) over the axes that broadcasting from ``shape`` would add or stretch."""
    form, where = merged(a.shape, _stretched(a.shape, shape))
    dtype = np.result_type(a, b)
    a, b = (factor.astype(dtype, copy=False).reshape(form) for factor in (a, b))
    sums, scratch = np.zeros(kept_shape(form, where), dtype=dtype), Scratch(dtype)
    with unbuffered(form[-1] if form else 0):
        for part in runs(form, dtype.itemsize):
            sums[kept(part, where)] += total_of_products(a[part], b[part], where, scratch(a[part].shape))
    return sums.reshape(tuple(shape))


sum_of_products.vjp(
    a=lambda g, out, a, b, *, shape: rescale(conj(b), g),
    b=lambda g, out, a, b, *, shape: rescale(conj(a), g),
)
sum_of_products.jvp(a="linear", b="linear")


@primitive(
    samples=lambda draw: [
        ((draw.real(3, 4),), {"shape": (4,)}),
        ((draw.real(2, 3, 4),), {"shape": (3, 1)}),
        ((draw.complex(2, 3, 2),), {"shape": (2, 1, 2)}),
        ((draw.real(0, 3),), {"shape": (3,)}),
    ]
)
def sum_to_shape(x: Array, *, shape: Sequence[int]) -> Array:
    """The sum of ``x`` over the axes that broadcasting from ``shape`` would add or stretch."""
    form, where = merged(x.shape, _stretched(x.shape, shape))
    return total(x.reshape(form), where).reshape(tuple(shape))


sum_to_shape.vjp(x=lambda g, out, x, *, shape: broadcast_to(g, shape=x.shape))
sum_to_shape.jvp(x="linear")


@primitive(
    samples=lambda draw: [
        ((draw.real(3, 4), draw.real(4)), {}),
        ((draw.real(2, 3, 4), draw.real(3, 1)), {}),
        ((draw.complex(2, 3), draw.complex(1)), {}),
        ((draw.real(0, 3), draw.real(3)), {}),
    ]
)
def rescale(x: Array, scale: Array) -> Array:
    """``x * scale``, where ``scale`` broadcasts to the shape of ``x``."""
    scale, form, _ = _aligned(scale, x.shape)
    with unbuffered(form[-1] if form else 0):
        return np.multiply(x.reshape(form), scale).reshape(x.shape)


rescale.vjp(
    x=lambda g, out, x, scale: rescale(g, conj(scale)),
    scale=lambda g, out, x, scale: sum_of_products(g, conj(x), shape=scale.shape),
)
rescale.jvp(x="linear", scale="linear")


def _scale_shift_samples(draw: Any) -> Samples:
    return [
        ((draw.real(3, 4), draw.real(4), draw.real(4)), {}),
        ((draw.real(2, 3, 4), draw.real(3, 1), draw.real(3, 1)), {}),
        ((draw.complex(2, 3), draw.complex(3), draw.complex(1)), {}),
        ((draw.real(0, 3), draw.real(3), draw.real(3)), {}),
    ]


@primitive(samples=_scale_shift_samples)
def scale_shift(x: Array, scale: Array, shift: Array) -> Array:
    """``x * scale + shift``, where scale and shift broadcast to the shape of ``x``."""
    if scale.shape != shift.shape:
        scale, shift = np.broadcast_arrays(scale, shift)
    scale, form, where = _aligned(scale, x.shape)
    shift, values = shift.reshape(scale.shape), x.reshape(form)
    result = np.empty(form, dtype=np.result_type(x, scale, shift))
    with unbuffered(form[-1] if form else 0):
        for part in runs(form, result.itemsize):
            block = np.multiply(values[part], scale[kept(part, where)], out=result[part])
            block += shift[kept(part, where)]
    return result.reshape(x.shape)


scale_shift.vjp(
    x=lambda g, out, x, scale, shift: rescale(g, conj(scale)),
    scale=lambda g, out, x, scale, shift: sum_of_products(g, conj(x), shape=scale.shape),
    shift=lambda g, out, x, scale, shift: sum_to_shape(g, shape=shift.shape),
)
scale_shift.jvp(
    x=lambda dx, out, x, scale, shift: rescale(dx, scale),
    scale=lambda d, out, x, scale, shift: rescale(x, d),
    shift=lambda d, out, x, scale, shift: broadcast_to(d, shape=x.shape),
)


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None, shape: tuple[int, ...]) -> Any:
    """Weight and bias, seen in ``shape``, applied where they are given."""
    if weight is not None:
        weight = weight if tuple(weight.shape) == shape else weight.reshape(shape)
    if bias is not None:
        bias = bias if tuple(bias.shape) == shape else bias.reshape(shape)
    if weight is not None and bias is not None:
        return scale_shift(x, weight, bias)
    if weight is not None:
        return rescale(x, weight)
    return x if bias is None else add(x, bias)


def _standardized(x: Tensor, axes: int | Sequence[int], eps: float) -> tuple[Any, Any, Any]:
    """:func:`standardize`; step by step while rounding errors are simulated.

    ``x - mean`` cancels: over one value, or equal ones, it is zero only in exact arithmetic, and an error relative to a
    result that is zero would say that nobody may be off.
    """
    if THREAD.mode.perturbation is None:
        return standardize(x, axes=axes, eps=eps)
    mean = mean_over(x, axis=axes, keepdims=True)
    centred = x - mean
    rstd = (mean_over(centred * centred, axis=axes, keepdims=True) + eps) ** -0.5
    return centred * rstd, mean, rstd


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
    normal, mean, rstd = _standardized(x, axes, eps)
    shape = tuple(x.shape[a] for a in _positive_axes(axes, x.ndim))
    return _affine(normal, weight, bias, shape), mean, rstd


@derived
def rms_norm(
    x: Tensor, weight: Tensor | None = None, *, axes: int | Sequence[int] = -1, eps: float = 1e-6
) -> Any:
    """Divide by the root mean square over the trailing ``axes``, then scale with the weight of their shape."""
    normal, _ = scale_to_unit(x, axes=axes, eps=eps)
    return _affine(normal, weight, None, tuple(x.shape[a] for a in _positive_axes(axes, x.ndim)))


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
        normal, batch_mean, rstd = _standardized(x, axes, eps)
        return _affine(normal, weight, bias, shape), batch_mean.reshape(shape[:1]), rstd.reshape(shape[:1])
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
    per_group = math.prod(x.shape[1:]) // groups
    grouped = x.reshape(x.shape[0], groups, per_group)
    normal, mean, rstd = _standardized(grouped, (2,), eps)
    statistics = (x.shape[0], groups)
    result = _affine(normal.reshape(x.shape), weight, bias, _per_channel(x))
    return result, mean.reshape(statistics), rstd.reshape(statistics)

"""The kernels of the normalisations: standardising over axes, scaling and shifting, and their gradients.

The kernels take parts of the array through all their steps while the cache holds them (:mod:`._blocks`), and the
fused ones write nothing but results: what counts at these sizes is how often memory is walked through.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..primitive import primitive
from ..tensor import Tensor
from ._blocks import (
    Scratch,
    blocks,
    kept,
    kept_shape,
    merged,
    total,
    total_of_products,
    unbuffered,
    weighted_total,
    widened,
)
from .complex_parts import conj
from .reduction import mean as mean_over
from .shape import broadcast_to

Array = npt.NDArray[Any]
Samples = list[tuple[tuple[Any, ...], dict[str, Any]]]


def positive_axes(axes: int | Sequence[int], ndim: int) -> tuple[int, ...]:
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
@widened
def standardize(x: Array, *, axes: int | Sequence[int], eps: float) -> tuple[Array, Array, Array]:
    """(x - mean) * rstd over ``axes``, with the mean and rstd = 1 / sqrt(biased variance + eps).

    The statistics keep the reduced axes with length one. Two passes: no cancellation.
    """
    reduced = positive_axes(axes, x.ndim)
    shape, where = merged(x.shape, reduced)
    count, values, normal = _count(x.shape, axes), x.reshape(shape), np.empty(shape, dtype=x.dtype)
    mean, rstd = (np.empty(kept_shape(shape, where), dtype=x.dtype) for _ in range(2))
    scratch = Scratch(x.dtype)
    with unbuffered(shape[-1]):
        for part in blocks(shape, where, x.itemsize):
            block = normal[part]
            mean[part], rstd[part] = _centre(values[part], block, where, count, eps, scratch)
            block *= rstd[part]
    statistics = kept_shape(x.shape, reduced)
    return normal.reshape(x.shape), mean.reshape(statistics), rstd.reshape(statistics)


def _rstd(centred: Array, where: tuple[int, ...], count: int, eps: float, scratch: Scratch) -> Array:
    squares = total_of_products(centred, centred, where, scratch(centred.shape))
    return np.asarray(1 / np.sqrt(squares / count + centred.dtype.type(eps)))


def _centre(
    x: Array, out: Array, where: tuple[int, ...], count: int, eps: float, scratch: Scratch
) -> tuple[Array, Array]:
    """The mean, and rstd; ``x - mean`` in ``out``.

    Next to a large mean, the rounding of its sum leaves the centred values with a mean of their own. It is taken off:
    values that are all equal give zero.
    """
    mean = total(x, where) / count
    np.subtract(x, mean, out=out)
    rstd = _rstd(out, where, count, eps, scratch)
    if np.any(np.abs(mean) * rstd > 4):
        left = total(out, where) / count
        mean += left
        out -= left
        rstd = _rstd(out, where, count, eps, scratch)
    return mean, rstd


@primitive(samples=_standardize_samples)
@widened
def scale_to_unit(x: Array, *, axes: int | Sequence[int], eps: float) -> tuple[Array, Array]:
    """x * r and r = 1 / sqrt(mean(x²) + eps) over ``axes``, which ``r`` keeps with length one."""
    reduced = positive_axes(axes, x.ndim)
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
@widened
def standardize_gradient(
    g: Array, normal: Array, rstd: Array, *, axes: int | Sequence[int], center: bool = True
) -> Array:
    """rstd (g - mean(g) - normal mean(g normal)) over ``axes``; without mean(g) unless ``center``.

    The derivative of :func:`standardize` at its value ``normal``, a symmetric map of ``g``.
    """
    shape, where = merged(g.shape, positive_axes(axes, g.ndim))
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
    return math.prod(shape[a] for a in positive_axes(axes, len(shape)))


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
@widened
def sum_of_products(a: Array, b: Array, *, shape: Sequence[int]) -> Array:
    """The sum of ``a * b`` (equal shapes) over the axes that broadcasting from ``shape`` would add or stretch."""
    form, where = merged(a.shape, _stretched(a.shape, shape))
    dtype = np.result_type(a, b)
    a, b = (factor.astype(dtype, copy=False).reshape(form) for factor in (a, b))
    sums, scratch = np.zeros(kept_shape(form, where), dtype=dtype), Scratch(dtype)
    with unbuffered(form[-1] if form else 0):
        for part in blocks(form, (), dtype.itemsize):
            sums[kept(part, where)] += total_of_products(a[part], b[part], where, scratch(a[part].shape))
    return sums.reshape(tuple(shape))


@primitive(
    samples=lambda draw: [
        ((draw.real(3, 4),), {"shape": (4,)}),
        ((draw.real(2, 3, 4),), {"shape": (3, 1)}),
        ((draw.complex(2, 3, 2),), {"shape": (2, 1, 2)}),
        ((draw.real(0, 3),), {"shape": (3,)}),
    ]
)
@widened
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


sum_of_products.vjp(
    a=lambda g, out, a, b, *, shape: rescale(conj(b), g),
    b=lambda g, out, a, b, *, shape: rescale(conj(a), g),
)
sum_of_products.jvp(a="linear", b="linear")
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
        for part in blocks(form, (), result.itemsize):
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


# ------------------------------------------------------------------------------------------- both, fused


def _normalize_samples(draw: Any) -> Samples:
    return [
        (([draw.real(3, 5), draw.real(5), draw.real(5)],), {"axes": (-1,), "eps": 1e-3}),
        (([draw.real(3, 2, 4), draw.real(2, 1), draw.real(2, 1)],), {"axes": (0, 2), "eps": 1e-3}),
        (([draw.real(2, 2, 3, 4), draw.real(2, 3, 1), draw.real(2, 3, 1)],), {"axes": (2, 3), "eps": 0.1}),
        (([draw.real(4, 3), draw.real(4, 3), draw.real(4, 3)],), {"axes": (0,), "eps": 0.1}),
        (([draw.real(0, 3), draw.real(3), draw.real(3)],), {"axes": (1,), "eps": 1e-3}),
    ]


class _Form(NamedTuple):
    """The shape with neighbouring axes as one that are alike for statistics and for scale and shift."""

    shape: tuple[int, ...]
    reduced: tuple[int, ...]
    stretched: tuple[int, ...]

    def statistics(self) -> tuple[int, ...]:
        return kept_shape(self.shape, self.reduced)

    def scales(self) -> tuple[int, ...]:
        return kept_shape(self.shape, self.stretched)

    @property
    def common(self) -> tuple[int, ...]:
        """The axes that both the statistics and the gradients of scale and shift sum over."""
        return tuple(i for i in self.reduced if i in self.stretched)

    @property
    def constant(self) -> bool:
        """Whether the scale is one number for all that is standardised together."""
        return self.common == self.reduced


def _form(shape: tuple[int, ...], axes: int | Sequence[int], small: Sequence[int]) -> _Form:
    reduced, stretched = positive_axes(axes, len(shape)), _stretched(shape, small)
    sizes: list[int] = []
    kinds: list[tuple[bool, bool]] = []
    for i, n in enumerate(shape):
        kind = (i in reduced, i in stretched)
        if kinds and kinds[-1] == kind:
            sizes[-1] *= n
        else:
            sizes.append(n)
            kinds.append(kind)
    at = [tuple(i for i, kind in enumerate(kinds) if kind[which]) for which in range(2)]
    return _Form(tuple(sizes), at[0], at[1])


@primitive(samples=_normalize_samples, sequence="operands")
@widened
def normalize(operands: list[Array], *, axes: int | Sequence[int], eps: float) -> tuple[Array, Array, Array]:
    """:func:`standardize` and then :func:`scale_shift` of ``operands`` = x, scale, shift (one shape for both).

    Returns the result, the mean and rstd. One list, so that one VJP makes the three gradients in one walk.
    """
    x, scale, shift = operands
    form = _form(x.shape, axes, scale.shape)
    count, values = _count(x.shape, axes), x.reshape(form.shape)
    result = np.empty(form.shape, dtype=np.result_type(x, scale, shift))
    gain, offset = scale.reshape(form.scales()), shift.reshape(form.scales())
    mean, rstd = (np.empty(form.statistics(), dtype=x.dtype) for _ in range(2))
    scratch = Scratch(result.dtype)
    with unbuffered(form.shape[-1]):
        for part in blocks(form.shape, form.reduced, result.itemsize):
            row, column, block = kept(part, form.reduced), kept(part, form.stretched), result[part]
            mean[row], rstd[row] = _centre(values[part], block, form.reduced, count, eps, scratch)
            if form.constant:
                block *= rstd[row] * gain[column]
            else:
                block *= rstd[row]
                block *= gain[column]
            block += offset[column]
    statistics = kept_shape(x.shape, positive_axes(axes, x.ndim))
    return result.reshape(x.shape), mean.reshape(statistics), rstd.reshape(statistics)


def _normalize_gradients_samples(draw: Any) -> Samples:
    def sample(shape: tuple[int, ...], few: tuple[int, ...], small: tuple[int, ...]) -> tuple[list[Any]]:
        return (
            [draw.real(*shape), draw.real(*shape), draw.real(*few), draw.positive(*few), draw.real(*small)],
        )

    return [
        (sample((3, 5), (3, 1), (5,)), {"axes": (-1,)}),
        (sample((3, 2, 4), (1, 2, 1), (2, 1)), {"axes": (0, 2)}),
        (sample((2, 2, 3, 4), (2, 2, 1, 1), (2, 3, 1)), {"axes": (2, 3)}),
        (sample((4, 3), (1, 3), (4, 3)), {"axes": (0,)}),
        (sample((0, 3), (0, 1), (3,)), {"axes": (1,)}),
    ]


@primitive(samples=_normalize_gradients_samples, sequence="operands")
@widened
def normalize_gradients(operands: list[Array], *, axes: int | Sequence[int]) -> tuple[Array, Array, Array]:
    """The gradients of :func:`normalize` in x, scale and shift; ``operands`` = g, x, mean, rstd, scale.

    With t = (x - mean) rstd and s = g scale: rstd (s - mean(s) - t mean(s t)), sum(g t) and sum(g).
    """
    dtype = np.result_type(*operands)
    g, x, mean, rstd, scale = (a.astype(dtype, copy=False) for a in operands)
    form, count = _form(x.shape, axes, scale.shape), _count(x.shape, axes)
    incoming, values, gradient = g.reshape(form.shape), x.reshape(form.shape), np.empty(form.shape, dtype)
    mean, rstd, gain = (
        mean.reshape(form.statistics()),
        rstd.reshape(form.statistics()),
        scale.reshape(form.scales()),
    )
    by_scale, by_shift = (np.zeros(form.scales(), dtype) for _ in range(2))
    scratch, first = Scratch(dtype), Scratch(dtype, slot=1)
    with unbuffered(form.shape[-1]):
        for part in blocks(form.shape, form.reduced, dtype.itemsize):
            row, column, block, h = (
                kept(part, form.reduced),
                kept(part, form.stretched),
                gradient[part],
                incoming[part],
            )
            r, w = rstd[row], gain[column]
            centred = np.subtract(values[part], mean[row], out=first(h.shape))
            if form.common:
                products = total_of_products(h, centred, form.common, scratch(h.shape))
                h_sums = total(h, form.common)
            else:
                products, h_sums = np.multiply(h, centred, out=scratch(h.shape)), h
            by_scale[column] += weighted_total(products, r, form.stretched)
            by_shift[column] += total(h_sums, form.stretched)
            # r (s - a - c b) with c the centred values
            a = weighted_total(h_sums, w, form.reduced) / count
            b = weighted_total(products, w, form.reduced) * (r * r) / count
            if form.constant:
                np.multiply(h, w * r, out=block)
                centred *= b * r
                block -= centred
                block -= a * r
            else:
                np.multiply(h, w, out=block)
                centred *= b
                block -= centred
                block -= a
                block *= r
    return gradient.reshape(x.shape), by_scale.reshape(scale.shape), by_shift.reshape(scale.shape)


def _normalize_vjp(g: Any, out: Any, operands: Any, *, axes: int | Sequence[int], eps: float) -> list[Any]:
    x, scale, _ = operands
    _, mean, rstd = out
    by_x, by_scale, by_shift = None, None, None
    if g[0] is not None:
        by_x, by_scale, by_shift = normalize_gradients([g[0], x, mean, rstd, scale], axes=axes)
    share = 1 / max(_count(x.shape, axes), 1)
    if g[1] is not None:
        by_x = _plus(by_x, broadcast_to(g[1] * share, shape=x.shape))
    if g[2] is not None:
        by_x = _plus(by_x, (x - mean) * (g[2] * rstd * rstd * rstd * -share))
    return [by_x, by_scale, by_shift]


def _normalize_gradients_vjp(h: Any, out: Any, operands: Any, *, axes: int | Sequence[int]) -> list[Any]:
    """From the definition, by way of s, of t and of rstd where it stands alone."""
    g, x, mean, rstd, scale = operands
    centred = x - mean
    normal = centred * rstd
    by_g: Any = None
    by_normal: Any = None
    by_rstd: Any = None
    by_scale: Any = None
    if h[0] is not None:
        s = rescale(g, scale)
        through = standardize_gradient(h[0], normal, rstd, axes=axes)
        by_g, by_scale = rescale(through, scale), sum_of_products(through, g, shape=scale.shape)
        by_normal = _through_normal(h[0], s, normal, rstd, axes)
        by_rstd = h[0] * _slope(s, normal, axes=axes, center=True)
    if h[1] is not None:
        by_g, by_normal = _plus(by_g, rescale(normal, h[1])), _plus(by_normal, rescale(g, h[1]))
    if h[2] is not None:
        by_g = _plus(by_g, broadcast_to(h[2], shape=g.shape))
    if by_normal is None:
        return [by_g, None, None, None, None]
    by_x = by_normal * rstd
    # The sums over what mean and rstd were broadcast to are the tape's.
    return [by_g, by_x, -by_x, _plus(by_rstd, by_normal * centred), by_scale]


normalize.vjp(operands=_normalize_vjp)
normalize_gradients.vjp(operands=_normalize_gradients_vjp)

"""Sampling a spatial tensor at the points of a grid, as torch's ``grid_sample`` defines it.

Composed of gathers at integer positions (constants) and weights (differentiable in the grid), so derivatives of
every order, also mixed ones, follow.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..registry import derived
from ..tensor import Tensor
from .arithmetic import add, multiply
from .pooling import gather_planes

Array = npt.NDArray[Any]
Padding = Literal["zeros", "border", "reflection"]


def _reflected(position: Array, size: int, align_corners: bool) -> tuple[Array, Array]:
    """Positions mirrored at the edges until they are inside, and the sign of each one's derivative.

    Edges are the centres of the outer elements with ``align_corners``, else their outer sides.
    """
    low, span = (0.0, float(size - 1)) if align_corners else (-0.5, float(size))
    if span == 0:
        return np.zeros_like(position), np.zeros_like(position)
    sign = np.where(position < low, -1.0, 1.0)
    distance = np.abs(position - low)
    rest = np.fmod(distance, span)
    odd = np.floor(distance / span) % 2 != 0
    return np.where(odd, span - rest, rest) + low, np.where(odd, -sign, sign)


def _inside(position: Tensor, size: int, padding: Padding, align_corners: bool) -> Any:
    """The position moved into the tensor as the padding says; the derivative is zero on the edge and beyond."""
    if padding == "zeros":
        return position
    values, slope = position.data, np.ones_like(position.data)
    if padding == "reflection":
        values, slope = _reflected(values, size, align_corners)
    slope = np.where((values > 0) & (values < size - 1), slope, 0.0)
    values = np.clip(values, 0, size - 1)
    # Piecewise slope * position + constant; the constant makes up the exact value.
    return add(multiply(position, slope), values - position.data * slope)


def _tap(index: Array, size: int, padding: Padding, align_corners: bool) -> tuple[Array, Array]:
    """An integer position inside the tensor, and whether it counts (zeros outside do not)."""
    if padding == "reflection":
        index = _reflected(index.astype(np.float64), size, align_corners)[0].astype(np.int64)
    outside = (index < 0) | (index > size - 1) if padding == "zeros" else np.zeros(index.shape, dtype=bool)
    return np.clip(index, 0, size - 1), ~outside


def _cubic_weights(t: Tensor) -> list[Tensor]:
    """Keys' weights (a = -0.75) of the four elements around a position ``t`` past the second one."""
    a = -0.75

    def near(d: Tensor) -> Tensor:
        return ((a + 2) * d - (a + 3)) * d * d + 1

    def far(d: Tensor) -> Tensor:
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a

    return [far(t + 1), near(t), near(1 - t), far(2 - t)]


def _taps(
    position: Tensor, size: int, mode: str, padding: Padding, align_corners: bool
) -> list[tuple[Array, Array, Tensor | None]]:
    """(index, counts, weight) of every element that a position along one axis mixes."""
    if mode == "bicubic":
        first = _whole(np.floor(position.data))
        weights = _cubic_weights(position - first.astype(position.dtype))
        return [
            (*_tap(first + k - 1, size, padding, align_corners), weight) for k, weight in enumerate(weights)
        ]
    position = _inside(position, size, padding, align_corners)
    if mode == "nearest":
        return [(*_tap(_whole(np.rint(position.data)), size, "zeros", align_corners), None)]
    first = _whole(np.floor(position.data))
    fraction = position - first.astype(position.dtype)
    return [
        (*_tap(first, size, "zeros", align_corners), 1 - fraction),
        (*_tap(first + 1, size, "zeros", align_corners), fraction),
    ]


def _whole(position: Array) -> Array:
    """Integers, with far away or undefined positions well outside any tensor."""
    return np.asarray(np.nan_to_num(np.clip(position, -1e9, 1e9), nan=-1e9), dtype=np.int64)


def _corners(
    taps: Sequence[list[tuple[Array, Array, Tensor | None]]], spatial: tuple[int, ...]
) -> Iterator[tuple[Array, Array, Tensor | None]]:
    """Flat index, mask and weight of every combination of taps of the axes."""
    for corner in itertools.product(*taps):
        flat: Any = 0
        counts: Any = True
        weight: Tensor | None = None
        for size, (index, inside, factor) in zip(spatial, corner):
            flat = flat * size + index
            counts = counts & inside
            if factor is not None:
                weight = factor if weight is None else multiply(weight, factor)
        yield flat, counts, weight


@derived
def grid_sample(
    x: Tensor,
    grid: Tensor,
    *,
    mode: Literal["bilinear", "nearest", "bicubic"] = "bilinear",
    padding_mode: Padding = "zeros",
    align_corners: bool = False,
) -> Tensor:
    """Values of ``x`` (batch, channels, *spatial) at the points of ``grid`` (batch, *out, dimensions).

    A grid coordinate runs from -1 to 1 across the tensor (to the centres of its outer elements with
    ``align_corners``, else to their outer sides); the first coordinate belongs to the last axis. Two or three spatial
    axes, "bicubic" only two. Result (batch, channels, *out). From the definition in torch's documentation.
    """
    n = x.ndim - 2
    if grid.shape[-1] != n or grid.shape[0] != x.shape[0] or grid.ndim != n + 2:
        raise ValueError(
            f"grid_sample failed: input {tuple(x.shape)} and grid {tuple(grid.shape)}. The grid must be (batch, *out, "
            f"{n}), one coordinate per spatial axis. Check the grid's last axis."
        )
    spatial = tuple(x.shape[2:])
    taps = []
    for axis, size in enumerate(spatial):
        coordinate = grid[..., n - 1 - axis]
        scale, shift = ((size - 1) / 2, 0.0) if align_corners else (size / 2, -0.5)
        position = (coordinate + 1) * scale + shift
        taps.append(_taps(position, size, mode, padding_mode, align_corners))
    total: Tensor | None = None
    for flat, counts, weight in _corners(taps, spatial):
        term = gather_planes(x, index=np.expand_dims(flat, 1))
        if weight is not None:
            factor = multiply(weight, counts.astype(weight.dtype))
            term = multiply(term, factor.reshape(factor.shape[0], 1, *factor.shape[1:]))
        else:
            term = multiply(term, np.expand_dims(counts, 1).astype(x.dtype))
        total = term if total is None else add(total, term)
    assert total is not None
    return total

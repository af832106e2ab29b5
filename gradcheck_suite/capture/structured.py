"""Hypothesis strategies for tensors that lie on a manifold: symmetric, definite, triangular, orthogonal, simplex.

Off it, a function like ``cholesky`` has no value, and a drawn input would only show that. They are built from small
whole numbers, so that a failing one is readable, and shrink to a one by one matrix or to the identity.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from hypothesis import strategies as st
from torch import Tensor

from .strategies import Shape, as_strategy, laid_out, layouts

__all__ = [
    "lower_triangular",
    "orthogonal",
    "positive_definite",
    "simplex",
    "symmetric",
    "upper_triangular",
]

Size = int | st.SearchStrategy[int] | None
Batch = Shape | st.SearchStrategy[Shape]
Dtype = torch.dtype | st.SearchStrategy[torch.dtype] | None
Layout = str | st.SearchStrategy[str] | None

_ENTRIES = st.one_of(st.integers(-2, 2).map(float), st.integers(-16, 16).map(lambda eighths: eighths / 8))
_PIVOTS = st.sampled_from((1.0, 2.0, 0.5, 1.5, 3.0))
_WEIGHTS = st.integers(1, 8).map(float)
# An expanded one would repeat rows: no longer on the manifold.
_LAYOUTS = layouts("contiguous", "transposed", "sliced", "offset")


def _matrices(
    make: Callable[[st.DrawFn, int, int, torch.dtype], Tensor],
    size: Size,
    batch: Batch,
    dtype: Dtype,
    layout: Layout,
) -> st.SearchStrategy[Tensor]:
    """Batches of what ``make(draw, count, n, dtype)`` returns, ``[count, n, n]`` or ``[count, n]``."""

    @st.composite
    def drawn(draw: st.DrawFn) -> Tensor:
        n = draw(st.integers(1, 4) if size is None else as_strategy(size))
        front = tuple(draw(as_strategy(batch)))
        kind = torch.get_default_dtype() if dtype is None else draw(as_strategy(dtype))
        count = 1
        for side in front:
            count *= side
        made = make(draw, count, n, kind)
        name = draw(_LAYOUTS if layout is None else as_strategy(layout))
        return laid_out(draw, made.reshape(*front, *made.shape[1:]), name)

    return drawn()


def _list(draw: st.DrawFn, entries: st.SearchStrategy[float], *shape: int) -> Tensor:
    count = 1
    for side in shape:
        count *= side
    return torch.tensor(draw(st.lists(entries, min_size=count, max_size=count)), dtype=torch.float64).reshape(
        shape
    )


def _lower(draw: st.DrawFn, count: int, n: int) -> Tensor:
    below = _list(draw, _ENTRIES, count, n * (n - 1) // 2)
    found = torch.diag_embed(_list(draw, _PIVOTS, count, n))
    row, column = torch.tril_indices(n, n, -1)
    found[:, row, column] = below
    return found


def symmetric(
    size: Size = None, *, batch: Batch = (), dtype: Dtype = None, layout: Layout = None
) -> st.SearchStrategy[Tensor]:
    """Symmetric matrices ``[*batch, n, n]``, equal to their transpose bit for bit; ``size`` is n, 1 to 4 by default."""

    def make(draw: st.DrawFn, count: int, n: int, kind: torch.dtype) -> Tensor:
        found = torch.zeros(count, n, n, dtype=torch.float64)
        row, column = torch.tril_indices(n, n)
        found[:, row, column] = _list(draw, _ENTRIES, count, n * (n + 1) // 2)
        return (found + found.tril(-1).mT).to(kind)

    return _matrices(make, size, batch, dtype, layout)


def positive_definite(
    size: Size = None, *, batch: Batch = (), dtype: Dtype = None, layout: Layout = None
) -> st.SearchStrategy[Tensor]:
    """Symmetric positive definite matrices ``[*batch, n, n]``: a triangular factor times its transpose."""

    def make(draw: st.DrawFn, count: int, n: int, kind: torch.dtype) -> Tensor:
        factor = _lower(draw, count, n)
        return (factor @ factor.mT).to(kind)

    return _matrices(make, size, batch, dtype, layout)


def lower_triangular(
    size: Size = None, *, batch: Batch = (), dtype: Dtype = None, layout: Layout = None
) -> st.SearchStrategy[Tensor]:
    """Lower triangular matrices ``[*batch, n, n]`` with a positive diagonal of 0.5 to 3: invertible."""
    return _matrices(lambda draw, count, n, kind: _lower(draw, count, n).to(kind), size, batch, dtype, layout)


def upper_triangular(
    size: Size = None, *, batch: Batch = (), dtype: Dtype = None, layout: Layout = None
) -> st.SearchStrategy[Tensor]:
    """Upper triangular matrices ``[*batch, n, n]`` with a positive diagonal of 0.5 to 3: invertible."""
    return _matrices(
        lambda draw, count, n, kind: _lower(draw, count, n).mT.contiguous().to(kind),
        size,
        batch,
        dtype,
        layout,
    )


def orthogonal(
    size: Size = None, *, batch: Batch = (), dtype: Dtype = None, layout: Layout = None
) -> st.SearchStrategy[Tensor]:
    """Orthogonal matrices ``[*batch, n, n]``: products of up to n Householder reflections, the identity at first."""

    def make(draw: st.DrawFn, count: int, n: int, kind: torch.dtype) -> Tensor:
        found = torch.eye(n, dtype=torch.float64).repeat(count, 1, 1)
        for _ in range(draw(st.integers(0, n))):
            normal = _list(draw, _ENTRIES, count, n)
            normal[:, 0] += normal.abs().sum(-1) == 0  # no reflection along zero
            unit = normal / normal.norm(dim=-1, keepdim=True)
            found = found - 2 * unit[:, :, None] * (unit[:, None, :] @ found)
        return found.to(kind)

    return _matrices(make, size, batch, dtype, layout)


def simplex(
    size: Size = None, *, batch: Batch = (), dtype: Dtype = None, layout: Layout = None
) -> st.SearchStrategy[Tensor]:
    """Probability vectors ``[*batch, n]``: positive, their sum one along the last dimension."""

    def make(draw: st.DrawFn, count: int, n: int, kind: torch.dtype) -> Tensor:
        weights = _list(draw, _WEIGHTS, count, n)
        found: Tensor = weights / weights.sum(-1, keepdim=True)
        return found.to(kind)

    return _matrices(make, size, batch, dtype, layout)

"""Scaled dot-product attention."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from ..registry import derived
from ..tensor import Tensor
from .arithmetic import add, multiply
from .matmul import matmul
from .shape import swapaxes
from .softmax import safe_softmax


@derived
def attention_weights(
    q: Tensor,
    k: Tensor,
    *,
    mask: Tensor | npt.NDArray[Any] | None = None,
    scale: float | None = None,
    causal: bool = False,
) -> Any:
    """softmax(scale q kᵀ + mask) over the keys; the first factor of :func:`attention`."""
    factor = 1 / math.sqrt(q.shape[-1]) if scale is None and q.shape[-1] else 1.0 if scale is None else scale
    scores = matmul(multiply(q, factor), swapaxes(k, axis1=-1, axis2=-2))
    allowed: npt.NDArray[Any] | None = None
    if mask is not None:
        values = mask.data if isinstance(mask, Tensor) else np.asarray(mask)
        if values.dtype == bool:
            allowed = values
        else:
            scores = add(scores, mask)
    if causal:
        # The diagonal starts at the first query and the first key, also where their numbers differ.
        lower = np.tri(q.shape[-2], k.shape[-2], dtype=bool)
        allowed = lower if allowed is None else allowed & lower
    return safe_softmax(scores, axis=-1, allowed=allowed)


@derived
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Tensor | npt.NDArray[Any] | None = None,
    scale: float | None = None,
    causal: bool = False,
    dropout: Tensor | npt.NDArray[Any] | None = None,
) -> Any:
    """softmax(scale q kᵀ + mask) v.

    ``q`` (*batch, queries, width), ``k`` (*batch, keys, width), ``v`` (*batch, keys, values). ``mask`` broadcasts to
    (*batch, queries, keys): boolean (True: attend) or added to the scores; a query that may attend nowhere gives
    zeros. ``scale`` defaults to 1 / sqrt(width). ``dropout`` multiplies the weights and is already scaled. With
    fewer heads (axis -3) in ``k`` and ``v`` than in ``q``, each serves a run of query heads.
    """
    if q.ndim > 3 and k.shape[-3] not in (1, q.shape[-3]):
        heads, shared = q.shape[-3], k.shape[-3]
        runs = heads // shared
        if runs * shared != heads:
            raise ValueError(
                f"attention failed: {heads} query heads and {shared} key heads. Each key head serves an equal run of "
                f"query heads. Make the first a multiple of the second."
            )
        grouped = (*q.shape[:-3], shared, runs)
        if mask is not None and len(mask.shape) > 2:
            mask = _split_heads(mask, heads, (shared, runs))
        if dropout is not None and len(dropout.shape) > 2:
            dropout = _split_heads(dropout, heads, (shared, runs))
        result = attention(
            q.reshape(*grouped, *q.shape[-2:]),
            k.reshape(*k.shape[:-2], 1, *k.shape[-2:]),
            v.reshape(*v.shape[:-2], 1, *v.shape[-2:]),
            mask=mask,
            scale=scale,
            causal=causal,
            dropout=dropout,
        )
        return result.reshape(*q.shape[:-1], v.shape[-1])
    weights = attention_weights(q, k, mask=mask, scale=scale, causal=causal)
    if dropout is not None:
        weights = multiply(weights, dropout)
    return matmul(weights, v)


def _split_heads(mask: Any, heads: int, runs: tuple[int, int]) -> Any:
    parts = runs if mask.shape[-3] == heads else (1, 1)
    return mask.reshape(*mask.shape[:-3], *parts, *mask.shape[-2:])

"""Hypothesis strategies for tensors of any shape, dtype, memory layout and value.

Made to shrink: few elements, whole numbers, contiguous memory. A tensor of up to 16 elements draws each of them; a
larger one draws a few, and a seed that spreads them over the rest, so that a batch of 130 rows costs no more choices
than a row. Importing this module puts torch's random numbers under Hypothesis' control, as it does by itself with those
of Python and NumPy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from hypothesis import register_random
from hypothesis import strategies as st
from torch import Tensor

__all__ = [
    "LAYOUTS",
    "broadcastable",
    "broadcastable_shapes",
    "dtypes",
    "indices",
    "layouts",
    "numbers",
    "shapes",
    "tensors",
]

T = TypeVar("T")
Shape = tuple[int, ...]

LAYOUTS = ("contiguous", "transposed", "permuted", "sliced", "offset", "expanded", "channels_last")
"""Names of memory layouts, the plainest first: tests shrink towards it."""

_MOST_DRAWN = 16
_LARGE = (33, 64, 130)
_FAR = {torch.float64: 1e6, torch.float32: 1e4, torch.bfloat16: 256.0, torch.float16: 64.0}
"""Far out, and yet the cube overflows in none of the dtypes."""


class _TorchRandom:
    """The global generator of torch, as Hypothesis wants it: seeded before each example and put back after."""

    def seed(self, seed: int) -> None:
        torch.default_generator.manual_seed(seed)

    def getstate(self) -> Tensor:
        return torch.default_generator.get_state()

    def setstate(self, state: Tensor) -> None:
        torch.default_generator.set_state(state)


_torch_random = _TorchRandom()  # Hypothesis keeps a weak reference
register_random(_torch_random)


def as_strategy(value: st.SearchStrategy[T] | T) -> st.SearchStrategy[T]:
    """A strategy as it is; of anything else the strategy that always gives it."""
    return value if isinstance(value, st.SearchStrategy) else st.just(value)


# ------------------------------------------------------------------------------------------ shapes, dtypes, layouts


def shapes(
    min_dims: int = 0,
    max_dims: int = 4,
    *,
    min_side: int = 0,
    max_side: int = 5,
    large_batches: bool = True,
) -> st.SearchStrategy[Shape]:
    """Shapes: no dimension, dimensions of size one and zero, and now and then a first dimension of 33 to 130.

    Args:
        min_dims, max_dims: number of dimensions.
        min_side, max_side: size of each; ``min_side=1`` leaves out empty tensors.
        large_batches: whether the first dimension may exceed ``max_side``.
    """

    @st.composite
    def drawn(draw: st.DrawFn) -> Shape:
        # Half of the choices lie in 1 to 3: what is drawn without thought should be small and not empty.
        common = st.integers(max(min_side, 1), max(min_side, min(max_side, 3)))
        any_side = st.integers(min_side, max_side)
        dims = draw(st.integers(min_dims, max_dims))
        sides = [draw(st.one_of(common, any_side)) for _ in range(dims)]
        if large_batches and dims and draw(st.integers(0, 3)) == 3:
            sides[0] = draw(st.sampled_from(_LARGE))
            sides[1:] = [min(side, 3) for side in sides[1:]]
        return tuple(sides)

    return drawn()


def dtypes(*, half: bool = False, complex: bool = False) -> st.SearchStrategy[torch.dtype]:
    """``float64`` and ``float32``; on request the half precisions and the complex dtypes."""
    found = [torch.float64, torch.float32]
    found += [torch.float16, torch.bfloat16] if half else []
    found += [torch.complex128, torch.complex64] if complex else []
    return st.sampled_from(found)


def layouts(*names: str) -> st.SearchStrategy[str]:
    """Names of :data:`LAYOUTS`; all of them by default."""
    _known(*names)
    return st.sampled_from(names or LAYOUTS)


def _known(*names: str) -> None:
    unknown = [name for name in names if name not in LAYOUTS]
    if unknown:
        raise ValueError(
            f"drawing a tensor failed: the layout {unknown[0]!r} is not known. Layouts are named, so that tests can "
            f"shrink towards the plainest. Use one of {', '.join(LAYOUTS)}."
        )


# -------------------------------------------------------------------------------------------------------- numbers


def numbers(
    dtype: torch.dtype = torch.float64,
    *,
    special: bool = True,
    min_value: float | None = None,
    max_value: float | None = None,
    allow_nan: bool = False,
    allow_infinity: bool = False,
) -> st.SearchStrategy[Any]:
    """Single values of a dtype: small whole numbers, eighths, arbitrary floats, and special ones.

    Special are minus zero, a magnitude far out (1e6 in float64, 1e4 in float32), the smallest normal and a subnormal
    number. Few simple values make ties likely. Integers lie in 0 to 5, so that they can serve as classes.

    Args:
        dtype: real, complex, integer or bool.
        special: whether special values are drawn; they are rare otherwise.
        min_value, max_value: bounds of floating values, included: the domain of a logarithm or a square root.
        allow_nan, allow_infinity: whether they are drawn.
    """
    if dtype == torch.bool:
        return st.booleans()
    if dtype.is_complex:
        part = numbers(dtype.to_real(), special=special, allow_nan=allow_nan, allow_infinity=allow_infinity)
        return st.builds(complex, part, part)
    if not dtype.is_floating_point:
        return st.integers(0, 5)
    choices: list[st.SearchStrategy[Any]] = [
        st.integers(-3, 3).map(float),
        st.integers(-64, 64).map(lambda eighths: eighths / 8),
        st.floats(-8, 8, allow_subnormal=False),
    ]
    odd: list[float] = []
    if special:
        far, smallest = _FAR.get(dtype, 64.0), torch.finfo(dtype).tiny
        odd += [-0.0, far, -far, smallest, -smallest, smallest / 4]
    odd += [float("inf"), float("-inf")] if allow_infinity else []
    odd += [float("nan")] if allow_nan else []
    if odd:
        choices.append(st.sampled_from(odd))
    found = st.one_of(choices)
    if min_value is None and max_value is None:
        return found
    low = -np.inf if min_value is None else min_value
    high = np.inf if max_value is None else max_value
    # NaN lies between no bounds, and yet was asked for.
    return found.filter(lambda value: low <= value <= high or value != value)


def _spread(draw: st.DrawFn, count: int, elements: st.SearchStrategy[Any], dtype: torch.dtype) -> Tensor:
    """``count`` values in one dimension."""
    if count <= _MOST_DRAWN:
        values = draw(st.lists(elements, min_size=count, max_size=count))
        return torch.tensor(values, dtype=dtype)
    pool = torch.tensor(draw(st.lists(elements, min_size=1, max_size=6)), dtype=dtype)
    seed = draw(st.integers(0, 2**16))
    chosen = np.random.default_rng(seed).integers(0, len(pool), count) if seed else np.zeros(count, np.int64)
    return pool[torch.from_numpy(chosen)]


# -------------------------------------------------------------------------------------------------------- tensors


def tensors(
    shape: Shape | int | st.SearchStrategy[Shape] | None = None,
    dtype: torch.dtype | st.SearchStrategy[torch.dtype] | None = None,
    layout: str | st.SearchStrategy[str] | None = None,
    elements: st.SearchStrategy[Any] | None = None,
    *,
    min_value: float | None = None,
    max_value: float | None = None,
    allow_nan: bool = False,
    allow_infinity: bool = False,
) -> st.SearchStrategy[Tensor]:
    """Tensors on the CPU.

    Args:
        shape: fixed, or a strategy; default: :func:`shapes`.
        dtype: fixed, or a strategy such as :func:`dtypes`; default: torch's default dtype.
        layout: a name of :data:`LAYOUTS`, or a strategy; default: any. One that a shape cannot have (a transposed
            vector) gives contiguous memory. Expanded tensors repeat their values along a dimension of stride 0.
        elements: strategy of the single values; default: :func:`numbers` of the dtype.
        min_value, max_value, allow_nan, allow_infinity: of the default elements, as in :func:`numbers`.
            ``check_gradients`` refuses inputs with NaN or infinity.

    Raises:
        ValueError: a layout's name is not known.
    """
    if isinstance(layout, str):
        _known(layout)
    wanted_shape = shapes() if shape is None else (shape,) if isinstance(shape, int) else shape
    wanted_layout = layouts() if layout is None else layout

    @st.composite
    def drawn(draw: st.DrawFn) -> Tensor:
        sides: Shape = tuple(draw(as_strategy(wanted_shape)))
        kind = torch.get_default_dtype() if dtype is None else draw(as_strategy(dtype))
        values = elements
        if values is None:
            values = numbers(
                kind,
                min_value=min_value,
                max_value=max_value,
                allow_nan=allow_nan,
                allow_infinity=allow_infinity,
            )
        name = draw(as_strategy(wanted_layout))
        _known(name)
        compact = expanded_from(draw, sides) if name == "expanded" else sides
        # As many values as without: to draw fewer is simpler, and what shrinks would end up expanded.
        tensor = _spread(draw, int(np.prod(sides, dtype=np.int64)), values, kind).reshape(sides)
        if compact != sides:
            first = tuple(slice(side) for side in compact)
            return tensor[first].clone().expand(sides)
        return laid_out(draw, tensor, name)

    return drawn()


def expanded_from(draw: st.DrawFn, shape: Shape) -> Shape:
    """The shape with one of its dimensions of more than one element made one."""
    wide = [dim for dim, side in enumerate(shape) if side > 1]
    if not wide:
        return shape
    dim = draw(st.sampled_from(wide))
    return (*shape[:dim], 1, *shape[dim + 1 :])


def laid_out(draw: st.DrawFn, tensor: Tensor, name: str) -> Tensor:
    """The same values in other memory; as they are where the shape allows no such layout."""
    shape, dims = tuple(tensor.shape), tensor.dim()
    order = list(range(dims))
    if name == "transposed" and dims >= 2:
        order[-2:] = order[-1], order[-2]
    elif name == "permuted" and dims >= 2:
        order = list(draw(st.permutations(order)))
    elif name == "channels_last" and dims in (4, 5):
        order = [0, *range(2, dims), 1]
    elif name == "sliced" and dims >= 1:
        dim = draw(st.integers(0, dims - 1))
        room = torch.zeros((*shape[:dim], 2 * shape[dim], *shape[dim + 1 :]), dtype=tensor.dtype)
        view = room[(slice(None),) * dim + (slice(None, None, 2),)]
        return view.copy_(tensor)
    elif name == "offset":
        before = draw(st.integers(1, 3))
        return torch.cat([torch.zeros(before, dtype=tensor.dtype), tensor.reshape(-1)])[before:].view(shape)
    if order == list(range(dims)):
        return tensor
    inverse = [order.index(dim) for dim in range(dims)]
    return tensor.permute(order).contiguous().permute(inverse)


def indices(
    high: int, shape: Shape | int | st.SearchStrategy[Shape] | None = None
) -> st.SearchStrategy[Tensor]:
    """int64 tensors of values from 0 to ``high - 1``: for embeddings, gathers and class labels. Repetitions happen."""
    return tensors(shape, torch.int64, None, st.integers(0, high - 1))


# --------------------------------------------------------------------------------------------------- broadcasting


def broadcastable_shapes(
    count: int = 2, *, max_dims: int = 3, min_side: int = 0, max_side: int = 4
) -> st.SearchStrategy[tuple[Shape, ...]]:
    """Shapes that broadcast together: leading dimensions left out, others of size one.

    One of them, any, has the shape of the result more often than not; otherwise little would be broadcast.
    """

    @st.composite
    def drawn(draw: st.DrawFn) -> tuple[Shape, ...]:
        # Where no side is larger than one, or one is zero, broadcasting wrongly makes no difference.
        common = shapes(
            min(1, max_dims),
            max_dims,
            min_side=min(max(min_side, 2), max_side),
            max_side=max_side,
            large_batches=False,
        )
        whole = draw(
            st.one_of(common, shapes(0, max_dims, min_side=min_side, max_side=max_side, large_batches=False))
        )
        full = draw(st.integers(0, count))
        found: list[Shape] = []
        for number in range(count):
            if number == full:
                found.append(whole)
                continue
            # Always as many choices, so that an example with fewer dimensions is still one when it shrinks.
            left_out, ones = draw(st.integers(0, max_dims)), draw(st.integers(0, 2**max_dims - 1))
            kept = whole[min(left_out, len(whole)) :]
            found.append(tuple(1 if ones >> axis & 1 else side for axis, side in enumerate(kept)))
        return tuple(found)

    return drawn()


def broadcastable(
    count: int = 2,
    dtype: torch.dtype | st.SearchStrategy[torch.dtype] | None = None,
    layout: str | st.SearchStrategy[str] | None = None,
    elements: st.SearchStrategy[Any] | None = None,
    *,
    shapes: st.SearchStrategy[Sequence[Shape]] | None = None,
) -> st.SearchStrategy[tuple[Tensor, ...]]:
    """Tuples of tensors of one dtype whose shapes broadcast together; the arguments are those of :func:`tensors`."""

    @st.composite
    def drawn(draw: st.DrawFn) -> tuple[Tensor, ...]:
        sides = draw(broadcastable_shapes(count) if shapes is None else shapes)
        kind = torch.get_default_dtype() if dtype is None else draw(as_strategy(dtype))
        return tuple(draw(tensors(side, kind, layout, elements)) for side in sides)

    return drawn()

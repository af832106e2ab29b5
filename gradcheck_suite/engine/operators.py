"""What can be written with a `Tensor`: Python's protocols and operators, and methods that spell a primitive.

Operators and methods are one call each of a primitive; what it computes, and its derivative, is in `primitives/`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .registry import PRIMITIVES

if TYPE_CHECKING:
    from .tensor import Tensor

Array = NDArray[Any]
_Own = TypeVar("_Own", bound="Operators")


class Operators:
    """The operators; `Tensor` is the one class that has them."""

    __slots__ = ()

    __hash__ = object.__hash__  # == answers elementwise; tensors are told apart by identity

    data: Array

    def __len__(self) -> int:
        if not self.data.ndim:
            raise TypeError("len() of a 0-d Tensor")
        return len(self.data)

    def __iter__(self) -> Iterator[Tensor]:
        if not self.data.ndim:
            raise TypeError("iteration over a 0-d Tensor")
        return (self[i] for i in range(len(self.data)))

    def __float__(self) -> float:
        return float(self.data.item())

    def __int__(self) -> int:
        return int(self.data.item())

    def __complex__(self) -> complex:
        return complex(self.data.item())

    def __bool__(self) -> bool:
        return bool(self.data)

    def __add__(self, other: Any) -> Tensor:
        return PRIMITIVES["add"](self, other)  # type: ignore[no-any-return]

    def __radd__(self, other: Any) -> Tensor:
        return PRIMITIVES["add"](other, self)  # type: ignore[no-any-return]

    def __sub__(self, other: Any) -> Tensor:
        return PRIMITIVES["subtract"](self, other)  # type: ignore[no-any-return]

    def __rsub__(self, other: Any) -> Tensor:
        return PRIMITIVES["subtract"](other, self)  # type: ignore[no-any-return]

    def __mul__(self, other: Any) -> Tensor:
        return PRIMITIVES["multiply"](self, other)  # type: ignore[no-any-return]

    def __rmul__(self, other: Any) -> Tensor:
        return PRIMITIVES["multiply"](other, self)  # type: ignore[no-any-return]

    def __truediv__(self, other: Any) -> Tensor:
        return PRIMITIVES["divide"](self, other)  # type: ignore[no-any-return]

    def __rtruediv__(self, other: Any) -> Tensor:
        return PRIMITIVES["divide"](other, self)  # type: ignore[no-any-return]

    def __pow__(self, other: Any) -> Tensor:
        return PRIMITIVES["power"](self, other)  # type: ignore[no-any-return]

    def __rpow__(self, other: Any) -> Tensor:
        return PRIMITIVES["power"](other, self)  # type: ignore[no-any-return]

    def __matmul__(self, other: Any) -> Tensor:
        return PRIMITIVES["matmul"](self, other)  # type: ignore[no-any-return]

    def __rmatmul__(self, other: Any) -> Tensor:
        return PRIMITIVES["matmul"](other, self)  # type: ignore[no-any-return]

    def __floordiv__(self, other: Any) -> Tensor:
        return PRIMITIVES["floor_divide"](self, other)  # type: ignore[no-any-return]

    def __rfloordiv__(self, other: Any) -> Tensor:
        return PRIMITIVES["floor_divide"](other, self)  # type: ignore[no-any-return]

    def __mod__(self, other: Any) -> Tensor:
        return PRIMITIVES["remainder"](self, other)  # type: ignore[no-any-return]

    def __rmod__(self, other: Any) -> Tensor:
        return PRIMITIVES["remainder"](other, self)  # type: ignore[no-any-return]

    def __neg__(self) -> Tensor:
        return PRIMITIVES["negative"](self)  # type: ignore[no-any-return]

    def __pos__(self: _Own) -> _Own:
        return self

    def __abs__(self) -> Tensor:
        return PRIMITIVES["absolute"](self)  # type: ignore[no-any-return]

    def __getitem__(self, index: Any) -> Tensor:
        return PRIMITIVES["getitem"](self, index=plain_index(index))  # type: ignore[no-any-return]

    # Comparisons are answers, not tensors to differentiate: plain boolean arrays.
    def __eq__(self, other: Any) -> Any:
        return np.equal(self.data, raw(other))

    def __ne__(self, other: Any) -> Any:
        return np.not_equal(self.data, raw(other))

    def __lt__(self, other: Any) -> Any:
        return np.less(self.data, raw(other))

    def __le__(self, other: Any) -> Any:
        return np.less_equal(self.data, raw(other))

    def __gt__(self, other: Any) -> Any:
        return np.greater(self.data, raw(other))

    def __ge__(self, other: Any) -> Any:
        return np.greater_equal(self.data, raw(other))

    # ---- conveniences ------------------------------------------------------------------------------

    @property
    def T(self) -> Tensor:
        """All axes reversed."""
        return PRIMITIVES["transpose"](self)  # type: ignore[no-any-return]

    @property
    def mT(self) -> Tensor:
        """The last two axes exchanged."""
        return PRIMITIVES["swapaxes"](self, axis1=-2, axis2=-1)  # type: ignore[no-any-return]

    @property
    def real(self) -> Tensor:
        return PRIMITIVES["real"](self)  # type: ignore[no-any-return]

    @property
    def imag(self) -> Tensor:
        return PRIMITIVES["imag"](self)  # type: ignore[no-any-return]

    def reshape(self, *shape: Any) -> Tensor:
        wanted = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
        return PRIMITIVES["reshape"](self, shape=tuple(wanted))  # type: ignore[no-any-return]

    def transpose(self, *axes: Any) -> Tensor:
        wanted = axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else axes
        return PRIMITIVES["transpose"](self, axes=tuple(wanted) if wanted else None)  # type: ignore[no-any-return]

    def sum(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        return PRIMITIVES["sum"](self, axis=axis, keepdims=keepdims)  # type: ignore[no-any-return]

    def mean(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        return PRIMITIVES["mean"](self, axis=axis, keepdims=keepdims)  # type: ignore[no-any-return]

    def astype(self, dtype: DTypeLike) -> Tensor:
        return PRIMITIVES["cast"](self, dtype=np.dtype(dtype).name)  # type: ignore[no-any-return]

    def clone(self) -> Tensor:
        """A copy with its own buffer, connected to the graph."""
        return PRIMITIVES["clone"](self)  # type: ignore[no-any-return]

    def conj(self) -> Tensor:
        return PRIMITIVES["conj"](self)  # type: ignore[no-any-return]

    def exp(self) -> Tensor:
        return PRIMITIVES["exp"](self)  # type: ignore[no-any-return]

    def log(self) -> Tensor:
        return PRIMITIVES["log"](self)  # type: ignore[no-any-return]

    def sqrt(self) -> Tensor:
        return PRIMITIVES["sqrt"](self)  # type: ignore[no-any-return]

    def square(self) -> Tensor:
        return PRIMITIVES["square"](self)  # type: ignore[no-any-return]

    def sin(self) -> Tensor:
        return PRIMITIVES["sin"](self)  # type: ignore[no-any-return]

    def cos(self) -> Tensor:
        return PRIMITIVES["cos"](self)  # type: ignore[no-any-return]

    def tanh(self) -> Tensor:
        return PRIMITIVES["tanh"](self)  # type: ignore[no-any-return]

    def sigmoid(self) -> Tensor:
        return PRIMITIVES["sigmoid"](self)  # type: ignore[no-any-return]

    def relu(self) -> Tensor:
        return PRIMITIVES["relu"](self)  # type: ignore[no-any-return]


def raw(value: Any) -> Any:
    """The ndarray inside a Tensor; anything else unchanged."""
    return value.data if isinstance(value, Operators) else value


def plain_index(index: Any) -> Any:
    """An index expression with the Tensors in it replaced by their arrays."""
    if isinstance(index, tuple):
        return tuple(plain_index(part) for part in index)
    return index.data if isinstance(index, Operators) else index

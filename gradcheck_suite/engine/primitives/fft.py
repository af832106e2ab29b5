"""Discrete Fourier transforms along any axes.

All are linear. The adjoint of a transform is the inverse transform with the opposite normalisation; a real
transform counts each of its inner frequencies twice, once for the conjugate one that it leaves out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import scipy  # its parts are imported on first use

from ..primitive import primitive
from ..registry import derived
from ..tensor import Tensor
from .arithmetic import multiply
from .complex_parts import conj
from .indexing import getitem
from .shape import pad

Array = npt.NDArray[Any]
Norm = Literal["backward", "ortho", "forward"]
Axes = int | Sequence[int]

ADJOINT_NORM: dict[str, Norm] = {"backward": "forward", "forward": "backward", "ortho": "ortho"}


def _tuple(axes: Axes) -> tuple[int, ...]:
    return (int(axes),) if isinstance(axes, (int, np.integer)) else tuple(int(a) for a in axes)


def _complex_samples(draw: Any) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    return [
        ((draw.complex(5),), {}),
        ((draw.complex(2, 3, 4),), {"axes": (0, 2), "norm": "ortho"}),
        ((draw.real(3, 4),), {"axes": (-1,), "norm": "forward"}),
        ((draw.complex(0, 4),), {"axes": (1,)}),
    ]


@primitive(samples=_complex_samples)
def fft(x: Array, *, axes: Axes = (-1,), norm: Norm = "backward") -> Array:
    """Complex discrete Fourier transform over ``axes``; ``norm`` says where 1/n goes, as in NumPy."""
    if x.size == 0:
        return np.zeros(x.shape, dtype=np.result_type(x.dtype, np.complex64))
    return np.asarray(scipy.fft.fftn(x, axes=_tuple(axes), norm=norm))


@primitive(samples=_complex_samples)
def ifft(x: Array, *, axes: Axes = (-1,), norm: Norm = "backward") -> Array:
    """Inverse of :func:`fft` with the same ``axes`` and ``norm``."""
    if x.size == 0:
        return np.zeros(x.shape, dtype=np.result_type(x.dtype, np.complex64))
    return np.asarray(scipy.fft.ifftn(x, axes=_tuple(axes), norm=norm))


fft.vjp(x=lambda g, out, x, *, axes=(-1,), norm="backward": ifft(g, axes=axes, norm=ADJOINT_NORM[norm]))
fft.jvp(x="linear")
ifft.vjp(x=lambda g, out, x, *, axes=(-1,), norm="backward": fft(g, axes=axes, norm=ADJOINT_NORM[norm]))
ifft.jvp(x="linear")


def _multiplicity(n: int, axis: int, ndim: int) -> Array:
    """How many of the n frequencies each kept one stands for (2 inside, 1 at zero and at n/2), along ``axis``."""
    count = np.full(n // 2 + 1, 2.0)
    count[0] = 1
    if n % 2 == 0:
        count[-1] = 1
    return count.reshape([-1 if i == axis % ndim else 1 for i in range(ndim)])


def _real_samples(draw: Any) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    return [
        ((draw.real(5),), {}),
        ((draw.real(6, 2),), {"axis": 0, "norm": "ortho"}),
        ((draw.real(2, 4),), {"norm": "forward"}),
        ((draw.real(0, 4),), {}),
        ((draw.real(1),), {}),
    ]


def _half_samples(draw: Any) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    return [
        ((draw.complex(3),), {"n": 5}),
        ((draw.complex(4, 2),), {"n": 6, "axis": 0, "norm": "ortho"}),
        ((draw.complex(2, 3),), {"n": 4, "norm": "forward"}),
        ((draw.complex(0, 3),), {"n": 4}),
    ]


@primitive(samples=_real_samples)
def real_to_half(x: Array, *, axis: int = -1, norm: Norm = "backward") -> Array:
    """The n // 2 + 1 lowest frequencies of a real ``x`` along one axis: all there is to know of them."""
    if x.size == 0:
        shape = list(x.shape)
        shape[axis] = shape[axis] // 2 + 1
        return np.zeros(shape, dtype=np.result_type(x.dtype, np.complex64))
    return np.asarray(scipy.fft.rfft(x, axis=axis, norm=norm))


@primitive(samples=_half_samples)
def half_to_real(x: Array, *, n: int, axis: int = -1, norm: Norm = "backward") -> Array:
    """The real signal of length ``n`` along ``axis`` that has these n // 2 + 1 lowest frequencies."""
    if x.size == 0:
        shape = list(x.shape)
        shape[axis] = n
        return np.zeros(shape, dtype=x.real.dtype)
    return np.asarray(scipy.fft.irfft(x, n=n, axis=axis, norm=norm))


def _real_to_half_vjp(g: Tensor, out: Any, x: Tensor, *, axis: int = -1, norm: Norm = "backward") -> Any:
    n = x.shape[axis]
    weights = 1 / _multiplicity(n, axis, x.ndim)
    return half_to_real(multiply(g, weights.astype(x.dtype)), n=n, axis=axis, norm=ADJOINT_NORM[norm])


def _half_to_real_vjp(
    g: Tensor, out: Any, x: Tensor, *, n: int, axis: int = -1, norm: Norm = "backward"
) -> Any:
    weights = _multiplicity(n, axis, x.ndim)
    return multiply(real_to_half(g, axis=axis, norm=ADJOINT_NORM[norm]), weights.astype(g.dtype))


real_to_half.vjp(x=_real_to_half_vjp)
real_to_half.jvp(x="linear")
half_to_real.vjp(x=_half_to_real_vjp)
half_to_real.jvp(x="linear")


def _resized(x: Tensor, axis: int, length: int) -> Any:
    """Cut or zero-padded at the end of one axis."""
    axis %= x.ndim
    size = x.shape[axis]
    if size > length:
        return getitem(x, index=(*(slice(None),) * axis, slice(0, length)))
    if size < length:
        return pad(x, widths=[(0, length - size if i == axis else 0) for i in range(x.ndim)])
    return x


@derived
def rfft(x: Tensor, *, axes: Axes = (-1,), norm: Norm = "backward") -> Any:
    """Transform of a real ``x`` over ``axes``, of the last of which only the n // 2 + 1 lowest frequencies."""
    *others, last = _tuple(axes)
    half = real_to_half(x, axis=last, norm=norm)
    return fft(half, axes=tuple(others), norm=norm) if others else half


@derived
def irfft(x: Tensor, *, n: int | None = None, axes: Axes = (-1,), norm: Norm = "backward") -> Any:
    """Inverse of :func:`rfft`: real, of length ``n`` (default 2 (m - 1)) along the last of ``axes``."""
    *others, last = _tuple(axes)
    length = 2 * (x.shape[last] - 1) if n is None else n
    x = _resized(x, last, length // 2 + 1)
    full = ifft(x, axes=tuple(others), norm=norm) if others else x
    return half_to_real(full, n=length, axis=last, norm=norm)


@derived
def hfft(x: Tensor, *, n: int | None = None, axis: int = -1, norm: Norm = "backward") -> Any:
    """Real transform of a signal that is Hermitian along ``axis``, of which half is given."""
    length = 2 * (x.shape[axis] - 1) if n is None else n
    return half_to_real(
        conj(_resized(x, axis, length // 2 + 1)), n=length, axis=axis, norm=ADJOINT_NORM[norm]
    )


@derived
def ihfft(x: Tensor, *, axis: int = -1, norm: Norm = "backward") -> Any:
    """Inverse of :func:`hfft`: half of the Hermitian signal whose transform is the real ``x``."""
    return conj(real_to_half(x, axis=axis, norm=ADJOINT_NORM[norm]))

"""Complex parts of numbers and their conversion: linear maps that every rule for complex numbers needs.

Derivatives from the definitions, with the real inner product <a, b> = Re sum(conj(a) b).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..primitive import primitive

Array = NDArray[Any]


def bar(x: Any) -> Any:
    """The complex conjugate; a real tensor as it is, at no cost (rules conjugate everything)."""
    return conj(x) if x.data.dtype.kind == "c" else x


@primitive(exact=True, samples=lambda draw: [(draw.complex(3, 2),), (draw.real(2),), (draw.complex(),)])
def conj(x: Array) -> Array:
    """Complex conjugate; a real x is returned as it is."""
    return np.conjugate(x) if x.dtype.kind == "c" else x


conj.vjp(x=lambda g, out, x: conj(g))
conj.jvp(x="linear")


@primitive(exact=True, samples=lambda draw: [(draw.complex(3, 2),), (draw.real(2),), (draw.complex(),)])
def real(x: Array) -> Array:
    """Real part."""
    return x.real


real.vjp(x=lambda g, out, x: g)
real.jvp(x="linear")


@primitive(exact=True, samples=lambda draw: [(draw.complex(3, 2),), (draw.real(2),), (draw.complex(),)])
def imag(x: Array) -> Array:
    """Imaginary part (zeros for real x)."""
    return x.imag


imag.jvp(x="linear")


@primitive(
    exact=True,
    samples=lambda draw: [(draw.real(3, 2), draw.real(2)), (draw.real(), draw.real(2)), (0.0, draw.real(2))],
)
def make_complex(re: Array, im: Array) -> Array:
    """re + i im, from real parts of equal precision."""
    dtype = np.result_type(re, im)
    made = np.empty(np.broadcast_shapes(np.shape(re), np.shape(im)), np.result_type(dtype, np.complex64))
    made.real, made.imag = re, im
    return made


imag.vjp(x=lambda g, out, x: make_complex(0.0, g))
make_complex.vjp(re=lambda g, out, re, im: real(g), im=lambda g, out, re, im: imag(g))
make_complex.jvp(re=lambda dx, out, re, im: dx, im=lambda dy, out, re, im: make_complex(0.0, dy))


@primitive(
    exact=True,
    samples=lambda draw: [
        ((draw.real(3),), {"dtype": "complex128"}),
        ((draw.complex(2),), {"dtype": "float64"}),
        ((draw.real(2, 2),), {"dtype": "float64"}),
    ],
)
def cast(x: Array, *, dtype: str) -> Array:
    """x in another dtype, as it is when it has that dtype; complex to real keeps the real part."""
    wanted = np.dtype(dtype)
    x = np.asarray(x)
    return (x.real if x.dtype.kind == "c" and wanted.kind != "c" else x).astype(wanted, copy=False)


cast.vjp(x=lambda g, out, x: g)
cast.jvp(x="linear")


@primitive(
    exact=True, analytic=True, samples=lambda draw: [(draw.real(3, 2),), (draw.complex(),), (draw.real(0),)]
)
def clone(x: Array) -> Array:
    """A copy with a buffer of its own."""
    return np.array(x)


clone.vjp(x=lambda g, out, x: g)
clone.jvp(x="linear")

"""Linear algebra on stacks of matrices, real and complex: solving, determinants, functions of a matrix.

The formulas follow from differentiating the defining equations and transposing the result. The factorisations
live in :mod:`.factorization`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import scipy  # its parts are imported on first use

from ..primitive import primitive
from ..registry import derived
from ..tensor import Tensor
from .arithmetic import multiply
from .complex_parts import conj, imag, make_complex, real
from .indexing import getitem
from .matmul import matmul
from .reduction import sum as sum_over
from .shape import concatenate, diagonal, roll, swapaxes, tril, triu

Array = npt.NDArray[Any]
Samples = list[Any]


def adjoint(a: Tensor) -> Any:
    """Conjugate transpose of the last two axes."""
    return swapaxes(conj(a) if a.dtype.kind == "c" else a, axis1=-1, axis2=-2)


def _h(a: Array) -> Array:
    return np.conj(np.swapaxes(a, -1, -2))


def _eye(n: int, like: Any) -> Array:
    return np.eye(n, dtype=like.dtype)


def _column(v: Tensor) -> Tensor:
    """A vector per matrix as factors of its rows."""
    return v.reshape(*v.shape, 1)


def _row(v: Tensor) -> Tensor:
    """A vector per matrix as factors of its columns."""
    return v.reshape(*v.shape[:-1], 1, v.shape[-1])


def _diag(a: Tensor) -> Any:
    return diagonal(a, offset=0, axis1=-2, axis2=-1)


def _square_samples(draw: Any) -> Samples:
    return [
        (draw.real(3, 3) + 3 * np.eye(3),),
        (draw.complex(2, 2, 2) + 3 * np.eye(2),),
        (draw.positive(1, 1),),
        (draw.real(0, 2, 2),),
    ]


# -------------------------------------------------------------------------------------- inverse and solve


@primitive(samples=_square_samples)
def inv(a: Array) -> Array:
    """Inverse of every matrix of ``a`` (*batch, n, n). Raises LinAlgError where one is singular."""
    return np.asarray(np.linalg.inv(a))


inv.vjp(a=lambda g, out, a: -matmul(matmul(adjoint(out), g), adjoint(out)))
inv.jvp(a=lambda da, out, a: -matmul(matmul(out, da), out))


def _solve_samples(draw: Any) -> Samples:
    return [
        (draw.real(3, 3) + 3 * np.eye(3), draw.real(3, 2)),
        (draw.complex(2, 2, 2) + 3 * np.eye(2), draw.complex(2, 2, 1)),
        (draw.real(2, 2) + 3 * np.eye(2), draw.real(3, 2, 2)),
        (draw.real(0, 2, 2), draw.real(0, 2, 1)),
    ]


@primitive(samples=_solve_samples)
def solve(a: Array, b: Array) -> Array:
    """The x with a x = b, for ``a`` (*batch, n, n) and ``b`` (*batch, n, k); batches broadcast.

    Raises LinAlgError where a matrix is singular.
    """
    return np.asarray(np.linalg.solve(a, b))


solve.vjp(
    a=lambda g, out, a, b: -matmul(solve(adjoint(a), g), adjoint(out)),
    b=lambda g, out, a, b: solve(adjoint(a), g),
)
solve.jvp(a=lambda da, out, a, b: -solve(a, matmul(da, out)), b="linear")


def _triangular_samples(draw: Any) -> Samples:
    a = draw.real(3, 3) + 3 * np.eye(3)
    return [
        ((a, draw.real(3, 2)), {"lower": True}),
        ((a, draw.real(3, 2)), {"lower": False, "unit_diagonal": True}),
        ((draw.complex(2, 2, 2) + 3 * np.eye(2), draw.complex(2, 2, 2)), {"lower": False}),
        ((draw.real(2, 2) + 3 * np.eye(2), draw.real(3, 2, 1)), {"lower": True}),
        ((draw.real(0, 2, 2), draw.real(0, 2, 1)), {"lower": True}),
    ]


@primitive(samples=_triangular_samples)
def solve_triangular(a: Array, b: Array, *, lower: bool, unit_diagonal: bool = False) -> Array:
    """The x with t x = b, where t is the lower or upper triangle of ``a``, with ones on its diagonal if
    ``unit_diagonal``. Shapes as in :func:`solve`; a zero on the diagonal gives infinities.
    """
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    dtype = np.result_type(a, b)
    result = np.empty((*batch, *b.shape[-2:]), dtype=dtype)
    if result.size == 0:
        return result
    matrices = np.broadcast_to(a, (*batch, *a.shape[-2:])).astype(dtype, copy=False)
    sides = np.broadcast_to(b, result.shape).astype(dtype, copy=False)
    (trtrs,) = scipy.linalg.get_lapack_funcs(("trtrs",), (matrices, sides))
    for index in np.ndindex(*batch):
        x, info = trtrs(matrices[index], sides[index], lower=int(lower), unitdiag=int(unit_diagonal))
        if info > 0:  # LAPACK declines an exact zero on the diagonal; the limit is what torch gives
            t = np.tril(matrices[index]) if lower else np.triu(matrices[index])
            x = _substitute(t, sides[index], lower)
        result[index] = x
    return result


def _substitute(t: Array, b: Array, lower: bool) -> Array:
    x = b.copy()
    order = range(len(t)) if lower else range(len(t) - 1, -1, -1)
    with np.errstate(all="ignore"):
        for i in order:
            solved = slice(0, i) if lower else slice(i + 1, None)
            x[i] = (x[i] - t[i, solved] @ x[solved]) / t[i, i]
    return np.asarray(x)


def _triangle(a: Tensor, lower: bool, unit_diagonal: bool) -> Any:
    if lower:
        return tril(a, k=-1 if unit_diagonal else 0)
    return triu(a, k=1 if unit_diagonal else 0)


def _solve_transposed(a: Tensor, g: Tensor, lower: bool, unit_diagonal: bool) -> Any:
    return solve_triangular(adjoint(a), g, lower=not lower, unit_diagonal=unit_diagonal)


solve_triangular.vjp(
    a=lambda g, out, a, b, *, lower, unit_diagonal=False: (
        -_triangle(matmul(_solve_transposed(a, g, lower, unit_diagonal), adjoint(out)), lower, unit_diagonal)
    ),
    b=lambda g, out, a, b, *, lower, unit_diagonal=False: _solve_transposed(a, g, lower, unit_diagonal),
)
solve_triangular.jvp(
    a=lambda da, out, a, b, *, lower, unit_diagonal=False: (
        -solve_triangular(
            a, matmul(_triangle(da, lower, unit_diagonal), out), lower=lower, unit_diagonal=unit_diagonal
        )
    ),
    b="linear",
)


@derived
def solve_right(a: Tensor, b: Tensor) -> Any:
    """The x with x a = b."""
    return swapaxes(
        solve(swapaxes(a, axis1=-1, axis2=-2), swapaxes(b, axis1=-1, axis2=-2)), axis1=-1, axis2=-2
    )


@derived
def solve_triangular_right(a: Tensor, b: Tensor, *, lower: bool, unit_diagonal: bool = False) -> Any:
    """The x with x t = b, where t is the triangle of ``a`` as in :func:`solve_triangular`."""
    transposed = solve_triangular(
        swapaxes(a, axis1=-1, axis2=-2),
        swapaxes(b, axis1=-1, axis2=-2),
        lower=not lower,
        unit_diagonal=unit_diagonal,
    )
    return swapaxes(transposed, axis1=-1, axis2=-2)


# ------------------------------------------------------------------------------------------ determinants


@primitive(samples=_square_samples)
def cofactor(a: Array) -> Array:
    """The matrix of cofactors, det(a) inv(a)ᵀ, which also a singular matrix has.

    From the singular values: the cofactors of U S Vᴴ are det(U) conj(U) cof(S) det(Vᴴ) Vᵀᴴ.
    """
    if a.size == 0:
        return np.zeros_like(a)
    u, s, vh = np.linalg.svd(a)
    n = s.shape[-1]
    others = np.where(np.eye(n, dtype=bool), 1.0, s[..., np.newaxis, :]).prod(axis=-1)
    factor = np.linalg.det(u) * np.linalg.det(vh)
    return np.asarray(
        (np.conj(u) * others[..., np.newaxis, :]) @ np.conj(vh) * factor[..., np.newaxis, np.newaxis]
    )


@primitive(samples=_square_samples)
def det(a: Array) -> Array:
    """Determinant of every matrix of ``a`` (*batch, n, n)."""
    return np.asarray(np.linalg.det(a))


def _matrix(scalar: Tensor) -> Tensor:
    return scalar.reshape(*scalar.shape, 1, 1)


def _cofactor_jvp(da: Tensor, out: Tensor, a: Tensor) -> Any:
    """d(det a⁻ᵀ) = det (tr(a⁻¹ da) a⁻ᵀ - a⁻ᵀ daᵀ a⁻ᵀ), for an invertible matrix."""
    inverse_t = swapaxes(inv(a), axis1=-1, axis2=-2)
    trace = sum_over(multiply(inverse_t, da), axis=(-2, -1))
    moved = matmul(matmul(inverse_t, swapaxes(da, axis1=-1, axis2=-2)), inverse_t)
    return multiply(_matrix(det(a)), multiply(_matrix(trace), inverse_t) - moved)


def _cofactor_vjp(g: Tensor, out: Tensor, a: Tensor) -> Any:
    """The adjoint of :func:`_cofactor_jvp`, which is symmetric but for conjugation: swap the two matrices."""
    return _cofactor_jvp(g, out, conj(a))


det.vjp(a=lambda g, out, a: multiply(_matrix(g), conj(cofactor(a))))
det.jvp(a=lambda da, out, a: sum_over(multiply(cofactor(a), da), axis=(-2, -1)))
cofactor.vjp(a=_cofactor_vjp)
cofactor.jvp(a=_cofactor_jvp)


@primitive(samples=_square_samples)
def slogdet(a: Array) -> tuple[Array, Array]:
    """Sign (phase) of the determinant, and the logarithm of its modulus, of ``a`` (*batch, n, n)."""
    sign, logarithm = np.linalg.slogdet(a)
    return np.asarray(sign), np.asarray(logarithm)


def _slogdet_vjp(g: Any, out: Any, a: Tensor) -> Any:
    sign = out[0]
    weight: Tensor | None = g[1]
    if g[0] is not None and a.dtype.kind == "c":
        turn = make_complex(imag(conj(sign) * g[0]) * 0.0, imag(conj(sign) * g[0]))
        weight = turn if weight is None else weight + turn
    if weight is None:  # the sign of a real determinant is piecewise constant
        return None
    return multiply(_matrix(weight), adjoint(inv(a)))


def _slogdet_jvp(da: Tensor, out: Any, a: Tensor) -> tuple[Tensor | None, Tensor]:
    trace = sum_over(_diag(solve(a, da)), axis=-1)
    if a.dtype.kind != "c":
        return None, trace
    return multiply(out[0], make_complex(imag(trace) * 0.0, imag(trace))), real(trace)


slogdet.vjp(a=_slogdet_vjp)
slogdet.jvp(a=_slogdet_jvp)


# ----------------------------------------------------------------------------------- functions of matrices


def rectangular_samples(draw: Any) -> Samples:
    return [
        (draw.real(4, 3) + 3 * np.eye(4, 3) * np.arange(1, 4),),
        (draw.real(2, 3) + 3 * np.eye(2, 3) * np.arange(1, 4),),
        (draw.complex(2, 3, 2) + 4 * np.eye(3, 2) * np.arange(1, 3),),
        (draw.real(0, 2, 2),),
    ]


@primitive(
    samples=lambda draw: [
        (draw.real(3, 3),),
        (draw.complex(2, 2, 2),),
        (draw.real(1, 1),),
        (draw.real(0, 2, 2),),
    ]
)
def expm(a: Array) -> Array:
    """Matrix exponential of every matrix of ``a`` (*batch, n, n)."""
    if a.size == 0:
        return np.zeros_like(a)
    return np.asarray(scipy.linalg.expm(a)).astype(a.dtype, copy=False)


def _expm_frechet(a: Tensor, direction: Tensor) -> Any:
    """Derivative of expm at ``a`` in a direction: the corner of exp([[a, direction], [0, a]]) (R. Mathias, 1996)."""
    n = a.shape[-1]
    top = concatenate([a, direction], axis=-1)
    bottom = concatenate([np.zeros(a.shape, dtype=a.dtype), a], axis=-1)
    return getitem(expm(concatenate([top, bottom], axis=-2)), index=(..., slice(0, n), slice(n, None)))


expm.vjp(a=lambda g, out, a: _expm_frechet(adjoint(a), g))
expm.jvp(a=lambda da, out, a: _expm_frechet(a, da))


@primitive(samples=lambda draw: [((sample[0],), {}) for sample in rectangular_samples(draw)])
def pinv(a: Array, *, rcond: float | None = None) -> Array:
    """Pseudo-inverse of every matrix of ``a`` (*batch, m, n); singular values up to ``rcond`` times the largest count
    as zero (default: the machine epsilon times the longer side). Differentiable where the rank is constant.
    """
    if rcond is None:
        rcond = float(np.finfo(a.dtype).eps) * max(a.shape[-2:], default=1)
    if a.size == 0:
        return np.zeros((*a.shape[:-2], a.shape[-1], a.shape[-2]), dtype=a.dtype)
    return np.asarray(np.linalg.pinv(a, rcond))


def _pinv_jvp(da: Tensor, out: Tensor, a: Tensor) -> Any:
    """Golub and Pereyra 1973: -b da b + b bᴴ daᴴ (1 - a b) + (1 - b a) daᴴ bᴴ b, with b the pseudo-inverse."""
    b, bh, dh = out, adjoint(out), adjoint(da)
    left = matmul(matmul(b, bh), dh)
    right = matmul(matmul(dh, bh), b)
    return left - matmul(matmul(left, a), b) + right - matmul(b, matmul(a, right)) - matmul(matmul(b, da), b)


def _pinv_vjp(g: Tensor, out: Tensor, a: Tensor) -> Any:
    b, bh, gh = out, adjoint(out), adjoint(g)
    first = matmul(matmul(gh, b), bh)
    second = matmul(bh, matmul(b, gh))
    return (
        first
        - matmul(a, matmul(b, first))
        + second
        - matmul(matmul(second, b), a)
        - matmul(matmul(bh, g), bh)
    )


pinv.vjp(a=_pinv_vjp)
pinv.jvp(a=_pinv_jvp)


@derived
def lstsq(a: Tensor, b: Tensor, *, rcond: float | None = None) -> Any:
    """The shortest x that minimises |a x - b| per column, for ``a`` (*batch, m, n) and ``b`` (*batch, m, k)."""
    return matmul(pinv(a, rcond=rcond), b)


@derived
def matrix_power(a: Tensor, n: int) -> Tensor:
    """``a`` (*batch, k, k) multiplied n times, by squaring; a negative n takes the inverse."""
    if n == 0:
        return a * 0.0 + _eye(a.shape[-1], a)
    if n < 0:
        a, n = inv(a), -n
    result: Tensor | None = None
    while True:
        if n & 1:
            result = a if result is None else matmul(result, a)
        n >>= 1
        if not n:
            assert result is not None
            return result
        a = matmul(a, a)


@derived
def householder_product(reflectors: Tensor, tau: Tensor) -> Tensor:
    """The first n columns of h_1 h_2 ... h_k, with h_i = 1 - tau_i v_i v_iᴴ.

    ``reflectors`` (*batch, m, n) holds v_i in column i below a one on the diagonal and zeros above; ``tau`` is
    (*batch, k), k <= n.
    """
    m, n = reflectors.shape[-2:]
    product: Any = np.broadcast_to(np.eye(m, n, dtype=reflectors.dtype), reflectors.shape)
    vectors = tril(reflectors, k=-1) + np.eye(m, n, dtype=reflectors.dtype)
    for i in reversed(range(tau.shape[-1])):
        v = getitem(vectors, index=(..., slice(i, i + 1)))
        factor = getitem(tau, index=(..., slice(i, i + 1)))
        product = product - multiply(_column(factor), matmul(v, matmul(adjoint(v), product)))
    return product  # type: ignore[no-any-return]


@derived
def cross(a: Tensor, b: Tensor, *, axis: int = -1) -> Any:
    """Cross product along an axis of three; the others broadcast."""
    if a.shape[axis] != 3 or b.shape[axis] != 3:
        raise ValueError(
            f"cross failed: axis {axis} has {a.shape[axis]} and {b.shape[axis]} elements. The product is defined in "
            f"three dimensions. Choose another axis."
        )

    def turned(x: Tensor, by: int) -> Any:
        return roll(x, shift=by, axis=axis)

    return multiply(turned(a, -1), turned(b, 1)) - multiply(turned(a, 1), turned(b, -1))

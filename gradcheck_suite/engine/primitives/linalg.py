"""Linear algebra on stacks of matrices, real and complex.

The formulas follow from differentiating each factorisation's defining equations and transposing the result.
A factorisation with a free choice (the phase of an eigenvector, say) has no derivative of its own along that
choice; its VJP is right for every loss that does not depend on it, which is all that can be asked. ``cholesky``
and ``eigh`` are functions of the Hermitian part of their argument, so their gradients are Hermitian.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.linalg

from ..errors import NotDifferentiableError
from ..primitive import primitive
from ..registry import derived
from ..tensor import Tensor
from .arithmetic import conj, imag, make_complex, multiply, real
from .indexing import getitem
from .matmul import matmul
from .reduction import sum as sum_over
from .shape import concatenate, diag_embed, diagonal, roll, swapaxes, tril, triu

Array = npt.NDArray[Any]
Samples = list[Any]


def adjoint(a: Tensor) -> Tensor:
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


def _diag(a: Tensor) -> Tensor:
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
    return x


def _triangle(a: Tensor, lower: bool, unit_diagonal: bool) -> Tensor:
    if lower:
        return tril(a, k=-1 if unit_diagonal else 0)
    return triu(a, k=1 if unit_diagonal else 0)


def _solve_transposed(a: Tensor, g: Tensor, lower: bool, unit_diagonal: bool) -> Tensor:
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
def solve_right(a: Tensor, b: Tensor) -> Tensor:
    """The x with x a = b."""
    return swapaxes(
        solve(swapaxes(a, axis1=-1, axis2=-2), swapaxes(b, axis1=-1, axis2=-2)), axis1=-1, axis2=-2
    )


@derived
def solve_triangular_right(a: Tensor, b: Tensor, *, lower: bool, unit_diagonal: bool = False) -> Tensor:
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


def _cofactor_jvp(da: Tensor, out: Tensor, a: Tensor) -> Tensor:
    """d(det a⁻ᵀ) = det (tr(a⁻¹ da) a⁻ᵀ - a⁻ᵀ daᵀ a⁻ᵀ), for an invertible matrix."""
    inverse_t = swapaxes(inv(a), axis1=-1, axis2=-2)
    trace = sum_over(multiply(inverse_t, da), axis=(-2, -1))
    moved = matmul(matmul(inverse_t, swapaxes(da, axis1=-1, axis2=-2)), inverse_t)
    return multiply(_matrix(det(a)), multiply(_matrix(trace), inverse_t) - moved)


def _cofactor_vjp(g: Tensor, out: Tensor, a: Tensor) -> Tensor:
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


def _slogdet_vjp(g: Any, out: Any, a: Tensor) -> Tensor | None:
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


# ------------------------------------------------------------------------------- Hermitian factorisations


def _hermitian_part(a: Array) -> Array:
    return np.asarray((a + _h(a)) * a.dtype.type(0.5))


def _hermitian(a: Tensor) -> Tensor:
    return (a + adjoint(a)) * 0.5


def _positive_definite(draw: Any) -> Samples:
    z = draw.complex(2, 2)
    return [(draw.spd(3),), (draw.spd(2, 2),), (z @ _h(z) + np.eye(2),), (draw.real(0, 2, 2),)]


@primitive(samples=_positive_definite)
def cholesky(a: Array) -> Array:
    """The lower triangular l with l lᴴ equal to the Hermitian part of ``a`` (*batch, n, n).

    Raises LinAlgError where a matrix is not positive definite.
    """
    return np.asarray(np.linalg.cholesky(_hermitian_part(a)))


def _half_lower(a: Tensor) -> Tensor:
    """Lower triangle with half the diagonal."""
    lower = np.tri(a.shape[-1]) - 0.5 * np.eye(a.shape[-1])
    return multiply(a, lower.astype(a.data.real.dtype))


def _cholesky_vjp(g: Tensor, out: Tensor, a: Tensor) -> Tensor:
    # dl = l half_lower(l⁻¹ da l⁻ᴴ); taking the Hermitian part drops the imaginary part of the diagonal.
    inner = _half_lower(matmul(adjoint(out), g))
    left = solve_triangular(adjoint(out), inner, lower=False)
    return _hermitian(adjoint(solve_triangular(adjoint(out), adjoint(left), lower=False)))


def _cholesky_jvp(da: Tensor, out: Tensor, a: Tensor) -> Tensor:
    left = solve_triangular(out, _hermitian(da), lower=True)
    both = adjoint(solve_triangular(out, adjoint(left), lower=True))
    return matmul(out, _half_lower(both))


cholesky.vjp(a=_cholesky_vjp)
cholesky.jvp(a=_cholesky_jvp)


def _symmetric(draw: Any) -> Samples:
    a, z = draw.real(3, 3), draw.complex(2, 3, 3)
    return [
        (a + a.T + np.diag([0.0, 5.0, 10.0]),),
        (z + _h(z) + np.diag([0.0, 9.0, 18.0]),),
        (draw.real(0, 2, 2),),
    ]


@primitive(samples=_symmetric)
def eigh(a: Array) -> tuple[Array, Array]:
    """Eigenvalues (ascending, real) and eigenvectors (columns) of the Hermitian part of ``a`` (*batch, n, n).

    An eigenvector's sign or phase is free: a loss must not depend on it, and not tell equal eigenvalues' vectors
    apart.
    """
    values, vectors = np.linalg.eigh(_hermitian_part(a))
    return values, vectors


def _gaps(values: Array) -> Array:
    """1 / (w_j - w_i) off the diagonal, 0 on it."""
    difference = values[..., np.newaxis, :] - values[..., :, np.newaxis]
    diagonal_ = np.eye(values.shape[-1], dtype=bool)
    return np.where(diagonal_, 0, 1 / np.where(diagonal_, 1, difference))


def _inverse_gaps(values: Tensor) -> Tensor:
    """:func:`_gaps` in differentiable operations."""
    identity = np.eye(values.shape[-1], dtype=values.dtype)
    difference = _row(values) - _column(values)
    return (1 / (difference + identity)) * (1 - identity)


def _eigh_vjp(g: Any, out: Any, a: Tensor) -> Tensor | None:
    values, vectors = out
    if g[0] is None and g[1] is None:
        return None
    inner: Tensor | None = None
    if g[1] is not None:
        inner = multiply(matmul(adjoint(vectors), g[1]), _inverse_gaps(values))
    if g[0] is not None:
        inner = diag_embed(g[0]) if inner is None else inner + diag_embed(g[0])
    return _hermitian(matmul(matmul(vectors, inner), adjoint(vectors)))


def _eigh_jvp(da: Tensor, out: Any, a: Tensor) -> tuple[Tensor, Tensor]:
    values, vectors = out
    inner = matmul(matmul(adjoint(vectors), _hermitian(da)), vectors)
    return real(_diag(inner)), matmul(vectors, multiply(inner, _inverse_gaps(values)))


eigh.vjp(a=_eigh_vjp)
eigh.jvp(a=_eigh_jvp)


def _eig_samples(draw: Any) -> Samples:
    return [
        (draw.real(3, 3) * 0.3 + np.diag([1.0, 4.0, 8.0]),),
        (draw.complex(2, 3, 3) * 0.3 + np.diag([1.0, 4.0, 8.0]),),
        (draw.real(0, 2, 2),),
    ]


@primitive(samples=_eig_samples)
def eig(a: Array) -> tuple[Array, Array]:
    """Eigenvalues and eigenvectors (columns of norm one) of ``a`` (*batch, n, n), always complex.

    A vector's phase is free: a loss must not depend on it.
    """
    values, vectors = np.linalg.eig(a)
    dtype = np.result_type(a.dtype, np.complex64)
    return values.astype(dtype, copy=False), vectors.astype(dtype, copy=False)


def _eig_vjp(g: Any, out: Any, a: Tensor) -> Tensor | None:
    values, vectors = out
    if g[0] is None and g[1] is None:
        return None
    inner: Tensor | None = None
    if g[1] is not None:
        # dv_j has no part along v_j: what makes it longer is taken out.
        across = matmul(adjoint(vectors), g[1])
        gram = matmul(adjoint(vectors), vectors)
        across = across - multiply(gram, _row(real(_diag(across))))
        inner = multiply(across, conj(_inverse_gaps(values)))
    if g[0] is not None:
        inner = diag_embed(g[0]) if inner is None else inner + diag_embed(g[0])
    return solve(adjoint(vectors), matmul(inner, adjoint(vectors)))


def _eig_jvp(da: Tensor, out: Any, a: Tensor) -> tuple[Tensor, Tensor]:
    values, vectors = out
    inner = solve(vectors, matmul(da, vectors))
    turned = matmul(vectors, multiply(inner, _inverse_gaps(values)))
    along = real(sum_over(multiply(conj(vectors), turned), axis=-2, keepdims=True))
    return _diag(inner), turned - multiply(vectors, along)


eig.vjp(a=_eig_vjp)
eig.jvp(a=_eig_jvp)


# -------------------------------------------------------------------------------- singular values, QR, LU


def _rectangular(draw: Any) -> Samples:
    return [
        (draw.real(4, 3) + 3 * np.eye(4, 3) * np.arange(1, 4),),
        (draw.real(2, 3) + 3 * np.eye(2, 3) * np.arange(1, 4),),
        (draw.complex(2, 3, 2) + 4 * np.eye(3, 2) * np.arange(1, 3),),
        (draw.real(0, 2, 2),),
    ]


@primitive(
    samples=lambda draw: [
        *_rectangular(draw),
        ((draw.real(3, 3) + np.diag([1.0, 4.0, 9.0]),), {"full": True}),
    ]
)
def svd(a: Array, *, full: bool = False) -> tuple[Array, Array, Array]:
    """u, s, vᴴ with ``a`` = u diag(s) vᴴ, for ``a`` (*batch, m, n); s descending, u and v reduced unless ``full``.

    The sign or phase of a pair of singular vectors is free: a loss must not depend on it. The vectors that ``full``
    adds have no derivative: NotDifferentiableError if a loss depends on them.
    """
    u, s, vh = np.linalg.svd(a, full_matrices=full)
    return u, s, vh


def _leading(g: Tensor | None, k: int, axis: int) -> Tensor | None:
    """The cotangent of the first k singular vectors, once it is sure that the others have none."""
    if g is None or g.shape[axis] == k:
        return g
    kept = [slice(None)] * g.ndim
    rest = list(kept)
    kept[axis], rest[axis] = slice(0, k), slice(k, None)
    if np.any(g.data[tuple(rest)]):
        raise NotDifferentiableError(
            f"differentiating svd(full=True) failed: the loss depends on singular vectors beyond the first {k}. They "
            f"are any basis of a null space and have no derivative. Use the reduced decomposition."
        )
    return getitem(g, index=tuple(kept))


def _svd_vjp(g: Any, out: Any, a: Tensor, *, full: bool = False) -> Tensor | None:
    u, s, vh = out
    m, n = a.shape[-2:]
    k = min(m, n)
    if full:
        u, vh = getitem(u, index=(..., slice(0, k))), getitem(vh, index=(..., slice(0, k), slice(None)))
    gu, gs, gvh = _leading(g[0], k, -1), g[1], _leading(g[2], k, -2)
    if gu is None and gs is None and gvh is None:
        return None
    uh, v = adjoint(u), adjoint(vh)
    inner: Tensor | None = None if gs is None else diag_embed(gs)
    outer: Tensor | None = None
    # With F = 1 / (s_j² - s_i²): uᴴ du = F (dp s + s dpᴴ), vᴴ dv = F (s dp + dpᴴ s), where dp = uᴴ da v.
    if gu is not None:
        across = matmul(uh, gu)
        turn = multiply(multiply(across - adjoint(across), _inverse_gaps(s * s)), _row(s))
        inner = turn if inner is None else inner + turn
        if m > k:
            beyond = matmul(gu - matmul(u, across), multiply(_column(1 / s), vh))
            outer = beyond
    if gvh is not None:
        gv = adjoint(gvh)
        across_v = matmul(vh, gv)
        turn = multiply(multiply(across_v - adjoint(across_v), _inverse_gaps(s * s)), _column(s))
        inner = turn if inner is None else inner + turn
        if n > k:
            beyond = matmul(multiply(u, _row(1 / s)), adjoint(gv - matmul(v, across_v)))
            outer = beyond if outer is None else outer + beyond
    if a.dtype.kind == "c" and gu is not None:
        # A pair's common phase is free; what the loss sees is how u turns against v: Im(dp_ii) / s_i.
        phase = imag(_diag(matmul(uh, gu))) / s
        inner = inner + diag_embed(make_complex(phase * 0.0, phase))  # type: ignore[operator]
    total = None if inner is None else matmul(matmul(u, inner), vh)
    if outer is None:
        return total
    return outer if total is None else total + outer


svd.vjp(a=_svd_vjp)


@derived
def svdvals(a: Tensor) -> Tensor:
    """Singular values of every matrix of ``a``, descending."""
    return svd(a)[1]  # type: ignore[no-any-return]


@primitive(samples=_rectangular)
def qr(a: Array) -> tuple[Array, Array]:
    """q, r with ``a`` = q r: orthonormal columns, upper triangle (reduced), for ``a`` (*batch, m, n).

    The derivative is that of the factorisation with a diagonal of r of constant phase.
    """
    q, r = np.linalg.qr(a)
    return q, r


def _qr_tall_vjp(gq: Tensor | None, gr: Tensor | None, q: Tensor, r: Tensor) -> Tensor:
    # da r⁻¹ = dq + q dr r⁻¹. In c = qᴴ da r⁻¹ the part below the diagonal is qᴴ dq's, which is skew.
    along: Tensor | None = None if gr is None else matmul(gr, adjoint(r))
    turn = matmul(adjoint(q), gq) if gq is not None else None
    if along is not None:
        turn = -along if turn is None else turn - along
    assert turn is not None
    inner = tril(turn - adjoint(turn), k=-1)
    if q.dtype.kind == "c":
        spin = imag(_diag(turn))
        inner = inner + diag_embed(make_complex(spin * 0.0, spin))
    if along is not None:
        inner = inner + along
    total = matmul(q, inner)
    if gq is not None:
        total = total + gq - matmul(q, matmul(adjoint(q), gq))
    # Multiply with r⁻ᴴ from the right.
    return adjoint(solve_triangular(r, adjoint(total), lower=False))


def _qr_vjp(g: Any, out: Any, a: Tensor) -> Tensor | None:
    gq, gr = g
    q, r = out
    if gq is None and gr is None:
        return None
    m, n = a.shape[-2:]
    if m >= n:
        return _qr_tall_vjp(gq, None if gr is None else triu(gr), q, r)
    # a = [x y] with square x = q u: r = [u, qᴴ y].
    first, rest = (..., slice(0, m)), (..., slice(m, None))
    u = getitem(r, index=first)
    if gr is None:
        gx = _qr_tall_vjp(gq, None, q, u)
        gy = gx * 0.0
        return concatenate([gx, getitem(matmul(gy, r) * 0.0, index=rest)], axis=-1)
    gv = getitem(gr, index=rest)
    through = matmul(getitem(a, index=rest), adjoint(gv))
    gx = _qr_tall_vjp(through if gq is None else gq + through, triu(getitem(gr, index=first)), q, u)
    return concatenate([gx, matmul(q, gv)], axis=-1)


qr.vjp(a=_qr_vjp)


@primitive(samples=_rectangular, nondifferentiable_outputs=(0,))
def lu(a: Array) -> tuple[Array, Array, Array]:
    """p, l, u with ``a`` = p l u: a permutation (constant), unit lower and upper triangle, for (*batch, m, n)."""
    m, n = a.shape[-2:]
    k = min(m, n)
    p = np.zeros((*a.shape[:-2], m, m), dtype=a.dtype)
    lower = np.zeros((*a.shape[:-2], m, k), dtype=a.dtype)
    upper = np.zeros((*a.shape[:-2], k, n), dtype=a.dtype)
    for index in np.ndindex(*a.shape[:-2]):
        p[index], lower[index], upper[index] = scipy.linalg.lu(a[index])
    return p, lower, upper


def _lu_square(gl: Tensor, gu: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """l⁻ᴴ (strict lower (lᴴ gl) + upper (gu uᴴ)) u⁻ᴴ, as l⁻¹ d(lu) u⁻¹ = l⁻¹ dl + du u⁻¹ splits into triangles."""
    inner = tril(matmul(adjoint(lower), gl), k=-1) + triu(matmul(gu, adjoint(upper)))
    left = solve_triangular(adjoint(lower), inner, lower=False, unit_diagonal=True)
    return adjoint(solve_triangular(upper, adjoint(left), lower=False))


def _lu_vjp(g: Any, out: Any, a: Tensor) -> Tensor | None:
    p, lower, upper = out
    gl, gu = g[1], g[2]
    if gl is None and gu is None:
        return None
    gl = lower * 0.0 if gl is None else tril(gl, k=-1)
    gu = upper * 0.0 if gu is None else triu(gu)
    m, n = a.shape[-2:]
    if m == n:
        total = _lu_square(gl, gu, lower, upper)
    elif m < n:  # upper = [u1, l⁻¹ a2]
        first, rest = (..., slice(0, m)), (..., slice(m, None))
        g2 = solve_triangular(adjoint(lower), getitem(gu, index=rest), lower=False, unit_diagonal=True)
        gl = gl - matmul(g2, adjoint(getitem(upper, index=rest)))
        g1 = _lu_square(gl, getitem(gu, index=first), lower, getitem(upper, index=first))
        total = concatenate([g1, g2], axis=-1)
    else:  # lower = [l1; a2 u⁻¹]
        top, bottom = (..., slice(0, n), slice(None)), (..., slice(n, None), slice(None))
        g2 = adjoint(solve_triangular(upper, adjoint(getitem(gl, index=bottom)), lower=False))
        gu = gu - matmul(adjoint(getitem(lower, index=bottom)), g2)
        g1 = _lu_square(getitem(gl, index=top), gu, getitem(lower, index=top), upper)
        total = concatenate([g1, g2], axis=-2)
    return matmul(p, total)


lu.vjp(a=_lu_vjp)


@derived
def lu_factor(a: Tensor) -> tuple[Array, Tensor]:
    """(permutation matrix, l and u in one matrix) of ``a`` (*batch, m, n), as LAPACK stores the factors."""
    p, lower, upper = lu(a)
    m, n = a.shape[-2:]
    strict = tril(lower, k=-1)
    if m < n:
        strict = concatenate([strict, np.zeros((*a.shape[:-2], m, n - m), dtype=a.dtype)], axis=-1)
    elif m > n:
        upper = concatenate([upper, np.zeros((*a.shape[:-2], m - n, n), dtype=a.dtype)], axis=-2)
    return p, strict + upper


# ----------------------------------------------------------------------------------- functions of matrices


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


def _expm_frechet(a: Tensor, direction: Tensor) -> Tensor:
    """Derivative of expm at ``a`` in a direction: the corner of exp([[a, direction], [0, a]]) (R. Mathias, 1996)."""
    n = a.shape[-1]
    top = concatenate([a, direction], axis=-1)
    bottom = concatenate([np.zeros(a.shape, dtype=a.dtype), a], axis=-1)
    return getitem(expm(concatenate([top, bottom], axis=-2)), index=(..., slice(0, n), slice(n, None)))


expm.vjp(a=lambda g, out, a: _expm_frechet(adjoint(a), g))
expm.jvp(a=lambda da, out, a: _expm_frechet(a, da))


@primitive(samples=lambda draw: [((sample[0],), {}) for sample in _rectangular(draw)])
def pinv(a: Array, *, rcond: float | None = None) -> Array:
    """Pseudo-inverse of every matrix of ``a`` (*batch, m, n); singular values up to ``rcond`` times the largest count
    as zero (default: the machine epsilon times the longer side). Differentiable where the rank is constant.
    """
    if rcond is None:
        rcond = float(np.finfo(a.dtype).eps) * max(a.shape[-2:], default=1)
    if a.size == 0:
        return np.zeros((*a.shape[:-2], a.shape[-1], a.shape[-2]), dtype=a.dtype)
    return np.asarray(np.linalg.pinv(a, rcond))


def _pinv_jvp(da: Tensor, out: Tensor, a: Tensor) -> Tensor:
    """Golub and Pereyra 1973: -b da b + b bᴴ daᴴ (1 - a b) + (1 - b a) daᴴ bᴴ b, with b the pseudo-inverse."""
    b, bh, dh = out, adjoint(out), adjoint(da)
    left = matmul(matmul(b, bh), dh)
    right = matmul(matmul(dh, bh), b)
    return left - matmul(matmul(left, a), b) + right - matmul(b, matmul(a, right)) - matmul(matmul(b, da), b)


def _pinv_vjp(g: Tensor, out: Tensor, a: Tensor) -> Tensor:
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
def lstsq(a: Tensor, b: Tensor, *, rcond: float | None = None) -> Tensor:
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
def cross(a: Tensor, b: Tensor, *, axis: int = -1) -> Tensor:
    """Cross product along an axis of three; the others broadcast."""
    if a.shape[axis] != 3 or b.shape[axis] != 3:
        raise ValueError(
            f"cross failed: axis {axis} has {a.shape[axis]} and {b.shape[axis]} elements. The product is defined in "
            f"three dimensions. Choose another axis."
        )

    def turned(x: Tensor, by: int) -> Tensor:
        return roll(x, shift=by, axis=axis)

    return multiply(turned(a, -1), turned(b, 1)) - multiply(turned(a, 1), turned(b, -1))

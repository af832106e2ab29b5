"""Factorisations of stacks of matrices, real and complex.

The formulas follow from differentiating each factorisation's defining equations and transposing the result.
A factorisation with a free choice (the phase of an eigenvector, say) has no derivative of its own along that
choice; its VJP is right for every loss that does not depend on it, which is all that can be asked. Another
library may choose otherwise; ``like`` takes over the choice from its vectors. ``cholesky`` and ``eigh`` are
functions of the Hermitian part of their argument, so their gradients are Hermitian.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import scipy  # its parts are imported on first use

from ..errors import NotDifferentiableError
from ..primitive import primitive
from ..registry import derived
from ..tensor import Tensor
from .arithmetic import multiply
from .complex_parts import conj, imag, make_complex, real
from .indexing import getitem
from .linalg import _column, _diag, _h, _row, adjoint, rectangular_samples, solve, solve_triangular
from .matmul import matmul
from .reduction import sum as sum_over
from .shape import concatenate, diag_embed, tril, triu

Array = npt.NDArray[Any]
Samples = list[Any]


def _turn(vectors: Array, like: Array) -> Array:
    """The phase per column that turns each vector as close to that of ``like`` as it gets."""
    overlap = np.sum(np.conj(vectors) * like, axis=-2, keepdims=True)
    size = np.abs(overlap)
    return np.asarray(np.where(size > 0, overlap / np.where(size > 0, size, 1), 1).astype(vectors.dtype))


# ------------------------------------------------------------------------------- Hermitian factorisations


def _hermitian_part(a: Array) -> Array:
    return np.asarray((a + _h(a)) * a.dtype.type(0.5))


def _hermitian(a: Tensor) -> Any:
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


def _half_lower(a: Tensor) -> Any:
    """Lower triangle with half the diagonal."""
    lower = np.tri(a.shape[-1]) - 0.5 * np.eye(a.shape[-1])
    return multiply(a, lower.astype(a.data.real.dtype))


def _cholesky_vjp(g: Tensor, out: Tensor, a: Tensor) -> Any:
    # dl = l half_lower(l⁻¹ da l⁻ᴴ); taking the Hermitian part drops the imaginary part of the diagonal.
    inner = _half_lower(matmul(adjoint(out), g))
    left = solve_triangular(adjoint(out), inner, lower=False)
    return _hermitian(adjoint(solve_triangular(adjoint(out), adjoint(left), lower=False)))


def _cholesky_jvp(da: Tensor, out: Tensor, a: Tensor) -> Any:
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
def eigh(a: Array, *, like: Array | None = None) -> tuple[Array, Array]:
    """Eigenvalues (ascending, real) and eigenvectors (columns) of the Hermitian part of ``a`` (*batch, n, n).

    An eigenvector's sign or phase is free: a loss must not depend on it, and not tell equal eigenvalues' vectors
    apart. ``like`` (*batch, n, n): choose the phases that come closest to these vectors.
    """
    values, vectors = np.linalg.eigh(_hermitian_part(a))
    return values, vectors if like is None else vectors * _turn(vectors, like)


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


def _eigh_vjp(g: Any, out: Any, a: Tensor) -> Any:
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
def eig(a: Array, *, like: Array | None = None) -> tuple[Array, Array]:
    """Eigenvalues and eigenvectors (columns of norm one) of ``a`` (*batch, n, n), always complex.

    A vector's phase is free: a loss must not depend on it. ``like`` (*batch, n, n): choose the phases that come
    closest to these vectors.
    """
    values, vectors = np.linalg.eig(a)
    dtype = np.result_type(a.dtype, np.complex64)
    values, vectors = values.astype(dtype, copy=False), vectors.astype(dtype, copy=False)
    return values, vectors if like is None else vectors * _turn(vectors, like)


def _eig_vjp(g: Any, out: Any, a: Tensor) -> Any:
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


@primitive(
    samples=lambda draw: [
        *rectangular_samples(draw),
        ((draw.real(3, 3) + np.diag([1.0, 4.0, 9.0]),), {"full": True}),
    ]
)
def svd(a: Array, *, full: bool = False, like: Array | None = None) -> tuple[Array, Array, Array]:
    """u, s, vᴴ with ``a`` = u diag(s) vᴴ, for ``a`` (*batch, m, n); s descending, u and v reduced unless ``full``.

    The sign or phase of a pair of singular vectors is free: a loss must not depend on it. The vectors that ``full``
    adds have no derivative: NotDifferentiableError if a loss depends on them. ``like``: choose the
    phases that come closest to this u.
    """
    u, s, vh = np.linalg.svd(a, full_matrices=full)
    if like is not None:
        k = s.shape[-1]
        turn = _turn(u[..., :k], like[..., :k])
        u[..., :k] *= turn
        vh[..., :k, :] *= _h(turn)
    return u, s, vh


def _leading(g: Tensor | None, k: int, axis: int) -> Any:
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
        inner = inner + diag_embed(make_complex(phase * 0.0, phase))
    total = None if inner is None else matmul(matmul(u, inner), vh)
    if outer is None:
        return total
    return outer if total is None else total + outer


svd.vjp(a=_svd_vjp)


@derived
def svdvals(a: Tensor) -> Tensor:
    """Singular values of every matrix of ``a``, descending."""
    return svd(a)[1]  # type: ignore[no-any-return]


@primitive(samples=rectangular_samples)
def qr(a: Array) -> tuple[Array, Array]:
    """q, r with ``a`` = q r: orthonormal columns, upper triangle (reduced), for ``a`` (*batch, m, n).

    The derivative is that of the factorisation with a diagonal of r of constant phase.
    """
    q, r = np.linalg.qr(a)
    return q, r


def _qr_tall_vjp(gq: Tensor | None, gr: Tensor | None, q: Tensor, r: Tensor) -> Any:
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


def _qr_vjp(g: Any, out: Any, a: Tensor) -> Any:
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


@primitive(samples=rectangular_samples, nondifferentiable_outputs=(0,))
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


def _lu_square(gl: Tensor, gu: Tensor, lower: Tensor, upper: Tensor) -> Any:
    """l⁻ᴴ (strict lower (lᴴ gl) + upper (gu uᴴ)) u⁻ᴴ, as l⁻¹ d(lu) u⁻¹ = l⁻¹ dl + du u⁻¹ splits into triangles."""
    inner = tril(matmul(adjoint(lower), gl), k=-1) + triu(matmul(gu, adjoint(upper)))
    left = solve_triangular(adjoint(lower), inner, lower=False, unit_diagonal=True)
    return adjoint(solve_triangular(upper, adjoint(left), lower=False))


def _lu_vjp(g: Any, out: Any, a: Tensor) -> Any:
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

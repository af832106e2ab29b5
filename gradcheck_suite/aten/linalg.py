"""Linear algebra: solving, factorisations, determinants, functions of matrices.

Factors are unique only up to a choice: the sign or phase of a singular vector, the order of eigenvalues, the pivots.
That choice is taken from torch's recorded factors, so that a cotangent for torch's vectors meets the same vectors.
"""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import numpy as np
import scipy  # its parts are imported on first use

from ..engine import ops as e
from .registry import RECORDED, MeaningUnavailableError, meaning
from .values import constant, raw, shape_of


def adjoint_of(a):
    """Conjugate transpose of the last two axes."""
    return e.conj(e.swapaxes(a, axis1=-1, axis2=-2))


def transposed(a):
    return e.swapaxes(a, axis1=-1, axis2=-2)


def hermitian(a, upper=False):
    """The Hermitian matrix whose lower (or upper) triangle ``a`` holds.

    torch reads one triangle and documents the argument to be Hermitian; its gradient is the one on that set, the
    derivative of the Hermitian part. A difference between the triangles therefore enters as a constant.
    """
    data = raw(a)
    strict = np.triu(data, 1) if upper else np.tril(data, -1)
    matrix = strict + np.conj(np.swapaxes(strict, -1, -2)) + data.real * np.eye(data.shape[-1])
    difference = matrix - (data + np.conj(np.swapaxes(data, -1, -2))) / 2
    return a if not np.any(difference) else a + constant(difference)


def triangular(a, upper):
    """A triangular factor: what lies beyond the triangle is not read, but the gradient is that of all of ``a``."""
    data = raw(a)
    difference = (np.triu(data) if upper else np.tril(data)) - data
    return a if not np.any(difference) else a + constant(difference)


# Solving -------------------------------------------------------------------------------------------------------


@meaning("aten::linalg_inv_ex")
def inv_ex(A, *, check_errors=False):
    return e.inv(A), RECORDED


def _as_matrix(a, b):
    """Whether torch reads ``b`` as vectors, one per matrix of ``a``."""
    return b.ndim == 1 or (a.ndim - 1 == b.ndim and shape_of(b) == shape_of(a)[:-1])


@meaning("aten::_linalg_solve_ex")
def solve_ex(A, B, *, left=True, check_errors=False):
    if _as_matrix(A, B):
        solution = e.squeeze(e.solve(A, e.expand_dims(B, axis=-1)), axis=-1)
    else:
        solution = e.solve(A, B) if left else e.solve_right(A, B)
    return solution, RECORDED, RECORDED, RECORDED


def _solve_triangular(a, b, upper, left, unitriangular):
    if left:
        return e.solve_triangular(a, b, lower=not upper, unit_diagonal=unitriangular)
    return e.solve_triangular_right(a, b, lower=not upper, unit_diagonal=unitriangular)


@meaning("aten::linalg_solve_triangular")
def solve_triangular(self, B, *, upper, left=True, unitriangular=False):
    return _solve_triangular(self, B, upper, left, unitriangular)


@meaning("aten::triangular_solve")
def triangular_solve(self, A, upper=True, transpose=False, unitriangular=False):
    matrix = transposed(A) if transpose else A
    return _solve_triangular(matrix, self, upper != transpose, True, unitriangular), A


@meaning("aten::cholesky_solve")
def cholesky_solve(self, input2, upper=False):
    factor = triangular(input2, upper)
    lower = adjoint_of(factor) if upper else factor
    return e.solve(e.matmul(lower, adjoint_of(lower)), self)


@meaning("aten::cholesky_inverse")
def cholesky_inverse(self, upper=False):
    identity = constant(np.broadcast_to(np.eye(self.shape[-1], dtype=raw(self).dtype), self.shape).copy())
    return cholesky_solve(identity, self, upper)


@meaning("aten::linalg_lstsq", uses_outputs=True)
def lstsq(self, b, rcond=None, *, driver=None, recorded):
    side = e.expand_dims(b, axis=-1) if _as_matrix(self, b) else b
    solution = e.lstsq(self, side)
    residuals = RECORDED
    if recorded[1] is not None and recorded[1].size:
        residuals = e.sum(e.square(e.absolute(e.matmul(self, solution) - side)), axis=-2)
    return (e.squeeze(solution, axis=-1) if side is not b else solution), residuals, RECORDED, RECORDED


def _from_lower(a):
    """The value of the Hermitian matrix whose lower triangle ``a`` holds, with the gradient of all of ``a``."""
    data = raw(a)
    strict = np.tril(data, -1)
    difference = strict + np.conj(np.swapaxes(strict, -1, -2)) + data.real * np.eye(data.shape[-1]) - data
    error, scale = np.abs(difference).max(initial=0.0), np.abs(data).max(initial=0.0)
    if error > 1e-4 * scale:
        raise MeaningUnavailableError(
            f"inverting with hermitian=True failed: the matrix is {error:.3g} away from Hermitian, of {scale:.3g}. "
            "torch's value reads one triangle, its gradient both. Pass a Hermitian matrix."
        )
    return a if not error else a + constant(difference)


@meaning("aten::linalg_pinv.atol_rtol_tensor")
def pinv(self, *, atol=None, rtol=None, hermitian=False):
    """Pseudo-inverse; singular values up to ``max(atol, rtol * largest)`` count as zero.

    With ``hermitian`` torch's value reads the lower triangle only, and its gradient the whole matrix: they belong
    together where it is Hermitian up to rounding.
    """
    self = _from_lower(self) if hermitian else self
    data = raw(self)
    if not data.size:
        return e.pinv(self)
    largest = np.linalg.svd(data, compute_uv=False).max(axis=-1)
    eps = np.finfo(np.float32).eps * max(data.shape[-2:])
    relative = np.asarray((eps if atol is None else 0.0) if rtol is None else raw(rtol), dtype=np.float64)
    absolute = np.asarray(0.0 if atol is None else raw(atol), dtype=np.float64)
    limits = np.broadcast_to(
        np.maximum(relative, absolute / np.where(largest > 0, largest, 1.0)), largest.shape
    )
    if limits.size and np.ptp(limits) == 0:
        return e.pinv(self, rcond=float(limits.ravel()[0]))
    flat = e.reshape(self, shape=(-1, *data.shape[-2:]))
    each = [e.pinv(e.getitem(flat, index=(i,)), rcond=float(limit)) for i, limit in enumerate(limits.ravel())]
    return e.reshape(e.stack(each, axis=0), shape=(*data.shape[:-2], data.shape[-1], data.shape[-2]))


# Determinants --------------------------------------------------------------------------------------------------


@meaning("aten::_linalg_det")
def det(A):
    return e.det(A), RECORDED, RECORDED


@meaning("aten::_linalg_slogdet")
def slogdet(A):
    sign, logarithm = e.slogdet(A)
    return sign, logarithm, RECORDED, RECORDED


# Factorisations ------------------------------------------------------------------------------------------------


@meaning("aten::linalg_cholesky_ex")
def cholesky_ex(self, *, upper=False, check_errors=False):
    factor = e.cholesky(hermitian(self, upper))
    return (adjoint_of(factor) if upper else factor), RECORDED


def _phases(vectors, recorded):
    """For each column, the unit number that turns it into the recorded one."""
    overlap = np.sum(np.conj(raw(vectors)) * recorded, axis=-2)
    size = np.abs(overlap)
    return np.where(size > 0, overlap / np.where(size > 0, size, 1.0), 1.0)


@meaning("aten::_linalg_eigh", uses_outputs=True)
def eigh(A, UPLO="L", compute_v=True, *, recorded):
    values, vectors = e.eigh(hermitian(A, UPLO.upper() == "U"))
    if not compute_v:
        return values, RECORDED
    return values, vectors * _phases(vectors, recorded[1])[..., None, :]


def _order(values, recorded):
    """The permutation that brings eigenvalues into the recorded order."""
    if not values.size:
        return np.zeros(values.shape, dtype=np.int64)
    flat, wanted = values.reshape(-1, values.shape[-1]), recorded.reshape(-1, values.shape[-1])
    order = np.empty(flat.shape, dtype=np.int64)
    for i, (mine, theirs) in enumerate(zip(flat, wanted)):
        order[i] = scipy.optimize.linear_sum_assignment(np.abs(theirs[:, None] - mine[None, :]))[1]
    return order.reshape(values.shape)


@meaning("aten::linalg_eig", uses_outputs=True)
def eig(self, *, recorded):
    values, vectors = e.eig(self)
    order = _order(raw(values), recorded[0])
    values = e.take_along_axis(values, index=order, axis=-1)
    index = np.broadcast_to(order[..., None, :], shape_of(vectors))
    vectors = e.take_along_axis(vectors, index=index, axis=-1)
    return values, vectors * _phases(vectors, recorded[1])[..., None, :]


@meaning("aten::_linalg_eigvals", uses_outputs=True)
def eigvals(self, *, recorded):
    values = e.eig(self)[0]
    return e.take_along_axis(values, index=_order(raw(values), recorded[0]), axis=-1)


@meaning("aten::_linalg_svd", uses_outputs=True)
def svd(A, full_matrices=False, compute_uv=True, *, driver=None, recorded):
    """Reduced factors; the vectors that ``full_matrices`` adds are any basis of the rest, taken as recorded."""
    u, s, vh = e.svd(A)
    if not compute_uv:
        return RECORDED, s, RECORDED
    k = shape_of(s)[-1]
    phases = _phases(u, recorded[0][..., :, :k])
    u, vh = u * phases[..., None, :], vh * np.conj(phases)[..., :, None]
    if recorded[0].shape[-1] > k:
        u = e.concatenate([u, constant(_double(recorded[0][..., :, k:]))], axis=-1)
    if recorded[2].shape[-2] > k:
        vh = e.concatenate([vh, constant(_double(recorded[2][..., k:, :]))], axis=-2)
    return u, s, vh


def _double(array):
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)


@meaning("aten::linalg_qr", uses_outputs=True)
def qr(A, mode="reduced", *, recorded):
    q, r = e.qr(A)
    k = shape_of(q)[-1]
    if mode == "r":
        # Without q the phase shows in the rows of r: its diagonal tells.
        mine = np.diagonal(raw(r), axis1=-2, axis2=-1)
        theirs = np.diagonal(recorded[1], axis1=-2, axis2=-1)
        quotient = np.where(mine != 0, theirs / np.where(mine != 0, mine, 1.0), 1.0)
        phases = np.conj(quotient / np.where(np.abs(quotient) > 0, np.abs(quotient), 1.0))
        return RECORDED, r * np.conj(phases)[..., :, None]
    phases = _phases(q, recorded[0][..., :, :k])
    q, r = q * phases[..., None, :], r * np.conj(phases)[..., :, None]
    if recorded[0].shape[-1] > k:  # mode "complete"
        q = e.concatenate([q, constant(_double(recorded[0][..., :, k:]))], axis=-1)
        rest = recorded[1].shape[-2] - k
        r = e.concatenate([r, constant(np.zeros((*shape_of(r)[:-2], rest, shape_of(r)[-1])))], axis=-2)
    return q, r


def _rows_of(pivots, m):
    """The order of rows after LAPACK's exchanges (counted from one): (*batch, k) to (*batch, m)."""
    flat = (
        pivots.reshape(-1, pivots.shape[-1])
        if pivots.size
        else np.zeros((int(np.prod(pivots.shape[:-1])), 0), int)
    )
    rows = np.tile(np.arange(m), (flat.shape[0], 1))
    every = np.arange(flat.shape[0])
    for i in range(flat.shape[1]):
        j = flat[:, i] - 1
        rows[every, i], rows[every, j] = rows[every, j].copy(), rows[:, i].copy()
    return rows.reshape(*pivots.shape[:-1], m)


def _permuted(a, rows):
    return e.take_along_axis(a, index=np.broadcast_to(rows[..., None], shape_of(a)), axis=-2)


def _permutation(rows, dtype):
    """The matrix p with ``p @ a[rows] = a``."""
    return (np.arange(rows.shape[-1])[:, None] == rows[..., None, :]).astype(dtype)


def _factors_in_order(A, rows):
    """Unit lower and upper factor of ``A[rows]``, whose rows need no further exchange."""
    permutation, lower, upper = e.lu(_permuted(A, rows))
    if not np.array_equal(raw(permutation), np.broadcast_to(np.eye(rows.shape[-1]), raw(permutation).shape)):
        raise MeaningUnavailableError(
            f"factorising a matrix of shape {A.shape} failed: double precision chooses other pivots than recorded. "
            "Two candidates were equal up to rounding. Check with other values."
        )
    return lower, upper


def _packed(lower, upper, shape):
    m, n = shape[-2:]
    strict = e.tril(lower, k=-1)
    k = min(m, n)
    if n > k:
        strict = e.pad(strict, widths=((0, 0),) * (len(shape) - 1) + ((0, n - k),), value=0.0)
    if m > k:
        upper = e.pad(upper, widths=((0, 0),) * (len(shape) - 2) + ((0, m - k), (0, 0)), value=0.0)
    return strict + upper


def _pivoted(pivot):
    if not pivot:
        raise MeaningUnavailableError(
            "factorising without pivoting failed: it has no meaning here. "
            "It is defined on few devices only. Use pivot=True."
        )


@meaning("aten::linalg_lu_factor_ex", uses_outputs=True)
def lu_factor_ex(A, *, pivot=True, check_errors=False, recorded):
    _pivoted(pivot)
    lower, upper = _factors_in_order(A, _rows_of(recorded[1], A.shape[-2]))
    return _packed(lower, upper, A.shape), RECORDED, RECORDED


@meaning("aten::linalg_lu", uses_outputs=True)
def lu(A, *, pivot=True, recorded):
    _pivoted(pivot)
    rows = np.argmax(np.abs(recorded[0]), axis=-2)
    lower, upper = _factors_in_order(A, rows)
    return RECORDED, lower, upper


def _unpacked(packed):
    m, n = packed.shape[-2:]
    k = min(m, n)
    lower = e.tril(e.getitem(packed, index=(..., slice(0, k))), k=-1) + np.eye(m, k)
    return lower, e.triu(e.getitem(packed, index=(..., slice(0, k), slice(None))), k=0)


@meaning("aten::lu_unpack")
def lu_unpack(LU_data, LU_pivots, unpack_data=True, unpack_pivots=True):
    lower, upper = _unpacked(LU_data) if unpack_data else (RECORDED, RECORDED)
    if not unpack_pivots:
        return RECORDED, lower, upper
    rows = _rows_of(LU_pivots, LU_data.shape[-2])
    return constant(_permutation(rows, raw(LU_data).dtype)), lower, upper


@meaning("aten::linalg_lu_solve")
def lu_solve(LU, pivots, B, *, left=True, adjoint=False):
    """Solves with ``A = P L U``: x in ``A x = B`` or ``x A = B``, or with the adjoint of A."""
    lower, upper = _unpacked(LU)
    permutation = constant(_permutation(_rows_of(pivots, LU.shape[-2]), raw(LU).dtype))
    side = B
    if not left:  # x A = B is A^H x^H = B^H
        side, adjoint = adjoint_of(B), not adjoint
    if adjoint:
        inner = _solve_triangular(adjoint_of(upper), side, False, True, False)
        solution = e.matmul(permutation, _solve_triangular(adjoint_of(lower), inner, True, True, True))
    else:
        inner = _solve_triangular(lower, e.matmul(transposed(permutation), side), False, True, True)
        solution = _solve_triangular(upper, inner, True, True, False)
    return solution if left else adjoint_of(solution)


@meaning("aten::linalg_householder_product")
def householder_product(input, tau):
    return e.householder_product(input, tau)


@meaning("aten::ormqr")
def ormqr(self, input2, input3, left=True, transpose=False):
    """Multiplies ``input3`` by the product of reflections h_1 ... h_k, or its adjoint, from one side."""
    m, count = self.shape[-2], input2.shape[-1]
    vectors = e.tril(e.getitem(self, index=(..., slice(0, count))), k=-1) + np.eye(m, count)
    # From the left the last reflection acts first, from the right the first; the adjoint turns the order round.
    order = range(count) if left == transpose else reversed(range(count))
    result = input3
    for i in order:
        v = e.getitem(vectors, index=(..., slice(i, i + 1)))
        tau = e.expand_dims(e.getitem(input2, index=(..., slice(i, i + 1))), axis=-1)
        tau = e.conj(tau) if transpose else tau
        if left:
            result = result - tau * e.matmul(v, e.matmul(adjoint_of(v), result))
        else:
            result = result - tau * e.matmul(e.matmul(result, v), adjoint_of(v))
    return result


# Functions of matrices -----------------------------------------------------------------------------------------


@meaning("aten::linalg_matrix_exp")
def matrix_exp(self):
    return e.expm(self)


@meaning("aten::linalg_matrix_sqrth")
def matrix_sqrth(self):
    """The positive root of a positive Hermitian matrix."""
    values, vectors = e.eigh(hermitian(self))
    return e.matmul(vectors * e.expand_dims(e.sqrt(values), axis=-2), adjoint_of(vectors))


@meaning("aten::linalg_polar")
def polar(A):
    """``A = U H`` with orthonormal columns in U and H positive: from the singular vectors, U = w v^H."""
    w, s, vh = e.svd(A)
    positive = e.matmul(adjoint_of(vh) * e.expand_dims(s, axis=-2), vh)
    return e.matmul(w, vh), positive


@meaning("aten::linalg_cross")
def cross(self, other, *, dim=-1):
    ndim = max(self.ndim, other.ndim)
    shape = np.broadcast_shapes(shape_of(self), shape_of(other))
    left, right = (x if shape_of(x) == shape else e.broadcast_to(x, shape=shape) for x in (self, other))
    return e.cross(left, right, axis=dim % ndim)

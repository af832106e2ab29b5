"""Linear algebra: defining equations of every factorisation, SciPy's values, and what the free choices forbid."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg

from gradcheck_suite.engine import NotDifferentiableError, Tensor, grad
from gradcheck_suite.engine import ops as e

rng = np.random.default_rng(11)


def matrices(*shape, dtype=float):
    a = rng.standard_normal(shape)
    return a + 1j * rng.standard_normal(shape) if dtype is complex else a


def adjoint(a):
    return np.conj(np.swapaxes(a, -1, -2))


def slope(f, x, direction, h=1e-6):
    return (f(x + h * direction) - f(x - h * direction)) / (2 * h)


def check_gradient(f, *arrays, rtol=1e-6):
    """The gradient of the real function f of tensors, against central differences along a random direction."""
    for position, x in enumerate(arrays):
        leaf = Tensor(x, requires_grad=True)
        rest = [Tensor(a) for a in arrays]
        (g,) = grad(f(*rest[:position], leaf, *rest[position + 1 :]), [leaf])
        direction = matrices(*x.shape, dtype=complex if np.iscomplexobj(x) else float)

        def along(value, position=position, rest=rest):
            return float(f(*rest[:position], Tensor(value), *rest[position + 1 :]).data)

        expected = slope(along, x, direction)
        assert np.vdot(g.data, direction).real == pytest.approx(expected, rel=rtol, abs=1e-7)


def probe(*outputs):
    """A fixed generic real function of tensors."""
    total = None
    for out in outputs:
        weights = np.cos(np.arange(out.size) + 0.3).reshape(out.shape)
        if out.dtype.kind == "c":
            weights = weights * np.exp(1j * np.arange(out.size)).reshape(out.shape)
        term = e.sum(e.real(out * weights))
        total = term if total is None else total + term
    return total


@pytest.mark.parametrize("dtype", [float, complex])
@pytest.mark.parametrize("batch", [(), (2,), (2, 1)])
def test_inverse_solve_and_determinants(dtype, batch):
    a, b = matrices(*batch, 3, 3, dtype=dtype), matrices(*batch, 3, 2, dtype=dtype)
    np.testing.assert_allclose(e.inv(a).data @ a, np.broadcast_to(np.eye(3), a.shape), atol=1e-12)
    np.testing.assert_allclose(a @ e.solve(a, b).data, b, atol=1e-12)
    np.testing.assert_allclose(e.solve_right(Tensor(a), Tensor(adjoint(b))).data @ a, adjoint(b), atol=1e-12)
    sign, logarithm = e.slogdet(a)
    np.testing.assert_allclose(sign.data * np.exp(logarithm.data), np.linalg.det(a), atol=1e-12)
    np.testing.assert_allclose(e.det(a).data, np.linalg.det(a), atol=1e-12)
    expected = np.swapaxes(np.linalg.inv(a), -1, -2) * np.linalg.det(a)[..., None, None]
    np.testing.assert_allclose(e.cofactor(a).data, expected, atol=1e-12)


@pytest.mark.parametrize("dtype", [float, complex])
@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("unit", [True, False])
def test_triangular_solve_looks_at_one_triangle(dtype, lower, unit):
    a, b = matrices(2, 3, 3, dtype=dtype), matrices(3, 2, dtype=dtype)
    t = np.tril(a) if lower else np.triu(a)
    if unit:
        t[..., range(3), range(3)] = 1
    x = e.solve_triangular(a, b, lower=lower, unit_diagonal=unit)
    np.testing.assert_allclose(t @ x.data, np.broadcast_to(b, x.shape), atol=1e-10)
    right = e.solve_triangular_right(Tensor(a), Tensor(adjoint(b)), lower=lower, unit_diagonal=unit)
    np.testing.assert_allclose(right.data @ t, np.broadcast_to(adjoint(b), right.shape), atol=1e-10)


def test_singular_triangle_gives_infinities():
    a, b = np.array([[1.0, 0.0], [2.0, 0.0]]), np.array([[1.0], [1.0]])
    np.testing.assert_array_equal(e.solve_triangular(a, b, lower=True).data, [[1.0], [-np.inf]])


def test_determinant_of_a_singular_matrix_has_its_gradient():
    a = np.array([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0], [1.0, 0.0, 1.0]])
    check_gradient(e.det, a)
    b = np.diag([0.0, 0.0, 2.0])  # rank one: the gradient is zero
    leaf = Tensor(b, requires_grad=True)
    (g,) = grad(e.det(leaf), [leaf])
    np.testing.assert_array_equal(g.data, 0)


@pytest.mark.parametrize("dtype", [float, complex])
def test_hermitian_factorisations(dtype):
    z = matrices(2, 3, 3, dtype=dtype)
    a = z @ adjoint(z) + np.eye(3)
    lower = e.cholesky(a).data
    np.testing.assert_allclose(lower @ adjoint(lower), a, atol=1e-12)
    np.testing.assert_array_equal(lower, np.tril(lower))
    w, v = e.eigh(a)
    np.testing.assert_allclose(a @ v.data, v.data * w.data[..., None, :], atol=1e-12)
    np.testing.assert_allclose(adjoint(v.data) @ v.data, np.broadcast_to(np.eye(3), a.shape), atol=1e-12)
    leaf = Tensor(a, requires_grad=True)
    (g,) = grad(probe(e.cholesky(leaf)), [leaf])
    np.testing.assert_allclose(g.data, adjoint(g.data), atol=1e-12)


def test_cholesky_of_an_indefinite_matrix_is_an_error():
    with pytest.raises(np.linalg.LinAlgError):
        e.cholesky(-np.eye(2))


@pytest.mark.parametrize("dtype", [float, complex])
def test_eigenvectors_solve_their_equation(dtype):
    a = matrices(2, 4, 4, dtype=dtype)
    w, v = e.eig(a)
    np.testing.assert_allclose(a @ v.data, v.data * w.data[..., None, :], atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(v.data, axis=-2), 1)
    assert w.dtype == v.dtype == np.complex128


@pytest.mark.parametrize("dtype", [float, complex])
@pytest.mark.parametrize("shape", [(3, 3), (4, 2), (2, 4), (2, 3, 2)])
@pytest.mark.parametrize("full", [False, True])
def test_singular_value_decomposition(dtype, shape, full):
    a = matrices(*shape, dtype=dtype)
    u, s, vh = (t.data for t in e.svd(a, full=full))
    k = min(shape[-2:])
    assert u.shape[-1] == (shape[-2] if full else k)
    np.testing.assert_allclose((u[..., :k] * s[..., None, :]) @ vh[..., :k, :], a, atol=1e-12)
    np.testing.assert_allclose(e.svdvals(Tensor(a)).data, s, atol=1e-14)


@pytest.mark.parametrize("shape", [(4, 2), (2, 4), (3, 3)])
def test_svd_of_complex_matrices_through_a_function_that_ignores_the_phase(shape):
    def f(a):
        u, s, vh = e.svd(a)
        inner = e.expand_dims(e.sin(s), axis=-2)
        return probe(e.matmul(u * inner, vh), s)

    check_gradient(f, matrices(*shape, dtype=complex))


def test_only_the_reduced_singular_vectors_have_a_gradient():
    a = Tensor(matrices(4, 2), requires_grad=True)
    u, s, _ = e.svd(a, full=True)
    (g,) = grad(probe(u[:, :2] * u[:, :2], s), [a])
    b = Tensor(a.data, requires_grad=True)
    u, s, _ = e.svd(b)
    (expected,) = grad(probe(u * u, s), [b])
    np.testing.assert_allclose(g.data, expected.data, atol=1e-12)
    u, _, _ = e.svd(a, full=True)
    with pytest.raises(NotDifferentiableError, match="singular vectors beyond the first 2"):
        grad(probe(u), [a])


@pytest.mark.parametrize("dtype", [float, complex])
def test_phases_are_taken_over_from_other_vectors(dtype):
    a = matrices(2, 4, 3, dtype=dtype)
    square = a[:, :3]
    hermitian = square + adjoint(square)
    turn = np.array([1.0, -1.0, -1.0]) if dtype is float else np.exp(1j * np.array([0.3, 2.0, -1.0]))
    u, s, _ = (t.data for t in e.svd(a))
    turned = e.svd(a, like=u * turn)
    np.testing.assert_allclose(turned[0].data, u * turn, atol=1e-12)
    np.testing.assert_allclose(turned[0].data * s[..., None, :] @ turned[2].data, a, atol=1e-12)
    for name, matrix in (("eigh", hermitian), ("eig", square)):
        _, vectors = getattr(e, name)(matrix)
        np.testing.assert_allclose(
            getattr(e, name)(matrix, like=vectors.data * turn)[1].data, vectors.data * turn, atol=1e-12
        )


@pytest.mark.parametrize("dtype", [float, complex])
@pytest.mark.parametrize("shape", [(3, 3), (4, 2), (2, 4), (2, 3, 2)])
def test_qr_and_lu(dtype, shape):
    a = matrices(*shape, dtype=dtype)
    q, r = (t.data for t in e.qr(a))
    np.testing.assert_allclose(q @ r, a, atol=1e-12)
    np.testing.assert_array_equal(r, np.triu(r))
    p, lower, upper = e.lu(a)
    np.testing.assert_allclose(p @ lower.data @ upper.data, a, atol=1e-12)
    np.testing.assert_array_equal(
        np.triu(lower.data), np.broadcast_to(np.eye(*lower.shape[-2:]), lower.shape)
    )
    p, factors = e.lu_factor(Tensor(a))
    k = min(shape[-2:])
    expected = np.zeros(shape, dtype=a.dtype)
    expected[..., :k] += np.tril(lower.data, -1)
    expected[..., :k, :] += upper.data
    np.testing.assert_array_equal(factors.data, expected)
    check_gradient(lambda x: probe(*e.qr(x)), a)
    check_gradient(lambda x: probe(e.qr(x)[0]), a)
    check_gradient(lambda x: probe(e.qr(x)[1]), a)
    check_gradient(lambda x: probe(e.lu(x)[1]), a)
    check_gradient(lambda x: probe(e.lu(x)[2]), a)


@pytest.mark.parametrize("dtype", [float, complex])
def test_exponential_and_power(dtype):
    a = matrices(2, 3, 3, dtype=dtype)
    expected = np.stack([scipy.linalg.expm(m) for m in a])
    np.testing.assert_allclose(e.expm(a).data, expected, rtol=1e-10)
    for n in (-3, -1, 0, 1, 2, 5):
        np.testing.assert_allclose(
            e.matrix_power(Tensor(a), n).data, np.linalg.matrix_power(a, n), rtol=1e-8, atol=1e-10
        )


@pytest.mark.parametrize("dtype", [float, complex])
@pytest.mark.parametrize("shape", [(3, 2), (2, 3), (2, 3, 3)])
def test_pseudo_inverse_and_least_squares(dtype, shape):
    a, b = matrices(*shape, dtype=dtype), matrices(*shape[:-1], 2, dtype=dtype)
    np.testing.assert_allclose(e.pinv(a).data, np.linalg.pinv(a), atol=1e-12)
    x = e.lstsq(Tensor(a), Tensor(b)).data
    if a.ndim == 2:
        np.testing.assert_allclose(x, np.linalg.lstsq(a, b, rcond=None)[0], atol=1e-12)
    check_gradient(lambda p, q: probe(e.lstsq(p, q)), a, b)


def test_pseudo_inverse_of_a_rank_deficient_matrix():
    """Along directions that keep the rank, which is where it has a derivative."""
    left, right = matrices(4, 2), matrices(2, 3)

    def f(x):
        return probe(e.pinv(e.matmul(x, right), rcond=1e-9))

    check_gradient(f, left)


@pytest.mark.parametrize("dtype", [float, complex])
def test_householder_product_is_lapacks(dtype):
    a = matrices(5, 3, dtype=dtype)
    geqrf, orgqr = scipy.linalg.get_lapack_funcs(("geqrf", "ungqr" if dtype is complex else "orgqr"), (a,))
    reflectors, tau, _, _ = geqrf(a)
    expected, _, _ = orgqr(reflectors, tau)
    q = e.householder_product(Tensor(reflectors), Tensor(tau))
    np.testing.assert_allclose(q.data, expected, atol=1e-13)
    check_gradient(lambda v, t: probe(e.householder_product(v, t)), reflectors, tau)


def test_cross_product():
    a, b = matrices(2, 3, 4), matrices(3, 1)
    y = e.cross(Tensor(a), Tensor(b[None]), axis=1)
    np.testing.assert_allclose(y.data, np.cross(a, b[None], axis=1), atol=1e-14)
    check_gradient(
        lambda p, q: probe(e.cross(p, q)), matrices(2, 3, dtype=complex), matrices(2, 3, dtype=complex)
    )
    with pytest.raises(ValueError, match="axis -1 has 4 and 4 elements"):
        e.cross(Tensor(np.ones(4)), Tensor(np.ones(4)))


@pytest.mark.parametrize("name", ["eigh", "qr", "svd", "cholesky", "slogdet", "expm", "pinv"])
def test_values_agree_with_torch(name):
    torch = pytest.importorskip("torch")
    z = matrices(2, 3, 3)
    a = z @ adjoint(z) + np.diag([1.0, 3.0, 9.0])
    kwargs = {"full_matrices": False} if name == "svd" else {}
    expected = getattr(torch.linalg, {"expm": "matrix_exp"}.get(name, name))(torch.tensor(a), **kwargs)
    got = getattr(e, name)(a)
    for mine, theirs in zip(
        got if isinstance(got, tuple) else (got,), expected if isinstance(got, tuple) else (expected,)
    ):
        np.testing.assert_allclose(np.abs(mine.data), np.abs(theirs.numpy()), rtol=1e-9, atol=1e-9)

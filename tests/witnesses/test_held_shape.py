"""Leaves that stay symmetric or triangular: torch's gradients on such matrices are right, and others are still looked at."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gradcheck_suite import check_gradients
from gradcheck_suite.witnesses.direction import Direction, flat

EYE = torch.eye(3, dtype=torch.float64)


def positive(dtype: torch.dtype = torch.float64) -> Tensor:
    draw = torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=dtype)
    return draw @ draw.mH + torch.eye(3, dtype=dtype)


def by_eigenvectors(x: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(x)
    return (vectors * values.exp()) @ vectors.mH


OF_HERMITIAN: dict[str, Callable[[Tensor], Tensor]] = {
    "cholesky": torch.linalg.cholesky,
    "upper cholesky": lambda x: torch.linalg.cholesky(x, upper=True),
    "cholesky_ex": lambda x: torch.linalg.cholesky_ex(x)[0],
    "eigvalsh": torch.linalg.eigvalsh,
    "eigenvalues": lambda x: torch.linalg.eigh(x)[0],
    "both of eigh": by_eigenvectors,
    "pinv": lambda x: torch.linalg.pinv(x, hermitian=True),
    "cholesky of a multiple": lambda x: torch.linalg.cholesky(2 * x.mT),
}
MATRICES = {"eye": EYE, "symmetric": positive(), "hermitian": positive(torch.complex128), "stack": positive()}
MATRICES["stack"] = torch.stack([MATRICES["symmetric"], 2 * EYE + 0.1])


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("name", OF_HERMITIAN)
def test_a_hermitian_leaf_is_moved_within_its_set(name: str, matrix: str) -> None:
    if (name, matrix) == ("both of eigh", "eye") or (name, matrix) == ("both of eigh", "stack"):
        return  # equal eigenvalues: the gradient is not finite
    report = check_gradients(OF_HERMITIAN[name], MATRICES[matrix])
    assert report.ok, str(report)
    # Equal eigenvalues are a kink, and which eigenvectors LAPACK gives there is its choice.
    assert {finding.code for finding in report.findings} <= {"GC604"}, str(report)


@pytest.mark.parametrize("matrix", [EYE, positive().tril()], ids=["eye", "lower"])
@pytest.mark.parametrize(
    "function",
    [torch.cholesky_inverse, lambda x: torch.cholesky_solve(torch.ones(3, 2, dtype=x.dtype), x)],
    ids=["cholesky_inverse", "cholesky_solve"],
)
def test_a_triangular_leaf_stays_triangular(function: Callable[[Tensor], Tensor], matrix: Tensor) -> None:
    report = check_gradients(function, matrix)
    assert report.ok, str(report)
    assert any("lower triangular" in note for note in report.notes)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.linalg.cholesky(x) + x.data * 2,
        lambda x: torch.linalg.inv(x) * x.data,
        lambda x: torch.linalg.eigvalsh(x) * x.data[1, 0],
    ],
    ids=["beside", "no such operation", "one element"],
)
def test_what_goes_around_autograd_is_still_seen(function: Callable[[Tensor], Tensor]) -> None:
    report = check_gradients(function, positive())
    assert "GC501" in {finding.code for finding in report.errors}, str(report)


@pytest.mark.parametrize("inner", [lambda x: x @ x.mT, lambda x: x.square().sum() * EYE])
def test_a_symmetric_leaf_whose_operand_stays_symmetric_is_moved_in_every_direction(
    inner: Callable[[Tensor], Tensor],
) -> None:
    """What is lost here is lost along antisymmetric directions only."""
    lost = lambda x: (x.data - x.data.mT) * torch.arange(9.0, dtype=x.dtype).view(3, 3)
    report = check_gradients(lambda x: torch.linalg.cholesky(inner(x) + EYE) + lost(x), positive())
    assert "GC501" in {finding.code for finding in report.errors}, str(report)


def test_an_asymmetric_leaf_is_not_excused() -> None:
    """torch documents that the matrix is not checked; what it returns is not the derivative of what it computed."""
    report = check_gradients(
        torch.linalg.eigvalsh, torch.tensor([[2.0, 0.3], [0.5, 1.0]], dtype=torch.float64)
    )
    assert not report.ok


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("shape", ["hermitian", "lower", "upper"])
def test_directions_of_a_shape(dtype: torch.dtype, turned: bool, shape: str) -> None:
    leaf = torch.zeros(2, 3, 3, dtype=dtype)
    leaf = leaf.mT if turned else leaf
    Direction({"x": leaf}, {"x": 1.0}, 3, held={"x": shape}).move("x", flat(leaf).clone(), leaf, 1.0)
    off = {"hermitian": leaf - leaf.mH, "lower": leaf.triu(1), "upper": leaf.tril(-1)}
    assert not off[shape].any()
    inside = leaf if shape == "hermitian" else leaf.tril() if shape == "lower" else leaf.triu()
    real = inside.real
    assert int((real != 0).sum()) == (18 if shape == "hermitian" else 12)

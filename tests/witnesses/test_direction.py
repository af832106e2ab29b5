"""Directions of one byte per element: moved leaves, inner products and norms are those of plain arithmetic."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gradcheck_suite.witnesses.direction import Direction, aligned, flat, norm, put, signed_bytes


def test_every_element_takes_part() -> None:
    drawn = signed_bytes(100_003, torch.Generator().manual_seed(0))
    sizes = drawn.to(torch.int64).abs()
    assert drawn.shape == (100_003,)
    assert sizes.min() >= 64
    assert sizes.max() <= 128
    assert abs(float((drawn > 0).double().mean()) - 0.5) < 0.01
    assert len(set(drawn.tolist())) == 128
    again = signed_bytes(100_003, torch.Generator().manual_seed(0))
    assert torch.equal(drawn, again)
    assert not torch.equal(drawn, signed_bytes(100_003, torch.Generator().manual_seed(1)))


LEAVES = {
    "large": lambda: torch.randn(300_001, dtype=torch.float64),
    "matrix": lambda: torch.randn(3, 5, dtype=torch.float64),
    "transposed": lambda: torch.randn(3, 5, dtype=torch.float64).t(),
    "channels last": lambda: torch.randn(2, 3, 4, 5, dtype=torch.float64).to(
        memory_format=torch.channels_last
    ),
    "gaps": lambda: torch.randn(6, 6, dtype=torch.float64)[::2, 1:],
    "scalar": lambda: torch.tensor(2.0, dtype=torch.float64),
    "complex": lambda: torch.randn(4, 3, dtype=torch.complex128),
    "complex with gaps": lambda: torch.randn(4, 6, dtype=torch.complex128)[:, ::2],
    "single": lambda: torch.randn(7),
}


@pytest.mark.parametrize("name", LEAVES)
def test_moves_and_inner_products(name: str) -> None:
    torch.manual_seed(0)
    leaf = LEAVES[name]()
    start = leaf.clone(memory_format=torch.preserve_format)
    base = flat(leaf.clone() if name in ("gaps", "complex with gaps") else start)
    direction = Direction({"leaf": leaf}, {"leaf": 3.0}, seed=1)
    direction.move("leaf", base, leaf, 1.0)
    step = leaf - start
    real = torch.view_as_real(step) if step.is_complex() else step
    assert real.abs().min() >= 1.5 - 1e-6
    assert real.abs().max() <= 3.0 + 1e-6
    direction.move("leaf", base, leaf, -2.0)
    torch.testing.assert_close(leaf, start - 2.0 * step)
    gradient = torch.randn_like(start).contiguous()
    expected = float((gradient.conj() * step).real.sum() if step.is_complex() else (gradient * step).sum())
    found = direction.inner({"leaf": flat(aligned(gradient, leaf))})
    assert math.isclose(found, expected, rel_tol=1e-6, abs_tol=1e-6)
    terms = direction.terms({"leaf": norm(gradient)})
    assert 0.6 < terms / norm(torch.view_as_real(gradient * 1) if step.is_complex() else gradient) / 3.0 < 0.9
    put(base, leaf)
    assert torch.equal(leaf, start)


def test_a_base_of_narrower_dtype() -> None:
    base = torch.randn(200_000)
    leaf = base.double()
    Direction({"a": leaf}, {"a": 1.0}, seed=0).move("a", base, leaf, 1e-9)
    assert 0.4e-9 < float((leaf - base.double()).abs().min()) < 1.1e-9


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (torch.tensor([3.0, 4.0]), 5.0),
        (torch.tensor([3e200, 4e200], dtype=torch.float64), 5e200),
        (torch.tensor([3e-200, 4e-200], dtype=torch.float64), 5e-200),
        (torch.tensor([3.0 + 4.0j]), 5.0),
        (torch.zeros(3, dtype=torch.float64), 0.0),
        (torch.zeros(0), 0.0),
    ],
)
def test_norms_neither_overflow_nor_vanish(values: Tensor, expected: float) -> None:
    assert math.isclose(norm(values), expected, rel_tol=1e-6)


def test_a_norm_tells_what_is_not_finite() -> None:
    for bad in (math.nan, math.inf):
        for dtype in (torch.float32, torch.float64):
            assert not math.isfinite(norm(torch.tensor([1.0, bad], dtype=dtype)))

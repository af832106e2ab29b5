"""Values held without a copy until somebody overwrites them, in every dtype and layout."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from gradcheck_suite.capture.values import CopyOnWrite, TensorValue, dtype_name, to_array

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e5m2,
    torch.complex64,
    torch.complex128,
    torch.int64,
    torch.uint8,
    torch.bool,
]


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
def test_every_dtype_comes_through_exactly(dtype: torch.dtype) -> None:
    tensor = torch.tensor([[0.0, 1.0, 2.0], [1.0, 0.5, 4.0]]).to(dtype)
    array = to_array(tensor)
    assert array.shape == (2, 3)
    wide = torch.complex128 if dtype.is_complex else torch.float64
    np.testing.assert_array_equal(array.astype(np.complex128), tensor.to(wide).to(torch.complex128).numpy())


BASE = torch.arange(12.0).reshape(3, 4)
LAYOUTS: dict[str, Tensor] = {
    "transposed": BASE.t(),
    "sliced": BASE[1:, ::2],
    "expanded": BASE[:1].expand(5, 4),
    "overlapping": BASE.view(-1).as_strided((5, 2), (1, 1)),
    "scalar": BASE[1, 1],
    "empty": BASE[:0],
    "requires grad": BASE.clone().requires_grad_(),
    "sparse": BASE.to_sparse(),
    "conjugate": torch.complex(BASE, BASE + 1).conj(),
    "negative": torch.complex(BASE, BASE + 1).conj().imag,
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_comes_through(name: str) -> None:
    tensor = LAYOUTS[name]
    plain = tensor.detach()
    plain = plain.to_dense() if plain.layout is not torch.strided else plain
    np.testing.assert_array_equal(to_array(tensor), plain.resolve_conj().resolve_neg().numpy())


def test_no_copy_and_nothing_left_changed() -> None:
    tensor = torch.zeros(4)
    array = to_array(tensor)
    tensor[2] = 5.0
    assert array[2] == 5.0
    assert tensor.untyped_storage().resizable()
    tensor.resize_(100)


def held(copies: CopyOnWrite, tensor: Tensor, storage: int = 1) -> TensorValue:
    value = TensorValue(tensor.detach())
    copies.watch(storage, value)
    return value


def test_a_value_is_copied_once_before_its_memory_is_written() -> None:
    copies = CopyOnWrite()
    tensor = torch.arange(4.0)
    value, view, other = (
        held(copies, tensor),
        held(copies, tensor[1:]),
        held(copies, torch.zeros(2), storage=2),
    )
    assert len(copies.before_write(1)) == 2
    tensor.fill_(9)
    np.testing.assert_array_equal(value.array(), [0, 1, 2, 3])
    np.testing.assert_array_equal(view.array(), [1, 2, 3])
    np.testing.assert_array_equal(other.array(), [0, 0])
    assert not copies.before_write(1), "nothing is left that looks at it"


def test_a_value_that_nobody_wants_any_more_costs_nothing() -> None:
    copies = CopyOnWrite()
    value = held(copies, torch.arange(4.0))
    del value
    assert not copies.before_write(1)


def test_identity_is_the_same_look_at_the_same_memory() -> None:
    tensor = torch.zeros(3, 3)
    assert TensorValue(tensor).identity() == TensorValue(tensor.detach()).identity()
    assert TensorValue(tensor).identity() != TensorValue(tensor.t()).identity() or tensor.stride(0) == 1
    assert TensorValue(tensor).identity() != TensorValue(tensor[1:]).identity()
    assert TensorValue(tensor).identity() != TensorValue(tensor.clone()).identity()

"""Writes advance the version of a tensor under ``watch`` as they do without it, so that torch refuses what it would refuse."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from gradcheck_suite import check_gradients, watch
from gradcheck_suite.errors import ModelError

ONE_ARGUMENT = {
    "_foreach_abs_",
    "_foreach_acos_",
    "_foreach_asin_",
    "_foreach_atan_",
    "_foreach_ceil_",
    "_foreach_cos_",
    "_foreach_cosh_",
    "_foreach_erf_",
    "_foreach_erfc_",
    "_foreach_exp_",
    "_foreach_expm1_",
    "_foreach_floor_",
    "_foreach_frac_",
    "_foreach_lgamma_",
    "_foreach_log_",
    "_foreach_log10_",
    "_foreach_log1p_",
    "_foreach_log2_",
    "_foreach_neg_",
    "_foreach_reciprocal_",
    "_foreach_round_",
    "_foreach_rsqrt_",
    "_foreach_sigmoid_",
    "_foreach_sign_",
    "_foreach_sin_",
    "_foreach_sinh_",
    "_foreach_sqrt_",
    "_foreach_tan_",
    "_foreach_tanh_",
    "_foreach_trunc_",
    "_foreach_zero_",
}
MANY = sorted(name for name in dir(torch) if name.startswith("_foreach_") and name.endswith("_"))
OTHERS: dict[str, Callable[[list[Tensor]], Any]] = {
    "mul_": lambda tensors: [t.mul_(2) for t in tensors],
    "out": lambda tensors: [torch.add(t, 1, out=t) for t in tensors],
    "item": lambda tensors: [t.__setitem__(0, 1.0) for t in tensors],
    "multiply by one": lambda tensors: torch._foreach_mul_(tensors, 2.0),
    "multiply by each": lambda tensors: torch._foreach_mul_(tensors, [2.0, 3.0]),
    "unscale": lambda tensors: torch._amp_foreach_non_finite_check_and_unscale_(
        tensors, torch.zeros(1), torch.ones(1)
    ),
}


def values() -> list[Tensor]:
    return [torch.rand(3) + 0.5 for _ in range(2)]


def write(name: str, tensors: list[Tensor]) -> None:
    if name in OTHERS:
        OTHERS[name](tensors)
    elif name in ONE_ARGUMENT:
        getattr(torch, name)(tensors)
    elif name in ("_foreach_addcmul_", "_foreach_addcdiv_"):
        getattr(torch, name)(tensors, values(), values(), 1.0)
    elif name == "_foreach_lerp_":
        torch._foreach_lerp_(tensors, values(), 0.5)
    else:
        getattr(torch, name)(tensors, values())


@pytest.mark.parametrize("name", [*MANY, *OTHERS])
def test_versions_advance_as_they_do_unwatched(name: str) -> None:
    versions = []
    for watched in (False, True):
        tensors = values()
        with watch(verify=False) if watched else contextlib.nullcontext(), torch.no_grad():
            write(name, tensors)
        versions.append([t._version for t in tensors])
    assert versions[0] == versions[1]


@pytest.mark.parametrize("foreach", [True, False])
@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam])
def test_and_so_do_those_of_optimizers(kind: Any, steps: int, foreach: bool) -> None:
    versions = []
    for watched in (False, True):
        weights = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
        optimizer = kind(weights, lr=0.1, foreach=foreach)
        with watch(verify=False) if watched else contextlib.nullcontext():
            for _ in range(steps):
                optimizer.zero_grad()
                torch.stack(list(weights)).pow(2).sum().backward()
                optimizer.step()
        versions.append([w._version for w in weights])
    assert versions[0] == versions[1]


@pytest.mark.parametrize("verify", [True, False])
def test_an_overwritten_tensor_is_refused_as_it_is_unwatched(verify: bool) -> None:
    def overwrite() -> None:
        weights = [torch.ones(3, requires_grad=True) for _ in range(2)]
        loss = torch.stack([(w * w).sum() for w in weights]).sum()
        with torch.no_grad():
            torch._foreach_mul_(weights, 2.0)
        loss.backward()

    with pytest.raises(RuntimeError) as plain:
        overwrite()
    with pytest.raises(RuntimeError) as watched, watch(verify=verify) as session:
        overwrite()
    assert str(watched.value) == str(plain.value)
    assert [f.code for f in session.report.errors] == ["GC201"]
    assert session.internal_errors == []


def test_inference_tensors_have_no_version() -> None:
    with watch(verify=False) as session, torch.inference_mode():
        torch._foreach_add_(values(), 1.0)
    assert session.internal_errors == []


def test_a_check_lets_torch_refuse_what_foreach_has_overwritten() -> None:
    def model(x: torch.Tensor) -> torch.Tensor:
        y = x.exp()
        with torch.no_grad():
            torch._foreach_mul_([y], 2.0)
        return y

    with pytest.raises(ModelError, match="modified by an inplace operation"):
        check_gradients(model, torch.ones(3))

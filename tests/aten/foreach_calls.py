"""Calls of ``_foreach_*`` and of fake quantisation, which torch's operator database leaves to databases of their own."""

from __future__ import annotations

from typing import Any

import torch

Arguments = tuple[tuple[Any, ...], dict[str, Any]]

F64 = torch.float64

UNARY = (
    *(
        "abs",
        "asin",
        "acos",
        "atan",
        "ceil",
        "clone",
        "cos",
        "cosh",
        "erf",
        "erfc",
        "exp",
        "expm1",
        "floor",
        "frac",
    ),
    *(
        "lgamma",
        "log",
        "log10",
        "log1p",
        "log2",
        "max",
        "neg",
        "reciprocal",
        "round",
        "rsqrt",
        "sigmoid",
        "sign",
    ),
    *("sin", "sinh", "sqrt", "tan", "tanh", "trunc", "zero"),
)
BOUNDS = ("clamp_min", "clamp_max", "maximum", "minimum")


def inside() -> list[torch.Tensor]:
    """Between 0.05 and 0.95, where every function of one number is defined and none has a kink."""
    return [torch.rand(shape, dtype=F64) * 0.9 + 0.05 for shape in ((3,), (2, 2), ())]


def foreach_calls() -> dict[str, list[Arguments]]:
    """Arguments by overload name."""
    numbers, one = [0.5, -1.5, 2.0], torch.tensor(0.7, dtype=F64)
    calls: dict[str, list[Arguments]] = {f"_foreach_{name}": [((inside(),), {})] for name in UNARY}
    for name in ("add", "sub", "mul", "div", *BOUNDS):
        calls[f"_foreach_{name}.Scalar"] = [((inside(), 0.5), {})]
        calls[f"_foreach_{name}.ScalarList"] = [((inside(), numbers), {})]
        calls[f"_foreach_{name}.List"] = [((inside(), inside()), {})]
    for name in ("add", "sub"):
        calls[f"_foreach_{name}.List"].append(((inside(), inside()), {"alpha": 0.25}))
    for name in ("add", "mul", "div"):
        calls[f"_foreach_{name}.Tensor"] = [((inside(), one), {})]
    for name in ("addcmul", "addcdiv"):
        tensors = (inside(), inside(), inside())
        calls[f"_foreach_{name}.Scalar"] = [(tensors, {}), ((*tensors, 0.5), {})]
        calls[f"_foreach_{name}.ScalarList"] = [((*tensors, numbers), {})]
        calls[f"_foreach_{name}.Tensor"] = [((*tensors, torch.tensor(numbers, dtype=F64)), {})]
    matrices = [torch.randn(2, 3, dtype=F64), torch.randn(1, 2, dtype=F64)]
    return {
        **calls,
        "_foreach_copy": [((inside(), inside()), {})],
        "_foreach_mm": [((matrices, [torch.randn(3, 2, dtype=F64), torch.randn(2, 4, dtype=F64)]), {})],
        "_foreach_pow.Scalar": [((inside(), 2), {}), ((inside(), 1.5), {})],
        "_foreach_pow.ScalarList": [((inside(), numbers), {})],
        "_foreach_pow.List": [((inside(), inside()), {})],
        "_foreach_pow.ScalarAndTensor": [((1.5, inside()), {})],
        "_foreach_lerp.Scalar": [((inside(), inside(), 0.3), {})],
        "_foreach_lerp.ScalarList": [((inside(), inside(), numbers), {})],
        "_foreach_lerp.List": [((inside(), inside(), inside()), {})],
        "_foreach_norm.Scalar": [((inside(),), {}), ((inside(), 1), {})],
        "_foreach_powsum.Scalar": [((inside(),), {}), ((inside(), 3), {})],
        "linalg__powsum": [
            ((torch.randn(3, 4, dtype=F64), 3, [1], True), {}),
            ((torch.randn(3, dtype=F64),), {}),
        ],
    }


def fake_quantize_calls() -> dict[str, list[Arguments]]:
    """Values inside and outside of the grid, and scales with more than one digit; torch has it in float32."""
    x = torch.linspace(-1.3, 2.1, 24).reshape(4, 6)
    scales, points = torch.tensor([0.07, 0.013, 0.021, 0.11]), torch.tensor([3.0, 1.0, 0.0, 7.0])
    one, on = torch.tensor([0.037]), torch.tensor([1])
    grid = (0, 31)
    observer = (
        torch.tensor([-1.0]),
        torch.tensor([2.0]),
        torch.tensor([1.0]),
        torch.tensor([0], dtype=torch.int32),
    )
    return {
        "fake_quantize_per_tensor_affine_cachemask": [((x, 0.037, 4, *grid), {})],
        "_fake_quantize_per_tensor_affine_cachemask_tensor_qparams": [
            ((x, one, torch.tensor([4], dtype=torch.int32), flag, *grid), {}) for flag in (on, on * 0)
        ],
        "fake_quantize_per_channel_affine_cachemask": [((x, scales, points.int(), 0, *grid), {})],
        "_fake_quantize_learnable_per_tensor_affine": [
            ((x, one, torch.tensor([4.0]), *grid, factor), {}) for factor in (1.0, 0.3)
        ],
        "_fake_quantize_learnable_per_channel_affine": [((x, scales, points, 0, *grid, 0.5), {})],
        "_fused_moving_avg_obs_fq_helper": [
            ((x, on, flag, *observer, 0.01, *grid, 0), {}) for flag in (on, on * 0)
        ],
    }

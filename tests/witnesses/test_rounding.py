"""Sums whose terms come sorted by sign: torch's rounding is excused, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradcheck_suite import Report, check_gradients
from gradcheck_suite.evidence import Outcome

ROWS = 16_384


def sorted_weights(dtype: torch.dtype, rows: int = ROWS) -> Tensor:
    """Half of them negative, half positive, and together zero."""
    half = torch.rand(rows // 2, dtype=dtype, generator=torch.Generator().manual_seed(0)) + 0.5
    return torch.cat([-half.sort().values, half.sort().values])


def nearly_one(*shape: int, dtype: torch.dtype) -> Tensor:
    return 1 + 0.01 * torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(1))


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(4, 4), (ROWS, 4)),
    "layer norm": (lambda: nn.LayerNorm(4), (ROWS, 4)),
    "batch norm": (lambda: nn.BatchNorm1d(4).eval(), (ROWS, 4)),
    "convolution": (lambda: nn.Conv1d(3, 4, 3, padding=1), (1, 3, ROWS)),
    "transposed convolution": (lambda: nn.ConvTranspose1d(3, 4, 3, padding=1), (1, 3, ROWS)),
    "group norm": (lambda: nn.GroupNorm(2, 4), (1, 4, ROWS)),
    "instance norm": (lambda: nn.InstanceNorm1d(4, affine=True), (1, 4, ROWS)),
}


def check(model: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> Report:
    weights = sorted_weights(dtype)

    def loss(output: Tensor) -> Tensor:
        return (output * (weights if output.dim() == 3 else weights[:, None])).sum()

    return check_gradients(model, (nearly_one(*shape, dtype=dtype),), loss=loss)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", MODELS)
def test_a_sorted_batch_is_verified(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    make, shape = MODELS[name]
    report = check(make().to(dtype), dtype, shape)
    assert report.ok, str(report)
    assert not [v for v in report.nodes if v.outcome is not Outcome.AGREE], str(report)


def function(factor: float, *, forget: bool = False) -> Any:
    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
            ctx.save_for_backward(x, weight)
            return x @ weight

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
            x, weight = ctx.saved_tensors
            if forget:
                grad = torch.where(torch.arange(len(grad))[:, None] == 5, 0.0, grad)
            return grad @ weight.T, (x.T @ grad) * factor

    return Product.apply


class Layer(nn.Module):
    def __init__(self, product: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.product = product
        generator = torch.Generator().manual_seed(3)
        self.weight = nn.Parameter(torch.randn(4, 4, dtype=dtype, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x, self.weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_right_function_of_the_users_is_excused_too(dtype: torch.dtype) -> None:
    report = check(Layer(function(1.0), dtype), dtype, (ROWS, 4))
    assert report.ok, str(report)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "wrong", [{"factor": 1.001}, {"factor": -1.0}, {"factor": 1.0, "forget": True}], ids=str
)
def test_a_wrong_one_is_found_though_its_sum_cancels(wrong: dict[str, Any], dtype: torch.dtype) -> None:
    report = check(Layer(function(**wrong), dtype), dtype, (ROWS, 4))
    assert not report.ok, str(report)
    assert [f.code for f in report.findings][:1] == ["GC101"], str(report)


def test_what_is_excused_says_so() -> None:
    torch.manual_seed(0)
    report = check(nn.Linear(4, 4), torch.float32, (ROWS, 4))
    said = [t.reason for v in report.nodes for t in v.testimonies if "sorted by sign" in t.reason]
    assert said
    assert "torch's own backward in float64 agrees" in said[0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["linear", "batch norm", "convolution", "group norm"])
def test_a_sorted_batch_in_half_precision_is_not_accused(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    make, shape = MODELS[name]
    report = check(make().to(dtype), dtype, shape)
    assert not [f for f in report.findings if f.code == "GC101"], str(report)
    wrong = check(Layer(function(-10.0), dtype), dtype, (ROWS, 4))
    assert [f.code for f in wrong.findings][:1] == ["GC101"], str(wrong)


@pytest.mark.parametrize("offset", [100.0, 1000.0])
def test_attention_over_inputs_far_from_zero_is_verified(offset: float) -> None:
    """A kernel that keeps the logsumexp of its scores knows its weights to an eps of that only."""
    for seed in range(12):
        torch.manual_seed(seed)
        x = torch.randn(2, 4, 6) + offset
        report = check_gradients(nn.TransformerEncoderLayer(6, 2, 8, 0.0, batch_first=True), (x,), seed=seed)
        assert not [f for f in report.findings if f.code in ("GC101", "GC501")], str(report)


# -- terms that are alike --------------------------------------------------------------------------------------------


def head(classes: int, features: Tensor) -> nn.Linear:
    """As some steps of training leave a head that began as zeros: all rows alike but that of the class."""
    layer = nn.Linear(features.shape[1], classes)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        classify(layer(features.detach())).backward()
        optimizer.step()
    return layer


class HeadBackward(torch.autograd.Function):
    """A product with a matrix, whose backward is off by one part in 20,000 at one element."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight.T

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        wrong = g @ weight
        wrong[0, 3] *= 1 + 5e-5
        return wrong, g.T @ x


def classify(output: Tensor) -> Tensor:
    return nn.functional.cross_entropy(output, torch.full((len(output),), 7))


def features(seed: int) -> Tensor:
    return torch.randn(2, 768, generator=torch.Generator().manual_seed(seed)).requires_grad_()


@pytest.mark.parametrize("classes", [300, 1_000, 3_000])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_head_that_began_as_zeros_is_verified(classes: int, seed: int) -> None:
    x = features(seed)
    report = check_gradients(head(classes, x), (x,), loss=classify)
    assert report.ok, str(report)


def test_a_small_error_beside_terms_that_are_alike_is_found() -> None:
    x = features(0)
    layer = head(1_000, x)
    report = check_gradients(lambda t: HeadBackward.apply(t, layer.weight), (x,), loss=classify)
    assert "GC101" in {f.code for f in report.findings}

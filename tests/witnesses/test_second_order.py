"""Order 2 and 3: a backward that is right and whose derivative is wrong is found; right ones are never accused."""

from __future__ import annotations

import inspect
import random
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from gradcheck_suite import check_gradients
from gradcheck_suite.errors import ConfigurationError
from gradcheck_suite.evidence import Finding, Outcome, Report
from gradcheck_suite.witnesses.higher_order import check_order
from gradcheck_suite.witnesses.torch_reverse import ReverseRun, record_reverse

F64 = torch.float64


def draw(*shape: int, dtype: torch.dtype = F64, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def mismatches(report: Report) -> list[Finding]:
    return [f for f in report.findings if f.code == "GC102"]


def function(
    save: Callable[..., Any], backward: Callable[..., Any], forward: Callable[..., Any]
) -> type[Function]:
    """``save(ctx, out, *inputs)`` keeps what ``backward(ctx, g)`` uses."""

    class Planted(Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Any:
            out = forward(*inputs)
            save(ctx, out, *inputs)
            return out

        @staticmethod
        def backward(ctx: Any, *cotangents: Any) -> Any:
            return backward(ctx, *cotangents)

    return Planted


def saved(ctx: Any, out: Any, *inputs: Any) -> None:
    ctx.save_for_backward(*inputs)


def plain(ctx: Any, out: Any, *inputs: Any) -> None:
    ctx.kept = tuple(i.detach() for i in inputs)


# ------------------------------------------------------------------------------------------- lies and their twins


class WrongInside(Function):
    """The derivative of x**3, whose own derivative lacks a factor."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(g, x)
        return 3 * x * x * g

    @staticmethod
    def backward(ctx: Any, h: Tensor) -> tuple[Tensor, Tensor]:
        g, x = ctx.saved_tensors
        return 3 * x * x * h, 3 * x * g * h  # 6


class RightInside(WrongInside):
    @staticmethod
    def backward(ctx: Any, h: Tensor) -> tuple[Tensor, Tensor]:
        g, x = ctx.saved_tensors
        return 3 * x * x * h, 6 * x * g * h


class WrongByCotangent(WrongInside):
    @staticmethod
    def backward(ctx: Any, h: Tensor) -> tuple[Tensor, Tensor]:
        g, x = ctx.saved_tensors
        return 3 * x * h, 6 * x * g * h


class Within(Function):
    """Differentiates its forward with autograd, from a copy that is cut off."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x * x).sin()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        x = ctx.saved_tensors[0].detach().requires_grad_()
        with torch.enable_grad():
            out = (x * x).sin()
        return torch.autograd.grad(out, x, g)[0]


class WithinConnected(Within):
    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        with torch.enable_grad():
            out = (x * x).sin()
        return torch.autograd.grad(out, x, g, create_graph=torch.is_grad_enabled())[0]


class Sinh(Function):
    """From PyTorch's tutorial on double backward: intermediates become outputs, so that they have a history."""

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        up, down = x.exp(), (-x).exp()
        return (up - down) / 2, up, down

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*output[1:])

    @staticmethod
    def backward(ctx: Any, g: Tensor, by_up: Tensor, by_down: Tensor) -> Tensor:
        up, down = ctx.saved_tensors
        return g * (up + down) / 2 + by_up * up - by_down * down


class SinhFirst(Sinh):
    """The same, but the gradients of the intermediates are forgotten: the first order does not use them."""

    @staticmethod
    def backward(ctx: Any, g: Tensor, by_up: Tensor, by_down: Tensor) -> Tensor:
        up, down = ctx.saved_tensors
        return g * (up + down) / 2


class SinhIgnoring:
    @staticmethod
    def apply(x: Tensor) -> Tensor:
        return SinhFirst.apply(x)[0]  # type: ignore[no-any-return,no-untyped-call]


class WithStatistic(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x)
        return x**3, x.sum()

    @staticmethod
    def backward(ctx: Any, g: Tensor, _: Tensor) -> Tensor:
        return 3 * ctx.saved_tensors[0] ** 2 * g  # type: ignore[no-any-return]


class Lazy(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, y)
        return x * y, x + y

    @staticmethod
    def backward(ctx: Any, by_product: Tensor | None, by_sum: Tensor | None) -> Any:
        x, y = ctx.saved_tensors
        if by_product is None:
            return by_sum, by_sum
        if by_sum is None:
            return by_product * y, by_product * x
        return by_product * y + by_sum, by_product * x + by_sum


class Needed(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, k: float) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.k = k
        return k * x @ w

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, w = ctx.saved_tensors
        needs = ctx.needs_input_grad
        return ctx.k * g @ w.mT if needs[0] else None, ctx.k * x.mT @ g if needs[1] else None, None


class Dirty(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        x.exp_()
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * ctx.saved_tensors[0]  # type: ignore[no-any-return]


def through(inner: type[Function]) -> type[Function]:
    return function(saved, lambda ctx, g: inner.apply(g, ctx.saved_tensors[0]), lambda x: x**3)


def intermediate(ctx: Any, out: Any, x: Tensor) -> None:
    ctx.save_for_backward((-x).exp())


def both_saved(ctx: Any, out: Any, *inputs: Any) -> None:
    ctx.save_for_backward(out, *inputs)


def output_only(ctx: Any, out: Any, *inputs: Any) -> None:
    ctx.save_for_backward(out)


def normalised(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def normalised_backward(g: Tensor, x: Tensor, norm: Tensor) -> Tensor:
    y = x / norm
    return (g - y * (g * y).sum(-1, keepdim=True)) / norm


def two(ctx: Any, g: Tensor) -> Any:
    x, y = ctx.saved_tensors
    return g * y, g * x


def two_half_detached(ctx: Any, g: Tensor) -> Any:
    x, y = ctx.saved_tensors
    return g * y, g * x.detach()


def numpy_cube(ctx: Any, g: Tensor) -> Tensor:
    (x,) = ctx.saved_tensors
    return g * torch.from_numpy(3 * x.detach().numpy() ** 2)


def item_scale(ctx: Any, g: Tensor) -> Tensor:
    (x,) = ctx.saved_tensors
    return g * 2 * x.detach().sum().item() * torch.ones_like(x)


X = (4, 3)
LIES: dict[str, tuple[type[Function], tuple[Tensor, ...]]] = {
    "detached on ctx": (function(plain, lambda ctx, g: 3 * ctx.kept[0] ** 2 * g, lambda x: x**3), (draw(*X),)),
    "intermediate saved": (
        function(
            intermediate,
            lambda ctx, g: g * ctx.saved_tensors[0] / (1 + ctx.saved_tensors[0]) ** 2,
            lambda x: 1 / (1 + (-x).exp()),
        ),
        (draw(*X),),
    ),
    "saved, then detached": (
        function(saved, lambda ctx, g: g * ctx.saved_tensors[0].detach().cos(), torch.sin),
        (draw(*X),),
    ),
    "data": (function(saved, lambda ctx, g: g * ctx.saved_tensors[0].data.cos(), torch.sin), (draw(*X),)),
    "a norm saved": (
        function(
            lambda ctx, out, x: ctx.save_for_backward(x, x.norm(dim=-1, keepdim=True)),
            lambda ctx, g: normalised_backward(g, *ctx.saved_tensors),
            normalised,
        ),
        (draw(*X),),
    ),
    "half of a product rule": (
        function(
            saved,
            lambda ctx, g: g * (ctx.saved_tensors[0].cos() * ctx.saved_tensors[0].detach() + ctx.saved_tensors[0].sin()),
            lambda x: x * x.sin(),
        ),
        (draw(*X),),
    ),
    "one of two inputs detached": (function(saved, two_half_detached, torch.mul), (draw(*X), draw(*X, seed=1))),
    "an inner Function": (through(WrongInside), (draw(*X),)),
    "an inner Function, by cotangent": (through(WrongByCotangent), (draw(*X),)),
    "grad_output detached": (
        function(saved, lambda ctx, g: g.detach() * ctx.saved_tensors[0].cos(), torch.sin),
        (draw(*X),),
    ),
    "grad_output detached in a linear one": (function(saved, lambda ctx, g: 3 * g.detach(), lambda x: 3 * x), (draw(*X),)),
    "no_grad in backward": (
        function(
            saved,
            lambda ctx, g: torch.no_grad()(lambda: g * ctx.saved_tensors[0].cos())(),
            torch.sin,
        ),
        (draw(*X),),
    ),
    "numpy in backward": (function(saved, numpy_cube, lambda x: x**3), (draw(*X),)),
    "item in backward": (function(saved, item_scale, lambda x: x.sum() ** 2), (draw(*X),)),
    "an output detached": (
        function(output_only, lambda ctx, g: g * ctx.saved_tensors[0].detach(), torch.exp),
        (draw(*X),),
    ),
    "a softmax with one factor detached": (
        function(
            output_only,
            lambda ctx, g: ctx.saved_tensors[0]
            * (g - (g * ctx.saved_tensors[0].detach()).sum(-1, keepdim=True)),
            lambda x: torch.softmax(x, -1),
        ),
        (draw(*X),),
    ),
    "float32": (
        function(plain, lambda ctx, g: 3 * ctx.kept[0] ** 2 * g, lambda x: x**3),
        (draw(*X, dtype=torch.float32),),
    ),
    "bfloat16": (
        function(plain, lambda ctx, g: 3 * ctx.kept[0] ** 2 * g, lambda x: x**3),
        (draw(*X, dtype=torch.bfloat16),),
    ),
    "complex": (
        function(plain, lambda ctx, g: 2 * ctx.kept[0].conj() * g, lambda z: z * z),
        (draw(*X, dtype=torch.complex128),),
    ),
    "differentiated inside, from a detached copy": (Within, (draw(*X),)),
    "outputs whose gradients are ignored": (SinhIgnoring, (draw(*X),)),
}  # fmt: skip

TRUTHS: dict[str, tuple[Callable[..., Any], tuple[Tensor, ...]]] = {
    "differentiated inside": (WithinConnected.apply, (draw(*X),)),
    "intermediates returned as outputs": (lambda x: Sinh.apply(x)[0], (draw(*X),)),
    "an output whose gradient is ignored, and which nobody uses": (
        lambda x: WithStatistic.apply(x)[0],
        (draw(*X),),
    ),
    "undefined gradients left undefined": (lambda x, y: Lazy.apply(x, y)[0], (draw(*X), draw(*X, seed=1))),
    "an argument that needs no gradient": (lambda x: Needed.apply(x, draw(3, 3), 3.0), (draw(*X),)),
    "written in place": (lambda x: Dirty.apply(x * 1.0), (draw(*X),)),
    "a Function inside a forward": (
        function(saved, lambda ctx, g: g * ctx.saved_tensors[0].cosh(), lambda x: Sinh.apply(x)[0]).apply,
        (draw(*X),),
    ),
    "vmap of grad": (lambda x: torch.func.vmap(torch.func.grad(lambda t: (t**3).sum()))(x), (draw(*X),)),
    "distances of points to themselves": (lambda x: torch.cdist(x, x), (draw(*X),)),
    "cube": (function(saved, lambda ctx, g: 3 * ctx.saved_tensors[0] ** 2 * g, lambda x: x**3).apply, (draw(*X),)),
    "the input itself on ctx": (
        function(
            lambda ctx, out, x: setattr(ctx, "kept", x), lambda ctx, g: 3 * ctx.kept**2 * g, lambda x: x**3
        ).apply,
        (draw(*X),),
    ),
    "output saved": (
        function(output_only, lambda ctx, g: g * ctx.saved_tensors[0] * (1 - ctx.saved_tensors[0]), torch.sigmoid).apply,
        (draw(*X),),
    ),
    "input and output saved": (
        function(
            both_saved,
            lambda ctx, g: g * ctx.saved_tensors[0] / ctx.saved_tensors[1] * 2,
            lambda x: x * x,
        ).apply,
        (draw(*X),),
    ),
    "a norm computed again": (
        function(
            saved,
            lambda ctx, g: normalised_backward(
                g, ctx.saved_tensors[0], ctx.saved_tensors[0].norm(dim=-1, keepdim=True)
            ),
            normalised,
        ).apply,
        (draw(*X),),
    ),
    "two inputs": (function(saved, two, torch.mul).apply, (draw(*X), draw(*X, seed=1))),
    "one tensor twice": (lambda x: function(saved, two, torch.mul).apply(x, x), (draw(*X),)),
    "an input made of the other": (
        lambda x: function(saved, two, torch.mul).apply(x, x.sin() * x),
        (draw(*X),),
    ),
    "an inner Function": (through(RightInside).apply, (draw(*X),)),
    "linear, a constant kept": (
        function(lambda ctx, out, x: setattr(ctx, "k", 3.0), lambda ctx, g: g * ctx.k, lambda x: 3.0 * x).apply,
        (draw(*X),),
    ),
    "a mask saved": (
        function(
            lambda ctx, out, x: ctx.save_for_backward(x > 0), lambda ctx, g: g * ctx.saved_tensors[0], torch.relu
        ).apply,
        (draw(*X),),
    ),
    "a detached copy that only makes a mask": (
        function(plain, lambda ctx, g: g * (ctx.kept[0] > 0), torch.relu).apply,
        (draw(*X),),
    ),
    "softmax": (
        function(
            output_only,
            lambda ctx, g: ctx.saved_tensors[0] * (g - (g * ctx.saved_tensors[0]).sum(-1, keepdim=True)),
            lambda x: torch.softmax(x, -1),
        ).apply,
        (draw(*X),),
    ),
    "digamma in backward": (
        function(saved, lambda ctx, g: g * torch.digamma(ctx.saved_tensors[0]), torch.lgamma).apply,
        (draw(*X).abs() + 0.5,),
    ),
    "complex": (
        function(saved, lambda ctx, g: 2 * ctx.saved_tensors[0].conj() * g, lambda z: z * z).apply,
        (draw(*X, dtype=torch.complex128),),
    ),
    "float32": (
        function(saved, lambda ctx, g: 3 * ctx.saved_tensors[0] ** 2 * g, lambda x: x**3).apply,
        (draw(*X, dtype=torch.float32),),
    ),
    "bfloat16": (
        function(saved, lambda ctx, g: 3 * ctx.saved_tensors[0] ** 2 * g, lambda x: x**3).apply,
        (draw(*X, dtype=torch.bfloat16),),
    ),
    "relu at zero": (torch.relu, (torch.tensor([-1.0, 0.0, 0.0, 2.0]),)),
    "abs at zero": (torch.abs, (torch.tensor([-1.0, 0.0, 2.0]),)),
    "norm at zero": (torch.linalg.vector_norm, (torch.zeros(3),)),
    "ties": (lambda x: x.max(-1).values * x.amax(-1), (torch.ones(2, 3),)),
    "clamp at its bound": (lambda x: x.clamp(-1, 1) ** 2, (torch.tensor([-2.0, -1.0, 0.3, 1.0]),)),
    "powers at zero": (lambda x: x**2 + x**3, (torch.tensor([0.0, 1.0, 4.0]),)),
    "x times x": (lambda x: x * x, (draw(*X),)),
    "in place": (lambda x: (x * 2).mul_(x).add_(x.sin()), (draw(*X),)),
    "a write through a view": (lambda x: _written(x), (draw(*X),)),
    "a stop-gradient": (lambda x: (x.sin() - x.cos().detach()) ** 2, (draw(*X),)),
    "straight-through without a Function": (lambda x: (x + (x.round() - x).detach()) ** 2, (draw(*X),)),
    "a complex magnitude": (lambda z: z.abs() * torch.view_as_real(z * z).sum(-1), (draw(*X, dtype=torch.complex128),)),
    "inverse": (lambda x: torch.linalg.inv(x + 3 * torch.eye(3, dtype=F64)), (draw(3, 3),)),
    "eigenvalues": (lambda x: torch.linalg.eigvalsh(x + x.mT), (draw(3, 3),)),
    "integers beside": (lambda x: F.embedding(torch.tensor([0, 2, 2]), x).sin(), (draw(4, 3),)),
}  # fmt: skip


def _written(x: Tensor) -> Tensor:
    y = x * x
    y[:, 1] = x[:, 0].sin()
    return y * y


@pytest.mark.parametrize("name", LIES)
def test_a_lie_is_found_and_its_function_named(name: str) -> None:
    cls, inputs = LIES[name]

    def model(*given: Tensor) -> Tensor:
        return cls.apply(*given)  # type: ignore[no-any-return,no-untyped-call]

    first = check_gradients(model, inputs)
    assert not [f for f in first.findings if f.code == "GC101"], str(first)
    report = check_gradients(model, inputs, order=2)
    found = mismatches(report)
    assert found, str(report)
    assert not report.ok
    line = inspect.getsourcelines(model)[1] + 1
    for finding in found:
        assert finding.location is not None
        if cls is not SinhIgnoring:
            assert (finding.location.file, finding.location.line) == (__file__, line)
            assert (cls.__name__ if cls is Within else "Planted") in finding.message
        assert [r.role for r in finding.related] == ["backward"]
        assert finding.hint


@pytest.mark.parametrize("name", TRUTHS)
def test_a_truth_is_not_accused(name: str) -> None:
    model, inputs = TRUTHS[name]
    report = check_gradients(model, inputs, order=2)
    assert not mismatches(report), str(report)
    assert not report.errors, str(report)
    if name != "norm at zero":  # where there is no second derivative
        assert report.counts["higher_order_nodes"] > 0, str(report)


@pytest.mark.parametrize(
    "name", ["cube", "two inputs", "softmax", "an input made of the other", "x times x", "complex"]
)
def test_third_order_of_a_truth(name: str) -> None:
    model, inputs = TRUTHS[name]
    report = check_gradients(model, inputs, order=3)
    assert not report.errors, str(report)
    assert report.counts["higher_order_nodes"] > 0
    assert not [u for u in report.unverified if "derivative" in u.subject], str(report)


def test_third_order_finds_what_is_right_to_the_second() -> None:
    class Second(Function):
        @staticmethod
        def forward(ctx: Any, g: Tensor, x: Tensor) -> Tensor:
            ctx.save_for_backward(g, x)
            return 4 * x**3 * g

        @staticmethod
        def backward(ctx: Any, h: Tensor) -> tuple[Tensor, Tensor]:
            g, x = ctx.saved_tensors
            return 4 * x**3 * h, 12 * x.detach() ** 2 * g * h

    fourth = function(saved, lambda ctx, g: Second.apply(g, ctx.saved_tensors[0]), lambda x: x**4)
    assert not mismatches(check_gradients(fourth.apply, draw(*X), order=2))
    (finding, *_) = mismatches(check_gradients(fourth.apply, draw(*X), order=3))
    assert finding.evidence["order"] == 3
    assert "Second" in finding.hint


def test_hints_say_what_is_missing() -> None:
    def hint(name: str) -> str:
        cls, inputs = LIES[name]
        return mismatches(check_gradients(cls.apply, inputs, order=2))[0].hint

    assert "intermediate saved in forward" in hint("intermediate saved")
    assert "save the inputs" in hint("detached on ctx")
    assert "grad_output was detached" in hint("grad_output detached in a linear one")
    assert "calls WrongInside" in hint("an inner Function")


def test_who_refuses_honestly_is_unverified_and_not_accused() -> None:
    class Once(Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x.sin()

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return g * ctx.saved_tensors[0].cos()

    report = check_gradients(Once.apply, draw(*X), order=2)
    assert not report.errors, str(report)
    assert any("once_differentiable" in u.reason for u in report.unverified), str(report)

    report = check_gradients(
        lambda x: F.ctc_loss(
            F.log_softmax(x, -1), torch.tensor([[1, 2], [3, 1]]), torch.tensor([6, 6]), torch.tensor([2, 2])
        ),
        draw(6, 2, 4),
        order=2,
    )
    assert not report.errors, str(report)
    assert any("not implemented" in u.reason for u in report.unverified), str(report)


def test_a_wrong_first_order_is_told_once_and_the_second_left_open() -> None:
    wrong = function(saved, lambda ctx, g: 2 * ctx.saved_tensors[0] ** 2 * g, lambda x: x**3)
    report = check_gradients(wrong.apply, draw(*X), order=2)
    assert {f.code for f in report.errors} == {"GC101"}, str(report)
    assert any("first order" in u.reason for u in report.unverified)


def test_a_declared_surrogate_is_left_alone() -> None:
    rounded = function(saved, lambda ctx, g: g, torch.round)
    report = check_gradients(lambda x: rounded.apply(x) * x, draw(*X), order=2, surrogates=[rounded])
    assert not report.errors, str(report)
    assert any("surrogate" in u.reason for u in report.unverified)


def test_a_forward_in_numpy_is_seen_by_differences_of_the_gradient() -> None:
    def cube(x: Tensor) -> Tensor:
        return torch.from_numpy(x.detach().numpy() ** 3)

    wrong = function(plain, lambda ctx, g: 3 * ctx.kept[0] ** 2 * g, cube)
    right = function(saved, lambda ctx, g: 3 * ctx.saved_tensors[0] ** 2 * g, cube)
    (finding,) = mismatches(check_gradients(lambda x: wrong.apply(x * 1.5), draw(*X), order=2))
    assert "Planted" in finding.hint
    report = check_gradients(lambda x: right.apply(x * 1.5), draw(*X), order=2)
    assert not report.errors, str(report)


# --------------------------------------------------------------------------------------------------- real models


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            return self.layer(x)  # type: ignore[no-any-return]


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x)[0]  # type: ignore[no-any-return]


class Penalised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 6), nn.Softplus(), nn.Linear(6, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = x * 1.0
        (slope,) = torch.autograd.grad(self.net(x).sum(), x, create_graph=True)
        return (slope.norm(dim=1) - 1) ** 2


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(checkpoint(lambda t: self.first(t).tanh(), x, use_reentrant=False))  # type: ignore[no-any-return]


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (lambda: nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.LayerNorm(6), nn.Linear(6, 3)), (5, 4)),
    "cnn": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.3), nn.Flatten(),
            nn.Linear(36, 2),
        ),
        (3, 2, 6, 6),
    ),
    "transformer layer": (Attention, (2, 5, 8)),
    "lstm": (Recurrent, (4, 2, 3)),
    "gradient penalty": (Penalised, (4, 3)),
    "checkpoint": (Checkpointed, (4, 3)),
    "batch norm over two values": (lambda: nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Tanh()), (2, 3)),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_a_right_model_is_not_accused(name: str, dtype: torch.dtype) -> None:
    make, shape = MODELS[name]
    torch.manual_seed(0)
    model = make().to(dtype)
    report = check_gradients(model, draw(*shape, dtype=dtype), order=2)
    assert not report.errors, str(report)
    assert report.counts["higher_order_nodes"] >= 1


def test_what_oscillates_within_a_step_is_not_accused() -> None:
    report = check_gradients(lambda x: (x * 1e9).sin(), draw(*X), order=2)
    assert not mismatches(report), str(report)


def test_hooks_are_respected() -> None:
    layer = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    layer[0].register_full_backward_hook(lambda module, given, got: None)
    layer[0].weight.register_hook(lambda g: g * 2)

    def model(x: Tensor) -> Tensor:
        hidden = layer[1](layer[0](x))
        hidden.register_hook(lambda g: g.clamp(-1, 1))
        return layer[2](hidden)  # type: ignore[no-any-return]

    report = check_gradients(model, draw(4, 3, dtype=torch.float32), order=2)
    assert not mismatches(report), str(report)


def test_nothing_is_left_changed() -> None:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(), nn.Flatten(), nn.Linear(8, 1))
    model(draw(2, 1, 4, 4, dtype=torch.float32)).sum().backward()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    states = torch.get_rng_state(), random.getstate(), str(np.random.get_state())
    x = draw(2, 1, 4, 4, dtype=torch.float32)
    kept = x.clone()
    check_gradients(model, x, order=3)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(torch.equal(a, p.grad) for a, p in zip(grads, model.parameters()) if p.grad is not None)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (random.getstate(), str(np.random.get_state()))
    assert torch.equal(x, kept)
    assert not x.requires_grad
    assert all(not p._backward_hooks for p in model.parameters())


@pytest.mark.parametrize("order", [0, 4, -1, True, 2.0, "2", None])
def test_another_order_is_refused(order: object) -> None:
    with pytest.raises(ConfigurationError, match="order="):
        check_gradients(torch.sin, draw(2), order=order)  # type: ignore[arg-type]


def test_without_time_it_says_so() -> None:
    report = check_gradients(nn.Linear(3, 2), draw(4, 3, dtype=torch.float32), order=2, budget=1e-9)
    assert report.unverified


@pytest.mark.slow
def test_resnet18() -> None:
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    report = check_gradients(models.resnet18(), draw(2, 3, 48, 48, dtype=torch.float32), order=2)
    assert not report.errors, str(report)
    assert report.counts["higher_order_nodes"] > 10


# ---------------------------------------------------------------------------------------- torch's own operations

# Wrong in torch: their second derivative is zero, or is none, in silence.
WRONG_IN_TORCH = {"nn.functional.linear_cross_entropy"}


def entries() -> Iterator[Any]:
    from torch.testing._internal.common_methods_invocations import op_db

    for op in op_db:
        if op.supports_gradgrad and op.supports_dtype(F64, "cpu") and not op.name.startswith("jiterator"):
            yield op


def runs_of(op: Any, count: int) -> Iterator[ReverseRun]:
    from torch.utils._pytree import tree_leaves

    torch.manual_seed(0)
    for sample, _ in zip(op.sample_inputs_func(op, "cpu", F64, True), range(count)):
        tensors = [
            t for t in tree_leaves((sample.input, sample.args, sample.kwargs)) if isinstance(t, Tensor)
        ]
        named = {f"input {i}": t for i, t in enumerate(tensors) if t.requires_grad}
        if not named or any(t.layout is not torch.strided for t in tensors):
            continue

        def call(sample: Any = sample) -> Any:
            return op(sample.input, *sample.args, **sample.kwargs)

        try:
            yield record_reverse(call, (), {}, named_leaves=named, buffers=tensors)
        except Exception:  # samples that are meant to fail, or without a differentiable output
            continue


def accused(op: Any, count: int) -> tuple[list[str], int]:
    """Derivatives of this operation's nodes that disagree, and how many agree."""
    wrong, agreed = [], 0
    for run in runs_of(op, count):
        for key, node in run.trace.nodes.items():
            if key <= 0 or not node.ran:
                continue
            for testimony in check_order(node, run.autograd_nodes, 2, 0).testimonies:
                agreed += testimony.outcome is Outcome.AGREE
                if testimony.outcome is Outcome.DISAGREE:
                    wrong.append(f"{op.name} {op.variant_test_name}: {testimony}")
    return wrong, agreed


def sweep(step: int, count: int) -> tuple[list[str], int]:
    wrong: list[str] = []
    agreed = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number, op in enumerate(entries()):
            if number % step == 0 and op.name not in WRONG_IN_TORCH:
                more, right = accused(op, count)
                wrong += more
                agreed += right
    return wrong, agreed


def test_a_share_of_torchs_operations_agrees() -> None:
    wrong, agreed = sweep(23, 1)
    assert not wrong, "\n".join(wrong)
    assert agreed > 40


@pytest.mark.slow
def test_all_of_torchs_operations_agree() -> None:
    wrong, agreed = sweep(1, 2)
    assert not wrong, "\n".join(wrong)
    assert agreed > 3000


@pytest.mark.slow
def test_twin_a_wrong_operation_of_torch_is_found() -> None:
    chosen = [op for op in entries() if op.name in WRONG_IN_TORCH and op.variant_test_name == "chunked"]
    wrong = [line for op in chosen for line in accused(op, 1)[0]]
    assert bool(wrong) is bool(chosen)


@pytest.mark.parametrize("values", [(0.0, 0.0), (0.0, 0.5)])
def test_a_nan_of_torch_where_the_second_derivative_is_finite_is_wrong(values: tuple[float, ...]) -> None:
    report = check_gradients(torch.sinc, torch.tensor(values, dtype=torch.float64), order=2)
    assert "GC102" in {finding.code for finding in report.errors}, str(report)


def test_no_nan_is_accused_where_there_is_no_second_derivative() -> None:
    report = check_gradients(lambda x: x.norm(), torch.zeros(2, dtype=torch.float64), order=2)
    assert not report.errors, str(report)

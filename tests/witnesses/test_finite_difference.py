"""Finite differences of whole functions: right ones are never accused, wrong ones are, down to the leaf."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradcheck_suite.capture.inputs import prepare, resolve_inputs
from gradcheck_suite.capture.outputs import differentiable_outputs, random_projection
from gradcheck_suite.capture.state import preserved
from gradcheck_suite.evidence import Outcome
from gradcheck_suite.witnesses.finite_difference import FiniteDifferenceResult, _spread, finite_difference


def check(
    model: Callable[..., Any],
    inputs: Any = None,
    *,
    others: dict[str, Tensor] | None = None,
    loss: Callable[[Any], Any] | None = None,
    **settings: Any,
) -> FiniteDifferenceResult:
    call = prepare(resolve_inputs(model, inputs), model)
    with preserved(model, call.args, call.kwargs):
        output = model(*call.args, **call.kwargs)
        outputs = differentiable_outputs(output if loss is None else loss(output))
    cotangents = [(path, c) for (path, _), c in zip(outputs, random_projection(outputs, 1))]
    wrt = dict(model.named_parameters()) if isinstance(model, nn.Module) else {}
    wrt |= {**call.leaves, **(others or {})}
    return finite_difference(model, call, wrt, cotangents, loss=loss, **settings)


def perceptron(middle: nn.Module, *more: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), middle, *more, nn.Linear(8, 3))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------------------- right functions


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(3, 4, 2, dropout=0.3)

    def forward(self, x: Tensor) -> Any:
        # A hidden state of the default dtype: it must follow into float64.
        return self.cell(x, (torch.zeros(2, x.shape[1], 4), torch.zeros(2, x.shape[1], 4)))[0]


class UpcastNorm(nn.Module):
    """Normalises in float32 by name, as Llama does."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(5))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.float32)
        return self.weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


class GradientPenalty(nn.Module):
    """Differentiates inside its forward, so it cannot run under no_grad."""

    def __init__(self) -> None:
        super().__init__()
        self.net = perceptron(nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        x = x if x.requires_grad else x.requires_grad_()
        (slope,) = torch.autograd.grad(self.net(x).sum(), x, create_graph=True)
        return slope.pow(2).sum(-1)


class Noisy(nn.Module):
    """Draws from everything there is; the draws repeat because the states are put back."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 5)
        self.generator = np.random.default_rng(0)
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.steps += 1
        noise = torch.from_numpy(self.generator.normal(size=5)).to(x.dtype)
        return self.linear(F.dropout(x)) * noise * np.random.rand() * torch.rand(5) * self.steps


class Locked(nn.Module):
    """Cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 3)
        self.norm = nn.BatchNorm1d(3)
        self.lock = threading.Lock()

    def forward(self, x: Tensor) -> Tensor:
        with self.lock:
            return self.norm(self.linear(x)).relu()


class LooksBack(nn.Module):
    """Holds a closure over itself: in a copy it would still run the original's parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 3)
        self.function = lambda x: self.linear(x).data + self.linear(x) if self.wrong else self.linear(x)
        self.wrong = False

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


X = normal(4, 5)
RIGHT: dict[str, tuple[Callable[..., Any], Any]] = {
    "relu": (perceptron(nn.ReLU()), X),
    "relu at zeros": (perceptron(nn.ReLU()), torch.zeros(4, 5)),
    "gelu": (perceptron(nn.GELU()), X),
    "dropout": (perceptron(nn.Dropout()), X),
    "rrelu": (perceptron(nn.RReLU()), X),
    "batch norm over two values": (perceptron(nn.BatchNorm1d(8), nn.ReLU()), normal(2, 5)),
    "batch norm": (perceptron(nn.BatchNorm1d(8)), X),
    "zero-initialised": (
        nn.Sequential(nn.Linear(5, 3), nn.Tanh()).apply(lambda m: [p.data.zero_() for p in m.parameters()]),
        X,
    ),
    "max pool": (nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2)), normal(2, 1, 8, 8)),
    "max pool over ties": (nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(1, 3, 3)), torch.ones(2, 1, 8, 8)),
    "absolute value at 0": (lambda x: x.abs(), torch.zeros(5)),
    "equal maxima": (lambda x: x.max(), torch.ones(4)),
    "square root near 0": (lambda x: x.sqrt(), torch.tensor([1e-8, 1.0, 2.0])),
    "large values": (lambda x: (x * 1e9) ** 2, normal(4) * 1e9),
    "small values": (lambda x: (x * 1e-6) ** 2, normal(4) * 1e-6),
    "scales far apart": (
        lambda x, y: (x * 1e-9).sin() + (y * 1e6).cos(),
        (normal(3) * 1e9, normal(3) * 1e-6),
    ),
    "float32 by name": (perceptron(nn.Softplus(), nn.Linear(8, 5), UpcastNorm(), nn.Linear(5, 8)), X),
    "float32 by method": (lambda x: x.float().sin().half().exp(), normal(4)),
    "half precision model": (nn.Linear(5, 3).half(), X.half()),
    "bfloat16 model": (nn.Linear(5, 3).bfloat16(), X.bfloat16()),
    "recurrent": (Recurrent(), normal(6, 2, 3)),
    "attention": (nn.TransformerEncoderLayer(8, 2, 16), normal(5, 2, 8)),
    "gradient penalty": (GradientPenalty(), X),
    "random in every way": (Noisy(), X),
    "not copyable": (Locked(), X),
    "closure over itself": (LooksBack(), X),
    "masked attention": (
        lambda x: (x + torch.full((4, 4), torch.finfo(torch.float32).min).triu(1)).softmax(-1) * x,
        normal(4, 4),
    ),
    "complex": (lambda x: (x * x.conj() * (1 + 2j)).sin().abs(), normal(4) + 1j * normal(4, seed=1)),
    "expanded input": (lambda x: x.sin().prod(-1), normal(3, 1).expand(3, 4)),
    "piecewise constant": (lambda x: x.round() + x.sign(), normal(4)),
    "in-place on its input": (lambda x: x.clone().mul_(x).add_(1).relu_(), normal(4)),
    "partial": (functools.partial(F.huber_loss, target=torch.zeros(4)), normal(4)),
    "sort and top-k": (lambda x: x.sort().values[:3].exp().sum() + x.topk(2).values.prod(), normal(9)),
    "unused input": (lambda x, y: x.sin() + 0 * y, (normal(3), normal(3))),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_functions_agree(name: str) -> None:
    model, inputs = RIGHT[name]
    for seed in range(3):
        result = check(model, inputs, seed=seed)
        assert result.outcome is Outcome.AGREE, result.testimonies
        assert result.disagreeing == ()
        assert result.precision == "float64"
        assert all(t.witness == "finite_difference" and "float64" in t.reason for t in result.testimonies)


@pytest.mark.parametrize("seed", range(25))
def test_random_nonsmooth_networks_are_never_accused(seed: int) -> None:
    torch.manual_seed(seed)
    features = [
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3),
    ]
    head = [nn.Linear(8 * 4, 16), nn.Dropout(0.3), nn.Hardswish(), nn.Linear(16, 4), nn.Hardtanh()]
    model = nn.Sequential(*features, nn.LeakyReLU(), nn.Flatten(), *head)
    result = check(model, torch.randn(4, 3, 8, 8).clamp_min(0), seed=seed)
    assert result.outcome is Outcome.AGREE
    assert result.evaluations <= 2 + 2 * 20


def test_cost() -> None:
    result = check(perceptron(nn.Tanh()), X)
    assert len(result.testimonies) == 2
    assert result.evaluations == 1 + 2  # the base point, and two directions to one side each
    wide = nn.Sequential(nn.Linear(100, 100), nn.Tanh(), nn.Linear(100, 10))
    assert check(wide, normal(4, 100)).evaluations == 1 + 1  # one direction is enough for so many elements


# ------------------------------------------------------------------------------------------- wrong functions


class Scaled(torch.autograd.Function):
    """The sine, whose backward is off by a factor, or wrong where a mask says so."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float, element: int | None) -> Tensor:
        ctx.save_for_backward(x)
        ctx.factor, ctx.element = factor, element
        return x.sin()

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        gradient = cotangent * x.cos()
        if ctx.element is None:
            return gradient * ctx.factor, None, None
        gradient = gradient.clone()
        gradient.view(-1)[ctx.element] *= ctx.factor
        return gradient, None, None


class TwoPart(nn.Module):
    """Two layers with something between; the second layer's own gradient is right whatever that is."""

    def __init__(self, between: Callable[[Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(5, 4), nn.Linear(4, 2)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x).tanh()
        return self.second(hidden) * self.between(hidden)


class Custom(TwoPart):
    def __init__(self, factor: float, element: int | None = None) -> None:
        super().__init__(lambda h: 1.0)
        self.factor, self.element = factor, element

    def forward(self, x: Tensor) -> Tensor:
        return self.second(Scaled.apply(self.first(x), self.factor, self.element))


AROUND: dict[str, Callable[[Tensor], Any]] = {
    "data": lambda h: h.data.norm(),
    "item": lambda h: h.norm().item(),
    "numpy": lambda h: torch.from_numpy(h.detach().numpy().copy()).norm(),
    "new tensor": lambda h: torch.tensor(h.tolist()).norm(),
}


@pytest.mark.parametrize("name", AROUND)
def test_values_that_go_around_autograd(name: str) -> None:
    result = check(TwoPart(AROUND[name]), X)
    assert result.outcome is Outcome.DISAGREE
    assert set(result.disagreeing) == {"first.weight", "first.bias", "inputs[0]"}
    # the twin: the same through autograd
    assert check(TwoPart(lambda h: h.norm()), X).outcome is Outcome.AGREE


@pytest.mark.parametrize("factor", [1.001, 0.999, 2 / 3, -1.0, 0.0])
def test_wrong_custom_backward(factor: float) -> None:
    for seed in range(5):
        result = check(Custom(factor), X, seed=seed)
        assert result.outcome is Outcome.DISAGREE
        assert set(result.disagreeing) == {"first.weight", "first.bias", "inputs[0]"}
    assert check(Custom(1.0), X).outcome is Outcome.AGREE


@pytest.mark.parametrize("element", [0, 7, 15])
def test_one_wrong_element(element: int) -> None:
    assert check(Custom(0.0, element), X).outcome is Outcome.DISAGREE


def test_a_missing_gradient_behind_a_loud_one_is_seen() -> None:
    def function(loud: Tensor, quiet: Tensor) -> Tensor:
        return (1e6 * loud.sin()).sum() + quiet.data.sin().sum() + 0 * quiet.sum()

    result = check(function, (normal(5), normal(5, seed=1)))
    assert result.disagreeing == ("inputs[1]",)


def test_a_wrong_gradient_behind_a_zero_initialised_head_is_seen() -> None:
    for factor, outcome in ((1.0, Outcome.AGREE), (1.01, Outcome.DISAGREE)):
        model = Custom(factor)
        model.second.weight.data.zero_()
        result = check(model, X)
        assert result.outcome is outcome
        assert "gradients are zero" in result.notes[0]


def test_frozen_leaves_are_passed_over() -> None:
    model = perceptron(nn.Tanh()).requires_grad_(False)
    assert check(model, X).outcome is Outcome.AGREE


def test_wrong_where_the_model_cannot_be_copied() -> None:
    model = Locked()
    model.norm = TwoPart(AROUND["data"])
    model.linear = nn.Linear(5, 5)
    assert check(model, X).outcome is Outcome.DISAGREE
    wrong = LooksBack()
    wrong.wrong = True
    assert set(check(wrong, X).disagreeing) == {"linear.weight", "linear.bias", "inputs[0]"}


def test_leaves_that_only_a_closure_knows() -> None:
    weight = normal(5, 3).requires_grad_()
    norm = nn.BatchNorm1d(3)
    others = {"matrix": weight, **dict(norm.named_parameters())}
    assert check(lambda x: norm(x @ weight), X, others=others).outcome is Outcome.AGREE
    result = check(lambda x: norm(x @ weight.data) + 0 * weight.sum(), X, others=others)
    assert result.disagreeing == ("matrix",)
    assert weight.dtype is torch.float32
    assert norm.num_batches_tracked == 0


def test_loss_of_the_user() -> None:
    target = normal(4, 3)
    assert check(perceptron(nn.Tanh()), X, loss=lambda y: F.mse_loss(y, target)).outcome is Outcome.AGREE
    assert check(perceptron(nn.Tanh()), X, loss=lambda y: (y * y.data).sum()).outcome is Outcome.DISAGREE


# ------------------------------------------------------------------------------------------- no answer


def reasons(result: FiniteDifferenceResult) -> str:
    return " | ".join(t.reason for t in result.testimonies)


@pytest.mark.parametrize(
    ("function", "inputs", "reason"),
    [
        (lambda x: (x + 1e17) - 1e17, normal(4), "did not change at all"),
        (lambda x: x.sin() + ((x + 1e13) - 1e13), normal(4), "own error allows|smaller than what rounding"),
        (lambda x: (x - 3e38).softmax(-1) * x, normal(4, 4), "smaller than what rounding"),
        (lambda x: x + (x.round() - x).data, normal(4), "did not change at all"),
        (lambda x: x.sqrt(), torch.tensor([1e-30, 1.0]), "fewer than two steps"),
        (lambda x: x.sqrt(), torch.tensor([0.0, 1.0]), "gradient is not finite"),
        (lambda x: x * np.random.default_rng().random(), normal(4), "draws from a generator of its own"),
        (lambda x: x * float("nan"), normal(4), "no output is finite"),
        (lambda x: x.type("torch.BFloat16Tensor").sin(), normal(4), "pass through bfloat16"),
    ],
)
def test_abstains(function: Callable[..., Any], inputs: Tensor, reason: str) -> None:
    result = check(function, inputs)
    assert result.outcome is Outcome.INCONCLUSIVE
    assert any(part in reasons(result) for part in reason.split("|"))


def test_a_precision_that_cannot_be_raised_is_noticed() -> None:
    for seed in range(5):
        function = lambda x: torch.sin(x.type("torch.FloatTensor"))
        result = check(function, normal(4), seed=seed)
        assert result.precision == "float32"
        assert result.outcome is not Outcome.DISAGREE
    wrong = check(lambda x: torch.sin(x.type("torch.FloatTensor")) * x.data, normal(4))
    assert wrong.outcome is Outcome.DISAGREE


def test_a_model_that_refuses_float64_runs_in_its_own_precision() -> None:
    def only_single(x: Tensor) -> Tensor:
        if x.dtype is not torch.float32:
            raise TypeError("this kernel wants float32")
        return x.sin()

    result = check(only_single, normal(4))
    assert result.precision == "float32"
    assert result.outcome is Outcome.AGREE
    assert "this kernel wants float32" in result.notes[0]


def test_a_model_that_takes_half_precision_only() -> None:
    def only_half(x: Tensor) -> Tensor:
        if x.dtype is not torch.float16:
            raise TypeError("half only")
        return x * 2

    result = check(only_half, normal(4).half())
    assert result.outcome is Outcome.INCONCLUSIVE
    assert "float16" in reasons(result)


def test_one_bad_input_does_not_silence_the_parameters() -> None:
    class Root(TwoPart):
        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x)) * x.sqrt().sum()

    right = Root(lambda h: 1.0)
    edge = torch.tensor([[0.0, 1.0, 2.0, 3.0, 1e-30]])
    for inputs in (edge, edge.clamp_min(1e-30)):
        result = check(right, inputs)
        assert result.outcome is Outcome.AGREE
        assert Outcome.INCONCLUSIVE in {t.outcome for t in result.testimonies}


def test_steps_that_leave_the_domain_are_shortened() -> None:
    def guarded(x: Tensor) -> Tensor:
        if bool((x <= 0).any()):
            raise ValueError("positive values only")
        return x.log()

    assert check(guarded, torch.tensor([1e-5, 1.0, 1.0])).outcome is Outcome.AGREE


def test_budget() -> None:
    assert "time budget" in reasons(check(perceptron(nn.Tanh()), X, budget=0.0))
    assert check(perceptron(nn.Tanh()), X, budget=60.0).outcome is Outcome.AGREE
    short = check(TwoPart(AROUND["data"]), X, budget=1e-9)
    assert short.outcome is Outcome.INCONCLUSIVE


def test_a_short_budget_looks_everywhere_first() -> None:
    assert _spread(1) == [0]
    assert _spread(8) == [0, 4, 2, 6, 1, 5, 3, 7]
    for count in (2, 5, 63, 64, 65):
        assert sorted(_spread(count)) == list(range(count))


def test_nothing_to_look_at() -> None:
    call = prepare(resolve_inputs(lambda x: x, X))
    assert finite_difference(lambda x: x, call, {}, [("output", X)]).outcome is Outcome.INCONCLUSIVE


# ------------------------------------------------------------------------------------------- nothing is left changed


@pytest.mark.parametrize("make", [lambda: perceptron(nn.BatchNorm1d(8), nn.Dropout()), Locked, LooksBack])
def test_everything_is_put_back(make: Callable[[], nn.Module]) -> None:
    model = make()
    model(X).sum().backward()
    hooked = next(model.parameters())
    hooked.register_hook(lambda g: g * 0)

    def state() -> list[Any]:
        tensors = [*model.named_parameters(), *model.named_buffers()]
        return [
            (
                n,
                id(t),
                t.dtype,
                t.data_ptr(),
                t.detach().numpy().tobytes(),
                t.requires_grad,
                t._version,
                id(t.grad),
            )
            for n, t in tensors
        ]

    before, random_before = state(), torch.get_rng_state()
    assert check(model, X).outcome is Outcome.AGREE  # a hook that changes gradients is not blamed
    assert state() == before
    assert torch.equal(torch.get_rng_state(), random_before)
    assert torch.get_default_dtype() is torch.float32
    assert len(hooked._backward_hooks) == 1


def test_interruption_puts_everything_back() -> None:
    class Interrupted(Locked):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            type(self).calls += 1
            if type(self).calls == 3:
                raise KeyboardInterrupt
            return super().forward(x)

    model = Interrupted()
    before = [(id(p), p.dtype, p.detach().clone()) for p in model.parameters()]
    with pytest.raises(KeyboardInterrupt):
        check(model, X)
    for (key, dtype, value), p in zip(before, model.parameters()):
        assert (key, dtype) == (id(p), p.dtype)
        assert torch.equal(value, p)
    assert torch.get_default_dtype() is torch.float32
    assert model.norm.num_batches_tracked == 0


# ------------------------------------------------------------------------------------------- stop-gradients


class Square(torch.autograd.Function):
    """Right, though its forward detaches, and turns gradients on and off."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.factor = factor
        with torch.enable_grad():
            inner = x.detach().requires_grad_()
            value = inner * inner
        with torch.no_grad():
            value = value * 1.0
        return value.detach()

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Any:
        return ctx.factor * ctx.saved_tensors[0] * cotangent, None


def test_what_a_function_does_inside_is_no_stop_gradient() -> None:
    right = check(TwoPart(lambda h: Square.apply(h, 2.0).sum() * h.detach().norm()), X)
    assert right.outcome is Outcome.AGREE
    assert [cut.kind for cut in right.stops] == ["detach"]
    wrong = check(TwoPart(lambda h: Square.apply(h, 1.9).sum() * h.detach().norm()), X)
    assert wrong.outcome is Outcome.DISAGREE
    assert wrong.stops == wrong.cuts == ()


def test_a_weight_that_nothing_else_reaches() -> None:
    weight = normal(5, 3).requires_grad_()
    result = check(lambda x: x.sin() * float(weight.square().sum()), X, others={"weight": weight})
    assert result.disagreeing == ("weight",)
    assert [cut.kind for cut in result.cuts] == ["number"]
    held = check(lambda x: x.sin() * weight.detach().square().sum(), X, others={"weight": weight})
    assert held.outcome is Outcome.AGREE
    assert held.stopped == ("weight",)


@pytest.mark.parametrize("seed", range(6))
def test_a_kink_at_the_point_is_no_disagreement_whichever_side_is_tried_first(seed: int) -> None:
    for function in (torch.relu, torch.abs, lambda x: -torch.relu(-x)):
        result = check(function, torch.zeros(1), seed=seed)
        assert result.outcome is not Outcome.DISAGREE


@pytest.mark.parametrize("seed", range(6))
def test_one_side_is_enough_for_what_is_right_and_not_for_what_is_wrong(seed: int) -> None:
    class Off(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x.exp()

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Any:
            return g * ctx.saved_tensors[0].exp() * (1 + 1e-3)

    assert check(torch.exp, X, seed=seed).evaluations == 3
    assert check(Off.apply, X, seed=seed).outcome is Outcome.DISAGREE


CERTAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "cross entropy": lambda o: F.cross_entropy(o, o.argmax(1)),
    "log softmax": lambda o: o.log_softmax(1).max(1).values,
    "divergence": lambda o: F.kl_div(o.log_softmax(1), o.softmax(1).detach(), reduction="batchmean"),
    "sigmoid": lambda o: F.binary_cross_entropy_with_logits(o, (o > 0).to(o.dtype)),
    "tanh": lambda o: 1 - o.tanh().square(),
}


@pytest.mark.parametrize("scale", [20, 60, 100])
@pytest.mark.parametrize("name", CERTAIN)
def test_a_model_that_is_certain_of_everything_is_not_accused(name: str, scale: int) -> None:
    """Its loss is 1e-15 and a staircase: the steps are those of the numbers around 1 that it is computed from."""
    for seed in range(8):
        torch.manual_seed(seed)
        model, x = nn.Linear(4, 5).double(), torch.randn(3, 4, dtype=torch.float64)
        result = check(model, (x,), loss=lambda o: CERTAIN[name](o * scale), seed=seed)
        assert result.outcome is not Outcome.DISAGREE, result


@pytest.mark.parametrize("size", [1.0, 1e-12, 1e-100])
def test_a_small_function_is_no_excuse(size: float) -> None:
    result = check(lambda x: size * (x.square().sum() + float(x.sum())), X, seed=1)
    assert result.outcome is Outcome.DISAGREE
    assert [cut.kind for cut in result.cuts] == ["number"]


def test_attention_that_is_certain_of_everything_is_not_accused() -> None:
    """Its gradient is what rounding leaves of zero, times the size of what it attends to."""
    weight = normal(6, 6, seed=3).double()
    for seed in range(4):
        x = 1e6 * normal(2, 4, 6, seed=seed).double()
        result = check(lambda x: F.scaled_dot_product_attention(x, x @ weight, x), (x,), seed=seed)
        assert result.outcome is not Outcome.DISAGREE, result


def test_a_saturated_cross_entropy_is_no_loss_around_autograd() -> None:
    labels = (torch.arange(24).view(4, 6) % 2).double()
    for seed in range(6):
        x = 40 * normal(4, 6, seed=seed).double()
        result = check(lambda x: F.binary_cross_entropy(x.sigmoid(), labels), (x,), seed=seed)
        assert result.outcome is not Outcome.DISAGREE, result

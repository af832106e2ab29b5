"""Correct gradients that naive checkers accuse. To plant another one, append an entry to ``TRUTHS``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from lies import BF16, C128, F32, F64, draw, function, one, pair
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from gradcheck_suite import surrogate_gradient


@dataclass(frozen=True)
class Truth:
    """Something correct: what ``make`` returns is checked.

    ``remarks`` are the codes of findings below error level that are right to make; ``unverified`` says that something
    may honestly stay open. ``cite`` is the thread in which people took it for wrong, ``"owner/repository#number"``;
    ``accused`` says why the checker still takes it for wrong itself.
    """

    name: str
    make: Callable[[], tuple[Callable[..., Any], Any]]
    remarks: tuple[str, ...] = ()
    unverified: bool = False
    cite: str = ""
    accused: str = ""


def of(function: Callable[..., Any], *inputs: Any) -> Callable[[], tuple[Callable[..., Any], Any]]:
    """A function, and inputs that are drawn anew if they are callable."""
    return lambda: (function, inputs[0]() if len(inputs) == 1 and callable(inputs[0]) else inputs)


def seeded(make: Callable[[], nn.Module], *inputs: Tensor) -> Callable[[], tuple[nn.Module, Any]]:
    def build() -> tuple[nn.Module, Any]:
        torch.manual_seed(0)
        return make(), inputs

    return build


TIES = torch.tensor([[1.0, 1.0, 0.0], [2.0, 2.0, 2.0]], dtype=F64)
KINKS = torch.tensor([-1.0, 0.0, 0.0, 1.0], dtype=F64)
INDEX = torch.tensor([[0, 2, 2], [1, 0, 2]])


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, index: Tensor) -> Tensor:
        return self.head(torch.tanh(self.embed(index)))


class Structured(nn.Module):
    """Returns a dict of a dataclass and a tuple."""

    @dataclass
    class Pair:
        mean: Tensor
        label: str = "no tensor"

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Any]:
        y = self.layer(batch["x"])
        return {"pair": self.Pair(y.mean(0)), "rest": (y.sin(), None, batch["n"])}


class Counting(nn.Module):
    """Changes its buffers and its input in the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("average", torch.zeros(3))
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        self.average.mul_(0.9).add_(x.detach().mean(0), alpha=0.1)
        y = x * 1
        y[:, 0] = 0.0
        return self.layer(y) + self.average


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.first, self.second, self.reentrant = nn.Linear(4, 8), nn.Linear(8, 3), reentrant

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.first(x))
        return checkpoint(lambda h: torch.tanh(self.second(h)), hidden, use_reentrant=self.reentrant)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 4)) for _ in range(3)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = x * 1
        for layer in self.layers:
            y += layer(y.clone())
            y = y.relu_() * 1
        return y


@surrogate_gradient("straight-through")
class Round(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g


@surrogate_gradient("gradient reversal")
class Reverse(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return -g


class Identity(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g


class Both(Function):
    """Two outputs, an argument that is no tensor, None where nothing is owed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, power: int, w: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x, w)
        ctx.power = power
        return x**power * w, x.detach().sum() * w

    @staticmethod
    def backward(ctx: Any, g: Tensor, h: Tensor) -> Any:
        x, w = ctx.saved_tensors
        ones = torch.ones_like(x)
        gradient = g * ctx.power * x ** (ctx.power - 1) * w + (h * w).sum() * ones
        return gradient, None, g * x**ctx.power + h * x.sum()


class Transposed(Function):
    """Returns a gradient that is not contiguous, and writes into a clone of its argument."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.t() * 2

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g.clone().mul_(2).t()


class Tripled(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        return x.mul_(3)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * 3


square = function(lambda a, b: a * b, lambda g, a, b: (g * b, g * a))
old_style = function(lambda x: x.data.sin(), lambda g, x: g * x.cos())


def inplace_chain(x: Tensor) -> Tensor:
    y = (x * 2).relu_() * 1
    y.add_(1).mul_(3)
    y[0] = 5.0
    y.t()[1].copy_(y[2, : y.shape[0]] * 2 if y.shape[1] >= y.shape[0] else y[1, 0] * 2)
    return y * y.detach().clone().fill_(2.0)


def target(x: Tensor, w: Tensor) -> Tensor:
    return (x @ w - (x.sin() @ w).detach()).square()


def softmax_and_logs(x: Tensor) -> Tensor:
    return F.log_softmax(x, -1) + x.logsumexp(-1, keepdim=True) - torch.softmax(x, 0)


def several(x: Tensor) -> Tensor:
    values, _ = x.sort(-1)
    _, index = x.topk(2, -1)
    return values.sum() + x.gather(-1, index).sin().sum() + x.unbind(0)[1].exp().sum()


def unused_outputs(x: Tensor) -> Tensor:
    first, _ = x.chunk(2, -1)
    u, _, _ = torch.linalg.svd(x)
    return first.sin() + 0 * u.detach().sum()


def inner_gradient(x: Tensor) -> Tensor:
    leaf = x.detach().requires_grad_()
    (g,) = torch.autograd.grad(leaf.sin().sum(), leaf)
    return x * g


def penalty(x: Tensor, w: Tensor) -> Tensor:
    y = (x * w).sin().sum()
    (g,) = torch.autograd.grad(y, x, create_graph=True)
    return y + g.square().sum()


def shared_memory(x: Tensor) -> Tensor:
    y = x * 2
    return square(y, y.view_as(y)) + square(y, y) + square(*(x * 3).chunk(2, 0)).sum()


def hooked(x: Tensor) -> Tensor:
    y = x.sin()
    if y.requires_grad:
        y.register_hook(lambda g: g.clamp(-0.1, 0.1))
    return y * x


def distilled(x: Tensor, w: Tensor) -> Tensor:
    """A surrogate on one way only: what lies on the other is still verified."""
    return Round.apply(x * 3) + w.sin()


def written_conjugate(x: Tensor) -> Tensor:
    y = x * 1
    z = y.conj()
    z[0].mul_(2j)
    return (y * z * y.conj()).real


def written_imaginary_part(x: Tensor) -> Tensor:
    z = torch.complex(x, x.sin())
    z.imag.mul_(3)
    w = torch.view_as_real(z)
    w[..., 0].add_(1)
    return z.abs()


TRUTHS = (
    Truth("relu at zero", of(lambda x: torch.relu(x) * 2, KINKS), ("GC604",)),
    Truth("abs at zero", of(lambda x: x.abs() * 2, KINKS), ("GC604",)),
    Truth("max over ties", of(lambda x: x.max() * 2, TIES), ("GC604",)),
    Truth("max over ties of a dimension", of(lambda x: x.max(1).values * 2, TIES), ("GC604",)),
    Truth("amax over ties", of(lambda x: x.amax(1) * 2, TIES), ("GC604",)),
    Truth(
        "median and kthvalue of ties", of(lambda x: x.median() + x.kthvalue(2, 1).values, TIES), ("GC604",)
    ),
    Truth(
        "maximum of equals",
        of(lambda x: torch.maximum(x, x.clone()), TIES),
        ("GC604",),
        cite="pytorch/pytorch#56734",
    ),
    Truth("max pooling over ties", of(lambda x: F.max_pool2d(x, 2), torch.ones(1, 1, 4, 4, dtype=F64))),
    Truth("clamp at its bounds", of(lambda x: x.clamp(0, 1) * 2, KINKS), ("GC604",)),
    Truth("hardtanh and relu6 at their bounds", of(lambda x: F.hardtanh(x) + F.relu6(x), KINKS), ("GC604",)),
    Truth("leaky relu and elu at zero", of(lambda x: F.leaky_relu(x) + F.elu(x), KINKS), ("GC604",)),
    Truth(
        "norm at zero",
        of(lambda x: x.norm() * 2, torch.zeros(3, dtype=F64)),
        ("GC604",),
        cite="pytorch/pytorch#2421",
    ),
    Truth(
        "l1 and huber at zero",
        of(lambda x: F.l1_loss(x, x.detach()) + F.huber_loss(x, x.detach()), KINKS),
        ("GC501", "GC604"),
    ),
    Truth("an absolute value times a sign at zero", of(lambda x: x.sign() * x.abs(), KINKS), ("GC190",)),
    Truth(
        "the square of a root at zero",
        of(lambda x: x.norm() ** 2 + x.sum(), torch.zeros(3, dtype=F64)),
        ("GC604",),
    ),
    Truth("batch norm over two values", seeded(lambda: nn.BatchNorm1d(3), draw(2, 3, dtype=F32))),
    Truth("batch norm over two values in float64", seeded(lambda: nn.BatchNorm1d(3).double(), draw(2, 3))),
    Truth(
        "bias in front of a batch norm",
        seeded(lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)), draw(4, 2, 6, 6, dtype=F32)),
    ),
    Truth("values near 1e9", of(lambda x: (x * 1e9).sin().sum() + (x * 1e9).square(), one(dtype=F32))),
    Truth("values near 1e-6", of(lambda x: (x * 1e-6).tanh() * 1e-6, one(dtype=F32))),
    Truth("saturated in float32", of(lambda x: torch.tanh(x * 40) + torch.sigmoid(x * 90), one(dtype=F32))),
    Truth(
        "an ill-conditioned inverse",
        of(
            lambda x: torch.linalg.inv(x + 1e-5 * torch.eye(4)),
            lambda: (torch.ones(4, 4) + 1e-3 * draw(4, 4, dtype=F32),),
        ),
    ),
    Truth("a cancelling difference", of(lambda x: (x + 1e4 - 1e4) * (x * 1e4 - x * 1e4 + 1), one(dtype=F32))),
    Truth("checkpointing", seeded(lambda: Checkpointed(False), draw(5, 4, dtype=F32))),
    Truth("re-entrant checkpointing", seeded(lambda: Checkpointed(True), draw(5, 4, dtype=F32)), ("GC190",)),
    Truth("tied weights", seeded(Tied, INDEX)),
    Truth("an expanded input", of(lambda x: x * x.sin(), draw(1, 3).expand(4, 3))),
    Truth("an input that is not contiguous", of(lambda x: x.cumsum(0) * x, draw(3, 4).t())),
    Truth("a sliced input", of(lambda x: x.cumsum(0) * x, draw(6, 4)[1::2, 1:])),
    Truth(
        "dropout",
        seeded(
            lambda: nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2)), draw(5, 4, dtype=F32)
        ),
    ),
    Truth(
        "dropout of channels and alpha",
        seeded(lambda: nn.Sequential(nn.Dropout2d(0.5), nn.AlphaDropout(0.2)), draw(2, 4, 3, 3)),
    ),
    Truth(
        "random numbers in the forward",
        of(lambda x: x * torch.randn_like(x) + F.rrelu(x, training=True), one()),
    ),
    Truth("empty tensors", of(lambda x, y: torch.cat([x, y]).sin(), draw(0, 3), draw(2, 3))),
    Truth("size one and no dimension", of(lambda x, y: x.squeeze() * y, draw(1, 1), draw())),
    Truth("float16", of(lambda x: torch.softmax(x, -1) * x.tanh(), one(8, 16, dtype=torch.float16))),
    Truth(
        "bfloat16",
        seeded(
            lambda: nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.LayerNorm(16)).to(BF16),
            draw(5, 8, dtype=BF16),
        ),
    ),
    Truth("mixed precision", of(lambda x, w: (x.to(BF16) @ w.to(BF16)).float().sin(), pair(dtype=F32))),
    Truth("autocast", of(lambda x, w: torch.autocast("cpu", BF16)(lambda: (x @ w).sin())(), pair(dtype=F32))),
    Truth("repeated indices", of(lambda x: F.embedding(INDEX, x).sin() + x[INDEX], draw(3, 4))),
    Truth("a padding index", seeded(lambda: nn.Embedding(4, 3, padding_idx=2), INDEX)),
    Truth("bags of embeddings", seeded(lambda: nn.EmbeddingBag(4, 3, mode="mean"), INDEX)),
    Truth("unused outputs", of(unused_outputs, draw(3, 4)), ("GC501",)),
    Truth("a target that is held constant", of(target, *pair()()), ("GC501",)),
    Truth(
        "a declared straight-through",
        of(lambda x: Round.apply(x * 3) * x, one()),
        ("GC190",),
        unverified=True,
    ),
    Truth(
        "a declared gradient reversal",
        of(lambda x: Reverse.apply(x * 3) * x, one()),
        ("GC190",),
        unverified=True,
    ),
    Truth("a surrogate beside other values", of(distilled, *pair()()), ("GC190",), unverified=True),
    Truth("a hook that clips", of(hooked, one()), ("GC190",), unverified=True),
    Truth("relu chains in place", of(inplace_chain, one(3, 4))),
    Truth("residual sums in place", seeded(Residual, draw(5, 4, dtype=F32))),
    Truth("complex numbers", of(lambda x, y: (x * y.conj()).abs() + (x @ y).real, *pair(dtype=C128)())),
    Truth("real and imaginary views", of(lambda x: torch.view_as_real(torch.fft.fft(x)) * 2, one())),
    Truth(
        "a conjugate view that is written to",
        of(written_conjugate, one(3, 4, dtype=C128)),
        ("GC190",),
        unverified=True,
    ),
    Truth(
        "an imaginary part that is written to",
        of(written_imaginary_part, one(3, 4)),
        ("GC190",),
        unverified=True,
    ),
    Truth(
        "gradients scaled by frequency",
        of(lambda w: F.embedding(INDEX, w, scale_grad_by_freq=True), draw(3, 4)),
        ("GC190",),
        unverified=True,
    ),
    Truth(
        "padding of a table that is computed",
        of(lambda w: F.embedding(INDEX, w * 2, padding_idx=2), draw(3, 4)),
        ("GC190",),
        unverified=True,
    ),
    Truth(
        "outputs in a dict and a dataclass",
        seeded(Structured, {"x": draw(4, 3, dtype=F32), "n": torch.arange(4)}),
    ),
    Truth("a model that writes into its buffers", seeded(Counting, draw(4, 3, dtype=F32)), ("GC501",)),
    Truth("identity Function", of(lambda x: Identity.apply(x * 1) * x, one())),
    Truth("several outputs and other arguments", of(lambda x, w: sum(Both.apply(x, 3, w)), *pair()())),
    Truth("a gradient that is not contiguous", of(lambda x: Transposed.apply(x).sin(), one(3, 4))),
    Truth("mark_dirty", of(lambda x: Tripled.apply(x * 1).sin(), one())),
    Truth(
        "Function of a detached twin",
        of(lambda x: (lambda y: square(y, y.detach()))(x * 2), one()),
        ("GC190", "GC501"),
    ),
    Truth("Function of tensors that share memory", of(shared_memory, one(4, 3)), ("GC190",)),
    Truth("Function that reads .data", of(lambda x: old_style(x * 1), one())),
    Truth("softmax and logarithms", of(softmax_and_logs, one(3, 5, dtype=F32))),
    Truth("several results of one operation", of(several, one(3, 5))),
    Truth("a gradient inside the forward", of(inner_gradient, one()), ("GC501",), unverified=True),
    Truth("a gradient penalty", of(penalty, *pair()()), ("GC190",), unverified=True),
    Truth(
        "cross entropy over one class",
        of(lambda x: F.cross_entropy(x, torch.zeros(3, dtype=torch.int64)), draw(3, 1)),
    ),
    Truth(
        "where with a branch that is infinite",
        of(lambda x: torch.where(x > 0, x.clamp(min=1e-3).log(), x), one()),
    ),
)

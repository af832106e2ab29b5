"""Right gradients that naive checkers accuse: other choices at ties, hooks, contexts of Functions, torch.func, parametrizations,
structures, scatters with repeated indices, chains in place, and numbers at the ends of their range.
"""

from __future__ import annotations

from typing import Any

import torch
from lies import BF16, C128, F32, F64, draw, function, one, pair
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.func import functional_call, grad, jacrev, jvp, vjp, vmap
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize
from torch.utils.checkpoint import checkpoint
from truths import Truth, of, seeded
from unusual_lies import INDEX, LEFT, RIGHT, TIED

F16 = torch.float16

# -- ties ----------------------------------------------------------------------------------------------------------


def last_first(x: Tensor, descending: bool = False) -> Tensor:
    """Positions that sort the last dimension, where of equal numbers the last comes first."""
    return x.shape[-1] - 1 - x.flip(-1).sort(dim=-1, stable=True, descending=descending).indices


def averaged(g: Tensor, x: Tensor) -> Tensor:
    same = (x.sort(-1).values[..., None, :] == x[..., :, None]).to(g.dtype)
    return (same / same.sum(-1, keepdim=True) * g[..., None, :]).sum(-1)


sorted_otherwise = function(
    lambda x: x.sort(-1).values, lambda g, x: torch.zeros_like(x).scatter(-1, last_first(x), g)
)
sorted_in_groups = function(lambda x: x.sort(-1).values, averaged)
highest_otherwise = function(
    lambda x: x.topk(2, -1).values,
    lambda g, x: torch.zeros_like(x).scatter(-1, last_first(x, True)[..., :2], g),
)
last_largest = function(
    lambda x: x.max(-1).values,
    lambda g, x: torch.zeros_like(x).scatter(-1, last_first(x, True)[..., :1], g[..., None]),
)
first_of_a_hundred = function(
    torch.amax, lambda g, x: torch.zeros_like(x).scatter(0, x.argmax(keepdim=True), g[None])
)
uneven = function(
    torch.maximum,
    lambda g, a, b: (g * ((a > b) + 0.3 * (a == b)), g * ((b > a) + 0.7 * (a == b))),
)
to_the_second = function(torch.maximum, lambda g, a, b: (g * (a > b), (g * (b >= a)).sum_to_size(b.shape)))
first_of_three = function(
    lambda a, b, c: torch.stack([a, b, c]).amax(0),
    lambda g, *all_: tuple(g * m for m in F.one_hot(torch.stack(all_).argmax(0), 3).movedim(-1, 0)),
)
other_side = function(
    lambda s, t: torch.relu(1 - (s - t)), lambda g, s, t: (-g * (1 - s + t >= 0), g * (1 - s + t >= 0))
)
plus_and_minus = function(
    lambda a, b: (a - b).abs().mean(),
    lambda g, a, b: ((d := g * torch.where(a >= b, 1.0, -1.0).to(a.dtype) / a.numel()), -d),
)

# -- hooks ---------------------------------------------------------------------------------------------------------


class Hooked(nn.Module):
    """A module whose backward hooks look, or change gradients on purpose."""

    def __init__(self, before: float | None, after: float | None) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.seen = 0
        self.layer.register_full_backward_pre_hook(lambda m, g: None if before is None else (g[0] * before,))
        self.layer.register_full_backward_hook(lambda m, i, o: None if after is None else (i[0] * after,))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.sin())


# -- contexts ------------------------------------------------------------------------------------------------------


class Several(Function):
    """Outputs that are not differentiable, an argument that is None."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, flag: Any = None) -> Any:
        index, mask, out = x.argmax(-1), x > 0, x.exp()
        ctx.mark_non_differentiable(index, mask)
        ctx.save_for_backward(out)
        return out, index, mask

    @staticmethod
    def backward(ctx: Any, g: Tensor, *_: Any) -> Any:
        return g * ctx.saved_tensors[0], None


def several(x: Tensor) -> Tensor:
    out, index, mask = Several.apply(x, None)
    return out.gather(-1, index[:, None]) + (out * mask).sum()


class Layer(Function):
    """Saves inputs and output, and looks at what is needed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        y = torch.tanh(x @ w)
        ctx.save_for_backward(x, w, y)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, w, y = ctx.saved_tensors
        d = g * (1 - y * y)
        return d @ w.t() if ctx.needs_input_grad[0] else None, x.t() @ d if ctx.needs_input_grad[1] else None


class Mapped(Function):
    """setup_context, a vmap of its own, a backward that calls itself."""

    @staticmethod
    def forward(x: Tensor, y: Tensor) -> Tensor:
        return x * y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, y = ctx.saved_tensors
        return Mapped.apply(g, y), Mapped.apply(g, x)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], x: Tensor, y: Tensor) -> Any:
        moved = [
            t.expand(info.batch_size, *t.shape) if d is None else t.movedim(d, 0)
            for t, d in zip((x, y), in_dims)
        ]
        return Mapped.apply(*moved), 0


class Generated(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.sin() * 2

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * ctx.saved_tensors[0].cos() * 2


class Once(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 3 * ctx.saved_tensors[0] ** 2 * g


class Drawing(Function):
    """Draws random numbers in its backward, to no effect."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        torch.rand(3)
        return g * ctx.saved_tensors[0].cos()


# -- programs ------------------------------------------------------------------------------------------------------


def per_sample(w: Tensor, x: Tensor) -> Tensor:
    return vmap(grad(lambda w, a: (w @ a).tanh().sum()), (None, 0))(w, x)


def called_with(w: Tensor, b: Tensor, x: Tensor) -> Tensor:
    return functional_call(nn.Linear(3, 2).double(), {"weight": w, "bias": b}, (x,))


def chain(x: Tensor) -> Tensor:
    y = x * 1
    y[:, 0] *= 2
    y[1:] += y[:1]
    y.t_()
    y.clamp_(-1.3, 1.1).sin_()
    y[0].exp_()
    return y


def rows_exchanged(x: Tensor) -> Tensor:
    y = x * 1
    first = y[0].clone()
    y[0] = y[1]
    y[1] = first
    return y.sin()


def views_written(x: Tensor) -> Tensor:
    y = x.clone()
    flat = y.view(-1)
    flat[::2].mul_(3)
    y.T[0].add_(flat[:3].sum())
    return y.exp()


def masked_assignment(x: Tensor) -> Tensor:
    y = x * 1
    y[y > 0] = y[y > 0] * 3
    return y


def rebuilt(x: Tensor) -> Tensor:
    window = torch.hann_window(8, dtype=x.dtype)
    return torch.istft(torch.stft(x, 8, return_complex=True, window=window) * 2, 8, window=window)


class Symmetric(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return w.triu() + w.triu(1).mT


def with_symmetric_weight() -> nn.Module:
    layer = nn.Linear(4, 4).double()
    parametrize.register_parametrization(layer, "weight", Symmetric())
    return layer


HILBERT = torch.tensor([[1 / (i + j + 1) for i in range(6)] for j in range(6)], dtype=F64)

UNUSUAL_TRUTHS = (
    Truth("ties sorted in another order", of(lambda x: sorted_otherwise(x) * 2, TIED), ("GC604",)),
    Truth("ranks shared by ties", of(lambda x: sorted_in_groups(x) * 2, TIED), ("GC604",)),
    Truth(
        "twenty ties sorted in another order",
        of(lambda x: sorted_otherwise(x) * 2, (draw(20) * 2).round()),
        ("GC604",),
    ),
    Truth("other highest of ties", of(lambda x: highest_otherwise(x) * 2, TIED), ("GC604",)),
    Truth("the last largest", of(lambda x: last_largest(x) * 2, TIED), ("GC604",)),
    Truth(
        "the first of a hundred equals",
        of(lambda x: first_of_a_hundred(x) * 2, torch.ones(100, dtype=F64)),
        ("GC604",),
    ),
    Truth("a tie shared unevenly", of(lambda a, b: uneven(a, b) * 2, LEFT, RIGHT), ("GC604",)),
    Truth("a tie to the second", of(lambda a, b: to_the_second(a, b) * 2, LEFT, RIGHT), ("GC604",)),
    Truth(
        "a tie to the second in float32",
        of(lambda a, b: to_the_second(a, b) * 2, LEFT.float(), RIGHT.float()),
        ("GC604",),
    ),
    Truth("a tie with a broadcast", of(lambda a, b: to_the_second(a, b) * 2, LEFT, LEFT[1:2]), ("GC604",)),
    Truth("the first of three equals", of(lambda a, b: first_of_three(a, b, a) * 2, LEFT, RIGHT), ("GC604",)),
    Truth("a hinge from its other side", of(lambda s, t: other_side(s, t) * 2, LEFT, RIGHT - 1), ("GC604",)),
    Truth("distances of equal numbers", of(lambda a, b: plus_and_minus(a, b) * 2, LEFT, RIGHT), ("GC604",)),
    Truth("module hooks that look", seeded(lambda: Hooked(None, None), draw(4, 3, dtype=F32))),
    Truth(
        "a module hook that halves",
        seeded(lambda: Hooked(None, 0.5), draw(4, 3, dtype=F32)),
        ("GC190",),
        unverified=True,
    ),
    Truth(
        "a module hook that halves what arrives",
        seeded(lambda: Hooked(0.5, None), draw(4, 3, dtype=F32)),
        ("GC190",),
        unverified=True,
    ),
    Truth("outputs without gradients", of(several, one())),
    Truth("inputs and output saved", of(lambda x, w: Layer.apply(x, w).sin(), *pair()())),
    Truth(
        "a vmap of its own", of(lambda x, y: vmap(Mapped.apply, (0, None))(x, y).sin(), draw(4, 3), draw(3))
    ),
    Truth("a vmap rule that is generated", of(lambda x: vmap(Generated.apply)(x) * x, one())),
    Truth("differentiable once", of(lambda x: Once.apply(x) * 2, one())),
    Truth("random numbers in a backward", of(lambda x: Drawing.apply(x) * 2, one())),
    Truth("gradients per sample", of(per_sample, draw(2, 3), draw(4, 3))),
    Truth("parameters given by functional_call", of(called_with, draw(2, 3), draw(2), draw(4, 3))),
    Truth("a Jacobian inside", of(lambda x: jacrev(lambda y: y.sin() * y.sum())(x), draw(3))),
    Truth(
        "a product with a Jacobian inside",
        of(lambda x, v: jvp(lambda y: y.exp().cumsum(0), (x,), (v,))[1], draw(3), draw(3, seed=4)),
    ),
    Truth(
        "a pullback inside",
        of(lambda x, v: vjp(lambda y: y.exp().cumsum(0), x)[1](v)[0], draw(3), draw(3, seed=4)),
    ),
    Truth("weight norm", seeded(lambda: parametrizations.weight_norm(nn.Linear(4, 4).double()), draw(5, 4))),
    Truth(
        "orthogonal weights",
        seeded(lambda: parametrizations.orthogonal(nn.Linear(4, 4).double()), draw(5, 4)),
    ),
    Truth("symmetric weights", seeded(with_symmetric_weight, draw(5, 4))),
    Truth("a chain in place", of(chain, one(4, 3))),
    Truth("rows exchanged in place", of(rows_exchanged, one(4, 3))),
    Truth("writes through views of views", of(views_written, one(3, 3))),
    Truth("a masked assignment", of(masked_assignment, one())),
    Truth("sums by repeated index", of(lambda x: x.new_zeros(3).scatter_add(0, INDEX, x).sin(), one(5))),
    Truth(
        "means by repeated index",
        of(lambda x: x.new_ones(3).scatter_reduce(0, INDEX, x, "mean").sin(), one(5)),
    ),
    Truth(
        "products by index with a zero",
        of(
            lambda x: x.new_ones(3).scatter_reduce(0, INDEX, x, "prod").sin(),
            torch.tensor([0.0, 2.0, 3.0, 1.0, 5.0], dtype=F64),
        ),
    ),
    Truth(
        "repeated places that accumulate",
        of(lambda x: x.new_zeros(3).index_put((INDEX,), x, accumulate=True).exp(), one(5)),
    ),
    Truth("overlapping windows", of(lambda x: torch.as_strided(x * 1, (4, 3), (1, 1)).sin().sum(1), one(8))),
    Truth("a spectrum and back", of(rebuilt, one(40))),
    Truth("a complex linear solve", of(lambda a, b: torch.linalg.solve(a, b).abs(), *pair(dtype=C128)())),
    Truth("an inverse of condition 1e7", of(torch.linalg.inv, HILBERT)),
    Truth(
        "nearly equal singular values",
        of(lambda x: torch.linalg.svdvals(x).prod(), torch.eye(3, dtype=F64) + 1e-6 * draw(3, 3)),
    ),
    Truth("gradients of 1e-30 in float32", of(lambda x: x.sin() * 1e-30, one(dtype=F32))),
    Truth("gradients below the normal range", of(lambda x: x.sin() * 1e-41, one(dtype=F32))),
    Truth(
        "a variance of values near 1e5",
        of(lambda x: ((x + 1e5) - (x + 1e5).mean()).square(), one(50, dtype=F32)),
    ),
    Truth("vectors of length 1e-8", of(lambda x: F.normalize(x), 1e-8 * draw(3, 4, dtype=F32))),
    Truth("a layer norm of equal values", seeded(lambda: nn.LayerNorm(4), torch.full((2, 4), 3.0))),
    Truth(
        "a float16 network",
        seeded(
            lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.GELU()).half(),
            draw(3, 2, 6, 6, dtype=F16),
        ),
    ),
    Truth(
        "a checkpoint with dropout",
        of(lambda x: checkpoint(F.dropout, x.sin(), use_reentrant=False), one()),
    ),
    Truth("a zero-dimensional chain in bfloat16", of(lambda x: x.sin() * x, draw(dtype=BF16))),
)

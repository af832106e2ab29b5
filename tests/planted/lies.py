"""Wrong gradients, each with the witness that must catch it and the line that is to blame.

The line that a finding must name ends in the word lie and the name, as a comment. To plant another one, append an
entry to ``LIES``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from gradcheck_suite import Severity

F64, F32, BF16, C128 = torch.float64, torch.float32, torch.bfloat16, torch.complex128


@dataclass(frozen=True)
class Lie:
    """One planted fault.

    ``witness`` is who must catch it: ``"engine"`` (a node's backward), ``"sum"`` (a contribution lost or overwritten on
    the way), ``"graph"`` (the value flows around autograd: finite differences of the whole function) or
    ``"difference"`` (finite differences again, where a node's own meaning stays open or torch documents another one). ``cite`` is
    the thread in which people met it, ``"owner/repository#number"``; ``missed`` says why the checker does not see it.
    """

    name: str
    function: Callable[..., Any]
    inputs: Callable[[], tuple[Tensor, ...]]
    witness: str = "engine"
    severity: Severity = Severity.ERROR
    cite: str = ""
    missed: str = ""


def draw(*shape: int, dtype: torch.dtype = F64, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def function(
    forward: Callable[..., Any], backward: Callable[..., Any], saves_output: bool = False
) -> Callable[..., Any]:
    """A custom Function from two plain ones; ``backward(g, *saved)``."""

    class Planted(Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Any:
            out = forward(*inputs)
            ctx.save_for_backward(*([out] if saves_output else inputs))
            return out

        @staticmethod
        def backward(ctx: Any, *cotangents: Any) -> Any:
            return backward(*cotangents, *ctx.saved_tensors)

    return Planted.apply


# -- from released libraries, see docs/real-libraries.md ---------------------------------------------------------

TWICE = torch.tensor([0, 1, 1])


def _subtracted_once(g: Tensor, x: Tensor) -> Tensor:
    gradient = torch.zeros_like(x)
    gradient[TWICE] += g
    return gradient


picked_twice = function(lambda x: x[TWICE], _subtracted_once)
like_the_first = function(lambda x: x.sin().sum(-1), lambda g, x: g[0] * x.cos())
halves_exchanged = function(
    lambda x: torch.cat([x[:, :2].sin(), x[:, 2:] * 3], -1),
    lambda g, x: torch.cat([g[:, 2:] * 3, g[:, :2] * x[:, :2].cos()], -1),
)

# -- single elements and factors ---------------------------------------------------------------------------------

cube = function(lambda x: x * x * x, lambda g, x: g * 2 * x * x)
negated = function(torch.sin, lambda g, x: -g * x.cos())
offset = function(torch.sin, lambda g, x: g * x.cos() + 1e-3)
without_cotangent = function(torch.sin, lambda g, x: x.cos())
of_input = function(torch.exp, lambda g, x: g * x)
clipped = function(lambda x: x * 3, lambda g, x: (g * 3).clamp(-1, 1))
nothing = function(lambda x, y: x * y, lambda g, x, y: (g * y, None))
zeros = function(lambda x: torch.softmax(x, -1), lambda g, y: torch.zeros_like(g), saves_output=True)
dead_half = function(torch.sin, lambda g, x: torch.where(x < 0, 0.0, g * x.cos()))
wide_clamp = function(lambda x: x.clamp(-0.5, 0.5), lambda g, x: g)
low_precision = function(torch.sin, lambda g, x: (g.half() * x.half().cos()).float())
one_percent = function(torch.sin, lambda g, x: g * x.cos() * 1.01)
a_fifth = function(torch.sin, lambda g, x: g * x.cos() * 1.2)
square_norm = function(
    lambda x: x.norm(dim=-1, keepdim=True), lambda g, x: g * x / x.norm(dim=-1, keepdim=True) ** 2
)
reciprocal = function(lambda x: 1 / x, lambda g, x: -g / x)
inverted_mask = function(lambda x: x * (x > 0), lambda g, x: g * (x <= 0))
unconjugated = function(lambda a, b: a * b, lambda g, a, b: (g * b, g * a))


def one_of_many(g: Tensor, x: Tensor) -> Tensor:
    gradient = g * x.cos()
    gradient.view(-1)[77_777] *= 1 + 1e-4
    return gradient


single = function(torch.sin, one_of_many)


def only_contiguous(g: Tensor, x: Tensor) -> Tensor:
    gradient = g * x.cos()
    return gradient if x.is_contiguous() else gradient.t().reshape(gradient.shape)


strided = function(torch.sin, only_contiguous)

# -- shapes ------------------------------------------------------------------------------------------------------

transposed = function(torch.matmul, lambda g, a, b: (g @ b, a.t() @ g))
swapped = function(lambda a, b: a * b.exp(), lambda g, a, b: (g * a * b.exp(), g * b.exp()))
mean_of_bias = function(lambda x, b: x + b, lambda g, x, b: (g, g.mean(0)))
first_of_bias = function(lambda x, b: x + b, lambda g, x, b: (g, g[0]))
sum_not_mean = function(lambda x: x.mean(0), lambda g, x: g.expand_as(x))
rolled = function(lambda x: x.roll(1, 0), lambda g, x: g.roll(1, 0))
last_forgotten = function(
    lambda x: x.cumsum(0), lambda g, x: torch.cat([g[:-1].flip(0).cumsum(0).flip(0), g[-1:]])
)
bilinear = function(
    lambda a, w, b: a @ w @ b, lambda g, a, w, b: (g @ (w @ b).t(), a.t() @ g @ b.t(), a.t() @ g)
)
log_softmax = function(
    lambda x: torch.log_softmax(x, -1), lambda g, y: g - y.exp() * g.mean(-1, keepdim=True), saves_output=True
)


def layer_norm(x: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True, unbiased=False)


def without_mean(g: Tensor, x: Tensor) -> Tensor:
    y, deviation = layer_norm(x), x.std(-1, keepdim=True, unbiased=False)
    return (g - y * (g * y).mean(-1, keepdim=True)) / deviation


norm = function(layer_norm, without_mean)


class Gather(Function):
    """Rows by index; the backward overwrites where it should add."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.rows = table.shape[0]
        return table[index]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (index,) = ctx.saved_tensors
        gradient = g.new_zeros(ctx.rows, g.shape[1])
        gradient[index] = g
        return gradient, None


class FirstOfTwo(Function):
    """Two outputs; the second cotangent is forgotten."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x)
        return x.sin(), x.cos()

    @staticmethod
    def backward(ctx: Any, g: Tensor, h: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return g * x.cos()


class NewStyle(Function):
    """``setup_context``; a power whose exponent is not lowered."""

    @staticmethod
    def forward(x: Tensor, exponent: int) -> Tensor:
        return x**exponent

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.exponent = inputs[1]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return g * ctx.exponent * x**ctx.exponent, None


class Dirty(Function):
    """Writes in place and forgets the factor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x.mul_(3)
        ctx.mark_dirty(x)
        return x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g


class Untouched(Function):
    """Returns its input as it is; gradient reversal that is not declared."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return -g


class Inner(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return g * x.cos()


class Outer(Function):
    """Calls another Function in its forward; its own backward forgets the chain rule."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return Inner.apply(x * 2)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return g * (2 * x).cos()


class Rude(Function):
    """Its gradient is right, but it is computed in the memory of its argument, which others read too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g.mul_(2)


def rude(x: Tensor) -> Tensor:
    y = x.sin()  # lie: writes into its grad_output
    return y + Rude.apply(y)


def overwritten(x: Tensor, w: Tensor) -> Tensor:
    y = w * 1
    z = (x * y).sin()  # lie: saved tensor overwritten through .data
    y.data.mul_(2)
    return z


def number(x: Tensor) -> Tensor:
    return x * x.max().item()  # lie: through a Python number


def through_data(x: Tensor) -> Tensor:
    return x * x.data.sin()  # lie: through .data


def through_numpy(x: Tensor) -> Tensor:
    scale = torch.from_numpy(x.detach().numpy() ** 2)  # lie: through NumPy
    return x * scale


def frozen(x: Tensor) -> Tensor:
    with torch.no_grad():
        scale = x.sin().sum()  # lie: under no_grad
    return x * scale


def cut(x: Tensor) -> Tensor:
    return x * x.detach().exp()  # lie: detached factor


def pair(shape: tuple[int, ...] = (4, 4), dtype: torch.dtype = F64) -> Callable[[], tuple[Tensor, ...]]:
    return lambda: (draw(*shape, dtype=dtype, seed=1), draw(*shape, dtype=dtype, seed=2))


def one(*shape: int, dtype: torch.dtype = F64) -> Callable[[], tuple[Tensor, ...]]:
    return lambda: (draw(*(shape or (4, 3)), dtype=dtype, seed=3),)


INDEX = torch.tensor([0, 2, 2, 1])

# A marker belongs on the line of its lie.
# fmt: off
LIES = (
    Lie("a factor", lambda x: cube(x) * 2, one()),  # lie: a factor
    Lie("a sign", lambda x: negated(x) * 2, one()),  # lie: a sign
    Lie("a small constant is added", lambda x: offset(x) * 2, one()),  # lie: a small constant is added
    Lie("cotangent ignored", lambda x: without_cotangent(x) * 2, one()),  # lie: cotangent ignored
    Lie("input for output", lambda x: of_input(x) * 2, one()),  # lie: input for output
    Lie("clipped gradient", lambda x: clipped(x) * 2, one()),  # lie: clipped gradient
    Lie("None for a gradient", lambda x, y: nothing(x, y) * 2, pair()),  # lie: None for a gradient
    Lie("softmax returns zeros", lambda x: zeros(x) * 2, one()),  # lie: softmax returns zeros
    Lie("zero where negative", lambda x: dead_half(x) * 2, one()),  # lie: zero where negative
    Lie("clamp lets all pass", lambda x: wide_clamp(x) * 2, one()),  # lie: clamp lets all pass
    Lie("half precision inside", lambda x: low_precision(x) * 2, one(dtype=F32)),  # lie: half precision inside
    Lie("one per cent in float32", lambda x: one_percent(x) * 2, one(dtype=F32)),  # lie: one per cent in float32
    Lie("a fifth in bfloat16", lambda x: a_fifth(x) * 2, one(200, dtype=BF16)),  # lie: a fifth in bfloat16
    Lie("square of the norm", lambda x: square_norm(x) * 2, one()),  # lie: square of the norm
    Lie("one power too few", lambda x: reciprocal(x) * 2, one()),  # lie: one power too few
    Lie("inverted mask", lambda x: inverted_mask(x) * 2, one()),  # lie: inverted mask
    Lie("not conjugated", lambda x, y: unconjugated(x, y) * 2, pair(dtype=C128)),  # lie: not conjugated
    Lie("one element of 100,000", lambda x: single(x) * 2, one(1000, 100)),  # lie: one element of 100,000
    Lie("only when not contiguous", lambda x: strided(x.t()) * 2, one(4, 4)),  # lie: only when not contiguous
    Lie("a transpose", lambda x, y: transposed(x, y) * 2, pair()),  # lie: a transpose
    Lie("swapped gradients", lambda x, y: swapped(x, y) * 2, pair()),  # lie: swapped gradients
    Lie(
        "mean over a broadcast",
        lambda x, b: mean_of_bias(x, b) * 2,  # lie: mean over a broadcast
        lambda: (draw(5, 3), draw(3, seed=4)),
    ),
    Lie(
        "first row of a broadcast",
        lambda x, b: first_of_bias(x, b) * 2,  # lie: first row of a broadcast
        lambda: (draw(5, 3), draw(3, seed=4)),
    ),
    Lie("a mean without its size", lambda x: sum_not_mean(x) * 2, one()),  # lie: a mean without its size
    Lie("rolled the wrong way", lambda x: rolled(x) * 2, one()),  # lie: rolled the wrong way
    Lie("last term of a cumulative sum", lambda x: last_forgotten(x) * 2, one()),  # lie: last term of a cumulative sum
    Lie("a term of a product", lambda a, b: bilinear(a, a.exp(), b) * 2, pair()),  # lie: a term of a product
    Lie("mean for sum in log softmax", lambda x: log_softmax(x) * 2, one()),  # lie: mean for sum in log softmax
    Lie("layer norm without its mean", lambda x: norm(x) * 2, one()),  # lie: layer norm without its mean
    Lie(
        "overwrites repeated rows",
        lambda x: Gather.apply(x, INDEX) * 2,  # lie: overwrites repeated rows
        one(),
        cite="pytorch/pytorch#1528",
    ),
    Lie("one of two outputs", lambda x: sum(FirstOfTwo.apply(x)), one()),  # lie: one of two outputs
    Lie("setup_context", lambda x: NewStyle.apply(x, 3) * 2, one()),  # lie: setup_context
    Lie("a forward without operations", lambda x: Untouched.apply(x * 1) * 2, one()),  # lie: a forward without operations
    Lie("in place", lambda x: Dirty.apply(x * 1) * 2, one()),  # lie: in place
    Lie("a Function in a Function", lambda x: Outer.apply(x) * 2, one()),  # lie: a Function in a Function
    Lie("writes into its grad_output", rude, one(), witness="sum", cite="pytorch/pytorch#81417"),
    Lie("saved tensor overwritten through .data", overwritten, pair(), cite="pytorch/pytorch#6990"),
    Lie("through a Python number", number, one(), witness="graph"),
    Lie("through .data", through_data, one(), witness="graph"),
    Lie("through NumPy", through_numpy, one(), witness="graph"),
    Lie("under no_grad", frozen, one(), witness="graph", severity=Severity.NOTE),
    Lie("detached factor", cut, one(), witness="graph", severity=Severity.NOTE),
    Lie("a repeated index counted once", lambda x: picked_twice(x) * 2, one()),  # lie: a repeated index counted once
    Lie("every sample like the first", lambda x: like_the_first(x) * 2, one()),  # lie: every sample like the first
    Lie("halves exchanged", lambda x: halves_exchanged(x) * 2, one(3, 4)),  # lie: halves exchanged
)
# fmt: on

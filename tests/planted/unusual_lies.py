"""Wrong gradients that naive checkers pass: ties across inputs, layouts, complex and half numbers, contexts, and programs around
Functions. The line that a finding must name ends in the word lie and the entry's name, as in ``lies``.
"""

from __future__ import annotations

from typing import Any

import torch
from lies import BF16, C128, F32, F64, Lie, draw, function, one, pair
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

F16 = torch.float16

# -- ties, each input by itself being right ------------------------------------------------------------------------

LEFT, RIGHT = torch.tensor([1.0, 2.0, 3.0, 0.5], dtype=F64), torch.tensor([1.0, 1.0, 3.0, 4.0], dtype=F64)
TIED = torch.tensor([[1.0, 1.0, 0.0], [2.0, 2.0, 2.0], [3.0, 1.0, 1.0]], dtype=F64)

both_at_a_tie = function(torch.maximum, lambda g, a, b: (g * (a >= b), g * (b >= a)))
none_at_a_tie = function(torch.maximum, lambda g, a, b: (g * (a > b), g * (b > a)))
both_by_where = function(lambda a, b: torch.where(a < b, a, b), lambda g, a, b: (g * (a <= b), g * (b <= a)))
plus_to_both = function(
    lambda a, b: (a - b).abs(),
    lambda g, a, b: (g * torch.where(a >= b, 1.0, -1.0), g * torch.where(b >= a, 1.0, -1.0)),
)
one_half_of_a_hinge = function(lambda a, b: torch.relu(a - b), lambda g, a, b: (g * (a >= b), -g * (a > b)))
bounds_and_value = function(
    lambda x, low, high: torch.maximum(torch.minimum(x, high), low),
    lambda g, x, low, high: (g * ((x >= low) & (x <= high)), g * (x <= low), g * (x >= high)),
)
every_largest = function(
    lambda x: x.max(-1).values, lambda g, x: g[:, None] * (x == x.amax(-1, keepdim=True))
)


def rank_of_the_first(g: Tensor, x: Tensor) -> Tensor:
    ordered = x.sort(-1).values
    return g.gather(-1, (ordered[..., None, :] == x[..., :, None]).to(g.dtype).argmax(-1))


sorted_ties = function(lambda x: x.sort(-1).values, rank_of_the_first)
all_of_a_hundred = function(torch.amax, lambda g, x: g * (x == x.amax()))

# -- shapes and layouts --------------------------------------------------------------------------------------------

eight_rows = function(torch.sin, lambda g, x: g * x.cos() * (torch.arange(len(x)) < 8)[:, None])
shared_by_expansion = function(torch.sin, lambda g, x: g * x.cos() / (len(x) if x.stride(0) == 0 else 1))
in_memory_order = function(
    torch.sin, lambda g, x: (g.reshape(-1) * x.cos().permute(0, 2, 3, 1).reshape(-1)).view(x.shape)
)
of_a_scalar = function(torch.exp, lambda g, x: g)
mean_of_rows = function(lambda b, x: b + x, lambda g, b, x: (g.mean(0, keepdim=True), g))

# -- numbers -------------------------------------------------------------------------------------------------------

conjugated_abs = function(torch.abs, lambda g, z: g * (z / z.abs()).conj())
real_part_only = function(lambda z: z * z, lambda g, z: (g * 2 * z.conj()).real + 0j)
unconjugated_exp = function(torch.exp, lambda g, z: g * z.exp())
tenth_in_half = function(torch.sin, lambda g, x: g * x.cos() * 1.1)
overflowing = function(torch.sin, lambda g, x: (g * 65000 * x.cos()).clamp(-60000, 60000) / 65000)
tiny = function(lambda x: x * 1e-7, lambda g, x: g * 1.001e-7)
huge = function(lambda x: (x * 1e9) ** 2, lambda g, x: g * 2e18 * x * (1 + 1e-4))


def largest_times(factor: float) -> Any:
    def backward(g: Tensor, x: Tensor) -> Tensor:
        gradient = g * x.cos()
        gradient[gradient.abs().argmax()] *= factor
        return gradient

    return function(torch.sin, backward)


to_a_hundred_millionth = largest_times(1 + 1e-8)
to_a_ten_thousandth = largest_times(1 + 1e-4)
to_a_twentieth = largest_times(1.06)

approximated = function(
    F.gelu,
    lambda g, x: torch.autograd.functional.vjp(lambda y: F.gelu(y, approximate="tanh"), x, g)[1],
)
masked_softmax = function(
    lambda x, m: x.masked_fill(m, -torch.inf).softmax(-1),
    lambda g, x, m: (
        (p := x.masked_fill(m, -torch.inf).softmax(-1)) * (g - (g * p).mean(-1, keepdim=True)),
        None,
    ),
)
exchanged = function(lambda q, k: q @ k.mT, lambda g, q, k: (g.mT @ k, g @ q))

# -- contexts ------------------------------------------------------------------------------------------------------


class OnlyIfFirst(Function):
    """Gradients are not materialised; without the first there is thought to be none at all."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x)
        return x.sin(), x.cos()

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, h: Tensor | None) -> Tensor | None:
        (x,) = ctx.saved_tensors
        if g is None:
            return None
        return g * x.cos() - (0 if h is None else h * x.sin())


class ByItsMean(Function):
    """Keeps a mean that it takes for a constant."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        ctx.mean = y.mean()
        return x * y / ctx.mean

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, y = ctx.saved_tensors
        return g * y / ctx.mean, g * x / ctx.mean


class Remembering(Function):
    """Keeps its input with the class: right as long as it is called once."""

    last: Any = None

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        Remembering.last = x.detach()
        return x**2

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 2 * Remembering.last * g


class AnotherMask(Function):
    """A dropout that draws again in its backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * (torch.rand_like(x) > 0.5) * 2

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * (torch.rand_like(g) > 0.5) * 2


class InNumPy(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.from_numpy(x.detach().numpy() ** 2)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return g * x


class Scattered(Function):
    """Adds by index; its backward takes means."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        return x.new_zeros(3).scatter_add(0, index, x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (index,) = ctx.saved_tensors
        return (g / torch.bincount(index, minlength=3))[index], None


class InAutocast(Function):
    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=BF16)
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        return x @ w

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx: Any, g: Tensor) -> Any:
        x, w = ctx.saved_tensors
        return g @ w.t(), x.t() @ g * 1.2


def in_autocast(x: Tensor, w: Tensor) -> Tensor:
    with torch.autocast("cpu", BF16):
        return InAutocast.apply(x, w)  # lie: inside autocast


# -- around autograd -----------------------------------------------------------------------------------------------


def as_list(x: Tensor) -> Tensor:
    return x * torch.as_tensor(x.tolist(), dtype=x.dtype)  # lie: through a list


def as_new_tensor(x: Tensor) -> Tensor:
    scale = torch.tensor([float(v) for v in x.sum(1)], dtype=x.dtype)  # lie: through numbers of a new tensor
    return x * scale[:, None]


def as_new_parameter(x: Tensor, w: Tensor) -> Tensor:
    own = nn.Parameter(w.data * 2)  # lie: through a new Parameter
    return x @ own


def normalised(x: Tensor, w: Tensor) -> Tensor:
    return x @ (w / float(w.norm()))  # lie: a weight's length as a number


INDEX = torch.tensor([0, 0, 1, 2, 2])
MASK = torch.tensor([False, True, False, False])
BOUNDED = torch.tensor([-1.0, 0.0, 0.5, 1.0, 2.0], dtype=F64)
ZEROS, ONES = torch.zeros(5, dtype=F64), torch.ones(5, dtype=F64)

# A marker belongs on the line of its lie.
# fmt: off
UNUSUAL_LIES = (
    Lie("all to both of a tie", lambda a, b: both_at_a_tie(a, b) * 2, lambda: (LEFT, RIGHT)),  # lie: all to both of a tie
    Lie(
        "all to both of a tie in float32",
        lambda a, b: both_at_a_tie(a, b) * 2,  # lie: all to both of a tie in float32
        lambda: (LEFT.float(), RIGHT.float()),
    ),
    Lie("nothing to both of a tie", lambda a, b: none_at_a_tie(a, b) * 2, lambda: (LEFT, RIGHT)),  # lie: nothing to both of a tie
    Lie("a tie of where", lambda a, b: both_by_where(a, b) * 2, lambda: (LEFT, RIGHT)),  # lie: a tie of where
    Lie("a plus sign for both", lambda a, b: plus_to_both(a, b) * 2, lambda: (LEFT, RIGHT)),  # lie: a plus sign for both
    Lie("one half of a hinge", lambda a, b: one_half_of_a_hinge(a, b) * 2, lambda: (LEFT, RIGHT)),  # lie: one half of a hinge
    Lie(
        "a value at its learnt bounds",
        lambda x, a, b: bounds_and_value(x, a, b) * 2,  # lie: a value at its learnt bounds
        lambda: (BOUNDED, ZEROS, ONES),
    ),
    Lie("every largest of a row", lambda x: every_largest(x) * 2, lambda: (TIED,)),  # lie: every largest of a row
    Lie("the first rank to all", lambda x: sorted_ties(x) * 2, lambda: (TIED,)),  # lie: the first rank to all
    Lie(
        "the largest of a hundred equals",
        lambda x: all_of_a_hundred(x) * 2,  # lie: the largest of a hundred equals
        lambda: (torch.ones(100, dtype=F64),),
    ),
    Lie("only the first eight rows", lambda x: eight_rows(x) * 2, one(12, 3)),  # lie: only the first eight rows
    Lie("divided where expanded", lambda x: shared_by_expansion(x.expand(4, 3)).sum(), one(1, 3)),  # lie: divided where expanded
    Lie(
        "memory order of channels last",
        lambda x: in_memory_order(x.to(memory_format=torch.channels_last)) * 2,  # lie: memory order of channels last
        one(2, 3, 4, 5),
    ),
    Lie("a number without dimensions", lambda x: of_a_scalar(x) * 2, lambda: (draw(),)),  # lie: a number without dimensions
    Lie(
        "the mean for a kept dimension",
        lambda b, x: mean_of_rows(b, x).sin(),  # lie: the mean for a kept dimension
        lambda: (draw(1, 3), draw(4, 3)),
    ),
    Lie("a conjugated absolute value", lambda z: conjugated_abs(z) * 2, one(4, dtype=C128)),  # lie: a conjugated absolute value
    Lie(
        "a complex gradient made real",
        lambda z: real_part_only(z).abs(),  # lie: a complex gradient made real
        one(4, dtype=C128),
    ),
    Lie(
        "an exponential not conjugated",
        lambda z: unconjugated_exp(z).abs(),  # lie: an exponential not conjugated
        one(4, dtype=C128),
    ),
    Lie("a tenth in float16", lambda x: tenth_in_half(x) * 2, one(64, dtype=F16)),  # lie: a tenth in float16
    Lie("a loss scale that overflows", lambda x: overflowing(x) * 2, one(64, dtype=F16)),  # lie: a loss scale that overflows
    Lie("gradients of 1e-7", lambda x: tiny(x), one()),  # lie: gradients of 1e-7
    Lie("gradients of 1e18", lambda x: huge(x), one(5, dtype=F32)),  # lie: gradients of 1e18
    Lie(
        "one element by 1e-8 in float64",
        lambda x: to_a_hundred_millionth(x) * 2,  # lie: one element by 1e-8 in float64
        one(64),
    ),
    Lie(
        "one element by 1e-4 in float32",
        lambda x: to_a_ten_thousandth(x) * 2,  # lie: one element by 1e-4 in float32
        one(64, dtype=F32),
    ),
    Lie(
        "one element by 6e-2 in bfloat16",
        lambda x: to_a_twentieth(x) * 2,  # lie: one element by 6e-2 in bfloat16
        one(64, dtype=BF16),
    ),
    Lie("the gradient of an approximation", lambda x: approximated(x) * 2, one(30)),  # lie: the gradient of an approximation
    Lie("a masked softmax", lambda x: masked_softmax(x, MASK) * 2, one(3, 4)),  # lie: a masked softmax
    Lie("queries for keys", lambda q, k: exchanged(q, k).softmax(-1), pair()),  # lie: queries for keys
    Lie(
        "None without the first cotangent",
        lambda x: OnlyIfFirst.apply(x)[1] * 2,  # lie: None without the first cotangent
        one(4),
    ),
    Lie("a mean taken for a constant", lambda x, y: ByItsMean.apply(x, y + 3) * 2, pair()),  # lie: a mean taken for a constant
    Lie(
        "kept with the class",
        lambda x, y: Remembering.apply(x) + y.sin() * Remembering.apply(y).detach(),  # lie: kept with the class
        pair(),
    ),
    Lie("a mask drawn again", lambda x: AnotherMask.apply(x) * x, one(20)),  # lie: a mask drawn again
    Lie("a forward in NumPy", lambda x: InNumPy.apply(x) * 2, one(), witness="difference"),  # lie: a forward in NumPy
    Lie("a mean for a scattered sum", lambda x: Scattered.apply(x, INDEX).sin(), one(5)),  # lie: a mean for a scattered sum
    Lie("inside autocast", in_autocast, pair((8, 8), dtype=F32)),
    Lie(
        "inside a checkpoint",
        lambda x: checkpoint(lambda y: of_a_scalar(y) * 2, x.sin(), use_reentrant=False),  # lie: inside a checkpoint
        one(),
    ),
    Lie(
        "inside a re-entrant checkpoint",
        lambda x: checkpoint(lambda y: of_a_scalar(y) * 2, x.sin(), use_reentrant=True),  # lie: inside a re-entrant checkpoint
        one(),
    ),
    Lie("through a list", as_list, one(3), witness="graph"),
    Lie("through numbers of a new tensor", as_new_tensor, one(3, 2), witness="graph"),
    Lie("through a new Parameter", as_new_parameter, pair(), witness="graph"),
    Lie("a weight's length as a number", normalised, pair(), witness="graph"),
)
# fmt: on

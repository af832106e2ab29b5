"""Wrong gradients that people have reported, rebuilt small; ``cite`` names the thread.

Where the thread is about torch itself and the fault is still there, the entry is torch's own operation. The line that a
finding must name ends in the word lie and the entry's name, as in ``lies``.
"""

from __future__ import annotations

from typing import Any

import torch
from lies import C128, Lie, draw, function, one, pair
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

# -- the cotangent -----------------------------------------------------------------------------------------------


class ISRLU(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.nisr = torch.rsqrt(1 + x.clamp(max=0) ** 2)
        return x * ctx.nisr

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return ctx.nisr**3


class Precomputed(Function):
    """A loss that computes its gradient in the forward and forgets what it is multiplied by."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x.softmax(-1))
        return x.logsumexp(-1).sum()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return ctx.saved_tensors[0]


def half_scaled(g: Tensor, x: Tensor) -> Tensor:
    gradient = x.softmax(-1)
    gradient[:, 0] -= g.squeeze(-1)
    return gradient


log_loss = function(lambda x: x.logsumexp(-1, keepdim=True) - x[:, :1], half_scaled)
distance = function(
    lambda a, b: (a.sort(0).values - b.sort(0).values).abs().sum(), lambda g, a, b: (a.sign(), -b.sign())
)
filled_with_ones = function(lambda a, b: a + b, lambda g, a, b: (torch.ones_like(g), torch.ones_like(g)))
swapped_relu = function(torch.relu, lambda g, x: torch.where(g > 0, x, 0.0))
rounding = function(torch.round, lambda g, x: torch.ones_like(g))


def from_memory(g: Tensor) -> Tensor:
    """The cotangent as a kernel reads it that takes it for contiguous; what lies beyond its memory as zeros."""
    memory = torch.zeros(g.numel(), dtype=g.dtype)
    known = torch.empty(0, dtype=g.dtype).set_(g.untyped_storage())[: g.numel()]
    memory[: known.numel()] = known
    return memory.view(g.shape)


attention_like = function(torch.tanh, lambda g, x: from_memory(g) * (1 - x.tanh() ** 2))
entropy_like = function(lambda x: x * x, lambda g, x: 2 * x * from_memory(g))

# -- formulas ----------------------------------------------------------------------------------------------------


def mish_typo(g: Tensor, x: Tensor) -> Tensor:
    omega = 4 * (x + 1) + 4 * (2 * x).exp() + (3 * x).exp() + x.exp() * (4 * x + 6)
    delta = 2 * (2 * x).exp() + (2 * x).exp() + 2
    return g * x.exp() * omega / delta**2


mish = function(lambda x: x * F.softplus(x).tanh(), mish_typo)
soft_minimum = function(lambda a, b, c: -torch.stack([-a, -b, -c]).logsumexp(0), lambda g, a, b, c: (g, g, g))
product = function(torch.prod, lambda g, x: g * x.prod() / x)
running_product = function(
    lambda x: x.cumprod(0), lambda g, x: (g * x.cumprod(0)).flip(0).cumsum(0).flip(0) / x
)
complex_matmul = function(torch.matmul, lambda g, a, b: (g @ b.mT, a.mT @ g))
filled = function(
    lambda x, v: x.index_fill(0, REPEATED, 0.0).index_add(0, REPEATED.unique(), v.expand(1, x.shape[1])),
    lambda g, x, v: (g.index_fill(0, REPEATED, 0.0), g.index_select(0, REPEATED).sum().expand_as(v)),
)
tied = function(lambda x: x.amax(), lambda g, x: g * (x == x.amax()))
mirrored = function(lambda x: x.flip(0), lambda g, x: g)
wavelet = function(
    lambda x, w: F.conv1d(x, w), lambda g, x, w: (F.conv1d(F.pad(g, (2, 2)), w), F.conv1d(x, g))
)


def sparse_maximum(x: Tensor) -> Tensor:
    ordered = x.sort(-1, descending=True).values
    count = torch.arange(1, x.shape[-1] + 1, dtype=x.dtype)
    size = (1 + count * ordered > ordered.cumsum(-1)).sum(-1, keepdim=True)
    return (x - (ordered.cumsum(-1).gather(-1, size - 1) - 1) / size).clamp(min=0)


def squeezed(g: Tensor, y: Tensor) -> Tensor:
    inside = (y > 0).to(g.dtype)
    mean = (g * inside).sum(-1) / inside.sum(-1).squeeze()
    return (inside * (g - mean.unsqueeze(-1)))[:, :1]


sparsemax = function(sparse_maximum, squeezed, saves_output=True)


# -- normalisation -----------------------------------------------------------------------------------------------


def rms(x: Tensor, w: Tensor) -> Tensor:
    return x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * w


def rms_parts(g: Tensor, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    scale = (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
    return scale, (g * w * x).mean(-1, keepdim=True) * scale**3, (g * x * scale).sum(0)


def rms_none(g: Tensor, x: Tensor, w: Tensor) -> Any:
    scale, row, _ = rms_parts(g, x, w)
    return g * w * scale - x * row, None


def rms_columns(g: Tensor, x: Tensor, w: Tensor) -> Any:
    scale, row, weight = rms_parts(g, x, w)
    return g * w * scale - x * row.squeeze(-1), weight


def rms_unweighted(g: Tensor, x: Tensor, w: Tensor) -> Any:
    scale, _, weight = rms_parts(g, x, w)
    return g * scale - x * (g * x).mean(-1, keepdim=True) * scale**3, weight


frozen_weight, across_columns, unweighted = (
    function(rms, backward) for backward in (rms_none, rms_columns, rms_unweighted)
)

# -- quantisation ------------------------------------------------------------------------------------------------

fake_quantized = function(lambda x: (x * 4).round().clamp(-2, 2) / 4, lambda g, x: g)
learned_step = function(
    lambda w, s: (w / s).round().clamp(-2, 1) * s,
    lambda g, w, s: (g, (g * ((w / s).round().clamp(-2, 1) - (w / s))).sum().expand_as(s)),
)

# -- torch's own, with repeated indices ----------------------------------------------------------------------------

REPEATED = torch.tensor([2, 2])
SLOTS = torch.tensor([[[4, 2, 3, 4]]])
LABELS, LENGTHS, TARGETS = torch.tensor([[1]]), torch.tensor([3]), torch.tensor([1])


def unpooled(x: Tensor) -> Tensor:
    return F.max_unpool1d(x, SLOTS, [1], stride=[2])  # lie: unpooling to one place twice


def scattered(x: Tensor, y: Tensor) -> Tensor:
    return x.scatter(0, torch.tensor([[0, 0], [0, 1]]), y)  # lie: scatter to one place twice


def copied(x: Tensor, y: Tensor) -> Tensor:
    return x.index_copy(0, REPEATED, y)  # lie: index_copy to one row twice


def put(x: Tensor, y: Tensor) -> Tensor:
    return x.index_put((REPEATED,), y)  # lie: index_put to one row twice


def raw_ctc(x: Tensor) -> Tensor:
    return F.ctc_loss(x, LABELS, LENGTHS, TARGETS)  # lie: CTC of what is no log_softmax


def normalized_once() -> tuple[Tensor]:
    return (draw(3, 1, 3).log_softmax(-1),)


REPORTED_LIES = (
    Lie(
        "the whole gradient to both of a tie",
        lambda x: tied(x) * 2,  # lie: the whole gradient to both of a tie
        lambda: (torch.tensor([2.0, 2.0, 1.0]).double(),),
        cite="chelsea0x3b/dfdx#111",
    ),
    Lie(
        "ISRLU without its cotangent",
        lambda x: ISRLU.apply(x) * 2,  # lie: ISRLU without its cotangent
        one(),
        cite="pytorch/pytorch#4355",
    ),
    Lie(
        "a loss that ignores its scale",
        lambda x: Precomputed.apply(x) * 3,  # lie: a loss that ignores its scale
        one(),
        cite="SeanNaren/warp-ctc#170",
    ),
    Lie(
        "terms without the cotangent",
        lambda x: log_loss(x) * 2,  # lie: terms without the cotangent
        one(),
        cite="pytorch/pytorch#11750",
    ),
    Lie(
        "constants do not backpropagate",
        lambda a, b: -distance(a, b),  # lie: constants do not backpropagate
        pair(),
        cite="PythonOT/POT#309",
    ),
    Lie(
        "filled with ones",
        lambda a, b: filled_with_ones(a, b) * 2,  # lie: filled with ones
        pair(),
        cite="pytorch/tutorials#216",
    ),
    Lie(
        "relu's arguments in the wrong order",
        lambda x: swapped_relu(x) * 2,  # lie: relu's arguments in the wrong order
        one(),
        cite="ROCm/rocm-libraries#7676",
    ),
    Lie(
        "one for the cotangent",
        lambda x: rounding(x * 3) * 2,  # lie: one for the cotangent
        one(),
        cite="PannenetsF/TQT#4",
    ),
    Lie(
        "a cotangent that is not contiguous",
        lambda x: attention_like(x).t().exp(),  # lie: a cotangent that is not contiguous
        one(),
        cite="Dao-AILab/flash-attention#355",
    ),
    Lie(
        "strides of another cotangent",
        lambda x: entropy_like(x).permute(2, 0, 1).exp(),  # lie: strides of another cotangent
        one(2, 3, 4),
        cite="flagos-ai/FlagGems#1084",
    ),
    Lie(
        "an expanded cotangent",
        lambda x: entropy_like(x).sum(),  # lie: an expanded cotangent
        one(),
        cite="ROCm/TransformerEngine#623",
    ),
    Lie(
        "a typo in Mish",
        lambda x: mish(x) * 2,  # lie: a typo in Mish
        one(),
        cite="digantamisra98/Mish#11",
    ),
    Lie(
        "a soft minimum without its weights",
        lambda x: soft_minimum(x, x.sin(), x.cos()) * 2,  # lie: a soft minimum without its weights
        one(),
        cite="keonlee9420/Parallel-Tacotron2#15",
    ),
    Lie(
        "a product divided by zero",
        lambda x: product(x) * 2,  # lie: a product divided by zero
        lambda: (torch.tensor([0.0, 2.0, 3.0]).double(),),
        cite="tinygrad/tinygrad#17404",
    ),
    Lie(
        "a running product divided by zero",
        lambda x: running_product(x) * 2,  # lie: a running product divided by zero
        lambda: (torch.tensor([2.0, 0.0, 3.0, 4.0]).double(),),
        cite="tracel-ai/burn#3864",
    ),
    Lie(
        "a complex product not conjugated",
        lambda a, b: complex_matmul(a, b) * 2,  # lie: a complex product not conjugated
        pair(dtype=C128),
        cite="tensorflow/tensorflow#4859",
    ),
    Lie(
        "a repeated index counted twice",
        lambda x: filled(x, x[:1].sum(1, keepdim=True)) * 2,  # lie: a repeated index counted twice
        one(),
        cite="pytorch/pytorch#57006",
    ),
    Lie(
        "a reversal not reversed",
        lambda x: mirrored(x) * 2,  # lie: a reversal not reversed
        one(),
        cite="deeplearning4j/deeplearning4j#8874",
    ),
    Lie(
        "a wavelet's filter not mirrored",
        lambda x, w: wavelet(x, w) * 2,  # lie: a wavelet's filter not mirrored
        lambda: (draw(1, 1, 8), draw(1, 1, 3, seed=2)),
        cite="KeKsBoTer/torch-dwt#2",
    ),
    Lie(
        "sparsemax with one more dimension",
        lambda x: sparsemax(x) * 2,  # lie: sparsemax with one more dimension
        one(2, 1, 3),
        cite="deep-spin/entmax#13",
    ),
    Lie(
        "a weight that never learns",
        lambda x, w: frozen_weight(x, w[0]) * 2,  # lie: a weight that never learns
        pair(),
        cite="unslothai/unsloth#4533",
    ),
    Lie(
        "rows corrected as columns",
        lambda x, w: across_columns(x, w[0]) * 2,  # lie: rows corrected as columns
        pair(),
        cite="BobMcDear/attorch#17",
    ),
    Lie(
        "the weight of a norm forgotten",
        lambda x, w: unweighted(x, w[0]) * 2,  # lie: the weight of a norm forgotten
        pair(),
        cite="karpathy/llm.c#763",
    ),
    Lie(
        "a quantiser that lets all pass",
        lambda x: fake_quantized(x) * 2,  # lie: a quantiser that lets all pass
        one(),
        cite="microsoft/nni#3159",
    ),
    Lie(
        "a learned step without its range",
        lambda x, s: learned_step(x, s.exp()) * 2,  # lie: a learned step without its range
        lambda: (draw(4, 3), draw(1, seed=2)),
        cite="hustzxd/LSQuantization#1",
    ),
    Lie(
        "unpooling to one place twice",
        unpooled,
        one(1, 1, 4),
        witness="difference",
        cite="pytorch/pytorch#80204",
    ),
    Lie(
        "scatter to one place twice",
        scattered,
        pair((2, 2)),
        witness="difference",
        cite="pytorch/pytorch#162242",
    ),
    Lie(
        "index_copy to one row twice",
        copied,
        lambda: (draw(4, 3), draw(2, 3, seed=2)),
        witness="difference",
        cite="pytorch/pytorch#473",
    ),
    Lie(
        "index_put to one row twice",
        put,
        lambda: (draw(4, 3), draw(2, 3, seed=2)),
        witness="difference",
        cite="pytorch/pytorch#146299",
    ),
    Lie(
        "CTC of what is no log_softmax",
        raw_ctc,
        normalized_once,
        witness="difference",
        cite="pytorch/pytorch#52241",
    ),
)

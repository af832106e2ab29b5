"""Custom Functions asked again on purpose: what their backward writes to, and where it answers wrongly.

The lies stand beside truths that do nearly the same. To plant another one, append an entry. Most were met in the wild:

- ``grad_output.view``: NVIDIA/apex#1601, rtqichen/torchdiffeq#36, NVIDIA/cuEquivariance#177
- memory read without strides: Dao-AILab/flash-attention#355, open-mmlab/mmcv#737
- an expanded ``grad_output``, as ``sum()`` delivers it: ROCm/TransformerEngine#623, pytorch/pytorch#64529
- saved tensors overwritten by the backward: linkedin/Liger-Kernel#254
- ``grad_output`` overwritten by the backward: the example in pytorch/pytorch#30454
- inputs that need no gradient: fbcotter/pytorch_wavelets#65, mgmalek/efficient_cross_entropy#8
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import Function
from torch.utils.checkpoint import checkpoint

from gradcheck_suite import Finding, Severity, check_gradients, surrogate_gradient
from gradcheck_suite.capture.values import TensorValue
from gradcheck_suite.rules.backward_side_effect import BackwardSideEffect
from gradcheck_suite.witnesses.backward_call import same_bits

F64 = torch.float64


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = F64) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def function(
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    *,
    materialize: bool = True,
    saves: bool = True,
) -> Callable[..., Any]:
    """A Function from two plain functions; ``backward(ctx, *saved, *cotangents)``."""

    class Made(Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Any:
            ctx.set_materialize_grads(materialize)
            if saves:
                ctx.save_for_backward(*(t for t in inputs if isinstance(t, Tensor)))
            ctx.calls = 0
            return forward(*inputs)

        @staticmethod
        def backward(ctx: Any, *cotangents: Any) -> Any:
            return backward(ctx, *(ctx.saved_tensors if saves else ()), *cotangents)

    return Made.apply


@dataclass(frozen=True)
class Case:
    name: str
    function: Callable[..., Any]
    inputs: tuple[Any, ...] = (draw(3, 4),)
    kind: str = ""
    says: str = ""
    severity: Severity = Severity.ERROR
    also: tuple[str, ...] = ()


# -- lies --------------------------------------------------------------------------------------------------------


def masked(ctx: Any, x: Tensor, g: Tensor) -> Tensor:
    g[x < 0] = 0
    return g


def through_numpy(ctx: Any, x: Tensor, g: Tensor) -> Tensor:
    array = g.numpy()
    array *= np.cos(x.numpy())
    return torch.from_numpy(array.copy())


def through_data(ctx: Any, x: Tensor, g: Tensor) -> Tensor:
    result = g * x.cos()
    g.data.zero_()
    return result


def with_out(ctx: Any, x: Tensor, g: Tensor) -> Tensor:
    result = g * x.cos()
    torch.mul(g, 2, out=g)
    return result


def into_saved(ctx: Any, x: Tensor, w: Tensor, g: Tensor) -> Any:
    of_x = g * w
    return of_x, w.copy_(g * x).clone()


def into_saved_data(ctx: Any, x: Tensor, g: Tensor) -> Tensor:
    x.data.cos_()
    return g * x


class IntoInput(Function):
    """Keeps its input as an attribute, where torch's version check does not see it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.x = x
        return x.sin()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return ctx.x.cos_().mul(g)


class IntoOutput(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out = x.exp()
        ctx.kept = out.detach()
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return ctx.kept.mul_(g).clone()


def counting(ctx: Any, x: Tensor, g: Tensor) -> Tensor:
    ctx.calls += 1
    return g * x.cos() * (1.0 if ctx.calls == 1 else 1.0 / ctx.calls)


class Scratch(Function):
    """Turns what it kept into the gradient, once."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.cosine = x.cos()
        return x.sin()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return ctx.cosine.mul_(g).clone()


def noisy(ctx: Any, x: Tensor, g: Tensor) -> Tensor:
    ctx.calls += 1
    if ctx.calls == 1:
        return g * x.cos()
    return g * x.cos() * (1 + 0.1 * torch.rand_like(x))


def remembering(ctx: Any, x: Tensor, g: Tensor) -> Tensor:
    if not hasattr(ctx, "kept"):
        ctx.kept = g * x.cos()
    return ctx.kept.clone()


def view_of(ctx: Any, x: Tensor, g: Tensor) -> Tensor:
    return (g.view(-1) * x.reshape(-1).cos()).reshape(x.shape)


def raw_memory(ctx: Any, x: Tensor, g: Tensor) -> Tensor:
    flat = g.as_strided((g.numel(),), (1,), g.storage_offset()) if g.untyped_storage().nbytes() > 8 else g
    return flat.reshape(x.shape) * x.cos() if flat.numel() == x.numel() else g * x.cos()


def from_start_of_storage(ctx: Any, x: Tensor, g: Tensor) -> Tensor:
    if not g.is_contiguous():
        return g * x.cos()
    return g.as_strided(g.shape, g.stride(), 0) * x.cos()


def wrong_when_channels_last(ctx: Any, x: Tensor, g: Tensor) -> Tensor:
    if g.is_contiguous(memory_format=torch.channels_last) and not g.is_contiguous():
        return g.permute(0, 2, 3, 1).reshape(x.shape) * x.cos()
    return g * x.cos()


def one_value_for_all(ctx: Any, x: Tensor, g: Tensor) -> Tensor:
    if 0 in g.stride():
        return g * x.cos() / x.numel()
    return g * x.cos()


def refuses_conjugates(ctx: Any, x: Tensor, g: Tensor) -> Tensor:
    return torch.from_numpy(g.numpy() * np.conj(np.cos(x.numpy())))


def needs_both(ctx: Any, x: Tensor, g: Tensor, h: Tensor) -> Tensor:
    return g * x.cos() - h * x.sin()


def forgets_one(ctx: Any, x: Tensor, g: Tensor | None, h: Tensor | None) -> Any:
    if g is None or h is None:
        return None
    return g * x.cos() - h * x.sin()


def only_if_both_needed(ctx: Any, x: Tensor, w: Tensor, g: Tensor) -> Any:
    if all(ctx.needs_input_grad):
        return g * w, g * x
    return g, g


def short_of_one(ctx: Any, x: Tensor, w: Tensor, g: Tensor) -> Any:
    found = []
    if ctx.needs_input_grad[0]:
        found.append(g * w)
    if ctx.needs_input_grad[1]:
        found.append(g * x)
    return tuple(found)


def unset(ctx: Any, x: Tensor, w: Tensor, g: Tensor) -> Any:
    if ctx.needs_input_grad[0]:
        scaled = g * 1
    return (g * w if ctx.needs_input_grad[0] else None), scaled * x


def pair_of(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.sin(), x.cos()


def product(apply: Callable[..., Any]) -> Callable[[Tensor], Tensor]:
    def model(x: Tensor) -> Tensor:
        first, second = apply(x)
        return first * second

    return model


LIES = (
    Case("a mask written into grad_output", function(lambda x: x.clamp(min=0), masked), says="grad_output"),
    # Its cotangent is overwritten where nobody can see it: what was recorded is not what it was given.
    Case(
        "grad_output written through NumPy",
        function(torch.sin, through_numpy),
        says="grad_output",
        also=("GC101",),
    ),
    Case("grad_output written through .data", function(torch.sin, through_data), says="grad_output"),
    Case("grad_output as out=", function(torch.sin, with_out), says="grad_output"),
    Case(
        "a saved tensor",
        function(lambda x, w: x * w, into_saved),
        (draw(3), draw(3, seed=1)),
        says="saved_tensors[1]",
    ),
    Case(
        "a saved tensor through .data",
        lambda x: function(torch.sin, into_saved_data)(x * 1),
        says="saved_tensors[0]",
    ),
    Case("an input kept as an attribute", lambda x: IntoInput.apply(x * 1), says="argument 0 of forward"),
    Case("an output kept as an attribute", IntoOutput.apply, says="output 0 of forward"),
    Case("another answer each time", function(torch.sin, counting), kind="repetition"),
    Case(
        "a cotangent remembered",
        function(torch.sin, remembering),
        kind="repetition",
        says="another cotangent",
    ),
    Case("an attribute used up", Scratch.apply, kind="repetition", says="ctx.cosine"),
    Case(
        "random numbers from the second time on",
        function(torch.sin, noisy),
        kind="random",
        severity=Severity.WARNING,
    ),
    Case("view(-1)", function(torch.sin, view_of), kind="layout", says="not contiguous"),
    Case(
        "memory read without strides", function(torch.sin, raw_memory), kind="layout", says="not contiguous"
    ),
    Case(
        "storage offset forgotten", function(torch.sin, from_start_of_storage), kind="layout", says="offset"
    ),
    Case(
        "channels-last",
        function(torch.sin, wrong_when_channels_last),
        (draw(2, 3, 4, 5),),
        kind="layout",
        says="channels-last",
    ),
    Case("expanded", function(torch.sin, one_value_for_all), kind="layout", says="expanded"),
    Case(
        "lazily conjugated",
        function(torch.sin, refuses_conjugates),
        (draw(3, 4, dtype=torch.complex128),),
        kind="layout",
        says="conjugated",
    ),
    Case(
        "None not expected",
        product(function(pair_of, needs_both, materialize=False)),
        kind="undefined",
        says="only output 0 is used",
    ),
    Case(
        "nothing where one is None",
        product(function(pair_of, forgets_one, materialize=False)),
        kind="undefined",
        says="only output 0 is used",
    ),
    Case(
        "other values with a frozen input",
        function(lambda x, w: x * w, only_if_both_needed),
        (draw(3), draw(3, seed=1)),
        kind="single input",
        says="only argument 0",
    ),
    Case(
        "too few gradients with a frozen input",
        function(lambda x, w: x * w, short_of_one),
        (draw(3), draw(3, seed=1)),
        kind="single input",
        says="only argument 0",
    ),
    Case(
        "a name that is unset with a frozen input",
        function(lambda x, w: x * w, unset),
        (draw(3), draw(3, seed=1)),
        kind="single input",
        says="only argument 1",
    ),
)


def told(function: Callable[..., Any], inputs: tuple[Any, ...]) -> list[Finding]:
    report = check_gradients(function, inputs)
    return [f for f in report.findings if f.code == BackwardSideEffect.code]


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.name)
def test_is_found(lie: Case) -> None:
    report = check_gradients(lie.function, lie.inputs)
    found = [f for f in report.findings if f.code == BackwardSideEffect.code]
    assert len(found) == 1, str(report)
    (finding,) = found
    assert finding.evidence["kind"] == (lie.kind or "write"), str(report)
    assert lie.says in finding.message, finding.message
    assert finding.severity is lie.severity
    assert finding.location is not None
    assert finding.location.file == __file__
    assert {f.code for f in report.errors} - {BackwardSideEffect.code} == set(lie.also), str(report)
    assert report.counts["functions"] == 1


# -- truths ------------------------------------------------------------------------------------------------------


@surrogate_gradient("straight-through")
class Surrogate(Function):
    """Random on purpose, and clipped."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return (g * (1 + 0.1 * torch.rand_like(g))).clamp(-1, 1)


@surrogate_gradient("gradient reversal")
class Reversal(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return -g


class Integers(Function):
    """An output that is no floating-point number and one that is marked as not differentiable."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        values, index = x.sort(-1)
        mask = (x > 0).to(x.dtype)
        ctx.save_for_backward(index)
        ctx.mark_non_differentiable(index, mask)
        return values, index, mask

    @staticmethod
    def backward(ctx: Any, g: Tensor, *_: Any) -> Tensor:
        (index,) = ctx.saved_tensors
        return torch.zeros_like(g).scatter_(-1, index, g)


class Dirty(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        return x.mul_(3)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * 3


class Recomputing(Function):
    """A checkpoint of one's own: differentiates again inside its backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        return torch.tanh(x @ w)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        with torch.enable_grad():
            x, w = (t.detach().requires_grad_() for t in ctx.saved_tensors)
            return torch.autograd.grad(torch.tanh(x @ w), (x, w), g)


class Normalising(Function):
    """Recomputes a layer in front of a batch norm, whose gradients cancel to nothing."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(x, w, b)
        return torch.nn.functional.batch_norm(x @ w + b, None, None, training=True)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        with torch.enable_grad():
            given = [t.detach().requires_grad_() for t in ctx.saved_tensors]
            x, w, b = given
            y = torch.nn.functional.batch_norm(x @ w + b, None, None, training=True)
            return torch.autograd.grad(y, given, g)


class Cached(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        if not hasattr(ctx, "cosine"):
            ctx.cosine = ctx.saved_tensors[0].cos()
        return g * ctx.cosine


class Workspace(Function):
    """Memory of its own, filled anew by every call."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        ctx.workspace = torch.empty_like(x)
        return x.sin()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        torch.cos(ctx.saved_tensors[0], out=ctx.workspace)
        return ctx.workspace.mul_(g).clone()


class Observed(Function):
    """Notes the largest gradient in a buffer."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, largest: Tensor) -> Tensor:
        ctx.largest = largest
        return x * 2

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        ctx.largest.copy_(torch.maximum(ctx.largest, g.abs().max()))
        return g * 2, None


class NumPy(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return torch.from_numpy(np.multiply(2 * x.numpy(), g.numpy()))


class Dropped(Function):
    """A dropout of its own: the forward draws, the backward uses what was drawn."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        mask = (torch.rand_like(x) > 0.5).to(x.dtype)
        ctx.save_for_backward(x, w, mask)
        return x * w * mask

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, w, mask = ctx.saved_tensors
        return g * w * mask, g * x * mask


class Once(Function):
    """Frees what it kept: its graph can be run once."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.x = x.detach().clone()
        return x.sin()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        cosine = ctx.x.cos()
        ctx.x = None
        return g * cosine


class NewStyle(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, exponent: int = 3) -> Tensor:
        return x**exponent

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.exponent = inputs[1]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return g * ctx.exponent * x ** (ctx.exponent - 1), None


class Default(Function):
    """An argument that is left to its default, and for which no gradient is returned."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, slope: float = 0.5) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.slope = slope
        return x * w * slope

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, w = ctx.saved_tensors
        return g * w * ctx.slope, g * x * ctx.slope


class Configured(Function):
    """An argument that is neither a number nor a tensor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, act: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.save_for_backward(x, w)
        return act(x) * w

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, w = ctx.saved_tensors
        return g * w * x.cos(), g * x.sin(), None


def handles_none(ctx: Any, x: Tensor, g: Tensor | None, h: Tensor | None) -> Tensor:
    gradient = torch.zeros_like(x)
    if g is not None:
        gradient = gradient + g * x.cos()
    if h is not None:
        gradient = gradient - h * x.sin()
    return gradient


def as_asked(ctx: Any, x: Tensor, w: Tensor, g: Tensor) -> Any:
    of_x = g * w if ctx.needs_input_grad[0] else None
    return of_x, (g * x if ctx.needs_input_grad[1] else None)


def more_than_asked(ctx: Any, x: Tensor, b: Tensor, g: Tensor) -> Any:
    return g, g  # torch sums the second to the shape of the bias


def in_a_clone(ctx: Any, x: Tensor, g: Tensor) -> Tensor:
    result = g.clone()
    result[x < 0] = 0
    return result


def vmapped(x: Tensor) -> Tensor:
    return torch.func.vmap(lambda row: NewStyle.apply(row, 3))(x)


def inner(x: Tensor) -> Tensor:
    return x * torch.func.grad(lambda y: NewStyle.apply(y, 3).sum())(x.detach())


def long_sum(ctx: Any, x: Tensor, b: Tensor, g: Tensor) -> Any:
    return g * x.exp(), g.sum(0)


def weight_norm(x: Tensor) -> Tensor:
    layer = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(4, 2, dtype=F64))
    return layer(x)


LARGEST = torch.zeros((), dtype=F64)
two = (draw(3, 4), draw(3, 4, seed=1))
TRUTHS = (
    Case("a mask written into a clone", function(lambda x: x.clamp(min=0), in_a_clone)),
    Case("a cache", Cached.apply),
    Case("memory of its own", Workspace.apply),
    Case("a buffer that observes", lambda x: Observed.apply(x, LARGEST), (draw(3),)),
    Case("a surrogate that is random", Surrogate.apply),
    Case("gradient reversal", Reversal.apply),
    Case("integer outputs", lambda x: Integers.apply(x)[0] * 2),
    Case("mark_dirty", lambda x: Dirty.apply(x * 1).sin()),
    Case("a backward that differentiates", Recomputing.apply, (draw(3, 4), draw(4, 2))),
    *(
        Case(
            f"gradients that cancel, {seed}",
            Normalising.apply,
            tuple(draw(*shape, seed=seed, dtype=torch.float32) for shape in ((6, 4), (4, 4), (4,))),
        )
        for seed in range(6)
    ),
    Case("NumPy", NumPy.apply),
    Case("a dropout of its own", Dropped.apply, two),
    Case("a graph that can be run once", Once.apply),
    Case("setup_context", lambda x: NewStyle.apply(x, 3)),
    Case("an argument left to its default", Default.apply, two),
    Case("an argument of another kind", lambda x, w: Configured.apply(x, w, torch.sin), two),
    Case("None is handled", product(function(pair_of, handles_none, materialize=False))),
    Case("zeros are made", product(function(pair_of, needs_both))),
    Case("an output that nothing uses", lambda x: function(pair_of, needs_both)(x)[0]),
    Case("needs_input_grad is asked", function(lambda x, w: x * w, as_asked), two),
    Case("a gradient that torch sums", function(lambda x, b: x + b, more_than_asked), (draw(3, 4), draw(4))),
    Case("one tensor twice", lambda x: function(lambda a, b: a * b, as_asked)(x, x)),
    Case("vmap", vmapped),
    Case("torch.func.grad", inner),
    Case("torch's checkpoint", lambda x: checkpoint(Cached.apply, x * 1, use_reentrant=False)),
    Case("torch's parametrization", weight_norm),
    Case("no dimension", Cached.apply, (draw(),)),
    Case("half precision", Cached.apply, (draw(3, 4, dtype=torch.bfloat16),)),
    Case(
        "a long sum in float32",
        function(lambda x, b: x.exp() + b, long_sum),
        (draw(30_000, 3, dtype=torch.float32), draw(3, dtype=torch.float32)),
    ),
    Case("a transposed input", Cached.apply, (draw(3, 4).t(),)),
)


@pytest.mark.parametrize("truth", TRUTHS, ids=lambda truth: truth.name)
def test_is_not_accused(truth: Case) -> None:
    report = check_gradients(truth.function, truth.inputs)
    assert not [f for f in report.findings if f.code == BackwardSideEffect.code], str(report)
    assert not report.errors, str(report)


def test_there_are_enough_of_both() -> None:
    assert len(LIES) >= 15
    assert len(TRUTHS) >= 15
    assert len({case.name for case in (*LIES, *TRUTHS)}) == len(LIES) + len(TRUTHS)


# -- what is left behind -----------------------------------------------------------------------------------------


def test_memory_that_a_backward_writes_to_is_put_back() -> None:
    x = draw(3, 4)
    before = x.clone()
    version = x._version
    check_gradients(IntoInput.apply, (x,))
    assert torch.equal(x, before)
    assert x._version == version


def test_what_serves_once_is_listed_as_unverified() -> None:
    report = check_gradients(Once.apply, (draw(3),))
    (entry,) = [u for u in report.unverified if "side effects" in u.subject]
    assert "asked again" in entry.reason
    assert report.ok


def test_nothing_is_counted_without_a_custom_function() -> None:
    report = check_gradients(torch.sin, (draw(3),))
    assert "functions" not in report.counts


def test_one_finding_for_many_calls_of_one_function() -> None:
    apply = function(torch.sin, view_of)
    (finding,) = told(lambda x: apply(apply(x)) + apply(x[:2])[:1].sum(), (draw(3, 4),))
    assert finding.count == 2


def test_the_line_that_writes_is_blamed() -> None:
    (finding,) = told(LIES[0].function, LIES[0].inputs)
    assert finding.location is not None
    with open(__file__, encoding="utf-8") as file:
        assert file.readlines()[finding.location.line - 1].strip() == "g[x < 0] = 0"


def test_a_budget_that_is_used_up_asks_nothing() -> None:
    report = check_gradients(function(torch.sin, view_of), (draw(3, 4),), budget=1e-9)
    assert "functions" not in report.counts


# -- operators of torch.library -----------------------------------------------------------------------------------


def operator(name: str, backward: Callable[[Any, Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    @torch.library.custom_op(f"gradcheck_suite_tests::{name}", mutates_args=())
    def sine(x: Tensor) -> Tensor:
        return x.sin()

    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    sine.register_autograd(backward, setup_context=setup_context)
    return sine


def test_an_operator_that_writes_is_found() -> None:
    sine = operator("writes", lambda ctx, g: g.mul_(ctx.saved_tensors[0].cos()))
    (finding,) = told(lambda x: sine(x) * 2, (draw(3, 4),))
    assert finding.message.startswith("the backward of gradcheck_suite_tests::writes writes into grad_output")


def test_an_operator_that_does_not_is_not_accused() -> None:
    sine = operator("plain", lambda ctx, g: g * ctx.saved_tensors[0].cos())
    assert not told(lambda x: sine(x) * 2, (draw(3, 4),))


def test_many_kinds_of_call_are_counted() -> None:
    apply = function(torch.sin, lambda ctx, x, g: g * x.cos())
    report = check_gradients(lambda x: sum(apply(x[:n]).sum() for n in range(1, 8)), (draw(8),))
    assert report.counts["functions"] == 4
    assert [note for note in report.notes if "3 further kinds of call of Made" in note]


@pytest.mark.parametrize(("shape", "stride"), [((1,), (5,)), ((3, 1), (1, 7)), ((), ()), ((2, 3), (1, 2))])
def test_bits_are_compared_at_any_stride(shape: tuple[int, ...], stride: tuple[int, ...]) -> None:
    a = torch.arange(16, dtype=torch.float64).as_strided(shape, stride)
    assert same_bits(a, TensorValue(a.clone()))
    assert not same_bits(a, TensorValue(a + 1))

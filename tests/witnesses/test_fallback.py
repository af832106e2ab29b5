"""What is said about nodes that no meaning explains: by decomposition, numerically, or not at all; never wrongly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gradcheck_suite import check_gradients, watch
from gradcheck_suite.aten import load, registry
from gradcheck_suite.capture.values import TensorValue
from gradcheck_suite.evidence import NodeRecord, NodeVerdict, Outcome
from gradcheck_suite.witnesses.engine import check_node
from gradcheck_suite.witnesses.fallback import fallback_for
from gradcheck_suite.witnesses.torch_reverse import ReverseRun, record_reverse


def record(function: Callable[..., Any], *args: Tensor) -> ReverseRun:
    return record_reverse(
        function, args, {}, named_leaves={f"x{i}": a for i, a in enumerate(args) if a.requires_grad}
    )


def node_named(run: ReverseRun, part: str) -> NodeRecord:
    return next(
        n for k, n in run.trace.nodes.items() if k > 0 and part in (n.function.name if n.function else n.name)
    )


def verdict_of(run: ReverseRun, node: NodeRecord) -> NodeVerdict:
    return check_node(node, run.probe, fallback=fallback_for(run.recorder, run.autograd_nodes))[0]


def spoiled(node: NodeRecord, factor: float = 1.001) -> NodeRecord:
    """The same node as if its backward had returned something else."""
    gradients = tuple(None if g is None else TensorValue(g.tensor * factor) for g in node.gradients)  # type: ignore[attr-defined]
    return replace(node, gradients=gradients)


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Takes meanings away, as if nobody had written them."""
    load()

    def remove(*names: str) -> None:
        for name in names:
            monkeypatch.delitem(registry._MEANINGS, name, raising=False)

    return remove


def leaf(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 11) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()


# -- decomposition -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("name", "call", "part"),
    [
        ("aten::gelu", F.gelu, "Gelu"),
        ("aten::native_layer_norm", lambda x: F.layer_norm(x, (6,)), "LayerNorm"),
        ("aten::mish", F.mish, "Mish"),
        ("aten::hardswish", lambda x: F.hardswish(x * 1, inplace=True), "Hardswish"),
        ("aten::elu", lambda x: [y := x * 1, F.elu_(y[:, :3]), y][2], "CopySlices"),
    ],
)
def test_an_operation_is_differentiated_through_its_decomposition(
    without: Callable[..., None], dtype: torch.dtype, name: str, call: Callable[[Tensor], Tensor], part: str
) -> None:
    without(name, f"{name}_")
    run = record(call, leaf(4, 6, dtype=dtype))
    node = node_named(run, part)
    verdict = verdict_of(run, node)
    assert (verdict.outcome, verdict.how) == (Outcome.AGREE, "decomposition")
    assert verdict_of(run, spoiled(node)).outcome is Outcome.DISAGREE


def test_a_decomposition_that_needs_an_unknown_operation_is_not_used(without: Callable[..., None]) -> None:
    without("aten::special_i0e")
    run = record(torch.special.i0e, leaf(3, 3))
    assert verdict_of(run, node_named(run, "I0E")).how == "numerical"


def test_saved_results_forbid_partial_derivatives(without: Callable[..., None]) -> None:
    without("aten::native_layer_norm_backward")

    def penalty(x: Tensor) -> Tensor:
        (slope,) = torch.autograd.grad(F.layer_norm(x, (6,)).square().sum(), x, create_graph=True)
        return slope.square().sum()

    run = record(penalty, leaf(4, 6))
    verdict = verdict_of(run, node_named(run, "NativeLayerNormBackwardBackward"))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "saved results" in verdict.testimonies[0].reason


def test_what_torch_leaves_open_is_left_open() -> None:
    indices = torch.tensor([[[0, 0, 2]]])
    run = record(lambda x: F.max_unpool1d(x, indices, 2), leaf(1, 1, 3))
    verdict = verdict_of(run, node_named(run, "Unpool"))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "leaves open" in verdict.testimonies[0].reason


# -- numerically: operations -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 4), (20, 30)], ids=["few elements", "many elements"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_an_operation_is_differentiated_numerically(
    without: Callable[..., None], dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    without("aten::special_i0e")
    run = record(torch.special.i0e, leaf(*shape, dtype=dtype))
    node = node_named(run, "I0E")
    verdict = verdict_of(run, node)
    assert (verdict.outcome, verdict.how) == (Outcome.AGREE, "numerical")
    assert verdict_of(run, spoiled(node, 1.01)).outcome is Outcome.DISAGREE


def test_a_hermitian_input_is_moved_within_the_hermitian_matrices(without: Callable[..., None]) -> None:
    without("aten::linalg_cholesky_ex")
    run = record(lambda x: torch.linalg.cholesky(x @ x.mT + 3 * torch.eye(5, dtype=x.dtype)), leaf(5, 5))
    node = node_named(run, "Cholesky")
    assert verdict_of(run, node).outcome is Outcome.AGREE
    assert verdict_of(run, spoiled(node)).outcome is Outcome.DISAGREE


def test_complex_inputs(without: Callable[..., None]) -> None:
    without("aten::tanh", "aten::sigmoid")
    z = torch.randn(3, 2, dtype=torch.complex128, generator=torch.Generator().manual_seed(0)).requires_grad_()
    run = record(torch.sigmoid, z)
    node = node_named(run, "Sigmoid")
    assert verdict_of(run, node).outcome is Outcome.AGREE
    assert verdict_of(run, spoiled(node)).outcome is Outcome.DISAGREE


# -- numerically: custom Functions -------------------------------------------------------------------------------


class ScaledSine(torch.autograd.Function):
    """NumPy, with an argument that is no tensor; ``wrong`` multiplies the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float, wrong: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.factor = scale * wrong
        return torch.from_numpy(np.sin(x.detach().numpy()) * scale)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return g * ctx.factor * ctx.saved_tensors[0].cos(), None, None


class Unseen(torch.autograd.Function):
    """No operation at all runs in its forward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.from_numpy(np.exp(x.numpy()))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * ctx.saved_tensors[0].exp()


class ThroughANumber(torch.autograd.Function):
    """A value goes around the recorded operations as a Python number."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, honest: bool) -> Tensor:
        ctx.save_for_backward(x)
        ctx.honest = honest
        return x * x.sum().item()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        through = (g * x).sum() if ctx.honest else 0.0
        return g * x.sum() + through, None


class InFloat32(torch.autograd.Function):
    """float64 in and out, float32 in between."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.from_numpy(np.sin(x.detach().numpy().astype(np.float32)).astype(np.float64))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * ctx.saved_tensors[0].cos()


class Hinge(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.from_numpy(np.maximum(x.detach().numpy(), 0.0))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * (ctx.saved_tensors[0] > 0)


class Noisy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.from_numpy(x.detach().numpy() + np.random.default_rng().normal(size=tuple(x.shape)))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g


class WithAnObject(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, settings: dict[str, float]) -> Tensor:
        ctx.scale = settings["scale"]
        return torch.from_numpy(x.detach().numpy() * ctx.scale)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return g * ctx.scale, None


@pytest.mark.parametrize("shape", [(5,), (20, 30)], ids=["few elements", "many elements"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    "call",
    [lambda x: ScaledSine.apply(x, 2.0, 1.0), Unseen.apply, lambda x: ThroughANumber.apply(x, True)],
    ids=["NumPy", "unseen", "number"],
)
def test_an_opaque_forward_is_differentiated_numerically(
    call: Callable[[Tensor], Tensor], dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    run = record(call, leaf(*shape, dtype=dtype))
    (node,) = [n for k, n in run.trace.nodes.items() if k > 0]
    verdict = verdict_of(run, node)
    assert (verdict.outcome, verdict.how) == (Outcome.AGREE, "numerical")


@pytest.mark.parametrize("shape", [(5,), (20, 30)], ids=["few elements", "many elements"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    "call",
    [
        lambda x: ScaledSine.apply(x, 2.0, 1.01),
        lambda x: ScaledSine.apply(x, 2.0, -1.0),
        lambda x: ThroughANumber.apply(x, False),
    ],
    ids=["factor", "sign", "detached"],
)
def test_a_wrong_backward_of_an_opaque_forward_is_found(
    call: Callable[[Tensor], Tensor], dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    run = record(call, leaf(*shape, dtype=dtype))
    (node,) = [n for k, n in run.trace.nodes.items() if k > 0]
    assert verdict_of(run, node).outcome is Outcome.DISAGREE


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("shape", [(6,), (15, 10)])
def test_float32_inside_a_float64_function_is_no_reason_to_accuse(seed: int, shape: tuple[int, ...]) -> None:
    run = record(InFloat32.apply, leaf(*shape, seed=seed))
    (node,) = [n for k, n in run.trace.nodes.items() if k > 0]
    assert verdict_of(run, node).outcome is not Outcome.DISAGREE
    # A wrong gradient is found, or left open with the kink; it never passes.
    assert verdict_of(run, spoiled(node, 1.5)).outcome is not Outcome.AGREE


def test_a_kink_is_left_open() -> None:
    x = torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64, requires_grad=True)
    run = record(Hinge.apply, x)
    (node,) = [n for k, n in run.trace.nodes.items() if k > 0]
    assert verdict_of(run, node).outcome is Outcome.INCONCLUSIVE
    # A wrong gradient is found, or left open with the kink; it never passes.
    assert verdict_of(run, spoiled(node, 1.5)).outcome is not Outcome.AGREE


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (Noisy.apply, "twice gives two results"),
        (lambda x: WithAnObject.apply(x, {"scale": 2.0}), "are not known"),
    ],
)
def test_what_cannot_be_run_again_is_inconclusive(call: Callable[[Tensor], Tensor], reason: str) -> None:
    run = record(call, leaf(4))
    (node,) = [n for k, n in run.trace.nodes.items() if k > 0]
    verdict = verdict_of(run, node)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert reason in verdict.testimonies[0].reason


def test_running_again_changes_nothing() -> None:
    x = leaf(4)
    before = x.detach().clone()
    run = record(lambda x: ScaledSine.apply(x, 2.0, 1.0), x)
    (node,) = [n for k, n in run.trace.nodes.items() if k > 0]
    state = torch.get_rng_state()
    verdict_of(run, node)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(x.detach(), before)
    assert x.grad is None


# -- where it is used ----------------------------------------------------------------------------------------------


def forward(x: Tensor) -> Tensor:
    return ScaledSine.apply(F.gelu(x), 2.0, 1.0)  # type: ignore[no-any-return]


def counts(report: Any) -> Sequence[int]:
    return [report.counts.get(f"nodes_{how}", 0) for how in ("decomposition", "numerical")]


def test_check_gradients_uses_both(without: Callable[..., None]) -> None:
    without("aten::gelu")
    report = check_gradients(forward, leaf(4, 3))
    assert report.ok
    assert counts(report) == [1, 1]


def test_watch_uses_both(without: Callable[..., None]) -> None:
    without("aten::gelu")
    with watch() as session:
        forward(leaf(4, 3)).sum().backward()
    assert session.internal_errors == []
    assert counts(session.report) == [1, 1]


def test_the_free_run_uses_the_decomposition(without: Callable[..., None]) -> None:
    without("aten::gelu")
    report = check_gradients(lambda x: F.gelu(x).square(), leaf(4, 3))
    (gradient,) = report.gradients
    assert any(t.witness == "replay" and t.outcome is Outcome.AGREE for t in gradient.testimonies)


# -- torch.library ---------------------------------------------------------------------------------------------------


def _registered(name: str, factor: float) -> Any:
    """``scale * x ** 3`` as a custom operation in NumPy; right when ``factor`` is 3."""

    @torch.library.custom_op(f"gradcheck_suite_tests::{name}", mutates_args=())
    def cube(x: Tensor, scale: float) -> Tensor:
        return torch.from_numpy(scale * x.detach().numpy() ** 3)

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.scale = inputs[1]

    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return factor * ctx.scale * cotangent * x**2, None

    cube.register_autograd(backward, setup_context=setup_context)
    return cube


def test_an_operation_of_torch_library_is_differentiated_numerically() -> None:
    report = check_gradients(lambda x: _RIGHT(x, 0.5).sin(), torch.randn(5, 3, dtype=torch.float64))
    assert report.ok, str(report)
    assert report.counts["nodes_numerical"] == 1


def test_a_wrong_backward_of_an_operation_of_torch_library_is_found_at_its_line() -> None:
    report = check_gradients(lambda x: _WRONG(x, 0.5).sin(), torch.randn(5, 3, dtype=torch.float64))
    (finding,) = report.errors
    assert finding.code == "GC101"
    assert "2/3 everywhere" in finding.hint
    assert [(r.role, r.location.file) for r in finding.related if r.location] == [("backward", __file__)]


_RIGHT, _WRONG = _registered("right_cube", 3.0), _registered("wrong_cube", 2.0)

"""The recorder: what it writes down of every operation, values as they were, custom Functions of every style."""

from __future__ import annotations

import functools
import gc
import inspect
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from gradcheck_suite import check_gradients, watch
from gradcheck_suite.capture.graph import GraphRecording
from gradcheck_suite.capture.modules import ModuleStack
from gradcheck_suite.capture.recorder import Recorder
from gradcheck_suite.evidence import OpRecord, Outcome, TensorRef
from gradcheck_suite.witnesses.engine import check_node
from gradcheck_suite.witnesses.torch_reverse import record_reverse


def draw(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(3))


def record(function: Callable[..., Any], *inputs: Tensor, modules: ModuleStack | None = None) -> Recorder:
    recorder = Recorder(modules, inputs)
    with recorder:
        recorder.result = function(*inputs)  # type: ignore[attr-defined]  # keeps the graph alive
        recorder.finish_forward()
    return recorder


def named(recorder: Recorder, name: str) -> OpRecord:
    (op,) = [op for op in recorder.ops if op.name == name]
    return op


def value(ref: Any) -> np.ndarray[Any, Any]:
    assert isinstance(ref, TensorRef)
    return ref.source.array()


# -- operations ------------------------------------------------------------------------------------------------------


def test_an_operation_with_its_arguments_results_and_place() -> None:
    x, w, b = draw(2, 3).requires_grad_(), draw(4, 3).requires_grad_(), draw(4)
    here = inspect.currentframe()
    assert here is not None
    line = here.f_lineno + 1
    recorder = record(lambda x, w, b: nn.functional.linear(x, w, b).sum(dim=1, dtype=torch.float32), x, w, b)
    addmm = named(recorder, "aten::addmm")
    np.testing.assert_array_equal(value(addmm.args[0]), b.numpy())
    np.testing.assert_allclose(value(addmm.outputs[0]), (x @ w.t() + b).detach().numpy())
    assert addmm.args[1].describe() == "float64[2, 3]"
    assert [op.index for op in recorder.ops] == list(range(len(recorder.ops)))
    total = named(recorder, "aten::sum.dim_IntList")
    assert total.args[1] == [1]
    assert total.kwargs == {"dtype": "float32"}
    assert total.location is not None
    assert (total.location.file, total.location.line) == (__file__, line)
    assert total.outputs[0].edge is not None
    assert total.args[0].edge == addmm.outputs[0].edge
    assert x.requires_grad
    assert addmm.args[1].edge[0] < 0, "the edge of a leaf"
    assert addmm.args[0].edge is None


def test_the_path_of_the_running_module() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(3, 3), nn.Tanh())

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x).exp()

    model = nn.Sequential(Block(), nn.ReLU())
    stack = ModuleStack(model)
    with stack.observing():
        recorder = record(model, draw(2, 3, dtype=torch.float32), modules=stack)
    paths = {op.name: op.module for op in recorder.ops}
    assert paths["aten::tanh"] == "0.inner.1"
    assert paths["aten::exp"] == "0"
    assert paths["aten::relu"] == "1"
    assert stack.current == ""


def test_the_path_after_a_module_raised() -> None:
    class Raising(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError("on purpose")

    raising, fine = Raising(), nn.Tanh()
    stack = ModuleStack()
    with stack.observing():
        with pytest.raises(ValueError, match="on purpose"):
            raising(draw(2))
        assert record(fine, draw(2), modules=stack).ops[0].module == "Tanh"
    hooks = torch.nn.modules.module
    assert not hooks._global_forward_pre_hooks
    assert not hooks._global_forward_hooks


def test_random_operations_are_marked() -> None:
    recorder = record(lambda x: nn.functional.dropout(x, 0.5) + torch.rand_like(x), draw(5).requires_grad_())
    assert {op.name.split(".")[0] for op in recorder.ops if op.random} >= {"aten::rand_like"}
    assert all(not op.random for op in recorder.ops if op.name.startswith(("aten::mul", "aten::add")))


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("aten::add_.Tensor", lambda y: y.add_(1)),
        ("aten::mul_.Tensor", lambda y: y[1].mul_(2)),
        ("aten::copy_", lambda y: y[:, ::2].copy_(torch.ones(3, 2))),
        ("aten::index_fill_.int_Scalar", lambda y: y.__setitem__(torch.tensor([0]), 5.0)),
        ("aten::fill_.Scalar", lambda y: y.t()[0].fill_(4)),
        ("aten::zero_", lambda y: y.view(-1)[3:].view(3, 3).diagonal().zero_()),
        ("aten::sin.out", lambda y: torch.sin(torch.ones(3, 4, dtype=y.dtype), out=y.data)),
        ("aten::add_.Tensor", lambda y: y.as_strided((2, 2), (1, 4), 5).add_(1)),
    ],
)
def test_a_write_in_place_is_seen_before_and_after(name: str, write: Callable[[Tensor], Any]) -> None:
    kept = {}

    def program(x: Tensor) -> Tensor:
        y = x * 1
        kept["before"] = y.detach().clone()
        write(y)
        kept["after"] = y.detach().clone()
        return y.sum()

    recorder = record(program, draw(3, 4))
    op = next(op for op in recorder.ops if op.name == name and op.written)
    ((before, after),) = op.written
    assert before.storage == after.storage
    assert after.epoch > before.epoch
    np.testing.assert_array_equal(
        value(before), np.lib.stride_tricks.as_strided(*_window(kept["before"], before))
    )
    np.testing.assert_array_equal(
        value(after), np.lib.stride_tricks.as_strided(*_window(kept["after"], after))
    )
    product = named(recorder, "aten::mul.Tensor")
    np.testing.assert_array_equal(value(product.outputs[0]), kept["before"].numpy())


def _window(whole: Tensor, ref: TensorRef) -> tuple[Any, Any, Any]:
    flat = whole.contiguous().numpy().reshape(-1)[ref.offset :]
    return flat, ref.shape, [s * flat.itemsize for s in ref.strides]


def test_changing_only_how_a_tensor_looks_at_memory_is_no_write() -> None:
    def program(x: Tensor) -> Tensor:
        y = x * 1
        y.transpose_(0, 1).unsqueeze_(0)
        return y

    recorder = record(program, draw(3, 4))
    ((before, after),) = named(recorder, "aten::transpose_").written
    assert (before.shape, after.shape) == ((3, 4), (4, 3))
    assert before.epoch == after.epoch


def test_views_share_memory_and_copies_do_not() -> None:
    def program(x: Tensor) -> list[Tensor]:
        return [x[1:], x.t(), x.expand(2, 3, 4), x.clone(), x * 2, x.unfold(1, 2, 1), x.detach()]

    recorder = record(program, draw(3, 4))
    by_name = {op.name: op.outputs[0].storage == op.args[0].storage for op in recorder.ops}
    assert by_name.pop("aten::clone") is False
    assert by_name.pop("aten::mul.Tensor") is False
    assert by_name
    assert all(by_name.values()), by_name


def test_memory_that_is_used_again_is_other_memory() -> None:
    def program(x: Tensor) -> Tensor:
        for _ in range(20):
            y = x * 2
            del y
        return x * 3

    recorder = record(program, draw(64))
    assert len({op.outputs[0].storage for op in recorder.ops}) == 21


# -- values as they were ---------------------------------------------------------------------------------------------


def test_values_stay_as_they_were_through_a_training_step() -> None:
    layer = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5, momentum=0.9)
    start = layer.weight.detach().clone()
    x = draw(4, 3, dtype=torch.float32)
    recorder = Recorder(None, list(layer.parameters()))
    with recorder:
        loss = layer(x).square().sum()
        recorder.finish_forward()
        with recorder.backward_phase():
            loss.backward()
        optimizer.step()
        layer.weight.data.zero_()
    weight = next(op for op in recorder.ops if op.name == "aten::t").args[0]
    np.testing.assert_array_equal(value(weight), start.numpy())
    assert not layer.weight.any()


def test_a_write_during_the_backward_is_noted_with_its_line() -> None:
    class Rude(Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x.sin()

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            gradient = g * x.cos()
            x.mul_(0)
            return gradient

    x = draw(3).requires_grad_()
    before = x.detach().clone()
    recorder = Recorder(None, [x])
    with recorder:
        y = Rude.apply(x * 1)
        recorder.finish_forward()
        graph = GraphRecording(recorder, [y])
        with graph.observing():
            y.sum().backward()
    assert [w.op for w in recorder.backward_writes] == ["aten::mul_.Tensor"] * len(recorder.backward_writes)
    assert recorder.backward_writes
    location = recorder.backward_writes[0].location
    assert location is not None
    assert location.function == "backward"
    sine = named(recorder, "aten::sin")
    np.testing.assert_array_equal(value(sine.args[0]), before.numpy())


# -- custom Functions ------------------------------------------------------------------------------------------------


class Old(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, k: int = 2) -> Tensor:
        ctx.save_for_backward(x)
        ctx.k = k
        return x**k

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return g * ctx.k * x ** (ctx.k - 1), None


class New(Function):
    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        return x.sin(), x.detach().round()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, g: Tensor, _: Any) -> Tensor:
        (x,) = ctx.saved_tensors
        return g * x.cos()


class Dirty(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        return x.mul_(3)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * 3


class Identity(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * 1


class Product(Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return a * b

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        a, b = ctx.saved_tensors
        return g * b, g * a


class Nested(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return Old.apply(x, 3) + Identity.apply(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return g * (3 * x**2 + 1)


def counted(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


class Decorated(Function):
    @staticmethod
    @counted
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 4

    @staticmethod
    @counted
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * 4


class WithGradient(Function):
    """Computes its gradient in its forward, with grad mode on."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        with torch.enable_grad():
            inner = x.detach().requires_grad_()
            y = inner.sin() * inner
            (gradient,) = torch.autograd.grad(y.sum(), inner)
        ctx.save_for_backward(gradient)
        return y.detach()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (gradient,) = ctx.saved_tensors
        return g * gradient


class Optional(Function):
    """Returns None where its cotangent is not needed."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(b)
        return a * b

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (b,) = ctx.saved_tensors
        return g * b if ctx.needs_input_grad[0] else None, None


class Local(Function):
    apply_alias = None

    @classmethod
    def call(cls, x: Tensor) -> Tensor:
        return cls.apply(x)

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone().mul_(2).add_(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 3 * g


bound = Old.apply

FUNCTIONS: dict[str, tuple[str, Callable[[Tensor], Any]]] = {
    "old style": ("Old", lambda x: Old.apply(x, 3)),
    "a default argument": ("Old", lambda x: Old.apply(x)),
    "a bound apply": ("Old", lambda x: bound(x * 1, 3)),
    "setup_context": ("New", lambda x: New.apply(x)),
    "mark_dirty": ("Dirty", lambda x: Dirty.apply(x * 1)),
    "identity": ("Identity", lambda x: Identity.apply(x * 1) * 2),
    "one tensor twice": ("Product", lambda x: Product.apply(x, x)),
    "nested": ("Nested", lambda x: Nested.apply(x)),
    "decorated": ("Decorated", lambda x: Decorated.apply(x)),
    "gradient in the forward": ("WithGradient", lambda x: WithGradient.apply(x)),
    "None where nothing is owed": ("Optional", lambda x: Optional.apply(x, x.detach() + 1)),
    "called by a class method, writes inside": ("Local", lambda x: Local.call(x)),
    "twice in a row": ("Decorated", lambda x: Decorated.apply(Decorated.apply(x))),
    "called with no user operation in between": ("Identity", lambda x: Identity.apply(Identity.apply(x))),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_custom_function_is_one_node_with_its_operations(name: str) -> None:
    function_name, function = FUNCTIONS[name]
    x = draw(4).requires_grad_()
    run = record_reverse(function, (x,), {}, named_leaves={"x": x})
    nodes = [n for n in run.trace.nodes.values() if n.role == "function"]
    assert {n.function.name for n in nodes if n.function is not None} == {function_name}
    for node in nodes:
        assert node.location is not None
        assert node.location.file == __file__
        assert node.function is not None
        assert node.function.backward is not None
        assert node.function.backward.file == __file__
        verdict, _ = check_node(node, run.probe)
        assert verdict.outcome is Outcome.AGREE or name == "gradient in the forward", verdict
        assert verdict.outcome is not Outcome.DISAGREE, verdict


def test_a_function_without_a_node_is_made_of_ordinary_operations() -> None:
    def program(x: Tensor) -> Tensor:
        with torch.no_grad():
            y = Old.apply(x, 2)
        return y * x

    recorder = record(program, draw(3).requires_grad_())
    assert all(op.function is None for op in recorder.ops)
    assert all(op.function is None for op in record(lambda x: Old.apply(x, 2), draw(3)).ops)


# -- nothing stays behind --------------------------------------------------------------------------------------------


def test_recording_works_again_after_an_exception_halfway() -> None:
    class Halfway(Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            x * 2
            raise KeyboardInterrupt

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return g

    x = draw(3).requires_grad_()
    recorder = Recorder(None, [x])
    with pytest.raises(KeyboardInterrupt), recorder:
        Halfway.apply(x)
    assert not _get_current_dispatch_mode_stack()
    with recorder:
        y = Old.apply(x, 2) * x
        recorder.finish_forward()
    assert y.grad_fn is not None
    assert recorder.origin_of(y.grad_fn) is not None
    assert record(lambda x: Old.apply(x, 2), x).ops[-1].function is not None


def test_nothing_stays_behind() -> None:
    layer = nn.Linear(3, 2)
    x = draw(4, 3, dtype=torch.float32)
    memory = x.untyped_storage()
    assert memory.resizable()
    run = record_reverse(layer, (x,), {}, named_leaves=dict(layer.named_parameters()), modules=[layer])
    assert memory.resizable()
    assert layer.weight.grad is None
    assert not layer.weight._backward_hooks
    assert not _get_current_dispatch_mode_stack()
    assert "gradcheck" not in torch.autograd.graph._engine_run_backward.__module__
    watched = weakref.ref(run.outputs[0][1])
    del run
    gc.collect()
    assert watched() is None, "the graph is kept alive"


def test_a_graph_dies_with_its_outputs_while_the_recorder_lives() -> None:
    class Sine(Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.marker = kept[0]
            return x.sin()

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return g

    class Marker:
        pass

    kept = [Marker()]
    alive = weakref.ref(kept[0])
    recorder = Recorder(keep_operations=False)
    x = draw(50).requires_grad_()
    with recorder:
        y = Sine.apply(x * 2) * 3
        recorder.finish_forward()
        kept.clear()
        del y
        gc.collect()
        assert alive() is None


def test_another_thread_is_not_recorded_and_not_disturbed() -> None:
    results: list[Tensor] = []
    x = draw(3).requires_grad_()
    recorder = Recorder(None, [x])
    with recorder:
        thread = threading.Thread(target=lambda: results.append(draw(3).requires_grad_().sin().sum()))
        thread.start()
        thread.join()
        y = x.cos()
        recorder.finish_forward()
    assert [op.name for op in recorder.ops] == ["aten::cos"]
    results[0].backward()
    assert y.requires_grad


def test_operations_on_the_meta_device_are_passed_over() -> None:
    """Forward mode asks torch's reference implementations for shapes, on the meta device."""
    x = torch.randn(3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    report = check_gradients(
        lambda x: torch.func.jvp(lambda t: (t * x.detach()).sin(), (x,), (torch.ones_like(x),))[1], x
    )
    assert report.ok, str(report)
    with Recorder() as recorder:
        shape = (torch.empty(2, 3, device="meta") @ torch.empty(3, 4, device="meta")).shape
    assert shape == (2, 4)
    assert all(
        not ref.device.startswith("meta") for op in recorder.ops for ref in op.outputs if ref is not None
    )


def test_a_view_from_under_no_grad_whose_base_was_written_blinds_no_session() -> None:
    layer = torch.nn.Conv2d(2, 3, 3)
    with watch() as session:
        torch.nn.init.orthogonal_(layer.weight)
        layer(torch.ones(1, 2, 4, 4)).square().sum().backward()
    assert not session.internal_errors, session.internal_errors[0]
    assert session.report.counts["nodes"] > 0

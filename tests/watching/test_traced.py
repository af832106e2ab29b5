"""What TorchScript runs or a graph is made of ends as it does without a session, and is listed as not verified."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack

from gradcheck_suite import watch
from gradcheck_suite.watching.traced import without_recorders

pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning"
)


class Scaled(nn.Module):
    """Holds a number that a trace keeps as a constant, and writes running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows, columns = x.shape
        y = self.norm(self.linear(x).tanh()) * torch.tensor(0.5)
        return y.reshape(rows * columns // columns, columns) * torch.tensor(2.0)


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))


def _gradients(*modules: nn.Module) -> list[Any]:
    return [None if p.grad is None else p.grad.clone() for m in modules for p in m.parameters()]


def trains_a_traced_module() -> list[Any]:
    torch.manual_seed(0)
    model, x = Scaled(), torch.randn(4, 3)
    traced = torch.jit.trace(model, x)
    head = torch.jit.script(_model())
    optimizer = torch.optim.SGD([*model.parameters(), *head.parameters()], lr=0.1)
    seen: list[Any] = [str(traced.graph), traced.code]
    for _ in range(4):
        optimizer.zero_grad()
        # A leaf is used through the traced module and beside it.
        loss = head(traced(x).sigmoid() * 2).pow(2).mean() + model.linear.weight.sum()
        loss.backward()
        seen.append(_gradients(model, head))
        optimizer.step()
    return [*seen, *model.state_dict().values()]


def calls_a_traced_function() -> list[Any]:
    double = torch.jit.trace(lambda x: x * torch.tensor(2.0) * x.shape[0], torch.ones(3))
    x = torch.ones(3, requires_grad=True)
    seen = []
    for _ in range(3):
        double(x).sin().sum().backward()
        assert x.grad is not None
        seen.append(x.grad.clone())
    return seen


def overwrites_what_was_saved() -> list[Any]:
    double = torch.jit.trace(lambda x: x.mul_(torch.tensor(2.0)), torch.ones(3), check_trace=False)
    x = torch.ones(3, requires_grad=True)
    y = x.exp()
    with pytest.raises(RuntimeError, match="modified by an inplace operation") as caught:
        double(y).sum().backward()
    return [str(caught.value)]


def overwrites_what_nobody_saved() -> list[Any]:
    """The engine needs what sigmoid was given; torch has saved what it returned."""
    double = torch.jit.trace(lambda x: x.mul_(torch.tensor(2.0)), torch.ones(3), check_trace=False)
    x = torch.linspace(-1, 1, 3).requires_grad_()
    y = x * 1
    z = y.sigmoid()
    with torch.no_grad():
        double(y.detach())
    z.sum().backward()
    return [x.grad]


def traces_inside_a_function() -> list[Any]:
    square = torch.jit.trace(lambda x: x * torch.tensor(2.0) * x, torch.ones(3), check_trace=False)

    class Shifted(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x)
            y: torch.Tensor = square(x) + 1
            return y

        @staticmethod
        def backward(ctx: Any, cotangent: torch.Tensor) -> torch.Tensor:
            (x,) = ctx.saved_tensors
            return cotangent * 4 * x

    x = torch.arange(3.0, requires_grad=True)
    Shifted.apply(x * 1).sum().backward()
    return [x.grad]


def freezes() -> list[Any]:
    model = torch.jit.script(_model().eval())
    x = torch.ones(2, 3)
    return [torch.jit.freeze(model)(x), torch.jit.optimize_for_inference(model)(x)]


def raises() -> list[Any]:
    product = torch.jit.trace(lambda x: x.reshape(3, 2) @ x, torch.ones(2, 3), check_trace=False)
    with pytest.raises(RuntimeError) as caught:
        product(torch.ones(5, 3))
    return [type(caught.value), str(caught.value).splitlines()[-1]]


def makes_a_graph() -> list[Any]:
    from torch.fx.experimental.proxy_tensor import make_fx

    model = _model()
    made = make_fx(lambda x: torch.func.grad(lambda x: model(x).pow(2).sum())(x))(torch.ones(2, 3))
    return [made.code, made(torch.ones(2, 3))]


def exports(strict: bool = False) -> list[Any]:
    model, x = _model(), torch.ones(2, 3)
    program = torch.export.export(model, (x,), strict=strict)
    y = program.module()(x)
    y.sum().backward()
    return [str(program.graph), y, _gradients(model)]


def exports_strictly() -> list[Any]:
    return exports(strict=True)


def compiles_ahead_of_time() -> list[Any]:
    from functorch.compile import aot_module, nop

    model = _model()
    aot_module(model, fw_compiler=nop, bw_compiler=nop)(torch.ones(2, 3)).sum().backward()
    return _gradients(model)


def branches() -> list[Any]:
    x = torch.ones(3, requires_grad=True)
    y = torch.cond(x.sum() > 0, lambda x: x.sin(), lambda x: x.cos(), (x,))
    y.sum().backward()
    return [y, x.grad]


def takes_many_cotangents() -> list[Any]:
    x = torch.ones(3)
    return [torch.autograd.functional.jacobian(torch.sin, x, vectorize=True)]


def runs_without_data() -> list[Any]:
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode():
        model = nn.Linear(3, 4)
        model(torch.ones(2, 3)).sum().backward()
        assert model.weight.grad is not None
        return [model.weight.grad.shape]


PROGRAMS = (
    trains_a_traced_module,
    calls_a_traced_function,
    overwrites_what_was_saved,
    overwrites_what_nobody_saved,
    traces_inside_a_function,
    freezes,
    raises,
    makes_a_graph,
    exports,
    exports_strictly,
    compiles_ahead_of_time,
    branches,
    takes_many_cotangents,
    runs_without_data,
)


def _comparable(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return str(value.dtype), value.detach().tolist()
    if isinstance(value, str):
        return re.sub(r"___torch_mangle_\d+\.|\s*#.*", "", value)
    return [_comparable(v) for v in value] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_it_ends_as_it_does_without_a_session(program: Callable[[], list[Any]]) -> None:
    plain = _comparable(program())
    with watch() as session:
        watched = _comparable(program())
    assert watched == plain
    assert session.internal_errors == []
    errors = [finding.code for finding in session.report.findings if finding.severity.label != "note"]
    assert errors == (["GC201"] if program is overwrites_what_was_saved else [])
    assert not _get_current_dispatch_mode_stack()


def _of_torchscript(session: Any) -> list[str]:
    return [u.subject for u in session.report.unverified if u.reason == "run by TorchScript"]


def test_what_torchscript_ran_is_listed_and_what_is_around_it_verified() -> None:
    with watch() as session:
        trains_a_traced_module()
    assert sorted(_of_torchscript(session)) == ["Scaled.forward", "Sequential.forward"]
    report = session.report
    assert report.counts["backwards"] == 4
    assert report.counts["nodes_meaning"] > 5
    # Some path to each leaf leads through TorchScript.
    assert {g.outcome.value for g in report.gradients} == {"inconclusive"}


def test_a_function_whose_forward_ran_a_trace_is_not_accused_and_not_verified() -> None:
    with watch() as session:
        traces_inside_a_function()
    assert _of_torchscript(session) == ["a part of Shifted"]


def test_a_scripted_part_of_a_forward_is_seen_where_nothing_forbids_it() -> None:
    @torch.jit.script
    def cube(x: torch.Tensor) -> torch.Tensor:
        return x * x * x

    class Cube(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x)
            y: torch.Tensor = cube(x)
            return y

        @staticmethod
        def backward(ctx: Any, cotangent: torch.Tensor) -> torch.Tensor:
            (x,) = ctx.saved_tensors
            return cotangent * 2 * x**2  # 3 is right

    with watch() as session:
        x = torch.arange(1.0, 4.0, requires_grad=True)
        for _ in range(3):
            Cube.apply(x).sum().backward()
    assert [f.code for f in session.report.errors] == ["GC101"]
    assert _of_torchscript(session) == []


def test_contributions_to_a_leaf_behind_a_traced_module_are_counted() -> None:
    with watch() as session:
        torch.manual_seed(0)
        model, x = Scaled(), torch.randn(4, 3)
        traced = torch.jit.trace(model, x)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(3):
            traced(x).pow(2).mean().backward()
            optimizer.step()
    assert [f.code for f in session.report.errors] == ["GC301"]


def test_recorders_come_back_below_what_was_entered_meanwhile() -> None:
    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return func(*args, **(kwargs or {}))

    earlier, later = Mode(), Mode()
    with earlier, watch() as outer, watch() as inner:
        with without_recorders():
            assert _get_current_dispatch_mode_stack() == [earlier]
            later.__enter__()
        recorders = [outer._recorder, inner._recorder]
        assert _get_current_dispatch_mode_stack() == [earlier, *recorders, later]
        later.__exit__(None, None, None)
    assert not _get_current_dispatch_mode_stack()


def test_doors_are_gone_afterwards() -> None:
    before = torch._C.ScriptFunction.__call__, torch._C.ScriptMethod.__call__, torch.cond
    with watch():
        assert torch._C.ScriptMethod.__call__ is not before[1]
    assert (torch._C.ScriptFunction.__call__, torch._C.ScriptMethod.__call__, torch.cond) == before

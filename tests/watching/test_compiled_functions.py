"""What ``torch.compile`` has compiled runs in a session as it does without one, and is listed as not seen."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch._dynamo
from torch import Tensor, nn
from torch._dynamo import eval_frame
from torch._dynamo.utils import counters
from torch.utils import _python_dispatch
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack

from gradcheck_suite import Report, watch
from gradcheck_suite.watching.traced import without_recorders

pytestmark = pytest.mark.slow

Loop = Callable[[str], list[Tensor]]
CALL = "a call of a compiled function"


@pytest.fixture(autouse=True)
def nothing_compiled() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.LayerNorm(16), nn.Linear(16, 3))


def _train(
    model: nn.Module, loss_of: Callable[[Tensor], Tensor], step: Callable[..., Any] | None = None
) -> Any:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    step = optimizer.step if step is None else step
    torch.manual_seed(1)
    seen = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = loss_of(torch.randn(4, 8))
        loss.backward()
        step()
        seen.append(loss.detach())
    return [*seen, *(p.detach().clone() for p in model.parameters())]


def a_module(backend: str) -> list[Tensor]:
    model = torch.compile(network(), backend=backend)
    return _train(model, lambda x: model(x).square().mean())  # type: ignore[no-any-return]


class Perceptron(nn.Module):
    """A user's own module: dynamo keeps the way in which it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(self.first(x).tanh())
        return out


def a_module_of_ones_own(backend: str) -> list[Tensor]:
    torch.manual_seed(0)
    model = torch.compile(Perceptron(), backend=backend, fullgraph=True)
    return _train(model, lambda x: model(x).square().mean())  # type: ignore[no-any-return]


def a_bound_call(backend: str) -> list[Tensor]:
    torch.manual_seed(0)
    model = Perceptron()
    call = torch.compile(model.__call__, backend=backend, fullgraph=True)
    return _train(model, lambda x: call(x).square().mean())  # type: ignore[no-any-return]


def a_decorated_forward(backend: str) -> list[Tensor]:
    class Decorated(Perceptron):
        @torch.compile(backend=backend, fullgraph=True)
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)

    torch.manual_seed(0)
    model = Decorated()
    return _train(model, lambda x: model(x).square().mean())  # type: ignore[no-any-return]


def shapes_that_change(backend: str) -> list[Tensor]:
    torch.manual_seed(0)
    model = Perceptron()
    compiled = torch.compile(model, backend=backend, fullgraph=True, dynamic=True)
    seen = []
    for rows in (2, 5, 3, 7):
        compiled(torch.randn(rows, 8)).square().mean().backward()
        assert model.first.weight.grad is not None
        seen.append(model.first.weight.grad.clone())
        model.zero_grad()
    return seen


def a_module_in_place(backend: str) -> list[Tensor]:
    model = network()
    model.compile(backend=backend)
    return _train(model, lambda x: model(x).square().mean())  # type: ignore[no-any-return]


def a_function(backend: str) -> list[Tensor]:
    model = network()
    loss_of = torch.compile(lambda x: model(x).square().mean(), backend=backend, fullgraph=True)
    return _train(model, loss_of)  # type: ignore[no-any-return]


def a_function_with_breaks(backend: str) -> list[Tensor]:
    model = network()

    def loss_of(x: Tensor) -> Tensor:
        hidden = model[1](model[0](x))
        torch._dynamo.graph_break()
        out: Tensor = model[3](model[2](hidden)).square().mean()
        return out

    return _train(model, torch.compile(loss_of, backend=backend))  # type: ignore[no-any-return]


def a_step(backend: str) -> list[Tensor]:
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    step = torch.compile(lambda: optimizer.step(), backend=backend)
    return _train(model, lambda x: model(x).square().mean(), step)  # type: ignore[no-any-return]


def an_update_by_hand(backend: str) -> list[Tensor]:
    model = network()

    @torch.compile(backend=backend)
    def update() -> None:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.1 * parameter.grad
                parameter.grad.zero_()  # type: ignore[union-attr]

    torch.manual_seed(1)
    seen = []
    for _ in range(5):
        loss = model(torch.randn(4, 8)).square().mean()
        loss.backward()
        update()
        seen.append(loss.detach())
    return seen


def a_whole_step(backend: str) -> list[Tensor]:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    @torch.compile(backend=backend)
    def train(x: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = model(x).square().mean()
        loss.backward()
        optimizer.step()
        return loss.detach()

    torch.manual_seed(1)
    return [train(torch.randn(4, 8)) for _ in range(4)]


def an_evaluation(backend: str) -> list[Tensor]:
    model = network()
    evaluated = torch.compile(model, backend=backend)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.manual_seed(1)
    seen = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = model(torch.randn(4, 8)).square().mean()
        loss.backward()
        optimizer.step()
        model.eval()
        with torch.no_grad():
            seen += [loss.detach(), evaluated(torch.randn(4, 8))]
        model.train()
    return seen


def inside_a_function(backend: str) -> list[Tensor]:
    squared = torch.compile(lambda x: x * x, backend=backend)

    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            out: Tensor = squared(x)
            return out

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            return 2 * x * g

    x = torch.arange(3.0, requires_grad=True)
    for _ in range(3):
        Square.apply(x * 1).sum().backward()
    assert x.grad is not None
    return [x.grad]


LOOPS: list[Loop] = [
    a_module,
    a_module_of_ones_own,
    a_bound_call,
    a_decorated_forward,
    shapes_that_change,
    a_module_in_place,
    a_function,
    a_function_with_breaks,
    a_step,
    an_update_by_hand,
    a_whole_step,
    an_evaluation,
    inside_a_function,
]


def state() -> tuple[Any, ...]:
    return (
        torch.nn.Module.__call__,
        eval_frame._stance,
        vars(eval_frame._TorchDynamoContext).get("enter_exit_hooks"),
        list(_get_current_dispatch_mode_stack()),
        _python_dispatch._is_in_torch_dispatch_mode,
        torch._C._dispatch_tls_local_include_set(),
    )


def both(loop: Loop, backend: str) -> tuple[list[Tensor], list[Tensor], Report]:
    plain = loop(backend)
    graphs = dict(counters["stats"])
    torch.compiler.reset()
    counters.clear()
    before = state()
    with watch(verify=True) as session:
        watched = loop(backend)
    assert state()[:-1] == before[:-1]
    assert str(state()[-1]) == str(before[-1])
    assert not session.internal_errors
    # A custom Function is verified by running its forward again, also in double precision.
    if loop is not inside_a_function:
        assert dict(counters["stats"]) == graphs, "what is compiled unwatched is compiled watched"
    return plain, watched, session.report


@pytest.fixture(autouse=True)
def counted_anew() -> Iterator[None]:
    counters.clear()
    yield
    counters.clear()


BACKENDS = ["eager", "aot_eager"] + ["inductor"] * (shutil.which("g++") is not None)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.__name__)
def test_it_runs_to_the_same_bits_and_is_said(loop: Loop, backend: str) -> None:
    plain, watched, report = both(loop, backend)
    assert len(plain) == len(watched) > 0
    assert all(torch.equal(a, b) for a, b in zip(plain, watched))
    assert not [f for f in report.findings if f.code != "GC190"], str(report)
    assert CALL in {u.subject for u in report.unverified}


def test_what_runs_around_it_is_seen_as_ever() -> None:
    """The loss is computed outside of the compiled model, and its backward is wrong."""

    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x * 2

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return g * 3

    model = torch.compile(network(), backend="aot_eager")
    with watch(verify=True) as session:
        for _ in range(2):
            Wrong.apply(model(torch.randn(4, 8))).square().mean().backward()
    assert "GC101" in {f.code for f in session.report.findings}
    subjects = {u.subject for u in session.report.unverified}
    assert subjects == {CALL, "a compiled function"}


def test_hazards_around_it_are_found() -> None:
    model = torch.compile(network(), backend="aot_eager")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with watch(verify=False) as session:
        for _ in range(4):
            model(torch.randn(4, 8)).square().mean().backward()
            optimizer.step()  # nobody zeroes
    assert [f.code for f in session.report.findings if f.code != "GC190"] == ["GC301"]


def test_an_exception_inside_is_raised_as_it_is() -> None:
    @torch.compile(backend="aot_eager")
    def refuses(x: Tensor) -> Tensor:
        if x.shape[0] == 3:
            raise KeyError("three")
        return x * 2

    scale = torch.ones(1, requires_grad=True)
    with watch(verify=True) as session:
        refuses(torch.ones(2) * scale).sum().backward()
        with pytest.raises(KeyError, match="three"):
            refuses(torch.ones(3) * scale)
        (torch.ones(4) * scale).sum().backward()
    assert not session.internal_errors
    assert session.report.counts["nodes"] > 0


def test_an_error_of_dynamo_s_own_is_raised_and_what_follows_is_counted() -> None:
    """Dynamo then forgets to call what is to be called at the end."""

    def nothing() -> int:
        return 1

    unwatched = None
    try:
        torch.compile(nothing, fullgraph=True, backend="eager")()
    except RuntimeError as error:
        unwatched = type(error)
    torch.compiler.reset()
    before = state()
    with watch(verify=True) as session:
        compiled = torch.compile(nothing, fullgraph=True, backend="eager")
        if unwatched is None:
            assert compiled() == 1
        else:
            with pytest.raises(unwatched):
                compiled()
    assert state()[:-1] == before[:-1]
    assert not session.internal_errors
    subjects = {u.subject for u in session.report.unverified}
    assert CALL in subjects
    if unwatched is not None:
        assert "everything after a compiled function" in subjects


class Passing(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def test_under_a_mode_of_the_program_s_nothing_is_compiled_as_without_a_session() -> None:
    compiled = torch.compile(lambda x: (x * x).sum(), backend="aot_eager")
    x = torch.arange(3.0, requires_grad=True)
    with Passing(), watch(verify=True) as session:  # type: ignore[no-untyped-call]
        compiled(x).backward()
    assert not session.internal_errors
    assert x.grad is not None
    assert torch.equal(x.grad, 2 * x.detach())


def test_nested_sessions_step_aside_together() -> None:
    model = torch.compile(network(), backend="aot_eager")
    with watch(verify=False) as outer, watch(verify=True) as inner:
        model(torch.randn(4, 8)).square().mean().backward()
        assert [type(m).__name__ for m in _get_current_dispatch_mode_stack()] == ["WatchingRecorder"] * 2
        with without_recorders() as recorders:
            assert len(recorders) == 2
    assert not inner.internal_errors
    assert not outer.internal_errors
    assert dict(counters["stats"])["unique_graphs"] == 1


def test_a_stance_of_the_program_s_own_stays() -> None:
    with torch.compiler.set_stance("force_eager"):
        with watch():
            assert eval_frame._stance.stance == "force_eager"
        assert eval_frame._stance.stance == "force_eager"

"""Calls of torch's own layers run unseen once their operations are known: what is noted is what would have been recorded."""

from __future__ import annotations

import copy
import gc
import inspect
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing._internal.common_modules import module_db
from torch.utils._python_dispatch import TorchDispatchMode

from gradcheck_suite import watch
from gradcheck_suite.capture.layer_calls import LayerOrigin
from gradcheck_suite.evidence import TensorRef
from gradcheck_suite.watching import layers
from gradcheck_suite.watching.graphs import every_node

_CALLS = 3


@pytest.fixture(autouse=True)
def no_templates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "_templates", {})


# -- what is noted -----------------------------------------------------------------------------------------------------


class Book:
    """What a session knows about the graph of a result, with numbers by order of appearance."""

    def __init__(self, session: Any, out: Tensor, *, contents: bool = True) -> None:
        self.contents = contents
        self.recorder = session._hazards.recorder
        self.recorder._settle()
        self.numbers: dict[Any, int] = {}
        self.nodes = [n for n in every_node([out.grad_fn]) if type(n).__name__ != "AccumulateGrad"]
        self.unseen = 0
        self.held: set[Any] = set()  # what some node may have saved
        self.entries = [self.entry(node) for node in self.nodes]

    def number(self, kind: str, value: Any) -> int:
        return self.numbers.setdefault((kind, value), len(self.numbers))

    def entry(self, node: Any) -> Any:
        origin = self.recorder.origin_of(node)
        if origin is None:
            return type(node).__name__, None
        self.unseen += type(origin) is LayerOrigin
        return (
            type(node).__name__,
            origin.role,
            [
                (
                    op.name,
                    self.told(list(op.args)),
                    self.told(list(op.kwargs.items())),
                    self.told(list(op.outputs)),
                    [(self.told(before), self.told(after)) for before, after in op.written],
                    None if op.location is None else op.location.function,
                    op.module,
                    op.grad_enabled,
                    op.random,
                )
                for op in origin.ops
            ],
        )

    def told(self, value: Any) -> Any:
        if isinstance(value, TensorRef):
            if not getattr(value.source, "unsaved", False):
                self.held.add((self.number("storage", value.storage), value.geometry))
            return (
                self.number("storage", value.storage),
                value.shape,
                value.strides,
                value.dtype,
                value.device,
                value.requires_grad,
                value.known,
                None if value.edge is None else (self.number("node", value.edge[0]), value.edge[1]),
                value.lazy,
                value.source.array().tobytes() if self.contents else b"",
            )
        if isinstance(value, list | tuple):
            return [self.told(item) for item in value]
        return value


def noted(
    make: Callable[[], Callable[[], Tensor]], *, unseen: bool, contents: bool = True
) -> tuple[list[Any], int, Any]:
    """The book about the last of some calls, how many nodes were not recorded as they ran, and all results."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not unseen:
            patch.setattr(layers.KnownLayers, "template", lambda *_: None)
        torch.manual_seed(0)
        call = make()
        with watch(verify=False) as session:
            results = []
            for number in range(_CALLS):
                torch.manual_seed(number)
                results.append(call())
            book = Book(session, results[-1], contents=contents)
            gradients = [
                None if p is None else p.detach().clone()
                for p in torch.autograd.grad(
                    results[-1].sum(),
                    [n.variable for n in every_node([results[-1].grad_fn]) if hasattr(n, "variable")],
                    allow_unused=True,
                )
            ]
        assert not session.internal_errors
        assert not [u for u in session.report.unverified if "UninitializedParameter" not in u.subject]
        return (
            [book.entries, sorted(book.held)],
            book.unseen,
            [*(r.detach().clone() for r in results), *gradients],
        )


def same(one: Any, other: Any) -> bool:
    return len(one) == len(other) and all(
        (a is None) == (b is None) and (a is None or torch.equal(torch.nan_to_num(a), torch.nan_to_num(b)))
        for a, b in zip(one, other)
    )


def _samples() -> Iterator[Any]:
    for info in module_db:
        for training in (True, False) if info.train_and_eval_differ else (True,):
            yield pytest.param(info, training, id=f"{info.name}-{'train' if training else 'eval'}")


UNFILLED = ("nn.CTCLoss",)
"""Their operations return memory of which a part is never filled."""


@pytest.mark.parametrize(("info", "training"), list(_samples()))
def test_what_is_noted_of_a_layer_is_what_would_have_been_recorded(info: Any, training: bool) -> None:
    torch.manual_seed(1)
    inputs = info.module_inputs_func(
        info, device="cpu", dtype=torch.float64, requires_grad=True, training=training
    )
    looked = 0
    for sample in inputs:
        if sample.forward_input is None or looked >= 3:
            continue
        try:
            module = info.module_cls(*sample.constructor_input.args, **sample.constructor_input.kwargs)
        except (TypeError, ValueError, RuntimeError):
            continue
        module = module.to(torch.float64).train(training)
        arguments = sample.forward_input.args
        keywords = sample.forward_input.kwargs

        def make(module: Any = module, arguments: Any = arguments, keywords: Any = keywords) -> Any:
            own = copy.deepcopy(module)
            given = [
                a.detach().clone().requires_grad_(a.requires_grad) if isinstance(a, Tensor) else a
                for a in arguments
            ]
            return lambda: own(
                *[a * 1 if isinstance(a, Tensor) and a.requires_grad else a for a in given], **keywords
            )

        with watch(verify=False):
            out = make()()
        if not isinstance(out, Tensor) or out.grad_fn is None or out.is_nested:
            continue
        looked += 1
        contents = info.name not in UNFILLED
        known, unseen, others = noted(make, unseen=True, contents=contents)
        if not unseen:
            continue
        seen, none, results = noted(make, unseen=False, contents=contents)
        assert none == 0
        assert known == seen
        assert same(results, others)


def residual() -> Callable[[], Tensor]:
    convolution, norm, activation = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(inplace=True)
    linear, dropout, loss = nn.Linear(48, 5), nn.Dropout(0.3), nn.CrossEntropyLoss()
    x, target = torch.randn(4, 3, 4, 4), torch.randint(5, (4,))

    def call() -> Tensor:
        hidden = activation(norm(convolution(x)))
        hidden = hidden + x
        result: Tensor = loss(linear(dropout(hidden.flatten(1))), target)
        return result

    return call


def test_what_is_noted_of_a_network_is_what_would_have_been_recorded() -> None:
    seen, none, results = noted(residual, unseen=False)
    known, unseen, others = noted(residual, unseen=True)
    assert (none, unseen) == (0, 8)
    assert known == seen
    assert same(results, others)


# -- the ordinary way --------------------------------------------------------------------------------------------------


def calls(layer: Callable[..., Tensor], *arguments: Tensor, session: Any, times: int = _CALLS) -> int:
    """How many of a layer's nodes were not recorded as they ran, at its last call."""
    for _ in range(times):
        out = layer(*arguments)
    return Book(session, out).unseen


def test_a_layer_is_known_after_one_call_and_another_like_it_at_once() -> None:
    x = torch.randn(2, 3)
    with watch(verify=False) as session:
        first, second = nn.Linear(3, 3), nn.Linear(3, 3)
        assert calls(first, x, session=session, times=1) == 0
        assert calls(first, x, session=session, times=1) == 2
        assert calls(second, x, session=session, times=1) == 2
        assert calls(nn.Linear(3, 4), x, session=session, times=1) == 0


class Silent(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def hooked(layer: nn.Module) -> Any:
    return layer.register_forward_hook(lambda module, args, out: out * 2)


def with_own_forward(layer: Any) -> Any:
    layer.forward = lambda x: nn.functional.linear(x, layer.weight, layer.bias) * 2


def with_something_else(layer: Any) -> Any:
    layer.note = object()


@pytest.mark.parametrize("change", [hooked, with_own_forward, with_something_else])
def test_a_layer_that_is_changed_goes_the_ordinary_way(change: Callable[[nn.Module], Any]) -> None:
    x = torch.randn(2, 3)
    layer = nn.Linear(3, 3)
    with watch(verify=True) as session:
        assert calls(layer, x, session=session) == 2
        undo = change(layer)
        assert calls(layer, x, session=session) == 0
        if undo is not None:
            undo.remove()
            assert calls(layer, x, session=session) == 2
        layer(x).sum().backward()
    assert not session.report.findings


@pytest.mark.parametrize(
    "context",
    [
        Silent,
        lambda: torch.autocast("cpu", dtype=torch.bfloat16),
        lambda: torch.device("cpu"),
        lambda: torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t),
        lambda: watch(verify=False),
    ],
    ids=["another_mode", "autocast", "a_default_device", "saved_tensor_hooks", "an_inner_session"],
)
def test_whatever_could_run_in_it_sends_a_layer_the_ordinary_way(context: Callable[[], Any]) -> None:
    x = torch.randn(2, 3)
    layer = nn.Linear(3, 3)
    with watch(verify=False) as session:
        assert calls(layer, x, session=session) == 2
        with context():
            assert calls(layer, x, session=session) == 0
        assert calls(layer, x, session=session) == 2


def test_a_hook_for_all_modules_sends_a_layer_the_ordinary_way() -> None:
    seen = []
    layer = nn.Linear(3, 3)
    with watch(verify=False) as session:
        assert calls(layer, torch.randn(2, 3), session=session) == 2
        handle = torch.nn.modules.module.register_module_forward_hook(lambda m, a, o: seen.append(m))
        try:
            assert calls(layer, torch.randn(2, 3), session=session) == 0
        finally:
            handle.remove()
    assert seen


def test_an_attribute_that_changes_is_part_of_what_is_known() -> None:
    x = torch.randn(64, 3, requires_grad=True)
    layer = nn.LeakyReLU(0.1)
    with watch(verify=True) as session:
        for slope in (0.1, 0.1, 0.1, 0.3, 0.3, 0.5):
            layer.negative_slope = slope
            layer(x).sum().backward()
            op = session._hazards.recorder.origin_of(layer(x).grad_fn).ops[0]
            assert op.args[1] == slope
    assert not session.report.findings


def test_a_layer_keeps_its_path_when_its_mode_changes() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 3), nn.Tanh()))
    x = torch.randn(2, 3)
    with watch(verify=False) as session:
        for step in range(6):
            model.train(step % 2 == 0)
            out = model(x)
            session._hazards.recorder._settle()
            assert session._hazards.recorder.origin_of(out.grad_fn).ops[0].module == "1.1"
        assert Book(session, out).unseen == 5


def test_a_layer_whose_parameters_are_frozen_or_given_another_form_is_looked_at_again() -> None:
    x = torch.randn(2, 3, requires_grad=True)
    layer = nn.Linear(3, 3)
    with watch(verify=True) as session:
        for _ in range(3):
            layer(x * 1).sum().backward()
        layer.weight.requires_grad_(False)
        for _ in range(3):
            layer(x * 1).square().sum().backward()
        layer.weight.data = torch.arange(9.0).view(3, 3).t()
        for _ in range(3):
            layer(x * 1).square().sum().backward()
        layer.double()
        for _ in range(3):
            layer(x.double()).square().sum().backward()
    assert not [f for f in session.report.findings if f.code.startswith("GC1")]
    assert not session.report.unverified


def test_a_layer_that_runs_otherwise_than_before_is_told_and_looked_at_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = torch.randn(2, 3, requires_grad=True)
    layer = nn.Tanh()
    with watch(verify=False) as session:
        assert calls(layer, x, session=session) == 1
        original = torch.tanh
        with monkeypatch.context() as patch:
            patch.setattr(torch, "tanh", lambda value: original(value).sin())
            assert calls(layer, x, session=session, times=1) == 0
            assert calls(layer, x, session=session) == 0, "somebody's own line runs in it"
        layer(x).sum().backward()
    entries = {u.subject: u for u in session.report.unverified}
    assert list(entries) == ["a call of Tanh"]
    assert not session.internal_errors


def test_an_exception_in_a_known_layer_leaves_everything_as_it_was() -> None:
    layer = nn.Linear(3, 3)
    with watch(verify=True) as session:
        for _ in range(3):
            layer(torch.randn(2, 3)).sum().backward()
        convolution = nn.Conv1d(2, 2, 3)
        for _ in range(3):
            convolution(torch.randn(1, 2, 5)).sum().backward()
        with pytest.raises(RuntimeError, match="Kernel size"):
            convolution(torch.randn(1, 2, 1))
        norm = nn.BatchNorm1d(3)
        for _ in range(3):
            norm(torch.randn(4, 3)).sum().backward()
        with pytest.raises(ValueError, match="Expected more than 1 value"):
            norm(torch.randn(1, 3))
        assert calls(layer, torch.randn(2, 3), session=session) == 2
    assert not session.internal_errors
    assert not session.report.findings


def test_modules_are_called_as_before_when_the_session_has_ended() -> None:
    before = nn.Module.__call__
    with watch(verify=False):
        assert nn.Module.__call__ is not before
    assert nn.Module.__call__ is before


def test_arguments_that_are_one_tensor_teach_nothing() -> None:
    loss = nn.MSELoss()
    x = torch.randn(3, requires_grad=True)
    with watch(verify=True) as session:
        for _ in range(3):
            loss(x, x).backward()
        for _ in range(3):
            loss(x, torch.randn(3, requires_grad=True)).backward()
        for _ in range(3):
            loss(x, x).backward()
    assert not session.internal_errors
    assert not session.report.findings


def test_a_nested_tensor_goes_the_ordinary_way() -> None:
    nested = torch.nested.nested_tensor([torch.randn(2, 3), torch.randn(1, 3)], requires_grad=True)
    layer = nn.Linear(3, 3)
    with watch(verify=False) as session:
        for _ in range(3):
            layer(nested)
        assert calls(layer, torch.randn(2, 3), session=session) == 2
    assert not session.internal_errors


def test_forwards_without_backwards_fill_no_books() -> None:
    layer = nn.Linear(3, 3)
    x = torch.randn(2, 3)
    with watch(verify=False) as session:
        for _ in range(2_000):
            layer(x)
        live = session._hazards.recorder.values._live
        assert max(len(known) for known in live.values()) < 300


@pytest.mark.parametrize("verify", [False, True])
def test_threads_that_call_the_same_layers_are_left_alone(verify: bool) -> None:
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    x = torch.randn(4, 3)
    expected = model(x)
    found: list[Tensor] = []
    with watch(verify=verify) as session:
        for _ in range(3):
            model(x).sum().backward()
        threads = [
            threading.Thread(target=lambda: found.extend(model(x) for _ in range(20))) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for _ in range(20):
            model(x).sum().backward()
        for thread in threads:
            thread.join()
    assert len(found) == 80
    assert all(torch.equal(one, expected) for one in found)
    assert not session.internal_errors
    assert not [f for f in session.report.findings if f.code.startswith("GC1")]


class Deeper(nn.Module):
    """A module inside a module, and so on."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.inner: nn.Module = Deeper(depth - 1) if depth else nn.Tanh()
        self.frames = 0

    def forward(self, x: Tensor) -> Tensor:
        self.frames = len(inspect.stack(0))
        out: Tensor = self.inner(x)
        return out


def test_one_frame_stands_between_a_module_and_those_that_it_calls() -> None:
    x = torch.randn(3, requires_grad=True)
    model = Deeper(2)
    model(x)
    inner: Any = model.inner
    plain = inner.frames - model.frames
    with watch(verify=False):
        model(x)
        assert inner.frames - model.frames == plain + 1
        with watch(verify=False):
            model(x)
            assert inner.frames - model.frames == plain + 1
        Deeper(150)(x).sum().backward()


# -- what happens to its tensors ---------------------------------------------------------------------------------------


def _train(spoil: Callable[[Tensor], None], verify: bool) -> Any:
    torch.manual_seed(0)
    first, activation, last = nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)
    x = torch.randn(16, 4)
    with watch(verify=verify) as session:
        for step in range(6):
            hidden = activation(first(x))
            out = last(hidden)
            if step >= 3:
                spoil(hidden)
            out.square().mean().backward()
    assert not session.internal_errors
    return session.report


@pytest.mark.parametrize("verify", [False, True])
def test_a_silent_write_to_what_a_known_layer_has_saved_is_found(verify: bool) -> None:
    def spoil(hidden: Tensor) -> None:
        hidden.data.mul_(2.0)  # the write

    report = _train(spoil, verify)
    (finding,) = report.findings
    assert finding.code == "GC202"
    text = str(finding.message) + " ".join(str(r) for r in finding.related)
    assert "tanh" in text or "addmm" in text


def test_a_write_through_numpy_to_what_a_known_layer_has_saved_is_found() -> None:
    def spoil(hidden: Tensor) -> None:
        view = hidden.detach().numpy()
        view *= 2

    assert [f.code for f in _train(spoil, False).findings] == ["GC202"]


def test_a_refused_write_to_what_a_known_layer_has_saved_is_explained() -> None:
    torch.manual_seed(0)
    layer, activation = nn.Linear(4, 8), nn.Sigmoid()
    with watch(verify=False) as session:
        for _ in range(5):
            activation(layer(torch.randn(16, 4))).square().mean().backward()
        hidden = activation(layer(torch.randn(16, 4)))
        hidden += 1
        loss = hidden.square().mean()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()
    (finding,) = session.report.findings
    assert finding.code == "GC201"
    assert "aten::add_" in finding.message
    assert "sigmoid" in finding.message


def test_a_write_in_place_by_a_known_layer_keeps_what_others_have_saved() -> None:
    """``relu_`` after ``tanh`` overwrites what ``tanh`` has saved: torch refuses, and the layer is named."""
    first, second = nn.Tanh(), nn.ReLU(inplace=True)
    scale = torch.ones(3, requires_grad=True)
    with watch(verify=False) as session:
        for _ in range(3):
            (torch.randn(2, 3) * scale * 1).sum().backward()
            second(torch.randn(2, 3) * scale).sum().backward()
        for _ in range(2):
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                second(first(torch.randn(2, 3) * scale)).sum().backward()
    (finding,) = session.report.findings
    assert finding.code == "GC201"
    assert "relu_" in finding.message


def test_nothing_is_kept_alive_longer_than_autograd_keeps_it() -> None:
    layer, norm, activation = nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU()
    with watch(verify=False):
        for _ in range(3):
            activation(norm(layer(torch.randn(4, 3)))).sum().backward()
        out = activation(norm(layer(torch.randn(4, 3))))
        storage = weakref.ref(out)
        nodes = [weakref.ref(session_call) for session_call in _calls_behind(out)]
        assert nodes
        assert all(node() is not None for node in nodes)
        loss = out.sum()
        del out
        loss.backward()
        assert storage() is None
        assert all(node() is None or node().aliases is None for node in nodes)  # type: ignore[union-attr]
        del loss
        gc.collect()
        assert all(node() is None for node in nodes)


def _calls_behind(out: Tensor) -> list[Any]:
    found = []
    for node in every_node([out.grad_fn]):
        if type(node).__name__ == "AccumulateGrad":
            continue
        for value in node.metadata.values():
            if isinstance(value, list) and type(value[1]) is LayerOrigin:
                found.append(value[1].call)
    return found


def test_a_model_that_dies_takes_what_is_known_of_it_along() -> None:
    with watch(verify=False) as session:
        layer: Any = nn.Linear(3, 3)
        calls(layer, torch.randn(2, 3), session=session)
        known = session._layers._layers
        assert id(layer) in known
        reference = weakref.ref(layer)
        weight = weakref.ref(layer.weight)
        del layer
        gc.collect()
        assert reference() is None
        assert weight() is None
        assert not known


def test_numbers_of_the_source_are_those_of_the_moment() -> None:
    """A parameter that is written to after the call: the record holds what the layer had."""
    layer = nn.Linear(2, 2, bias=False)
    x = torch.randn(3, 2)
    with watch(verify=False) as session:
        calls(layer, x, session=session)
        weight = layer.weight.detach().numpy().copy()
        out = layer(x)
        with torch.no_grad():
            layer.weight.add_(1.0)
        origin = session._hazards.recorder.origin_of(out.grad_fn)
        assert type(origin) is LayerOrigin
        np.testing.assert_array_equal(origin.ops[0].args[1].source.array(), weight.T)

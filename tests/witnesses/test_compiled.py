"""``backends=``: a backend that miscompiles is found, fused kernels' rounding is not accused, a failing one is counted."""

from __future__ import annotations

import os
import shutil

import pytest
import torch
from torch import nn

from gradcheck_suite import check_gradients
from gradcheck_suite.errors import ConfigurationError
from gradcheck_suite.witnesses.compiled import backend_name, read_backends

WITH_COMPILER = pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.LayerNorm(7), nn.Linear(7, 3))


def codes(report):
    return {f.code for f in report.findings if f.severity.name != "NOTE"}


class AsWritten(torch.autograd.Function):
    """Its backward is another one where it is compiled."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, grad_output):
        (x,) = ctx.saved_tensors
        return grad_output if torch.compiler.is_compiling() else grad_output * x.cos()


class Between(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x):
        hidden = self.first(x)
        hidden = AsWritten.apply(hidden)
        return self.second(hidden.tanh())


def test_the_line_of_what_is_compiled_wrongly_is_named():
    torch.manual_seed(0)
    report = check_gradients(Between(), torch.randn(4, 3), backends=("aot_eager",))
    (finding,) = [f for f in report.findings if f.code == "GC105"]
    with open(__file__, encoding="utf-8") as file:
        line = file.read().splitlines()[finding.location.line - 1]
    assert line.strip() == "hidden = AsWritten.apply(hidden)"
    assert "none of the right ones" in finding.message
    assert finding.evidence["subject"] in ("first.weight", "first.bias", "inputs[0]")


# ------------------------------------------------------------------------------------------ backends that lie


def scaling(graph, example_inputs):
    """The whole forward is off by one part in a thousand."""
    return lambda *args: [o * 1.001 for o in graph.forward(*args)]


class Distorted(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad_output):
        wrong = grad_output.clone()
        wrong.view(-1)[0] *= 1.05
        return wrong


def distorting(graph, example_inputs):
    """Right values; one element of one cotangent is off by 5 %."""
    return lambda *args: [Distorted.apply(o) for o in graph.forward(*args)]


def forgetting(graph, example_inputs):
    """Right values; one parameter gets no gradient at all."""

    def run(*args):
        changed = [a.detach() if i == 1 and torch.is_tensor(a) else a for i, a in enumerate(args)]
        return graph.forward(*changed)

    return run


@pytest.mark.parametrize("backend", [scaling, distorting, forgetting], ids=lambda b: b.__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_backend_that_miscompiles_is_found(backend, dtype):
    report = check_gradients(network().to(dtype), torch.randn(4, 5, dtype=dtype), backends=("eager", backend))
    assert codes(report) == {"GC105"}, str(report)
    (finding,) = report.errors
    assert f"compiled with {backend.__name__} is not the eager one" in finding.message
    assert ("output itself differs" in finding.message) is (backend is scaling)
    assert finding.evidence["backend"] == backend.__name__


def honest(graph, example_inputs):
    """Sums in another order, as a fused kernel would."""
    return graph.forward


@pytest.mark.parametrize("backend", [honest, "aot_eager"], ids=["callable", "aot_eager"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_an_honest_backend_is_not_accused(backend, dtype):
    report = check_gradients(network().to(dtype), torch.randn(4, 5, dtype=dtype), backends=("eager", backend))
    assert report.ok, str(report)
    assert codes(report) == set()
    assert report.counts["backends_compared"] == 1
    assert any("of 7 gradients as in eager mode" in note for note in report.notes)


def test_rounding_at_the_end_of_a_deep_chain_is_no_mismatch():
    """Batch norm over two values: nothing but rounding decides the gradients of what lies in front of it."""

    class Wide(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return (x.double() * (1 + 2e-8)).float()

        @staticmethod
        def backward(ctx, grad_output):
            return grad_output

    def rounding(graph, example_inputs):
        return lambda *args: graph.forward(
            *(
                Wide.apply(a) if torch.is_tensor(a) and a.is_floating_point() and a.requires_grad else a
                for a in args
            )
        )

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 2))
    report = check_gradients(model, torch.randn(2, 16), backends=(rounding,))
    assert "GC105" not in codes(report), str(report)


def test_custom_functions_random_numbers_and_graph_breaks():
    class Cube(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx, grad_output):
            (x,) = ctx.saved_tensors
            return 3 * x**2 * grad_output

    class Program(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)
            self.dropout = nn.Dropout(0.5)

        def forward(self, x):
            y = Cube.apply(self.linear(x))
            torch._dynamo.graph_break()
            return self.dropout(y)

    torch.manual_seed(0)
    report = check_gradients(Program(), torch.randn(3, 4), backends=("aot_eager",))
    assert report.ok, str(report)
    assert report.counts["graph_breaks"] >= 1
    assert any("graph break" in note for note in report.notes)


def test_a_backend_that_fails_is_counted_and_not_hidden():
    def broken(graph, example_inputs):
        raise OSError("no compiler here")

    def broken_later(graph, example_inputs):
        def run(*args):
            raise ValueError("kernel crashed")

        return run

    report = check_gradients(network(), torch.randn(4, 5), backends=(broken, broken_later))
    assert report.ok
    reasons = {u.subject: u.reason for u in report.unverified}
    assert "no compiler here" in reasons["the gradients compiled with broken"]
    assert "kernel crashed" in reasons["the gradients compiled with broken_later"]
    assert report.counts["backends_compared"] == 0


def test_a_program_of_which_nothing_is_compiled_is_counted():
    @torch._dynamo.disable
    def inner(x):
        return x.sin()

    def program(x):
        return inner(x)

    report = check_gradients(program, torch.linspace(0, 1, 4), backends=("aot_eager",))
    assert report.ok
    (reason,) = [u.reason for u in report.unverified if "compiled" in u.subject]
    assert reason.startswith("nothing of it was compiled")


@WITH_COMPILER
def test_inductor_agrees_on_real_layers(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.LayerNorm(8), nn.Dropout(0.25), nn.Linear(8, 2))
    report = check_gradients(model, torch.randn(4, 6), backends=("eager", "inductor"))
    assert report.ok, str(report)
    assert codes(report) == set()
    assert report.counts["backends_compared"] == 1, [u.reason for u in report.unverified]
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path)
    assert not list(tmp_path.iterdir())


def test_nothing_of_the_process_is_left_changed():
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    counters["mine"]["count"] = 3
    settings = torch._dynamo.config.suppress_errors
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    check_gradients(model, torch.randn(4, 5), backends=("aot_eager",))
    assert {key: dict(value) for key, value in counters.items()} == {"mine": {"count": 3}}
    assert torch._dynamo.config.suppress_errors is settings
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    counters.clear()


@pytest.mark.parametrize(
    ("backends", "said"),
    [
        (("inducter",), "Did you mean 'inductor'"),
        ((), "names what torch.compile is to use"),
        (3, "names what"),
    ],
)
def test_a_backend_that_is_not_known_is_refused(backends, said):
    with pytest.raises(ConfigurationError, match=said):
        check_gradients(network(), torch.randn(4, 5), backends=backends)


def test_names_of_backends():
    assert read_backends(("eager",)) == ()
    assert read_backends("aot_eager") == ("aot_eager",)
    assert read_backends((scaling, "eager", scaling)) == (scaling,)
    assert backend_name(scaling) == "scaling"

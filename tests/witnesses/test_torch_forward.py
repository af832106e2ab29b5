"""Forward mode: every lie is found and blamed on its line, its right twin is silent, and nothing stays switched on."""

from __future__ import annotations

import inspect
import math
import subprocess
import sys

import pytest
import torch
from torch.autograd import Function, forward_ad
from torch.autograd.function import BackwardCFunction

from gradcheck_suite import Severity, check_gradients


def forward_report(model, *inputs, **settings):
    return check_gradients(model, inputs, forward_mode=True, **settings)


def found(report, code="GC103"):
    return [f for f in report.findings if f.code == code]


def reasons(report):
    return [u.reason for u in report.unverified if u.reason.startswith("forward mode")]


def product(jvp, backward=None, *, materialize=True):
    """``x * y`` with this jvp of ``(x, y, dx, dy)``."""

    class Product(Function):
        @staticmethod
        def forward(ctx, x, y):
            ctx.set_materialize_grads(materialize)
            ctx.save_for_backward(x, y)
            ctx.save_for_forward(x, y)
            return x * y

        @staticmethod
        def backward(ctx, g):
            x, y = ctx.saved_tensors
            return (g * y, g * x) if backward is None else backward(x, y, g)

    def rule(ctx, dx, dy):
        return jvp(*ctx.saved_tensors, dx, dy)

    Product.jvp = staticmethod(rule)
    return Product


def gram(x, g):
    return (g + g.mT) @ x


def unary(forward, derivative, jvp, backward=None):
    """``forward(x)`` with a backward from its derivative and this jvp of ``(x, out, dx)``."""

    class Unary(Function):
        @staticmethod
        def forward(ctx, x):
            out = forward(x)
            ctx.save_for_backward(x)
            ctx.save_for_forward(x, out)
            return out

        @staticmethod
        def backward(ctx, g):
            (x,) = ctx.saved_tensors
            return g * derivative(x) if backward is None else backward(x, g)

    def rule(ctx, dx):
        return jvp(*ctx.saved_tensors, dx)

    Unary.jvp = staticmethod(rule)
    return Unary


def or_zero(t, like):
    return torch.zeros_like(like) if t is None else t


def or_one(t, like):
    return torch.ones_like(like) if t is None else t


X = torch.linspace(-1.5, 1.7, 6).reshape(2, 3)
Y = torch.linspace(0.3, 2.1, 6).reshape(2, 3)

# name: (right, wrong); a Function of one or two arguments each.
PAIRS = {
    "factor": (
        unary(torch.square, lambda x: 2 * x, lambda x, out, dx: 2 * x * dx),
        unary(torch.square, lambda x: 2 * x, lambda x, out, dx: x * dx),
    ),
    "sign": (
        unary(torch.cos, lambda x: -x.sin(), lambda x, out, dx: -x.sin() * dx),
        unary(torch.cos, lambda x: -x.sin(), lambda x, out, dx: x.sin() * dx),
    ),
    "saved tensor": (
        unary(torch.tanh, lambda x: 1 - x.tanh() ** 2, lambda x, out, dx: (1 - out * out) * dx),
        unary(torch.tanh, lambda x: 1 - x.tanh() ** 2, lambda x, out, dx: (1 - x * x) * dx),
    ),
    "only for negative inputs": (
        unary(lambda x: x**3, lambda x: 3 * x * x, lambda x, out, dx: 3 * x * x * dx),
        unary(lambda x: x**3, lambda x: 3 * x * x, lambda x, out, dx: 3 * x * x.relu() * dx),
    ),
    "one part in a thousand": (
        unary(torch.exp, torch.exp, lambda x, out, dx: out * dx),
        unary(torch.exp, torch.exp, lambda x, out, dx: out * dx * 1.001),
    ),
    "one element": (
        unary(torch.sin, torch.cos, lambda x, out, dx: x.cos() * dx),
        unary(
            torch.sin,
            torch.cos,
            lambda x, out, dx: torch.cat([(x.cos() * dx)[:1], (x.cos() * dx)[1:] * 1.01]),
        ),
    ),
    "transposed": (
        unary(lambda x: x @ x.mT, None, lambda x, out, dx: dx @ x.mT + x @ dx.mT, gram),
        unary(lambda x: x @ x.mT, None, lambda x, out, dx: 2 * dx @ x.mT, gram),
    ),
    "constant offset": (
        unary(torch.sin, torch.cos, lambda x, out, dx: x.cos() * dx),
        unary(torch.sin, torch.cos, lambda x, out, dx: x.cos() * dx + 1e-3),
    ),
    "the tangent itself": (
        unary(lambda x: x.clone(), torch.ones_like, lambda x, out, dx: dx.clone()),
        unary(torch.sigmoid, lambda x: x.sigmoid() * (1 - x.sigmoid()), lambda x, out, dx: dx.clone()),
    ),
    "no tangent": (
        unary(torch.sin, torch.cos, lambda x, out, dx: x.cos() * dx),
        unary(torch.sin, torch.cos, lambda x, out, dx: None),
    ),
    "one tangent ignored": (
        product(lambda x, y, dx, dy: dx * y + x * dy),
        product(lambda x, y, dx, dy: dx * y),
    ),
    "tangents swapped": (
        product(lambda x, y, dx, dy: dx * y + x * dy),
        product(lambda x, y, dx, dy: dx * x + y * dy),
    ),
    "None taken as one": (
        product(lambda x, y, dx, dy: or_zero(dx, x) * y + x * or_zero(dy, y), materialize=False),
        product(lambda x, y, dx, dy: or_one(dx, x) * y + x * or_one(dy, y), materialize=False),
    ),
    "a tangent squared": (
        unary(torch.sin, torch.cos, lambda x, out, dx: x.cos() * dx),
        unary(torch.sin, torch.cos, lambda x, out, dx: x.cos() * dx * dx.abs()),
    ),
}


def model_of(function):
    if function.__name__ == "Product":
        return lambda x, y: function.apply(x.sin(), y).tanh(), (X, Y)
    return lambda x: function.apply(x * 1.5).sum(-1), (X,)


@pytest.mark.parametrize("name", PAIRS)
def test_a_lie_is_found_and_blamed_on_its_line(name):
    model, inputs = model_of(PAIRS[name][1])
    findings = found(forward_report(model, *inputs))
    assert findings
    line = inspect.getsourcelines(model_of)[1]
    for finding in findings:
        assert finding.op in ("Product", "Unary")
        assert finding.location.file == __file__
        assert finding.location.line - line in (2, 3)
        assert finding.related[0].role == "jvp"


@pytest.mark.parametrize("name", PAIRS)
def test_its_right_twin_is_silent(name):
    model, inputs = model_of(PAIRS[name][0])
    report = forward_report(model, *inputs)
    assert not found(report), str(report)
    assert not [r for r in reasons(report) if "by itself" in r]
    assert report.counts["forward_tangents"] > 1


def test_a_wrong_backward_beside_a_right_jvp_is_not_forward_modes_fault():
    lie = product(lambda x, y, dx, dy: dx * y + x * dy, lambda x, y, g: (g * y, g * x * 2))
    report = forward_report(lambda x, y: lie.apply(x, y), X, Y)
    assert found(report, "GC101")
    assert not found(report), str(report)


class Dirty(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.mark_dirty(x)
        return x.mul_(3)

    @staticmethod
    def backward(ctx, g):
        return 3 * g

    @staticmethod
    def jvp(ctx, dx):
        return dx.mul_(3)


class DirtyLie(Dirty):
    @staticmethod
    def jvp(ctx, dx):
        return dx.mul_(2)


class DirtyOutOfPlace(Dirty):
    @staticmethod
    def jvp(ctx, dx):
        return dx * 3


def in_place(function):
    def model(x):
        y = x.sin()
        function.apply(y)
        return y * y

    return model


def test_an_in_place_function():
    assert not found(forward_report(in_place(Dirty), X))
    assert found(forward_report(in_place(DirtyLie), X))[0].op == "DirtyLie"
    (finding,) = found(forward_report(in_place(DirtyOutOfPlace), X))
    assert "torch refuses what the jvp returns" in finding.message
    assert finding.location.function == "model"


class Row(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.shape = x.shape
        return x[0]

    @staticmethod
    def backward(ctx, g):
        full = g.new_zeros(ctx.shape)
        full[0] = g
        return full

    @staticmethod
    def jvp(ctx, dx):
        return dx[0]


class RowCopied(Row):
    @staticmethod
    def jvp(ctx, dx):
        return dx[0].clone()


class RowWrong(Row):
    @staticmethod
    def jvp(ctx, dx):
        return dx[1]


def test_a_function_that_returns_a_view():
    assert not found(forward_report(lambda x: Row.apply(x.sin()).exp(), X))
    assert found(forward_report(lambda x: RowWrong.apply(x.sin()).exp(), X))
    refused = forward_report(lambda x: RowCopied.apply(x.sin()).exp(), X)
    assert "torch refuses" in found(refused)[0].message


def test_a_jvp_that_raises_is_a_finding():
    def rule(x, out, dx):
        raise ValueError("not today")

    lie = unary(torch.sin, torch.cos, rule)
    (finding,) = found(forward_report(lambda x: lie.apply(x), X))
    assert "ValueError: not today" in finding.message
    assert finding.location.file == __file__


class NoRule(Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, g):
        return g * 2


def test_a_function_without_a_jvp_is_not_verified_and_the_rest_is():
    lie = unary(torch.sin, torch.cos, lambda x, out, dx: x.sin() * dx)
    right = forward_report(lambda x: NoRule.apply(x).cos(), X)
    assert right.ok, str(right)
    assert any("it has no jvp: add a static method jvp" in r for r in reasons(right))
    assert right.counts["forward_tangents"] >= 1
    wrong = forward_report(lambda x: lie.apply(NoRule.apply(x)), X)
    assert [f.op for f in found(wrong)] == ["Unary"]


def test_what_torch_has_no_forward_mode_for_is_not_verified():
    def model(x):
        return torch.nn.functional.embedding_bag(torch.tensor([[0, 1], [1, 1]]), x, mode="max").sin()

    report = forward_report(model, X)
    assert report.ok, str(report)
    assert any("does not support it" in r for r in reasons(report)), reasons(report)


class SetUp(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, y):
        return x * y, (x > 0)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, g, _):
        x, y = ctx.saved_tensors
        return g * y, g * x

    @staticmethod
    def jvp(ctx, dx, dy):
        x, y = ctx.saved_tensors
        return dx * y + x * dy, None


class SetUpLie(SetUp):
    @staticmethod
    def jvp(ctx, dx, dy):
        x, y = ctx.saved_tensors
        return dx * y - x * dy, None


def test_functions_with_setup_context_and_outputs_that_are_not_differentiable():
    assert not found(forward_report(lambda x, y: SetUp.apply(x, y)[0].sin(), X, Y))
    assert found(forward_report(lambda x, y: SetUpLie.apply(x, y)[0].sin(), X, Y))


def test_a_model_that_uses_forward_mode_itself():
    layer = torch.nn.Linear(3, 3)

    def model(x, y):
        out, tangent = torch.func.jvp(lambda t: (t * t).sin(), (layer(x) * y,), (y,))
        return out + tangent * x

    class Module(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x, y):
            return model(x, y)

    def jacobian(x):
        return torch.func.jacfwd(lambda t: (t * t).sum(-1))(x).sum(0) * x

    for report in (forward_report(Module(), X, Y), forward_report(jacobian, X)):
        assert report.ok, str(report)
        assert not found(report)
        assert any("uses forward mode itself" in r for r in reasons(report))
        assert any(t.witness == "forward_mode" and t.outcome.value == "agree" for t in report.testimonies), (
            reasons(report)
        )


def test_torch_loses_the_outer_tangents_in_a_custom_jvp():
    """https://github.com/pytorch/pytorch/issues/197867: forward mode over forward mode gives zero."""

    def model(x, y):
        return torch.func.jvp(lambda t: SetUp.apply(t, y)[0].sin(), (x,), (torch.ones_like(x),))[1]

    (finding,) = found(forward_report(model, X, Y))
    assert "197867" in finding.hint


def test_a_lie_inside_a_model_that_uses_forward_mode_is_found():
    def model(x, y):
        tangent = torch.func.jvp(torch.sin, (x,), (torch.ones_like(x),))[1]
        return SetUpLie.apply(tangent, y)[0]

    assert found(forward_report(model, X, Y))


def test_a_lie_that_only_differences_can_see():
    """Its forward leaves torch, so no recorded operation says what it computes."""

    def through_numpy(factor):
        class Outside(Function):
            @staticmethod
            def forward(ctx, x):
                ctx.save_for_backward(x)
                ctx.save_for_forward(x)
                return torch.from_numpy(__import__("numpy").sin(x.detach().numpy()))

            @staticmethod
            def backward(ctx, g):
                return g * ctx.saved_tensors[0].cos()

            @staticmethod
            def jvp(ctx, dx):
                return factor * dx * ctx.saved_tensors[0].cos()

        return lambda x: Outside.apply(x * 2).exp()

    right = forward_report(through_numpy(1.0), X.double())
    assert not found(right), str(right)
    (finding,) = found(forward_report(through_numpy(1.01), X.double()))
    assert "JVP of the whole model" in finding.message
    assert "Outside" in finding.hint


def test_complex_numbers():
    def right(z, out, dz):
        return 2 * dz.conj() * z.conj()

    def wrong(z, out, dz):
        return 2 * dz * z.conj()

    z = torch.complex(X, Y)
    for rule, lies in ((right, False), (wrong, True)):
        function = unary(lambda z: z.conj().resolve_conj() ** 2, lambda z: 0 * z, rule)
        report = forward_report(lambda z, f=function: f.apply(z).abs() + z.real, z)
        assert bool(found(report)) is lies, str(report)


class Layers(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(2, 4, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(4)
        self.drop = torch.nn.Dropout(0.3)
        self.group = torch.nn.GroupNorm(2, 4)
        self.out = torch.nn.Linear(4 * 4, 3)

    def forward(self, x):
        y = self.drop(self.norm(self.conv(x)).relu_())
        y = torch.nn.functional.max_pool2d(self.group(y), 2)
        y = y.flatten(1)
        y[:, 0] *= y[:, 1].clone()
        return torch.nn.functional.cross_entropy(self.out(y), torch.tensor([0, 2]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_layers_in_train_mode_and_nothing_is_left_changed(dtype):
    torch.manual_seed(3)
    model = Layers().to(dtype)
    x = torch.randn(2, 2, 4, 4, dtype=dtype)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    versions = [p._version for p in model.parameters()]
    state = torch.get_rng_state()
    report = forward_report(model, x)
    assert report.ok, str(report)
    assert not found(report)
    assert report.counts["forward_tangents"] > 10
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert [p._version for p in model.parameters()] == versions
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in model.parameters())
    assert_nothing_is_open(*model.parameters(), x)


def assert_nothing_is_open(*tensors):
    assert forward_ad._current_level == -1
    assert BackwardCFunction.apply_jvp.__qualname__ == "BackwardCFunction.apply_jvp"
    with forward_ad.dual_level():
        assert all(forward_ad.unpack_dual(t).tangent is None for t in tensors)


def test_nothing_is_left_open_after_an_exception():
    layer = torch.nn.Linear(3, 3)
    runs = []

    def model(x):
        runs.append(None)
        # Only the run under dual numbers meets a tangent.
        if forward_ad._current_level >= 0:
            raise KeyboardInterrupt
        return layer(x)

    with pytest.raises(KeyboardInterrupt):
        forward_report(model, X)
    assert_nothing_is_open(*layer.parameters(), X)
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() is torch.float32


def test_leaves_that_a_closure_holds_and_tied_weights():
    hidden = torch.nn.Parameter(Y.clone())

    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a = torch.nn.Linear(3, 3)
            self.b = torch.nn.Linear(3, 3)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.b(self.a(x)) * hidden

    report = forward_report(Tied(), X)
    assert report.ok, str(report)
    assert not reasons(report)
    assert report.counts["forward_tangents"] >= 5


def test_a_stop_gradient_is_no_fault_of_forward_mode():
    report = forward_report(lambda x: x * x.detach().exp() + x.sin(), X)
    assert not found(report), str(report)


def test_a_kink_is_nobodys_fault():
    x = torch.tensor([-1.0, 0.0, 0.0, 2.0])
    report = forward_report(lambda x: torch.relu(x) + x.abs() + x.amax() + torch.linalg.vector_norm(x * 0), x)
    assert not found(report), str(report)


def test_a_tangent_that_vanishes_is_asked_again():
    lie = unary(torch.square, lambda x: 2 * x, lambda x, out, dx: 3 * x * dx)
    report = forward_report(lambda x: lie.apply(torch.relu(x - 5) + x.detach()), X)
    (finding,) = found(report)
    assert finding.severity is Severity.ERROR
    assert finding.location.file == __file__


def test_surrogates_are_listed_not_judged():
    straight = unary(torch.round, torch.ones_like, lambda x, out, dx: dx.clone())
    report = forward_report(lambda x: straight.apply(x) * x, X, surrogates=[straight])
    assert not found(report), str(report)
    assert any("declared a surrogate" in r for r in reasons(report))


def test_a_transformer_layer():
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
    report = forward_report(layer, torch.randn(2, 5, 8))
    assert report.ok, str(report)
    assert not found(report)


def test_recurrent_layers():
    for layer in (torch.nn.LSTM(3, 4, batch_first=True), torch.nn.GRU(3, 4, bidirectional=True)):
        report = forward_report(layer, torch.randn(2, 5, 3))
        assert report.ok, str(report)
        assert not found(report)


@pytest.mark.slow
def test_resnet18():
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    report = forward_report(models.resnet18(num_classes=4), torch.randn(2, 3, 32, 32))
    assert report.ok, str(report)
    assert not found(report)
    assert not math.isnan(report.timings["forward mode"])


# -- writes through conjugate, negative and real views -------------------------------------------------------------

_THROUGH_VIEWS = """
import torch
from gradcheck_suite import check_gradients

c = torch.tensor([[1 + 2j, 0.5j], [2 - 1j, -1 + 0.1j]], dtype=torch.complex128)
r = c.real.clone() + 0.3
WRITES = {
    "conj": lambda y: y.conj().mul_(c),
    "imag": lambda y: y.imag.mul_(r),
    "real": lambda y: y.real.mul_(r),
    "view_as_real": lambda y: torch.view_as_real(y).mul_(r[..., None]),
    "conj imag": lambda y: y.conj().imag.mul_(r),
    "row of conj": lambda y: y[0].conj().mul_(c[0]),
    "real column": lambda y: torch.view_as_real(y)[..., 0].mul_(r),
    "adjoint": lambda y: y.mH.mul_(c),
    "negative": lambda y: torch._neg_view(y).mul_(c),
}
for name, write in WRITES.items():
    def function(x):
        y = x * c
        write(y)
        return y
    for forward_mode in (False, True):
        report = check_gradients(function, c * 1.5, forward_mode=forward_mode)
        print(name, forward_mode, sorted({f.code for f in report.findings}), flush=True)
"""


def test_writes_through_lazy_views_neither_hang_nor_accuse() -> None:
    """Autograd makes such a view's node anew while it holds the view's lock: who asks for it then waits for ever."""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _THROUGH_VIEWS], capture_output=True, text=True, timeout=240
    )
    assert run.returncode == 0, run.stderr[-2000:]
    lines = run.stdout.strip().splitlines()
    assert len(lines) == 18, run.stdout
    assert not [line for line in lines if "GC1" in line.replace("GC190", "")], run.stdout

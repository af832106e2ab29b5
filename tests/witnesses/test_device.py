"""``devices=``: what differs there is found and named, what only rounds otherwise is not."""

from __future__ import annotations

import threading
from contextlib import contextmanager, nullcontext

import pytest
import torch
from torch import nn

from gradcheck_suite import check_gradients
from gradcheck_suite.compare.tolerance import TENSOR_FLOAT, judge, working_in
from gradcheck_suite.errors import ConfigurationError, ModelError
from gradcheck_suite.evidence import NodeRecord, OpRecord, Outcome, TensorRef
from gradcheck_suite.witnesses import reduced_precision
from gradcheck_suite.witnesses.device import read_devices, standing_in

WITH_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device here")
WITHOUT_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")


class Switch:
    """What a program does otherwise on the device that the CPU stands in for."""

    there = False

    @classmethod
    @contextmanager
    def on(cls):
        cls.there = True
        try:
            yield
        finally:
            cls.there = False


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, grad_output):
        (x,) = ctx.saved_tensors
        return (2.001 if Switch.there else 2) * x * grad_output


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.LayerNorm(7), nn.Linear(7, 3))


def codes(report):
    return {f.code for f in report.errors}


def test_a_backward_that_is_wrong_there_only_is_found_and_named():
    def model(x):
        return Square.apply(x).sin()

    with standing_in("cuda", Switch.on):
        report = check_gradients(model, torch.linspace(0.5, 2, 9), devices=("cpu", "cuda"))
    assert codes(report) == {"GC101", "GC104"}, str(report)
    (node,) = [f for f in report.findings if f.code == "GC101"]
    (device,) = [f for f in report.findings if f.code == "GC104"]
    assert "on cuda" in node.message
    assert device.location == node.location
    assert device.location.file == __file__
    assert "on cuda is not what it is on cpu" in device.message
    # At home it is right, and that was verified.
    assert all(v.outcome is Outcome.AGREE for v in report.nodes)


def test_the_innocent_twin_is_silent_and_counted():
    def model(x):
        return Square.apply(x).sin()

    with standing_in("cuda"):
        report = check_gradients(model, torch.linspace(0.5, 2, 9), devices=("cpu", "cuda"))
    assert report.ok, str(report)
    assert report.counts["nodes_on_other_devices"] == len(report.nodes)
    assert any(
        "on cuda: 2 nodes verified one by one, 1 of 1 gradient as on cpu" in n for n in report.notes
    ), report.notes


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("wrong", [False, True])
def test_a_forward_that_is_another_there(dtype, wrong):
    model = network().to(dtype)

    class Program(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, x):
            y = self.inner(x)
            factor = 1.2 if wrong and Switch.there else 1.0
            return y * factor  # the line

    with standing_in("cuda", Switch.on):
        report = check_gradients(Program(), torch.randn(4, 5, dtype=dtype), devices=("cuda",))
    if not wrong:
        assert report.ok, str(report)
        return
    assert codes(report) == {"GC104"}, str(report)
    (finding,) = report.errors
    assert finding.op == "aten::mul.Tensor"
    assert finding.evidence["gradients"] == len(report.gradients)


def test_other_rounding_is_no_mismatch():
    """Sums in another order, through a batch norm over two values, whose gradients are noise to a large part."""
    torch.manual_seed(1)
    inner = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 3))

    class Program(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            first = self.inner[0]
            order = (
                torch.randperm(64, generator=torch.Generator().manual_seed(3))
                if Switch.there
                else torch.arange(64)
            )
            y = x[:, order] @ first.weight[:, order].T + first.bias
            return self.inner[3](self.inner[2](self.inner[1](y)))

    with standing_in("cuda", Switch.on):
        report = check_gradients(Program(), torch.randn(2, 64), devices=("cpu", "cuda"))
    assert "GC104" not in {f.code for f in report.findings}, str(report)


def test_what_adds_in_any_order_there_is_granted_what_it_differs_by():
    calls = []

    class Program(nn.Module):
        def forward(self, x):
            calls.append(None)
            noise = 1 + 3e-4 * (len(calls) % 2) if Switch.there else 1.0
            return (x * noise).exp()

    with standing_in("cuda", Switch.on):
        report = check_gradients(Program(), torch.linspace(0, 1, 6), devices=("cuda",))
    assert "GC104" not in {f.code for f in report.findings}, str(report)


def test_other_random_numbers_are_said_and_not_accused():
    @contextmanager
    def generator():
        torch.manual_seed(77)
        yield

    with standing_in("cuda", generator):
        report = check_gradients(
            lambda x: nn.functional.dropout(x * x, 0.5), torch.linspace(1, 2, 32), devices=("cuda",)
        )
    assert report.ok
    assert any("random numbers on cuda are others" in u.reason for u in report.unverified)


@WITHOUT_CUDA
def test_a_device_that_is_not_there_is_counted():
    report = check_gradients(network(), torch.randn(4, 5), devices=("cpu", "cuda"))
    assert report.ok
    assert [(u.subject, u.reason) for u in report.unverified] == [
        ("the gradients on cuda", "torch sees no CUDA device here")
    ]


def test_home_alone_is_what_is_verified_anyway():
    report = check_gradients(network(), torch.randn(4, 5), devices=("cpu", "cpu:0"))
    assert report.ok
    assert not report.unverified
    assert report.counts.get("nodes_on_other_devices", 0) == 0


def test_a_program_that_does_not_run_there_is_counted():
    class Program(nn.Module):
        def forward(self, x):
            if Switch.there:
                raise RuntimeError("no kernel image")
            return x.sin()

    with standing_in("cuda", Switch.on):
        report = check_gradients(Program(), torch.linspace(0, 1, 3), devices=("cuda",))
    assert report.ok
    assert [u.reason for u in report.unverified] == ["it does not run there: RuntimeError: no kernel image"]


def test_a_model_that_cannot_be_copied_is_said():
    class Locked(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 2)
            self.lock = threading.Lock()

        def forward(self, x):
            return self.linear(x)

    with standing_in("cuda"), pytest.raises(ModelError, match="Locked cannot be copied"):
        check_gradients(Locked(), torch.randn(2, 3), devices=("cuda",))


def test_nothing_is_left_changed():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    with standing_in("cuda"):
        check_gradients(
            model, torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), devices=("cuda",)
        )
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert all(p.grad is None and p.device.type == "cpu" for p in model.parameters())


@pytest.mark.parametrize(
    ("devices", "said"),
    [
        (("cpu", "gpu"), "'gpu' is no device of torch"),
        (("meta",), "'meta' has no values"),
        ((), "names where the model is to be verified"),
        (3, "names where the model is to be verified"),
        ((None,), "is no device of torch"),
    ],
)
def test_a_device_that_torch_does_not_know_is_refused(devices, said):
    with pytest.raises(ConfigurationError, match=said):
        check_gradients(network(), torch.randn(4, 5), devices=devices)


def test_names_are_read_once():
    assert read_devices(None) == ()
    assert read_devices("cuda") == ("cuda",)
    assert read_devices(("cpu", torch.device("cuda", 1), "cpu")) == ("cpu", "cuda:1")


# ------------------------------------------------------------------------------------------ TensorFloat-32


def _node(name, device, dtype="float32"):
    class Source:
        pass

    ref = TensorRef(0, 0, (2, 2), (2, 1), 0, dtype, device, True, Source())
    op = OpRecord(0, name, (ref, ref), {}, (ref,), (), None, "", None, True)
    return NodeRecord(key=4, name="MmBackward0", ops=(op,))


@pytest.mark.parametrize(
    ("name", "device", "dtype", "allowed", "coarse"),
    [
        ("aten::mm", "cuda:0", "float32", (True, False), True),
        ("aten::convolution", "cuda:0", "float32", (False, True), True),
        ("aten::mm", "cuda:0", "float32", (False, True), False),
        ("aten::convolution", "cuda:0", "float32", (True, False), False),
        ("aten::mm", "cpu", "float32", (True, True), False),
        ("aten::mm", "cuda:0", "float64", (True, True), False),
        ("aten::mul.Tensor", "cuda:0", "float32", (True, True), False),
    ],
)
def test_only_products_in_float32_on_a_gpu_may_be_coarser(monkeypatch, name, device, dtype, allowed, coarse):
    monkeypatch.setattr(reduced_precision, "tensor_float_allowed", lambda: allowed)
    found = reduced_precision.tensor_float_nodes([_node(name, device, dtype)])
    assert found == (frozenset({4}) if coarse else frozenset())


def test_tensor_cores_are_granted_ten_bits_and_no_more():
    rng = torch.Generator().manual_seed(0)
    a, b = (torch.randn(64, 64, generator=rng) for _ in range(2))
    # What a tensor core does: operands rounded to 10 bits of mantissa, added up in float32.
    rounded = [(t.view(torch.int32) + 0x1000 & ~0x1FFF).view(torch.float32) for t in (a, b)]
    exact = (a.double() @ b.double()).numpy()
    actual = (rounded[0] @ rounded[1]).numpy()
    assert judge(exact, actual, dtype="float32")[0] is Outcome.DISAGREE
    with working_in(TENSOR_FLOAT):
        assert judge(exact, actual, dtype="float32")[0] is Outcome.AGREE
        wrong = actual.copy()
        wrong[3, 4] += 0.02 * abs(exact).max()
        assert judge(exact, wrong, dtype="float32")[0] is Outcome.DISAGREE


def test_the_settings_of_the_process_are_asked():
    products, cudnn = reduced_precision.tensor_float_allowed()
    assert isinstance(products, bool)
    assert isinstance(cudnn, bool)


# ------------------------------------------------------------------------------------------ a real GPU


@WITH_CUDA
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_real_layers_agree_on_a_real_gpu(dtype):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 9, 4)
    ).to(dtype)
    report = check_gradients(model, torch.randn(4, 3, 8, 8, dtype=dtype), devices=("cpu", "cuda"))
    assert report.ok, str(report)
    assert report.counts["nodes_on_other_devices"] > 0


@WITH_CUDA
def test_a_lie_on_a_real_gpu_is_found():
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx, grad_output):
            (x,) = ctx.saved_tensors
            return (2.001 if x.is_cuda else 2) * x * grad_output

    report = check_gradients(Wrong.apply, torch.linspace(0.5, 2, 9), devices=("cpu", "cuda"))
    assert codes(report) == {"GC101", "GC104"}


def test_standing_in_ends_with_its_block():
    with standing_in("cuda", nullcontext):
        pass
    if not torch.cuda.is_available():
        report = check_gradients(network(), torch.randn(4, 5), devices=("cuda",))
        assert report.unverified

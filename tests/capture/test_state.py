"""Nothing is left changed: each kind of state is disturbed inside a block and must be back, bit for bit."""

from __future__ import annotations

import functools
import random

import numpy as np
import pytest
import torch
from torch import nn

from gradcheck_suite.capture.state import RandomState, Snapshot, preserved, rng_frozen, snapshot
from gradcheck_suite.errors import ModelError


class Stateful(nn.Module):
    """A module with every kind of state the project promises to put back."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.tied = self.linear
        self.norm = nn.BatchNorm1d(3)
        self.dropout = nn.Dropout(0.5)
        self.register_buffer("hidden", torch.zeros(3), persistent=False)
        self.plain = torch.arange(3.0)
        self.history: list[torch.Tensor] = [torch.ones(2)]
        self.cache = {"inner": [torch.zeros(2)]}
        self.names = {"a"}
        self.calls = 0
        self.generator = torch.Generator().manual_seed(3)
        self.numpy_generator = np.random.default_rng(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.norm(self.dropout(self.linear(x))) * self.plain


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().numpy().tobytes()


def fingerprint(model: Stateful) -> dict[str, object]:
    """Everything about the model that can be compared by value, and identities as numbers."""
    seen: dict[str, object] = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers(), ("plain", model.plain)]:
        grad = tensor.grad if tensor.is_leaf else None
        seen[name] = (
            id(tensor),
            bits(tensor),
            tensor.data_ptr(),
            tensor._version,
            tensor.requires_grad,
            id(grad),
            None if grad is None else bits(grad),
            tensor.is_leaf,
        )
    for name, module in model.named_modules():
        seen[f"mode {name}"] = module.training
        seen[f"hooks {name}"] = (list(module._forward_hooks), list(module._backward_hooks))
        seen[f"registry {name}"] = [(key, id(value)) for key, value in vars(module).items()]
        seen[f"parameters {name}"] = [(key, id(value)) for key, value in module._parameters.items()]
    seen["history"] = [(id(t), bits(t)) for t in model.history]
    seen["cache"] = [(id(t), bits(t)) for t in model.cache["inner"]]
    seen["names"] = sorted(model.names)
    seen["generator"] = bits(model.generator.get_state())
    seen["numpy generator"] = str(model.numpy_generator.bit_generator.state)
    return seen


def rng() -> tuple[object, ...]:
    numpy_state = np.random.get_state()
    return bits(torch.get_rng_state()), numpy_state[1].tobytes(), numpy_state[2:], random.getstate()


def rebind_parameter(m: Stateful) -> None:
    m.linear.weight = nn.Parameter(torch.zeros(3, 3))


def rebind_data(m: Stateful) -> None:
    m.linear.weight.data = torch.zeros(3, 3, dtype=torch.float64)


def set_grad(m: Stateful) -> None:
    m.linear.weight.grad = torch.ones(3, 3)


def backward(m: Stateful) -> None:
    m(torch.randn(4, 3)).square().sum().backward()


def into_graph(m: Stateful) -> None:
    m.hidden.add_(m.linear.bias)


def signed_zero(m: Stateful) -> None:
    m.hidden.neg_()  # 0.0 becomes -0.0, which compares equal


def tensor_hook(m: Stateful) -> None:
    m.linear.weight.register_hook(lambda g: g * 2)


def post_hook(m: Stateful) -> None:
    m.linear.weight.register_post_accumulate_grad_hook(lambda p: None)


DISTURBANCES = {
    "in-place": lambda m: m.linear.weight.data.mul_(2),
    "no_grad in-place": lambda m: torch.no_grad()(m.linear.weight.mul_)(2),
    "rebind parameter": rebind_parameter,
    "rebind data": rebind_data,
    "delete parameter": lambda m: delattr(m.linear, "bias"),
    "new parameter": lambda m: m.register_parameter("extra", nn.Parameter(torch.ones(1))),
    "new module": lambda m: m.add_module("extra", nn.Linear(1, 1)),
    "forward": lambda m: m(torch.randn(4, 3)),
    "set grad": set_grad,
    "backward": backward,
    "accumulate": lambda m: (backward(m), backward(m)),
    "requires_grad": lambda m: m.linear.weight.requires_grad_(False),
    "eval": lambda m: m.eval(),
    "one mode": lambda m: m.dropout.eval(),
    "double": lambda m: m.double(),
    "non-persistent buffer": lambda m: m.hidden.add_(1),
    "buffer into a graph": into_graph,
    "signed zero": signed_zero,
    "plain tensor": lambda m: m.plain.add_(1),
    "plain tensor rebound": lambda m: setattr(m, "plain", m.plain + 1),
    "list of tensors": lambda m: m.history.append(torch.ones(1)),
    "tensor in a list": lambda m: m.history[0].add_(1),
    "nested container": lambda m: m.cache["inner"].clear(),
    "set": lambda m: m.names.add("b"),
    "counter": lambda m: setattr(m, "calls", 5),
    "forward hook": lambda m: m.linear.register_forward_hook(lambda *a: None),
    "backward hook": lambda m: m.linear.register_full_backward_hook(lambda *a: None),
    "tensor hook": tensor_hook,
    "post-accumulate hook": post_hook,
    "own generator": lambda m: torch.rand(2, generator=m.generator),
    "own NumPy generator": lambda m: m.numpy_generator.random(),
    "deleted attribute": lambda m: delattr(m, "history"),
}
# These change nothing that a fingerprint by value and identity could see.
INVISIBLE = {"tensor hook", "post-accumulate hook"}


@pytest.mark.parametrize("name", DISTURBANCES)
@pytest.mark.parametrize("with_grad", [False, True])
def test_model_is_put_back(name: str, with_grad: bool) -> None:
    torch.manual_seed(0)
    model = Stateful()
    if with_grad:
        backward(model)
    before = fingerprint(model)
    with preserved(model):
        DISTURBANCES[name](model)
        changed = fingerprint(model) != before if name != "deleted attribute" else True
        assert changed or name in INVISIBLE  # the twin: the disturbance is one
    assert fingerprint(model) == before
    assert not model.linear.weight._backward_hooks
    assert not model.linear.weight._post_accumulate_grad_hooks


def test_hooks_of_tensors_still_fire_and_added_ones_do_not() -> None:
    weight = torch.ones(2, requires_grad=True)
    fired: list[str] = []
    weight.register_hook(lambda g: fired.append("kept"))
    with preserved(None, weight):
        weight.register_hook(lambda g: fired.append("added"))
        weight._backward_hooks = None
    (weight * 2).sum().backward()
    assert fired == ["kept"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_put_back_after_an_exception(error: type[BaseException]) -> None:
    model = Stateful()
    before, random_before = fingerprint(model), rng()

    def disturbed() -> None:
        with preserved(model):
            backward(model)
            raise error

    with pytest.raises(error):
        disturbed()
    assert fingerprint(model) == before
    assert rng() == random_before


def test_random_states_of_the_process() -> None:
    before = rng()
    with preserved(None):
        torch.rand(3), np.random.rand(3), random.random()
        assert rng() != before
    assert rng() == before


def test_rng_frozen_repeats_and_restores() -> None:
    before = rng()
    drawn = []
    for seed in (7, 7, 8):
        with rng_frozen(seed):
            drawn.append((torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random()))
        assert rng() == before
    assert drawn[0] == drawn[1] != drawn[2]


def test_random_state_may_be_restored_twice() -> None:
    state = RandomState()
    first = torch.rand(3)
    state.restore()
    second = torch.rand(3)
    state.restore()
    assert torch.equal(first, second)


def test_modes_of_torch() -> None:
    guard = torch.inference_mode()
    with preserved(None):
        guard.__enter__()
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)
        torch.autograd.set_detect_anomaly(True)
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.set_autocast_enabled("cpu", True)
        torch.set_autocast_dtype("cpu", torch.float16)
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    assert torch.get_default_dtype() is torch.float32
    assert not torch.is_anomaly_enabled()
    assert not torch.are_deterministic_algorithms_enabled()
    assert not torch.is_autocast_enabled("cpu")
    assert torch.get_autocast_dtype("cpu") is torch.bfloat16
    guard._inference_mode_context = None


def test_grad_mode_inside_is_the_one_outside() -> None:
    for enabled in (True, False):
        with torch.set_grad_enabled(enabled):
            with preserved(None):
                assert torch.is_grad_enabled() is enabled
            assert torch.is_grad_enabled() is enabled
    with torch.inference_mode(), preserved(None):
        assert torch.is_inference_mode_enabled()


def test_inputs_that_the_model_overwrites() -> None:
    x = torch.randn(4, 3)
    leaf = torch.randn(3, requires_grad=True)
    leaf.grad = torch.ones(3)
    nested = {"a": [torch.arange(3)]}
    before = bits(x), bits(leaf), bits(leaf.grad), id(leaf.grad)
    with preserved(nn.ReLU(inplace=True), x, leaf, nested) as state:
        x.relu_()
        (leaf * 2).sum().backward()
        nested["a"][0].add_(1)
        x.requires_grad_(True)
        state.restore()
        assert bits(x) == before[0]
        x.zero_()
        nested["a"].append(torch.ones(1))
    assert (bits(x), bits(leaf), bits(leaf.grad), id(leaf.grad)) == before
    assert not x.requires_grad
    assert len(nested["a"]) == 1
    assert nested["a"][0].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(3, 1).expand(3, 4),
        torch.randn(4, 6)[:, ::2],
        torch.randn(4, 3).t(),
        torch.randn(5).unfold(0, 3, 1),
        torch.randn(3, dtype=torch.complex128),
        torch.randn(3, dtype=torch.complex64).conj(),
        torch.randn(3).half(),
        torch.tensor([float("nan"), -0.0]),
        torch.tensor([True, False]),
        torch.zeros(0, 3),
        torch.tensor(2.0),
        torch.eye(3).to_sparse(),
    ],
    ids=lambda t: f"{t.dtype}{tuple(t.shape)}",
)
def test_layouts_and_dtypes(tensor: torch.Tensor) -> None:
    tensor = tensor.clone() if tensor.is_sparse else tensor
    before = tensor.to_dense().resolve_conj().clone().numpy().tobytes()
    state = snapshot(None, tensor)
    for _ in range(2):  # reusable
        if tensor.is_sparse:
            tensor.mul_(3)
        else:
            size = tensor.untyped_storage().nbytes() // tensor.element_size()
            tensor.data.as_strided((size,), (1,), 0).fill_(1)
        state.restore()
        assert tensor.to_dense().resolve_conj().clone().numpy().tobytes() == before


def test_a_small_view_does_not_copy_the_data_set() -> None:
    data = torch.zeros(1_000_000)
    state = Snapshot(None, data[10:12])
    assert sum(r.contents.numel() for r in state._tensors) == 2


def test_memory_that_is_unchanged_is_not_written() -> None:
    array = np.arange(4.0)
    x = torch.from_numpy(array)
    array.flags.writeable = False
    with preserved(None, x):
        pass
    version = x._version
    with preserved(None, x):
        x.add_(1)
    assert x._version == version


def test_a_graph_from_before_still_works_after_the_check_wrote_and_put_back() -> None:
    buffer = torch.ones(3)
    weight = torch.ones(3, requires_grad=True)
    loss = (weight * buffer).sum()
    with preserved(None, buffer):
        buffer.add_(1)
    loss.backward()
    assert weight.grad.tolist() == [1, 1, 1]


def test_callables_that_are_no_modules() -> None:
    model = nn.BatchNorm1d(3)
    tensor = torch.zeros(3)

    def closure(x: torch.Tensor) -> torch.Tensor:
        tensor.add_(1)
        return model(x)

    class Plain:
        def __init__(self) -> None:
            self.state = torch.zeros(3)

        def __call__(self, x: torch.Tensor) -> torch.Tensor:
            self.state = self.state.add_(1)
            return model(x)

        def method(self, x: torch.Tensor) -> torch.Tensor:
            return self(x)

    plain = Plain()
    calls = [
        closure,
        functools.partial(model),
        model.forward,
        functools.partial(model.forward),
        plain,
        plain.method,
    ]
    for call in calls:
        with preserved(call, model):
            call(torch.randn(4, 3))
        assert model.num_batches_tracked == 0
        assert tensor.tolist() == [0, 0, 0]
        assert plain.state.tolist() == [0, 0, 0]
    for call in calls[:4]:
        with preserved(call):
            call(torch.randn(4, 3))
        assert model.num_batches_tracked == 0


def test_lazy_modules_are_refused() -> None:
    with pytest.raises(ModelError, match=r"uninitialised UninitializedParameter.*Call the model once"):
        snapshot(nn.LazyLinear(3))


def test_a_quick_restore_learns_from_a_thorough_one() -> None:
    large, sly = torch.zeros(100_000), torch.zeros(100_000)
    small = torch.zeros(3)
    state = snapshot(None, large, sly, small)
    for tensor in (sly, small):
        tensor.data.add_(1)
    state.restore(quick=True)
    assert small.sum() == 0
    assert sly.sum() > 0  # its version says nothing, and it is large
    large.add_(1)
    state.restore()
    sly.data.add_(1)
    large.add_(1)
    state.restore(quick=True)
    assert large.sum() == sly.sum() == 0


def test_contents_that_are_kept_elsewhere() -> None:
    weight = torch.zeros(3, requires_grad=True)
    state = Snapshot(None, weight, elsewhere=[weight])
    kept = weight.data
    weight.data = torch.ones(3, dtype=torch.float64)
    weight.requires_grad_(False)
    kept.add_(5)
    state.restore()
    assert weight.data_ptr() == kept.data_ptr()
    assert weight.requires_grad
    assert weight.tolist() == [5, 5, 5]

"""What a model is called with: given inputs are arranged and checked, missing ones inferred, leaves copied."""

from __future__ import annotations

import dataclasses
from collections import UserDict, namedtuple
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gradcheck_suite.capture.inputs import PreparedCall, ResolvedCall, prepare, resolve_inputs
from gradcheck_suite.errors import InputError, ModelError

Point = namedtuple("Point", "x y")


@dataclasses.dataclass(frozen=True)
class Batch:
    image: torch.Tensor
    label: torch.Tensor


class TwoArguments(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        return self.linear(x)


class OneBatch(nn.Module):
    def forward(self, batch: Any) -> Any:
        return batch


def run(model: nn.Module, call: ResolvedCall | PreparedCall) -> Any:
    return model(*call.args, **call.kwargs)


# ------------------------------------------------------------------------------------------- given inputs


X, Y = torch.randn(2, 3), torch.randn(2, 3)


@pytest.mark.parametrize(
    ("model", "inputs", "kwargs", "names"),
    [
        (TwoArguments(), X, None, ["inputs[0]"]),
        (TwoArguments(), (X, Y), None, ["inputs[0]", "inputs[1]"]),
        (TwoArguments(), [X, Y], None, ["inputs[0]", "inputs[1]"]),
        (TwoArguments(), {"x": X, "mask": Y}, None, ["x", "mask"]),
        (TwoArguments(), X, {"mask": Y}, ["inputs[0]", "mask"]),
        (TwoArguments(), None, {"x": X}, ["x"]),
        (OneBatch(), {"x": X}, None, ["inputs['x']"]),
        (OneBatch(), {"batch": X}, None, ["batch"]),
        (OneBatch(), {1: X}, None, ["inputs[1]"]),
        (OneBatch(), [X, Y], None, ["inputs[0]", "inputs[1]"]),
        (OneBatch(), ({"a": [X]},), None, ["inputs[0]['a'][0]"]),
        (OneBatch(), Point(X, Y), None, ["inputs.x", "inputs.y"]),
        (OneBatch(), UserDict(x=X), None, ["inputs['x']"]),
        (OneBatch(), Batch(X, Y), None, ["inputs.image", "inputs.label"]),
        (lambda *xs: xs, [X, Y, X], None, ["inputs[0]", "inputs[1]", "inputs[2]"]),
        (lambda **named: named, None, {"any": X}, ["any"]),
    ],
)
def test_arrangement_and_names(model: Any, inputs: Any, kwargs: Any, names: list[str]) -> None:
    call = resolve_inputs(model, inputs, kwargs)
    assert [name for name, _ in call.named_tensors()] == names
    run(model, prepare(call))


def test_a_list_is_one_argument_where_forward_takes_one() -> None:
    call = resolve_inputs(OneBatch(), [X, Y])
    assert len(call.args) == 1
    assert "one argument" in call.notes[0]


def test_inputs_from_a_function_of_an_rng() -> None:
    def make(rng: np.random.Generator) -> Any:
        return rng.normal(size=(2, 3)), torch.ones(2, 3)

    first, again, other = (resolve_inputs(TwoArguments(), make, seed=s) for s in (1, 1, 2))
    assert first.args[0].dtype is torch.float32
    assert torch.equal(first.args[0], again.args[0])
    assert not torch.equal(first.args[0], other.args[0])
    assert "made by the given function with seed 1" in first.notes[0]


def test_inputs_from_a_strategy() -> None:
    strategies = pytest.importorskip("hypothesis.strategies")
    strategy = strategies.lists(strategies.floats(-1, 1), min_size=3, max_size=3).map(
        lambda v: torch.tensor([v])
    )
    first, again = (resolve_inputs(TwoArguments(), strategy, seed=5) for _ in range(2))
    assert torch.equal(first.args[0], again.args[0])
    assert "strategy" in first.notes[0]


def test_no_inputs_for_a_function_without_arguments() -> None:
    call = resolve_inputs(lambda: X)
    assert call.args == ()
    assert "takes none" in call.notes[0]


@pytest.mark.parametrize(
    ("model", "inputs", "kwargs", "error", "message"),
    [
        (3, X, None, ModelError, r"the model is a int, which cannot be called.*Pass an nn\.Module"),
        (TwoArguments(), {"x": X}, {"x": Y}, InputError, r"x came both in inputs and in kwargs"),
        (
            TwoArguments(),
            torch.tensor([[1.0, float("nan"), 2.0]]),
            None,
            InputError,
            r"inputs\[0\] \(float32\[1, 3\]\) has 1 of 3 elements that are NaN or infinite, the first at \[0, 1\]: nan",
        ),
        (OneBatch(), {"x": [X, X / 0]}, None, InputError, r"inputs\['x'\]\[1\].*infinite"),
        (TwoArguments(), X.to("meta"), None, InputError, r"inputs\[0\] is on the meta device"),
        (
            TwoArguments(),
            X.to_sparse(),
            None,
            InputError,
            r"is a sparse tensor.*Pass inputs\[0\]\.to_dense\(\)",
        ),
        (
            TwoArguments(),
            torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
            None,
            InputError,
            r"is a nested tensor.*padded tensor with a mask",
        ),
        (
            TwoArguments().to("meta"),
            X,
            None,
            InputError,
            r"is on cpu, the parameters are on meta.*move the model",
        ),
        (lambda x: x, None, None, InputError, r"it is a function, whose arguments have no known shapes"),
        (nn.ReLU(), None, None, InputError, r"0 candidates were tried.*no layer with a known input shape"),
    ],
)
def test_refusals(model: Any, inputs: Any, kwargs: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"(?s){message}"):
        resolve_inputs(model, inputs, kwargs)


def test_an_additive_mask_is_no_error_and_no_leaf() -> None:
    mask = torch.zeros(2, 3).masked_fill(torch.eye(2, 3).bool(), float("-inf"))
    prepared = prepare(resolve_inputs(TwoArguments(), (X, mask)))
    assert list(prepared.leaves) == ["inputs[0]"]
    assert "inputs[1] is taken as constant" in prepared.notes[-1]


# ------------------------------------------------------------------------------------------- inferred inputs


class Flattening(nn.Module):
    """Takes images of one size only: 4 * 24 * 24 features after the convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 4, 5)
        self.linear = nn.Linear(4 * 24 * 24, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.convolution(x).flatten(1))


class Recommender(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(50, 4), nn.Embedding(3, 4)

    def forward(self, user: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
        return (self.user(user) * self.item(item)).sum(-1)


class Example(nn.Module):
    """As a Lightning module declares its input."""

    def __init__(self) -> None:
        super().__init__()
        self.example_input_array = {"x": torch.randn(5, 7)}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape != (5, 7):
            raise ValueError("not the example")
        return x


ENCODER = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 1, enable_nested_tensor=False)


@pytest.mark.parametrize(
    ("model", "shapes"),
    [
        (nn.Linear(3, 4), [(2, 3)]),
        (nn.Linear(3, 4).double(), [(2, 3)]),
        (nn.Sequential(nn.Flatten(), nn.Linear(784, 2)), [(2, 784)]),
        (nn.Sequential(nn.Unflatten(1, (1, 4)), nn.Flatten(), nn.Linear(4, 2)), [(2, 4)]),
        (nn.Conv1d(3, 4, 3), [(2, 3, 16)]),
        (nn.Conv2d(3, 4, 3), [(2, 3, 32, 32)]),
        (nn.Conv3d(3, 4, 3), [(2, 3, 8, 16, 16)]),
        (nn.ConvTranspose2d(3, 4, 3), [(2, 3, 4, 4)]),
        (nn.Embedding(7, 3), [(2, 8)]),
        (nn.LSTM(3, 4), [(5, 2, 3)]),
        (nn.GRU(3, 4, batch_first=True), [(2, 5, 3)]),
        (nn.RNNCell(3, 4), [(2, 3)]),
        (ENCODER, [(5, 2, 8)]),
        (nn.MultiheadAttention(8, 2, batch_first=True), [(2, 5, 8)] * 3),
        (nn.Transformer(8, 2, 1, 1, 16, batch_first=True), [(2, 5, 8)] * 2),
        (nn.Bilinear(2, 3, 4), [(2, 2), (2, 3)]),
        (nn.LayerNorm([3, 4]), [(2, 3, 4)]),
        (nn.BatchNorm2d(3), [(2, 3, 8, 8)]),
        (nn.GroupNorm(2, 4), [(2, 4, 8, 8)]),
        (Flattening(), [(2, 1, 28, 28)]),
        (Recommender(), [(2,), (2,)]),
        (Example(), [(5, 7)]),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, nn.Module) else "",
)
def test_inferred_from_the_model(model: nn.Module, shapes: list[tuple[int, ...]]) -> None:
    random_before = torch.get_rng_state()
    call = resolve_inputs(model)
    tensors = [t for _, t in call.named_tensors()]
    assert torch.equal(torch.get_rng_state(), random_before)
    assert all(t.dtype in (next(model.parameters(), t).dtype, torch.int64) for t in tensors)
    assert "inputs inferred from" in call.notes[0]
    run(model, call)
    if "Recommender" not in str(type(model)):
        assert [tuple(t.shape) for t in tensors] == shapes
    again = resolve_inputs(model)
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(call.named_tensors(), again.named_tensors()))


def test_batch_norm_gets_more_than_two_values() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    ((_, x),) = resolve_inputs(model).named_tensors()
    assert x.shape[0] > 2
    assert model[1].num_batches_tracked == 0
    ((_, x),) = resolve_inputs(model.eval()).named_tensors()
    assert x.shape[0] == 2


def test_a_model_that_runs_on_nothing_known_tells_what_was_tried() -> None:
    class Picky(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise ValueError("never")

    with pytest.raises(
        InputError, match=r"(?s)Picky failed: 2 candidates were tried, none ran:.*float32\[2, 3\]: "
    ) as caught:
        resolve_inputs(Picky())
    assert "ValueError: never" in str(caught.value)
    assert "Pass inputs=" in str(caught.value)


def test_given_keywords_take_part_in_the_trials() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 2)

        def forward(self, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
            return self.linear(x) * scale

    call = resolve_inputs(Scaled(), None, {"scale": torch.ones(2)})
    assert [n for n, _ in call.named_tensors()] == ["inputs[0]", "scale"]


def test_vision_models() -> None:
    models = pytest.importorskip("torchvision.models")
    transformer = models.VisionTransformer(48, 16, 1, 2, 16, 32)
    ((_, x),) = resolve_inputs(transformer).named_tensors()
    assert x.shape == (2, 3, 48, 48)
    ((_, x),) = resolve_inputs(models.squeezenet1_1(num_classes=3)).named_tensors()
    assert x.shape == (2, 3, 32, 32)


def test_timm_models() -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model("mobilenetv3_small_050", num_classes=3, in_chans=1)
    call = resolve_inputs(model)
    assert call.args[0].shape[1:] == (1, 32, 32)
    assert "default_cfg" in call.notes[0]


def test_hugging_face_models() -> None:
    transformers = pytest.importorskip("transformers")
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    bert = transformers.BertModel(transformers.BertConfig(vocab_size=11, **small))
    call = resolve_inputs(bert)
    assert int(call.kwargs["input_ids"].max()) < 11
    assert list(prepare(call, bert).leaves) == []
    vit = transformers.ViTModel(transformers.ViTConfig(image_size=16, patch_size=8, **small))
    assert resolve_inputs(vit).kwargs["pixel_values"].shape == (2, 3, 16, 16)


# ------------------------------------------------------------------------------------------- leaf copies


def test_leaves_are_copies_that_require_grad() -> None:
    x, n = torch.randn(2, 3), torch.arange(3)
    prepared = prepare(resolve_inputs(TwoArguments(), (x, n)))
    (leaf,) = prepared.leaves.values()
    assert leaf is prepared.args[0]
    assert leaf.is_leaf
    assert leaf.requires_grad
    assert leaf.data_ptr() != x.data_ptr()
    assert not x.requires_grad
    assert prepared.args[1] is n


def test_the_users_flags_are_kept_if_there_are_any() -> None:
    x, y = torch.randn(2, 3, requires_grad=True), torch.randn(2, 3)
    assert list(prepare(resolve_inputs(TwoArguments(), (x, y))).leaves) == ["inputs[0]"]
    assert list(prepare(resolve_inputs(TwoArguments(), (y, y.clone()))).leaves) == ["inputs[0]", "inputs[1]"]


def test_copies_without_grad() -> None:
    prepared = prepare(resolve_inputs(TwoArguments(), X.clone().requires_grad_()), track=False)
    assert prepared.leaves == {}
    assert not prepared.args[0].requires_grad


def test_a_tensor_passed_twice_stays_one_leaf() -> None:
    prepared = prepare(resolve_inputs(TwoArguments(), (X, X)))
    assert prepared.args[0] is prepared.args[1]
    assert list(prepared.leaves) == ["inputs[0]"]


def test_own_parameters_and_colliding_names() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self, a: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            return a * weight * self.weight

    model = Odd()
    prepared = prepare(resolve_inputs(model, model.weight, {"weight": torch.ones(3)}), model)
    assert prepared.args[0] is model.weight
    assert list(prepared.leaves) == ["kwargs['weight']"]


@pytest.mark.parametrize(
    ("tensor", "kept"),
    [
        (torch.randn(4, 3).t(), True),
        (torch.randn(4, 6)[:, ::2], True),
        (torch.randn(3, 1).expand(3, 4), True),
        (torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last), True),
        (torch.randn(()), True),
        (torch.randn(0, 3), True),
        (torch.randn(6).unfold(0, 3, 1), False),
        (torch.randn(3, dtype=torch.complex64).conj(), True),
        (torch.randn(3, requires_grad=True) * 2, True),
    ],
)
def test_layout_of_leaves(tensor: torch.Tensor, kept: bool) -> None:
    prepared = prepare(resolve_inputs(OneBatch(), (tensor,)))
    leaf = prepared.leaves["inputs[0]"]
    assert torch.equal(leaf.detach(), tensor.detach())
    assert leaf.is_leaf
    assert (leaf.stride() == tensor.stride()) is kept


def test_structures_and_their_types_survive() -> None:
    inputs = ({"p": Point(X, 3), "b": Batch(X, Y), "u": UserDict(k=X)}, "text", None)
    prepared = prepare(resolve_inputs(lambda *a: a, inputs))
    first = prepared.args[0]
    assert isinstance(first["p"], Point)
    assert isinstance(first["b"], Batch)
    assert isinstance(first["u"], UserDict)
    assert first["p"].x is first["b"].image is first["u"]["k"]
    assert prepared.args[1:] == ("text", None)
    assert list(prepared.leaves) == ["inputs[0]['p'].x", "inputs[0]['b'].label"]
    assert inputs[0]["b"].image is X  # the user's own object is as it was


def test_inputs_made_in_inference_mode_become_ordinary_leaves() -> None:
    with torch.inference_mode():
        x = torch.ones(2, 3)
    leaf = prepare(resolve_inputs(TwoArguments(), x)).leaves["inputs[0]"]
    assert not leaf.is_inference()
    TwoArguments()(leaf).sum().backward()
    assert leaf.grad is not None

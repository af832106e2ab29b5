"""Every example of the slides of lecture 06, "Computing partial derivatives with PyTorch", in both systems."""

from __future__ import annotations

import forward_hook
import graph_structures
import multilayer_perceptron
import numpy as np
import pytest
import relu_neuron
import torch
from stated_numbers import agree, states

from gradcheck_suite import engine


def test_torch_has_a_version():
    """The slide shows 1.7.0; what it teaches has not changed since."""
    assert tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (1, 7)


def test_relu_nodes():
    states(relu_neuron.forward_pass, {"u": 6.0, "v": 7.0, "a": 7.0})


def test_relu_local_derivatives():
    states(relu_neuron.local_derivatives, {"da/dv": 1.0, "dv/db": 1.0, "du/dw": 3.0})


def test_relu_chain_rule():
    """da/db = 1 and da/dw = 3 * 1 * 1 = 3, as products of the local derivatives and by backward."""
    for result in states(relu_neuron.local_derivatives, {}).values():
        assert result["dv/db"] * result["da/dv"] == 1
        assert result["du/dw"] * result["dv/du"] * result["da/dv"] == 3
    states(relu_neuron.backward_pass, {"da/dw": 3.0, "da/db": 1.0})


def test_single_path():
    found = agree(graph_structures.single_path)
    assert found["backward"] == pytest.approx(found["product"], rel=1e-12)
    assert found["backward"] != 0


def test_weight_sharing():
    found = agree(graph_structures.weight_sharing)
    assert found["sum"] == found["upper path"] + found["lower path"]
    assert found["backward"] == pytest.approx(found["sum"], rel=1e-12)
    assert found["upper path"] != 0 != found["lower path"]


def test_fully_connected_paths():
    found = agree(graph_structures.fully_connected_paths)
    assert found["backward"] == pytest.approx(
        found["path over unit 1"] + found["path over unit 2"], rel=1e-12
    )
    assert found["path over unit 1"] != 0 != found["path over unit 2"]


def test_grad_function():
    states(relu_neuron.with_grad_function, {"da/dw": 3.0, "da/db": 1.0})


def test_perceptron_definition():
    model = multilayer_perceptron.create()
    assert [tuple(p.shape) for p in model.parameters()] == [
        (128, 784),
        (128,),
        (256, 128),
        (256,),
        (10, 256),
        (10,),
    ]
    images, _ = multilayer_perceptron.batches(1)[0]
    logits, log_probas = model(torch.from_numpy(images).view(-1, 28 * 28))
    twin_logits, twin_log_probas = multilayer_perceptron.EngineMultilayerPerceptron(model)(
        images.reshape(-1, 784)
    )
    np.testing.assert_allclose(twin_logits.data, logits.detach().numpy(), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(twin_log_probas.data, log_probas.detach().numpy(), rtol=1e-10)
    np.testing.assert_allclose(np.exp(twin_log_probas.data).sum(axis=1), 1)  # they are log-probabilities


def test_perceptron_creation_is_seeded():
    first, second, other = (multilayer_perceptron.create(seed) for seed in (1, 1, 2))
    assert torch.equal(first.linear_1.weight, second.linear_1.weight)
    assert not torch.equal(first.linear_1.weight, other.linear_1.weight)


def test_perceptron_training_agrees_step_by_step():
    loader = multilayer_perceptron.batches(3)
    model = multilayer_perceptron.create()
    twin = multilayer_perceptron.EngineMultilayerPerceptron(model)
    by_torch = multilayer_perceptron.train_torch(model, loader, epochs=2)
    by_engine = multilayer_perceptron.train_engine(twin, loader, epochs=2)
    np.testing.assert_allclose(by_engine["loss"], by_torch["loss"], rtol=1e-12)
    assert len(by_torch["gradients"]) == 6
    for step_e, step_t in zip(by_engine["gradients"], by_torch["gradients"], strict=True):
        for e, t in zip(step_e, step_t, strict=True):
            np.testing.assert_allclose(e, t, rtol=1e-9, atol=1e-14)
    for p, q in zip(twin.parameters, model.parameters(), strict=True):
        np.testing.assert_allclose(p.data, q.detach().numpy(), rtol=1e-10, atol=1e-14)
    assert by_engine["accuracy"] == pytest.approx(by_torch["accuracy"])
    assert by_torch["loss"][-1] < by_torch["loss"][0]


def test_perceptron_gradients_are_zeroed_and_recorded_only_in_training():
    """Leaving zero_grad out changes the second step; under no_grad no graph is built."""
    loader = multilayer_perceptron.batches(1)
    model = multilayer_perceptron.create()
    multilayer_perceptron.train_torch(model, loader, learning_rate=0.0)
    once = model.linear_out.bias.grad.clone()
    multilayer_perceptron.train_torch(model, loader, learning_rate=0.0)
    assert torch.equal(model.linear_out.bias.grad, once)
    images, labels = loader[0]
    logits, _ = model(torch.from_numpy(images).view(-1, 784))
    torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels)).backward()
    torch.testing.assert_close(model.linear_out.bias.grad, 2 * once)
    twin = multilayer_perceptron.EngineMultilayerPerceptron(model)
    with torch.no_grad(), engine.no_grad():
        assert not model(torch.from_numpy(images).view(-1, 784))[0].requires_grad
        assert not twin(images.reshape(-1, 784))[0].requires_grad


def test_cross_entropy_of_the_wrong_output():
    """`cross_entropy(probas, targets)`.

    The slides' `probas` come from log_softmax, which is idempotent: loss and gradient stay right. With
    what the name says, probabilities, both are wrong, and the gradient is ten times too flat.
    """
    found = multilayer_perceptron.wrong_inputs_to_cross_entropy()
    for systems in found.values():
        assert systems["engine"]["loss"] == pytest.approx(systems["torch"]["loss"], rel=1e-12)
        np.testing.assert_allclose(
            systems["engine"]["gradient"], systems["torch"]["gradient"], rtol=1e-9, atol=1e-15
        )
    right, twice, wrong = (found[name]["engine"] for name in ("logits", "log-probabilities", "probabilities"))
    assert twice["loss"] == pytest.approx(right["loss"], rel=1e-12)
    np.testing.assert_allclose(twice["gradient"], right["gradient"], rtol=1e-9, atol=1e-15)
    assert abs(wrong["loss"] - right["loss"]) > 1e-3
    assert np.linalg.norm(wrong["gradient"]) < 0.2 * np.linalg.norm(right["gradient"])


def test_sgd_steps_against_the_gradient():
    """The slides write `w := w + learning_rate x gradient`; the optimizer subtracts."""
    distance = multilayer_perceptron.sgd_step_direction()
    assert distance["minus"] < 1e-15
    assert distance["plus"] > 1e-3


def test_hooks_run_on_call_and_not_on_forward():
    assert forward_hook.hook_skipped_by_forward() == {"after model(x)": 1, "after model.forward(x)": 1}


def test_printed_model():
    lines = str(forward_hook.TorchModel().net).splitlines()
    assert [line.split(": ")[1].split("(")[0] for line in lines[1:-1]] == [
        "Linear",
        "ReLU",
        "Linear",
        "ReLU",
        "Linear",
    ]
    assert "in_features=784, out_features=128" in lines[1]
    assert "in_features=128, out_features=256" in lines[3]
    assert "in_features=256, out_features=10" in lines[5]


@pytest.mark.parametrize("inplace", [True, False])
def test_forward_hook_collects_the_output(inplace):
    """Once while registered, not after removal; gradients are those of the other system."""
    found = forward_hook.collect(inplace)
    assert found["torch"]["calls"] == found["engine"]["calls"] == 1
    assert found["torch"]["output"].shape == (8, 256)
    np.testing.assert_allclose(found["engine"]["output"], found["torch"]["output"], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(
        found["engine"]["weight gradient"], found["torch"]["weight gradient"], rtol=1e-9, atol=1e-12
    )


def test_collected_output_is_rectified():
    """The slide's printout of a Linear layer shows zeros, nothing negative, and a ReLU as grad_fn.

    The in-place ReLU that follows has overwritten what the hook collected.
    """
    overwritten, kept = forward_hook.collect(inplace=True), forward_hook.collect(inplace=False)
    for system in ("torch", "engine"):
        assert kept[system]["output"].min() < 0
        assert overwritten[system]["output"].min() == 0
        np.testing.assert_array_equal(overwritten[system]["output"], np.maximum(0, kept[system]["output"]))
    assert "Relu" in overwritten["torch"]["made by"]
    assert overwritten["engine"]["made by"] == "setitem"

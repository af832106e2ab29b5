"""Every example of the notes of lecture 06, "Automatic Differentiation with PyTorch", in both systems."""

from __future__ import annotations

from itertools import pairwise

import first_gradients
import forward_reverse_cost
import graph_structures
import linear_fit
import linear_relu_net
import numpy as np
import pytest
import relu_neuron
import torch
import value_engine
from stated_numbers import agree, states

from gradcheck_suite import engine


def test_chain_rule_on_graphs():
    found = states(graph_structures.chain_rule, {})
    for result in found.values():
        assert result["backward"] == pytest.approx(result["product"], rel=1e-12)
    t = 0.7
    assert found["engine"]["backward"] == pytest.approx(
        np.exp(np.sin(t**2)) * np.cos(t**2) * 2 * t, rel=1e-12
    )


def test_relu_and_its_derivative():
    states(
        relu_neuron.relu_and_derivative,
        {"relu": [0.0, 0.0, 0.0, 0.5, 2.0], "derivative": [0.0, 0.0, 0.0, 1.0, 1.0]},
    )


def test_gradients_flow_only_through_the_active_branch():
    states(relu_neuron.inactive_neuron, {"a": 0.0, "da/dw": 0.0, "da/dx": 0.0, "da/db": 0.0})


def test_single_path_chain():
    found = agree(graph_structures.single_path)
    assert found["backward"] == pytest.approx(found["product"], rel=1e-12)


def test_weight_sharing_accumulates():
    found = agree(graph_structures.weight_sharing)
    assert found["backward"] == pytest.approx(found["upper path"] + found["lower path"], rel=1e-12)
    assert abs(found["backward"] - found["upper path"]) > 1e-3


def test_fully_connected_layer():
    found = agree(graph_structures.fully_connected_layer)
    for gradient, formula in (("dW", "d x^T"), ("dx", "W^T d"), ("db", "d")):
        np.testing.assert_allclose(found[gradient], found[formula], rtol=1e-12)


@pytest.mark.parametrize("system", ["torch", "engine"])
def test_reverse_mode_is_for_many_parameters(system):
    cost = forward_reverse_cost.costs(50, 1)[system]
    assert cost["reverse"] < cost["forward"] / 10


@pytest.mark.parametrize("system", ["torch", "engine"])
def test_forward_mode_is_for_few_inputs(system):
    cost = forward_reverse_cost.costs(1, 50)[system]
    assert cost["forward"] < cost["reverse"] / 5


def test_minimal_example():
    states(first_gradients.minimal, {"dy/dx": 7.0})


def test_net():
    model = linear_relu_net.Net()
    assert [tuple(p.shape) for p in model.parameters()] == [(1, 10), (1,)]
    x = torch.randn(4, 10)
    out = model(x)
    assert out.shape == (4, 1)
    weight, bias = (engine.tensor(p.detach().numpy()) for p in model.parameters())
    twin = (engine.tensor(x.numpy()) @ weight.T + bias).relu()
    np.testing.assert_allclose(twin.data, out.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_components_and_training_loop():
    by_torch = linear_relu_net.train_torch(linear_relu_net.new_model())
    by_engine = linear_relu_net.train_engine(linear_relu_net.new_model())
    np.testing.assert_allclose(by_engine["loss"], by_torch["loss"], rtol=1e-12)
    for step_e, step_t in zip(by_engine["gradients"], by_torch["gradients"], strict=True):
        for e, t in zip(step_e, step_t, strict=True):
            np.testing.assert_allclose(e, t, rtol=1e-10, atol=1e-15)
    for e, t in zip(by_engine["parameters"], by_torch["parameters"], strict=True):
        np.testing.assert_allclose(e, t, rtol=1e-12)
    assert all(later < earlier for earlier, later in pairwise(by_torch["loss"]))
    assert np.abs(by_torch["gradients"][0][0]).max() > 0


def test_zero_grad_prevents_accumulation():
    right = linear_relu_net.train_engine(linear_relu_net.new_model(), 3)["gradients"]
    stale_engine = linear_relu_net.train_engine(linear_relu_net.new_model(), 3, zero=False)["gradients"]
    stale_torch = linear_relu_net.train_torch(linear_relu_net.new_model(), 3, zero=False)["gradients"]
    for e, t in zip(stale_engine, stale_torch, strict=True):
        np.testing.assert_allclose(e[0], t[0], rtol=1e-10, atol=1e-15)
    np.testing.assert_array_equal(stale_engine[0][0], right[0][0])
    # the second step starts from the same parameters, so its gradient is the right one plus the stale one
    np.testing.assert_allclose(stale_engine[1][0], np.add(right[0][0], right[1][0]), rtol=1e-12)


def test_evaluation_mode_records_nothing():
    assert linear_relu_net.evaluate(linear_relu_net.new_model()) == {
        "training": False,
        "requires_grad": False,
        "shape": [32, 1],
    }


def test_same_device():
    """Model and data move together; mixing devices is an error. torch only: the engine lives on the CPU."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    moved = linear_relu_net.train_torch(linear_relu_net.new_model(), 2, device)["loss"]
    np.testing.assert_allclose(
        moved, linear_relu_net.train_torch(linear_relu_net.new_model(), 2)["loss"], rtol=1e-9
    )
    with pytest.raises(RuntimeError, match="device"):
        linear_relu_net.new_model()(torch.ones(1, 10, device="meta", dtype=torch.float64))


def test_shapes_values_and_gradients_can_be_inspected():
    graph = value_engine.labelled_graph()
    assert graph["y"].shape == ()
    assert graph["y"].item() == 4.0
    gradient = graph["x"].grad
    assert gradient is not None
    assert gradient.item() == -3.0
    model = linear_relu_net.new_model()
    linear_relu_net.train_torch(model, 1)
    for p in model.parameters():
        assert p.grad is not None
        assert p.grad.shape == p.shape


def test_graph_can_be_visualised():
    lines = engine.render(value_engine.labelled_graph()["y"]).splitlines()
    assert [line.split()[1] for line in lines] == ["x", "w", "a", "b", "y"]
    assert "multiply(%0, %1)" in lines[2]
    assert "add(%2, %3)" in lines[4]


def test_learning_rate_decides_divergence():
    good = agree(linear_fit.descend_parabola, 0.1)["x"]
    bad = agree(linear_fit.descend_parabola, 1.1)["x"]
    assert abs(good[-1]) < abs(good[0]) < abs(bad[-1])


def test_worked_relu_neuron_forward():
    states(relu_neuron.forward_pass, {"u": 6.0, "v": 7.0, "a": 7.0})


def test_worked_relu_neuron_local_derivatives():
    x, w = 3.0, 2.0
    states(
        relu_neuron.local_derivatives,
        {"da/dv": 1.0, "dv/du": 1.0, "du/dw": x, "du/dx": w, "dv/db": 1.0},
    )


def test_worked_relu_neuron_gradients():
    states(relu_neuron.backward_pass, {"da/dw": 3.0, "da/db": 1.0, "da/dx": 2.0, "da/du": 1.0, "da/dv": 1.0})

"""Every example of "Chapter 4: Autograd & Gradients", in both systems."""

from __future__ import annotations

import accumulation
import custom_function
import first_gradients
import linear_fit
import numpy as np
import optimization_tips
import pitfalls
import pytest
import tracking
from side_by_side import run_both
from stated_numbers import agree, states


def test_enabling_gradient_tracking():
    states(
        tracking.enabling_with_leaf,
        {
            "x": [2.0, 3.0],
            "x.requires_grad": True,
            "x.is_leaf": True,
            "x.grad": None,
            "y before": False,
            "y now": True,
        },
    )


def test_basic_example():
    states(first_gradients.square_at_three, {"y": [9.0], "dy/dx": [6.0]})


def test_multi_step_computation():
    states(
        first_gradients.multi_step,
        {"y": [4.0], "z": [12.0], "w": [17.0], "dw/dx": [12.0], "dw/da": [4.0]},
    )


def test_vector_gradients():
    states(first_gradients.vector, {"y": 14.0, "dy/dx": [2.0, 4.0, 6.0]})


def test_non_scalar_backward():
    states(first_gradients.non_scalar, {"y": [1.0, 4.0, 9.0], "gradient": [2.0, 4.0, 6.0]})


def test_non_scalar_needs_a_gradient_argument():
    found = states(first_gradients.non_scalar_without_cotangent, {"gradient": None})
    assert "scalar outputs" in found["torch"]["error"]
    assert "no cotangent was given" in found["engine"]["error"]


def test_gradient_accumulation():
    states(
        accumulation.three_passes,
        {"after first": 6.0, "after second": 33.0, "after zeroing": 0.0, "after third": 6.0},
    )


def test_no_gradient_context():
    states(tracking.inside_no_grad, {"y": True, "z": False, "w": True})


def test_detach():
    """The commented line, w.backward(), is an error in both; the original graph still works."""
    found = states(
        tracking.backward_through_detached,
        {"y": True, "y_detached": False, "w": False, "dz/dx": [192.0]},
    )
    assert "does not require grad" in found["torch"]["error"]
    assert "does not require grad" in found["engine"]["error"]


def test_set_gradient_enabled():
    states(tracking.switched, {"x": True, "y": False, "z": True})


def test_understanding_the_graph():
    found = states(tracking.linear_then_square, {"y": [7.0], "z": [49.0], "x made by": None})
    assert (found["torch"]["z made by"], found["torch"]["y made by"]) == ("PowBackward0", "AddBackward0")
    assert (found["engine"]["z made by"], found["engine"]["y made by"]) == ("power", "add")


def test_leaf_and_non_leaf():
    states(
        tracking.leaves,
        {
            "x.is_leaf": True,
            "y.is_leaf": False,
            "z.is_leaf": False,
            "x.grad": [2.0],
            "y.grad": None,
            "z.grad": None,
        },
    )


def test_retaining_gradients():
    """dz/dy = 3 y^2 = 48, dz/dx = 48 * 2 x = 192."""
    states(tracking.retained, {"y.grad": [48.0], "x.grad": [192.0]})


def test_linear_regression():
    """The engine follows torch over all 100 epochs, in double and in the document's single precision."""
    data = linear_fit.regression_data()
    agree(linear_fit.linear_regression, linear_fit.in_float64(data), rel=1e-11)
    history = agree(linear_fit.linear_regression, data, rel=1e-4)
    assert len(history["loss"]) == 100
    assert history["loss"][-1] < 0.1 < history["loss"][0]
    # 100 epochs are on the way to w = 2, b = 1 and not there yet
    assert history["w"][0] < history["w"][-1] < 2
    assert history["w"][-1] == pytest.approx(2, abs=0.25)
    assert history["b"][-1] == pytest.approx(1, abs=0.25)


def test_linear_regression_arrives():
    """Given 1000 epochs it reaches the least-squares line, which is the true one up to the noise."""
    data = linear_fit.in_float64(linear_fit.regression_data())
    line = linear_fit.closed_form(data)
    for history in run_both(linear_fit.linear_regression, data, 1000).values():
        assert history["w"][-1] == pytest.approx(line["w"], abs=1e-6)
        assert history["b"][-1] == pytest.approx(line["b"], abs=1e-6)
    assert line["w"] == pytest.approx(2, abs=0.05)
    assert line["b"] == pytest.approx(1, abs=0.05)


def test_gradient_descent_on_a_parabola():
    """From -4 towards 0: every step multiplies by 0.8."""
    history = agree(linear_fit.descend_parabola)["x"]
    np.testing.assert_allclose(history, -4 * 0.8 ** np.arange(21), rtol=1e-12)
    assert f"{history[-1]:.4f}" == "-0.0461"


def test_second_derivatives():
    """First derivative 3 x^2 = 12, second derivative 6 x = 12."""
    states(pitfalls.second_derivative, {"first": [12.0], "second": [12.0]})


def test_in_place_pitfall_is_an_error():
    """Already at `x += 1`, before any backward; the leaf keeps its value."""
    found = states(pitfalls.in_place_on_leaf, {"x": [1.0]})
    assert "in-place operation" in found["torch"]["error"]
    assert "leaf that requires grad" in found["engine"]["error"]


def test_in_place_pitfall_new_tensor():
    """The document prints x.grad after `x = x + 1`: that x is no leaf, so it prints None; the leaf has 4."""
    states(pitfalls.new_tensor_instead, {"x.grad": None, "gradient of the leaf": [4.0]})


def test_in_place_pitfall_saved_tensor():
    found = states(pitfalls.overwritten_saved_tensor, {"x.grad": None})
    assert "modified by an inplace operation" in found["torch"]["error"]
    assert "add_ overwrote it in place" in found["engine"]["error"]
    assert pitfalls.kinds_of_error() == {
        "overwritten": "InplaceError",
        "leaf": "EngineError",
        "freed": "GraphFreedError",
    }


def test_forgetting_to_zero_pitfall():
    states(pitfalls.forgetting_to_zero, {"iteration 1": 4.0, "iteration 2": 8.0, "iteration 3": 4.0})


def test_multiple_backward_pitfall():
    states(pitfalls.two_backwards, {"first": 4.0, "second": 4.0})


def test_multiple_backward_without_retaining():
    found = states(pitfalls.two_backwards_without_retaining, {"x.grad": 4.0})
    assert "backward through the graph a second time" in found["torch"]["error"]
    assert "freed by an earlier backward" in found["engine"]["error"]


def test_custom_function():
    found = states(custom_function.custom_square, {"x": [3.0], "y": [9.0], "dy/dx": [6.0]})
    assert found["torch"]["made by"] == "TorchSquareBackward"
    assert found["engine"]["made by"] == "EngineSquare"


def test_custom_function_in_a_larger_graph():
    found = agree(custom_function.inside_a_larger_graph)
    for order in ("", ", second"):
        np.testing.assert_allclose(found["MySquare" + order], found["x * x" + order], rtol=1e-12)


def test_exercise_basic_gradients():
    states(first_gradients.exercise, {"f": [39.0], "df/dx": 12.0, "df/dy": 31.0})


@pytest.mark.parametrize("start", [1.5, -0.3])
def test_exercise_training_loop(start):
    """loss = 4 w^2 falls by 0.92^2 per epoch, whatever the random start."""
    found = agree(linear_fit.training_pattern, start)
    np.testing.assert_allclose(found["w"], [start * 0.92**10], rtol=1e-12)
    np.testing.assert_allclose(found["loss"], 4 * (start * 0.92 ** np.arange(10)) ** 2, rtol=1e-12)


def test_tip_no_grad_for_inference():
    states(optimization_tips.inference, {"requires_grad": False, "made by": None})


def test_tip_detached_loss_value():
    states(optimization_tips.detached_loss, {"type": "float", "loss still has a graph": True})
    agree(optimization_tips.detached_loss)


def test_tip_checkpointing():
    """Same gradients; the price is one more forward of the block."""
    found = agree(optimization_tips.checkpointed, rel=1e-10)
    for name in ("x", "w"):
        np.testing.assert_allclose(found[f"{name}, checkpointed"], found[name], rtol=1e-12)
    price = optimization_tips.price_of_checkpointing()
    assert price["checkpointed"] == price["plain"] + price["block alone"]


def test_tip_gradient_clipping():
    found = agree(optimization_tips.clipped, rel=1e-10)
    assert found["norm before"] > 10
    assert found["norm after"] == pytest.approx(1, abs=1e-5)
    assert agree(optimization_tips.clipped, 1e6)["norm after"] == pytest.approx(found["norm before"])

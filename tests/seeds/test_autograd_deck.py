"""Every example of the slide deck "Automatic Differentiation (Autograd)", in both systems."""

from __future__ import annotations

from itertools import pairwise

import accumulation
import first_gradients
import linear_fit
import tracking
from stated_numbers import agree, states


def test_learning_process():
    """Forward, loss, gradients, update, repeat: the loss falls at every step."""
    found = agree(linear_fit.learning_loop)
    assert all(later < earlier for earlier, later in pairwise(found["loss"]))


def test_gradient_gives_direction_and_magnitude():
    """w must rise from 0 to 2: its gradient is negative, and shrinks on the way."""
    slopes = agree(linear_fit.learning_loop)["w.grad"]
    assert all(slope < 0 for slope in slopes)
    assert all(abs(later) < abs(earlier) for earlier, later in pairwise(slopes))


def test_enabling_gradient_tracking():
    states(tracking.enabling, {"default": False, "at creation": True, "in place": True, "returned": True})


def test_what_gets_tracked():
    found = states(tracking.what_is_tracked, {"y": [4.0], "z": [12.0]})
    assert (found["torch"]["y made by"], found["torch"]["z made by"]) == ("PowBackward0", "MulBackward0")
    assert (found["engine"]["y made by"], found["engine"]["z made by"]) == ("power", "multiply")


def test_only_for_floats():
    found = states(tracking.only_floats, {})
    assert "floating point" in found["torch"]["error"]
    assert "dtype is int64" in found["engine"]["error"]


def test_simple_example():
    states(first_gradients.square_at_two, {"y": [4.0], "dy/dx": [4.0]})


def test_multiple_variables():
    states(first_gradients.product, {"y": [6.0], "dy/dx": [3.0], "dy/dw": [2.0]})


def test_chain_rule_in_action():
    states(first_gradients.chain_rule, {"dy/dx": [300.0], "by hand": 300.0})


def test_computation_graph():
    states(first_gradients.computation_graph, {"z": [6.0], "out": 6.0, "x.grad": [3.0], "y.grad": [2.0]})


def test_values_flow_down_the_graph():
    found = states(first_gradients.computation_graph, {})
    assert found["torch"]["operations"] == [None, "MulBackward0", "SumBackward0"]
    assert found["engine"]["operations"] == [None, "multiply", "sum"]


def test_gradients_flow_up_the_graph():
    states(first_gradients.computation_graph, {"dout/dz": [1.0]})


def test_accumulation_problem():
    states(accumulation.adding_up, {"first": 4.0, "second": 16.0})


def test_zero_grad_solution():
    states(accumulation.clearing, {"first": 4.0, "second": 12.0})
    states(accumulation.clearing_with_none, {"second": 12.0})


def test_accumulation_across_mini_batches():
    for result in states(accumulation.mini_batches, {}).values():
        assert result["two halves"] == result["whole batch"] != 0


def test_no_grad_context():
    states(tracking.inside_no_grad, {"z": False, "w": True})


def test_no_grad_builds_no_graph():
    states(tracking.inside_no_grad, {"z made by": None, "values are the same": True})


def test_detach():
    """The detached tensor has no gradient and shares the data: writing to it shows in y (4 becomes 5)."""
    states(tracking.detached, {"y": True, "y_detached": False, "y after writing": [5.0]})


def test_inference_mode():
    """torch only. "Can't even enable requires_grad inside": inside, the flag has no effect; outside, it raises."""
    found = tracking.inference_mode()
    assert found["y.requires_grad"] is False
    assert found["y.is_inference"] is True
    assert found["recorded inside"] is False
    assert "inference tensor" in found["enable outside"]
    assert "Inference tensors cannot be saved" in found["use in a graph"]


def test_putting_it_together():
    """dL/dw = -2 mean(x y) = -68/3, dL/db = -2 mean(y) = -10."""
    states(linear_fit.one_step, {"loss": 83 / 3, "w.grad": [-68 / 3], "b.grad": [-10.0]})

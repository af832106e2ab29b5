"""Every example of "Automatic Differentiation: The Magic of PyTorch", in both systems."""

from __future__ import annotations

import sys

import forward_reverse_cost
import graph_builder
import numpy as np
import pytest
import three_ways
import value_engine
from side_by_side import SYSTEMS, numbers, run_both
from stated_numbers import states

from gradcheck_suite import engine


def test_not_numerical_differentiation():
    """Finite differences are imprecise at every step size and run the function once per input."""
    exact = three_ways.by_formula()
    for system, gradient in run_both(three_ways.by_backward).items():
        np.testing.assert_allclose(gradient, exact, rtol=1e-13, err_msg=system)
    for step in 10.0 ** -np.arange(1, 15):
        gradient, calls = three_ways.by_differences(step)
        assert calls == three_ways.SIZE + 1
        assert np.abs(gradient - exact).max() > 1e-10


def test_not_symbolic_differentiation():
    """The formula doubles with every squaring; the operations grow by a constant number."""
    assert three_ways.symbolic_growth(9) > 1.9 * three_ways.symbolic_growth(8)
    counts = [three_ways.automatic_growth(depth)["operations"] for depth in range(2, 8)]
    assert len(set(np.diff(counts))) == 1
    found = three_ways.automatic_growth(8)
    assert found["derivative"] == pytest.approx(found["exact"], rel=1e-12)


def test_computational_graph():
    """y = (x + w) b: inputs x, w, b, an intermediate a, the output y."""
    states(graph_builder.gradients, {"dy/dx": 3.0, "dy/dw": 3.0, "dy/db": 3.0})
    assert [line.split()[1] for line in graph_builder.printed_graph().splitlines()] == [
        "x",
        "w",
        "a",
        "b",
        "y",
    ]


def jacobian(system: str, mode: str, inputs: int, outputs: int):
    found, _ = forward_reverse_cost.MODES[system][mode](inputs, outputs)
    return found


@pytest.mark.parametrize("system", ["torch", "engine"])
@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_both_modes_compute_the_jacobian(system, mode):
    a, x = forward_reverse_cost.problem(3, 5)
    exact = (1 - np.tanh(a @ x) ** 2)[:, None] * a
    np.testing.assert_allclose(jacobian(system, mode, 3, 5), exact, rtol=1e-12)


@pytest.mark.parametrize("system", ["torch", "engine"])
def test_forward_mode_costs_one_pass_per_input(system):
    """Proportional to the inputs, whatever the outputs; best for few inputs and many outputs."""
    count = {n: forward_reverse_cost.costs(*n)[system]["forward"] for n in ((1, 8), (2, 8), (10, 8), (2, 50))}
    assert count[2, 8] == 2 * count[1, 8]
    assert count[10, 8] == 10 * count[1, 8]
    assert count[2, 50] == count[2, 8]
    few_to_many = forward_reverse_cost.costs(2, 50)[system]
    assert few_to_many["forward"] < few_to_many["reverse"]


@pytest.mark.parametrize("system", ["torch", "engine"])
def test_reverse_mode_costs_one_pass_per_output(system):
    """The forward once, then proportional to the outputs, whatever the inputs; best for many to few."""
    count = {n: forward_reverse_cost.costs(*n)[system]["reverse"] for n in ((8, 1), (8, 2), (8, 10), (50, 2))}
    one_pass = count[8, 2] - count[8, 1]
    assert count[8, 10] == count[8, 1] + 9 * one_pass
    assert count[50, 2] == count[8, 2]
    many_to_few = forward_reverse_cost.costs(50, 2)[system]
    assert many_to_few["reverse"] < many_to_few["forward"]


def test_all_gradients_in_one_pass():
    """A loss of ten or of a million parameters: the same number of operations."""
    small, large = forward_reverse_cost.million_gradients().values()
    assert small == large > 0


def test_autograd_from_scratch():
    """The document prints y = 4 and dy/dx = -3."""
    found = value_engine.with_value()
    assert (found["y"], found["dy/dx"]) == (4.0, -3.0)
    states(value_engine.with_tensors, found)
    assert repr(value_engine.Value(4.0)) == "Value(data=4.0)"


def test_labels_and_printout_of_the_engine():
    graph = value_engine.labelled_graph()
    assert list(graph) == ["x", "w", "b", "a", "y"]
    assert engine.render(graph["y"]).splitlines() == [
        "%0  x  leaf              [] float64  = 2  grad = -3",
        "%1  w  leaf              [] float64  = -3  grad = 2",
        "%2  a  multiply(%0, %1)  [] float64  = -6  grad = 1",
        "%3  b  leaf              [] float64  = 10  grad = 1",
        "%4  y  add(%2, %3)       [] float64  = 4",
    ]


def test_shared_value_gets_both_gradients():
    assert value_engine.shared_value(3.0) == {"Value": 7.0, "engine": 7.0}


def test_deep_graph_needs_a_loop():
    """What the document's recursive sort cannot do."""
    assert value_engine.deep_chain(20) == {"Value": 1.0, "engine": 1.0}
    assert value_engine.deep_chain(2 * sys.getrecursionlimit()) == {"Value": "RecursionError", "engine": 1.0}


@pytest.mark.parametrize("system", ["torch", "engine"])
def test_graph_builder_forward(system):
    """Values flow up: 2 + 1 = 3, then 3 x 3 = 9."""

    steps = [(name, numbers(value)) for name, value in graph_builder.forward_steps(SYSTEMS[system])]
    assert steps == [("x", 2.0), ("w", 1.0), ("b", 3.0), ("a", 3.0), ("y", 9.0)]


@pytest.mark.parametrize("system", ["torch", "engine"])
def test_graph_builder_backward(system):
    """Gradients flow down: dy/dy = 1, then to a and b, then to x and w."""

    steps = graph_builder.backward_steps(SYSTEMS[system])
    order = [name for name, _ in steps]
    assert dict(steps) == {"y": 1.0, "a": 3.0, "b": 3.0, "x": 3.0, "w": 3.0}
    assert order[0] == "y"
    assert order.index("a") < min(order.index("x"), order.index("w"))

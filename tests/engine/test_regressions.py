"""Faults that were found in use."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from gradcheck_suite import engine
from gradcheck_suite.engine import ops as e


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.sum(),
        lambda x: e.mean(x),
        lambda x: x[0],
        lambda x: e.reshape(x, shape=(2, 1))[1, 0],
        lambda x: e.sum(e.concatenate([x, x], axis=0)),
        lambda x: e.sum(e.pad(x, widths=((1, 1),))),
    ],
)
def test_a_node_that_saved_only_shapes_may_run_again(function):
    x = engine.tensor([2.0, 3.0], requires_grad=True)
    y = function(x)
    y.backward()
    once = x.grad.data.copy()
    y.backward()
    np.testing.assert_array_equal(x.grad.data, 2 * once)


def test_a_gradient_of_another_shape_is_refused():
    x = engine.tensor([2.0], requires_grad=True)
    x.grad = engine.tensor([5.0, 3.0])
    with pytest.raises(engine.EngineError, match=r"shape"):
        (x * 2.0).sum().backward()


def test_a_mean_over_nothing_is_nan_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(e.mean(np.zeros((2, 0)), axis=1).data).all()
        assert e.mean(np.zeros((2, 0)), axis=0).shape == (0,)
        assert e.mean(np.zeros((0, 2)), axis=0, keepdims=True).shape == (1, 2)

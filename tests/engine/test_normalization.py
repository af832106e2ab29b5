"""Softmax, normalisations and attention against their definitions and torch's forward."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special

from gradcheck_suite.engine import Tensor, grad
from gradcheck_suite.engine import ops as e

rng = np.random.default_rng(7)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_softmax_is_scipys(axis):
    x = rng.standard_normal((3, 4, 5)) * 30
    np.testing.assert_allclose(e.softmax(x, axis=axis).data, scipy.special.softmax(x, axis), rtol=1e-12)
    np.testing.assert_allclose(
        e.log_softmax(x, axis=axis).data, scipy.special.log_softmax(x, axis), rtol=1e-12
    )
    np.testing.assert_allclose(e.safe_softmax(x, axis=axis).data, scipy.special.softmax(x, axis), rtol=1e-12)


def test_softmax_of_extremes():
    assert np.isnan(e.softmax(np.full(3, -np.inf)).data).all()
    np.testing.assert_array_equal(e.safe_softmax(np.full(3, -np.inf)).data, 0)
    np.testing.assert_array_equal(e.softmax(np.array([-np.inf, 0.0])).data, [0, 1])
    np.testing.assert_array_equal(e.softmax(np.array([1e300, 0.0])).data, [1, 0])
    assert e.softmax(np.float64(3.0)).data == 1
    assert e.log_softmax(np.float64(3.0)).data == 0
    assert e.softmax(np.zeros((0, 3))).shape == (0, 3)
    assert e.softmax(np.zeros((2, 0))).shape == (2, 0)


def test_masked_elements_get_no_weight_and_no_gradient():
    x = Tensor(rng.standard_normal((2, 3)), requires_grad=True)
    p = e.safe_softmax(x, allowed=np.array([[True, False, True], [False, False, False]]))
    p.backward(Tensor(rng.standard_normal((2, 3))))
    assert p.data[0, 1] == 0
    np.testing.assert_array_equal(p.data[1], 0)
    assert x.grad.data[0, 1] == 0
    np.testing.assert_array_equal(x.grad.data[1], 0)


@pytest.mark.parametrize("axes", [(-1,), (1, 2), (0, 2)])
@pytest.mark.parametrize("eps", [1e-5, 0.3])
def test_standardize_is_its_definition(axes, eps):
    x = rng.standard_normal((3, 4, 5)) + 1e4  # a large mean: no cancellation in the variance
    normal, mean, rstd = e.standardize(x, axes=axes, eps=eps)
    np.testing.assert_allclose(mean.data, x.mean(axes, keepdims=True))
    np.testing.assert_allclose(rstd.data, (x.var(axes, keepdims=True) + eps) ** -0.5, rtol=1e-9)
    np.testing.assert_allclose(normal.data, (x - mean.data) * rstd.data, atol=1e-9)


def test_statistics_are_differentiable_too():
    x = Tensor(rng.standard_normal((2, 5)), requires_grad=True)
    _, mean, rstd = e.standardize(x, axes=(-1,), eps=0.1)
    g1, g2 = rng.standard_normal((2, 1)), rng.standard_normal((2, 1))
    (gx,) = grad((mean, rstd), [x], cotangents=(Tensor(g1), Tensor(g2)))
    centred = x.data - x.data.mean(-1, keepdims=True)
    expected = g1 / 5 - g2 * rstd.data**3 * centred / 5
    np.testing.assert_allclose(gx.data, expected, atol=1e-12)


def _tensors(*arrays):
    torch = pytest.importorskip("torch")
    return torch, *(None if a is None else torch.tensor(a) for a in arrays)


def _optional(flag, *shape):
    return rng.standard_normal(shape) if flag else None


@pytest.mark.parametrize(("weighted", "biased"), [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("axes", [(-1,), (-2, -1)])
def test_layer_norm_agrees_with_torch(weighted, biased, axes):
    x = rng.standard_normal((2, 3, 4))
    shape = x.shape[-len(axes) :]
    w, b = _optional(weighted, *shape), _optional(biased, *shape)
    torch, tx, tw, tb = _tensors(x, w, b)
    expected = torch.nn.functional.layer_norm(tx, shape, tw, tb, 1e-3)
    wrapped = [None if a is None else Tensor(a) for a in (w, b)]
    np.testing.assert_allclose(
        e.layer_norm(Tensor(x), *wrapped, axes=axes, eps=1e-3).data, expected.numpy(), atol=1e-13
    )


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5), (2, 3, 4, 5), (1, 3, 2, 2, 2)])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_agrees_with_torch(shape, training, affine):
    x, mean, var = rng.standard_normal(shape), rng.standard_normal(3), rng.uniform(0.5, 2, 3)
    w, b = _optional(affine, 3), _optional(affine, 3)
    torch, tx, tm, tv, tw, tb = _tensors(x, mean, var, w, b)
    expected = torch.nn.functional.batch_norm(tx, tm.clone(), tv.clone(), tw, tb, training, 0.1, 1e-3)
    wrapped = [None if a is None else Tensor(a) for a in (w, b, mean, var)]
    y = e.batch_norm(Tensor(x), *wrapped, training=training, eps=1e-3)
    np.testing.assert_allclose(y.data, expected.numpy(), atol=1e-12)


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_group_norm_agrees_with_torch(groups):
    x, w, b = rng.standard_normal((2, 6, 3, 4)), rng.standard_normal(6), rng.standard_normal(6)
    torch, tx, tw, tb = _tensors(x, w, b)
    expected = torch.nn.functional.group_norm(tx, groups, tw, tb, 1e-3)
    y = e.group_norm(Tensor(x), groups, Tensor(w), Tensor(b), eps=1e-3)
    np.testing.assert_allclose(y.data, expected.numpy(), atol=1e-13)


def test_rms_norm_is_its_definition():
    x, w = rng.standard_normal((2, 3, 4)), rng.standard_normal(4)
    expected = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-3) * w
    np.testing.assert_allclose(e.rms_norm(Tensor(x), Tensor(w), eps=1e-3).data, expected, atol=1e-14)


def naive_attention(q, k, v, mask=None, scale=None, causal=False):
    scores = q @ np.swapaxes(k, -1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if causal:
        scores = np.where(np.tri(*scores.shape[-2:], dtype=bool), scores, -np.inf)
    if mask is not None:
        scores = np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask
    return scipy.special.softmax(scores, axis=-1) @ v


@pytest.mark.parametrize("masked", [None, "boolean", "additive"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("scale", [None, 0.7])
def test_attention_is_its_definition(masked, causal, scale):
    q, k, v = (rng.standard_normal((2, 3, n, w)) for n, w in ((5, 4), (6, 4), (6, 2)))
    mask = None
    if masked == "boolean":
        mask = rng.uniform(size=(5, 6)) < 0.7
        mask[:, 0] = True
    elif masked == "additive":
        mask = rng.standard_normal((2, 1, 5, 6))
    y = e.attention(Tensor(q), Tensor(k), Tensor(v), mask=mask, scale=scale, causal=causal)
    np.testing.assert_allclose(y.data, naive_attention(q, k, v, mask, scale, causal), atol=1e-13)


def test_a_query_that_may_attend_nowhere_gives_zeros():
    q, k, v = (Tensor(rng.standard_normal((2, 3)), requires_grad=True) for _ in range(3))
    y = e.attention(q, k, v, mask=np.array([[False, False], [True, True]]))
    np.testing.assert_array_equal(y.data[0], 0)
    gq, gk, _ = grad(y, [q, k, v], cotangents=Tensor(np.ones((2, 3))))
    np.testing.assert_array_equal(gq.data[0], 0)
    assert np.isfinite(gk.data).all()


@pytest.mark.parametrize("mask_heads", [None, 1, 6])
def test_shared_key_heads_are_repeated(mask_heads):
    q, k, v = (rng.standard_normal((2, h, 4, 3)) for h in (6, 2, 2))
    mask = None if mask_heads is None else rng.standard_normal((2, mask_heads, 4, 4))
    expected = naive_attention(q, np.repeat(k, 3, 1), np.repeat(v, 3, 1), mask)
    np.testing.assert_allclose(
        e.attention(Tensor(q), Tensor(k), Tensor(v), mask=mask).data, expected, atol=1e-13
    )


@pytest.mark.parametrize("causal", [False, True])
def test_attention_agrees_with_torch(causal):
    q, k, v = (rng.standard_normal((2, 3, 5, 4)) for _ in range(3))
    torch, tq, tk, tv = _tensors(q, k, v)
    expected = torch.nn.functional.scaled_dot_product_attention(tq, tk, tv, is_causal=causal)
    y = e.attention(Tensor(q), Tensor(k), Tensor(v), causal=causal)
    np.testing.assert_allclose(y.data, expected.numpy(), atol=1e-13)

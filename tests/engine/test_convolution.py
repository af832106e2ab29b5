"""Convolution against its definition in plain loops, SciPy, and torch's forward."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.signal

from gradcheck_suite.engine import Tensor, grad
from gradcheck_suite.engine import ops as e

rng = np.random.default_rng(3)

CASES = [
    # input, weight, stride, padding, dilation, groups
    ((2, 3, 9), (4, 3, 3), 1, 0, 1, 1),
    ((2, 3, 9), (4, 3, 4), 2, 1, 2, 1),
    ((2, 4, 7, 6), (6, 2, 3, 2), (2, 1), (1, 0), 1, 2),
    ((3, 4, 8, 8), (8, 1, 3, 3), 1, 1, 1, 4),
    ((1, 3, 8, 8), (5, 3, 4, 4), 4, 0, 1, 1),
    ((2, 4, 5, 5), (6, 4, 1, 1), 1, 0, 1, 1),
    ((2, 4, 5, 6), (6, 2, 1, 1), 2, 0, 1, 2),
    ((2, 4, 5, 6), (6, 4, 1, 1), 2, 1, 1, 1),
    ((2, 3, 9, 9), (2, 3, 3, 3), 2, 2, 3, 1),
    ((2, 2, 5, 4, 6), (3, 2, 2, 3, 2), (1, 2, 2), (0, 1, 1), (2, 1, 1), 1),
    ((1, 2, 3, 3), (2, 2, 3, 3), 1, 2, 1, 1),
]


def naive(x, w, stride, padding, dilation, groups):
    """The definition: y[b, f, p] = sum over c, k of x[b, c, p * stride + k * dilation - padding] w[f, c, k]."""
    n = x.ndim - 2
    stride, padding, dilation = (np.broadcast_to(v, n) for v in (stride, padding, dilation))
    out = [
        (x.shape[2 + i] + 2 * padding[i] - dilation[i] * (w.shape[2 + i] - 1) - 1) // stride[i] + 1
        for i in range(n)
    ]
    y = np.zeros((x.shape[0], w.shape[0], *out), dtype=np.result_type(x, w))
    per_group = w.shape[0] // groups
    for f, position in itertools.product(range(w.shape[0]), np.ndindex(*out)):
        for c, k in itertools.product(range(w.shape[1]), np.ndindex(*w.shape[2:])):
            at = tuple(p * s + j * d - q for p, s, j, d, q in zip(position, stride, k, dilation, padding))
            if all(0 <= a < size for a, size in zip(at, x.shape[2:])):
                channel = f // per_group * w.shape[1] + c
                y[(slice(None), f, *position)] += x[(slice(None), channel, *at)] * w[(f, c, *k)]
    return y


@pytest.mark.parametrize(("shape", "weight", "stride", "padding", "dilation", "groups"), CASES)
def test_convolution_is_its_definition(shape, weight, stride, padding, dilation, groups):
    x, w = rng.standard_normal(shape), rng.standard_normal(weight)
    y = e.convolution(x, w, stride=stride, padding=padding, dilation=dilation, groups=groups)
    np.testing.assert_allclose(y.data, naive(x, w, stride, padding, dilation, groups), atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128])
def test_convolution_keeps_the_dtype(dtype):
    x, w = rng.standard_normal((2, 2, 5)).astype(dtype), rng.standard_normal((3, 2, 3)).astype(dtype)
    y = e.convolution(x, w, padding=1)
    assert y.dtype == dtype
    np.testing.assert_allclose(y.data, naive(x, w, 1, 1, 1, 1), rtol=1e-5, atol=1e-5)


def test_convolution_is_scipys_correlation():
    x, w = rng.standard_normal((1, 1, 7, 8)), rng.standard_normal((1, 1, 3, 2))
    expected = scipy.signal.correlate2d(x[0, 0], w[0, 0], mode="valid")
    np.testing.assert_allclose(e.convolution(x, w).data[0, 0], expected, atol=1e-13)


@pytest.mark.parametrize("padding", [((0, 1), (2, 0)), ((-1, 2), (1, -2)), ((-1, -1), (0, 0))])
@pytest.mark.parametrize("stride", [1, 2])
def test_padding_pairs_pad_and_crop(padding, stride):
    x, w = rng.standard_normal((2, 2, 6, 7)), rng.standard_normal((3, 2, 2, 3))
    grown = np.pad(x, [(0, 0), (0, 0), *((max(lo, 0), max(hi, 0)) for lo, hi in padding)])
    cut = tuple(slice(max(-lo, 0), grown.shape[i + 2] - max(-hi, 0)) for i, (lo, hi) in enumerate(padding))
    expected = naive(grown[(..., *cut)], w, stride, 0, 1, 1)
    a, b = Tensor(x, requires_grad=True), Tensor(w, requires_grad=True)
    y = e.convolution(a, b, stride=stride, padding=padding)
    np.testing.assert_allclose(y.data, expected, atol=1e-12)
    g = rng.standard_normal(y.shape)
    gx, gw = grad(y, [a, b], cotangents=Tensor(g))
    # <g, conv(x, w)> is linear in both arguments, so each gradient gives it back.
    assert np.vdot(gx.data, x) == pytest.approx(np.vdot(g, y.data))
    assert np.vdot(gw.data, w) == pytest.approx(np.vdot(g, y.data))


@pytest.mark.parametrize(("shape", "weight", "stride", "padding", "dilation", "groups"), CASES)
def test_adjoints_are_adjoint(shape, weight, stride, padding, dilation, groups):
    """<g, conv(dx, w)> = <input gradient, dx> for every direction: compared on all unit vectors' sum."""
    x, w, dx, dw = (rng.standard_normal(s) for s in (shape, weight, shape, weight))
    geometry = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    g = rng.standard_normal(e.convolution(x, w, **geometry).shape)
    gx = e.convolution_input_gradient(g, w, input_shape=shape[2:], **geometry)
    gw = e.convolution_weight_gradient(x, g, kernel_shape=weight[2:], **geometry)
    assert np.vdot(gx.data, dx) == pytest.approx(np.vdot(g, e.convolution(dx, w, **geometry).data))
    assert np.vdot(gw.data, dw) == pytest.approx(np.vdot(g, e.convolution(x, dw, **geometry).data))


@pytest.mark.parametrize("batch", [1, 3, 40])
def test_chunks_of_samples_do_not_change_the_result(batch):
    x, w = rng.standard_normal((batch, 16, 20, 20)), rng.standard_normal((4, 16, 3, 3))
    alone = np.concatenate([e.convolution(x[i : i + 1], w, padding=1).data for i in range(batch)])
    np.testing.assert_allclose(e.convolution(x, w, padding=1).data, alone, atol=1e-12)


@pytest.mark.parametrize("shape", [(0, 2, 5, 5), (2, 2, 5, 5)])
def test_empty_batch_and_empty_output(shape):
    w = rng.standard_normal((3, 2, 3, 3))
    x = Tensor(rng.standard_normal(shape), requires_grad=True)
    y = e.convolution(x, w)
    assert y.shape == (shape[0], 3, 3, 3)
    y.backward(Tensor(np.ones(y.shape)))
    assert x.grad.shape == shape


def test_errors_say_what_does_not_fit():
    x = rng.standard_normal((1, 3, 4, 4))
    with pytest.raises(ValueError, match=r"input channels 3, weight \(2, 2, 3, 3\), groups 1"):
        e.convolution(x, np.ones((2, 2, 3, 3)))
    with pytest.raises(ValueError, match="larger than the padded input"):
        e.convolution(x, np.ones((2, 3, 6, 6)))
    with pytest.raises(ValueError, match="has 3 entries for 2 spatial axes"):
        e.convolution(x, np.ones((2, 3, 2, 2)), stride=(1, 1, 1))
    with pytest.raises(ValueError, match="the cotangent is"):
        e.convolution_input_gradient(np.ones((1, 2, 2, 2)), np.ones((2, 3, 2, 2)), input_shape=(4, 4))


@pytest.mark.parametrize(("shape", "weight", "stride", "padding", "dilation", "groups"), CASES)
def test_forward_agrees_with_torch(shape, weight, stride, padding, dilation, groups):
    torch = pytest.importorskip("torch")
    x, w = rng.standard_normal(shape), rng.standard_normal(weight)
    conv = getattr(torch.nn.functional, f"conv{len(shape) - 2}d")
    expected = conv(torch.tensor(x), torch.tensor(w), None, stride, padding, dilation, groups)
    y = e.convolution(x, w, stride=stride, padding=padding, dilation=dilation, groups=groups)
    np.testing.assert_allclose(y.data, expected.numpy(), atol=1e-12)


@pytest.mark.parametrize(
    ("shape", "weight", "stride", "padding", "output_padding", "dilation", "groups"),
    [
        ((2, 3, 5), (3, 4, 3), 1, 0, 0, 1, 1),
        ((2, 4, 5, 4), (4, 3, 3, 2), 2, 1, 1, 1, 2),
        ((2, 4, 5, 4), (4, 3, 3, 3), (2, 3), (1, 0), (1, 2), 2, 1),
        ((1, 2, 3, 3), (2, 2, 2, 2), 1, 0, 1, 2, 1),  # more extra elements than the stride
        ((1, 2, 3, 2, 3), (2, 1, 2, 3, 2), 2, 1, 0, 1, 1),
        ((1, 2, 4), (2, 3, 1), 3, 0, 2, 1, 1),
    ],
)
def test_transposed_convolution_agrees_with_torch(
    shape, weight, stride, padding, output_padding, dilation, groups
):
    torch = pytest.importorskip("torch")
    x, w = rng.standard_normal(shape), rng.standard_normal(weight)
    conv = getattr(torch.nn.functional, f"conv_transpose{len(shape) - 2}d")
    expected = conv(torch.tensor(x), torch.tensor(w), None, stride, padding, output_padding, groups, dilation)
    y = e.convolution_transpose(
        x, w, stride=stride, padding=padding, output_padding=output_padding, dilation=dilation, groups=groups
    )
    np.testing.assert_allclose(y.data, expected.numpy(), atol=1e-12)

"""Fourier transforms against the defining sum, SciPy and torch."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.fft

from gradcheck_suite.engine import Tensor, grad
from gradcheck_suite.engine import ops as e

rng = np.random.default_rng(17)
NORMS = ["backward", "ortho", "forward"]


def test_fft_is_its_definition():
    x = rng.standard_normal(7) + 1j * rng.standard_normal(7)
    k = np.arange(7)
    matrix = np.exp(-2j * np.pi * np.outer(k, k) / 7)
    np.testing.assert_allclose(e.fft(x).data, matrix @ x, atol=1e-12)
    np.testing.assert_allclose(e.ifft(x).data, np.conj(matrix) @ x / 7, atol=1e-12)
    np.testing.assert_allclose(e.rfft(Tensor(x.real)).data, (matrix @ x.real)[:4], atol=1e-12)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("axes", [(-1,), (0, 2), (2, 1, 0)])
def test_values_are_scipys(norm, axes):
    z = rng.standard_normal((3, 4, 5)) + 1j * rng.standard_normal((3, 4, 5))
    np.testing.assert_allclose(e.fft(z, axes=axes, norm=norm).data, scipy.fft.fftn(z, axes=axes, norm=norm))
    np.testing.assert_allclose(e.ifft(z, axes=axes, norm=norm).data, scipy.fft.ifftn(z, axes=axes, norm=norm))
    expected = scipy.fft.rfftn(z.real, axes=axes, norm=norm)
    np.testing.assert_allclose(e.rfft(Tensor(z.real), axes=axes, norm=norm).data, expected, atol=1e-13)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("n", [None, 4, 5, 8, 11])
def test_half_transforms_cut_and_pad(norm, n):
    z = rng.standard_normal((2, 5)) + 1j * rng.standard_normal((2, 5))
    np.testing.assert_allclose(
        e.irfft(Tensor(z), n=n, norm=norm).data, np.fft.irfft(z, n=n, norm=norm), atol=1e-13
    )
    np.testing.assert_allclose(
        e.hfft(Tensor(z), n=n, norm=norm).data, np.fft.hfft(z, n=n, norm=norm), atol=1e-12
    )
    np.testing.assert_allclose(
        e.ihfft(Tensor(z.real), norm=norm).data, np.fft.ihfft(z.real, norm=norm), atol=1e-13
    )


@pytest.mark.parametrize("norm", NORMS)
def test_inverse_undoes_the_transform(norm):
    x = rng.standard_normal((3, 6, 5))
    back = e.irfft(e.rfft(Tensor(x), axes=(0, 2), norm=norm), n=5, axes=(0, 2), norm=norm)
    np.testing.assert_allclose(back.data, x, atol=1e-13)


def test_single_precision_stays_single():
    x = rng.standard_normal((2, 4)).astype(np.float32)
    assert e.fft(x).dtype == np.complex64
    assert e.irfft(e.rfft(Tensor(x))).dtype == np.float32


def test_gradient_of_the_spectrum_of_a_real_signal_is_real():
    x = Tensor(rng.standard_normal(6), requires_grad=True)
    y = e.fft(x)
    (g,) = grad(e.sum(e.real(y * e.conj(y))), [x])
    np.testing.assert_allclose(g.data, 2 * 6 * x.data, atol=1e-12)  # Parseval


@pytest.mark.parametrize("norm", NORMS)
def test_agrees_with_torch(norm):
    torch = pytest.importorskip("torch")
    x = rng.standard_normal((3, 4, 6))
    expected = torch.fft.rfftn(torch.tensor(x), dim=(1, 2), norm=norm)
    half = e.rfft(Tensor(x), axes=(1, 2), norm=norm)
    np.testing.assert_allclose(half.data, expected.numpy(), atol=1e-12)
    back = torch.fft.irfftn(expected, s=(4, 7), dim=(1, 2), norm=norm)
    np.testing.assert_allclose(e.irfft(half, n=7, axes=(1, 2), norm=norm).data, back.numpy(), atol=1e-12)

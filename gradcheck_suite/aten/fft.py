"""Fourier transforms; ``normalization`` is 0 none, 1 by the root of n, 2 by n."""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

from ..engine import ops as e
from .registry import meaning
from .values import axes_of

# NumPy names the direction that is divided by n; torch says by what the present direction is divided.
_FORWARD = {0: "backward", 1: "ortho", 2: "forward"}
_INVERSE = {0: "forward", 1: "ortho", 2: "backward"}


@meaning("aten::_fft_c2c")
def fft_c2c(self, dim, normalization, forward):
    if not len(dim):
        return self
    axes = axes_of(dim, self.ndim)
    if forward:
        return e.fft(self, axes=axes, norm=_FORWARD[normalization])
    return e.ifft(self, axes=axes, norm=_INVERSE[normalization])


@meaning("aten::_fft_r2c")
def fft_r2c(self, dim, normalization, onesided):
    axes = axes_of(dim, self.ndim)
    if onesided:
        return e.rfft(self, axes=axes, norm=_FORWARD[normalization])
    return e.fft(e.cast(self, dtype="complex128"), axes=axes, norm=_FORWARD[normalization])


@meaning("aten::_fft_c2r")
def fft_c2r(self, dim, normalization, last_dim_size):
    axes = axes_of(dim, self.ndim)
    return e.irfft(self, n=last_dim_size, axes=axes, norm=_INVERSE[normalization])

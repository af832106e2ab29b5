"""New tensors shaped after an old one, and numbers read out of a tensor.

Their contents do not depend on the contents of the old one, so they are taken as recorded, as constants.
"""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

from .registry import RECORDED, meaning


@meaning("aten::empty_like", "aten::zeros_like", "aten::ones_like")
def like(self, *, dtype=None, layout=None, device=None, pin_memory=None, memory_format=None):
    return RECORDED


@meaning("aten::full_like")
def full_like(self, fill_value, *, dtype=None, layout=None, device=None, pin_memory=None, memory_format=None):
    return RECORDED


@meaning("aten::new_empty", "aten::new_zeros", "aten::new_ones")
def new(self, size, *, dtype=None, layout=None, device=None, pin_memory=None):
    return RECORDED


@meaning("aten::new_full")
def new_full(self, size, fill_value, *, dtype=None, layout=None, device=None, pin_memory=None):
    return RECORDED


@meaning("aten::new_empty_strided")
def new_empty_strided(self, size, stride, *, dtype=None, layout=None, device=None, pin_memory=None):
    return RECORDED


@meaning("aten::_local_scalar_dense")
def item(self):
    return RECORDED


@meaning("aten::histc")
def histc(self, bins=100, min=0, max=0):
    """Counts: piecewise constant in the values."""
    return RECORDED

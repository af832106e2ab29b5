"""Scaled dot-product attention under the names of its kernels (Vaswani et al., 2017, equation 1)."""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

from ..engine import ops as e
from .registry import RECORDED, MeaningUnavailableError, meaning


def attend(query, key, value, mask, dropout_p, causal, scale):
    """``softmax(scale q k^T + mask) v`` over (batch, heads, length, width)."""
    if dropout_p:
        raise MeaningUnavailableError(
            f"replaying attention failed: dropout_p={dropout_p} inside the kernel. "
            "The kernel does not return which weights it dropped. Set dropout to 0 while checking."
        )
    return e.attention(query, key, value, mask=mask, scale=scale, causal=causal)


@meaning("aten::_scaled_dot_product_flash_attention_for_cpu")
def flash_attention_for_cpu(query, key, value, dropout_p=0.0, is_causal=False, *, attn_mask=None, scale=None):
    return attend(query, key, value, attn_mask, dropout_p, is_causal, scale), RECORDED


@meaning("aten::_scaled_dot_product_flash_attention")
def flash_attention(
    query, key, value, dropout_p=0.0, is_causal=False, return_debug_mask=False, *, scale=None
):
    return (attend(query, key, value, None, dropout_p, is_causal, scale), *(RECORDED,) * 8)


@meaning("aten::_scaled_dot_product_efficient_attention")
def efficient_attention(
    query, key, value, attn_bias, compute_log_sumexp, dropout_p=0.0, is_causal=False, *, scale=None
):
    return (attend(query, key, value, attn_bias, dropout_p, is_causal, scale), *(RECORDED,) * 3)


@meaning("aten::_scaled_dot_product_cudnn_attention")
def cudnn_attention(
    query,
    key,
    value,
    attn_bias,
    compute_log_sumexp,
    dropout_p=0.0,
    is_causal=False,
    return_debug_mask=False,
    *,
    scale=None,
):
    return (attend(query, key, value, attn_bias, dropout_p, is_causal, scale), *(RECORDED,) * 8)

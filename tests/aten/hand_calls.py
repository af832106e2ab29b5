"""Calls of the overloads that torch's own samples never reach.

Most run the overload itself on the CPU. Overloads that exist on a GPU only are compared with the operation that
computes the same thing on the CPU.
"""

from __future__ import annotations

from typing import Any

import torch

from .calls import Call, overload_of, snapshot
from .foreach_calls import fake_quantize_calls, foreach_calls
from .presence import excuse
from .sparse_calls import sparse_calls, upsampling_backwards

Arguments = tuple[tuple[Any, ...], dict[str, Any]]

F64 = torch.float64


def real(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=F64)


def positive(*shape: int) -> torch.Tensor:
    return torch.rand(shape, dtype=F64) + 0.5


def bits(*shape: int) -> torch.Tensor:
    return torch.rand(*shape) > 0.4


def integers(high: int, *shape: int) -> torch.Tensor:
    return torch.randint(high, shape)


def arguments(*args: Any, **kwargs: Any) -> Arguments:
    return args, kwargs


def on_cpu() -> dict[str, list[Arguments]]:
    """Arguments of overloads that run on the CPU."""
    image, kernel, bias = real(2, 3, 7, 6), real(4, 3, 3, 2), real(4)
    volume, cube = real(1, 2, 5, 4, 6), real(3, 2, 2, 3, 2)
    logs = real(6, 2, 5).log_softmax(2)
    labels, times, sizes = torch.tensor([[1, 2, 2], [3, 1, 0]]), (6, 5), (3, 2)
    ctc, alpha = torch.ops.aten._ctc_loss(logs, labels, times, sizes)
    vectors, scales = real(4, 3, 2), positive(4, 1, 1)
    weight, norms = torch.ops.aten._weight_norm_interface(vectors, scales, 0)
    theta = real(2, 2, 3)
    layer = [t.float() for t in (real(5, 2, 3), *rnn_weights(3, 4, 4), real(2, 4), real(2, 4))]
    flags = (False, [], 2, 4, 1, True, False, False, True)
    y, h, c, workspace = torch.ops.aten.mkldnn_rnn_layer(*layer, *flags)
    pulls = [torch.randn_like(t) for t in (y, h, c)]
    return {
        "aten::mkldnn_rnn_layer": [
            arguments(*layer, *flags),
            arguments(*layer, True, *flags[1:]),
        ],
        "aten::mkldnn_rnn_layer_backward": [
            arguments(*layer, y, h, c, *given, False, 2, 4, 1, True, True, False, [], False, workspace)
            for given in (pulls, [pulls[0], None, None])
        ],
        "aten::_euclidean_dist": [arguments(real(3, 4), real(2, 4))],
        "aten::_pack_padded_sequence_backward": [
            arguments(real(7, 2), [4, 3, 2], torch.tensor([3, 2, 1, 1]), False),
            arguments(real(7, 2), [3, 4, 2], torch.tensor([3, 2, 1, 1]), True),
        ],
        "aten::affine_grid_generator_backward": [arguments(real(2, 4, 5, 2), [2, 3, 4, 5], True)],
        "aten::_addmm_activation": [
            arguments(real(4), real(3, 2), real(2, 4)),
            arguments(real(4), real(3, 2), real(2, 4), beta=0.5, alpha=2),
        ],
        "aten::_batch_norm_no_update": [
            arguments(real(3, 4, 2), positive(4), real(4), real(4), positive(4), 0.1, 1e-5)
        ],
        "aten::_batch_norm_with_update_functional": [
            arguments(real(3, 4, 2), positive(4), real(4), real(4), positive(4), 0.1, 1e-5)
        ],
        "aten::_native_batch_norm_legit_functional": [
            arguments(real(3, 4, 2), positive(4), real(4), real(4), positive(4), True, 0.1, 1e-5)
        ],
        "aten::_native_batch_norm_legit_no_training": [
            arguments(real(3, 4, 2), positive(4), None, real(4), positive(4), 0.1, 1e-5)
        ],
        "aten::_convolution": [
            arguments(
                image, kernel, bias, [2, 1], [1, 0], [1, 1], False, [0, 0], 1, False, False, False, False
            )
        ],
        "aten::_slow_conv2d_forward": [arguments(image, kernel, [3, 2], bias, [1, 2], [1, 0])],
        "aten::slow_conv3d_forward": [arguments(volume, cube, [2, 3, 2], None, [1, 1, 2], [0, 1, 1])],
        "aten::slow_conv_dilated2d": [arguments(image, kernel, [3, 2], bias, [1, 1], [1, 1], [2, 1])],
        "aten::slow_conv_dilated3d": [
            arguments(volume, cube, [2, 3, 2], None, [1, 1, 1], [0, 1, 1], [1, 1, 2])
        ],
        "aten::mkldnn_convolution": [
            arguments(image.float(), kernel.float(), bias.float(), [1, 0], [1, 2], [1, 1], 1)
        ],
        "aten::_ctc_loss_backward": [
            arguments(positive(2), logs, labels, times, sizes, ctc, alpha, 0),
        ],
        "aten::_ctc_loss_backward.Tensor": [
            arguments(
                positive(2), logs, labels, torch.tensor(times), torch.tensor(sizes), ctc, alpha, 0, True
            ),
        ],
        "aten::_embedding_bag_forward_only": [
            arguments(real(5, 2), integers(5, 6), torch.tensor([0, 2, 2]), False, mode) for mode in range(3)
        ],
        "aten::_embedding_bag": [
            arguments(real(5, 2), integers(5, 6), torch.tensor([0, 2, 2]), False, 0, False, real(6)),
            arguments(real(5, 2), integers(5, 6), torch.tensor([0, 2, 6]), False, 1, False, None, True, 3),
            arguments(real(5, 2), integers(5, 6), torch.tensor([0, 3, 3]), False, 2),
        ],
        "aten::_fused_rms_norm": [
            arguments(real(3, 4), [4], positive(4), 1e-5),
            arguments(real(2, 3, 4), [3, 4], None, None),
        ],
        "aten::_grid_sampler_2d_cpu_fallback": [
            arguments(image.float(), real(2, 3, 4, 2).float() / 2, 0, 0, False)
        ],
        "aten::_grouped_mm": [
            arguments(real(2, 4, 8).bfloat16(), real(2, 8, 8).bfloat16()),
            arguments(
                real(6, 8).bfloat16(), real(2, 8, 8).bfloat16(), torch.tensor([2, 6], dtype=torch.int32)
            ),
            arguments(
                real(8, 16).bfloat16(), real(16, 8).bfloat16(), torch.tensor([8, 16], dtype=torch.int32)
            ),
        ],
        "aten::_index_put_impl_": [
            arguments(real(4, 3), [torch.tensor([0, 2])], real(2, 3)),
            arguments(real(4, 3), [None, torch.tensor([1, 1])], real(4, 2), True),
        ],
        "aten::_linalg_eigvals": [arguments(real(3, 3)), arguments(real(2, 4, 4))],
        "aten::_neg_view": [arguments(real(3))],
        "aten::_pack_padded_sequence": [
            arguments(real(4, 3, 2), torch.tensor([4, 2, 1]), False),
            arguments(real(3, 4, 2), torch.tensor([4, 4, 1]), True),
        ],
        "aten::_reshape_alias": [arguments(real(2, 6), [3, 4], [4, 1])],
        "aten::_sample_dirichlet": [arguments(positive(3))],
        "aten::_standard_gamma": [arguments(positive(3))],
        "aten::_unsafe_index.Tensor": [
            arguments(real(4, 3), [torch.tensor([0, 2]), torch.tensor([1, 1])]),
            arguments(real(4, 3), [None, torch.tensor([1, 1])]),
        ],
        "aten::_unsafe_index_put": [arguments(real(4, 3), [torch.tensor([0, 2])], real(2, 3), True)],
        "aten::_upsample_bicubic2d_aa": [
            arguments(image, [4, 9], False),
            arguments(image, [3, 3], True),
        ],
        "aten::_weight_norm_interface": [
            arguments(vectors, scales, 0),
            arguments(real(2, 3), positive(1, 3), 1),
        ],
        "aten::_weight_norm_interface_backward": [
            arguments(torch.randn_like(weight), vectors, scales, norms, 0)
        ],
        "aten::affine_grid_generator": [
            arguments(theta, [2, 3, 4, 5], False),
            arguments(real(1, 3, 4), [1, 1, 2, 3, 1], True),
        ],
        "aten::bernoulli.Tensor": [arguments(real(3), torch.rand(3, dtype=F64))],
        "aten::bernoulli.p": [arguments(real(3), 0.5)],
        "aten::clamp_max": [arguments(real(3, 4), 0.2)],
        "aten::copy": [arguments(real(2, 3), real(3)), arguments(real(2), integers(4, 2))],
        "aten::div.Scalar_mode": [
            arguments(real(5), 0.3, rounding_mode=mode) for mode in (None, "floor", "trunc")
        ],
        "aten::fill.Tensor": [arguments(real(2, 3), real())],
        "aten::floor_divide.Scalar": [arguments(real(5), 0.3)],
        "aten::fmod.Scalar": [arguments(real(5), 0.3)],
        "aten::grid_sampler_3d": [
            arguments(volume, real(1, 3, 2, 4, 3) / 2, mode, padding, aligned)
            for mode, padding, aligned in ((0, 0, True), (0, 1, False), (1, 2, False))
        ],
        "aten::grid_sampler_3d_backward": [
            arguments(
                real(1, 2, 3, 2, 4), volume, real(1, 3, 2, 4, 3) / 2, mode, padding, False, [True, True]
            )
            for mode, padding in ((0, 0), (0, 1), (1, 2))
        ],
        "aten::ldexp.Tensor": [arguments(real(3, 4), integers(5, 4))],
        "aten::lift": [arguments(real(2))],
        "aten::linear": [
            arguments(real(2, 3), real(4, 3), real(4)),
            arguments(real(2, 5, 3), real(4, 3)),
            arguments(real(3), real(3)),
        ],
        "aten::matmul": [arguments(real(2, 3, 4), real(4, 2)), arguments(real(4), real(4))],
        "aten::native_channel_shuffle": [arguments(real(2, 6, 3, 2), 3)],
        "aten::native_dropout": [arguments(real(4, 5), 0.3, True), arguments(real(4, 5), 0.3, False)],
        "aten::norm.Scalar": [arguments(real(3, 4), 3)],
        "aten::norm.ScalarOpt_dim_dtype": [arguments(real(3, 4), None, [1], True, dtype=F64)],
        "aten::norm.ScalarOpt_dtype": [arguments(real(3, 4), 1, dtype=F64)],
        "aten::normal.float_Tensor": [arguments(0.5, positive(3))],
        "aten::polygamma_": [arguments(positive(4), 2)],
        "aten::poisson": [arguments(positive(3))],
        "aten::rand_like": [arguments(real(2, 3))],
        "aten::remainder.Scalar": [arguments(real(5), 0.3), arguments(real(5), -0.7)],
        "aten::remainder.Scalar_Tensor": [arguments(2.5, real(4))],
        "aten::scatter.reduce": [
            arguments(real(3, 4), 1, integers(4, 3, 4), real(3, 4), reduce=kind)
            for kind in ("add", "multiply")
        ],
        "aten::scatter.value_reduce": [
            arguments(real(3, 4), 0, integers(3, 3, 4), 1.5, reduce=kind) for kind in ("add", "multiply")
        ],
        "aten::special_ndtr": [arguments(real(4))],
        "aten::special_xlog1py.other_scalar": [arguments(real(4), 1.5)],
        "aten::special_xlog1py.self_scalar": [arguments(1.5, positive(4))],
        "aten::special_zeta.other_scalar": [arguments(positive(4) + 1, 1.5)],
        "aten::special_zeta.self_scalar": [arguments(2.5, positive(4))],
        "aten::unsafe_chunk": [arguments(real(7, 2), 3), arguments(real(2, 6), 2, 1)],
        "aten::unsafe_split_with_sizes": [arguments(real(7, 2), [3, 4])],
        "aten::xlogy.Scalar_Other": [arguments(real(4), 1.5)],
        "aten::xlogy.Scalar_Self": [arguments(1.5, positive(4))],
        "aten::zero": [arguments(real(2, 3))],
        "torchvision::roi_align": [
            arguments(image, boxes(), 0.5, 2, 3, ratio, aligned)
            for ratio, aligned in ((2, False), (-1, True), (0, False))
        ],
        "torch_nn::_linear_cross_entropy_batch_chunked_no_reduction": [
            arguments(real(4, 3), real(5, 3), integers(5, 4), real(5), positive(5), 2, 2, "compact", F64)
        ],
        "torch_nn::_linear_cross_entropy_batch_chunked": [
            arguments(
                *(real(4, 3), real(5, 3), target, real(5), positive(5), kind, 2, 0.0, 2, "compact", F64),
                *(False, True, True, True),
            )
            for kind in ("mean", "sum")
            for target in (integers(5, 4), positive(4, 5).softmax(1))
        ],
    }


def boxes() -> torch.Tensor:
    """Regions inside, across the border of, and outside a (2, 3, 7, 6) image at scale 1/2."""
    return torch.tensor(
        [
            [0, 1.0, 2.0, 7.5, 9.0],
            [1, -3.0, -4.0, 5.0, 6.0],
            [1, 8.0, 3.0, 14.0, 20.0],
            [0, 4.0, 4.0, 4.1, 4.1],
        ],
        dtype=F64,
    )


def lstm_layer(x, w_ih, w_hh, b_ih, b_hh, h, c) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    outputs = []
    for step in x:
        h, c = torch.lstm_cell(step, (h, c), w_ih, w_hh, b_ih, b_hh)
        outputs.append(h)
    return torch.stack(outputs), h, c


def rnn_weights(features: int, hidden: int, gates: int) -> list[torch.Tensor]:
    rows = gates * hidden
    return [real(rows, features), real(rows, hidden), real(rows), real(rows)]


def with_reference() -> dict[str, list[tuple[Arguments, Any]]]:
    """Arguments of overloads that the CPU lacks, and the expected outputs."""
    image, kernel, spread = real(2, 3, 7, 6), real(4, 3, 3, 2), real(3, 4, 3, 2)
    query, key, value, mask = real(2, 2, 5, 4), real(2, 2, 6, 4), real(2, 2, 6, 4), real(2, 2, 5, 6)
    attention = torch.nn.functional.scaled_dot_product_attention
    gates, hidden_gates, cell, state = real(3, 8), real(3, 8), real(3, 2), real(3, 2)
    identity = torch.eye(8, dtype=F64)
    h, c = torch.lstm_cell(gates + hidden_gates, (torch.zeros(3, 2, dtype=F64), cell), identity,
                           torch.zeros(8, 2, dtype=F64), None, None)  # fmt: skip
    x, normal = real(3, 4, 2), (positive(4), real(4), real(4), positive(4))
    w = rnn_weights(3, 2, 4)
    u = rnn_weights(3, 2, 3)
    steps, start, memory = real(5, 2, 3), real(1, 2, 2), real(1, 2, 2)
    both = (torch.stack([start[0], real(2, 2)]), None)
    gru = torch.gru(steps, both[0], [*u, *u], True, 1, 0.0, False, True, False)
    lstm = lstm_layer(steps, *w, start[0], memory[0])
    leaf = [t.clone().requires_grad_() for t in (x, normal[0], normal[1])]
    pull = torch.randn_like(x)
    batch = torch.nn.functional.batch_norm(leaf[0], None, None, leaf[1], leaf[2], True, 0.1, 1e-5)
    batch_gradients = torch.autograd.grad(batch, leaf, pull)
    q, k, v, m = (t.clone().requires_grad_() for t in (query, key, value, mask))
    out_gradient = real(2, 2, 5, 4)
    masked_gradients = torch.autograd.grad(attention(q, k, v, m, scale=0.3), (q, k, v, m), out_gradient)
    causal_gradients = torch.autograd.grad(attention(q, k, v, is_causal=True), (q, k, v), out_gradient)
    unused = [None] * 6
    dense = torch.where(bits(3, 4), real(3, 4), 0.0)
    left, right = real(3, 2), real(2, 4)
    stored = dense != 0
    other = real(4, 2)
    each = dense[:, :, None] * other[None]
    count = stored.sum(1).clamp(min=1)[:, None]
    lowest = (
        each.masked_fill(~stored[:, :, None], torch.inf).amin(1).masked_fill(~stored.any(1)[:, None], 0.0)
    )
    depthwise = real(4, 1, 3, 2)
    four, depth, depth_kernel = real(2, 4, 7, 6), real(1, 2, 4, 5, 4), real(2, 1, 2, 2, 3)
    reset = torch.gru_cell(
        gates[:, :6], state, torch.eye(6, dtype=F64), torch.zeros(6, 2, dtype=F64), None, None
    )
    return {
        "aten::cudnn_convolution": [
            (
                arguments(image, kernel, [1, 0], [2, 1], [1, 1], 1, False, False, False),
                (torch.conv2d(image, kernel, None, [2, 1], [1, 0]),),
            )
        ],
        "aten::cudnn_convolution_transpose": [
            (
                arguments(image, spread, [1, 0], [1, 0], [2, 1], [1, 1], 1, False, False, False),
                (torch.conv_transpose2d(image, spread, None, [2, 1], [1, 0], [1, 0]),),
            )
        ],
        "aten::_conv_depthwise2d": [
            (
                arguments(four, depthwise, [3, 2], None, [1, 2], [1, 0], [1, 1]),
                (torch.conv2d(four, depthwise, None, [1, 2], [1, 0], 1, 4),),
            )
        ],
        "aten::conv_depthwise3d": [
            (
                arguments(depth, depth_kernel, [2, 2, 3], None, [1, 1, 1], [0, 1, 1], [1, 2, 1]),
                (torch.conv3d(depth, depth_kernel, None, 1, [0, 1, 1], [1, 2, 1], 2),),
            )
        ],
        "aten::cudnn_batch_norm": [
            (
                arguments(x, *normal, training, 0.1, 1e-5),
                (
                    torch.nn.functional.batch_norm(
                        x, normal[2].clone(), normal[3].clone(), *normal[:2], training, 0.1, 1e-5
                    ),
                    *[None] * 3,
                ),
            )
            for training in (True, False)
        ],
        "aten::cudnn_batch_norm_backward": [
            (arguments(x, pull, normal[0], None, None, None, None, 1e-5, real(1)), batch_gradients)
        ],
        "aten::_scaled_dot_product_flash_attention": [
            (
                arguments(query, key, value, 0.0, True),
                (attention(query, key, value, is_causal=True), *[None] * 8),
            )
        ],
        "aten::_scaled_dot_product_efficient_attention": [
            (
                arguments(query, key, value, mask, True, scale=0.3),
                (attention(query, key, value, mask, scale=0.3), *[None] * 3),
            )
        ],
        "aten::_scaled_dot_product_cudnn_attention": [
            (arguments(query, key, value, None, True), (attention(query, key, value), *[None] * 8))
        ],
        "aten::_scaled_dot_product_flash_attention_backward": [
            (
                arguments(out_gradient, query, key, value, *unused, 0.0, True, None, None),
                causal_gradients,
            )
        ],
        "aten::_scaled_dot_product_efficient_attention_backward": [
            (
                arguments(
                    out_gradient, query, key, value, mask, *unused[:4], 0.0, [True] * 4, False, scale=0.3
                ),
                masked_gradients,
            )
        ],
        "aten::_thnn_fused_lstm_cell": [(arguments(gates, hidden_gates, cell), (h, c, None))],
        "aten::_thnn_fused_gru_cell": [
            (arguments(gates[:, :6], torch.zeros(3, 6, dtype=F64), state), (reset, None))
        ],
        "aten::_cudnn_rnn": [
            (
                arguments(*(steps, w, 4, None, start, memory, 2, 2, 0, 1, False, 0.0, True, False, [], None)),
                (lstm[0], lstm[1][None], lstm[2][None], None, None),
            ),
            (
                arguments(
                    *(steps, [*u, *u], 4, None, both[0], None, 3, 2, 0, 1, False, 0.0, True, True, [], None)
                ),
                (gru[0], gru[1], None, None, None),
            ),
        ],
        "aten::_fused_dropout": [
            (arguments(real(2, 3) * 0 + 2, 0.5), (keep * 4.0, keep)) for keep in [bits(2, 3)]
        ],
        "aten::_sparse_addmm": [(arguments(real(3, 2) * 0, dense, other, alpha=2), (2 * dense @ other,))],
        "aten::_to_dense": [(arguments(dense), (dense,))],
        "aten::_to_sparse": [(arguments(dense), (dense,))],
        "aten::_to_sparse.sparse_dim": [(arguments(dense, 1), (dense,))],
        "aten::_sparse_coo_tensor_with_dims_and_tensors": [
            (
                arguments(2, 0, [2, 3], torch.tensor([[0, 1, 1], [2, 0, 0]]), torch.tensor([1.0, 2.0, 4.0])),
                (torch.tensor([[0.0, 0.0, 1.0], [6.0, 0.0, 0.0]]),),
            )
        ],
        "aten::sparse_sampled_addmm": [
            (
                arguments(dense, left, right, beta=0.5, alpha=2),
                (torch.where(stored, 0.5 * dense + 2 * left @ right, 0.0),),
            )
        ],
        "aten::_sparse_mm_reduce_impl": [
            (arguments(dense, other, "sum"), (dense @ other, None)),
            (arguments(dense, other, "mean"), (dense @ other / count, None)),
            (arguments(dense, other, "amin"), (lowest, None)),
        ],
    }


def hand_calls() -> dict[str, list[Call]]:
    """Every hand-written call by overload name, but of overloads that this installation need not have."""
    torch.manual_seed(20)
    calls: dict[str, list[Call]] = {}
    of_families = foreach_calls() | fake_quantize_calls() | upsampling_backwards()
    further = {f"aten::{name}": samples for name, samples in of_families.items()}
    for name, samples in (on_cpu() | further).items():
        if excuse(name) is not None:
            continue
        overload = overload_of(name)
        for args, kwargs in samples:
            before = snapshot((args, kwargs))
            outputs = overload(*args, **kwargs)
            outputs = tuple(outputs) if isinstance(outputs, (tuple, list)) else (outputs,)
            calls.setdefault(name, []).append(
                Call(name, before[0], before[1], tuple(snapshot(outputs)), overload._schema)
            )
    dense = {f"aten::{name}": samples for name, samples in sparse_calls().items()}
    for name, expected in (with_reference() | dense).items():
        if excuse(name) is not None:
            continue
        for (args, kwargs), outputs in expected:
            calls.setdefault(name, []).append(
                Call(name, args, kwargs, tuple(outputs), overload_of(name)._schema)
            )
    return calls

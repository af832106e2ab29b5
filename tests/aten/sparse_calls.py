"""Sparse operations, with the dense tensors that stand for their arguments and results."""

from __future__ import annotations

from typing import Any

import torch

F64 = torch.float64


def upsampling_backwards() -> dict[str, list[tuple[tuple[Any, ...], dict[str, Any]]]]:
    """Arguments of backward operations that run on the CPU, and that only second derivatives reach."""

    def gradient(*shape: int) -> torch.Tensor:
        return torch.randn(shape, dtype=F64)

    return {
        "upsample_nearest3d_backward": [((gradient(1, 2, 4, 5, 6), [4, 5, 6], [1, 2, 2, 3, 4]), {})],
        "upsample_trilinear3d_backward": [
            ((gradient(1, 2, 4, 5, 6), [4, 5, 6], [1, 2, 2, 3, 4], corners), {}) for corners in (True, False)
        ],
        "_upsample_nearest_exact1d_backward": [((gradient(1, 2, 5), [5], [1, 2, 3]), {})],
        "_upsample_nearest_exact2d_backward": [((gradient(1, 2, 5, 3), [5, 3], [1, 2, 3, 4]), {})],
        "_upsample_nearest_exact3d_backward": [((gradient(1, 2, 4, 5, 6), [4, 5, 6], [1, 2, 2, 3, 4]), {})],
        "_upsample_bilinear2d_aa_backward": [
            ((gradient(1, 2, 3, 2), [3, 2], [1, 2, 7, 5], corners), {}) for corners in (True, False)
        ],
        "_upsample_bicubic2d_aa_backward": [((gradient(1, 2, 3, 2), [3, 2], [1, 2, 7, 5], False), {})],
    }


def sparse_calls() -> dict[
    str, list[tuple[tuple[tuple[Any, ...], dict[str, Any]], tuple[torch.Tensor, ...]]]
]:
    """Arguments and results by overload name, both dense: computed by torch's own sparse operations."""
    x = torch.tensor([[0.0, 2.0, -1.0], [0.0, 0.0, 0.0], [3.0, 0.0, 0.5]], dtype=F64)
    y, mask = torch.randn(3, 3, dtype=F64), x.sign()
    sparse, rows, columns = x.to_sparse(), x.to_sparse_csr(), x.to_sparse_csc()

    def compressed(matrix: torch.Tensor) -> tuple[Any, ...]:
        by_row = matrix.layout is torch.sparse_csr
        bounds = matrix.crow_indices() if by_row else matrix.ccol_indices()
        return bounds, matrix.col_indices() if by_row else matrix.row_indices(), matrix.values(), [3, 3]

    def call(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return args, kwargs

    return {
        "_sparse_sum.dim": [
            (call(x, [dim]), (torch.sparse.sum(sparse, dim).to_dense(),)) for dim in (0, 1, -1)
        ],
        "_sparse_sparse_matmul": [(call(x, y), (torch.sparse.mm(sparse, y.to_sparse()).to_dense(),))],
        "_sparse_softmax": [
            (call(x, dim, False), (torch.sparse.softmax(sparse, dim).to_dense(),)) for dim in (0, 1)
        ],
        "_sparse_log_softmax": [
            (call(x, dim, False), (torch.sparse.log_softmax(sparse, dim).to_dense(),)) for dim in (0, 1)
        ],
        "_coalesce": [(call(x), (x,))],
        "values": [(call(x), (sparse.coalesce().values(),)), (call(x), (rows.values(),))],
        "_values": [(call(x), (sparse._values(),))],
        "sparse_mask": [(call(y, mask), (y.sparse_mask(mask.to_sparse()).to_dense(),))],
        "_sparse_mask_projection": [(call(y, mask), (torch.where(mask != 0, y, 0.0),))],
        "_to_sparse_csr": [(call(x), (rows.to_dense(),))],
        "_to_sparse_csc": [(call(x), (columns.to_dense(),))],
        "sparse_compressed_tensor.comp_plain_value_size": [
            (call(*compressed(matrix), layout=matrix.layout), (x,)) for matrix in (rows, columns)
        ],
    }

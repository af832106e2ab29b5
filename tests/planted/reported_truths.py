"""Right gradients that people have reported as wrong, or that were once wrong in torch; ``cite`` names the thread."""

from __future__ import annotations

import torch
from lies import C128, F32, F64, draw, one
from torch import Tensor
from torch.nn import functional as F
from truths import Truth, of

EQUAL = torch.tensor([[1.0, 2.0], [1.0, 2.0], [3.0, 1.0]], dtype=F64)
MASK = torch.tensor([[False, True, True], [False, False, True]])


def masked(x: Tensor) -> Tensor:
    return x.masked_fill(MASK, -torch.inf).logsumexp(-1)


def written(x: Tensor) -> Tensor:
    y = 1 / ((-x).exp() + 1)
    y[1] = 2.0
    return y * 2


def warped(image: Tensor, theta: Tensor) -> Tensor:
    grid = F.affine_grid(theta, [1, 2, 5, 5], align_corners=False)
    return F.grid_sample(image, grid, align_corners=False)


def guarded_log(x: Tensor) -> Tensor:
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, 1.0).log(), 0.0)


def highest_by_group(x: Tensor) -> Tensor:
    groups = torch.tensor([0, 0, 1, 1])
    return torch.zeros(2, dtype=x.dtype).scatter_reduce(0, groups, x, "amax", include_self=False)


def normalized_ctc(x: Tensor) -> Tensor:
    return F.ctc_loss(x.log_softmax(-1), torch.tensor([[1]]), torch.tensor([3]), torch.tensor([1]))


def symmetrized(x: Tensor) -> Tensor:
    return torch.linalg.eigvalsh(x + x.mT) + torch.linalg.cholesky(x @ x.mT + torch.eye(len(x))).diagonal()


THETA = torch.tensor([[[0.9, 0.2, 0.05], [-0.1, 1.1, 0.02]]], dtype=F64)
ZEROS = torch.zeros(3, 3, dtype=F64)

REPORTED_TRUTHS = (
    Truth(
        "a reciprocal, to the last bit but one",
        of(lambda x: 1 / x, one(dtype=F32)),
        cite="pytorch/pytorch#13886",
    ),
    Truth(
        "an expanded vector",
        of(lambda v: draw(2, 2) @ v, draw(1, seed=3).expand(2)),
        cite="pytorch/pytorch#38586",
    ),
    Truth(
        "the product of one zero",
        of(lambda x: x.prod(0) * 2, torch.zeros(1, dtype=F64)),
        cite="pytorch/pytorch#82644",
    ),
    Truth(
        "products with one and two zeros",
        of(lambda x: x.prod(1) * 2, torch.tensor([[2.0, 0.0, 3.0], [0.0, 0.0, 4.0]], dtype=F64)),
        cite="pytorch/pytorch#773",
    ),
    Truth(
        "distances of equal points",
        of(torch.cdist, EQUAL, EQUAL.clone()),
        ("GC604",),
        cite="pytorch/pytorch#37154",
    ),
    Truth(
        "1-norm of a row with zeros",
        of(lambda x: F.normalize(x, p=1), torch.tensor([[0.0, 0.0, 0.2]], dtype=F64)),
        cite="pytorch/pytorch#3264",
    ),
    Truth(
        "a matrix norm at zero",
        of(lambda x: torch.linalg.matrix_norm(x) * 2, ZEROS),
        ("GC604",),
        cite="pytorch/pytorch#65599",
    ),
    Truth(
        "the largest entry, three times",
        of(lambda x: x.norm(p=torch.inf) * 2, torch.tensor([9.0, 2.0, -9.0, 9.0], dtype=F64)),
        cite="pytorch/pytorch#48122",
    ),
    Truth(
        "the highest of a group, twice",
        of(highest_by_group, torch.tensor([1.0, 1.0, 0.0, 2.0], dtype=F64)),
        cite="rusty1s/pytorch_scatter#399",
    ),
    Truth("a complex square", of(lambda z: z * z, one(2, dtype=C128)), cite="pytorch/pytorch#60180"),
    Truth(
        "squares of real and imaginary parts",
        of(lambda z: z.real**2 + z.imag**2, one(2, dtype=C128)),
        cite="jax-ml/jax#9110",
    ),
    Truth("a result that is written to", of(written, one(3)), cite="pytorch/pytorch#9391"),
    Truth(
        "sinc at zero", of(torch.sinc, torch.tensor([0.0, 0.5, 1.0], dtype=F64)), cite="pytorch/pytorch#56760"
    ),
    Truth("logarithms of a masked sum", of(masked, one(2, 3)), cite="pytorch/pytorch#31829"),
    Truth("a warped image", of(warped, draw(1, 2, 5, 5), THETA), cite="kornia/kornia#522"),
    Truth(
        "a guarded logarithm",
        of(guarded_log, torch.tensor([0.0, 0.5, 2.0], dtype=F64)),
        cite="kornia/kornia#4232",
    ),
    Truth("CTC of a log_softmax", of(normalized_ctc, one(3, 1, 3)), cite="pytorch/pytorch#181534"),
    Truth("eigenvalues of what is made symmetric", of(symmetrized, one(3, 3)), cite="pytorch/pytorch#30578"),
    Truth(
        "Cholesky factors of a symmetric leaf",
        of(torch.linalg.cholesky, torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=F64)),
        cite="pytorch/pytorch#137284",
    ),
    Truth(
        "eigenvalues of a symmetric leaf",
        of(torch.linalg.eigvalsh, torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=F64)),
        cite="pytorch/pytorch#22807",
    ),
)

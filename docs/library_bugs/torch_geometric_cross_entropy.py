"""torch-geometric 2.8.1: ``sparse_cross_entropy`` has a wrong gradient where a label occurs twice.

The forward counts a repeated pair (row, class) as often as it is given. The backward writes
``grad_input[rows, classes] -= grad_out``, which subtracts only once from an element that is indexed several times:
``index_put_`` without ``accumulate=True``. A user who clicked on one item twice is enough.
"""

import torch
from torch_geometric.utils.cross_entropy import sparse_cross_entropy

from gradcheck_suite import check_gradients

torch.manual_seed(0)
labels = torch.tensor([[0, 0, 1, 1], [0, 1, 2, 2]])
x = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)


def loss(x):
    return sparse_cross_entropy(x, labels)


def by_torch(x):
    return -x.log_softmax(-1)[labels[0], labels[1]].sum() / x.shape[0]


(gradient,) = torch.autograd.grad(loss(x), x)
(right,) = torch.autograd.grad(by_torch(x), x)
step = torch.zeros_like(x)
step[1, 2] = 1e-6
with torch.no_grad():
    difference = (loss(x + step) - loss(x - step)) / 2e-6
print(f"loss {loss(x):.6f}, the same in torch's own operations {by_torch(x):.6f}")
print(
    f"d loss / d x[1, 2]: autograd {gradient[1, 2]:.6f}  finite difference {difference:.6f}  torch {right[1, 2]:.6f}"
)
print(check_gradients(loss, x.detach()))

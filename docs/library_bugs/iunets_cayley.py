"""iunets 0.1: the backward of the Cayley transform is not its derivative.

With ``Q = (I + A)^-1 (I - A)``, ``dQ = -(I + A)^-1 dA (I + Q)``, so the gradient is ``-(I + A)^-T G (I + Q)^T``. The
backward returns ``2 (I - A)^-1 G (I + A)^-1 Q``: the sign is lost and the transposes are not those of the adjoint. For
skew-symmetric matrices, for which it is meant, it is wrong too.
"""

import torch
from iunets.cayley import cayley

from gradcheck_suite import check_gradients

torch.manual_seed(0)
# iunets makes its identity matrix in the default dtype.
torch.set_default_dtype(torch.float64)
weight = torch.randn(4, 4)
identity = torch.eye(4)


def transform(m):
    return cayley.apply(m - m.T)


def by_torch(m):
    return torch.linalg.solve(identity + m - m.T, identity - m + m.T)


m = (0.3 * torch.randn(4, 4)).requires_grad_()
(gradient,) = torch.autograd.grad((transform(m) * weight).sum(), m)
(right,) = torch.autograd.grad((by_torch(m) * weight).sum(), m)
step = torch.zeros_like(m)
step[0, 1] = 1e-6
with torch.no_grad():
    difference = ((transform(m + step) - transform(m - step)) * weight).sum() / 2e-6
print(f"d loss / d m[0, 1]: autograd {gradient[0, 1]:.6f}  finite difference {difference:.6f}")
print(f"the same formula in torch's own operations: {right[0, 1]:.6f}")
print(check_gradients(transform, m.detach()))

"""normflows 1.7.3: ``Residual`` flows (``reduce_memory=True``, the default) weigh every sample's log-determinant like the first.

``MemoryEfficientLogDetEstimator.backward`` multiplies by ``grad_logdetgrad[0]``, the cotangent of the first sample alone.
That is right for a mean or a sum over the batch, and wrong for every loss that weighs samples (importance weights, masks).
"""

import normflows as nf
import numpy as np
import torch
from normflows.flows import Residual

torch.manual_seed(0)
net = nf.nets.LipschitzMLP([2, 8, 8, 2], init_zeros=False, lipschitz_const=0.9).double()
x = torch.linspace(-1, 1, 10, dtype=torch.float64).view(5, 2)
weights = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0], dtype=torch.float64)


def loss(flow, x):
    torch.manual_seed(3)  # the same terms of the series and the same probes every time
    np.random.seed(3)
    _, log_det = flow(x)
    return (weights * log_det).sum()


for reduce_memory in (True, False):
    flow = Residual(
        net,
        reverse=False,
        reduce_memory=reduce_memory,
        n_dist="geometric",
        exact_trace=False,
        brute_force=False,
    )
    flow = flow.double().train()
    at = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(flow, at), at)
    step = torch.zeros_like(x)
    step[2, 0] = 1e-5
    difference = (loss(flow, x + step) - loss(flow, x - step)) / 2e-5
    print(f"reduce_memory={reduce_memory}: autograd {gradient[2, 0]:.6f}  finite difference {difference:.6f}")

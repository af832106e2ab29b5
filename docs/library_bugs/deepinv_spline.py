"""deepinv 0.5.0: the backward of ``LinearSplineDerivativeFunc`` ignores its cotangent.

The slopes' gradients by the coefficients are ``+1/step`` and ``-1/step`` times what arrives from above; the backward scatters
``1/step`` alone (and returns the gradient flat, whatever the shape of the coefficients, which raises where they are not).
"""

import torch
from deepinv.models.deal import LinearSplineDerivativeFunc

from gradcheck_suite import check_gradients

torch.manual_seed(0)
low, high = torch.tensor(-1.0, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)
x = torch.rand(1, 1, 1, 2, 3, dtype=torch.float64) - 0.5
weight = torch.randn(1, 1, 1, 2, 3, dtype=torch.float64)


def slope(coefficients):
    return LinearSplineDerivativeFunc.apply(x, coefficients, low, high, 5, torch.zeros(1))


coefficients = torch.randn(5, dtype=torch.float64, requires_grad=True)
(gradient,) = torch.autograd.grad((slope(coefficients) * weight).sum(), coefficients)
differences = []
with torch.no_grad():
    for i in range(5):
        step = torch.zeros(5, dtype=torch.float64)
        step[i] = 1e-6
        differences.append(((slope(coefficients + step) - slope(coefficients - step)) * weight).sum() / 2e-6)
print("autograd          ", [round(g, 4) for g in gradient.tolist()])
print("finite differences", [round(float(d), 4) for d in differences])
print(check_gradients(slope, coefficients.detach()))

"""pytorch-wavelets 1.3.0: gradients at the border are wrong in every padding mode but "zero" and even "periodization".

The backward of the analysis filter bank (``AFB1D``, ``AFB2D``) is the synthesis filter bank and the other way round. That
is the adjoint only where the signal is padded with zeros, or periodic with an even length: with "symmetric", "reflect" and
"periodic" the gradient of the padding is never added to the elements that were copied into it. "symmetric" and "reflect"
are what the documentation advises for images.
"""

import torch
from pytorch_wavelets import DWT1DForward

from gradcheck_suite import check_gradients

torch.manual_seed(0)
x = torch.randn(1, 1, 8, dtype=torch.float64)
weights = torch.randn(2, 1, 1, 5, dtype=torch.float64)
for mode in ("zero", "symmetric", "reflect", "periodic"):
    bank = DWT1DForward(J=1, wave="db2", mode=mode).double()

    def transform(x, bank=bank):
        low, high = bank(x)
        return low, high[0]

    def loss(x, transform=transform):
        return sum((w * part).sum() for w, part in zip(weights, transform(x)))

    at = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(at), at)
    differences = []
    with torch.no_grad():
        for i in range(8):
            step = torch.zeros_like(x)
            step[0, 0, i] = 1e-6
            differences.append((loss(x + step) - loss(x - step)) / 2e-6)
    print(mode)
    print("  autograd            ", [round(g, 4) for g in gradient.flatten().tolist()])
    print("  finite differences  ", [round(float(d), 4) for d in differences])
    if mode == "symmetric":
        print(check_gradients(transform, x))

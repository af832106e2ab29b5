"""memcnn 1.5.2: ``AffineCoupling`` with ``implementation_bwd=1`` returns a wrong gradient for its input.

``y2 = x2 * G1(y1) + G2(y1)``, so ``x2`` gets ``y2_grad * G1``; ``AffineBlockFunction2.backward`` adds ``y2_grad`` itself, as
is right for the additive coupling. The gradients of the parameters are right, and so are those of the default,
``implementation_bwd=-1``.
"""

import torch
from memcnn import AffineCoupling
from memcnn.models.affine import AffineAdapterNaive
from torch import nn

from gradcheck_suite import check_gradients


def coupling(implementation):
    torch.manual_seed(0)
    f, g = (nn.Sequential(nn.Linear(2, 2), nn.Tanh()) for _ in range(2))
    return AffineCoupling(
        f,
        g,
        AffineAdapterNaive,
        split_dim=1,
        implementation_fwd=implementation,
        implementation_bwd=implementation,
    ).double()


x = torch.linspace(-1, 1, 4, dtype=torch.float64)[None]
weight = torch.linspace(2, -1, 4, dtype=torch.float64)
for implementation in (-1, 0, 1):
    model = coupling(implementation)

    def loss(value, model=model):
        # It frees the memory of what it is given.
        return (model(value.clone()) * weight).sum()

    at = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(at), at)
    differences = []
    for i in range(4):
        step = torch.zeros_like(x)
        step[0, i] = 1e-6
        with torch.no_grad():
            differences.append((loss(x + step) - loss(x - step)) / 2e-6)
    print(f"implementation {implementation}")
    print("  autograd            ", [round(g, 5) for g in gradient.flatten().tolist()])
    print("  finite differences  ", [round(float(d), 5) for d in differences])

wrong = coupling(1)
print(check_gradients(lambda value: wrong(value.clone()), x))

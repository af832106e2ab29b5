"""The float64 Bessel functions of the first and second kind are good to 1e-6 only, just above x = 5."""

import numpy as np
import scipy.special
import torch

OPS = (
    "aten::special_bessel_j0(*",
    "aten::special_bessel_j1(*",
    "aten::special_bessel_y0(*",
    "aten::special_bessel_y1(*",
)

x = torch.linspace(0.1, 12, 500, dtype=torch.float64)
worst = {}
for name, reference in (("j0", "j0"), ("j1", "j1"), ("y0", "y0"), ("y1", "y1")):
    value = getattr(torch.special, f"bessel_{name}")(x).numpy()
    error = np.abs(value - getattr(scipy.special, reference)(x.numpy()))
    worst[name] = error.max()
    print(f"bessel_{name}: off by {error.max():.1e} at x = {x[int(error.argmax())].item():.3f}")

# The derivative of J0 is -J1; torch's gradient inherits the error of bessel_j1.
point = torch.tensor([5.01], dtype=torch.float64, requires_grad=True)
torch.special.bessel_j0(point).backward()
slope = -scipy.special.j1(5.01)
print(f"d bessel_j0 / dx at 5.01: autograd {point.grad.item():.12f}, exact {slope:.12f}")
h = 1e-4
difference = (scipy.special.j0(5.01 + h) - scipy.special.j0(5.01 - h)) / (2 * h)
print(f"difference of an exact J0 {difference:.12f}")
SHOWN = min(worst.values()) > 1e-8

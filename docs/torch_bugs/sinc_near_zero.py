"""The backward of ``sinc`` subtracts two nearly equal numbers near 0: no digit is right in float32 below 1e-4."""

import math

import torch

OPS = ("aten::sinc(*",)

x = torch.tensor([1e-4, 1e-5, 1e-6], requires_grad=True)
torch.sinc(x).sum().backward()

exact = [-(math.pi**2) * value / 3 for value in (1e-4, 1e-5, 1e-6)]  # of the series 1 - (pi x)^2 / 6 + ...
errors = [abs(found - wanted) / abs(wanted) for found, wanted in zip(x.grad.tolist(), exact)]
print("autograd", x.grad.tolist())
print("exact   ", exact)
print("relative errors", [f"{error:.1e}" for error in errors])
SHOWN = max(errors) > 0.1

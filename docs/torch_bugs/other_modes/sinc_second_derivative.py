"""The second derivative of ``sinc`` is NaN at 0, where it is -pi**2 / 3."""

import math

import torch

x = torch.zeros(1, dtype=torch.float64, requires_grad=True)
(slope,) = torch.autograd.grad(torch.sinc(x), x, create_graph=True)
(second,) = torch.autograd.grad(slope, x)
print("second derivative", second.item(), "instead of", -(math.pi**2) / 3)
SHOWN = math.isnan(second.item()) and slope.item() == 0.0

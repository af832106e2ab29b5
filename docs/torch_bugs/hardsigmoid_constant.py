"""The backward of ``hardsigmoid`` in float64 multiplies by a float32 rounding of 1/6: off by 3e-8 everywhere."""

import torch

OPS = ("aten::hardsigmoid(*",)

x = torch.linspace(-2.5, 2.5, 7, dtype=torch.float64, requires_grad=True)
torch.nn.functional.hardsigmoid(x).sum().backward()

h = 1e-3  # hardsigmoid is linear between -3 and 3: a difference is exact up to rounding
differences = (
    torch.nn.functional.hardsigmoid(x.detach() + h) - torch.nn.functional.hardsigmoid(x.detach() - h)
) / (2 * h)
error = (x.grad - differences).abs().max().item()
print(f"autograd    {x.grad[0].item():.15f}")
print(f"differences {differences[0].item():.15f}")
print(f"exact       {1 / 6:.15f}")
print(f"off by {error:.1e} where a difference is off by {(differences - 1 / 6).abs().max().item():.1e}")
SHOWN = error > 1e-9

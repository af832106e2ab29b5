"""The backward of ``celu`` in float64 divides by an alpha that was rounded to float32; the value is right."""

import math

import torch

OPS = ("aten::celu(*",)

ALPHA = 0.7
x = torch.tensor(-0.5, dtype=torch.float64, requires_grad=True)
value = torch.nn.functional.celu(x, ALPHA)
value.backward()

exact = math.exp(-0.5 / ALPHA)
error = abs(x.grad.item() - exact)
print(f"autograd {x.grad.item():.15f}")
print(f"exact    {exact:.15f}")
print(f"off by {error:.1e}; the value by {abs(value.item() - ALPHA * math.expm1(-0.5 / ALPHA)):.1e}")
SHOWN = error > 1e-10

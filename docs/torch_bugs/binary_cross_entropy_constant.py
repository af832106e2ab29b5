"""The backward of ``binary_cross_entropy`` in float64 divides by a float32 rounding of 1e-12 where ``x (1 - x)`` is less."""

import torch

OPS = ("aten::binary_cross_entropy(*",)

x = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
torch.nn.functional.binary_cross_entropy(x, torch.zeros_like(x)).backward()

stated = 1e12
error = abs(x.grad.item() - stated) / stated
print(f"autograd {x.grad.item():.6f}")
print(f"stated   {stated:.6f}")
print(f"relative error {error:.1e}")
SHOWN = error > 1e-10

"""Forward mode of ``logcumsumexp`` loses small early entries: the first output is the first input, so its slope is 1."""

import torch

x = torch.tensor([-30.0, 0.0], dtype=torch.float64)
direction = torch.ones(2, dtype=torch.float64)
_, tangent = torch.func.jvp(lambda x: torch.logcumsumexp(x, 0), (x,), (direction,))
print("tangent of the first output", tangent[0].item(), "instead of 1")
SHOWN = abs(tangent[0].item() - 1.0) > 0.1

"""The gradient of the chunked ``linear_cross_entropy`` has no history: its second order is zero beside other terms."""

import torch
from torch.nn import functional as F

generator = torch.Generator().manual_seed(0)
x = torch.randn(4, 3, generator=generator, dtype=torch.float64, requires_grad=True)
weight = torch.randn(5, 3, generator=generator, dtype=torch.float64, requires_grad=True)
target = torch.tensor([0, 3, 1, 4])


def second(options: object) -> torch.Tensor:
    loss = F.linear_cross_entropy(x, weight, target, options=options)
    (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
    if not gradient.requires_grad:
        return torch.zeros_like(x)
    (found,) = torch.autograd.grad(gradient.square().sum(), x, allow_unused=True)
    return torch.zeros_like(x) if found is None else found


chunked = second(torch.nn.LinearCrossEntropyOptions(allow_retain_graph=True))
plain = second(None)
print("chunked", chunked.abs().max().item(), "plain", plain.abs().max().item())
SHOWN = not chunked.any() and plain.abs().max().item() > 1e-3

"""The backward of the fused weight norm is differentiated wrongly; ``gradgradcheck`` fails as well."""

import torch

generator = torch.Generator().manual_seed(0)
g = torch.rand(2, 1, generator=generator, dtype=torch.float64).add_(0.5).requires_grad_()
v = torch.randn(2, 2, generator=generator, dtype=torch.float64).requires_grad_()


def weight(g: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return torch._weight_norm(v, g, 0)


def second(function):
    gradients = torch.autograd.grad(function(g, v).pow(3).sum(), (g, v), create_graph=True)
    return torch.autograd.grad(sum(part.sum() for part in gradients), (g, v))


def written_out(g: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return g * v / v.square().sum(1, keepdim=True).sqrt()


error = max((a - b).abs().max().item() for a, b in zip(second(weight), second(written_out)))
first = torch.autograd.gradcheck(weight, (g, v))
both = torch.autograd.gradgradcheck(weight, (g, v), raise_exception=False)
print("gradcheck", first, "gradgradcheck", both, "largest error", error)
SHOWN = first and not both and error > 1e-3

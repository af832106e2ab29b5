"""Forward mode of ``cholesky_inverse`` of a lower triangular matrix disagrees with differences of its values."""

import torch

generator = torch.Generator().manual_seed(0)
factor = torch.randn(3, 3, generator=generator, dtype=torch.float64) + 3 * torch.eye(3, dtype=torch.float64)
direction = torch.randn(3, 3, generator=generator, dtype=torch.float64)


def inverse(matrix: torch.Tensor) -> torch.Tensor:
    return torch.cholesky_inverse(matrix.tril())


_, tangent = torch.func.jvp(inverse, (factor,), (direction,))
differences = (inverse(factor + 1e-6 * direction) - inverse(factor - 1e-6 * direction)) / 2e-6
print("forward mode\n", tangent)
print("differences\n", differences)
SHOWN = (tangent - differences).abs().max().item() > 1e-3

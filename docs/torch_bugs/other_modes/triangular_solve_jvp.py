"""Forward mode of ``triangular_solve`` uses the triangle of the matrix that the operation does not read."""

import torch

generator = torch.Generator().manual_seed(0)
matrix = torch.randn(3, 3, generator=generator, dtype=torch.float64) + 3 * torch.eye(3, dtype=torch.float64)
right = torch.ones(3, 2, dtype=torch.float64)
unread = torch.ones(3, 3, dtype=torch.float64).tril(-1)


def solve(matrix: torch.Tensor) -> torch.Tensor:
    return torch.triangular_solve(right, matrix, upper=True)[0]


_, tangent = torch.func.jvp(solve, (matrix,), (unread,))
print("forward mode\n", tangent)
print("it does not change at all:", torch.equal(solve(matrix + unread), solve(matrix)))
SHOWN = bool(tangent.any()) and torch.equal(solve(matrix + unread), solve(matrix))

"""The backward of ``as_strided_scatter`` keeps the gradient of ``self`` where it was overwritten and drops the rest."""

import torch

OPS = ("aten::as_strided_scatter(*",)

x = torch.arange(9.0, dtype=torch.float64).reshape(3, 3).requires_grad_()
patch = -torch.ones(2, 2, dtype=torch.float64, requires_grad=True)


def scatter(values: torch.Tensor) -> torch.Tensor:
    """Overwrites the first four elements in memory: strides (1, 2) of a 2 x 2 patch."""
    return torch.as_strided_scatter(values, patch, [2, 2], [1, 2], 0)


(gradient,) = torch.autograd.grad(scatter(x).sum(), x)
expected = torch.ones(3, 3, dtype=torch.float64)  # the output is x itself ...
expected.view(-1)[:4] = 0  # ... except where the patch is
differences = torch.zeros(9, dtype=torch.float64)
for i in range(9):
    step = torch.zeros(9, dtype=torch.float64)
    step[i] = 0.5  # the function is linear: any step is exact
    step = step.view(3, 3)
    differences[i] = (scatter(x.detach() + step) - scatter(x.detach() - step)).sum().item()
print("autograd\n", gradient)
print("differences\n", differences.view(3, 3))
SHOWN = not torch.equal(gradient, expected) and torch.equal(differences.view(3, 3), expected)

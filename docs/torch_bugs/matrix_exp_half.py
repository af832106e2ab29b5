"""``matrix_exp`` in half precision on the CPU gives numbers that have nothing to do with the exponential, and NaN as gradient."""

import torch

OPS = ("aten::linalg_matrix_exp(*",)

x = (0.1 * torch.arange(9.0).view(3, 3)).to(torch.bfloat16).requires_grad_()
value = torch.matrix_exp(x)
value.sum().backward()
zeros = torch.zeros(3, 3, dtype=torch.bfloat16, requires_grad=True)
torch.matrix_exp(zeros).sum().backward()

exact = torch.matrix_exp(x.detach().double())
print("value         ", value[0].tolist())
print("in float64    ", [round(entry, 4) for entry in exact[0].tolist()])
print("gradient at 0 ", zeros.grad[0].tolist(), "where each is 1")
wrong = not torch.allclose(value.double(), exact, rtol=0.1, atol=0.1)
SHOWN = wrong or not torch.allclose(zeros.grad.double(), torch.ones(3, 3, dtype=torch.float64), rtol=0.1)

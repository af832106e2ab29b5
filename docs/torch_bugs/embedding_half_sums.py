"""The backward of ``embedding`` on the CPU adds up the gradients of a row in half precision: a frequent token's stands still."""

import torch

OPS = ("aten::embedding(*bfloat16*", "aten::embedding(*float16*")

COUNT = 4096
table = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
torch.nn.functional.embedding(torch.zeros(COUNT, dtype=torch.long), table).sum().backward()

found = table.grad[0].item()
print(f"autograd {found}")
print(f"exact    {COUNT}")
SHOWN = abs(found - COUNT) > 0.1 * COUNT

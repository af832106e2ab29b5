"""On a CPU, ``layer_norm`` adds up the gradients of weight and bias in the model's own bfloat16: long sums stand still."""

import torch

OPS = ("aten::native_layer_norm(bfloat16*",)

x = torch.randn(4096, 8).bfloat16()
weight = torch.ones(8, dtype=torch.bfloat16, requires_grad=True)
bias = torch.zeros(8, dtype=torch.bfloat16, requires_grad=True)
torch.nn.functional.layer_norm(x, (8,), weight, bias).sum().backward()
added = torch.zeros(8, dtype=torch.bfloat16, requires_grad=True)
(x + added).sum().backward()
print(f"d/d bias of 4096 rows, each 1: layer_norm {bias.grad[0].item()}, an addition {added.grad[0].item()}")
SHOWN = bias.grad[0].item() < 0.9 * 4096

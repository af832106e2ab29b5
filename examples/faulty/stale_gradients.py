"""Fits a line, and never clears the gradients: every step uses all earlier ones again."""

import torch

torch.manual_seed(0)
inputs = torch.linspace(-1, 1, 32)[:, None]
targets = 3 * inputs - 1
model = torch.nn.Linear(1, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

for _ in range(20):
    loss = (model(inputs) - targets).pow(2).mean()
    loss.backward()
    optimizer.step()
print(f"loss {loss.item():.4f}")

"""Compares the predicted distribution with the wanted classes."""

import torch

torch.manual_seed(0)
model = torch.nn.Linear(4, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
inputs, wanted = torch.randn(16, 4), torch.randint(3, (16,))

for _ in range(5):
    loss = torch.nn.functional.cross_entropy(model(inputs), wanted)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"loss {loss.item():.4f}")

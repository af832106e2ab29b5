"""Logs the activations, scaled to 0..255: in the memory that the backward is going to read."""

import torch

torch.manual_seed(0)
first, last = torch.nn.Linear(4, 8), torch.nn.Linear(8, 1)
optimizer = torch.optim.SGD([*first.parameters(), *last.parameters()], lr=0.01)
pictures = []

for _ in range(5):
    hidden = torch.sigmoid(first(torch.randn(16, 4)))
    loss = last(hidden).pow(2).mean()
    picture = hidden.detach().numpy()
    picture *= 255
    pictures.append(picture.round())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"{len(pictures)} pictures, loss {loss.item():.4f}")

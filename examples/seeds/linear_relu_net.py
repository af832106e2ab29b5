"""Net, a linear layer 10 -> 1 and a ReLU, trained with MSELoss and SGD: the loop in its four steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from side_by_side import array, numbers, show
from torch import nn

from gradcheck_suite import engine


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(10, 1)

    def forward(self, x: Any) -> Any:
        return torch.relu(self.fc(x))


def data(seed: int = 0) -> tuple[Any, Any]:
    """32 inputs of 10 features and positive targets, which a ReLU can reach."""
    rng = np.random.default_rng(seed)
    inputs = rng.standard_normal((32, 10))
    targets = np.maximum(0, inputs @ rng.standard_normal((10, 1)) + 0.5)
    return inputs, targets


def new_model(seed: int = 0) -> Net:
    """A Net in float64 with the initial parameters of a seed."""
    torch.manual_seed(seed)
    return Net().double()


def train_torch(model: Net, num_epochs: int = 10, device: str = "cpu", zero: bool = True) -> dict[str, Any]:
    """The training loop; `zero=False` leaves out its first step."""
    inputs, targets = (torch.from_numpy(values).to(device) for values in data())
    model = model.to(device)
    criterion = torch.nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    losses, gradients = [], []
    for _ in range(num_epochs):
        if zero:
            optimizer.zero_grad()
        outputs = model(inputs)
        loss = criterion(outputs, targets)
        loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
        optimizer.step()
        losses.append(loss.item())
    return {"loss": losses, "gradients": numbers(gradients), "parameters": numbers(list(model.parameters()))}


def train_engine(model: Net, num_epochs: int = 10, zero: bool = True) -> dict[str, Any]:
    """The same in the engine, from the same initial parameters."""
    inputs, targets = (engine.tensor(values) for values in data())
    weight, bias = (array(engine, p.detach().numpy(), requires_grad=True) for p in model.parameters())
    losses, gradients = [], []
    for _ in range(num_epochs):
        if zero:
            weight.grad = bias.grad = None
        outputs = (inputs @ weight.T + bias).relu()
        loss = ((outputs - targets) ** 2).mean()
        loss.backward()
        gradients.append(numbers([weight.grad, bias.grad]))
        with engine.no_grad():
            weight -= 1e-2 * weight.grad
            bias -= 1e-2 * bias.grad
        losses.append(loss.item())
    return {"loss": losses, "gradients": gradients, "parameters": numbers([weight, bias])}


def evaluate(model: Net) -> dict[str, Any]:
    """Evaluation as it should be: eval mode, nothing recorded."""
    model.eval()
    with torch.no_grad():
        outputs = model(torch.from_numpy(data()[0]))
    return {"training": model.training, "requires_grad": outputs.requires_grad, "shape": list(outputs.shape)}


def main() -> None:
    results = {"torch": train_torch(new_model()), "engine": train_engine(new_model())}
    show("loss by epoch", {name: result["loss"] for name, result in results.items()})
    forgotten = {
        "torch": train_torch(new_model(), zero=False)["loss"],
        "engine": train_engine(new_model(), zero=False)["loss"],
    }
    show("without zero_grad()", forgotten)
    print(f"evaluation: {evaluate(new_model())}")


if __name__ == "__main__":
    main()

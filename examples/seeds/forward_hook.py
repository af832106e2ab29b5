"""A forward hook that collects a layer's output, and why the collected values have no negative entries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from side_by_side import array, operation

from gradcheck_suite import engine

Hook = Callable[[Any, Any, Any], None]


class TorchModel(torch.nn.Module):
    """`net` is 784 -> 128 -> 256 -> 10 with in-place ReLUs."""

    def __init__(self, inplace: bool = True) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(
            torch.nn.Linear(784, 128),
            torch.nn.ReLU(inplace=inplace),
            torch.nn.Linear(128, 256),
            torch.nn.ReLU(inplace=inplace),
            torch.nn.Linear(256, 10),
        )

    def forward(self, x: Any) -> Any:
        return self.net(x)


class EngineModel:
    """The same layers on the engine's tensors; layers can be hooked by number."""

    def __init__(self, model: TorchModel, inplace: bool = True) -> None:
        parameters = [array(engine, p.detach().numpy(), requires_grad=True) for p in model.parameters()]
        self.parameters = parameters
        self.layers = [
            self._linear(parameters[0], parameters[1]),
            self._relu(inplace),
            self._linear(parameters[2], parameters[3]),
            self._relu(inplace),
            self._linear(parameters[4], parameters[5]),
        ]
        self.hooks: dict[int, list[Hook]] = {}

    @staticmethod
    def _linear(weight: Any, bias: Any) -> Any:
        return lambda x: x @ weight.T + bias

    @staticmethod
    def _relu(inplace: bool) -> Any:
        return (lambda x: x.copy_(x.relu())) if inplace else (lambda x: x.relu())

    def register_forward_hook(self, layer: int, hook: Hook) -> Callable[[], None]:
        """Call `hook(layer, input, output)` after the layer; returns what removes it."""
        hooks = self.hooks.setdefault(layer, [])
        hooks.append(hook)
        return lambda: hooks.remove(hook)

    def __call__(self, x: Any) -> Any:
        for position, layer in enumerate(self.layers):
            given, x = x, layer(x)
            for hook in self.hooks.get(position, []):
                hook(layer, given, x)
        return x


def collect(inplace: bool = True) -> dict[str, dict[str, Any]]:
    """Output of layer 2 as a hook collected it, in both systems, with the gradient of the first weight."""
    torch.manual_seed(0)
    model = TorchModel(inplace).double()
    features = np.random.default_rng(0).standard_normal((8, 784))
    found: dict[str, dict[str, Any]] = {}

    outputs: list[Any] = []

    def hook(module: Any, input: Any, output: Any) -> None:
        outputs.append(output)

    handle = model.net[2].register_forward_hook(hook)
    final = model(torch.from_numpy(features))
    handle.remove()
    model(torch.from_numpy(features))
    (final**2).sum().backward()
    weight = model.net[0].weight
    assert weight.grad is not None
    found["torch"] = {
        "calls": len(outputs),
        "output": outputs[0].detach().numpy().copy(),
        "made by": operation(outputs[0]),
        "weight gradient": weight.grad.numpy().copy(),
    }

    twin = EngineModel(model, inplace)
    outputs = []
    remove = twin.register_forward_hook(2, hook)
    final = twin(engine.tensor(features))
    remove()
    twin(engine.tensor(features))
    (final**2).sum().backward()
    found["engine"] = {
        "calls": len(outputs),
        "output": outputs[0].data.copy(),
        "made by": operation(outputs[0]),
        "weight gradient": twin.parameters[0].grad.data.copy(),
    }
    return found


def hook_skipped_by_forward() -> dict[str, int]:
    """torch only: `model(x)` runs hooks, `model.forward(x)` does not."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 2)
    calls: list[int] = []
    layer.register_forward_hook(lambda module, input, output: calls.append(1))
    x = torch.ones(1, 3)
    layer(x)
    after_call = len(calls)
    layer.forward(x)
    return {"after model(x)": after_call, "after model.forward(x)": len(calls)}


def main() -> None:
    print(TorchModel().net)
    for inplace in (True, False):
        print(f"output of layer 2 as collected by a hook, ReLU(inplace={inplace})")
        for name, result in collect(inplace).items():
            values = result["output"]
            print(f"  {name}: shape {values.shape}, smallest {values.min():.4f}, made by {result['made by']}")
            print("   ", np.array2string(values[0, :6], precision=4))
    print(f"calls of a hook: {hook_skipped_by_forward()}")


if __name__ == "__main__":
    main()

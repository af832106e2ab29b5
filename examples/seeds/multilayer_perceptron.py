"""MultilayerPerceptron 784 -> 128 -> 256 -> 10: definition, creation, training, and its two mistakes.

Images are replaced by synthetic ones (a fixed pattern per class, with noise). The engine's network starts
from the same parameters, sees the same batches, and must agree step by step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from side_by_side import numbers, show

from gradcheck_suite import engine
from gradcheck_suite.engine import ops as e

FEATURES, HIDDEN_1, HIDDEN_2, CLASSES = 28 * 28, 128, 256, 10


class MultilayerPerceptron(torch.nn.Module):
    """Two hidden layers. `probas` keeps the lecture's name; log_softmax makes it log-probabilities."""

    def __init__(
        self, num_features: int, num_classes: int, num_h1: int = HIDDEN_1, num_h2: int = HIDDEN_2
    ) -> None:
        super().__init__()
        self.linear_1 = torch.nn.Linear(num_features, num_h1)
        self.linear_2 = torch.nn.Linear(num_h1, num_h2)
        self.linear_out = torch.nn.Linear(num_h2, num_classes)

    def forward(self, x: Any) -> Any:
        out = self.linear_1(x)
        out = F.relu(out)
        out = self.linear_2(out)
        out = F.relu(out)
        logits = self.linear_out(out)
        probas = F.log_softmax(logits, dim=1)
        return logits, probas


class EngineMultilayerPerceptron:
    """The same network on the engine's tensors, with a copy of a torch model's parameters."""

    def __init__(self, model: MultilayerPerceptron) -> None:
        self.parameters = [
            engine.tensor(p.detach().numpy().copy(), requires_grad=True, label=name)
            for name, p in model.named_parameters()
        ]

    def __call__(self, x: Any) -> tuple[engine.Tensor, engine.Tensor]:
        w1, b1, w2, b2, w_out, b_out = self.parameters
        out = (x @ w1.T + b1).relu()
        out = (out @ w2.T + b2).relu()
        logits = out @ w_out.T + b_out
        return logits, e.log_softmax(logits, axis=1)


def cross_entropy(logits: engine.Tensor, targets: Any) -> engine.Tensor:
    """Mean of -log softmax(logits) at the target class, from the definition."""
    chosen = e.log_softmax(logits, axis=1)[np.arange(len(targets)), targets]
    return -chosen.mean()


def create(seed: int = 1) -> MultilayerPerceptron:
    """The model in float64, so that both systems compute in the same precision."""
    torch.manual_seed(seed)
    return MultilayerPerceptron(num_features=FEATURES, num_classes=CLASSES).double()


def batches(count: int, batch_size: int = 32, seed: int = 0) -> list[tuple[Any, Any]]:
    """Minibatches of images (batch, 1, 28, 28) and targets (batch,)."""
    rng = np.random.default_rng(seed)
    patterns = rng.random((CLASSES, 1, 28, 28))
    made = []
    for _ in range(count):
        targets = rng.integers(0, CLASSES, batch_size)
        made.append((patterns[targets] + 0.3 * rng.standard_normal((batch_size, 1, 28, 28)), targets))
    return made


def train_torch(
    model: MultilayerPerceptron,
    loader: Sequence[tuple[Any, Any]],
    epochs: int = 1,
    learning_rate: float = 0.1,
) -> dict[str, Any]:
    """The lecture's training loop: loss and gradients of every step, accuracy after every epoch."""
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)
    losses, gradients, accuracies = [], [], []
    for _ in range(epochs):
        model.train()
        for images, labels in loader:
            features = torch.from_numpy(images).view(-1, 28 * 28)
            targets = torch.from_numpy(labels)
            logits, _ = model(features)
            loss = F.cross_entropy(logits, targets)
            optimizer.zero_grad()
            loss.backward()
            gradients.append([p.grad.numpy().copy() for p in model.parameters()])
            optimizer.step()
            losses.append(loss.item())
        model.eval()
        with torch.no_grad():
            accuracies.append(torch_accuracy(model, loader))
    return {"loss": losses, "gradients": gradients, "accuracy": accuracies}


def torch_accuracy(model: MultilayerPerceptron, loader: Sequence[tuple[Any, Any]]) -> float:
    """Share of right predictions."""
    right = total = 0
    for images, labels in loader:
        predicted = model(torch.from_numpy(images).view(-1, 28 * 28))[0].argmax(dim=1)
        right += int((predicted == torch.from_numpy(labels)).sum())
        total += len(labels)
    return right / total


def train_engine(
    model: EngineMultilayerPerceptron,
    loader: Sequence[tuple[Any, Any]],
    epochs: int = 1,
    learning_rate: float = 0.1,
) -> dict[str, Any]:
    """The same loop in the engine."""
    losses, gradients, accuracies = [], [], []
    for _ in range(epochs):
        for images, targets in loader:
            logits, _ = model(images.reshape(-1, 28 * 28))
            loss = cross_entropy(logits, targets)
            for p in model.parameters:
                p.grad = None
            loss.backward()
            step = [p.grad for p in model.parameters if p.grad is not None]
            gradients.append([g.data.copy() for g in step])
            with engine.no_grad():
                for p, g in zip(model.parameters, step):
                    p -= learning_rate * g  # in place: writes into the parameter, as SGD does
            losses.append(loss.item())
        with engine.no_grad():
            right = [np.argmax(model(x.reshape(-1, 28 * 28))[0].data, axis=1) == t for x, t in loader]
        accuracies.append(float(np.concatenate(right).mean()))
    return {"loss": losses, "gradients": gradients, "accuracy": accuracies}


def wrong_inputs_to_cross_entropy() -> dict[str, dict[str, Any]]:
    """cross_entropy wants logits. What it makes of the second return value, and of true probabilities.

    The lecture's `probas` are log-probabilities: log_softmax leaves them as they are, so loss and gradient
    happen to be right, at the price of a second log_softmax. Real probabilities give another loss and
    another, much flatter, gradient.
    """
    model = create()
    images, labels = batches(1)[0]
    twin = EngineMultilayerPerceptron(model)
    found: dict[str, dict[str, Any]] = {}
    for name in ("logits", "log-probabilities", "probabilities"):
        logits, log_probas = model(torch.from_numpy(images).view(-1, 28 * 28))
        given = {"logits": logits, "log-probabilities": log_probas, "probabilities": log_probas.exp()}[name]
        loss = F.cross_entropy(given, torch.from_numpy(labels))
        (gradient,) = torch.autograd.grad(loss, model.linear_out.bias)

        logits_e, log_probas_e = twin(images.reshape(-1, 28 * 28))
        given_e = {
            "logits": logits_e,
            "log-probabilities": log_probas_e,
            "probabilities": log_probas_e.exp(),
        }[name]
        loss_e = cross_entropy(given_e, labels)
        (gradient_e,) = engine.grad(loss_e, twin.parameters[-1])
        found[name] = {
            "torch": {"loss": loss.item(), "gradient": numbers(gradient)},
            "engine": {"loss": loss_e.item(), "gradient": numbers(gradient_e)},
        }
    return found


def sgd_step_direction() -> dict[str, float]:
    """SGD subtracts: w - lr g. Distance of the stepped weight from that, and from w + lr g."""
    model = create()
    images, labels = batches(1)[0]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    F.cross_entropy(model(torch.from_numpy(images).view(-1, 28 * 28))[0], torch.from_numpy(labels)).backward()
    weight = model.linear_out.weight
    assert weight.grad is not None
    before, gradient = weight.detach().clone(), weight.grad.clone()
    optimizer.step()
    return {
        "minus": (weight - (before - 0.1 * gradient)).abs().max().item(),
        "plus": (weight - (before + 0.1 * gradient)).abs().max().item(),
    }


def main() -> None:
    loader = batches(3)
    model = create()
    twin = EngineMultilayerPerceptron(model)
    results = {"torch": train_torch(model, loader, epochs=2), "engine": train_engine(twin, loader, epochs=2)}
    show("loss by step", {name: result["loss"] for name, result in results.items()})
    show("accuracy by epoch", {name: result["accuracy"] for name, result in results.items()})
    worst = max(
        float(np.abs(t - n).max())
        for step_t, step_n in zip(results["torch"]["gradients"], results["engine"]["gradients"])
        for t, n in zip(step_t, step_n)
    )
    print(f"largest difference of any gradient element: {worst:.1e}")
    for name, systems in wrong_inputs_to_cross_entropy().items():
        show(
            f"cross_entropy fed {name}",
            {
                s: {"loss": v["loss"], "norm of the gradient": float(np.linalg.norm(v["gradient"]))}
                for s, v in systems.items()
            },
        )
    print(f"distance of SGD's step from w - lr g and w + lr g: {sgd_step_direction()}")


if __name__ == "__main__":
    main()

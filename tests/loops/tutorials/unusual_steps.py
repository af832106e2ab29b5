"""Loops whose steps are unusual: two per batch, undone, shared between threads, without gradients, in groups that change."""

from __future__ import annotations

import copy
import threading

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn, optim

from .registry import tutorial


def regression():
    return torch.randn(6, 4), torch.randn(6, 2)


def small():
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))


class TwoSteps(optim.Optimizer):
    """SAM as it is published: an optimizer with first_step and second_step around a base optimizer."""

    def __init__(self, parameters, base, rho=0.05, **kwargs):
        super().__init__(parameters, {"rho": rho, **kwargs})
        self.base = base(self.param_groups, **kwargs)
        self.param_groups = self.base.param_groups

    @torch.no_grad()
    def first_step(self, zero_grad=False):
        norm = torch.stack([p.grad.norm() for g in self.param_groups for p in g["params"]]).norm()
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["old"] = p.data.clone()
                p.add_(p.grad * (group["rho"] / (norm + 1e-12)))
        if zero_grad:
            self.zero_grad()

    @torch.no_grad()
    def second_step(self, zero_grad=False):
        for group in self.param_groups:
            for p in group["params"]:
                p.data = self.state[p]["old"]
        self.base.step()
        if zero_grad:
            self.zero_grad()

    def step(self, closure=None):
        raise NotImplementedError


@tutorial("SAM with first_step and second_step, data put back")
def two_steps():
    model = small()
    optimizer = TwoSteps(model.parameters(), optim.SGD, lr=0.1, momentum=0.9)
    for _ in range(3):
        x, y = regression()
        F.mse_loss(model(x), y).backward()
        optimizer.first_step(zero_grad=True)
        F.mse_loss(model(x), y).backward()
        optimizer.second_step(zero_grad=True)
    return list(model.parameters())


@tutorial("Extragradient: extrapolate, take the gradient there, step from where one was")
def extragradient():
    model = small()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        x, y = regression()
        before = [p.detach().clone() for p in model.parameters()]
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        with torch.no_grad():
            for p, old in zip(model.parameters(), before):
                p.copy_(old)
        optimizer.step()
    return list(model.parameters())


class Centralised(optim.SGD):
    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None and p.dim() > 1:
                    p.grad.sub_(p.grad.mean(dim=1, keepdim=True))
        return super().step(closure)


@tutorial("Gradient centralisation inside a subclass of SGD, and gradient noise outside")
def centralised_gradients():
    model = small()
    optimizer = Centralised(model.parameters(), lr=0.1)
    for _ in range(3):
        x, y = regression()
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        for p in model.parameters():
            p.grad += 0.01 * torch.randn_like(p.grad)
        optimizer.step()
    return list(model.parameters())


@tutorial("A learning-rate finder that restores model and optimizer afterwards")
def rate_finder():
    model = small()
    optimizer = optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    state = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    losses = []
    for number in range(4):
        x, y = regression()
        optimizer.param_groups[0]["lr"] = 1e-3 * 2**number
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model.load_state_dict(state[0])
    optimizer.load_state_dict(state[1])
    for _ in range(3):
        x, y = regression()
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        optimizer.step()
    return list(model.parameters())


@tutorial("A backtracking line search: the step is undone by .data until the loss is small enough")
def line_search():
    model = small()
    for _ in range(3):
        x, y = regression()
        model.zero_grad()
        loss = F.mse_loss(model(x), y)
        loss.backward()
        old, rate = [p.data.clone() for p in model.parameters()], 1.0
        while True:
            for p, o in zip(model.parameters(), old):
                p.data = o - rate * p.grad
            with torch.no_grad():
                if F.mse_loss(model(x), y) < loss or rate < 0.01:
                    break
            rate /= 2
    return list(model.parameters())


@tutorial("Layers are added to the model and to the optimizer while it trains")
def growing_model():
    model = nn.ModuleList([nn.Linear(4, 4)])
    head = nn.Linear(4, 2)
    optimizer = optim.Adam([*model.parameters(), *head.parameters()])
    for _ in range(3):
        for _ in range(2):
            x, y = regression()
            for layer in model:
                x = layer(x).tanh()
            optimizer.zero_grad()
            F.mse_loss(head(x), y).backward()
            optimizer.step()
        model.append(nn.Linear(4, 4))
        optimizer.add_param_group({"params": model[-1].parameters(), "lr": 1e-4})
    return [*model.parameters(), *head.parameters()]


@tutorial("Curriculum: layers are frozen again, and the optimizer is made anew for what is left")
def freezing_again():
    model = small()
    for stage in range(3):
        for number, layer in enumerate((model[0], model[2])):
            layer.requires_grad_(stage == 2 or number == stage)
        optimizer = optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        for _ in range(2):
            x, y = regression()
            optimizer.zero_grad(set_to_none=False)
            F.mse_loss(model(x), y).backward()
            optimizer.step()
    return list(model.parameters())


@tutorial("Alternating least squares style: two optimizers, each for its half, one zeroing for both")
def alternating_halves():
    model = small()
    optimizers = [optim.SGD(model[0].parameters(), lr=0.1), optim.SGD(model[2].parameters(), lr=0.1)]
    for step in range(6):
        x, y = regression()
        model.zero_grad()
        F.mse_loss(model(x), y).backward()
        optimizers[step % 2].step()
    return list(model.parameters())


@tutorial("Accumulation whose last group is smaller and is stepped after the epoch")
def odd_accumulation():
    model = small()
    optimizer = optim.Adam(model.parameters())
    for _ in range(2):
        for number in range(5):
            x, y = regression()
            (F.mse_loss(model(x), y) / 2).backward()
            if (number + 1) % 2 == 0:
                optimizer.step()
                optimizer.zero_grad()
        optimizer.step()
        optimizer.zero_grad()
    return list(model.parameters())


@tutorial("Steps whose gradient is too large are left out, after looking at the norm")
def skipped_steps():
    model = small()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    for number in range(4):
        x, y = regression()
        optimizer.zero_grad()
        F.mse_loss(model(x * (100 if number == 2 else 1)), y).backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), float("inf"))
        if norm < 10:
            optimizer.step()
    return list(model.parameters())


@tutorial("Hogwild: threads that train one shared model, one after the other here")
def hogwild():
    model = small().share_memory()

    def work(seed):
        generator = torch.Generator().manual_seed(seed)
        optimizer = optim.SGD(model.parameters(), lr=0.05)
        for _ in range(3):
            optimizer.zero_grad()
            F.mse_loss(model(torch.randn(6, 4, generator=generator)), torch.ones(6, 2)).backward()
            optimizer.step()

    for seed in range(2):
        thread = threading.Thread(target=work, args=(seed,))
        thread.start()
        thread.join()
    work(2)
    return list(model.parameters())


@tutorial(
    "Asynchronous actor-critic: a local model's gradients are handed to the shared one, then it is loaded again"
)
def gradients_handed_over():
    shared, local = small(), small()
    optimizer = optim.Adam(shared.parameters())
    for _ in range(3):
        local.load_state_dict(shared.state_dict())
        x, y = regression()
        optimizer.zero_grad()
        local.zero_grad()
        F.mse_loss(local(x), y).backward()
        for mine, theirs in zip(local.parameters(), shared.parameters()):
            theirs._grad = mine.grad
        optimizer.step()
    return list(shared.parameters())


@tutorial("Federated averaging: clients are deep copies, the server averages their state")
def federated():
    server = small()
    for _ in range(2):
        states = []
        for _ in range(2):
            client = copy.deepcopy(server)
            optimizer = optim.SGD(client.parameters(), lr=0.1)
            for _ in range(2):
                x, y = regression()
                optimizer.zero_grad()
                F.mse_loss(client(x), y).backward()
                optimizer.step()
            states.append(client.state_dict())
        server.load_state_dict({name: (states[0][name] + states[1][name]) / 2 for name in states[0]})
    return list(server.parameters())


@tutorial("Evolution strategies: no gradients for the policy, a critic trained beside it by backward")
def evolution():
    policy, critic = nn.Linear(4, 2), nn.Linear(4, 1)
    optimizer = optim.SGD(critic.parameters(), lr=0.1)
    for _ in range(3):
        x = torch.randn(6, 4)
        with torch.no_grad():
            noise = torch.randn(8, *policy.weight.shape)
            values = torch.stack(
                [F.linear(x, policy.weight + 0.1 * n, policy.bias).pow(2).mean() for n in noise]
            )
            policy.weight -= 0.1 * torch.einsum("k,kij->ij", values - values.mean(), noise) / 8
        optimizer.zero_grad()
        F.mse_loss(critic(x)[:, 0], policy(x).detach().sum(1)).backward()
        optimizer.step()
    return [*policy.parameters(), *critic.parameters()]


@tutorial("SciPy drives: parameters are written from NumPy, gradients handed back as NumPy arrays")
def driven_by_scipy():
    from scipy.optimize import minimize

    model, (x, y) = small(), regression()
    shapes = [p.shape for p in model.parameters()]

    def value_and_gradient(flat):
        start = 0
        with torch.no_grad():
            for p, shape in zip(model.parameters(), shapes):
                p.copy_(torch.from_numpy(flat[start : start + p.numel()]).view(shape))
                start += p.numel()
        model.zero_grad()
        loss = F.mse_loss(model(x), y)
        loss.backward()
        gradient = np.concatenate([p.grad.numpy().ravel() for p in model.parameters()])
        return loss.item(), gradient.astype(np.float64)

    start = np.concatenate([p.detach().numpy().ravel() for p in model.parameters()]).astype(np.float64)
    minimize(value_and_gradient, start, jac=True, method="L-BFGS-B", options={"maxiter": 3})
    return list(model.parameters())


@tutorial("LBFGS with a line search after a phase of Adam on the same parameters")
def adam_then_lbfgs():
    model, (x, y) = small(), regression()
    adam = optim.Adam(model.parameters())
    for _ in range(3):
        adam.zero_grad()
        F.mse_loss(model(x), y).backward()
        adam.step()
    lbfgs = optim.LBFGS(model.parameters(), max_iter=4, line_search_fn="strong_wolfe")

    def closure():
        lbfgs.zero_grad()
        loss = F.mse_loss(model(x), y)
        if loss.requires_grad:
            loss.backward()
        return loss

    for _ in range(2):
        lbfgs.step(closure)
    return list(model.parameters())


@tutorial("Gradients of layers are normalised by a function that replaces .grad")
def replaced_gradients():
    model = small()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        x, y = regression()
        model.zero_grad(set_to_none=False)
        F.mse_loss(model(x), y).backward()
        for p in model.parameters():
            p.grad = p.grad / (p.grad.norm() + 1e-8)
        optimizer.step()
    return list(model.parameters())


@tutorial("Gradients are averaged by way of one flat buffer, as Horovod and DeepSpeed do")
def flat_buffer():
    model = small()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    parameters = list(model.parameters())
    buffer, start = torch.zeros(sum(p.numel() for p in parameters)), 0
    for p in parameters:
        p.grad = buffer[start : start + p.numel()].view_as(p)
        start += p.numel()
    for _ in range(3):
        x, y = regression()
        buffer.zero_()
        F.mse_loss(model(x), y).backward()
        buffer.mul_(0.5)
        optimizer.step()
    return parameters


@tutorial("Sign descent on int8-compressed gradients with error feedback")
def error_feedback():
    model = small()
    optimizer = optim.SGD(model.parameters(), lr=0.01)
    errors = [torch.zeros_like(p) for p in model.parameters()]
    for _ in range(3):
        x, y = regression()
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        for p, error in zip(model.parameters(), errors):
            p.grad.add_(error)
            sent = p.grad.sign() * p.grad.abs().mean()
            error.copy_(p.grad - sent)
            p.grad.copy_(sent)
        optimizer.step()
    return list(model.parameters())

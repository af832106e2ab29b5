"""Loops that take several gradients per step: surgery on them, curvature, importance, penalties, virtual steps."""

from __future__ import annotations

import copy
import functools

import torch
import torch.nn.functional as F
from torch import nn, optim
from torch.func import functional_call, grad, hessian, jacrev, vjp, vmap

from .registry import tutorial


def regression():
    return torch.randn(6, 4), torch.randn(6, 2)


def two_heads():
    body, heads = nn.Linear(4, 5), nn.ModuleList((nn.Linear(5, 2), nn.Linear(5, 2)))
    return body, heads, [*body.parameters(), *heads.parameters()]


@tutorial("Gradient surgery (PCGrad): one backward per task, gradients projected and assigned")
def gradient_surgery():
    body, heads, parameters = two_heads()
    optimizer = optim.Adam(parameters)
    for _ in range(3):
        x, y = regression()
        features = body(x).tanh()
        rows = []
        for number, head in enumerate(heads):
            optimizer.zero_grad(set_to_none=True)
            F.mse_loss(head(features), y).backward(retain_graph=number == 0)
            rows.append(
                torch.cat(
                    [
                        (torch.zeros_like(p) if p.grad is None else p.grad).flatten().clone()
                        for p in parameters
                    ]
                )
            )
        one, other = rows
        inner = one @ other
        if inner < 0:
            one, other = one - inner / other.dot(other) * other, other - inner / one.dot(one) * one
        merged, start = one + other, 0
        for p in parameters:
            p.grad = merged[start : start + p.numel()].view_as(p)
            start += p.numel()
        optimizer.step()
    return parameters


@tutorial("Multiple gradient descent (MGDA): gradients at the shared features, one backward through the body")
def shared_features():
    body, heads, parameters = two_heads()
    optimizer = optim.SGD(parameters, lr=0.1)
    for _ in range(3):
        x, y = regression()
        optimizer.zero_grad()
        features = body(x).relu()
        cut = features.detach().requires_grad_()
        rows = []
        for head in heads:
            F.mse_loss(head(cut), y).backward()
            rows.append(cut.grad.clone())
            cut.grad.zero_()
        features.backward(0.5 * rows[0] + 0.5 * rows[1])
        optimizer.step()
    return parameters


@tutorial("GradNorm: weights of tasks learn from the norms of their gradients")
def gradient_norms():
    body, heads, parameters = two_heads()
    weights = torch.ones(2, requires_grad=True)
    optimizer, of_weights = optim.SGD(parameters, lr=0.05), optim.SGD([weights], lr=0.05)
    for _ in range(3):
        x, y = regression()
        losses = torch.stack([F.mse_loss(head(body(x).tanh()), y) for head in heads])
        optimizer.zero_grad()
        (weights * losses).sum().backward(retain_graph=True)
        weights.grad.zero_()
        norms = torch.stack(
            [
                torch.autograd.grad(w * loss, body.weight, retain_graph=True, create_graph=True)[0].norm()
                for w, loss in zip(weights, losses)
            ]
        )
        (norms - norms.mean().detach()).abs().sum().backward(inputs=[weights])
        of_weights.step()
        optimizer.step()
        with torch.no_grad():
            weights *= 2 / weights.sum()
        weights.grad = None
    return [*parameters, weights]


@tutorial("Elastic weight consolidation: Fisher information from gradients, then a penalty")
def elastic_weights():
    model = nn.Linear(4, 3)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(model(torch.randn(6, 4)), torch.randint(3, (6,))).backward()
        optimizer.step()
    fisher = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for _ in range(3):
        model.zero_grad()
        F.nll_loss(F.log_softmax(model(torch.randn(1, 4)), 1), torch.randint(3, (1,))).backward()
        for name, p in model.named_parameters():
            fisher[name] += p.grad.pow(2) / 3
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for _ in range(3):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(torch.randn(6, 4)), torch.randint(3, (6,)))
        for name, p in model.named_parameters():
            loss = loss + (fisher[name] * (p - before[name]).pow(2)).sum()
        loss.backward()
        optimizer.step()
    return list(model.parameters())


@tutorial(
    "Synaptic intelligence: how much each weight moved the loss, from .grad before and the value after a step"
)
def path_integral():
    model = nn.Linear(4, 2)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    moved = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for _ in range(4):
        x, y = regression()
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        old = {name: p.detach().clone() for name, p in model.named_parameters()}
        optimizer.step()
        for name, p in model.named_parameters():
            moved[name] -= p.grad * (p.detach() - old[name])
    return [*model.parameters(), *moved.values()]


@tutorial("Hessian-vector products by double backward; influence functions by conjugate gradients")
def influence():
    model = nn.Linear(4, 2)
    x, y = regression()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        optimizer.step()
    parameters = list(model.parameters())
    loss = F.mse_loss(model(x), y) + 0.01 * sum(p.pow(2).sum() for p in parameters)
    gradients = torch.autograd.grad(loss, parameters, create_graph=True)

    def product(vectors):
        return torch.autograd.grad(gradients, parameters, grad_outputs=vectors, retain_graph=True)

    test = torch.autograd.grad(F.mse_loss(model(x[:1]), y[:1]), parameters)
    solution = [torch.zeros_like(p) for p in parameters]
    residual = [g.clone() for g in test]
    direction = [r.clone() for r in residual]
    for _ in range(3):
        image = product(direction)
        length = sum((r * r).sum() for r in residual)
        step = length / sum((d * i).sum() for d, i in zip(direction, image))
        solution = [s + step * d for s, d in zip(solution, direction)]
        residual = [r - step * i for r, i in zip(residual, image)]
        ratio = sum((r * r).sum() for r in residual) / length
        direction = [r + ratio * d for r, d in zip(residual, direction)]
    return [*parameters, *solution]


@tutorial("Curvature from torch.func: Hessian, Jacobian and pullbacks beside ordinary training")
def functional_curvature():
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    def value(weights, x):
        return functional_call(model, weights, (x,)).pow(2).mean()

    def with_bias(weights, x, bias):
        return value({**weights, "2.bias": bias}, x)

    found = []
    for _ in range(2):
        x = torch.randn(5, 4)
        weights = {name: p.detach() for name, p in model.named_parameters()}
        call = functools.partial(functional_call, model, weights)
        of_bias = functools.partial(with_bias, weights, x)
        found.append(hessian(of_bias)(weights["2.bias"]))
        found.append(jacrev(call)(x[0]))
        out, pull = vjp(call, x)
        found.extend(pull(torch.ones_like(out)))
        each = vmap(grad(value), in_dims=(None, 0))(weights, x[:, None])
        for name, p in model.named_parameters():
            p.grad = each[name].clamp(-1, 1).mean(0)
        optimizer.step()
    return [*model.parameters(), *found]


@tutorial("A gradient penalty on every parameter's gradient, with backward(create_graph=True)")
def penalty_with_backward():
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))
    optimizer = optim.SGD(model.parameters(), lr=0.01)
    for _ in range(3):
        x = torch.randn(5, 4)
        optimizer.zero_grad()
        loss = model(x).pow(2).mean()
        gradients = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
        (loss + 0.1 * sum(g.pow(2).sum() for g in gradients)).backward()
        optimizer.step()
    return list(model.parameters())


@tutorial("R1 regularisation every second step, on real inputs that require gradients")
def lazy_regularisation():
    critic = nn.Sequential(nn.Linear(4, 6), nn.LeakyReLU(), nn.Linear(6, 1))
    optimizer = optim.Adam(critic.parameters())
    for step in range(4):
        real, fake = torch.randn(5, 4), torch.randn(5, 4)
        optimizer.zero_grad()
        (F.softplus(critic(fake)) + F.softplus(-critic(real))).mean().backward()
        optimizer.step()
        if step % 2 == 0:
            optimizer.zero_grad()
            real = real.requires_grad_(True)
            (g,) = torch.autograd.grad(critic(real).sum(), real, create_graph=True)
            (5 * g.pow(2).sum(1).mean()).backward()
            optimizer.step()
    return list(critic.parameters())


@tutorial(
    "Differentiable architecture search (DARTS): unrolled step on a copy, finite differences of gradients"
)
def architecture_search():
    model, mixture = nn.ModuleList((nn.Linear(4, 2), nn.Linear(4, 2))), torch.zeros(2, requires_grad=True)

    def value(model, x, y):
        weights = mixture.softmax(0)
        return F.mse_loss(sum(w * layer(x) for w, layer in zip(weights, model)), y)

    optimizer, outer = optim.SGD(model.parameters(), lr=0.05), optim.Adam([mixture], lr=0.01)
    for _ in range(2):
        gradients = torch.autograd.grad(value(model, *regression()), list(model.parameters()))
        virtual = copy.deepcopy(model)
        with torch.no_grad():
            for p, g in zip(virtual.parameters(), gradients):
                p -= 0.05 * g
        x, y = regression()
        outer.zero_grad()
        value(virtual, x, y).backward()
        vectors = [p.grad for p in virtual.parameters()]
        ends = []
        for sign in (1, -2):
            for p, v in zip(model.parameters(), vectors):
                p.data.add_(v, alpha=sign * 0.01)
            ends.append(torch.autograd.grad(value(model, x, y), mixture)[0])
        for p, v in zip(model.parameters(), vectors):
            p.data.add_(v, alpha=0.01)
        mixture.grad.sub_((ends[0] - ends[1]) / 0.02, alpha=0.05)
        outer.step()
        optimizer.zero_grad()
        value(model, *regression()).backward()
        optimizer.step()
    return [*model.parameters(), mixture]


@tutorial("Bilevel: hyperparameters by implicit differentiation (Neumann series)")
def implicit_differentiation():
    model, decay = nn.Linear(4, 2), torch.tensor(0.1, requires_grad=True)
    inner, outer = optim.SGD(model.parameters(), lr=0.1), optim.SGD([decay], lr=0.01)

    def training_loss(x, y):
        return F.mse_loss(model(x), y) + decay.exp() * sum(p.pow(2).sum() for p in model.parameters())

    for _ in range(2):
        for _ in range(3):
            inner.zero_grad()
            x, y = regression()
            training_loss(x, y).backward(inputs=list(model.parameters()))
            inner.step()
        parameters = list(model.parameters())
        vector = torch.autograd.grad(F.mse_loss(model(x), y), parameters)
        gradients = torch.autograd.grad(training_loss(x, y), parameters, create_graph=True)
        total = vector
        for _ in range(3):
            image = torch.autograd.grad(gradients, parameters, grad_outputs=vector, retain_graph=True)
            vector = [v - 0.1 * i for v, i in zip(vector, image)]
            total = [t + v for t, v in zip(total, vector)]
        (hyper,) = torch.autograd.grad(gradients, decay, grad_outputs=total)
        decay.grad = -0.1 * hyper
        outer.step()
    return [*model.parameters(), decay]


@tutorial("Variance reduction (SVRG): a snapshot's full gradient corrects each step's")
def variance_reduction():
    model = nn.Linear(4, 2)
    optimizer = optim.SGD(model.parameters(), lr=0.05)
    batches = [regression() for _ in range(3)]
    for _ in range(2):
        snapshot = copy.deepcopy(model)
        snapshot.zero_grad()
        for x, y in batches:
            (F.mse_loss(snapshot(x), y) / len(batches)).backward()
        full = [p.grad.clone() for p in snapshot.parameters()]
        for x, y in batches:
            snapshot.zero_grad()
            F.mse_loss(snapshot(x), y).backward()
            optimizer.zero_grad()
            F.mse_loss(model(x), y).backward()
            for p, old, mean in zip(model.parameters(), snapshot.parameters(), full):
                p.grad.add_(mean - old.grad)
            optimizer.step()
    return list(model.parameters())


@tutorial("Gradient episodic memory: the memory's gradient is kept, the new one projected in place")
def episodic_memory():
    model = nn.Linear(4, 2)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    memory = regression()
    for _ in range(3):
        optimizer.zero_grad()
        F.mse_loss(model(memory[0]), memory[1]).backward()
        reference = [p.grad.detach().clone() for p in model.parameters()]
        optimizer.zero_grad()
        x, y = regression()
        F.mse_loss(model(x), y).backward()
        inner = sum((p.grad * r).sum() for p, r in zip(model.parameters(), reference))
        if inner < 0:
            length = sum((r * r).sum() for r in reference)
            for p, r in zip(model.parameters(), reference):
                p.grad -= inner / length * r
        optimizer.step()
    return list(model.parameters())

"""Loops that are right and rare: graphs over several steps, second order, sampling, workers, exceptions, nesting."""

from __future__ import annotations

import contextlib

import torch
import torch.nn.functional as F
from torch import nn, optim
from torch.utils.data import DataLoader, Dataset

from gradcheck_suite import watch

from .registry import tutorial


def regression():
    return torch.randn(6, 4), torch.randn(6, 2)


@tutorial("Learning to learn by gradient descent: an optimizer that is a network, unrolled over steps")
def learned_optimizer():
    learner, head = nn.LSTMCell(1, 4), nn.Linear(4, 1)
    meta = optim.Adam([*learner.parameters(), *head.parameters()])
    for _ in range(2):
        theta, state, total = torch.randn(5, requires_grad=True), None, 0.0
        for step in range(4):
            loss = (theta - 1).pow(2).sum()
            total = total + loss
            (g,) = torch.autograd.grad(loss, theta, create_graph=True)
            state = learner(g.detach()[:, None], state)
            theta = theta + 0.1 * head(state[0])[:, 0]
            if step % 2:
                meta.zero_grad()
                total.backward()
                meta.step()
                theta, total = theta.detach().requires_grad_(), 0.0
                state = tuple(s.detach() for s in state)
    return [*learner.parameters(), *head.parameters()]


@tutorial("Truncated backpropagation with windows that overlap (retain_graph for a reason)")
def overlapping_windows():
    cell, head = nn.GRUCell(3, 4), nn.Linear(4, 1)
    optimizer = optim.SGD([*cell.parameters(), *head.parameters()], lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        hidden, states = torch.zeros(2, 4), []
        for step in range(8):
            before = hidden.detach().requires_grad_()
            hidden = cell(torch.randn(2, 3), before)
            states.append((before, hidden))
            del states[:-4]
            if step % 2 == 1:  # every second step, four steps back
                head(hidden).pow(2).mean().backward(retain_graph=True)
                for (earlier, _), (_, after) in zip(states[:0:-1], states[-2::-1]):
                    after.backward(earlier.grad, retain_graph=True)
                for earlier, _ in states:
                    earlier.grad = None
        optimizer.step()
    return [*cell.parameters(), *head.parameters()]


@tutorial("Unrolled GAN: the generator looks through steps of a functional critic")
def unrolled_gan():
    generator, critic = nn.Linear(2, 3), nn.Linear(3, 1)
    opt_g, opt_d = optim.Adam(generator.parameters()), optim.Adam(critic.parameters())
    for _ in range(2):
        opt_d.zero_grad()
        (critic(generator(torch.randn(4, 2)).detach()).mean() - critic(torch.randn(4, 3)).mean()).backward()
        opt_d.step()
        params = dict(critic.named_parameters())
        fake = generator(torch.randn(4, 2))
        for _ in range(2):
            loss = torch.func.functional_call(critic, params, (fake,)).sigmoid().mean()
            grads = torch.autograd.grad(loss, list(params.values()), create_graph=True)
            params = {n: p - 0.1 * g for (n, p), g in zip(params.items(), grads)}
        opt_g.zero_grad()
        (-torch.func.functional_call(critic, params, (fake,)).mean()).backward()
        opt_g.step()
    return [*generator.parameters(), *critic.parameters()]


@tutorial("Newton's method (autograd.functional.hessian) and a conjugate-gradient step")
def second_order():
    weight = torch.randn(4, requires_grad=True)

    def f(w):
        return (w.pow(4) + w.pow(2)).sum()

    for _ in range(2):
        hessian = torch.autograd.functional.hessian(f, weight.detach())
        (gradient,) = torch.autograd.grad(f(weight), weight)
        with torch.no_grad():
            weight -= torch.linalg.solve(hessian, gradient)
    for _ in range(2):
        f(weight).backward()
        with torch.no_grad():
            weight -= 0.01 * weight.grad
        weight.grad = None
    return [weight]


@tutorial("Stochastic gradient Langevin dynamics, updates by hand with noise")
def langevin():
    model, samples = nn.Linear(4, 2), []
    for step in range(4):
        x, y = regression()
        model.zero_grad()
        F.mse_loss(model(x), y).backward()
        for p in model.parameters():
            p.data.add_(-0.05 * p.grad + 0.01 * torch.randn_like(p))
        if step % 2:
            samples.append([p.detach().clone() for p in model.parameters()])
    return [*model.parameters(), *samples[-1]]


class Noise(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        return torch.randn(4, generator=generator), torch.randn(2, generator=generator)


@tutorial("Datasets and DataLoaders (worker processes)")
def loader_with_workers():
    model, loader = nn.Linear(4, 2), DataLoader(Noise(), batch_size=4, num_workers=1)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    for x, y in loader:
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        optimizer.step()
    return list(model.parameters())


@tutorial("A batch that fails is skipped, training goes on")
def failing_batches():
    model = nn.Linear(4, 2)
    optimizer = optim.Adam(model.parameters())
    for number in range(4):
        optimizer.zero_grad()
        with contextlib.suppress(ValueError):
            out = model(torch.randn(6, 4))
            if number == 1:
                raise ValueError("a broken record")
            out.pow(2).mean().backward()
            optimizer.step()
    return list(model.parameters())


@tutorial("A watched stretch inside a watched training")
def nested_sessions():
    model = nn.Linear(4, 2)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        for verify in (True, False):
            optimizer.zero_grad()
            with watch(verify=verify) as inner:
                F.mse_loss(model(torch.randn(6, 4)), torch.randn(6, 2)).backward()
            optimizer.step()
            assert inner.internal_errors == []
        optimizer.zero_grad()
        F.mse_loss(model(torch.randn(6, 4)), torch.randn(6, 2)).backward()
        optimizer.step()
    return list(model.parameters())


@tutorial("Losses kept for a plot: detached, or as numbers")
def history_of_losses():
    model = nn.Linear(4, 2)
    optimizer = optim.Adam(model.parameters())
    losses, outputs, average = [], [], None
    for _ in range(6):
        x, y = regression()
        out = model(x)
        loss = F.mse_loss(out, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
        outputs.append(out.detach().numpy())
        average = loss.item() if average is None else 0.9 * average + 0.1 * loss.item()
    torch.stack(losses).mean()
    return list(model.parameters())


@tutorial("Natural gradients: empirical Fisher from single examples, updates by hand")
def natural_gradient():
    model = nn.Linear(4, 1, bias=False)
    for _ in range(2):
        x = torch.randn(5, 4)
        rows = []
        for one in x:
            (g,) = torch.autograd.grad(model(one).pow(2).sum(), model.weight)
            rows.append(g.flatten())
        jacobian = torch.stack(rows)
        fisher = jacobian.T @ jacobian / 5 + 0.1 * torch.eye(4)
        model.zero_grad()
        model(x).pow(2).mean().backward()
        with torch.no_grad():
            model.weight -= 0.1 * torch.linalg.solve(fisher, model.weight.grad.flatten()).view_as(
                model.weight
            )
    return list(model.parameters())


@tutorial("Mixture of experts: in each step some experts get no gradient")
def mixture_of_experts():
    experts, gate = nn.ModuleList(nn.Linear(4, 2) for _ in range(4)), nn.Linear(4, 4)
    optimizer = optim.Adam([*experts.parameters(), *gate.parameters()])
    for _ in range(4):
        x, y = regression()
        weights, index = gate(x).softmax(1).topk(1)
        out = torch.zeros(6, 2)
        for number, expert in enumerate(experts):
            chosen = (index[:, 0] == number).nonzero().flatten()
            if len(chosen):
                out = out.index_add(0, chosen, expert(x[chosen]) * weights[chosen])
        loss = F.mse_loss(out, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [*experts.parameters(), *gate.parameters()]


@tutorial("Straight-through quantisation and a codebook (VQ-VAE)")
def vector_quantised():
    encoder, decoder, codebook = nn.Linear(4, 3), nn.Linear(3, 4), nn.Embedding(5, 3)
    parameters = [*encoder.parameters(), *decoder.parameters(), *codebook.parameters()]
    optimizer = optim.Adam(parameters)
    for _ in range(3):
        x = torch.randn(6, 4)
        z = encoder(x)
        index = torch.cdist(z, codebook.weight).argmin(1)
        q = codebook(index)
        loss = F.mse_loss(q, z.detach()) + 0.25 * F.mse_loss(z, q.detach())
        q = z + (q - z).detach()
        loss = loss + F.mse_loss(decoder(q), x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return parameters

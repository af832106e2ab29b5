"""Loops in which inputs, pictures and latents get gradients: attacks, adversarial training, inversion, energies, adjoints."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn, optim

from .registry import tutorial


def classifier():
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


def batch():
    return torch.randn(5, 4), torch.randint(3, (5,))


@tutorial(
    "Adversarial training with PGD: the attack's gradients reach the weights and are zeroed before the step"
)
def adversarial_training():
    model = classifier()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        x, y = batch()
        delta = torch.zeros_like(x, requires_grad=True)
        for _ in range(2):
            F.cross_entropy(model(x + delta), y).backward()
            delta.data = (delta + 0.1 * delta.grad.detach().sign()).clamp(-0.3, 0.3)
            delta.grad.zero_()
        optimizer.zero_grad()
        F.cross_entropy(model(x + delta.detach()), y).backward()
        optimizer.step()
    return list(model.parameters())


@tutorial("Adversarial training for free: one backward trains the weights and moves the perturbation")
def free_adversarial_training():
    model = classifier()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    delta = torch.zeros(5, 4)
    for _ in range(2):
        x, y = batch()
        for _ in range(3):
            noise = delta.clone().requires_grad_(True)
            optimizer.zero_grad()
            F.cross_entropy(model(x + noise), y).backward()
            optimizer.step()
            delta += 0.1 * noise.grad.sign()
            delta.clamp_(-0.3, 0.3)
    return [*model.parameters(), delta]


@tutorial("TRADES: attack in evaluation mode, divergence between clean and attacked, training mode again")
def trades():
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        x, y = batch()
        model.eval()
        attacked = x + 0.001 * torch.randn_like(x)
        for _ in range(2):
            attacked.requires_grad_()
            loss = F.kl_div(F.log_softmax(model(attacked), 1), F.softmax(model(x), 1), reduction="sum")
            (g,) = torch.autograd.grad(loss, [attacked])
            attacked = attacked.detach() + 0.01 * g.sign()
        model.train()
        optimizer.zero_grad()
        clean = model(x)
        loss = F.cross_entropy(clean, y)
        loss = loss + F.kl_div(F.log_softmax(model(attacked), 1), F.softmax(clean, 1), reduction="batchmean")
        loss.backward()
        optimizer.step()
    return list(model.parameters())


@tutorial("Virtual adversarial training: power iteration on a divergence of detached predictions")
def virtual_adversarial_training():
    model = classifier()
    optimizer = optim.Adam(model.parameters())
    for _ in range(2):
        x, y = batch()
        with torch.no_grad():
            target = F.softmax(model(x), 1)
        d = F.normalize(torch.randn_like(x), dim=1)
        for _ in range(2):
            d = d.detach().requires_grad_()
            F.kl_div(F.log_softmax(model(x + 0.1 * d), 1), target, reduction="batchmean").backward()
            d = F.normalize(d.grad, dim=1)
            model.zero_grad()
        optimizer.zero_grad()
        extra = F.kl_div(F.log_softmax(model(x + d), 1), target, reduction="batchmean")
        (F.cross_entropy(model(x), y) + extra).backward()
        optimizer.step()
    return list(model.parameters())


@tutorial("A latent is searched for a fixed generator (inversion), weights frozen")
def inversion():
    generator, target = nn.Sequential(nn.Linear(2, 4), nn.Tanh()).requires_grad_(False), torch.randn(4)
    latent = torch.zeros(2, requires_grad=True)
    optimizer = optim.Adam([latent], lr=0.1)
    best, least = None, float("inf")
    for _ in range(4):
        optimizer.zero_grad()
        loss = F.mse_loss(generator(latent), target)
        loss.backward()
        if loss.item() < least:
            best, least = latent.detach().clone(), loss.item()
        optimizer.step()
        with torch.no_grad():
            latent.clamp_(-2, 2)
    return [latent, best]


@tutorial("A universal perturbation: gradients of many batches, signs of the sum, by hand")
def universal_perturbation():
    model, delta = classifier(), torch.zeros(4, requires_grad=True)
    for _ in range(3):
        for _ in range(2):
            x, y = batch()
            (-F.cross_entropy(model(x + delta), y)).backward(inputs=[delta])
        with torch.no_grad():
            delta -= 0.05 * delta.grad.sign()
            delta.clamp_(-0.2, 0.2)
        delta.grad = None
    return [delta]


@tutorial(
    "An energy-based model: Langevin samples from the model's own input gradients, then contrastive divergence"
)
def energy_based():
    energy = nn.Sequential(nn.Linear(4, 6), nn.SiLU(), nn.Linear(6, 1))
    optimizer, buffer = optim.Adam(energy.parameters()), torch.randn(8, 4)
    for _ in range(3):
        index = torch.randint(8, (5,))
        sample = buffer[index].clone()
        for p in energy.parameters():
            p.requires_grad_(False)
        sample.requires_grad_(True)
        for _ in range(3):
            energy(sample).sum().backward()
            sample.data.add_(sample.grad.clamp(-1, 1), alpha=-0.1)
            sample.data.add_(torch.randn_like(sample), alpha=0.01)
            sample.grad.zero_()
        for p in energy.parameters():
            p.requires_grad_(True)
        buffer[index] = sample.detach()
        optimizer.zero_grad()
        (energy(torch.randn(5, 4)).mean() - energy(sample.detach()).mean()).backward()
        optimizer.step()
    return [*energy.parameters(), buffer]


@tutorial("Score matching by slices: derivatives of derivatives with respect to the input")
def sliced_score_matching():
    score = nn.Sequential(nn.Linear(3, 5), nn.Softplus(), nn.Linear(5, 3))
    optimizer = optim.Adam(score.parameters())
    for _ in range(3):
        x, v = torch.randn(4, 3).requires_grad_(), torch.randn(4, 3)
        s = score(x)
        (g,) = torch.autograd.grad((s * v).sum(), x, create_graph=True)
        loss = ((g * v).sum(1) + 0.5 * s.pow(2).sum(1)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return list(score.parameters())


@tutorial("Molecular forces: energy's gradient with respect to positions is trained against forces")
def forces():
    energy = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 1))
    optimizer = optim.LBFGS(energy.parameters(), max_iter=3)
    positions, target = torch.randn(5, 3), torch.randn(5, 3)

    def closure():
        optimizer.zero_grad()
        at = positions.clone().requires_grad_(True)
        (force,) = torch.autograd.grad(-energy(at).sum(), at, create_graph=True)
        loss = F.mse_loss(force, target)
        loss.backward()
        return loss

    for _ in range(2):
        optimizer.step(closure)
    return list(energy.parameters())


class Adjoint(torch.autograd.Function):
    """Euler steps of an ODE whose backward integrates the adjoint, step by step, in reverse."""

    @staticmethod
    def forward(ctx, field, state, *parameters):
        states = [state]
        with torch.no_grad():
            for _ in range(4):
                states.append(states[-1] + 0.25 * field(states[-1]))
        ctx.field, ctx.parameters = field, parameters
        ctx.save_for_backward(*states)
        return states[-1]

    @staticmethod
    def backward(ctx, adjoint):
        gradients = [torch.zeros_like(p) for p in ctx.parameters]
        for state in reversed(ctx.saved_tensors[:-1]):
            with torch.enable_grad():
                state = state.detach().requires_grad_()
                value = ctx.field(state)
            of_state, *of_parameters = torch.autograd.grad(value, (state, *ctx.parameters), adjoint)
            adjoint = adjoint + 0.25 * of_state
            gradients = [g + 0.25 * p for g, p in zip(gradients, of_parameters)]
        return None, adjoint, *gradients


@tutorial("A neural ODE with an adjoint written by hand: backwards inside the backward")
def adjoint_by_hand():
    field = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))
    optimizer = optim.Adam(field.parameters())
    for _ in range(3):
        state = torch.randn(5, 3)
        optimizer.zero_grad()

        Adjoint.apply(field, state, *field.parameters()).pow(2).mean().backward()
        optimizer.step()
    return list(field.parameters())


@tutorial("A deep equilibrium model: fixed point without gradients, a hook solves the adjoint equation")
def equilibrium():
    cell, inject = nn.Linear(3, 3), nn.Linear(4, 3)
    with torch.no_grad():
        cell.weight *= 0.3
    optimizer = optim.SGD([*cell.parameters(), *inject.parameters()], lr=0.05)
    for _ in range(3):
        x = torch.randn(5, 4)
        with torch.no_grad():
            z = torch.zeros(5, 3)
            for _ in range(30):
                z = torch.tanh(cell(z) + inject(x))
        z = torch.tanh(cell(z) + inject(x))
        at = z.detach().requires_grad_()
        again = torch.tanh(cell(at) + inject(x))

        def solve(g, at=at, again=again):
            total = g
            for _ in range(20):
                total = g + torch.autograd.grad(again, at, total, retain_graph=True)[0]
            return total

        z.register_hook(solve)
        optimizer.zero_grad()
        z.pow(2).mean().backward()
        optimizer.step()
    return [*cell.parameters(), *inject.parameters()]


@tutorial("Domain-adversarial training: a gradient-reversal layer, declared as a surrogate")
def gradient_reversal():
    from gradcheck_suite import surrogate_gradient

    @surrogate_gradient("reversal")
    class Reverse(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.view_as(x)

        @staticmethod
        def backward(ctx, g):
            return -g

    features, head, domain = nn.Linear(4, 5), nn.Linear(5, 3), nn.Linear(5, 2)
    parameters = [p for m in (features, head, domain) for p in m.parameters()]
    optimizer = optim.SGD(parameters, lr=0.1)
    for _ in range(3):
        x, y = batch()
        shared = features(x).relu()
        loss = F.cross_entropy(head(shared), y)
        loss = loss + F.cross_entropy(domain(Reverse.apply(shared)), torch.randint(2, (5,)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return parameters


@tutorial(
    "Saliency and integrated gradients between two epochs, on inputs, with the weights' .grad untouched"
)
def explanations_between_epochs():
    model = classifier()
    optimizer, found = optim.SGD(model.parameters(), lr=0.1), []
    for _ in range(2):
        for _ in range(2):
            x, y = batch()
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        model.eval()
        x = torch.randn(1, 4)
        total = torch.zeros_like(x)
        for alpha in torch.linspace(0.1, 1, 4):
            at = (alpha * x).requires_grad_()
            total += torch.autograd.grad(model(at)[0, 1], at)[0]
        found.append(total * x / 4)
        model.train()
    return [*model.parameters(), *found]

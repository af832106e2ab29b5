"""Gradients as parts of the program: MAML, torch.func, neural ODEs, physics-informed networks, custom Functions."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn, optim
from torch.func import functional_call, grad, grad_and_value, stack_module_state, vmap

from .registry import tutorial


@tutorial("Model-agnostic meta-learning (torch.func.functional_call, create_graph)")
def maml():
    net = nn.Sequential(nn.Linear(1, 6), nn.ReLU(), nn.Linear(6, 1))
    meta_opt = optim.Adam(net.parameters(), lr=1e-3)

    def sine_task():
        amplitude, phase = torch.rand(1) * 4 + 0.1, torch.rand(1) * 3
        x = torch.rand(5, 1) * 10 - 5
        return x, amplitude * torch.sin(x + phase)

    for _ in range(2):
        meta_opt.zero_grad()
        outer = 0.0
        for _ in range(2):
            params = dict(net.named_parameters())
            x, y = sine_task()
            for _ in range(2):
                loss = F.mse_loss(functional_call(net, params, (x,)), y)
                grads = torch.autograd.grad(loss, tuple(params.values()), create_graph=True)
                params = {name: p - 0.01 * g for (name, p), g in zip(params.items(), grads)}
            x, y = sine_task()
            outer = outer + F.mse_loss(functional_call(net, params, (x,)), y)
        (outer / 2).backward()
        meta_opt.step()
    return list(net.parameters())


@tutorial("First-order meta-learning (Reptile)")
def reptile():
    net = nn.Sequential(nn.Linear(1, 6), nn.Tanh(), nn.Linear(6, 1))
    for _ in range(2):
        before = {name: p.detach().clone() for name, p in net.named_parameters()}
        x, y = torch.rand(5, 1), torch.rand(5, 1)
        for _ in range(3):
            net.zero_grad()
            (net(x) - y).pow(2).mean().backward()
            for param in net.parameters():
                param.data -= 0.02 * param.grad.data
        after = net.state_dict()
        net.load_state_dict({name: before[name] + (after[name] - before[name]) * 0.1 for name in before})
    return list(net.parameters())


@tutorial("torch.func: a training loop of pure functions (grad_and_value, functional updates)")
def functional_training():
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    params = {name: p.detach() for name, p in model.named_parameters()}

    def compute_loss(params, x, y):
        return F.cross_entropy(functional_call(model, params, (x,)), y)

    for _ in range(3):
        grads, _ = grad_and_value(compute_loss)(params, torch.randn(5, 4), torch.randint(3, (5,)))
        params = {name: params[name] - 0.1 * g for name, g in grads.items()}
    # The loop of a user who wants both: the functional gradients are given to an optimizer.
    weight = torch.zeros(3, requires_grad=True)
    optimizer = optim.SGD([weight], lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        weight.grad = grad(lambda w: (w - 1).pow(2).sum())(weight.detach())
        optimizer.step()
        (weight * 1.0).sum().backward()
        optimizer.zero_grad()
    return [*params.values(), weight]


@tutorial("Per-sample-gradients (vmap over grad) and DP-SGD")
def per_sample_gradients():
    model = nn.Linear(4, 3)
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    def compute_loss(params, sample, target):
        logits = functional_call(model, params, (sample.unsqueeze(0),))
        return F.cross_entropy(logits, target.unsqueeze(0))

    per_sample = vmap(grad(compute_loss), in_dims=(None, 0, 0))
    for _ in range(2):
        optimizer.zero_grad()
        x, y = torch.randn(5, 4), torch.randint(3, (5,))
        grads = per_sample({k: v.detach() for k, v in model.named_parameters()}, x, y)
        for name, p in model.named_parameters():
            g = grads[name]
            norms = g.flatten(1).norm(dim=1).clamp(min=1e-6)
            g = g * (1.0 / norms).clamp(max=1.0).view(-1, *[1] * p.dim())
            p.grad = g.sum(0) / 5 + 0.01 * torch.randn_like(p)
        optimizer.step()
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
    return list(model.parameters())


@tutorial("Model ensembling (stack_module_state, vmap)")
def ensemble():
    models = [nn.Linear(4, 2) for _ in range(3)]
    params, buffers = stack_module_state(models)
    base = nn.Linear(4, 2, device="meta")
    optimizer = optim.Adam(params.values(), lr=0.01)

    def call(params, buffers, x):
        return functional_call(base, (params, buffers), (x,))

    for _ in range(3):
        optimizer.zero_grad()
        out = vmap(call, (0, 0, None))(params, buffers, torch.randn(5, 4))
        out.pow(2).mean().backward()
        optimizer.step()
    return list(params.values())


@tutorial("Neural ODE (an unrolled solver, odeint by hand)")
def neural_ode():
    class ODEFunc(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2))
            for m in self.net.modules():
                if isinstance(m, nn.Linear):
                    nn.init.normal_(m.weight, mean=0, std=0.1)
                    nn.init.constant_(m.bias, val=0)

        def forward(self, t, y):
            return self.net(y**3)

    def odeint(func, y, times):
        solution = [y]
        for t0, t1 in pairwise(times):
            h = t1 - t0
            k1 = func(t0, y)
            k2 = func(t0 + h / 2, y + h / 2 * k1)
            k3 = func(t0 + h / 2, y + h / 2 * k2)
            k4 = func(t1, y + h * k3)
            y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
            solution.append(y)
        return torch.stack(solution)

    func = ODEFunc()
    optimizer = optim.RMSprop(func.parameters(), lr=1e-3)
    loss_meter = None
    for _ in range(3):
        optimizer.zero_grad()
        pred_y = odeint(func, torch.rand(3, 2), torch.linspace(0.0, 1.0, 4))
        loss = torch.mean(torch.abs(pred_y - torch.rand(4, 3, 2)))
        loss.backward()
        optimizer.step()
        loss_meter = loss.item() if loss_meter is None else 0.97 * loss_meter + 0.03 * loss.item()
    return list(func.parameters())


@tutorial("Physics-informed neural network (derivatives of the output in the loss)")
def physics_informed():
    net = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        t = torch.rand(6, 1, requires_grad=True)
        u = net(t)
        dudt = torch.autograd.grad(u, t, torch.ones_like(u), create_graph=True)[0]
        d2udt2 = torch.autograd.grad(dudt, t, torch.ones_like(dudt), create_graph=True)[0]
        boundary = net(torch.zeros(1, 1))
        loss = (boundary - 1).pow(2).mean() + 1e-2 * (d2udt2 + 4 * dudt + 9 * u).pow(2).mean()
        loss.backward()
        optimizer.step()
    return list(net.parameters())


@tutorial("Learning PyTorch with Examples: defining new autograd functions")
def learning_pytorch_with_examples():
    class LegendrePolynomial3(torch.autograd.Function):
        @staticmethod
        def forward(ctx, input):
            ctx.save_for_backward(input)
            return 0.5 * (5 * input**3 - 3 * input)

        @staticmethod
        def backward(ctx, grad_output):
            (input,) = ctx.saved_tensors
            return grad_output * 1.5 * (5 * input**2 - 1)

    x = torch.linspace(-3, 3, 20)
    y = torch.sin(x)
    a, b, c, d = (torch.full((), v, requires_grad=True) for v in (0.0, -1.0, 0.0, 0.3))
    learning_rate = 5e-6
    for _ in range(4):
        P3 = LegendrePolynomial3.apply
        y_pred = a + b * P3(c + d * x)
        loss = (y_pred - y).pow(2).sum()
        loss.backward()
        with torch.no_grad():
            a -= learning_rate * a.grad
            b -= learning_rate * b.grad
            c -= learning_rate * c.grad
            d -= learning_rate * d.grad
            a.grad = None
            b.grad = None
            c.grad = None
            d.grad = None
    return [a, b, c, d]


@tutorial("Optimization Step Fused into Backward Pass")
def optimizer_in_backward():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    optimizer_dict = {p: optim.Adam([p], foreach=False) for p in model.parameters()}

    def optimizer_hook(parameter):
        optimizer_dict[parameter].step()
        optimizer_dict[parameter].zero_grad()

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(optimizer_hook)
    for _ in range(3):
        loss = model(torch.randn(5, 4)).sum()
        loss.backward()
    return list(model.parameters())


@tutorial("Visualizing Gradients (retain_grad, hooks on tensors and modules)")
def visualizing_gradients():
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Sigmoid(), nn.Linear(6, 1))
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    seen = []

    def hook_forward(module, args, output):
        output.retain_grad()
        seen.append(output)

    handles = [layer.register_forward_hook(hook_forward) for layer in model]
    handles.append(model[0].register_full_backward_hook(lambda m, gi, go: None))
    for _ in range(2):
        del seen[:]
        optimizer.zero_grad()
        loss = model(torch.randn(5, 4)).pow(2).mean()
        loss.backward()
        [t.grad.abs().mean().item() for t in seen]
        optimizer.step()
    for handle in handles:
        handle.remove()
    return list(model.parameters())

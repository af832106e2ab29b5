"""Gradients that are used twice, thrown away, or used by nobody, in unusual loops."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn, optim

from .registry import mistake


def regression():
    return torch.randn(6, 4), torch.randn(6, 2)


def small():
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))


@mistake("GC301")
def gan_generator_not_zeroed():
    g, d = nn.Linear(2, 4), nn.Linear(4, 1)
    og, od = optim.Adam(g.parameters()), optim.Adam(d.parameters())
    for _ in range(3):
        real, fake = torch.randn(5, 4), g(torch.randn(5, 2))
        od.zero_grad()
        (F.softplus(d(fake.detach())) + F.softplus(-d(real))).mean().backward()
        od.step()
        F.softplus(-d(fake)).mean().backward()
        og.step()  # <-


@mistake("GC301")
def gan_critic_keeps_generators_gradients():
    g, d = nn.Linear(2, 4), nn.Linear(4, 1)
    og, od = optim.SGD(g.parameters(), lr=0.1), optim.SGD(d.parameters(), lr=0.1)
    for _ in range(3):
        og.zero_grad()
        F.softplus(-d(g(torch.randn(5, 2)))).mean().backward()
        og.step()
        F.softplus(d(g(torch.randn(5, 2)).detach())).mean().backward()
        od.step()  # <-


@mistake("GC301")
def sam_without_zero():
    model = small()
    base = optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        x, y = regression()
        F.mse_loss(model(x), y).backward()
        with torch.no_grad():
            e = [0.05 * p.grad / p.grad.norm() for p in model.parameters()]
            for p, d in zip(model.parameters(), e):
                p.add_(d)
        F.mse_loss(model(x), y).backward()
        with torch.no_grad():
            for p, d in zip(model.parameters(), e):
                p.sub_(d)
        base.step()  # <-


@mistake("GC301")
def lbfgs_closure_without_zero():
    model, (x, y) = small(), regression()
    optimizer = optim.LBFGS(model.parameters(), max_iter=3)

    def closure():
        loss = F.mse_loss(model(x), y)
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)  # <-


@mistake("GC301")
def zero_on_wrong_model():
    teacher, student = nn.Linear(4, 2), nn.Linear(4, 2)
    optimizer = optim.SGD(student.parameters(), lr=0.1)
    for _ in range(3):
        x = torch.randn(6, 4)
        teacher.zero_grad()
        with torch.no_grad():
            t = teacher(x)
        F.mse_loss(student(x), t).backward()
        optimizer.step()  # <-


@mistake("GC301")
def pgd_delta_not_zeroed():
    model = nn.Linear(4, 3).requires_grad_(False)
    x = torch.randn(5, 4)
    y = torch.randint(3, (5,))
    delta = torch.zeros_like(x, requires_grad=True)
    for _ in range(4):
        F.cross_entropy(model(x + delta), y).backward()
        delta.data.add_(0.1 * delta.grad.sign())  # <-


@mistake("GC301")
def amp_scaler_never_zeroed():
    model = small()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    s = torch.amp.GradScaler("cpu")
    for _ in range(3):
        x, y = regression()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = F.mse_loss(model(x), y)
        s.scale(loss).backward()
        s.step(optimizer)  # <-
        s.update()


@mistake("GC301")
def accumulation_zero_misplaced():
    model = small()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        for i in range(4):
            x, y = regression()
            (F.mse_loss(model(x), y) / 2).backward()
            if i % 2:
                optimizer.step()  # <-


@mistake("GC301")
def new_group_not_zeroed():
    a, b = nn.Linear(4, 4), nn.Linear(4, 2)
    oa, ob = optim.SGD(a.parameters(), lr=0.1), optim.SGD(b.parameters(), lr=0.1)
    for _ in range(3):
        x, y = regression()
        oa.zero_grad()
        F.mse_loss(b(a(x)), y).backward()
        oa.step()
        ob.step()  # <-


@mistake("GC301")
def fused_adam():
    model = small()
    optimizer = optim.AdamW(model.parameters(), fused=True)
    for _ in range(3):
        x, y = regression()
        F.mse_loss(model(x), y).backward()
        optimizer.step()  # <-


@mistake("GC301")
def sparse_adam():
    e = nn.Embedding(9, 3, sparse=True)
    optimizer = optim.SparseAdam(list(e.parameters()))
    for _ in range(3):
        e(torch.randint(9, (4,))).pow(2).mean().backward()
        optimizer.step()  # <-


@mistake("GC301")
def by_hand_data_assignment():
    w = torch.randn(3, requires_grad=True)
    for _ in range(3):
        (w * torch.randn(3)).pow(2).sum().backward()
        w.data = w.data - 0.1 * w.grad  # <-


@mistake("GC301")
def maml_inner_by_hand():
    w = torch.randn(4, 2, requires_grad=True)
    for _ in range(4):
        x, y = regression()
        F.mse_loss(x @ w, y).backward()
        with torch.no_grad():
            w -= 0.1 * w.grad  # <-


@mistake("GC302")
def zero_before_step():
    model = small()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        x, y = regression()
        F.mse_loss(model(x), y).backward()
        optimizer.zero_grad()  # <-
        optimizer.step()


@mistake("GC503")
def head_forgotten():
    b, h = nn.Linear(4, 5), nn.Linear(5, 2)
    optimizer = optim.SGD(b.parameters(), lr=0.1)
    for _ in range(4):
        x, y = regression()
        optimizer.zero_grad()
        F.mse_loss(h(b(x)), y).backward()
        optimizer.step()


@mistake("GC503")
def optimizer_before_new_layer():
    model = nn.ModuleList([nn.Linear(4, 4)])
    head = nn.Linear(4, 2)
    optimizer = optim.Adam([*model.parameters(), *head.parameters()])
    for i in range(6):
        if i == 2:
            model.append(nn.Linear(4, 4))
        x, y = regression()
        for layer in model:
            x = layer(x).tanh()
        optimizer.zero_grad()
        F.mse_loss(head(x), y).backward()
        optimizer.step()


@mistake("GC503")
def head_replaced_after_optimizer():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.b = nn.Linear(4, 5)
            self.h = nn.Linear(5, 3)

        def forward(self, x):
            return self.h(self.b(x).relu())

    model = Net()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    model.h = nn.Linear(5, 2)
    for _ in range(4):
        x, y = regression()
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        optimizer.step()


@mistake("GC503")
def dict_of_heads():
    b = {"a": nn.Linear(4, 5)}
    model = nn.Linear(5, 2)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    for _ in range(4):
        x, y = regression()
        optimizer.zero_grad()
        F.mse_loss(model(b["a"](x)), y).backward()
        optimizer.step()


@mistake("GC704")
def step_without_backward():
    model = small()
    other = small()
    optimizer = optim.SGD(other.parameters(), lr=0.1)
    for _ in range(3):
        x, y = regression()
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        optimizer.step()  # <-


@mistake("GC704")
def copies_in_optimizer():
    model = small()
    optimizer = optim.Adam([p.detach().clone().requires_grad_() for p in model.parameters()])
    for _ in range(3):
        x, y = regression()
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        optimizer.step()  # <-


@mistake("GC502")
def unused():
    class N(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(4, 2)
            self.b = nn.Linear(4, 2)

        def forward(self, x):
            return self.a(x)

    model = N()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    for _ in range(14):
        x, y = regression()
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        optimizer.step()

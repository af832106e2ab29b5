"""What is saved is overwritten, what is freed is used again, values that are not finite: by unusual writers, in unusual places."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn, optim

from .registry import mistake


def regression():
    return torch.randn(6, 4), torch.randn(6, 2)


def small():
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))


@mistake("GC201", raises=RuntimeError)
def foreach_adam_between():
    model = small()
    optimizer = optim.Adam(model.parameters(), foreach=True)
    x, y = regression()
    out = model(x)
    F.mse_loss(out, y).backward(retain_graph=True)
    optimizer.step()  # <-
    out.sum().backward()


@mistake("GC201", raises=RuntimeError)
def third_step_known():
    # the first steps show how the optimizer writes; the third runs unseen
    model = small()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    for i in range(4):
        x, y = regression()
        optimizer.zero_grad()
        out = model(x)
        F.mse_loss(out, y).backward(retain_graph=i == 3)
        optimizer.step()  # <-
    out.sum().backward()


@mistake("GC202")
def fused_adam_between():
    model = small()
    optimizer = optim.Adam(model.parameters(), fused=True)
    for i in range(4):
        x, y = regression()
        optimizer.zero_grad()
        out = model(x)
        F.mse_loss(out, y).backward(retain_graph=i == 3)
        if i < 3:
            optimizer.step()
    optimizer.step()  # <-
    out.sum().backward()


@mistake("GC201", raises=RuntimeError)
def foreach_by_hand():
    ws = [torch.randn(3, requires_grad=True) for _ in range(2)]
    y = sum((w * w).sum() for w in ws)
    with torch.no_grad():
        torch._foreach_mul_(ws, 2.0)  # <-
    y.backward()


@mistake("GC201", raises=RuntimeError)
def out_argument():
    a = torch.randn(3, requires_grad=True)
    b = a * 1
    y = b.exp()
    with torch.no_grad():
        torch.add(y, 1, out=y)  # <-
    y.sum().backward()


@mistake("GC201", raises=RuntimeError)
def view_written():
    a = torch.randn(3, 4, requires_grad=True)
    b = a * 1
    y = b.sigmoid()
    row = y[0]
    row.zero_()  # <-
    y.sum().backward()


@mistake("GC201", raises=RuntimeError)
def index_put():
    a = torch.randn(3, 4, requires_grad=True)
    y = a.softmax(1)
    y[0, 0] = 1.0  # <-
    y.pow(2).sum().backward()


@mistake("GC201", raises=RuntimeError)
def relu_inplace_after_sigmoid():
    model = nn.Sequential(nn.Linear(4, 4), nn.Sigmoid(), nn.ReLU(inplace=True))
    model(torch.randn(3, 4)).sum().backward()


@mistake("GC201", raises=RuntimeError)
def residual_add():
    model = nn.Linear(4, 4)
    x = torch.randn(3, 4, requires_grad=True)
    h = model(x).tanh()
    h += x  # <-
    h.sum().backward()


@mistake("GC202")
def numpy_from_buffer():
    a = np.ones((3, 4), dtype=np.float32)
    x = torch.from_numpy(a)
    model = nn.Linear(4, 2)
    out = model(x)
    a[:] = 5
    out.pow(2).sum().backward()


@mistake("GC202")
def set_data_pointer():
    w = torch.randn(3, requires_grad=True)
    y = (w * w * w).sum()
    w.data = torch.zeros(3)
    y.backward()


@mistake("GC202")
def data_view():
    model = nn.Linear(4, 4)
    h = model(torch.randn(3, 4)).exp()
    h.data[0].fill_(0)  # <-
    h.sum().backward()


@mistake("GC202")
def input_buffer_reused():
    model = nn.Linear(4, 2)
    buf = torch.zeros(3, 4)
    losses = []
    for _ in range(3):
        buf.data.copy_(torch.randn(3, 4))  # <-
        losses.append(model(buf).pow(2).sum())
    sum(losses).backward()


@mistake("GC201", raises=RuntimeError)
def input_buffer_reused_loud():
    model = nn.Linear(4, 2)
    buf = torch.zeros(3, 4)
    losses = []
    for _ in range(3):
        buf.copy_(torch.randn(3, 4))  # <-
        losses.append(model(buf).pow(2).sum())
    sum(losses).backward()


@mistake("GC401", raises=RuntimeError)
def target_with_history():
    model = nn.Linear(4, 2)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    x, _ = regression()
    t = model(x)
    for _ in range(3):
        optimizer.zero_grad()
        F.mse_loss(model(x) * 2, t).backward()  # <-
        optimizer.step()


@mistake("GC401", raises=RuntimeError)
def positional_encoding_cached():
    class N(nn.Module):
        def __init__(self):
            super().__init__()
            self.pe = nn.Parameter(torch.randn(4))
            self.cache = None
            self.l = nn.Linear(4, 2)

        def forward(self, x):
            if self.cache is None:
                self.cache = self.pe.sin()
            return self.l(x + self.cache)

    model = N()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        x, y = regression()
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()  # <-
        optimizer.step()


@mistake("GC401", raises=RuntimeError)
def gan_shared_fake():
    g, d = nn.Linear(2, 4), nn.Linear(4, 1)
    og, od = optim.SGD(g.parameters(), lr=0.1), optim.SGD(d.parameters(), lr=0.1)
    fake = g(torch.randn(5, 2))
    od.zero_grad()
    d(fake).mean().backward()
    od.step()
    og.zero_grad()
    (-d(fake)).mean().backward()  # <-


@mistake("GC401", raises=RuntimeError)
def grad_twice():
    w = torch.randn(3, requires_grad=True)
    y = w.exp().sum()
    torch.autograd.grad(y, w)
    torch.autograd.grad(y, w)  # <-


@mistake("GC401", raises=RuntimeError)
def grad_without_create_graph():
    w = torch.randn(3, requires_grad=True)
    y = w.exp().sum()
    (_,) = torch.autograd.grad(y, w)
    y.backward()  # <-


@mistake("GC501", raises=RuntimeError)
def grad_penalty_without_create_graph():
    model = nn.Linear(4, 1)
    x = torch.randn(5, 4, requires_grad=True)
    (g,) = torch.autograd.grad(model(x).sum(), x)
    g.norm().backward()


@mistake("GC601")
def norm_at_zero():
    model = nn.Linear(4, 2)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        out = model(torch.randn(3, 4))
        n = (out * out).sum(1).sqrt()  # <-
        n.sum().backward()
        optimizer.step()


@mistake("GC601")
def log_of_zero_prob():
    w = torch.tensor([-200.0, 0.0, 200.0], requires_grad=True)
    optimizer = optim.SGD([w], lr=0.1)
    optimizer.zero_grad()
    p = w.softmax(0)
    loss = -(p.log() * torch.tensor([1.0, 0, 0])).sum()  # <-
    loss.backward()
    optimizer.step()


@mistake("GC601")
def acos_at_one():
    w = torch.ones(3, requires_grad=True)
    optimizer = optim.SGD([w], lr=0.1)
    a = torch.acos(w).sum()  # <-
    a.backward()
    optimizer.step()


@mistake("GC601")
def pow_zero():
    w = torch.zeros(3, requires_grad=True)
    optimizer = optim.SGD([w], lr=0.1)
    a = w.pow(0.5)  # <-
    a.sum().backward()
    optimizer.step()


@mistake("GC601")
def atan2_where():
    model = nn.Linear(4, 2)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        x = torch.randn(3, 4)
        x[0] = 0
        z = model(x) - model.bias
        n = z[:, 0] / z[:, 1]  # <-
        torch.where(z[:, 1] != 0, n, torch.zeros(3)).sum().backward()
        optimizer.step()


@mistake("GC703")
def eval_before_loop():
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    model.eval()
    for _ in range(12):
        x, y = regression()
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        optimizer.step()  # <-


@mistake("GC703")
def validation_in_train_mode():
    model = nn.Sequential(nn.Linear(4, 5), nn.Dropout(), nn.Linear(5, 3))
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(model(torch.randn(6, 4)), torch.randint(3, (6,))).backward()
        optimizer.step()
        with torch.no_grad():
            p = model(torch.randn(6, 4))  # <-
            (p.argmax(1) == torch.randint(3, (6,))).float().mean()


@mistake("GC504")
def grad_mode_in_function():
    model = small()
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    def evaluate():
        torch.set_grad_enabled(False)  # <-
        model(torch.randn(3, 4))

    for _ in range(2):
        x, y = regression()
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        optimizer.step()
    evaluate()


@mistake("GC403")
def lists_of_losses():
    model = small()
    optimizer = optim.Adam(model.parameters())
    hist = {"loss": []}
    for _ in range(12):
        x, y = regression()
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y)  # <-
        loss.backward()
        optimizer.step()
        hist["loss"].append(loss)


@mistake("GC302")
def zero_between_through_model():
    model = small()
    optimizer = optim.Adam(model.parameters())
    for _ in range(4):
        x, y = regression()
        F.mse_loss(model(x), y).backward()
        model.zero_grad()  # <-
        optimizer.step()


@mistake("GC302")
def normalised_then_zeroed():
    model = small()
    optimizer = optim.Adam(model.parameters())
    for _ in range(4):
        x, y = regression()
        F.mse_loss(model(x), y).backward()
        for p in model.parameters():
            p.grad = p.grad / p.grad.norm()
        optimizer.zero_grad()  # <-
        optimizer.step()


@mistake("GC302")
def signed_then_zeroed():
    model = small()
    optimizer = optim.Adam(model.parameters())
    for _ in range(4):
        x, y = regression()
        F.mse_loss(model(x), y).backward()
        for p in model.parameters():
            p.grad.copy_(p.grad.sign())
        optimizer.zero_grad(set_to_none=False)  # <-
        optimizer.step()

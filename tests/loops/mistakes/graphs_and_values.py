"""Graphs that were freed, kept, cut or overwritten, losses and modes that are not what they were taken for, in unusual loops."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import nn, optim

from .registry import mistake


def regression():
    return torch.randn(6, 4), torch.randn(6, 2)


def small():
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))


@mistake("GC401", raises=RuntimeError)
def hidden_state_carried():
    c, h = nn.GRUCell(3, 4), nn.Linear(4, 1)
    optimizer = optim.SGD([*c.parameters(), *h.parameters()], lr=0.1)
    s = torch.zeros(2, 4)
    for _ in range(3):
        s = c(torch.randn(2, 3), s)
        optimizer.zero_grad()
        loss = h(s).pow(2).mean()
        loss.backward()  # <-
        optimizer.step()


@mistake("GC401", raises=RuntimeError)
def cached_regulariser():
    model = nn.Linear(4, 2)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    r = model.weight.pow(2).sum()
    for _ in range(3):
        x, y = regression()
        optimizer.zero_grad()
        (F.mse_loss(model(x), y) + 0.1 * r).backward()  # <-
        optimizer.step()


@mistake("GC401", raises=RuntimeError)
def moving_average_loss():
    model = nn.Linear(4, 2)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    avg = 0.0
    for _ in range(3):
        x, y = regression()
        avg = 0.9 * avg + 0.1 * F.mse_loss(model(x), y)
        optimizer.zero_grad()
        avg.backward()  # <-
        optimizer.step()


@mistake("GC401", raises=RuntimeError)
def pcgrad_without_retain():
    b, h = nn.Linear(4, 5), nn.ModuleList((nn.Linear(5, 2), nn.Linear(5, 2)))
    x, y = regression()
    f = b(x).tanh()
    for head in h:
        F.mse_loss(head(f), y).backward()  # <-


@mistake("GC401", raises=RuntimeError)
def replay_with_history():
    model = nn.Linear(4, 4)
    buf = []
    s = torch.randn(4)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    for _ in range(4):
        s = model(s).tanh()
        buf.append(s)
        optimizer.zero_grad()
        torch.stack(buf).pow(2).mean().backward()  # <-
        optimizer.step()


@mistake("GC401", raises=RuntimeError)
def queue_with_history():
    model = nn.Linear(4, 3)
    q = torch.randn(8, 3)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        z = model(torch.randn(4, 4))
        loss = F.cross_entropy(z @ q.T, torch.zeros(4, dtype=torch.long))
        optimizer.zero_grad()
        loss.backward()  # <-
        optimizer.step()
        q = torch.cat([q[4:], z])


@mistake("GC403")
def retain_graph_fix():
    c, h = nn.Linear(3, 4), nn.Linear(4, 1)
    optimizer = optim.SGD([*c.parameters(), *h.parameters()], lr=0.1)
    s = torch.zeros(2, 4)
    for _ in range(8):
        s = 0.9 * s + c(torch.randn(2, 3))  # <-
        optimizer.zero_grad()
        h(s).pow(2).mean().backward(retain_graph=True)
        optimizer.step()


@mistake("GC201", raises=RuntimeError)
def step_between_two_backwards():
    a, c = nn.Linear(4, 3), nn.Linear(3, 1)
    oa, oc = optim.SGD(a.parameters(), lr=0.1), optim.SGD(c.parameters(), lr=0.1)
    for _ in range(2):
        v = c(a(torch.randn(5, 4)).tanh())
        oc.zero_grad()
        v.pow(2).mean().backward(retain_graph=True)
        oc.step()  # <-
        oa.zero_grad()
        (-v).mean().backward()
        oa.step()


@mistake("GC202")
def ema_written_through_data():
    model = nn.Linear(4, 3)
    h = nn.Linear(3, 1)
    x = torch.randn(5, 4)
    z = h(model(x).tanh())
    for p in h.parameters():
        p.data.mul_(0.5)  # <-
    z.pow(2).mean().backward()


@mistake("GC202")
def clip_weights_between():
    c = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))
    optimizer = optim.RMSprop(c.parameters())
    for _ in range(2):
        optimizer.zero_grad()
        loss = c(torch.randn(5, 4)).mean()
        for p in c.parameters():
            p.data.clamp_(-0.01, 0.01)  # <-
        loss.backward()
        optimizer.step()


@mistake("GC202")
def numpy_alias():
    model = nn.Linear(4, 2)
    x = torch.randn(5, 4)
    out = model(x)
    a = x.numpy()  # <-
    a *= 0
    out.pow(2).mean().backward()


@mistake("GC202")
def load_state_between():
    model = small()
    st = copy.deepcopy(model.state_dict())
    out = model(torch.randn(3, 4))
    for k, v in model.named_parameters():
        v.data.copy_(st[k] * 2)  # <-
    out.pow(2).sum().backward()


@mistake("GC402")
def needless_retain():
    model = small()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        x, y = regression()
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward(retain_graph=True)  # <-
        optimizer.step()


@mistake("GC403")
def total_loss():
    model = small()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    total = 0.0
    for _ in range(12):
        x, y = regression()
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        total = total + loss  # <-


@mistake("GC403")
def outputs_appended():
    model = small()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    outs = []
    for _ in range(12):
        x, y = regression()
        optimizer.zero_grad()
        out = model(x)  # <-
        F.mse_loss(out, y).backward()
        optimizer.step()
        outs.append(out)


@mistake("GC501", raises=RuntimeError)
def loss_via_numpy():
    model = nn.Linear(4, 2)
    x, y = regression()
    loss = torch.tensor(((model(x).detach().numpy() - y.numpy()) ** 2).mean())
    loss.backward()


@mistake("GC501", raises=RuntimeError)
def argmax_loss():
    model = nn.Linear(4, 3)
    loss = (model(torch.randn(5, 4)).argmax(1) - torch.randint(3, (5,))).float().abs().mean()
    loss.backward()


@mistake("GC501", raises=RuntimeError)
def under_no_grad():
    model = nn.Linear(4, 3)
    with torch.no_grad():
        out = model(torch.randn(5, 4))
    out.sum().backward()


@mistake("GC504")
def grad_mode_left_off():
    model = small()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        x, y = regression()
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        optimizer.step()
    torch.set_grad_enabled(False)  # <-
    model(x)


@mistake("GC505")
def non_leaf():
    model = small()
    h = model(torch.randn(3, 4))
    h.sum().backward()
    assert h.grad is None  # <-


@mistake("GC505")
def non_leaf_to():
    w = torch.randn(3, requires_grad=True).double()
    w.pow(2).sum().backward()
    assert w.grad is None  # <-


@mistake("GC601")
def sqrt_at_zero():
    w = torch.zeros(3, requires_grad=True)
    optimizer = optim.SGD([w], lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        d = w.pow(2).sum().sqrt()  # <-
        d.backward()
        optimizer.step()


@mistake("GC701")
def double_softmax():
    model = nn.Sequential(nn.Linear(4, 3), nn.Softmax(1))
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(model(torch.randn(5, 4)), torch.randint(3, (5,))).backward()  # <-
        optimizer.step()


@mistake("GC702")
def forward_directly():

    class W(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, x):
            return self.layer(x)

    w = W()
    w.forward(torch.randn(3, 4)).sum().backward()  # <-


@mistake("GC703")
def never_train_again():
    model = nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.5), nn.Linear(5, 2))
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        for _ in range(3):
            x, y = regression()
            optimizer.zero_grad()
            F.mse_loss(model(x), y).backward()
            optimizer.step()  # <-
        model.eval()
        with torch.no_grad():
            F.mse_loss(model(x), y)


class DirtyForgotten(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        x.data.mul_(2)
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return 2 * g


@mistake("GC202")
def dirty_forgotten():
    model = nn.Linear(4, 2)
    h = model(torch.randn(3, 4)).sigmoid()
    DirtyForgotten.apply(h).sum().backward()


@mistake("GC202")
def hook_writes():
    model = nn.Linear(4, 5)
    last = nn.Linear(5, 2)

    def hook(mod, inp, out):
        out.data.mul_(0.5)

    act = nn.Tanh()
    act.register_forward_hook(hook)
    last(act(model(torch.randn(3, 4)))).pow(2).sum().backward()

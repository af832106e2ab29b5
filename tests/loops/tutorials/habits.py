"""Habits of published training code: wrappers around optimizers, queues, buffers, ways to zero, models that come and go."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn, optim

from .registry import tutorial


def small():
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))


def regression():
    return torch.randn(6, 4), torch.randn(6, 2)


class SAM(torch.optim.Optimizer):
    def __init__(self, params, base_optimizer, rho=0.05, **kwargs):
        super().__init__(params, dict(rho=rho, **kwargs))
        self.base_optimizer = base_optimizer(self.param_groups, **kwargs)
        self.param_groups = self.base_optimizer.param_groups

    @torch.no_grad()
    def first_step(self, zero_grad=False):
        norm = torch.norm(
            torch.stack([p.grad.norm(p=2) for g in self.param_groups for p in g["params"]]), p=2
        )
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["old_p"] = p.data.clone()
                p.add_(p.grad * (group["rho"] / (norm + 1e-12)))
        if zero_grad:
            self.zero_grad()

    @torch.no_grad()
    def second_step(self, zero_grad=False):
        for group in self.param_groups:
            for p in group["params"]:
                p.data = self.state[p]["old_p"]
        self.base_optimizer.step()
        if zero_grad:
            self.zero_grad()

    @torch.no_grad()
    def step(self, closure=None):
        closure = torch.enable_grad()(closure)
        self.first_step(zero_grad=True)
        closure()
        self.second_step()


@tutorial("davda54/sam: two steps by hand, and with a closure")
def sharpness_aware_minimisation():
    model = small()
    optimizer = SAM(model.parameters(), optim.SGD, lr=0.1, momentum=0.9)
    for _ in range(2):
        x, y = regression()
        F.mse_loss(model(x), y).backward()
        optimizer.first_step(zero_grad=True)
        F.mse_loss(model(x), y).backward()
        optimizer.second_step(zero_grad=True)
    for _ in range(2):
        x, y = regression()

        def closure(x=x, y=y):
            loss = F.mse_loss(model(x), y)
            loss.backward()
            return loss

        loss = F.mse_loss(model(x), y)
        loss.backward()
        optimizer.step(closure)
        optimizer.zero_grad()
    return list(model.parameters())


class Lookahead:
    """Wraps an optimizer and is none itself."""

    def __init__(self, base, k=2, alpha=0.5):
        self.base, self.k, self.alpha, self.count = base, k, alpha, 0
        self.slow = [[p.detach().clone() for p in g["params"]] for g in base.param_groups]

    def zero_grad(self):
        self.base.zero_grad()

    def step(self):
        self.base.step()
        self.count += 1
        if self.count % self.k == 0:
            for slow, group in zip(self.slow, self.base.param_groups):
                for s, p in zip(slow, group["params"]):
                    s.add_(p.data - s, alpha=self.alpha)
                    p.data.copy_(s)


@tutorial("Lookahead around Adam")
def lookahead():
    model = small()
    optimizer = Lookahead(optim.Adam(model.parameters()))
    for _ in range(4):
        x, y = regression()
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        optimizer.step()
    return list(model.parameters())


class OldSGD(torch.optim.Optimizer):
    """As optimizers were written before torch 1.5."""

    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})

    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                d_p = p.grad.data
                p.data.add_(d_p, alpha=-group["lr"])


@tutorial("A GAN with spectral norm, batch norm and optimizers that write through .data")
def gan_with_old_optimizers():
    netG = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.ReLU(True), nn.Linear(6, 4))
    netD = nn.Sequential(
        nn.utils.spectral_norm(nn.Linear(4, 6)),
        nn.LeakyReLU(0.1, True),
        nn.utils.spectral_norm(nn.Linear(6, 1)),
    )
    optG, optD = OldSGD(netG.parameters(), 0.1), OldSGD(netD.parameters(), 0.1)
    for _ in range(3):
        fake = netG(torch.randn(5, 3))
        d_loss = F.relu(1 - netD(torch.randn(5, 4))).mean() + F.relu(1 + netD(fake.detach())).mean()
        optD.zero_grad()
        d_loss.backward()
        optD.step()
        g_loss = -netD(fake).mean()
        optG.zero_grad()
        g_loss.backward()
        optG.step()
    return [*netG.parameters(), *netG.buffers(), *netD.parameters(), *netD.buffers()]


@tutorial("facebookresearch/moco: a momentum encoder and a queue written in place")
def momentum_contrast():
    class MoCo(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder_q, self.encoder_k = nn.Linear(4, 3), nn.Linear(4, 3)
            for param_q, param_k in zip(self.encoder_q.parameters(), self.encoder_k.parameters()):
                param_k.data.copy_(param_q.data)
                param_k.requires_grad = False
            self.register_buffer("queue", F.normalize(torch.randn(3, 12), dim=0))
            self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))

        @torch.no_grad()
        def _momentum_update_key_encoder(self):
            for param_q, param_k in zip(self.encoder_q.parameters(), self.encoder_k.parameters()):
                param_k.data = param_k.data * 0.9 + param_q.data * 0.1

        @torch.no_grad()
        def _dequeue_and_enqueue(self, keys):
            ptr = int(self.queue_ptr)
            self.queue[:, ptr : ptr + keys.shape[0]] = keys.T
            self.queue_ptr[0] = (ptr + keys.shape[0]) % 12

        def forward(self, im_q, im_k):
            q = F.normalize(self.encoder_q(im_q), dim=1)
            with torch.no_grad():
                self._momentum_update_key_encoder()
                k = F.normalize(self.encoder_k(im_k), dim=1)
            l_pos = torch.einsum("nc,nc->n", [q, k]).unsqueeze(-1)
            l_neg = torch.einsum("nc,ck->nk", [q, self.queue.clone().detach()])
            logits = torch.cat([l_pos, l_neg], dim=1)
            logits /= 0.07
            labels = torch.zeros(logits.shape[0], dtype=torch.long)
            self._dequeue_and_enqueue(k)
            return logits, labels

    model, criterion = MoCo(), nn.CrossEntropyLoss()
    optimizer = optim.SGD(model.parameters(), 0.03, momentum=0.9, weight_decay=1e-4)
    for _ in range(4):
        output, target = model(torch.randn(4, 4), torch.randn(4, 4))
        loss = criterion(output, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [*model.parameters(), *model.buffers()]


def to_none(parameters):
    for p in parameters:
        p.grad = None


def detached_and_zeroed(parameters):
    for p in parameters:
        if p.grad is not None:
            p.grad.detach_()
            p.grad.zero_()


def times_zero(parameters):
    for p in parameters:
        if p.grad is not None:
            p.grad *= 0


def filled(parameters):
    for p in parameters:
        if p.grad is not None:
            p.grad.data.fill_(0)


def replaced_by_zeros(parameters):
    for p in parameters:
        p.grad = torch.zeros_like(p)


def foreach_zeroed(parameters):
    grads = [p.grad for p in parameters if p.grad is not None]
    if grads:
        torch._foreach_zero_(grads)


def minus_itself(parameters):
    for p in parameters:
        if p.grad is not None:
            p.grad.sub_(p.grad.clone())


@tutorial("Every way to zero a gradient")
def ways_to_zero():
    trained = []
    ways = (
        to_none, detached_and_zeroed, times_zero, filled, replaced_by_zeros, foreach_zeroed, minus_itself,
    )  # fmt: skip
    for zero in ways:
        model = small()
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        for _ in range(3):
            zero(list(model.parameters()))
            x, y = regression()
            F.mse_loss(model(x), y).backward()
            optimizer.step()
        trained += model.parameters()
    return trained


@tutorial("Gradients worked on between backward and step: static loss scale, noise, centring, sign, norms")
def worked_on_gradients():
    model = small()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        x, y = regression()
        optimizer.zero_grad(set_to_none=False)
        (F.mse_loss(model(x), y) * 1024).backward()
        with torch.no_grad():
            for p in model.parameters():
                p.grad /= 1024
                p.grad += 0.01 * torch.randn_like(p.grad)
                if p.dim() > 1:
                    p.grad.add_(-p.grad.mean(dim=1, keepdim=True))
            total = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
            for p in model.parameters():
                p.grad.mul_(min(1.0, 1.0 / (float(total) + 1e-6)))
                p.data.mul_(1 - 0.1 * 0.01)
        optimizer.step()
    return list(model.parameters())


@tutorial("A search over hyperparameters: models and optimizers come and go in one session")
def many_short_trainings():
    best, best_loss = None, float("inf")
    for trial in range(12):
        model = small()
        optimizer = (optim.SGD if trial % 2 else optim.Adam)(model.parameters(), lr=0.01 * (trial + 1))
        for _ in range(2):
            x, y = regression()
            loss = F.mse_loss(model(x), y)
            if trial % 3:
                optimizer.zero_grad()
            else:
                model.zero_grad()
            loss.backward()
            optimizer.step()
        if loss.item() < best_loss:
            best, best_loss = model, loss.item()
    return list(best.parameters())


@tutorial("Gradual unfreezing: first the head, then add_param_group")
def gradual_unfreezing():
    body, head = nn.Linear(4, 6), nn.Linear(6, 2)
    model = nn.Sequential(body, nn.ReLU(), head)
    body.requires_grad_(False)
    optimizer = optim.Adam(head.parameters(), lr=1e-3)
    for epoch in range(4):
        if epoch == 2:
            body.requires_grad_(True)
            optimizer.add_param_group({"params": body.parameters(), "lr": 1e-4})
        x, y = regression()
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        optimizer.step()
    return list(model.parameters())


@tutorial("Resuming: a checkpoint is loaded in the middle of a training, the optimizer is made anew")
def resumed():
    model = nn.DataParallel(small())
    optimizer = optim.Adam(model.parameters())
    for epoch in range(4):
        x, y = regression()
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        optimizer.step()
        if epoch == 1:
            checkpoint = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            model = nn.DataParallel(small())
            model.load_state_dict(checkpoint["model"])
            optimizer = optim.Adam(model.parameters())
            optimizer.load_state_dict(checkpoint["optimizer"])
    return list(model.parameters())


@tutorial("One backward per loss, in a loop over tasks, one step for all")
def losses_one_by_one():
    body, heads = nn.Linear(4, 6), nn.ModuleList(nn.Linear(6, 1) for _ in range(3))
    optimizer = optim.Adam([*body.parameters(), *heads.parameters()])
    for _ in range(3):
        optimizer.zero_grad()
        features = torch.tanh(body(torch.randn(5, 4)))
        for number, head in enumerate(heads):
            loss = head(features).pow(2).mean()
            loss.backward(retain_graph=number < len(heads) - 1)
        optimizer.step()
    return [*body.parameters(), *heads.parameters()]


@tutorial("Masked attention: minus infinity in the scores, whole rows padded and guarded")
def masked_attention():
    query, key, value = (nn.Linear(4, 4) for _ in range(3))
    modules = nn.ModuleList([query, key, value])
    optimizer = optim.AdamW(modules.parameters())
    for _ in range(3):
        x = torch.randn(2, 5, 4)
        length = torch.tensor([5, 3])
        padded = torch.arange(5)[None] >= length[:, None]
        scores = query(x) @ key(x).transpose(1, 2) / 2
        scores = scores.masked_fill(padded[:, None, :], float("-inf"))
        scores = scores + torch.triu(torch.full((5, 5), float("-inf")), diagonal=1)
        out = scores.softmax(-1) @ value(x)
        loss = out.masked_fill(padded[..., None], 0.0).pow(2).sum() / (~padded).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return list(modules.parameters())


@tutorial("Log-probabilities and probabilities that are no logits of a loss (KL, policy, mixtures)")
def probabilities():
    model = small()
    optimizer = optim.Adam(model.parameters())
    for _ in range(3):
        x, _ = regression()
        logits = model(x)
        mixture = 0.9 * logits.softmax(1) + 0.1 / 2
        nll = F.nll_loss(mixture.log(), torch.randint(2, (6,)))
        kl = F.kl_div(logits.log_softmax(1), model(x).detach().softmax(1), reduction="batchmean")
        weights = logits.softmax(0)  # over the batch: attention, no classes
        loss = nll + kl + F.cross_entropy(weights.T @ logits, torch.tensor([0, 1]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return list(model.parameters())

"""Optimizers and what is built around them: averages, schedules, adapters, sparse embeddings, several at a time."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import nn, optim
from torch.nn.utils import parametrizations, prune
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn, update_bn

from .registry import tutorial


def regression():
    return torch.randn(6, 4), torch.randn(6, 2)


@tutorial("Stochastic Weight Averaging in PyTorch")
def swa():
    data = [regression() for _ in range(3)]
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))
    loss_fn = nn.MSELoss()
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    swa_model = AveragedModel(model)
    scheduler = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4)
    swa_start = 2
    swa_scheduler = SWALR(optimizer, swa_lr=0.05)
    for epoch in range(4):
        for input, target in data:
            optimizer.zero_grad()
            loss_fn(model(input), target).backward()
            optimizer.step()
        if epoch > swa_start:
            swa_model.update_parameters(model)
            swa_scheduler.step()
        else:
            scheduler.step()
    update_bn(data, swa_model)
    return [*model.parameters(), *swa_model.parameters(), *swa_model.buffers()]


@tutorial("swa_utils.AveragedModel as an exponential moving average, teacher of the student")
def mean_teacher():
    student = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Dropout(0.2), nn.Linear(6, 2))
    teacher = AveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    teacher.requires_grad_(False)
    optimizer = optim.AdamW(student.parameters())
    for _ in range(3):
        x, y = regression()
        with torch.no_grad():
            target = teacher(x)
        loss = F.mse_loss(student(x), y) + 0.5 * F.mse_loss(student(x + 0.1 * torch.randn_like(x)), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        teacher.update_parameters(student)
    return [*student.parameters(), *teacher.parameters()]


@tutorial("BYOL: a target network that follows, no gradient through it")
def byol():
    online, predictor = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), nn.Linear(3, 3)
    target = copy.deepcopy(online)
    for p in target.parameters():
        p.requires_grad = False
    optimizer = optim.Adam([*online.parameters(), *predictor.parameters()])
    for _ in range(3):
        one, two = torch.randn(5, 4), torch.randn(5, 4)
        loss = 2 - 2 * F.cosine_similarity(predictor(online(one)), target(two).detach()).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for o, t in zip(online.parameters(), target.parameters()):
            t.data = t.data * 0.99 + o.data * 0.01
    return [*online.parameters(), *predictor.parameters(), *target.parameters()]


class LoRA(nn.Module):
    def __init__(self, base, rank=2):
        super().__init__()
        self.base = base
        for p in self.base.parameters():
            p.requires_grad_(False)
        self.lora_A = nn.Parameter(torch.randn(rank, base.in_features) * 0.02)
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x):
        return self.base(x) + x @ self.lora_A.T @ self.lora_B.T * 2.0


@tutorial("LoRA: adapters on a frozen base, merged at the end")
def lora():
    model = nn.Sequential(LoRA(nn.Linear(4, 6)), nn.ReLU(), LoRA(nn.Linear(6, 2)))
    optimizer = optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-2)
    schedule = optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 3))
    for _ in range(4):
        x, y = regression()
        loss = F.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.base.weight += 2.0 * layer.lora_B @ layer.lora_A
    return list(model.parameters())


@tutorial("Embeddings with sparse gradients (SparseAdam beside Adam)")
def sparse_embedding():
    embedding, head = nn.EmbeddingBag(20, 6, mode="sum", sparse=True), nn.Linear(6, 3)
    sparse_optimizer, dense_optimizer = (
        optim.SparseAdam(list(embedding.parameters())),
        optim.Adam(head.parameters()),
    )
    for _ in range(3):
        text, offsets, label = torch.randint(20, (9,)), torch.tensor([0, 3, 5]), torch.randint(3, (3,))
        sparse_optimizer.zero_grad()
        dense_optimizer.zero_grad()
        loss = F.cross_entropy(head(embedding(text, offsets)), label)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), 0.1)
        sparse_optimizer.step()
        dense_optimizer.step()
    return [*embedding.parameters(), *head.parameters()]


@tutorial("Word Embeddings: N-Gram Language Modeling")
def ngram():
    class NGramLanguageModeler(nn.Module):
        def __init__(self):
            super().__init__()
            self.embeddings, self.linear1, self.linear2 = (
                nn.Embedding(9, 5),
                nn.Linear(10, 8),
                nn.Linear(8, 9),
            )

        def forward(self, inputs):
            embeds = self.embeddings(inputs).view((1, -1))
            out = F.relu(self.linear1(embeds))
            out = self.linear2(out)
            log_probs = F.log_softmax(out, dim=1)
            return log_probs

    losses, loss_function, model = [], nn.NLLLoss(), NGramLanguageModeler()
    optimizer = optim.SGD(model.parameters(), lr=0.001)
    for _ in range(2):
        total_loss = 0
        for _ in range(3):
            model.zero_grad()
            log_probs = model(torch.randint(9, (2,)))
            loss = loss_function(log_probs, torch.randint(9, (1,)))
            loss.backward()
            optimizer.step()
            total_loss += loss.item()
        losses.append(total_loss)
    return list(model.parameters())


def with_optimizer(make):
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    optimizer = make(model.parameters())
    for _ in range(3):
        x, y = regression()
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
    return list(model.parameters())


@tutorial("torch.optim: every algorithm, foreach")
def every_optimizer_foreach():
    makers = [optim.Adadelta, optim.Adagrad, optim.Adam, optim.AdamW, optim.Adamax, optim.ASGD, optim.NAdam]
    makers += [optim.RAdam, optim.RMSprop, optim.Rprop, optim.SGD]
    return [
        p
        for make in makers
        for p in with_optimizer(lambda params, make=make: make(params, lr=0.01, foreach=True))
    ]


@tutorial("torch.optim: fused on the CPU")
def every_optimizer_fused():
    makers = [optim.Adam, optim.AdamW, optim.SGD, optim.Adagrad]
    return [
        p
        for make in makers
        for p in with_optimizer(lambda params, make=make: make(params, lr=0.01, fused=True))
    ]


@tutorial("torch.optim: one tensor at a time, maximising, with weight decay")
def optimizers_for_loop():
    return [
        *with_optimizer(lambda p: optim.SGD(p, lr=0.01, foreach=False, maximize=True, weight_decay=0.1)),
        *with_optimizer(lambda p: optim.Adam(p, lr=0.01, foreach=False, amsgrad=True)),
        *with_optimizer(lambda p: optim.Adafactor(p)),
    ]


@tutorial("Learning-rate schedules: warm-up, cosine, plateau, one cycle")
def schedules():
    model = nn.Linear(4, 2)
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    warm = optim.lr_scheduler.LinearLR(optimizer, total_iters=2)
    cosine = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4)
    both = optim.lr_scheduler.SequentialLR(optimizer, [warm, cosine], milestones=[2])
    plateau = optim.lr_scheduler.ReduceLROnPlateau(optimizer, "min", patience=1)
    for _ in range(5):
        x, y = regression()
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        both.step()
        plateau.step(loss.item())
    return list(model.parameters())


@tutorial("Gradient accumulation with clipping, the last batches included")
def accumulation():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    optimizer, data, every = optim.AdamW(model.parameters()), [regression() for _ in range(7)], 3
    for epoch in range(2):
        for i, (x, y) in enumerate(data):
            loss = F.mse_loss(model(x), y) / every
            loss.backward()
            if (i + 1) % every == 0 or i + 1 == len(data):
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad(set_to_none=epoch == 0)
    return list(model.parameters())


@tutorial("Parametrizations and Pruning Tutorials")
def parametrized_and_pruned():
    model = nn.Sequential(
        parametrizations.spectral_norm(nn.Linear(4, 6)),
        nn.ReLU(),
        parametrizations.weight_norm(nn.Linear(6, 6)),
        nn.ReLU(),
        nn.Linear(6, 2),
    )
    prune.l1_unstructured(model[4], name="weight", amount=0.3)
    optimizer = optim.Adam(model.parameters())
    for _ in range(3):
        x, y = regression()
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        optimizer.step()
    prune.remove(model[4], "weight")
    return list(model.parameters())


@tutorial("Multi-task training (two heads, one backward each, GradNorm-like weights)")
def multi_task():
    body, heads = nn.Linear(4, 6), nn.ModuleList([nn.Linear(6, 1), nn.Linear(6, 1)])
    weights = nn.Parameter(torch.ones(2))
    optimizer = optim.Adam([*body.parameters(), *heads.parameters()])
    for_weights = optim.Adam([weights], lr=0.01)
    for _ in range(3):
        features = body(torch.randn(5, 4)).tanh()
        losses = torch.stack([head(features).pow(2).mean() for head in heads])
        norms = torch.stack(
            [
                torch.autograd.grad(w * loss, body.weight, retain_graph=True, create_graph=True)[0].norm()
                for w, loss in zip(weights, losses)
            ]
        )
        for_weights.zero_grad()
        weights.grad = torch.autograd.grad(
            (norms - norms.mean().detach()).abs().sum(), weights, retain_graph=True
        )[0]
        optimizer.zero_grad()
        (weights.detach() * losses).sum().backward()
        optimizer.step()
        for_weights.step()
        with torch.no_grad():
            weights.mul_(2 / weights.sum())
    return [*body.parameters(), *heads.parameters(), weights]

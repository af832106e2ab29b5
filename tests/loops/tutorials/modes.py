"""Train and eval mode where they look wrong and are right: frozen statistics, attacks, teachers, Monte-Carlo dropout."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import nn, optim

from .registry import tutorial


def classifier():
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))


def batch():
    return torch.randn(6, 4), torch.randint(3, (6,))


@tutorial("Adversarial training (PGD in eval mode, the step in train mode)")
def projected_gradient_descent():
    model = classifier()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        x, y = batch()
        model.eval()
        adversarial = x + 0.01 * torch.randn_like(x)
        for _ in range(2):
            adversarial.requires_grad_()
            with torch.enable_grad():
                loss = F.cross_entropy(model(adversarial), y)
            grad = torch.autograd.grad(loss, [adversarial])[0]
            adversarial = adversarial.detach() + 0.02 * torch.sign(grad.detach())
            adversarial = torch.min(torch.max(adversarial, x - 0.1), x + 0.1)
        model.train()
        optimizer.zero_grad()
        F.cross_entropy(model(adversarial), y).backward()
        optimizer.step()
    return [*model.parameters(), *model.buffers()]


@tutorial("TorchVision Object Detection Finetuning (batch norm kept frozen in train mode)")
def frozen_batch_norm():
    model = classifier()
    model[1].requires_grad_(False)
    params = [p for p in model.parameters() if p.requires_grad]
    optimizer = optim.SGD(params, lr=0.005, momentum=0.9, weight_decay=0.0005)
    lr_scheduler = optim.lr_scheduler.StepLR(optimizer, step_size=3, gamma=0.1)
    for _ in range(2):
        model.train()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.eval()
        for _ in range(2):
            x, y = batch()
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        lr_scheduler.step()
    return [*model.parameters(), *model.buffers()]


@tutorial("Linear probing: the frozen features in eval mode, only the head is trained")
def linear_probe():
    features, head = classifier()[:4], nn.Linear(8, 3)
    features.requires_grad_(False)
    features.eval()
    optimizer = optim.AdamW(head.parameters())
    for _ in range(3):
        x, y = batch()
        optimizer.zero_grad()
        F.cross_entropy(head(features(x)), y).backward()
        optimizer.step()
    return [*head.parameters(), *features.buffers()]


@tutorial("Monte-Carlo dropout: predictions with dropout on, on purpose")
def monte_carlo_dropout():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))
    optimizer = optim.Adam(model.parameters())
    for _ in range(3):
        model.train()
        x, y = batch()
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        model.eval()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.train()
        with torch.no_grad():
            torch.stack([model(x).softmax(1) for _ in range(3)]).std(0)
    return list(model.parameters())


@tutorial("Knowledge Distillation Tutorial (teacher in eval mode, student in train mode)")
def distillation():
    teacher, student = classifier(), nn.Linear(4, 3)
    optimizer, ce_loss = optim.Adam(student.parameters(), lr=0.001), nn.CrossEntropyLoss()
    teacher.eval()
    student.train()
    for _ in range(3):
        inputs, labels = batch()
        optimizer.zero_grad()
        with torch.no_grad():
            teacher_logits = teacher(inputs)
        student_logits = student(inputs)
        soft_targets = nn.functional.softmax(teacher_logits / 2, dim=-1)
        soft_prob = nn.functional.log_softmax(student_logits / 2, dim=-1)
        distill = torch.sum(soft_targets * (soft_targets.log() - soft_prob)) / soft_prob.size()[0] * 4
        loss = 0.25 * distill + 0.75 * ce_loss(student_logits, labels)
        loss.backward()
        optimizer.step()
    return list(student.parameters())


@tutorial("Mean teacher with dropout: the teacher predicts in train mode under no_grad, as its authors do")
def noisy_teacher():
    student = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))
    teacher = copy.deepcopy(student)
    for p in teacher.parameters():
        p.detach_()
    optimizer = optim.SGD(student.parameters(), lr=0.1)
    student.train()
    teacher.train()
    for step in range(3):
        x, y = batch()
        with torch.no_grad():
            target = teacher(x).softmax(1)
        out = student(x)
        loss = F.cross_entropy(out, y) + F.mse_loss(out.softmax(1), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        alpha = min(1 - 1 / (step + 1), 0.99)
        for ema_param, param in zip(teacher.parameters(), student.parameters()):
            ema_param.data.mul_(alpha).add_(param.data, alpha=1 - alpha)
    return [*student.parameters(), *teacher.parameters()]


@tutorial("A model without dropout and batch norm: its mode does not matter")
def mode_does_not_matter():
    model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 3))
    optimizer = optim.AdamW(model.parameters())
    model.eval()
    for _ in range(3):
        x, y = batch()
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        with torch.no_grad():
            model(x).argmax(1)
    return list(model.parameters())


@tutorial("Saliency and activation maximisation of a trained model in eval mode")
def saliency_in_eval_mode():
    """Gradients in eval mode that no optimizer uses: what explains a prediction is no training."""
    model = classifier()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    x, y = batch()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
    optimizer.zero_grad()
    model.eval()
    picture = torch.randn(6, 4, requires_grad=True)
    for _ in range(3):
        score = model(picture)[:, 0].sum()
        score.backward()
        with torch.no_grad():
            picture += 0.1 * picture.grad
            picture.grad.zero_()
        model.zero_grad()
    return [picture, *model.parameters()]

"""Gradients that were used twice, cleared too early, or collected for nobody."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .entry import reported


def classifier():
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


def batches(count):
    return [(torch.randn(5, 4), torch.randint(3, (5,))) for _ in range(count)]


@reported("GC301", "https://github.com/pytorch/pytorch/issues/47175")
class NeverZeroed:
    def fault():
        model = classifier()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for x, y in batches(3):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()  # <-

    def twin():
        model = classifier()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for x, y in batches(3):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()


@reported("GC301", "https://github.com/heartcored98/Standalone-DeepLearning/issues/11")
class ZeroedOncePerEpoch:
    def fault():
        model = classifier()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, weight_decay=1e-4)
        for _ in range(2):
            model.train()
            optimizer.zero_grad()
            for x, y in batches(3):
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                optimizer.step()  # <-

    def twin():
        model = classifier()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, weight_decay=1e-4)
        for _ in range(2):
            model.train()
            for x, y in batches(3):
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                optimizer.step()


@reported("GC301", "https://github.com/udacity/deep-learning-v2-pytorch/pull/160")
class TransferLearningNeverZeroed:
    """Only the new classifier of a frozen network is trained."""

    def fault():
        model = nn.Sequential(classifier(), nn.LogSoftmax(dim=1))
        for p in model[0][0].parameters():
            p.requires_grad = False
        optimizer = torch.optim.Adam(model[0][2].parameters(), lr=0.003)
        for x, y in batches(3):
            logps = model(x)
            loss = F.nll_loss(logps, y)
            loss.backward()
            optimizer.step()  # <-

    def twin():
        model = nn.Sequential(classifier(), nn.LogSoftmax(dim=1))
        for p in model[0][0].parameters():
            p.requires_grad = False
        optimizer = torch.optim.Adam(model[0][2].parameters(), lr=0.003)
        for x, y in batches(3):
            optimizer.zero_grad()
            logps = model(x)
            loss = F.nll_loss(logps, y)
            loss.backward()
            optimizer.step()


@reported("GC301", "https://github.com/wenet-e2e/wekws/issues/72")
class ClippedAndNeverZeroed:
    def fault():
        model = classifier()
        optimizer = torch.optim.Adam(model.parameters())
        for x, y in batches(3):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            grad_norm = nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            if torch.isfinite(grad_norm):
                optimizer.step()  # <-

    def twin():
        model = classifier()
        optimizer = torch.optim.Adam(model.parameters())
        for x, y in batches(3):
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            grad_norm = nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            if torch.isfinite(grad_norm):
                optimizer.step()


class LoraLinear(nn.Module):
    def __init__(self):
        super().__init__()
        self.base = nn.Linear(4, 3).requires_grad_(False)
        self.down, self.up = nn.Linear(4, 1, bias=False), nn.Linear(1, 3, bias=False)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


@reported("GC301", "https://github.com/tenstorrent/tt-blacksmith/pull/711")
class AdaptersNeverZeroed:
    def fault():
        model = LoraLinear()
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
        scheduler = torch.optim.lr_scheduler.LinearLR(optimizer)
        for x, y in batches(4):
            F.cross_entropy(model(x), y).backward()
            optimizer.step()  # <-
            scheduler.step()

    def twin():
        model = LoraLinear()
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
        scheduler = torch.optim.lr_scheduler.LinearLR(optimizer)
        for x, y in batches(4):
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()


def generator_and_critic():
    generator, critic = nn.Linear(2, 4), nn.Sequential(nn.Linear(4, 5), nn.LeakyReLU(0.2), nn.Linear(5, 1))
    return generator, critic, torch.optim.Adam(generator.parameters()), torch.optim.Adam(critic.parameters())


@reported("GC301", "https://github.com/ajbrock/BigGAN-PyTorch/issues/25")
class TheCriticIsZeroedOnceForSeveralSteps:
    def fault():
        generator, critic, optim_g, optim_d = generator_and_critic()
        for _ in range(2):
            optim_g.zero_grad()
            optim_d.zero_grad()
            for _ in range(2):
                fake = generator(torch.randn(6, 2)).detach()
                (F.relu(1 - critic(torch.randn(6, 4))).mean() + F.relu(1 + critic(fake)).mean()).backward()
                optim_d.step()  # <-
            optim_g.zero_grad()
            (-critic(generator(torch.randn(6, 2))).mean()).backward()
            optim_g.step()

    def twin():
        generator, critic, optim_g, optim_d = generator_and_critic()
        for _ in range(2):
            for _ in range(2):
                optim_d.zero_grad()
                fake = generator(torch.randn(6, 2)).detach()
                (F.relu(1 - critic(torch.randn(6, 4))).mean() + F.relu(1 + critic(fake)).mean()).backward()
                optim_d.step()
            optim_g.zero_grad()
            (-critic(generator(torch.randn(6, 2))).mean()).backward()
            optim_g.step()


@reported("GC301", "https://github.com/Hsintien-Ng/idinvert_pytorch-reproduced/issues/1")
class TheCriticIsNeverZeroed:
    def fault():
        encoder, critic, optimizer_e, optimizer_d = generator_and_critic()
        for _ in range(3):
            rec = encoder(torch.randn(6, 2))
            loss_e = rec.pow(2).mean() - 0.1 * critic(rec).mean()
            optimizer_e.zero_grad()
            loss_e.backward()
            optimizer_e.step()
            loss_d = critic(rec.detach()).mean() - critic(torch.randn(6, 4)).mean()
            loss_d.backward()
            optimizer_d.step()  # <-

    def twin():
        encoder, critic, optimizer_e, optimizer_d = generator_and_critic()
        for _ in range(3):
            rec = encoder(torch.randn(6, 2))
            loss_e = rec.pow(2).mean() - 0.1 * critic(rec).mean()
            optimizer_e.zero_grad()
            loss_e.backward()
            optimizer_e.step()
            loss_d = critic(rec.detach()).mean() - critic(torch.randn(6, 4)).mean()
            optimizer_d.zero_grad()
            loss_d.backward()
            optimizer_d.step()


@reported("GC301", "https://github.com/jcjohnson/pytorch-examples/issues/31")
class UpdatedByHandAndNeverZeroed:
    def fault():
        x, y = torch.randn(8, 4), torch.randn(8, 2)
        w1, w2 = torch.randn(4, 5, requires_grad=True), torch.randn(5, 2, requires_grad=True)
        for _ in range(3):
            loss = (x.mm(w1).clamp(min=0).mm(w2) - y).pow(2).mean()
            loss.backward()
            with torch.no_grad():
                for w in (w1, w2):
                    w -= 1e-4 * w.grad  # <-

    def twin():
        x, y = torch.randn(8, 4), torch.randn(8, 2)
        w1, w2 = torch.randn(4, 5, requires_grad=True), torch.randn(5, 2, requires_grad=True)
        for _ in range(3):
            loss = (x.mm(w1).clamp(min=0).mm(w2) - y).pow(2).mean()
            loss.backward()
            with torch.no_grad():
                for w in (w1, w2):
                    w -= 1e-4 * w.grad
                    w.grad.zero_()


@reported("GC301", "https://github.com/llSourcell/pytorch_in_5_minutes/issues/1")
class UpdatedThroughDataAndZeroedInPart:
    def fault():
        x, y = torch.randn(8, 4), torch.randn(8, 2)
        w1, w2 = torch.randn(4, 5, requires_grad=True), torch.randn(5, 2, requires_grad=True)
        for _ in range(3):
            loss = (x.mm(w1).clamp(min=0).mm(w2) - y).pow(2).mean()
            if w1.grad is not None:
                w1.grad.data.zero_()
            loss.backward()
            w1.data -= 1e-4 * w1.grad.data
            w2.data -= 1e-4 * w2.grad.data  # <-

    def twin():
        x, y = torch.randn(8, 4), torch.randn(8, 2)
        w1, w2 = torch.randn(4, 5, requires_grad=True), torch.randn(5, 2, requires_grad=True)
        for _ in range(3):
            loss = (x.mm(w1).clamp(min=0).mm(w2) - y).pow(2).mean()
            loss.backward()
            w1.data -= 1e-4 * w1.grad.data
            w2.data -= 1e-4 * w2.grad.data
            w1.grad.data.zero_()
            w2.grad.data.zero_()


@reported("GC301", "https://github.com/Adversarial-Deep-Learning/code-soup/issues/69")
class TheOtherNetworkIsZeroed:
    def fault():
        generator, critic, optim_g, optim_d = generator_and_critic()
        real, fake = torch.ones(6, 1), torch.zeros(6, 1)
        for _ in range(3):
            out = generator(torch.randn(6, 2))
            generator.zero_grad()  # the critic's was meant
            F.binary_cross_entropy_with_logits(critic(torch.randn(6, 4)), real).backward()
            F.binary_cross_entropy_with_logits(critic(out.detach()), fake).backward()
            optim_d.step()  # <-
            generator.zero_grad()
            F.binary_cross_entropy_with_logits(critic(out), real).backward()
            optim_g.step()

    def twin():
        generator, critic, optim_g, optim_d = generator_and_critic()
        real, fake = torch.ones(6, 1), torch.zeros(6, 1)
        for _ in range(3):
            out = generator(torch.randn(6, 2))
            critic.zero_grad()
            F.binary_cross_entropy_with_logits(critic(torch.randn(6, 4)), real).backward()
            F.binary_cross_entropy_with_logits(critic(out.detach()), fake).backward()
            optim_d.step()
            generator.zero_grad()
            F.binary_cross_entropy_with_logits(critic(out), real).backward()
            optim_g.step()


@reported("GC302", "https://velog.io/@rhss10/기본-optimizer.zerograd는-어디에-넣어주어야-할까")
class ZeroedBetweenBackwardAndStep:
    def fault():
        model = classifier()
        optimizer = torch.optim.AdamW(model.parameters())
        scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)
        for x, y in batches(3):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.zero_grad()  # <-
            optimizer.step()
            scheduler.step()

    def twin():
        model = classifier()
        optimizer = torch.optim.AdamW(model.parameters())
        scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)
        for x, y in batches(3):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()


@reported("GC302", "https://github.com/patrickloeber/pytorchTutorial/issues/19")
class ZeroedAfterTheBackwardOfTheTutorial:
    def fault():
        model, criterion = nn.Linear(1, 1), nn.MSELoss()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        x = torch.randn(10, 1)
        y = 3 * x
        for _ in range(4):
            loss = criterion(model(x), y)
            loss.backward()
            model.zero_grad(set_to_none=False)  # <-
            optimizer.step()

    def twin():
        model, criterion = nn.Linear(1, 1), nn.MSELoss()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        x = torch.randn(10, 1)
        y = 3 * x
        for _ in range(4):
            loss = criterion(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


@reported("GC303", "https://github.com/timoschick/pet/issues/36")
class TheLastBatchesOfTheEpochAreLost:
    def fault():
        model, steps = classifier(), 4
        optimizer = torch.optim.AdamW(model.parameters())
        model.zero_grad()
        for step, (x, y) in enumerate(batches(6)):
            loss = F.cross_entropy(model(x), y) / steps
            loss.backward()  # <-
            if (step + 1) % steps == 0:
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                model.zero_grad()
        return model, optimizer

    def twin():
        model, steps = classifier(), 4
        optimizer = torch.optim.AdamW(model.parameters())
        model.zero_grad()
        data = batches(6)
        for step, (x, y) in enumerate(data):
            loss = F.cross_entropy(model(x), y) / steps
            loss.backward()
            if (step + 1) % steps == 0 or step == len(data) - 1:
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                model.zero_grad()
        return model, optimizer


@reported("GC303", "https://github.com/tomhosking/torchseq/issues/8")
class TheThresholdOfTheBatchSizeIsNeverReached:
    def fault():
        model, wanted, seen = classifier(), 16, 0
        optimizer = torch.optim.Adam(model.parameters())
        for x, y in batches(7):
            (F.cross_entropy(model(x), y, reduction="sum") / wanted).backward()  # <-
            seen += len(x)
            if seen >= wanted:
                optimizer.step()
                optimizer.zero_grad()
                seen = 0
        return model, optimizer

    def twin():
        model, wanted, seen = classifier(), 16, 0
        optimizer = torch.optim.Adam(model.parameters())
        for x, y in batches(7):
            (F.cross_entropy(model(x), y, reduction="sum") / wanted).backward()
            seen += len(x)
            if seen >= wanted:
                optimizer.step()
                optimizer.zero_grad()
                seen = 0
        if seen:
            optimizer.step()
        return model, optimizer

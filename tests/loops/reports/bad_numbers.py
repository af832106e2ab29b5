"""Gradients with NaN or Inf, and the operation that made the first of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .entry import reported


@reported("GC601", "https://github.com/chaddy1004/sobel-operator-pytorch/issues/1", by_checking=True)
class TheEdgeFilterOfAFlatPicture:
    def fault():
        kernel = torch.tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]])[None, None]

        def sobel(picture):
            x, y = F.conv2d(picture, kernel), F.conv2d(picture, kernel.mT.contiguous())
            return torch.sqrt(x * x + y * y)  # <-

        return sobel, torch.full((1, 1, 5, 5), 0.5, requires_grad=True)

    def twin():
        kernel = torch.tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]])[None, None]

        def sobel(picture):
            x, y = F.conv2d(picture, kernel), F.conv2d(picture, kernel.mT.contiguous())
            return torch.sqrt(x * x + y * y + 1e-2)

        return sobel, torch.full((1, 1, 5, 5), 0.5, requires_grad=True)


@reported("GC601", "https://github.com/richzhang/PerceptualSimilarity/issues/69", by_checking=True)
class TheEpsilonStandsOutsideTheRoot:
    def fault():
        def normalize_tensor(features, eps=1e-10):
            norm_factor = torch.sqrt(torch.sum(features**2, dim=1, keepdim=True))  # <-
            return features / (norm_factor + eps)

        return normalize_tensor, torch.cat([torch.randn(1, 3), torch.zeros(1, 3)]).requires_grad_()

    def twin():
        def normalize_tensor(features, eps=1e-2):
            norm_factor = torch.sqrt(torch.sum(features**2, dim=1, keepdim=True) + eps)
            return features / norm_factor

        return normalize_tensor, torch.cat([torch.randn(1, 3), torch.zeros(1, 3)]).requires_grad_()


@reported("GC601", "https://github.com/pytorch/pytorch/issues/16317", by_checking=True)
class ZeroByZeroIsReplacedAfterwards:
    def fault():
        n = torch.tensor([0.0, 2.0])

        def ratio(x):
            y = x / n  # <-
            return torch.where(n == 0, torch.zeros_like(y), y)

        return ratio, torch.tensor([0.0, 1.0], requires_grad=True)

    def twin():
        n = torch.tensor([0.0, 2.0])

        def ratio(x):
            y = x / torch.where(n == 0, torch.ones_like(n), n)
            return torch.where(n == 0, torch.zeros_like(y), y)

        return ratio, torch.tensor([0.0, 1.0], requires_grad=True)


@reported("GC601", "https://github.com/pytorch/pytorch/issues/52248", by_checking=True)
class AnUnselectedDivisionByZero:
    def fault():
        def choose(a):
            return torch.where(torch.tensor(False), a / 0, a * a)  # <-

        return choose, torch.tensor(1.5, requires_grad=True)

    def twin():
        def choose(a):
            return torch.where(torch.tensor(False), a / 1, a * a)

        return choose, torch.tensor(1.5, requires_grad=True)


@reported("GC601", "https://github.com/pytorch/pytorch/issues/108618", by_checking=True)
class TheLogarithmOfAnUnselectedZero:
    def fault():
        def piecewise(x):
            logarithm = torch.log2(x)  # <-
            return torch.where(x > 2, logarithm, 2 * x)

        return piecewise, torch.tensor([0.0, 1.5, 3.0], requires_grad=True)

    def twin():
        def piecewise(x):
            logarithm = torch.log2(torch.where(x > 2, x, torch.ones_like(x)))
            return torch.where(x > 2, logarithm, 2 * x)

        return piecewise, torch.tensor([0.0, 1.5, 3.0], requires_grad=True)


@reported("GC601", "https://github.com/pytorch/pytorch/issues/29372", by_checking=True)
class TheDeviationOfOneNumber:
    def fault():
        def standardised(x):
            return (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 1e-5)  # <-

        return standardised, torch.randn(4, 1, requires_grad=True)

    def twin():
        def standardised(x):
            return (x - x.mean(1, keepdim=True)) / (x.var(1, unbiased=False, keepdim=True) + 1e-2).sqrt()

        return standardised, torch.randn(4, 1, requires_grad=True)


@reported(
    "GC601",
    "https://github.com/huggingface/trl/pull/7251",
    by_checking=True,
)
class TheEntropyOfMaskedLogits:
    def fault():
        mask = torch.tensor([True, True, False])

        def entropy(logits):
            logps = F.log_softmax(logits.masked_fill(~mask, float("-inf")), dim=-1)
            return -(torch.exp(logps) * logps).sum(-1)  # <-

        return entropy, torch.randn(2, 3, requires_grad=True)

    def twin():
        mask = torch.tensor([True, True, False])

        def entropy(logits):
            logps = F.log_softmax(logits.masked_fill(~mask, float("-inf")), dim=-1)
            return -(torch.exp(logps) * logps.masked_fill(~mask, 0.0)).sum(-1)

        return entropy, torch.randn(2, 3, requires_grad=True)


@reported("GC601", "https://github.com/pytorch/pytorch/issues/1620", by_checking=True)
class TheLogarithmOfASoftmax:
    def fault():
        def loss(logits):
            return F.nll_loss(torch.log(torch.softmax(logits, 1)), torch.tensor([2]))  # <-

        return loss, torch.tensor([[0.0, 150.0, -50.0]], requires_grad=True)

    def twin():
        def loss(logits):
            return F.nll_loss(torch.log_softmax(logits, 1), torch.tensor([2]))

        return loss, torch.tensor([[0.0, 150.0, -50.0]], requires_grad=True)


@reported("GC601", "https://github.com/yhenon/pytorch-retinanet/issues/3", by_checking=True)
class AFocalLossWithoutItsClamp:
    def fault():
        class Focal(nn.Module):
            def __init__(self):
                super().__init__()
                self.head = nn.Linear(2, 3)
                nn.init.constant_(self.head.bias, -200.0)

            def forward(self, x):
                classification = self.head(x).sigmoid()
                return -(0.25 * (1.0 - classification).pow(2) * torch.log(classification)).sum()  # <-

        return Focal(), torch.rand(2, 2)

    def twin():
        class Focal(nn.Module):
            def __init__(self):
                super().__init__()
                self.head = nn.Linear(2, 3)

            def forward(self, x):
                classification = self.head(x).sigmoid().clamp(1e-4, 1.0 - 1e-4)
                return -(0.25 * (1.0 - classification).pow(2) * torch.log(classification)).sum()

        return Focal(), torch.rand(2, 2)


@reported("GC601", "https://github.com/mpariente/pytorch_stoi/issues/7")
class TheRootOfSilenceInATrainingLoop:
    def fault():
        model = nn.Linear(4, 4)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for silent in (False, True):
            optimizer.zero_grad()
            signal = torch.zeros(3, 4) if silent else torch.randn(3, 4)
            weighted = model(signal) * signal
            energy = torch.sqrt((weighted**2).sum(1))  # <-
            energy.mean().backward()
            optimizer.step()

    def twin():
        model = nn.Linear(4, 4)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for silent in (False, True):
            optimizer.zero_grad()
            signal = torch.zeros(3, 4) if silent else torch.randn(3, 4)
            weighted = model(signal) * signal
            energy = torch.sqrt((weighted**2).sum(1) + 1e-8)
            energy.mean().backward()
            optimizer.step()

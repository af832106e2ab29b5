"""Losses, calls and modes that are not what they were taken for."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .entry import reported


@reported("GC701", "https://github.com/jindongwang/Deep-learning-activity-recognition/issues/10")
class SoftmaxAsTheLastLayer:
    def fault():
        class Network(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv, self.fc = nn.Conv1d(2, 3, 3), nn.Linear(9, 6)

            def forward(self, x):
                out = F.relu(self.conv(x)).flatten(1)
                return F.softmax(self.fc(out), dim=1)

        model = Network()
        optimizer, criterion = torch.optim.SGD(model.parameters(), lr=0.01), nn.CrossEntropyLoss()
        for _ in range(3):
            output = model(torch.randn(4, 2, 5))
            loss = criterion(output, torch.randint(6, (4,)))  # <-
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def twin():
        class Network(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv, self.fc = nn.Conv1d(2, 3, 3), nn.Linear(9, 6)

            def forward(self, x):
                out = F.relu(self.conv(x)).flatten(1)
                return self.fc(out)

        model = Network()
        optimizer, criterion = torch.optim.SGD(model.parameters(), lr=0.01), nn.CrossEntropyLoss()
        for _ in range(3):
            output = model(torch.randn(4, 2, 5))
            loss = criterion(output, torch.randint(6, (4,)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            output.softmax(1).argmax(1)


@reported("GC701", "https://github.com/Lightning-Universe/lightning-bolts/issues/654")
class LogisticRegressionTakesTwoSoftmaxes:
    def fault():
        linear = nn.Linear(4, 3)
        optimizer = torch.optim.Adam(linear.parameters())
        for _ in range(3):
            optimizer.zero_grad()
            probabilities = F.softmax(linear(torch.randn(5, 4)), dim=-1)
            loss = F.nll_loss(F.log_softmax(probabilities, dim=-1), torch.randint(3, (5,)))  # <-
            loss.backward()
            optimizer.step()

    def twin():
        linear = nn.Linear(4, 3)
        optimizer = torch.optim.Adam(linear.parameters())
        for _ in range(3):
            optimizer.zero_grad()
            logits = linear(torch.randn(5, 4))
            loss = F.nll_loss(F.log_softmax(logits, dim=-1), torch.randint(3, (5,)))
            loss.backward()
            optimizer.step()


@reported("GC701", "https://github.com/bowang-lab/Transformer-GCN-QA/pull/32")
class ScoresOfCandidatesAreNormalisedTwice:
    def fault():
        score = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
        optimizer, loss_function = torch.optim.Adam(score.parameters()), nn.CrossEntropyLoss()
        for _ in range(2):
            optimizer.zero_grad()
            logits = score(torch.randn(3, 7, 4)).squeeze(-1)
            prediction = torch.softmax(logits, dim=-1)
            loss = loss_function(prediction, torch.randint(7, (3,)))  # <-
            loss.backward()
            optimizer.step()

    def twin():
        score = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
        optimizer, loss_function = torch.optim.Adam(score.parameters()), nn.CrossEntropyLoss()
        for _ in range(2):
            optimizer.zero_grad()
            logits = score(torch.randn(3, 7, 4)).squeeze(-1)
            loss = loss_function(logits, torch.randint(7, (3,)))
            loss.backward()
            optimizer.step()


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x):
        return torch.tanh(self.linear(x) + 1)


@reported("GC702", "https://github.com/MPoL-dev/MPoL/issues/151")
class TheModelsForwardIsCalled:
    def fault():
        model = Net()
        optimizer = torch.optim.Adam(model.parameters())
        for _ in range(3):
            optimizer.zero_grad()
            vis = model.forward(torch.randn(5, 4))  # <-
            vis.pow(2).mean().backward()
            optimizer.step()

    def twin():
        model = Net()
        optimizer = torch.optim.Adam(model.parameters())
        for _ in range(3):
            optimizer.zero_grad()
            vis = model(torch.randn(5, 4))
            vis.pow(2).mean().backward()
            optimizer.step()


@reported("GC702", "https://github.com/Lightning-AI/pytorch-lightning/issues/632")
class ATrainingStepCallsItsOwnForward:
    def fault():
        class System(Net):
            def training_step(self, batch):
                x, y = batch
                return F.cross_entropy(self.forward(x), y)  # <-

        system = System()
        optimizer = torch.optim.Adam(system.parameters())
        for _ in range(3):
            loss = system.training_step((torch.randn(5, 4), torch.randint(3, (5,))))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def twin():
        class System(Net):
            def training_step(self, batch):
                x, y = batch
                return F.cross_entropy(self(x), y)

        system = System()
        optimizer = torch.optim.Adam(system.parameters())
        for _ in range(3):
            loss = system.training_step((torch.randn(5, 4), torch.randint(3, (5,))))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


@reported("GC702", "https://github.com/numenta/nupic.torch/pull/51")
class AWrapperSkipsTheHooksOfWhatItWraps:
    def fault():
        class Sparse(nn.Module):
            def __init__(self):
                super().__init__()
                self.module = Net()

            def forward(self, x):
                return self.module.forward(x) * 2  # <-

        model, seen = Sparse(), []
        model.module.register_forward_hook(lambda module, args, out: seen.append(out.shape))
        for _ in range(2):
            model.zero_grad()
            model(torch.randn(5, 4)).pow(2).mean().backward()
        assert seen == []

    def twin():
        class Sparse(nn.Module):
            def __init__(self):
                super().__init__()
                self.module = Net()

            def forward(self, x):
                return self.module(x) * 2

        model, seen = Sparse(), []
        model.module.register_forward_hook(lambda module, args, out: seen.append(out.shape))
        for _ in range(2):
            model.zero_grad()
            model(torch.randn(5, 4)).pow(2).mean().backward()
        assert len(seen) == 2


def with_dropout():
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))


@reported("GC703", "https://github.com/ThilinaRajapakse/simpletransformers/issues/941")
class EvaluationDuringTrainingLeavesTheModelInEvalMode:
    def fault():
        model = with_dropout()
        optimizer = torch.optim.AdamW(model.parameters())
        model.train()
        for _ in range(3):
            for _ in range(2):
                optimizer.zero_grad()
                F.cross_entropy(model(torch.randn(6, 4)), torch.randint(3, (6,))).backward()
                optimizer.step()  # <-
            model.eval()
            with torch.no_grad():
                model(torch.randn(6, 4))

    def twin():
        model = with_dropout()
        optimizer = torch.optim.AdamW(model.parameters())
        for _ in range(3):
            model.train()
            for _ in range(2):
                optimizer.zero_grad()
                F.cross_entropy(model(torch.randn(6, 4)), torch.randint(3, (6,))).backward()
                optimizer.step()
            model.eval()
            with torch.no_grad():
                model(torch.randn(6, 4))


@reported("GC703", "https://github.com/shubhamagarwal92/mmd/issues/14")
class EvaluateIsCalledBeforeTheFirstEpoch:
    def fault():
        model = with_dropout()
        optimizer = torch.optim.Adam(model.parameters())

        def evaluate():
            model.eval()
            with torch.no_grad():
                return model(torch.randn(6, 4)).argmax(1)

        evaluate()
        for _ in range(4):
            optimizer.zero_grad()
            F.cross_entropy(model(torch.randn(6, 4)), torch.randint(3, (6,))).backward()
            optimizer.step()  # <-

    def twin():
        model = with_dropout()
        optimizer = torch.optim.Adam(model.parameters())

        def evaluate():
            model.eval()
            with torch.no_grad():
                predicted = model(torch.randn(6, 4)).argmax(1)
            model.train()
            return predicted

        evaluate()
        for _ in range(4):
            optimizer.zero_grad()
            F.cross_entropy(model(torch.randn(6, 4)), torch.randint(3, (6,))).backward()
            optimizer.step()


@reported("GC703", "https://github.com/princeton-vl/pytorch_stacked_hourglass/issues/44")
class ValidationInTrainMode:
    def fault():
        model = with_dropout()
        optimizer = torch.optim.Adam(model.parameters())
        for phase in ("train", "valid", "train", "valid"):
            model.train()
            x, y = torch.randn(6, 4), torch.randint(3, (6,))
            if phase == "train":
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
            else:
                with torch.no_grad():
                    F.cross_entropy(model(x), y)  # <-

    def twin():
        model = with_dropout()
        optimizer = torch.optim.Adam(model.parameters())
        for phase in ("train", "valid", "train", "valid"):
            model.train(phase == "train")
            x, y = torch.randn(6, 4), torch.randint(3, (6,))
            if phase == "train":
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
            else:
                with torch.no_grad():
                    F.cross_entropy(model(x), y)


@reported("GC703", "https://github.com/ipolharvard/ethos-ares/issues/20")
class InferenceModeIsTakenForEvalMode:
    def fault():
        model = with_dropout()
        optimizer = torch.optim.AdamW(model.parameters())

        @torch.inference_mode()
        def estimate_loss():
            return F.cross_entropy(model(torch.randn(6, 4)), torch.randint(3, (6,)))  # <-

        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(model(torch.randn(6, 4)), torch.randint(3, (6,))).backward()
            optimizer.step()
            estimate_loss()

    def twin():
        model = with_dropout()
        optimizer = torch.optim.AdamW(model.parameters())

        @torch.inference_mode()
        def estimate_loss():
            model.eval()
            loss = F.cross_entropy(model(torch.randn(6, 4)), torch.randint(3, (6,)))
            model.train()
            return loss

        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(model(torch.randn(6, 4)), torch.randint(3, (6,))).backward()
            optimizer.step()
            estimate_loss()

"""Values that left the graph, parameters nobody trains, gradients that are read where none arrives."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import nn

from .entry import reported


@reported("GC501", "https://github.com/guopengf/FL-MRCM/issues/10", by_checking=True, beside=("GC502",))
class TheAdversarialLossIsANumber:
    def fault():
        class Reconstruction(nn.Module):
            def __init__(self):
                super().__init__()
                self.net, self.judge = nn.Linear(3, 3), nn.Linear(3, 1)

            def forward(self, x):
                out = self.net(x)
                loss_adv = F.softplus(-self.judge(out)).mean().item()  # <-
                return (out - x).pow(2).mean() + 0.5 * loss_adv

        return Reconstruction(), torch.randn(5, 3)

    def twin():
        class Reconstruction(nn.Module):
            def __init__(self):
                super().__init__()
                self.net, self.judge = nn.Linear(3, 3), nn.Linear(3, 1)
                self.history = []

            def forward(self, x):
                out = self.net(x)
                loss_adv = F.softplus(-self.judge(out)).mean()
                self.history.append(loss_adv.item())
                return (out - x).pow(2).mean() + 0.5 * loss_adv

        return Reconstruction(), torch.randn(5, 3)


@reported(
    "GC501",
    "https://github.com/rimchang/Faster-RCNN-Pytorch-Simple/issues/2",
    by_checking=True,
    beside=("GC502",),
)
class APredictionIsUnpackedAndWrappedAgain:
    def fault():
        class Boxes(nn.Module):
            def __init__(self):
                super().__init__()
                self.box, self.score = nn.Linear(4, 4), nn.Linear(4, 2)

            def forward(self, x, weights):
                scale = torch.mul(self.box(x).data, weights)  # <-
                return F.smooth_l1_loss(scale, torch.ones_like(scale)) * self.score(x).pow(2).mean()

        return Boxes(), torch.randn(5, 4), torch.rand(5, 4)

    def twin():
        class Boxes(nn.Module):
            def __init__(self):
                super().__init__()
                self.box, self.score = nn.Linear(4, 4), nn.Linear(4, 2)

            def forward(self, x, weights):
                scale = torch.mul(self.box(x), weights)
                return F.smooth_l1_loss(scale, torch.ones_like(scale)) * self.score(x).pow(2).mean()

        return Boxes(), torch.randn(5, 4), torch.rand(5, 4)


@reported("GC501", "https://github.com/delira-dev/delira/issues/40", by_checking=True)
class ALayerTakesTheWayThroughNumpy:
    def fault():
        class Layer(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = nn.Linear(3, 3)

            def forward(self, x):
                hidden = self.inner(x)
                length = (hidden.detach().numpy() ** 2).sum()  # <-
                return hidden / (1 + length)

        return Layer(), torch.randn(4, 3)

    def twin():
        class Layer(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = nn.Linear(3, 3)

            def forward(self, x):
                hidden = self.inner(x)
                length = (hidden**2).sum()
                return hidden / (1 + length)

        return Layer(), torch.randn(4, 3)


@reported(
    "GC501",
    "https://github.com/LZGMatrix/BOP19_CDPN_2019ICCV/issues/4",
    raises=RuntimeError,
)
class TheLossIsTakenOfAnArgmax:
    def fault():
        net = nn.Linear(4, 9)
        coordinates = torch.argmax(net(torch.randn(6, 4)), dim=1)  # <-
        coordinates = 2.0 * coordinates.float() / 8.0 - 1.0
        F.l1_loss(coordinates, torch.zeros(6)).backward()

    def twin():
        net = nn.Linear(4, 9)
        weights = net(torch.randn(6, 4)).softmax(1)
        coordinates = 2.0 * (weights * torch.arange(9.0)).sum(1) / 8.0 - 1.0
        F.l1_loss(coordinates, torch.zeros(6)).backward()


@reported(
    "GC501",
    "https://github.com/isayev/ReLeaSE/issues/39",
    raises=RuntimeError,
)
class TheLogProbabilityGoesThroughNumpy:
    def fault():
        policy = nn.Linear(4, 5)
        rl_loss = torch.zeros(())
        for _ in range(3):
            log_probs = policy(torch.randn(1, 4)).log_softmax(1)
            top = int(torch.multinomial(log_probs.exp(), 1))
            rl_loss = rl_loss - float(log_probs[0, top].detach().numpy()) * 0.9  # <-
        rl_loss.backward()

    def twin():
        policy = nn.Linear(4, 5)
        rl_loss = torch.zeros(())
        for _ in range(3):
            log_probs = policy(torch.randn(1, 4)).log_softmax(1)
            top = int(torch.multinomial(log_probs.exp(), 1))
            rl_loss = rl_loss - log_probs[0, top] * 0.9
        rl_loss.backward()


@reported(
    "GC704", "https://github.com/MC-E/Deep-Generalized-Unfolding-Networks-for-Image-Restoration/issues/6"
)
class LossesAreWrappedInANewTensor:
    """``requires_grad=True`` makes the error go away, and a leaf of the loss: nothing reaches the model."""

    def fault():
        model = nn.Conv2d(1, 1, 3, padding=1)
        optimizer = torch.optim.Adam(model.parameters())
        for _ in range(3):
            target = torch.rand(2, 1, 4, 4)
            restored = [model(target) for _ in range(2)]
            losses = [F.mse_loss(one, target) for one in restored]
            loss = torch.tensor([float(one.detach()) for one in losses], requires_grad=True).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()  # <-

    def twin():
        model = nn.Conv2d(1, 1, 3, padding=1)
        optimizer = torch.optim.Adam(model.parameters())
        for _ in range(3):
            target = torch.rand(2, 1, 4, 4)
            restored = [model(target) for _ in range(2)]
            losses = [F.mse_loss(one, target) for one in restored]
            loss = torch.stack(losses).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


@reported("GC704", "https://github.com/roman-vygon/triplet_loss_kws/issues/6")
class TheLossIsMadeToRequireAGradient:
    def fault():
        embed = nn.Linear(4, 3)
        optimizer = torch.optim.SGD(embed.parameters(), lr=0.1)
        for _ in range(3):
            with torch.no_grad():
                anchor, positive, negative = (embed(torch.randn(5, 4)) for _ in range(3))
            mean_losses = F.triplet_margin_loss(anchor, positive, negative)
            mean_losses.requires_grad = True
            optimizer.zero_grad()
            mean_losses.backward()
            optimizer.step()  # <-

    def twin():
        embed = nn.Linear(4, 3)
        optimizer = torch.optim.SGD(embed.parameters(), lr=0.1)
        for _ in range(3):
            anchor, positive, negative = (embed(torch.randn(5, 4)) for _ in range(3))
            mean_losses = F.triplet_margin_loss(anchor, positive, negative)
            optimizer.zero_grad()
            mean_losses.backward()
            optimizer.step()


@reported("GC704", "https://github.com/skorch-dev/skorch/issues/317")
class TheOptimizerHoldsTheOriginalOfACopy:
    def fault():
        original = nn.Sequential(nn.Linear(4, 1), nn.Sigmoid())
        optimizer = torch.optim.SGD(original.parameters(), lr=0.1)
        net = copy.deepcopy(original)
        for _ in range(3):
            net.zero_grad()
            F.mse_loss(net(torch.randn(6, 4)), torch.rand(6, 1)).backward()
            optimizer.step()  # <-

    def twin():
        original = nn.Sequential(nn.Linear(4, 1), nn.Sigmoid())
        net = copy.deepcopy(original)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for _ in range(3):
            net.zero_grad()
            F.mse_loss(net(torch.randn(6, 4)), torch.rand(6, 1)).backward()
            optimizer.step()


@reported("GC704", "https://github.com/microsoft/nni/issues/4521")
class LayersAreReplacedByPrunedOnes:
    def fault():
        model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 1))
        optimizer = torch.optim.Adam(model.parameters())
        model[0], model[2] = nn.Linear(4, 3), nn.Linear(3, 1)
        for _ in range(3):
            model.zero_grad()
            model(torch.randn(5, 4)).pow(2).mean().backward()
            optimizer.step()  # <-

    def twin():
        model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 1))
        model[0], model[2] = nn.Linear(4, 3), nn.Linear(3, 1)
        optimizer = torch.optim.Adam(model.parameters())
        for _ in range(3):
            model.zero_grad()
            model(torch.randn(5, 4)).pow(2).mean().backward()
            optimizer.step()


@reported("GC503", "https://github.com/hustzxd/EfficientPyTorch/issues/1")
class AConvolutionIsReplacedAfterTheOptimizerWasMade:
    def fault():
        model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 1, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model[0] = nn.Conv2d(1, 2, 3, bias=False)
        for _ in range(3):
            model.zero_grad()
            model(torch.randn(2, 1, 5, 5)).pow(2).mean().backward()
            optimizer.step()  # <-
        return model

    def twin():
        model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 1, 2))
        model[0] = nn.Conv2d(1, 2, 3, bias=False)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(3):
            model.zero_grad()
            model(torch.randn(2, 1, 5, 5)).pow(2).mean().backward()
            optimizer.step()
        return model


@reported("GC502", "https://github.com/queenie88/A-GCN/issues/4", by_checking=True)
class TheAdjacencyIsDetachedFromItsWeights:
    def fault():
        class Adaptive(nn.Module):
            def __init__(self):
                super().__init__()
                self.phi, self.theta, self.out = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(4, 2)

            def forward(self, x):
                adj = (self.phi(x) @ self.theta(x).T).softmax(-1).detach()
                return self.out(adj @ x)

        return Adaptive(), torch.randn(5, 4)

    def twin():
        class Adaptive(nn.Module):
            def __init__(self):
                super().__init__()
                self.phi, self.theta, self.out = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(4, 2)

            def forward(self, x):
                adj = (self.phi(x) @ self.theta(x).T).softmax(-1)
                return self.out(adj @ x)

        return Adaptive(), torch.randn(5, 4)


class ListOfLayers(nn.Module):
    def __init__(self, keep):
        super().__init__()
        self.hids = keep([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.classifier = nn.Linear(4, 3)

    def forward(self, x):
        for layer in self.hids:
            x = layer(x).tanh()
        return self.classifier(x)


@reported("GC503", "https://github.com/pytorch/pytorch/issues/715")
class LayersInAPythonList:
    def fault():
        net = ListOfLayers(list)
        optimizer = torch.optim.Adam(net.parameters())
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(net(torch.randn(5, 4)), torch.randint(3, (5,))).backward()
            optimizer.step()  # <-
        return net

    def twin():
        net = ListOfLayers(nn.ModuleList)
        optimizer = torch.optim.Adam(net.parameters())
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(net(torch.randn(5, 4)), torch.randint(3, (5,))).backward()
            optimizer.step()
        return net


@reported("GC503", "https://github.com/pytorch/pytorch/issues/632")
class ParametersInADictionary:
    def fault():
        class Weighted(nn.Module):
            def __init__(self):
                super().__init__()
                self.out = nn.Linear(4, 1)
                self.waggrs = {"w": nn.Parameter(torch.ones(4)), "b": nn.Parameter(torch.zeros(4))}

            def forward(self, x):
                return self.out(x * self.waggrs["w"] + self.waggrs["b"])

        net = Weighted()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            net(torch.randn(5, 4)).pow(2).mean().backward()
            optimizer.step()  # <-
        return net

    def twin():
        class Weighted(nn.Module):
            def __init__(self):
                super().__init__()
                self.out = nn.Linear(4, 1)
                self.waggrs = nn.ParameterDict({"w": torch.ones(4), "b": torch.zeros(4)})

            def forward(self, x):
                return self.out(x * self.waggrs["w"] + self.waggrs["b"])

        net = Weighted()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            net(torch.randn(5, 4)).pow(2).mean().backward()
            optimizer.step()
        return net


@reported("GC503", "https://github.com/allenai/allennlp/issues/4101")
class ActivationsWithAWeightInAPythonList:
    def fault():
        class FeedForward(nn.Module):
            def __init__(self):
                super().__init__()
                self.linear = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 1)])
                self.activations = [nn.PReLU(), nn.PReLU()]

            def forward(self, x):
                for linear, activation in zip(self.linear, self.activations):
                    x = activation(linear(x))
                return x

        net = FeedForward()
        optimizer = torch.optim.Adagrad(net.parameters())
        for _ in range(3):
            optimizer.zero_grad()
            net(torch.randn(5, 4)).pow(2).mean().backward()
            optimizer.step()  # <-
        return net

    def twin():
        class FeedForward(nn.Module):
            def __init__(self):
                super().__init__()
                self.linear = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 1)])
                self.activations = [nn.ReLU(), nn.Tanh()]  # nothing to train

            def forward(self, x):
                for linear, activation in zip(self.linear, self.activations):
                    x = activation(linear(x))
                return x

        net = FeedForward()
        optimizer = torch.optim.Adagrad(net.parameters())
        for _ in range(3):
            optimizer.zero_grad()
            net(torch.randn(5, 4)).pow(2).mean().backward()
            optimizer.step()
        return net


@reported("GC504", "https://github.com/choyingw/SynergyNet/pull/22", raises=RuntimeError)
class ADetectorSwitchesGradientsOffForEverybody:
    def fault():
        class Detector:
            def __init__(self):
                torch.set_grad_enabled(False)  # <-
                self.net = nn.Linear(4, 1)

            def __call__(self, x):
                return self.net(x)

        model, detector = nn.Linear(4, 1), None
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            x = torch.randn(5, 4)
            weight = 1.0 if detector is None else detector(x)
            loss = (weight * model(x)).pow(2).mean()
            loss.backward()
            optimizer.step()
            detector = Detector()

    def twin():
        class Detector:
            def __init__(self):
                self.net = nn.Linear(4, 1)

            def __call__(self, x):
                with torch.set_grad_enabled(False):
                    return self.net(x)

        model, detector = nn.Linear(4, 1), None
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            x = torch.randn(5, 4)
            weight = 1.0 if detector is None else detector(x)
            loss = (weight * model(x)).pow(2).mean()
            loss.backward()
            optimizer.step()
            detector = Detector()


@reported("GC504", "https://github.com/whr94621/NJUNMT-pytorch/pull/16")
class PreparingDataSetsTheModeForEverythingAfterIt:
    def fault():
        def prepare_data(eval):
            x = torch.randn(5, 4)
            torch.set_grad_enabled(not eval)  # <-
            return x

        model = nn.Linear(4, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            model(prepare_data(eval=False)).pow(2).mean().backward()
            optimizer.step()
        model(prepare_data(eval=True))

    def twin():
        def prepare_data():
            return torch.randn(5, 4)

        model = nn.Linear(4, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            model(prepare_data()).pow(2).mean().backward()
            optimizer.step()
        with torch.no_grad():
            model(prepare_data())


@reported("GC505", "https://github.com/pytorch/pytorch/issues/13113")
class TheGradientOfAMovedTensor:
    """``.cuda()`` made it; any conversion does."""

    def fault():
        a = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
        a = a.double()
        c = (a**2).mean(0)
        c.backward()
        print(a.grad)  # <-

    def twin():
        a = torch.tensor([1.0, 2.0, 3.0])
        a = a.double()
        a.requires_grad = True
        c = (a**2).mean(0)
        c.backward()
        print(a.grad)


@reported("GC505", "https://github.com/Maghoumi/pytorch-softdtw-cuda/issues/25")
class TheGradientOfASequenceThatWasMoved:
    def fault():
        x, y = torch.rand(2, 5, 3, requires_grad=True), torch.rand(2, 4, 3)
        x, y = x.to(torch.float64), y.to(torch.float64)
        loss = torch.cdist(x, y).amin(-1).sum(-1)
        loss.mean().backward()
        return x.grad  # <-

    def twin():
        x, y = torch.rand(2, 5, 3, requires_grad=True), torch.rand(2, 4, 3)
        x, y = x.to("cpu"), y.to("cpu")  # it is there already, and stays what it is
        loss = torch.cdist(x, y).amin(-1).sum(-1)
        loss.mean().backward()
        return x.grad


@reported("GC505", "https://github.com/pyro-ppl/pyro/pull/970")
class AGuideConvertsItsParameter:
    def fault():
        data = torch.randn(6, 3, dtype=torch.float64)
        w_mu = torch.randn(1, 3, requires_grad=True).type_as(data)
        for _ in range(2):
            (data @ w_mu.T - 1).pow(2).mean().backward()
            if w_mu.grad is not None:  # <-
                w_mu.data -= 0.1 * w_mu.grad
            w_mu = w_mu.detach().requires_grad_()
            break

    def twin():
        data = torch.randn(6, 3, dtype=torch.float64)
        w_mu = torch.randn(1, 3).type_as(data)
        w_mu.requires_grad = True
        for _ in range(2):
            (data @ w_mu.T - 1).pow(2).mean().backward()
            w_mu.data -= 0.1 * w_mu.grad
            w_mu.grad = None

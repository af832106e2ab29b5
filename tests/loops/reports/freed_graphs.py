"""Graphs that reach into an earlier iteration: freed already, kept for nobody, or growing."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .entry import reported


@reported("GC401", "https://github.com/MorvanZhou/PyTorch-Tutorial/issues/57", raises=RuntimeError)
class TheHiddenStateKeepsItsHistory:
    def fault():
        rnn, out = nn.RNN(1, 8, batch_first=True), nn.Linear(8, 1)
        optimizer = torch.optim.Adam([*rnn.parameters(), *out.parameters()], lr=0.02)
        h_state = None
        for _ in range(3):
            r_out, h_state = rnn(torch.randn(1, 10, 1), h_state)
            loss = F.mse_loss(out(r_out), torch.randn(1, 10, 1))
            optimizer.zero_grad()
            loss.backward()  # <-
            optimizer.step()

    def twin():
        rnn, out = nn.RNN(1, 8, batch_first=True), nn.Linear(8, 1)
        optimizer = torch.optim.Adam([*rnn.parameters(), *out.parameters()], lr=0.02)
        h_state = None
        for _ in range(3):
            r_out, h_state = rnn(torch.randn(1, 10, 1), h_state)
            h_state = h_state.data
            loss = F.mse_loss(out(r_out), torch.randn(1, 10, 1))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


@reported("GC401", "https://github.com/pytorch/pytorch/issues/3123", raises=RuntimeError)
class AReparameterisationOutsideTheLoop:
    def fault():
        rho = torch.ones(10, requires_grad=True)
        variances = torch.log(1.0 + torch.exp(rho))
        optimizer = torch.optim.Adam([rho], lr=0.01)
        for _ in range(3):
            optimizer.zero_grad()
            x = torch.sum(variances)
            x.backward()  # <-
            optimizer.step()

    def twin():
        rho = torch.ones(10, requires_grad=True)
        optimizer = torch.optim.Adam([rho], lr=0.01)
        for _ in range(3):
            optimizer.zero_grad()
            variances = torch.log(1.0 + torch.exp(rho))
            x = torch.sum(variances)
            x.backward()
            optimizer.step()


@reported("GC401", "https://github.com/chxy95/Deep-Mutual-Learning/issues/5", raises=RuntimeError)
class StudentsTeachEachOtherThroughOneGraph:
    def fault():
        models = [nn.Linear(4, 3), nn.Linear(4, 3)]
        optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in models]
        x, y = torch.randn(6, 4), torch.randint(3, (6,))
        outputs = [m(x) for m in models]
        for i in range(2):
            divergence = F.kl_div(
                F.log_softmax(outputs[i], dim=1), F.softmax(outputs[1 - i], dim=1), reduction="batchmean"
            )
            loss = F.cross_entropy(outputs[i], y) + divergence
            optimizers[i].zero_grad()
            loss.backward()  # <-
            optimizers[i].step()

    def twin():
        models = [nn.Linear(4, 3), nn.Linear(4, 3)]
        optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in models]
        x, y = torch.randn(6, 4), torch.randint(3, (6,))
        outputs = [m(x) for m in models]
        for i in range(2):
            teacher = outputs[1 - i].detach()
            divergence = F.kl_div(
                F.log_softmax(outputs[i], dim=1), F.softmax(teacher, dim=1), reduction="batchmean"
            )
            loss = F.cross_entropy(outputs[i], y) + divergence
            optimizers[i].zero_grad()
            loss.backward()
            optimizers[i].step()


@reported("GC401", "https://github.com/hijkzzz/pymarl2/issues/46", raises=RuntimeError)
class AdvantagesOutsideTheLoopOfMiniEpochs:
    def fault():
        actor, critic = nn.Linear(4, 2), nn.Linear(4, 1)
        optimizer = torch.optim.Adam([*actor.parameters(), *critic.parameters()])
        states, actions, returns = torch.randn(6, 4), torch.randint(2, (6, 1)), torch.randn(6)
        advantages = returns - critic(states).tanh().squeeze(1)
        old = actor(states).log_softmax(1).gather(1, actions).squeeze(1).detach()
        for _ in range(3):
            new = actor(states).log_softmax(1).gather(1, actions).squeeze(1)
            ratio = torch.exp(new - old)
            loss = -torch.min(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages).mean()
            optimizer.zero_grad()
            loss.backward()  # <-
            optimizer.step()

    def twin():
        actor, critic = nn.Linear(4, 2), nn.Linear(4, 1)
        optimizer = torch.optim.Adam(actor.parameters())
        states, actions, returns = torch.randn(6, 4), torch.randint(2, (6, 1)), torch.randn(6)
        advantages = (returns - critic(states).tanh().squeeze(1)).detach()
        old = actor(states).log_softmax(1).gather(1, actions).squeeze(1).detach()
        for _ in range(3):
            new = actor(states).log_softmax(1).gather(1, actions).squeeze(1)
            ratio = torch.exp(new - old)
            loss = -torch.min(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


@reported("GC401", "https://github.com/pytorch/examples/issues/151", raises=RuntimeError)
class AnEpisodeIsReplayed:
    """The log-probabilities of an episode belong to the graph that its first backward has freed."""

    def fault():
        policy = nn.Linear(4, 2)
        optimizer = torch.optim.Adam(policy.parameters())
        saved = []
        for _ in range(2):
            m = torch.distributions.Categorical(logits=policy(torch.randn(4)))
            saved.append(m.log_prob(m.sample()))
            loss = torch.stack([-log_prob * 0.5 for log_prob in saved]).sum()
            optimizer.zero_grad()
            loss.backward()  # <-
            optimizer.step()

    def twin():
        policy = nn.Linear(4, 2)
        optimizer = torch.optim.Adam(policy.parameters())
        saved = []
        for _ in range(2):
            m = torch.distributions.Categorical(logits=policy(torch.randn(4)))
            saved.append(m.log_prob(m.sample()))
            loss = torch.stack([-log_prob * 0.5 for log_prob in saved]).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            del saved[:]


@reported("GC401", "https://github.com/EasonApolo/mstn/issues/4", raises=RuntimeError)
class TheMovingCentroidKeepsItsHistory:
    def fault():
        net = nn.Linear(4, 3)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        centroid, decay = torch.zeros(3), 0.3
        for _ in range(3):
            current = net(torch.randn(6, 4)).tanh().mean(0)
            centroid = (1 - decay) * centroid + decay * current
            loss = F.mse_loss(centroid, torch.ones(3))
            optimizer.zero_grad()
            loss.backward()  # <-
            optimizer.step()

    def twin():
        net = nn.Linear(4, 3)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        kept, decay = torch.zeros(3), 0.3
        for _ in range(3):
            current = net(torch.randn(6, 4)).tanh().mean(0)
            centroid = (1 - decay) * kept + decay * current
            loss = F.mse_loss(centroid, torch.ones(3))
            kept = centroid.detach()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


@reported("GC401", "https://github.com/karpathy/nn-zero-to-hero/issues/31", raises=RuntimeError)
class TheCellOfTheBackwardIsRunTwice:
    def fault():
        weight = torch.randn(7, 7, requires_grad=True)
        inputs, ys = F.one_hot(torch.tensor([0, 5, 1, 1, 2]), 7).float(), torch.tensor([5, 1, 1, 2, 0])
        counts = (inputs @ weight).exp()
        prob = counts / counts.sum(1, keepdim=True)
        loss = -prob[torch.arange(5), ys].log().mean()
        for _ in range(2):  # the notebook's cell
            weight.grad = None
            loss.backward()  # <-
            weight.data += -0.1 * weight.grad

    def twin():
        weight = torch.randn(7, 7, requires_grad=True)
        inputs, ys = F.one_hot(torch.tensor([0, 5, 1, 1, 2]), 7).float(), torch.tensor([5, 1, 1, 2, 0])
        for _ in range(2):
            counts = (inputs @ weight).exp()
            prob = counts / counts.sum(1, keepdim=True)
            loss = -prob[torch.arange(5), ys].log().mean()
            weight.grad = None
            loss.backward()
            weight.data += -0.1 * weight.grad


@reported("GC401", "https://github.com/jlamprou/Infini-Attention/issues/3", raises=RuntimeError)
class TheMemoryOfASegmentKeepsItsHistory:
    def fault():
        key, value, head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 1)
        parameters = [p for m in (key, value, head) for p in m.parameters()]
        optimizer = torch.optim.Adam(parameters)
        memory = torch.zeros(4, 4)
        for _ in range(3):
            x = torch.randn(6, 4)
            sigma = F.elu(key(x)) + 1
            memory = memory + sigma.T @ value(x)
            loss = head(sigma @ memory).pow(2).mean()
            optimizer.zero_grad()
            loss.backward()  # <-
            optimizer.step()

    def twin():
        key, value, head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 1)
        parameters = [p for m in (key, value, head) for p in m.parameters()]
        optimizer = torch.optim.Adam(parameters)
        memory = torch.zeros(4, 4)
        for _ in range(3):
            x = torch.randn(6, 4)
            sigma = F.elu(key(x)) + 1
            memory = memory.detach() + sigma.T @ value(x)
            loss = head(sigma @ memory).pow(2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


@reported("GC402", "https://github.com/EagleW/Writing-editing-Network/issues/3")
class RetainGraphInAnOrdinaryLoop:
    def fault():
        model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
        optimizer = torch.optim.Adam(model.parameters())
        for _ in range(4):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(torch.randn(6, 4)), torch.randint(3, (6,)))
            loss.backward(retain_graph=True)  # <-
            optimizer.step()

    def twin():
        model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
        optimizer = torch.optim.Adam(model.parameters())
        for _ in range(4):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(torch.randn(6, 4)), torch.randint(3, (6,)))
            loss.backward()
            optimizer.step()


@reported("GC402", "https://github.com/GBLin5566/toward-controlled-generation-of-text-pytorch/issues/9")
class EveryLossKeepsTheGraph:
    """Of several losses over one graph, the last need not keep it."""

    def fault():
        body, one, two = nn.Linear(4, 5), nn.Linear(5, 1), nn.Linear(5, 1)
        optimizer = torch.optim.Adam([p for m in (body, one, two) for p in m.parameters()])
        for _ in range(4):
            optimizer.zero_grad()
            features = body(torch.randn(6, 4)).tanh()
            one(features).pow(2).mean().backward(retain_graph=True)
            two(features).pow(2).mean().backward(retain_graph=True)  # <-
            optimizer.step()

    def twin():
        body, one, two = nn.Linear(4, 5), nn.Linear(5, 1), nn.Linear(5, 1)
        optimizer = torch.optim.Adam([p for m in (body, one, two) for p in m.parameters()])
        for _ in range(4):
            optimizer.zero_grad()
            features = body(torch.randn(6, 4)).tanh()
            one(features).pow(2).mean().backward(retain_graph=True)
            two(features).pow(2).mean().backward()
            optimizer.step()


@reported("GC403", "https://github.com/google/brax/pull/152")
class TheSumOfLossesKeepsEveryGraph:
    def fault():
        model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))
        optimizer = torch.optim.Adam(model.parameters())
        total_loss = 0
        for _ in range(12):
            optimizer.zero_grad()
            loss = model(torch.randn(6, 4)).pow(2).mean()
            loss.backward()
            optimizer.step()
            total_loss += loss  # <-
        return float(total_loss.detach())

    def twin():
        model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))
        optimizer = torch.optim.Adam(model.parameters())
        total_loss = 0
        for _ in range(12):
            optimizer.zero_grad()
            loss = model(torch.randn(6, 4)).pow(2).mean()
            loss.backward()
            optimizer.step()
            total_loss += float(loss)
        return total_loss


@reported("GC403", "https://github.com/BatsResearch/labelmodels/issues/4")
class TheRunningLossOfAnEpochKeepsEveryGraph:
    def fault():
        model = nn.Linear(4, 3)
        optimizer = torch.optim.Adam(model.parameters())
        for _ in range(2):
            running_loss = torch.zeros(1)
            for _ in range(12):
                optimizer.zero_grad()
                loss = model(torch.randn(6, 4)).logsumexp(1).mean()
                loss.backward()
                optimizer.step()
                running_loss = running_loss + loss  # <-
            running_loss / 12

    def twin():
        model = nn.Linear(4, 3)
        optimizer = torch.optim.Adam(model.parameters())
        for _ in range(2):
            running_loss = torch.zeros(1)
            for _ in range(12):
                optimizer.zero_grad()
                loss = model(torch.randn(6, 4)).logsumexp(1).mean()
                loss.backward()
                optimizer.step()
                running_loss = running_loss + loss.item()
            running_loss / 12


@reported("GC403", "https://github.com/quark0/darts/issues/56")
class RetainGraphCarriesTheHiddenStateOn:
    """``retain_graph=True`` only got rid of the error; each backward runs over all earlier batches again."""

    def fault():
        cell = nn.RNNCell(3, 4)
        hidden, lr = torch.zeros(2, 4), 0.1
        for _ in range(9):
            cell.zero_grad()
            hidden = cell(torch.randn(2, 3), hidden)  # <-
            loss = hidden.pow(2).mean()
            loss.backward(retain_graph=True)
            with torch.no_grad():
                new = {n: p - lr * p.grad for n, p in cell.named_parameters()}
            for name, value in new.items():
                setattr(cell, name, nn.Parameter(value))

    def twin():
        cell = nn.RNNCell(3, 4)
        hidden, lr = torch.zeros(2, 4), 0.1
        for _ in range(9):
            cell.zero_grad()
            hidden = cell(torch.randn(2, 3), hidden.detach())
            loss = hidden.pow(2).mean()
            loss.backward()
            with torch.no_grad():
                new = {n: p - lr * p.grad for n, p in cell.named_parameters()}
            for name, value in new.items():
                setattr(cell, name, nn.Parameter(value))

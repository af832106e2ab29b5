"""Tensors that backward needed and that somebody overwrote: with torch's error, or behind autograd's back."""

from __future__ import annotations

import torch
from torch import nn

from .entry import reported


def artist_and_critic():
    generator = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 4))
    critic = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1), nn.Sigmoid())
    return (
        generator,
        critic,
        torch.optim.Adam(critic.parameters(), lr=1e-3),
        torch.optim.Adam(generator.parameters(), lr=1e-3),
    )


@reported("GC201", "https://github.com/pytorch/pytorch/issues/39141", raises=RuntimeError)
class TheCriticStepsBeforeTheGeneratorsBackward:
    def fault():
        generator, critic, opt_d, opt_g = artist_and_critic()
        for _ in range(3):
            fake = generator(torch.randn(6, 5))
            of_real, of_fake = critic(torch.randn(6, 4)), critic(fake)
            loss_d = -torch.mean(torch.log(of_real) + torch.log(1.0 - of_fake))
            loss_g = torch.mean(torch.log(1.0 - of_fake))
            opt_d.zero_grad()
            loss_d.backward(retain_graph=True)
            opt_d.step()  # <-
            opt_g.zero_grad()
            loss_g.backward()
            opt_g.step()

    def twin():
        generator, critic, opt_d, opt_g = artist_and_critic()
        for _ in range(3):
            fake = generator(torch.randn(6, 5))
            loss_g = torch.mean(torch.log(1.0 - critic(fake)))
            opt_g.zero_grad()
            loss_g.backward()
            opt_g.step()
            of_real, of_fake = critic(torch.randn(6, 4)), critic(fake.detach())
            loss_d = -torch.mean(torch.log(of_real) + torch.log(1.0 - of_fake))
            opt_d.zero_grad()
            loss_d.backward()
            opt_d.step()


@reported("GC201", "https://github.com/leftthomas/SRGAN/issues/89", raises=RuntimeError)
class SuperResolutionStepsTooEarly:
    def fault():
        upscale, judge = nn.Conv2d(1, 1, 3, padding=1), nn.Sequential(nn.Flatten(), nn.Linear(16, 1))
        optimizer_g = torch.optim.Adam(upscale.parameters())
        optimizer_d = torch.optim.Adam(judge.parameters())
        real, small = torch.rand(2, 1, 4, 4), torch.rand(2, 1, 4, 4)
        fake = upscale(small)
        fake_score = judge(fake).tanh().mean()
        judge.zero_grad()
        d_loss = 1 - judge(real).tanh().mean() + fake_score
        d_loss.backward(retain_graph=True)
        optimizer_d.step()  # <-
        upscale.zero_grad()
        g_loss = (fake - real).pow(2).mean() + 0.001 * (1 - fake_score)
        g_loss.backward()
        optimizer_g.step()

    def twin():
        upscale, judge = nn.Conv2d(1, 1, 3, padding=1), nn.Sequential(nn.Flatten(), nn.Linear(16, 1))
        optimizer_g = torch.optim.Adam(upscale.parameters())
        optimizer_d = torch.optim.Adam(judge.parameters())
        real, small = torch.rand(2, 1, 4, 4), torch.rand(2, 1, 4, 4)
        fake = upscale(small)
        fake_score = judge(fake).tanh().mean()
        judge.zero_grad()
        d_loss = 1 - judge(real).tanh().mean() + fake_score
        d_loss.backward(retain_graph=True)
        upscale.zero_grad()
        g_loss = (fake - real).pow(2).mean() + 0.001 * (1 - fake_score)
        g_loss.backward()
        optimizer_d.step()
        optimizer_g.step()


@reported("GC201", "https://github.com/pytorch/pytorch/issues/9391", raises=RuntimeError)
class AnElementOfASigmoidIsAssigned:
    def fault():
        a = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
        b = a.sigmoid()
        b[1] = 2  # <-
        b.sum().backward()

    def twin():
        a = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
        b = a.sigmoid().clone()
        b[1] = 2
        b.sum().backward()


@reported("GC201", "https://github.com/pytorch/pytorch/issues/6990", raises=RuntimeError)
class ADetachedAliasIsZeroed:
    def fault():
        a = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
        out = a.sigmoid()
        c = out.detach()
        c.zero_()  # <-
        out.sum().backward()

    def twin():
        a = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
        out = a.sigmoid()
        c = out.detach().clone()
        c.zero_()
        out.sum().backward()


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)


@reported("GC201", "https://github.com/iMED-Lab/ER-Net/pull/3", raises=RuntimeError)
class AResidualIsAddedToTheOutputOfARelu:
    def fault():
        class Residual(Block):
            def forward(self, x):
                residual = x
                out = self.relu(self.conv2(self.relu(self.conv1(x))))
                out += residual  # <-
                return out

        Residual()(torch.randn(1, 2, 4, 4)).pow(2).mean().backward()

    def twin():
        class Residual(Block):
            def forward(self, x):
                residual = x
                out = self.relu(self.conv2(self.relu(self.conv1(x))))
                out = out + residual
                return self.relu(out)  # in place, into what an addition made: nobody has saved it

        Residual()(torch.randn(1, 2, 4, 4)).pow(2).mean().backward()


@reported("GC201", "https://github.com/dreamgonfly/GAN-tutorial/issues/1", raises=RuntimeError)
class DropoutInPlaceAfterALeakyReluInPlace:
    def fault():
        layers = nn.Sequential(
            nn.Linear(3, 4), nn.LeakyReLU(0.2, inplace=True), nn.Dropout(0.3, inplace=True), nn.Linear(4, 1)
        )
        optimizer = torch.optim.Adam(layers.parameters())
        for _ in range(2):
            optimizer.zero_grad()
            out = layers(torch.randn(5, 3))  # <-
            out.sigmoid().mean().backward()
            optimizer.step()

    def twin():
        layers = nn.Sequential(
            nn.Linear(3, 4), nn.LeakyReLU(0.2, inplace=True), nn.Dropout(0.3), nn.Linear(4, 1)
        )
        optimizer = torch.optim.Adam(layers.parameters())
        for _ in range(2):
            optimizer.zero_grad()
            out = layers(torch.randn(5, 3))
            out.sigmoid().mean().backward()
            optimizer.step()


@reported("GC201", "https://blog.youkuaiyun.com/windhawk_fly/article/details/143405685", raises=RuntimeError)
class RetainGraphMeetsTheOptimizersStep:
    """The hidden state carries the graph of the batch before, whose weights the step has overwritten."""

    def fault():
        lstm, head = nn.LSTM(3, 4), nn.Linear(4, 3)
        optimizer = torch.optim.Adam([*lstm.parameters(), *head.parameters()])
        h0, c0 = torch.randn(1, 2, 4), torch.randn(1, 2, 4)
        for _ in range(3):
            optimizer.zero_grad()
            output, (h0, c0) = lstm(torch.randn(5, 2, 3), (h0, c0))
            loss = head(output).pow(2).mean()
            loss.backward(retain_graph=True)
            optimizer.step()  # <-

    def twin():
        lstm, head = nn.LSTM(3, 4), nn.Linear(4, 3)
        optimizer = torch.optim.Adam([*lstm.parameters(), *head.parameters()])
        h0, c0 = torch.randn(1, 2, 4), torch.randn(1, 2, 4)
        for _ in range(3):
            optimizer.zero_grad()
            output, (h0, c0) = lstm(torch.randn(5, 2, 3), (h0.detach(), c0.detach()))
            loss = head(output).pow(2).mean()
            loss.backward()
            optimizer.step()


@reported("GC202", "https://github.com/pytorch/pytorch/issues/6990")
class TheDataOfASigmoidIsZeroed:
    def fault():
        a = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
        out = a.sigmoid()
        c = out.data
        c.zero_()  # <-
        out.sum().backward()

    def twin():
        a = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
        out = a.sigmoid()
        c = out.data.clone()
        c.zero_()
        out.sum().backward()


@reported("GC202", "https://github.com/MorvanZhou/PyTorch-Tutorial/issues/89")
class WeightsAreSteppedThroughDataBetweenTwoBackwards:
    """What optimizers did before torch 1.5, where the same loop as above ran without an error."""

    def fault():
        generator, critic, _, _ = artist_and_critic()
        fake = generator(torch.randn(6, 5))
        of_fake = critic(fake)
        (-torch.log(1.0 - of_fake).mean()).backward(retain_graph=True)
        for p in critic.parameters():
            p.data.add_(p.grad, alpha=-0.5)  # <-
        generator.zero_grad()
        torch.log(1.0 - of_fake).mean().backward()

    def twin():
        generator, critic, _, _ = artist_and_critic()
        fake = generator(torch.randn(6, 5))
        of_fake = critic(fake)
        (-torch.log(1.0 - of_fake).mean()).backward()
        for p in critic.parameters():
            p.data.add_(p.grad, alpha=-0.5)
        generator.zero_grad()
        torch.log(1.0 - critic(fake.detach().requires_grad_())).mean().backward()

"""Small models written out by hand, for families that no model package has in a small size.

Each is a module whose forward takes its inputs and returns a loss or an output; what is differentiated is all of it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["HANDWRITTEN"]

Made = tuple[nn.Module, tuple[Tensor, ...]]


class DiffusionUNet(nn.Module):
    """A U-Net with time embedding, group norm and attention; forward adds noise and returns the denoising loss."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(16, 32), nn.SiLU(), nn.Linear(32, channels * 2))
        self.enter = nn.Conv2d(3, channels, 3, padding=1)
        self.down = nn.Conv2d(channels, channels * 2, 3, stride=2, padding=1)
        self.norm = nn.GroupNorm(4, channels * 2)
        self.attention = nn.MultiheadAttention(channels * 2, 4, batch_first=True)
        self.up = nn.ConvTranspose2d(channels * 2, channels, 4, stride=2, padding=1)
        self.leave = nn.Conv2d(channels * 2, 3, 3, padding=1)

    def forward(self, image: Tensor, step: Tensor) -> Tensor:
        noise = torch.randn_like(image)
        level = torch.cos(step / 100 * torch.pi / 2).view(-1, 1, 1, 1)
        noisy = level * image + (1 - level**2).clamp(min=1e-4).sqrt() * noise
        frequencies = torch.exp(-torch.arange(8, device=image.device) / 2)
        angles = step[:, None] * frequencies
        embedded = self.time(torch.cat([angles.sin(), angles.cos()], dim=1))
        first = F.silu(self.enter(noisy))
        second = F.silu(self.norm(self.down(first)) + embedded[:, :, None, None])
        n, c, h, w = second.shape
        flat = second.flatten(2).transpose(1, 2)
        mixed, _ = self.attention(flat, flat, flat, need_weights=False)
        second = second + mixed.transpose(1, 2).reshape(n, c, h, w)
        return F.mse_loss(self.leave(torch.cat([self.up(second), first], dim=1)), noise)


class GraphScatter(nn.Module):
    """Message passing with ``scatter_add_``, ``index_add``, ``scatter_reduce`` (amax) and a segment softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.message = nn.Linear(16, 8)
        self.score = nn.Linear(16, 1)
        self.update = nn.GRUCell(8, 8)
        self.out = nn.Linear(16, 3)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        source, target = edges
        for _ in range(2):
            pairs = torch.cat([nodes[source], nodes[target]], dim=1)
            score = self.score(pairs).squeeze(1)
            top = torch.full((len(nodes),), -torch.inf).scatter_reduce(
                0, target, score, "amax", include_self=True
            )
            weight = (score - top[target]).exp()
            total = torch.zeros(len(nodes)).scatter_add_(0, target, weight)
            attention = weight / (total[target] + 1e-9)
            summed = torch.zeros_like(nodes).index_add(0, target, attention[:, None] * self.message(pairs))
            nodes = self.update(summed, nodes)
        mean = torch.zeros_like(nodes).index_reduce(0, target, nodes[source], "mean", include_self=False)
        return self.out(torch.cat([nodes, mean], dim=1)).logsumexp(1).sum()


class NeuralODE(nn.Module):
    """Runge-Kutta integration of a small vector field."""

    def __init__(self) -> None:
        super().__init__()
        self.field = nn.Sequential(nn.Linear(5, 24), nn.Tanh(), nn.Linear(24, 4))
        self.step = nn.Parameter(torch.tensor(0.2))

    def slope(self, t: Tensor, y: Tensor) -> Tensor:
        """dy/dt."""
        out: Tensor = self.field(torch.cat([y, t.expand(len(y), 1)], dim=1))
        return out

    def forward(self, y: Tensor) -> Tensor:
        t, h = torch.zeros(1), self.step
        for _ in range(6):
            k1 = self.slope(t, y)
            k2 = self.slope(t + h / 2, y + h / 2 * k1)
            k3 = self.slope(t + h / 2, y + h / 2 * k2)
            k4 = self.slope(t + h, y + h * k3)
            y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
            t = t + h
        return y.square().mean()


class FourierOperator(nn.Module):
    """Complex weights on the low modes of a real FFT, as in Fourier neural operators."""

    def __init__(self, width: int = 8, modes: int = 5) -> None:
        super().__init__()
        self.lift = nn.Linear(1, width)
        self.weight = nn.Parameter(torch.randn(width, width, modes, dtype=torch.complex64) / width)
        self.local = nn.Conv1d(width, width, 1)
        self.out = nn.Linear(width, 1)
        self.modes = modes

    def forward(self, x: Tensor) -> Tensor:
        h = self.lift(x).transpose(1, 2)
        spectrum = torch.fft.rfft(h)
        kept = torch.einsum("bim,iom->bom", spectrum[..., : self.modes], self.weight)
        full = torch.zeros_like(spectrum)
        full[..., : self.modes] = kept
        h = F.gelu(torch.fft.irfft(full, n=h.shape[-1]) + self.local(h))
        out: Tensor = self.out(h.transpose(1, 2))
        return out


class AffineFlow(nn.Module):
    """RealNVP coupling layers with an exact log-determinant; returns the negative log-likelihood."""

    def __init__(self, size: int = 4) -> None:
        super().__init__()
        self.nets = nn.ModuleList(
            nn.Sequential(nn.Linear(size // 2, 16), nn.Tanh(), nn.Linear(16, size)) for _ in range(3)
        )
        self.mix = nn.Parameter(torch.linalg.qr(torch.randn(size, size))[0])
        self.loc = nn.Parameter(torch.zeros(size))
        self.log_scale = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        total = x.new_zeros(len(x))
        for net in self.nets:
            x = x @ self.mix
            total = total + torch.linalg.slogdet(self.mix)[1]
            kept, moved = x.chunk(2, dim=1)
            scale, shift = net(kept).chunk(2, dim=1)
            scale = torch.tanh(scale)
            x = torch.cat([kept, moved * scale.exp() + shift], dim=1)
            total = total + scale.sum(1)
        base = torch.distributions.Independent(torch.distributions.Normal(self.loc, self.log_scale.exp()), 1)
        return -(base.log_prob(x) + total).mean()


class VariationalMixture(nn.Module):
    """Reparameterised sampling, KL divergences and densities from ``torch.distributions``."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(6, 12)
        self.decoder = nn.Linear(4, 6)
        self.concentration = nn.Parameter(torch.rand(3) + 0.5)
        self.rate = nn.Parameter(torch.rand(3) + 0.5)
        self.tril = nn.Parameter(torch.eye(4) + 0.1 * torch.randn(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        d = torch.distributions
        mean, raw, _ = self.encoder(x).chunk(3, dim=1)
        posterior = d.Normal(mean, F.softplus(raw) + 1e-3)
        z = posterior.rsample()
        prior = d.Normal(torch.zeros_like(mean), torch.ones_like(mean))
        loss = d.kl_divergence(posterior, prior).sum() - d.Normal(self.decoder(z), 1.0).log_prob(x).sum()
        gamma = d.Gamma(F.softplus(self.concentration), F.softplus(self.rate))
        loss = loss - gamma.log_prob(gamma.rsample((4,))).sum()
        multivariate = d.MultivariateNormal(torch.zeros(4), scale_tril=self.tril.tril())
        loss = loss - multivariate.log_prob(z).sum() + multivariate.rsample((3,)).square().sum()
        student = d.StudentT(F.softplus(self.concentration), torch.zeros(3), F.softplus(self.rate))
        loss = loss - student.log_prob(x[:, :3]).sum()
        beta = d.Beta(F.softplus(self.concentration), F.softplus(self.rate))
        dirichlet = d.Dirichlet(F.softplus(self.concentration))
        return loss - beta.log_prob(beta.rsample()).sum() + dirichlet.rsample((2,)).square().sum()


class LinearAlgebra(nn.Module):
    """Gaussian process likelihood by Cholesky, whitening by ``eigh``, a pseudo-inverse, an SVD and a determinant."""

    def __init__(self) -> None:
        super().__init__()
        self.log_length = nn.Parameter(torch.zeros(()))
        self.log_noise = nn.Parameter(torch.tensor(-1.0))
        self.project = nn.Parameter(torch.randn(3, 3))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        x = x @ self.project
        distance = torch.cdist(x, x).square() / self.log_length.exp() ** 2
        kernel = torch.exp(-distance / 2) + self.log_noise.exp() * torch.eye(len(x))
        factor = torch.linalg.cholesky(kernel)
        alpha = torch.cholesky_solve(y, factor)
        loss = (y * alpha).sum() / 2 + factor.diagonal().log().sum()
        covariance = x.T @ x / len(x) + 0.1 * torch.eye(3)
        values, vectors = torch.linalg.eigh(covariance)
        white = x @ vectors @ torch.diag(values.rsqrt()) @ vectors.T
        fitted = torch.linalg.lstsq(white, y).solution
        u, s, v = torch.linalg.svd(x[:5], full_matrices=False)
        rebuilt = (u * (s / (1 + s))) @ v
        inverse = torch.linalg.solve(covariance, self.project) + torch.linalg.inv(covariance)
        q, r = torch.linalg.qr(x[:4])
        return (
            loss + fitted.square().sum() + rebuilt.square().sum() + inverse.sum() + torch.logdet(covariance)
            + torch.linalg.matrix_exp(0.1 * covariance).sum() + (q @ r).sum() + torch.linalg.pinv(x[:5]).square().sum()
        )  # fmt: skip


class SelectiveStateSpace(nn.Module):
    """A scan with input-dependent decay, as in Mamba, written as a loop with in-place stores."""

    def __init__(self, width: int = 8, state: int = 4) -> None:
        super().__init__()
        self.enter = nn.Linear(width, 2 * width)
        self.conv = nn.Conv1d(width, width, 3, padding=2, groups=width)
        self.parameters_of = nn.Linear(width, 2 * state + 1)
        self.log_decay = nn.Parameter(torch.log(torch.arange(1.0, state + 1)).repeat(width, 1))
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        values, gate = self.enter(x).chunk(2, dim=-1)
        values = F.silu(self.conv(values.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2))
        b, c, d = self.parameters_of(values).split([4, 4, 1], dim=-1)
        step = F.softplus(d)[..., None]
        decay = torch.exp(-step * self.log_decay.exp())
        state = values.new_zeros(x.shape[0], values.shape[-1], 4)
        outputs = torch.empty_like(values)
        for t in range(x.shape[1]):
            state = decay[:, t] * state + step[:, t] * values[:, t, :, None] * b[:, t, None, :]
            outputs[:, t] = (state * c[:, t, None, :]).sum(-1)
        out: Tensor = self.out(outputs * F.silu(gate))
        return out


class MixtureOfExperts(nn.Module):
    """Top-2 routing with ``topk``, ``nonzero`` and ``index_add_``, and a load-balancing loss."""

    def __init__(self, width: int = 8, experts: int = 4) -> None:
        super().__init__()
        self.router = nn.Linear(width, experts)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 16), nn.GELU(), nn.Linear(16, width)) for _ in range(experts)
        )

    def forward(self, x: Tensor) -> Tensor:
        probabilities = self.router(x).softmax(-1)
        weights, chosen = probabilities.topk(2, dim=-1)
        weights = weights / weights.sum(-1, keepdim=True)
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            token, slot = torch.where(chosen == number)
            out.index_add_(0, token, expert(x[token]) * weights[token, slot, None])
        load = F.one_hot(chosen, len(self.experts)).float().mean((0, 1))
        return out.square().mean() + (load * probabilities.mean(0)).sum()


class Spectrogram(nn.Module):
    """STFT, mel-like filters, log compression, a convolution, a GRU and the CTC loss."""

    def __init__(self) -> None:
        super().__init__()
        self.filters = nn.Parameter(torch.rand(33, 12))
        self.conv = nn.Conv1d(12, 16, 3, padding=1)
        self.rnn = nn.GRU(16, 12, bidirectional=True, batch_first=True)
        self.head = nn.Linear(24, 6)

    def forward(self, sound: Tensor) -> Tensor:
        spectrum = torch.stft(sound, 64, 32, window=torch.hann_window(64), return_complex=True)
        power = spectrum.abs().square().transpose(1, 2) @ self.filters
        h, _ = self.rnn(F.relu(self.conv(torch.log1p(power).transpose(1, 2))).transpose(1, 2))
        scores = self.head(h).log_softmax(-1).transpose(0, 1)
        lengths = torch.full((len(sound),), scores.shape[0])
        targets = torch.tensor([[1, 2, 3], [2, 2, 4]])
        return F.ctc_loss(scores, targets, lengths, torch.tensor([3, 3]))


class Autoencoder3d(nn.Module):
    """3-d convolutions with instance norm, max-pool and unpool, trilinear interpolation, PReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv3d(1, 4, 3, padding=1)
        self.norm = nn.InstanceNorm3d(4, affine=True)
        self.act = nn.PReLU(4)
        self.pool = nn.MaxPool3d(2, return_indices=True)
        self.unpool = nn.MaxUnpool3d(2)
        self.leave = nn.ConvTranspose3d(4, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h, where = self.pool(self.act(self.norm(self.enter(x))))
        out = self.leave(self.unpool(h, where))
        return F.smooth_l1_loss(
            F.interpolate(out, scale_factor=1.5, mode="trilinear", align_corners=False).mean(), x.mean()
        )


class SpatialTransformer(nn.Module):
    """``affine_grid`` and ``grid_sample`` with a learned transformation."""

    def __init__(self) -> None:
        super().__init__()
        self.locate = nn.Sequential(nn.Flatten(), nn.Linear(2 * 64, 6))
        self.conv = nn.Conv2d(2, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        start = torch.tensor([1.0, 0, 0, 0, 1.0, 0])
        theta = (start + 0.1 * self.locate(x)).view(-1, 2, 3)
        moved = F.grid_sample(
            x, F.affine_grid(theta, list(x.shape), align_corners=False), align_corners=False
        )
        return F.adaptive_avg_pool2d(F.elu(self.conv(moved)), 1).flatten()


class Hypernetwork(nn.Module):
    """Weights made by another network, used through ``functional_call`` and ``vmap``."""

    def __init__(self) -> None:
        super().__init__()
        self.maker = nn.Linear(3, 4 * 5 + 5)

    def forward(self, context: Tensor, x: Tensor) -> Tensor:
        made = self.maker(context)

        def apply(weights: Tensor, values: Tensor) -> Tensor:
            return torch.tanh(F.linear(values, weights[:20].view(5, 4), weights[20:]))

        out: Tensor = torch.func.vmap(apply)(made, x)
        return out


class EnergyForces(nn.Module):
    """Forces as the gradient of an energy with ``create_graph``, matched to a target: second order inside a forward."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, 16), nn.SiLU(), nn.Linear(16, 1))

    def forward(self, positions: Tensor) -> Tensor:
        positions = positions.requires_grad_()
        pairs = torch.triu_indices(len(positions), len(positions), 1)
        distance = (positions[pairs[0]] - positions[pairs[1]]).norm(dim=1, keepdim=True)
        energy = self.net(distance).sum()
        (gradient,) = torch.autograd.grad(energy, positions, create_graph=True)
        return energy + gradient.square().sum()


class GradientPenalty(nn.Module):
    """WGAN-GP: a penalty on the norm of a critic's input gradient, through convolutions and layer norm."""

    def __init__(self) -> None:
        super().__init__()
        self.critic = nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=2), nn.LeakyReLU(0.2), nn.Flatten(), nn.LayerNorm(36), nn.Linear(36, 1)
        )

    def forward(self, real: Tensor, fake: Tensor) -> Tensor:
        share = torch.rand(len(real), 1, 1, 1)
        mixed = (share * real + (1 - share) * fake).requires_grad_()
        (slope,) = torch.autograd.grad(self.critic(mixed).sum(), mixed, create_graph=True)
        penalty = (slope.flatten(1).norm(dim=1) - 1).square().mean()
        return self.critic(fake).mean() - self.critic(real).mean() + 10 * penalty


class WeightTricks(nn.Module):
    """Weight norm, spectral norm, tied weights, an orthogonal parametrisation and an embedding bag."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.EmbeddingBag(11, 6, mode="mean")
        self.first = nn.utils.parametrizations.weight_norm(nn.Linear(6, 6))
        self.second = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 6))
        self.third = nn.utils.parametrizations.orthogonal(nn.Linear(6, 6))

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.embed(tokens)
        h = torch.tanh(self.third(self.second(self.first(h))))
        return F.cross_entropy(h @ self.embed.weight.T, tokens[:, 0], label_smoothing=0.1)


class Checkpointed(nn.Module):
    """Activation checkpointing of both kinds around dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Dropout(0.3))
        self.second = nn.Sequential(nn.Linear(12, 6), nn.Hardswish())

    def forward(self, x: Tensor) -> Tensor:
        h = torch.utils.checkpoint.checkpoint(self.first, x, use_reentrant=False)
        out: Tensor = torch.utils.checkpoint.checkpoint(self.second, h, use_reentrant=False)
        return out


def _images(*shape: int) -> Tensor:
    return torch.randn(shape)


HANDWRITTEN: dict[str, Callable[[], Made]] = {
    "diffusion U-Net": lambda: (DiffusionUNet(), (_images(2, 3, 8, 8), torch.tensor([10.0, 60.0]))),
    "GNN with scatter": lambda: (GraphScatter(), (torch.randn(6, 8), torch.randint(0, 6, (2, 14)))),
    "neural ODE": lambda: (NeuralODE(), (torch.randn(5, 4),)),
    "Fourier operator": lambda: (FourierOperator(), (torch.randn(2, 16, 1),)),
    "normalising flow": lambda: (AffineFlow(), (torch.randn(6, 4),)),
    "distributions": lambda: (VariationalMixture(), (torch.randn(5, 6),)),
    "linear algebra layers": lambda: (LinearAlgebra(), (torch.randn(7, 3), torch.randn(7, 1))),
    "selective state space": lambda: (SelectiveStateSpace(), (torch.randn(2, 6, 8),)),
    "mixture of experts": lambda: (MixtureOfExperts(), (torch.randn(10, 8),)),
    "spectrogram with CTC": lambda: (Spectrogram(), (torch.randn(2, 512),)),
    "3-d autoencoder": lambda: (Autoencoder3d(), (_images(2, 1, 4, 4, 4),)),
    "spatial transformer": lambda: (SpatialTransformer(), (_images(2, 2, 8, 8),)),
    "hypernetwork with vmap": lambda: (Hypernetwork(), (torch.randn(3, 3), torch.randn(3, 2, 4))),
    "energy and forces": lambda: (EnergyForces(), (torch.randn(4, 3),)),
    "gradient penalty": lambda: (GradientPenalty(), (_images(3, 1, 8, 8), _images(3, 1, 8, 8))),
    "parametrised weights": lambda: (WeightTricks(), (torch.randint(0, 11, (4, 5)),)),
    "checkpointing": lambda: (Checkpointed(), (torch.randn(4, 6),)),
    "LSTM with packed sequences": lambda: (PackedTagger(), (torch.randint(0, 9, (3, 5)),)),
    "transformer encoder-decoder": lambda: (
        nn.Transformer(16, 4, 1, 1, 32, 0.1, batch_first=True), (torch.randn(2, 5, 16), torch.randn(2, 4, 16)),
    ),
}  # fmt: skip


class PackedTagger(nn.Module):
    """A two-layer LSTM with projection over packed sequences, with dropout and an adaptive softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 8, padding_idx=0)
        self.rnn = nn.LSTM(8, 12, num_layers=2, dropout=0.2, proj_size=6, batch_first=True)
        self.head = nn.AdaptiveLogSoftmaxWithLoss(6, 9, cutoffs=[3, 6], div_value=2.0)

    def forward(self, tokens: Tensor) -> Tensor:
        lengths = torch.tensor([5, 3, 2])
        packed = nn.utils.rnn.pack_padded_sequence(self.embed(tokens), lengths, batch_first=True)
        states, _ = nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
        loss: Tensor = self.head(states.reshape(-1, 6), tokens.reshape(-1)).loss
        return loss

"""Models that train in unusual ways: normalised weights, quantised ones, memories, queues, teachers, sampled choices."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import nn, optim
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from gradcheck_suite import surrogate_gradient

from .registry import tutorial


def regression():
    return torch.randn(6, 4), torch.randn(6, 2)


@tutorial("Weight norm, spectral norm and orthogonal weights, as parametrizations and as hooks")
def normalised_weights():
    model = nn.Sequential(
        parametrizations.weight_norm(nn.Linear(4, 5)),
        nn.Tanh(),
        parametrizations.spectral_norm(nn.Linear(5, 5)),
        parametrizations.orthogonal(nn.Linear(5, 5)),
        torch.nn.utils.spectral_norm(nn.Linear(5, 2)),
    )
    optimizer = optim.Adam(model.parameters())
    for _ in range(3):
        x, y = regression()
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        optimizer.step()
        model.eval()
        with torch.no_grad():
            F.mse_loss(model(x), y)
        model.train()
    return list(model.parameters())


@surrogate_gradient("straight-through")
class Quantise(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, scale):
        ctx.save_for_backward(x, scale)
        return (x / scale).round().clamp(-8, 7) * scale

    @staticmethod
    def backward(ctx, g):
        x, scale = ctx.saved_tensors
        inside = ((x / scale) >= -8) & ((x / scale) <= 7)
        return g * inside, None


@tutorial("Quantisation-aware training: fake quantisation with observers, straight-through")
def quantisation_aware():
    model, scale = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)), torch.tensor(0.1)
    optimizer = optim.SGD(model.parameters(), lr=0.05)
    for _ in range(3):
        x, y = regression()
        with torch.no_grad():
            scale.mul_(0.9).add_(0.1 * x.abs().max() / 7)
        hidden = F.relu(
            F.linear(Quantise.apply(x, scale), Quantise.apply(model[0].weight, scale), model[0].bias)
        )
        optimizer.zero_grad()
        F.mse_loss(model[2](hidden), y).backward()
        optimizer.step()
    return list(model.parameters())


@tutorial("Fake quantisation by torch's own operation, which is straight-through by definition")
def fake_quantised():
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    optimizer = optim.SGD(model.parameters(), lr=0.05)
    for _ in range(3):
        x, y = regression()
        hidden = torch.fake_quantize_per_tensor_affine(model[:2](x), 0.05, 0, -128, 127)
        optimizer.zero_grad()
        F.mse_loss(model[2](hidden), y).backward()
        optimizer.step()
    return list(model.parameters())


@tutorial(
    "Binary weights: real ones are kept aside, the signs train, the real ones come back and are clipped"
)
def binary_weights():
    model = nn.Linear(4, 2)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        x, y = regression()
        real = model.weight.data.clone()
        model.weight.data.sign_()
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        model.weight.data.copy_(real)
        optimizer.step()
        model.weight.data.clamp_(-1, 1)
    return list(model.parameters())


@tutorial("Gumbel softmax with annealing, hard samples straight through")
def gumbel():
    encoder, decoder = nn.Linear(4, 6), nn.Linear(6, 4)
    optimizer = optim.Adam([*encoder.parameters(), *decoder.parameters()])
    for step in range(4):
        x = torch.randn(6, 4)
        z = F.gumbel_softmax(encoder(x), tau=1.0 * 0.9**step, hard=step % 2 == 1)
        loss = F.mse_loss(decoder(z), x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [*encoder.parameters(), *decoder.parameters()]


@tutorial("Checkpointing, dropout and autocast together, both kinds")
def checkpointed_autocast():
    blocks = nn.Sequential(
        *(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Dropout(0.2)) for _ in range(4)), nn.Linear(4, 2)
    )
    optimizer = optim.AdamW(blocks.parameters())
    scaler = torch.amp.GradScaler("cpu")
    for step in range(3):
        x, y = regression()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            if step % 2:
                out = checkpoint_sequential(blocks, 2, x, use_reentrant=False)
            else:
                out = checkpoint(blocks, x.requires_grad_(), use_reentrant=True)
            loss = F.mse_loss(out.float(), y)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(blocks.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
    return list(blocks.parameters())


@tutorial(
    "Truncated backpropagation: states detached in place, carried over batches and reset between epochs"
)
def detached_in_place():
    rnn, head = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 1)
    optimizer = optim.SGD([*rnn.parameters(), *head.parameters()], lr=0.1)
    for _ in range(2):
        state = None
        for _ in range(3):
            if state is not None:
                for part in state:
                    part.detach_()
            out, state = rnn(torch.randn(2, 5, 3), state)
            optimizer.zero_grad()
            head(out).pow(2).mean().backward()
            nn.utils.clip_grad_value_([*rnn.parameters()], 0.5)
            optimizer.step()
    return [*rnn.parameters(), *head.parameters()]


@tutorial("A queue of negatives that is written in place, and a momentum encoder (contrastive)")
def queue_in_place():
    online = nn.Linear(4, 3)
    slow = copy.deepcopy(online).requires_grad_(False)
    queue, at = F.normalize(torch.randn(8, 3), dim=1), 0
    optimizer = optim.SGD(online.parameters(), lr=0.1)
    for _ in range(4):
        x = torch.randn(4, 4)
        q = F.normalize(online(x + 0.1 * torch.randn_like(x)), dim=1)
        with torch.no_grad():
            for p, s in zip(online.parameters(), slow.parameters()):
                s.lerp_(p, 0.01)
            k = F.normalize(slow(x), dim=1)
        logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.clone().T], 1) / 0.1
        optimizer.zero_grad()
        F.cross_entropy(logits, torch.zeros(4, dtype=torch.long)).backward()
        optimizer.step()
        queue[at : at + 4] = k
        at = (at + 4) % 8
    return [*online.parameters(), queue]


@tutorial("Double DQN with replay buffer, soft target updates and a behaviour policy under no_grad")
def double_dqn():
    online = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    target = copy.deepcopy(online)
    optimizer, buffer, state = optim.Adam(online.parameters()), [], torch.randn(4)
    for _ in range(6):
        with torch.no_grad():
            action = int(online(state).argmax())
        following, reward = torch.randn(4), torch.randn(())
        buffer.append((state, action, reward, following))
        state = following
        if len(buffer) < 3:
            continue
        rows = [buffer[i] for i in torch.randint(len(buffer), (4,)).tolist()]
        states, actions, rewards, nexts = zip(*rows)
        states, nexts, rewards = torch.stack(states), torch.stack(nexts), torch.stack(rewards)
        with torch.no_grad():
            best = online(nexts).argmax(1, keepdim=True)
            goal = rewards + 0.9 * target(nexts).gather(1, best)[:, 0]
        value = online(states).gather(1, torch.tensor(actions)[:, None])[:, 0]
        optimizer.zero_grad()
        F.smooth_l1_loss(value, goal).backward()
        nn.utils.clip_grad_norm_(online.parameters(), 10)
        optimizer.step()
        for p, t in zip(online.parameters(), target.parameters()):
            t.data.copy_(0.05 * p.data + 0.95 * t.data)
    return [*online.parameters(), *target.parameters()]


@tutorial(
    "Soft actor-critic: three optimizers, critics frozen while the actor is trained, a learned temperature"
)
def soft_actor_critic():
    actor, critics = nn.Linear(4, 2), nn.ModuleList(nn.Linear(6, 1) for _ in range(2))
    targets, temperature = copy.deepcopy(critics).requires_grad_(False), torch.zeros((), requires_grad=True)
    of_actor, of_critics = optim.Adam(actor.parameters()), optim.Adam(critics.parameters())
    of_temperature = optim.Adam([temperature])

    def act(s):
        mean, spread = actor(s).chunk(2, 1)
        noise = torch.randn_like(mean)
        action = torch.tanh(mean + noise * spread.exp()).repeat(1, 2)
        return action, -0.5 * noise.pow(2).sum(1, keepdim=True) - spread

    for _ in range(3):
        s, a, r, n = torch.randn(5, 4), torch.randn(5, 2), torch.randn(5, 1), torch.randn(5, 4)
        with torch.no_grad():
            following, log = act(n)
            worst = torch.min(*(t(torch.cat([n, following], 1)) for t in targets))
            goal = r + 0.9 * (worst - temperature.exp() * log)
        of_critics.zero_grad()
        sum(F.mse_loss(c(torch.cat([s, a], 1)), goal) for c in critics).backward()
        of_critics.step()
        critics.requires_grad_(False)
        action, log = act(s)
        worst = torch.min(*(c(torch.cat([s, action], 1)) for c in critics))
        of_actor.zero_grad()
        (temperature.exp().detach() * log - worst).mean().backward()
        of_actor.step()
        critics.requires_grad_(True)
        of_temperature.zero_grad()
        (-temperature.exp() * (log.detach() - 1)).mean().backward()
        of_temperature.step()
        with torch.no_grad():
            for c, t in zip(critics.parameters(), targets.parameters()):
                t.mul_(0.95).add_(c, alpha=0.05)
    return [*actor.parameters(), *critics.parameters(), temperature]


@tutorial(
    "DDPG: the actor's backward runs into the critic as well, whose gradients are zeroed before its own step"
)
def ddpg():
    actor, critic = nn.Linear(4, 2), nn.Linear(6, 1)
    of_actor, of_critic = optim.Adam(actor.parameters()), optim.Adam(critic.parameters())
    for _ in range(3):
        s, a, r = torch.randn(5, 4), torch.randn(5, 2), torch.randn(5, 1)
        of_critic.zero_grad()
        F.mse_loss(critic(torch.cat([s, a], 1)), r).backward()
        of_critic.step()
        of_actor.zero_grad()
        (-critic(torch.cat([s, actor(s).tanh()], 1))).mean().backward()
        of_actor.step()
    return [*actor.parameters(), *critic.parameters()]


@tutorial("CycleGAN: both generators in one optimizer, discriminators frozen meanwhile, a pool of images")
def cycle_gan():
    forth, back = nn.Linear(4, 4), nn.Linear(4, 4)
    judges = nn.ModuleList((nn.Linear(4, 1), nn.Linear(4, 1)))
    of_generators = optim.Adam([*forth.parameters(), *back.parameters()])
    of_judges = optim.Adam(judges.parameters())
    pool = []
    for _ in range(3):
        a, b = torch.randn(3, 4), torch.randn(3, 4)
        fake_b, fake_a = forth(a), back(b)
        for p in judges.parameters():
            p.requires_grad = False
        of_generators.zero_grad()
        loss = (judges[0](fake_b) - 1).pow(2).mean() + (judges[1](fake_a) - 1).pow(2).mean()
        (loss + F.l1_loss(back(fake_b), a) + F.l1_loss(forth(fake_a), b)).backward()
        of_generators.step()
        for p in judges.parameters():
            p.requires_grad = True
        pool.append((fake_b.detach(), fake_a.detach()))
        old_b, old_a = pool[int(torch.randint(len(pool), ()))]
        of_judges.zero_grad()
        for judge, real, fake in ((judges[0], b, old_b), (judges[1], a, old_a)):
            ((judge(real) - 1).pow(2).mean() + judge(fake).pow(2).mean()).backward()
        of_judges.step()
    return [*forth.parameters(), *back.parameters(), *judges.parameters()]


@tutorial("Tacotron style: teacher forcing with scheduled sampling, outputs fed back detached")
def scheduled_sampling():
    cell, head = nn.GRUCell(3, 5), nn.Linear(5, 3)
    optimizer = optim.Adam([*cell.parameters(), *head.parameters()])
    for epoch in range(3):
        target = torch.randn(4, 2, 3)
        hidden, given, loss = torch.zeros(2, 5), torch.zeros(2, 3), 0.0
        for step in range(4):
            hidden = cell(given, hidden)
            out = head(hidden)
            loss = loss + F.mse_loss(out, target[step])
            given = target[step] if (step + epoch) % 2 else out.detach()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [*cell.parameters(), *head.parameters()]


@tutorial("A normalising flow: log determinants, masks, reversed permutations")
def coupling_flow():
    nets = nn.ModuleList(nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 4)) for _ in range(3))
    optimizer = optim.Adam(nets.parameters())
    for _ in range(3):
        z, log = torch.randn(6, 4), torch.zeros(6)
        for net in nets:
            left, right = z.chunk(2, 1)
            scale, shift = net(left).chunk(2, 1)
            scale = 2 * torch.tanh(scale / 2)
            z = torch.cat([right * scale.exp() + shift, left], 1)
            log = log + scale.sum(1)
        loss = (0.5 * z.pow(2).sum(1) - log).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return list(nets.parameters())


@tutorial("VQ-VAE with a codebook of moving averages in buffers, and dead codes replaced")
def codebook_of_averages():
    class Codes(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("codes", torch.randn(5, 3))
            self.register_buffer("sizes", torch.ones(5))
            self.register_buffer("sums", self.codes.clone())

        def forward(self, z):
            index = torch.cdist(z, self.codes).argmin(1)
            q = self.codes[index]
            if self.training:
                with torch.no_grad():
                    hot = F.one_hot(index, 5).float()
                    self.sizes.mul_(0.9).add_(hot.sum(0), alpha=0.1)
                    self.sums.mul_(0.9).add_(hot.T @ z, alpha=0.1)
                    self.codes.copy_(self.sums / self.sizes[:, None].clamp_min(1e-3))
            return z + (q - z).detach(), F.mse_loss(z, q.detach())

    encoder, codes, decoder = nn.Linear(4, 3), Codes(), nn.Linear(3, 4)
    optimizer = optim.Adam([*encoder.parameters(), *decoder.parameters()])
    for _ in range(4):
        x = torch.randn(6, 4)
        q, commitment = codes(encoder(x))
        loss = F.mse_loss(decoder(q), x) + 0.25 * commitment
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [*encoder.parameters(), *decoder.parameters(), codes.codes]


@tutorial("Transformer-XL style memory: hidden states of earlier segments, kept detached")
def segment_memory():
    attention, head = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 4)
    optimizer, memory = optim.Adam([*attention.parameters(), *head.parameters()]), None
    for _ in range(4):
        x = torch.randn(2, 3, 4)
        keys = x if memory is None else torch.cat([memory, x], 1)
        out, _ = attention(x, keys, keys, need_weights=False)
        memory = torch.cat([keys, x], 1)[:, -6:].detach()
        optimizer.zero_grad()
        F.mse_loss(head(out), x).backward()
        optimizer.step()
    return [*attention.parameters(), *head.parameters()]


@tutorial("A padded batch: losses of masked positions, -inf attention masks, packed sequences")
def padded_batches():
    embed, rnn, head = nn.Embedding(9, 4, padding_idx=0), nn.GRU(4, 5, batch_first=True), nn.Linear(5, 9)
    parameters = [p for m in (embed, rnn, head) for p in m.parameters()]
    optimizer = optim.Adam(parameters)
    for _ in range(3):
        tokens = torch.randint(1, 9, (3, 6))
        lengths = torch.tensor([6, 4, 2])
        tokens[torch.arange(6) >= lengths[:, None]] = 0
        packed = nn.utils.rnn.pack_padded_sequence(embed(tokens), lengths, batch_first=True)
        out, _ = nn.utils.rnn.pad_packed_sequence(rnn(packed)[0], batch_first=True)
        scores = (out @ out.transpose(1, 2)).masked_fill((tokens == 0)[:, None], float("-inf"))
        out = out + scores.softmax(-1) @ out
        loss = F.cross_entropy(head(out).flatten(0, 1), tokens.flatten(), ignore_index=0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return parameters


@tutorial("Noisy labels: per-example losses are chosen (small-loss trick) between two networks (co-teaching)")
def co_teaching():
    models = [nn.Linear(4, 3), nn.Linear(4, 3)]
    optimizers = [optim.SGD(m.parameters(), lr=0.1) for m in models]
    for _ in range(3):
        x, y = torch.randn(8, 4), torch.randint(3, (8,))
        losses = [F.cross_entropy(m(x), y, reduction="none") for m in models]
        chosen = [loss.detach().argsort()[:5] for loss in losses]
        for optimizer, loss, index in zip(optimizers, losses, reversed(chosen)):
            optimizer.zero_grad()
            loss[index].mean().backward()
            optimizer.step()
    return [p for m in models for p in m.parameters()]


@tutorial("Deep supervision: a generator yields losses, each with its own backward through the shared trunk")
def deep_supervision():
    layers, heads = (
        nn.ModuleList(nn.Linear(4, 4) for _ in range(3)),
        nn.ModuleList(nn.Linear(4, 2) for _ in range(3)),
    )
    optimizer = optim.SGD([*layers.parameters(), *heads.parameters()], lr=0.1)

    def losses(x, y):
        for layer, head in zip(layers, heads):
            x = layer(x).relu()
            yield F.mse_loss(head(x), y)

    for _ in range(3):
        optimizer.zero_grad()
        kept = list(losses(*regression()))
        for number, loss in enumerate(kept):
            loss.backward(retain_graph=number < len(kept) - 1)
        optimizer.step()
    return [*layers.parameters(), *heads.parameters()]


@tutorial("Local learning: every layer has its own loss and optimizer, and passes on what is detached")
def layerwise():
    layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
    optimizers = [optim.SGD(layer.parameters(), lr=0.1) for layer in layers]
    for _ in range(3):
        x = torch.randn(6, 4)
        for layer, optimizer in zip(layers, optimizers):
            out = layer(x).relu()
            optimizer.zero_grad()
            (out.pow(2).mean(1) - 1).pow(2).mean().backward()
            optimizer.step()
            x = out.detach()
    return list(layers.parameters())


@tutorial("Online distillation: two networks teach each other with detached predictions")
def mutual_learning():
    models = [nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.1), nn.Linear(6, 3)) for _ in range(2)]
    optimizers = [optim.Adam(m.parameters()) for m in models]
    for _ in range(3):
        x, y = torch.randn(6, 4), torch.randint(3, (6,))
        outs = [m(x) for m in models]
        for number, optimizer in enumerate(optimizers):
            other = outs[1 - number].detach().softmax(1)
            loss = F.cross_entropy(outs[number], y)
            loss = loss + F.kl_div(outs[number].log_softmax(1), other, reduction="batchmean")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return [p for m in models for p in m.parameters()]


@tutorial("Soft labels and mixup: probabilities as targets of cross_entropy")
def mixup():
    model = nn.Linear(4, 3)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        x, y = torch.randn(6, 4), F.one_hot(torch.randint(3, (6,)), 3).float()
        share, order = torch.rand(()), torch.randperm(6)
        x, y = share * x + (1 - share) * x[order], share * y + (1 - share) * y[order]
        optimizer.zero_grad()
        F.cross_entropy(model(x), y, label_smoothing=0.1).backward()
        optimizer.step()
    return list(model.parameters())

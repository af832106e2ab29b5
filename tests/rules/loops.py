"""Training loops that are right, each returning the tensors it has trained: the rules must be silent about them."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

Loop = Callable[[], list[torch.Tensor]]

LOOPS: dict[str, Loop] = {}


def loop(function: Loop) -> Loop:
    LOOPS[function.__name__] = function
    return function


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(4, 3), torch.randint(2, (4,))


def mean_square(model: nn.Module) -> torch.Tensor:
    return model(torch.randn(4, 3)).pow(2).mean()


@loop
def plain():
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(3):
        x, y = batch()
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return list(model.parameters())


@loop
def zeroed_to_zero():
    model = small()
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(3):
        optimizer.zero_grad(set_to_none=False)
        mean_square(model).backward()
        optimizer.step()
    return list(model.parameters())


@loop
def foreach_zeroed_to_zero():
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, foreach=True)
    for _ in range(3):
        optimizer.zero_grad(set_to_none=False)
        mean_square(model).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
    return list(model.parameters())


@loop
def fused():
    model = small()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    for _ in range(3):
        mean_square(model).backward()
        nn.utils.clip_grad_value_(model.parameters(), 0.1)
        optimizer.step()
        model.zero_grad()
    return list(model.parameters())


@loop
def accumulation():
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for number in range(7):
        (mean_square(model) / 3).backward()
        if number % 3 == 2:
            optimizer.step()
            optimizer.zero_grad()
    optimizer.step()
    return list(model.parameters())


def gan(critic_first: bool) -> list[torch.Tensor]:
    generator, critic = nn.Linear(2, 3), nn.Sequential(nn.Linear(3, 4), nn.LeakyReLU(0.2), nn.Linear(4, 1))
    for_generator = torch.optim.Adam(generator.parameters())
    for_critic = torch.optim.Adam(critic.parameters())
    ones, zeros = torch.ones(4, 1), torch.zeros(4, 1)

    def train_critic():
        for_critic.zero_grad()
        F.binary_cross_entropy_with_logits(critic(torch.randn(4, 3)), ones).backward()
        F.binary_cross_entropy_with_logits(critic(generator(torch.randn(4, 2)).detach()), zeros).backward()
        for_critic.step()

    def train_generator():
        for_generator.zero_grad()
        F.binary_cross_entropy_with_logits(critic(generator(torch.randn(4, 2))), ones).backward()
        for_generator.step()

    for _ in range(3):
        for train in (train_critic, train_generator) if critic_first else (train_generator, train_critic):
            train()
    return [*generator.parameters(), *critic.parameters()]


@loop
def gan_critic_first():
    return gan(True)


@loop
def gan_generator_first():
    return gan(False)


@loop
def wgan_with_clipped_weights():
    generator, critic = nn.Linear(2, 3), nn.Linear(3, 1)
    for_generator = torch.optim.RMSprop(generator.parameters())
    for_critic = torch.optim.RMSprop(critic.parameters())
    for _ in range(2):
        for _ in range(2):
            critic.zero_grad()
            (
                critic(generator(torch.randn(4, 2)).detach()).mean() - critic(torch.randn(4, 3)).mean()
            ).backward()
            for_critic.step()
            for p in critic.parameters():
                p.data.clamp_(-0.1, 0.1)
        generator.zero_grad()
        (-critic(generator(torch.randn(4, 2))).mean()).backward()
        for_generator.step()
    return [*generator.parameters(), *critic.parameters()]


@loop
def wgan_gp():
    critic = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    optimizer = torch.optim.Adam(critic.parameters())
    for _ in range(3):
        optimizer.zero_grad()
        x = torch.randn(4, 3, requires_grad=True)
        out = critic(x)
        (slope,) = torch.autograd.grad(out.sum(), x, create_graph=True)
        (out.mean() + (slope.norm(dim=1) - 1).pow(2).mean()).backward()
        optimizer.step()
    return list(critic.parameters())


@loop
def lbfgs():
    model = small()
    x, y = batch()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=4, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)
    return list(model.parameters())


@loop
def closure_over_micro_batches():
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def closure():
        optimizer.zero_grad(set_to_none=False)
        for _ in range(2):
            mean_square(model).backward()
        return torch.zeros(())

    for _ in range(3):
        optimizer.step(closure)
    return list(model.parameters())


@loop
def grad_scaler():
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for number in range(4):
        optimizer.zero_grad()
        loss = mean_square(model)
        if number == 1:
            loss = loss * float("inf")  # the step is skipped
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
    return list(model.parameters())


@loop
def autocast():
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        x, y = batch()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return list(model.parameters())


@loop
def ema_and_swa():
    model = small()
    average = torch.optim.swa_utils.AveragedModel(model)
    ema = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        mean_square(model).backward()
        optimizer.step()
        average.update_parameters(model)
        with torch.no_grad():
            for e, p in zip(ema.parameters(), model.parameters()):
                e.mul_(0.9).add_(p, alpha=0.1)
    return [*model.parameters(), *average.parameters(), *ema.parameters()]


@loop
def maml():
    model = small()
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(2):
        optimizer.zero_grad()
        for _ in range(2):
            weights = dict(model.named_parameters())
            x, y = batch()
            inner = F.cross_entropy(torch.func.functional_call(model, weights, (x,)), y)
            slopes = torch.autograd.grad(inner, list(weights.values()), create_graph=True)
            fast = {n: w - 0.1 * s for (n, w), s in zip(weights.items(), slopes)}
            x, y = batch()
            F.cross_entropy(torch.func.functional_call(model, fast, (x,)), y).backward()
        optimizer.step()
    return list(model.parameters())


@loop
def actor_critic_with_two_optimizers():
    body = nn.Linear(3, 4)
    actor, critic = nn.Linear(4, 2), nn.Linear(4, 1)
    for_actor = torch.optim.Adam([*body.parameters(), *actor.parameters()])
    for_critic = torch.optim.Adam(critic.parameters())
    for _ in range(3):
        features = body(torch.randn(4, 3)).tanh()
        values = critic(features.detach()).squeeze(1)
        choice = torch.distributions.Categorical(logits=actor(features))
        action = choice.sample()
        reward = torch.randn(4)
        policy_loss = -(choice.log_prob(action) * (reward - values.detach())).mean()
        value_loss = F.mse_loss(values, reward)
        for_actor.zero_grad()
        for_critic.zero_grad()
        policy_loss.backward()
        value_loss.backward()
        for_actor.step()
        for_critic.step()
    return [*body.parameters(), *actor.parameters(), *critic.parameters()]


@loop
def dqn_with_target_network():
    online = small()
    target = copy.deepcopy(online)
    optimizer = torch.optim.Adam(online.parameters())
    for number in range(4):
        x, action = batch()
        with torch.no_grad():
            wanted = torch.randn(4) + 0.9 * target(torch.randn(4, 3)).max(1).values
        loss = F.smooth_l1_loss(online(x).gather(1, action[:, None]).squeeze(1), wanted)
        optimizer.zero_grad()
        loss.backward()
        for p in online.parameters():
            p.grad.data.clamp_(-1, 1)
        optimizer.step()
        if number % 2:
            target.load_state_dict(online.state_dict())
        else:
            for t, o in zip(target.parameters(), online.parameters()):
                t.data.copy_(0.05 * o.data + 0.95 * t.data)
    return [*online.parameters(), *target.parameters()]


@loop
def truncated_backpropagation():
    cell, head = nn.LSTM(3, 4), nn.Linear(4, 2)
    parameters = [*cell.parameters(), *head.parameters()]
    state = None
    for _ in range(3):
        for p in parameters:
            p.grad = None
        out, state = cell(torch.randn(5, 2, 3), state)
        state = tuple(s.detach() for s in state)
        F.cross_entropy(head(out).view(-1, 2), torch.randint(2, (10,))).backward()
        nn.utils.clip_grad_norm_(parameters, 0.5)
        for p in parameters:
            p.data.add_(p.grad, alpha=-0.1)
    return parameters


@loop
def char_rnn_with_zeroed_module():
    cell, head = nn.GRUCell(3, 4), nn.Linear(4, 2)
    for _ in range(3):
        hidden = torch.zeros(2, 4)
        cell.zero_grad()
        head.zero_grad()
        loss = torch.zeros(1)
        for _ in range(3):
            hidden = cell(torch.randn(2, 3), hidden)
            loss += F.cross_entropy(head(hidden), torch.randint(2, (2,)))
        loss.backward()
        for p in [*cell.parameters(), *head.parameters()]:
            p.data -= 0.1 * p.grad.data
    return [*cell.parameters(), *head.parameters()]


@loop
def hand_written_with_momentum():
    weight = torch.randn(3, requires_grad=True)
    velocity = torch.zeros(3)
    for _ in range(4):
        (weight * torch.randn(4, 3)).sum(1).pow(2).mean().backward()
        with torch.no_grad():
            velocity.mul_(0.9).add_(weight.grad)
            weight.mul_(0.99)
            weight.sub_(0.1 * velocity)
            weight.sub_(0.01 * velocity.sign())
            weight.grad.zero_()
    return [weight]


@loop
def hand_written_by_assignment():
    weight = torch.randn(3, requires_grad=True)
    for _ in range(4):
        (weight * torch.randn(4, 3)).sum(1).pow(2).mean().backward()
        weight.data = weight.data - 0.1 * weight.grad
        weight.grad = None
    return [weight]


@loop
def hand_written_zeroed_through_numpy():
    weight = torch.randn(3, requires_grad=True)
    for _ in range(4):
        (weight * torch.randn(4, 3)).sum(1).pow(2).mean().backward()
        with torch.no_grad():
            weight -= 0.1 * weight.grad
        weight.grad.numpy()[:] = 0
    return [weight]


@loop
def new_leaf_in_each_iteration():
    weight = torch.randn(3, requires_grad=True)
    for _ in range(4):
        (weight * torch.randn(4, 3)).sum(1).pow(2).mean().backward()
        weight = (weight - 0.1 * weight.grad).detach().requires_grad_()
    return [weight]


@loop
def gradient_as_momentum():
    weight = torch.randn(3, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.1)
    for _ in range(4):
        (weight * torch.randn(4, 3)).sum(1).pow(2).mean().backward()
        optimizer.step()
        weight.grad *= 0.9  # an eligibility trace
    return [weight]


@loop
def adversarial_training_that_adds_gradients():
    """The embedding is moved along its gradient, and the gradient of the moved model is added on purpose."""
    embedding, head = nn.Embedding(5, 3), nn.Linear(3, 2)
    optimizer = torch.optim.Adam([*embedding.parameters(), *head.parameters()])
    for _ in range(3):
        index, target = torch.randint(5, (4,)), torch.randint(2, (4,))
        F.cross_entropy(head(embedding(index)), target).backward()
        weight = embedding.weight
        backup = weight.data.clone()
        weight.data.add_(0.1 * weight.grad / weight.grad.norm())
        F.cross_entropy(head(embedding(index)), target).backward()
        weight.data = backup
        optimizer.step()
        optimizer.zero_grad()
    return [*embedding.parameters(), *head.parameters()]


@loop
def sharpness_aware():
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        x, y = batch()
        F.cross_entropy(model(x), y).backward()
        moves = []
        with torch.no_grad():
            for p in model.parameters():
                moves.append(0.05 * p.grad / p.grad.norm())
                p.add_(moves[-1])
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        with torch.no_grad():
            for p, move in zip(model.parameters(), moves):
                p.sub_(move)
        optimizer.step()
        optimizer.zero_grad()
    return list(model.parameters())


@loop
def projected_attack_on_an_input():
    model = small()
    x = torch.randn(4, 3, requires_grad=True)
    for _ in range(3):
        F.cross_entropy(model(x), torch.tensor([0, 1, 0, 1])).backward()
        x.data = x.data + 0.1 * x.grad.sign()
        x.grad.zero_()
        model.zero_grad()
    return [x]


@loop
def neural_style():
    features = nn.Conv2d(1, 2, 3)
    picture = torch.randn(1, 1, 5, 5, requires_grad=True)
    optimizer = torch.optim.LBFGS([picture], max_iter=3)

    def closure():
        with torch.no_grad():
            picture.clamp_(0, 1)
        optimizer.zero_grad()
        loss = features(picture).pow(2).mean()
        loss.backward()
        return loss

    for _ in range(2):
        optimizer.step(closure)
    return [picture]


@loop
def gradient_surgery():
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        parts = []
        for _ in range(2):
            optimizer.zero_grad()
            mean_square(model).backward()
            parts.append([p.grad.clone() for p in model.parameters()])
        for p, *gradients in zip(model.parameters(), *parts):
            p.grad = sum(gradients)
        optimizer.step()
    return list(model.parameters())


@loop
def step_inside_the_backward():
    model = small()
    optimizers = {p: torch.optim.SGD([p], lr=0.1) for p in model.parameters()}

    def step(p):
        optimizers[p].step()
        optimizers[p].zero_grad()

    handles = [p.register_post_accumulate_grad_hook(step) for p in model.parameters()]
    for _ in range(3):
        mean_square(model).backward()
    for handle in handles:
        handle.remove()
    return list(model.parameters())


@loop
def zeroed_in_a_hook_of_the_optimizer():
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.register_step_post_hook(lambda o, args, kwargs: o.zero_grad())
    for _ in range(3):
        mean_square(model).backward()
        optimizer.step()
    return list(model.parameters())


class StepsEveryOther(torch.optim.SGD):
    """Collects two gradients before it steps: most calls of ``step`` and ``zero_grad`` do nothing."""

    calls = 0

    def step(self, closure=None):
        self.calls += 1
        if self.calls % 2 == 0:
            super().step(closure)
            super().zero_grad()

    def zero_grad(self, set_to_none=True):
        pass


@loop
def optimizer_that_collects():
    model = small()
    optimizer = StepsEveryOther(model.parameters(), lr=0.1)
    for _ in range(4):
        optimizer.zero_grad()
        mean_square(model).backward()
        optimizer.step()
    return list(model.parameters())


@loop
def vae():
    encoder, decoder = nn.Linear(3, 4), nn.Linear(2, 3)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()])
    for _ in range(3):
        x = torch.rand(4, 3)
        optimizer.zero_grad()
        mean, spread = encoder(x).chunk(2, 1)
        code = mean + torch.randn_like(mean) * torch.exp(0.5 * spread)
        loss = F.binary_cross_entropy(decoder(code).sigmoid(), x, reduction="sum")
        (loss - 0.5 * (1 + spread - mean.pow(2) - spread.exp()).sum()).backward()
        optimizer.step()
    return [*encoder.parameters(), *decoder.parameters()]


@loop
def siamese_with_batch_norm():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(inplace=True), nn.Dropout(0.5))
    optimizer = torch.optim.Adadelta(model.parameters())
    for _ in range(3):
        optimizer.zero_grad()
        F.triplet_margin_loss(*(model(torch.randn(6, 3)) for _ in range(3))).backward()
        optimizer.step()
    return [*model.parameters(), *model.buffers()]


@loop
def sparse_embedding():
    embedding = nn.Embedding(7, 3, sparse=True)
    optimizer = torch.optim.SparseAdam(embedding.parameters())
    for _ in range(3):
        optimizer.zero_grad()
        embedding(torch.tensor([1, 2, 2])).sin().sum().backward()
        optimizer.step()
    return list(embedding.parameters())


@loop
def adapter_on_a_frozen_base():
    base = small().requires_grad_(False)
    down, up = nn.Linear(3, 1, bias=False), nn.Linear(1, 2, bias=False)
    optimizer = torch.optim.AdamW([*down.parameters(), *up.parameters()])
    for _ in range(3):
        x, y = batch()
        F.cross_entropy(base(x) + up(down(x)), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    return [*down.parameters(), *up.parameters()]

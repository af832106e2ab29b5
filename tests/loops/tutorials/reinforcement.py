"""Reinforcement learning on a made-up world: REINFORCE, actor-critic, DQN, PPO."""

from __future__ import annotations

import math
import random
from collections import deque, namedtuple

import torch
import torch.nn.functional as F
from torch import nn, optim
from torch.distributions import Categorical

from .registry import tutorial

SavedAction = namedtuple("SavedAction", ["log_prob", "value"])
Transition = namedtuple("Transition", ("state", "action", "next_state", "reward"))


def step(action):
    """A world that answers at random."""
    return torch.randn(4), random.random() + 0.1 * action, random.random() < 0.2


@tutorial("pytorch/examples: reinforcement_learning/reinforce.py")
def reinforce():
    class Policy(nn.Module):
        def __init__(self):
            super().__init__()
            self.affine1, self.dropout, self.affine2 = nn.Linear(4, 8), nn.Dropout(p=0.6), nn.Linear(8, 2)
            self.saved_log_probs = []
            self.rewards = []

        def forward(self, x):
            x = self.affine1(x)
            x = self.dropout(x)
            x = F.relu(x)
            action_scores = self.affine2(x)
            return F.softmax(action_scores, dim=1)

    policy = Policy()
    optimizer = optim.Adam(policy.parameters(), lr=1e-2)
    eps = torch.finfo(torch.float32).eps

    def select_action(state):
        state = state.float().unsqueeze(0)
        probs = policy(state)
        m = Categorical(probs)
        action = m.sample()
        policy.saved_log_probs.append(m.log_prob(action))
        return action.item()

    def finish_episode():
        R = 0
        policy_loss = []
        returns = deque()
        for r in policy.rewards[::-1]:
            R = r + 0.99 * R
            returns.appendleft(R)
        returns = torch.tensor(returns)
        returns = (returns - returns.mean()) / (returns.std() + eps)
        for log_prob, R in zip(policy.saved_log_probs, returns):
            policy_loss.append(-log_prob * R)
        optimizer.zero_grad()
        policy_loss = torch.cat(policy_loss).sum()
        policy_loss.backward()
        optimizer.step()
        del policy.rewards[:]
        del policy.saved_log_probs[:]

    for _ in range(3):
        state = torch.randn(4)
        for _ in range(5):
            state, reward, _ = step(select_action(state))
            policy.rewards.append(reward)
        finish_episode()
    return list(policy.parameters())


@tutorial("pytorch/examples: reinforcement_learning/actor_critic.py")
def actor_critic():
    class Policy(nn.Module):
        def __init__(self):
            super().__init__()
            self.affine1, self.action_head, self.value_head = (
                nn.Linear(4, 8),
                nn.Linear(8, 2),
                nn.Linear(8, 1),
            )
            self.saved_actions = []
            self.rewards = []

        def forward(self, x):
            x = F.relu(self.affine1(x))
            action_prob = F.softmax(self.action_head(x), dim=-1)
            state_values = self.value_head(x)
            return action_prob, state_values

    model = Policy()
    optimizer = optim.Adam(model.parameters(), lr=3e-2)
    for _ in range(3):
        state = torch.randn(4)
        for _ in range(4):
            probs, state_value = model(state)
            m = Categorical(probs)
            action = m.sample()
            model.saved_actions.append(SavedAction(m.log_prob(action), state_value))
            state, reward, _ = step(action.item())
            model.rewards.append(reward)
        R, policy_losses, value_losses, returns = 0, [], [], []
        for r in model.rewards[::-1]:
            R = r + 0.99 * R
            returns.insert(0, R)
        returns = torch.tensor(returns)
        returns = (returns - returns.mean()) / (returns.std() + 1.2e-7)
        for (log_prob, value), R in zip(model.saved_actions, returns):
            advantage = R - value.item()
            policy_losses.append(-log_prob * advantage)
            value_losses.append(F.smooth_l1_loss(value, torch.tensor([R])))
        optimizer.zero_grad()
        loss = torch.stack(policy_losses).sum() + torch.stack(value_losses).sum()
        loss.backward()
        optimizer.step()
        del model.rewards[:]
        del model.saved_actions[:]
    return list(model.parameters())


@tutorial("Reinforcement Learning (DQN) Tutorial")
def dqn():
    class DQN(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer1, self.layer2, self.layer3 = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x):
            x = F.relu(self.layer1(x))
            x = F.relu(self.layer2(x))
            return self.layer3(x)

    policy_net, target_net = DQN(), DQN()
    target_net.load_state_dict(policy_net.state_dict())
    optimizer = optim.AdamW(policy_net.parameters(), lr=3e-4, amsgrad=True)
    memory, batch_size, tau, steps_done = deque(maxlen=50), 6, 0.005, 0

    def select_action(state):
        eps_threshold = 0.05 + 0.85 * math.exp(-1.0 * steps_done / 10)
        if random.random() > eps_threshold:
            with torch.no_grad():
                return policy_net(state).max(1).indices.view(1, 1)
        return torch.tensor([[random.randrange(2)]], dtype=torch.long)

    def optimize_model():
        if len(memory) < batch_size:
            return
        transitions = random.sample(memory, batch_size)
        batch = Transition(*zip(*transitions))
        non_final_mask = torch.tensor(tuple(s is not None for s in batch.next_state), dtype=torch.bool)
        non_final_next_states = torch.cat([s for s in batch.next_state if s is not None])
        state_batch = torch.cat(batch.state)
        action_batch = torch.cat(batch.action)
        reward_batch = torch.cat(batch.reward)
        state_action_values = policy_net(state_batch).gather(1, action_batch)
        next_state_values = torch.zeros(batch_size)
        with torch.no_grad():
            next_state_values[non_final_mask] = target_net(non_final_next_states).max(1).values
        expected_state_action_values = (next_state_values * 0.99) + reward_batch
        criterion = nn.SmoothL1Loss()
        loss = criterion(state_action_values, expected_state_action_values.unsqueeze(1))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_value_(policy_net.parameters(), 100)
        optimizer.step()

    for _ in range(2):
        state = torch.randn(1, 4)
        for _ in range(7):
            action = select_action(state)
            steps_done += 1
            observation, reward, terminated = step(action.item())
            next_state = None if terminated else observation.unsqueeze(0)
            memory.append(Transition(state, action, next_state, torch.tensor([reward])))
            state = next_state if next_state is not None else torch.randn(1, 4)
            optimize_model()
            target_net_state_dict = target_net.state_dict()
            policy_net_state_dict = policy_net.state_dict()
            for key in policy_net_state_dict:
                target_net_state_dict[key] = policy_net_state_dict[key] * tau + target_net_state_dict[key] * (
                    1 - tau
                )
            target_net.load_state_dict(target_net_state_dict)
    return [*policy_net.parameters(), *target_net.parameters()]


@tutorial("PPO with clipped ratios, several epochs over one rollout (CleanRL)")
def ppo():
    critic, actor = (
        nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)),
        nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)),
    )
    parameters = [*critic.parameters(), *actor.parameters()]
    optimizer = optim.Adam(parameters, lr=2.5e-4, eps=1e-5)
    for _ in range(2):
        obs, rewards = torch.randn(8, 4), torch.randn(8)
        with torch.no_grad():
            probs = Categorical(logits=actor(obs))
            actions = probs.sample()
            logprobs, values = probs.log_prob(actions), critic(obs).flatten()
            advantages = rewards - values
            returns = advantages + values
        for _ in range(2):
            for inds in torch.randperm(8).split(4):
                new = Categorical(logits=actor(obs[inds]))
                ratio = (new.log_prob(actions[inds]) - logprobs[inds]).exp()
                adv = (advantages[inds] - advantages[inds].mean()) / (advantages[inds].std() + 1e-8)
                pg_loss = torch.max(-adv * ratio, -adv * torch.clamp(ratio, 0.8, 1.2)).mean()
                v_loss = 0.5 * ((critic(obs[inds]).view(-1) - returns[inds]) ** 2).mean()
                loss = pg_loss - 0.01 * new.entropy().mean() + v_loss * 0.5
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(parameters, 0.5)
                optimizer.step()
    return parameters

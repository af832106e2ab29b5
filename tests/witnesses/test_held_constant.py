"""Deliberate stop-gradients are held constant and noted; values that leave the graph otherwise are errors, by line."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradcheck_suite import Severity, check_gradients
from gradcheck_suite.evidence import Finding, Report


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def seeded(module: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return module()


def marked(case: object) -> set[int]:
    """Lines of a case that end in a mark."""
    lines, start = inspect.getsourcelines(case)  # type: ignore[arg-type]
    return {start + i for i, line in enumerate(lines) if line.rstrip().endswith("# <-")}


def detached(report: Report) -> list[Finding]:
    return [finding for finding in report.findings if finding.code == "GC501"]


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 4), nn.Linear(4, 5)


# ------------------------------------------------------------------------------------------- meant


class DQN(Two):
    """The temporal difference to a target network."""

    def __init__(self) -> None:
        super().__init__()
        self.target = copy.deepcopy(self.first)

    def forward(self, state: Tensor, following: Tensor) -> Tensor:
        value = self.first(state).gather(1, torch.tensor([[0], [1], [2]]))
        with torch.no_grad():
            best = self.target(following).max(1, keepdim=True).values  # <-
        return F.smooth_l1_loss(value, 1.0 + 0.99 * best)


class OwnTarget(Two):
    """The same network on both sides, as in fitted Q iteration."""

    def forward(self, state: Tensor, following: Tensor) -> Tensor:
        best = self.first(following).max(1).values.detach()  # <-
        return F.mse_loss(self.first(state)[:, 0], 0.9 * best)


class SimSiam(Two):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        p, q = self.second(self.first(x).tanh()), self.second(self.first(y).tanh())
        return (
            -F.cosine_similarity(p, q.detach()).mean()  # <-
            - F.cosine_similarity(q, p.detach()).mean()  # <-
        )


class VQ(nn.Module):
    """Nearest codes, straight-through, with codebook and commitment losses."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(5, 3), nn.Linear(3, 5)
        self.codes = nn.Parameter(normal(7, 3, seed=1))

    def forward(self, x: Tensor) -> Tensor:
        z = self.encoder(x)
        nearest = self.codes[torch.cdist(z, self.codes).argmin(1)]
        loss = F.mse_loss(nearest, z.detach())  # <-
        loss = loss + 0.25 * F.mse_loss(z, nearest.detach())  # <-
        through = z + (nearest - z).detach()  # <-
        return F.mse_loss(self.decoder(through), x) + loss


class MovingAverage(nn.Module):
    """Normalises by a running mean that is updated in place, without gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 4)
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.linear(x)
        with torch.no_grad():
            self.mean.mul_(0.9).add_(h.mean(0), alpha=0.1)  # <-
        return (h - self.mean).tanh()


class TargetByAverage(Two):
    """A target network whose weights follow the online ones inside the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.target = nn.Linear(5, 4).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            for slow, fast in zip(self.target.parameters(), self.first.parameters()):
                slow.mul_(0.5).add_(fast, alpha=0.5)  # <-
        return (self.first(x) - self.target(x).detach()).square().mean()  # <-


class Gumbel(Two):
    """The detach is inside torch's own function."""

    def forward(self, x: Tensor) -> Tensor:
        choice = F.gumbel_softmax(self.first(x), hard=True)  # <-
        return self.second(choice).square()


class Normaliser(Two):
    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return h / h.norm(dim=1, keepdim=True).detach()  # <-


class LogSumExp(Two):
    """The subtracted maximum cancels: nothing depends on that detach."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        largest = h.max(1, keepdim=True).values.detach()
        return (h - largest).exp().sum(1).log() + largest.squeeze(1)


class Truncated(nn.Module):
    """Back-propagation through time, cut after every second step."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.RNNCell(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(3, 4)
        total = torch.zeros(())
        for step in range(4):
            h = self.cell(x, h)
            total = total + h.square().sum()
            if step % 2:
                h = h.detach()  # <-
        return total


class Rounded(nn.Module):
    """A straight-through estimator through which alone everything passes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(normal(5))

    def forward(self, x: Tensor) -> Tensor:
        y = x * self.weight
        return y + (y.round() - y).detach()  # <-


class PolicyGradient(Two):
    """Advantages of a critic weigh the log-probabilities of an actor; sampling is under no_grad as well."""

    def __init__(self) -> None:
        super().__init__()
        self.critic = nn.Linear(5, 1)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.first(x).log_softmax(1)
        with torch.no_grad():
            action = torch.multinomial(scores.exp(), 1)
        value = self.critic(x)
        advantage = (1.0 - value).detach()  # <-
        return -(scores.gather(1, action) * advantage).mean() + (1.0 - value).square().mean()


class DecoratedTeacher(Two):
    @torch.no_grad()
    def teach(self, x: Tensor) -> Tensor:
        return self.first(x).softmax(1)  # <-

    def forward(self, x: Tensor) -> Tensor:
        return F.kl_div(self.first(x + 1).log_softmax(1), self.teach(x), reduction="sum")


class Inference(Two):
    def forward(self, x: Tensor) -> Tensor:
        with torch.inference_mode():
            scale = self.first(x).abs().amax()  # <-
        return self.first(x) / scale.clone()


class DetachedNumber(Two):
    """Written out as detached before it becomes a number: quantisation scales, loss balancing."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return h / h.detach().abs().max().item()  # <-


class Hungarian(Two):
    """NumPy sees the costs, but what comes back is a matching: whole numbers do not move."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        cost = torch.cdist(self.first(x), self.first(y))
        order = torch.from_numpy(cost.detach().numpy().argmin(1))
        return cost.gather(1, order[:, None]).sum()


class LoggedArray(Two):
    """NumPy sees a detached value, for the record only; the loss takes the detached one."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        scale = h.detach().norm()  # <-
        self.__dict__["log"] = float(np.asarray(scale))
        return h / scale


class SquaredThrough(torch.autograd.Function):
    """A right Function that detaches inside: none of anybody's business."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        with torch.no_grad():
            value = x.detach() * x
        return value * 1.0

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Any:
        return 2 * ctx.saved_tensors[0] * cotangent


class FunctionInside(Two):
    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return SquaredThrough.apply(h) / h.detach().norm()  # <-


class UnderBoth(Two):
    """A Function inside a no_grad block is held with it."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        with torch.no_grad():
            scale = SquaredThrough.apply(h).sum()  # <-
        return h / scale


PAIR = (normal(3, 5), normal(3, 5, seed=1))
MEANT: list[tuple[Callable[[], nn.Module], Any]] = [
    (DQN, PAIR),
    (OwnTarget, PAIR),
    (SimSiam, PAIR),
    (VQ, PAIR[0]),
    (MovingAverage, PAIR[0]),
    (TargetByAverage, PAIR[0]),
    (Gumbel, PAIR[0]),
    (Normaliser, PAIR[0]),
    (LogSumExp, PAIR[0]),
    (Truncated, PAIR[0]),
    (Rounded, PAIR[0]),
    (PolicyGradient, PAIR[0]),
    (DecoratedTeacher, PAIR[0]),
    (Inference, PAIR[0]),
    (DetachedNumber, PAIR[0]),
    (Hungarian, PAIR),
    (LoggedArray, PAIR[0]),
    (FunctionInside, PAIR[0]),
    (UnderBoth, PAIR[0]),
]


@pytest.mark.parametrize(("case", "inputs"), MEANT, ids=[case.__name__ for case, _ in MEANT])
def test_deliberate_stop_gradients_pass_and_are_noted(case: Callable[[], nn.Module], inputs: Any) -> None:
    report = check_gradients(seeded(case), inputs)
    assert report.ok, str(report)
    assert len(report.verified) == len(report.gradients)
    found = detached(report)
    assert all(finding.severity is Severity.NOTE for finding in found)
    lines = {finding.location.line for finding in found if finding.location is not None}
    assert lines <= marked(case), str(report)
    assert bool(lines) == bool(marked(case)), str(report)
    concerned = {name for finding in found for name in finding.evidence["parameters"]}
    assert bool(concerned) == bool(lines)
    for gradient in report.gradients:
        assert ("held constant" in gradient.reason) == (gradient.name in concerned)


def test_each_line_that_matters_is_noted_and_a_harmless_one_is_not() -> None:
    class Both(Two):
        def forward(self, x: Tensor) -> Tensor:
            h = self.first(x)
            largest = h.max(1, keepdim=True).values.detach()
            stable = (h - largest).exp().sum(1).log() + largest.squeeze(1)
            one = h.norm().detach()  # <-
            two = h.exp().mean().detach()  # <-
            return stable * one + two * h.sum(1)

    report = check_gradients(seeded(Both), PAIR[0])
    assert report.ok
    assert {finding.location.line for finding in detached(report)} == marked(Both)


def test_only_the_leaves_concerned_are_remarked() -> None:
    report = check_gradients(seeded(OwnTarget), PAIR)
    reasons = {gradient.name: gradient.reason for gradient in report.gradients}
    assert reasons["inputs[0]"] == ""
    for name in ("first.weight", "first.bias"):
        assert f"held constant ({__file__}:{max(marked(OwnTarget))})" in reasons[name]
    (note,) = detached(report)
    assert note.evidence["parameters"] == ["first.weight", "first.bias", "inputs[1]"]


# ------------------------------------------------------------------------------------------- not meant


class Item(Two):
    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return h / h.norm().item()  # <-


class Float(Two):
    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return h * float(h.square().mean())  # <-


class Data(Two):
    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return h * h.data.sigmoid()  # <-


class WeightData(Two):
    """A weight read past autograd."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.first(x), self.second.weight.data) + self.second(self.first(x))  # <-


class Numpy(Two):
    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        scale = np.sqrt(np.square(h.detach().numpy()).sum())  # <-
        return h / torch.tensor(scale)


class NumpyRound(Two):
    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        again = torch.from_numpy(np.tanh(h.detach().cpu().numpy()))  # <-
        return h * again


class AsArray(Two):
    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return h * torch.as_tensor(np.exp(np.asarray(h.detach())))  # <-


class ToList(Two):
    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return h * torch.tensor(h.tolist()).exp()  # <-


class NewTensor(Two):
    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return h * h.new_tensor(h).exp()  # <-


class Mathematics(Two):
    """Python's own functions read a number too."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        temperature = np.log(1 + float(h.exp().sum()))  # <-
        return h / temperature


class DetachAndItem(Two):
    """One stop-gradient is meant; the number beside it is not."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        target = h.detach().tanh()
        return (h - target).square() * h.abs().max().item()  # <-


class NoGradAndData(Two):
    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        with torch.no_grad():
            target = h.tanh()
        scale = h.data.norm()  # <-
        return (h - target).square() * scale


class TargetAndNumpy(Two):
    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        target = h.detach().tanh()
        weights = torch.from_numpy(1 / (1 + np.exp(-h.detach().numpy())))  # <-
        return (h - target).square() * weights


class TwoLosses(Two):
    """A quiet gradient that is lost, beside a loud one with a stop-gradient."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = self.first(x)
        loud = 1e6 * (h - h.detach().tanh()).square().sum()
        return loud + y.sum() * 0 + 1e-2 * float(y.sin().sum())  # <-


NOT_MEANT: list[tuple[Callable[[], nn.Module], Any]] = [
    (Item, PAIR[0]),
    (Float, PAIR[0]),
    (Data, PAIR[0]),
    (WeightData, PAIR[0]),
    (Numpy, PAIR[0]),
    (NumpyRound, PAIR[0]),
    (AsArray, PAIR[0]),
    (ToList, PAIR[0]),
    (NewTensor, PAIR[0]),
    (Mathematics, PAIR[0]),
    (DetachAndItem, PAIR[0]),
    (NoGradAndData, PAIR[0]),
    (TargetAndNumpy, PAIR[0]),
    (TwoLosses, PAIR),
]


@pytest.mark.filterwarnings("ignore:To copy construct")
@pytest.mark.parametrize(("case", "inputs"), NOT_MEANT, ids=[case.__name__ for case, _ in NOT_MEANT])
def test_other_cuts_are_errors_on_their_line(case: Callable[[], nn.Module], inputs: Any) -> None:
    report = check_gradients(seeded(case), inputs)
    assert not report.ok
    errors = [finding for finding in detached(report) if finding.severity is Severity.ERROR]
    assert {finding.location.line for finding in errors if finding.location} == marked(case), str(report)
    assert any(gradient.name in errors[0].evidence["parameters"] for gradient in report.gradients)


def test_a_course_that_changes_is_no_error_and_no_pass_of_the_differences() -> None:
    class Fickle(Two):
        """Detaches so and so often, by the last digits of its input."""

        def forward(self, x: Tensor) -> Tensor:
            h = self.first(x)
            for _ in range(1 + int(x.data.double().abs().sum() * 1e11) % 97):
                scale = h.detach().norm()
            return h * scale

    report = check_gradients(seeded(Fickle), PAIR[0])
    assert report.ok
    assert detached(report) == []
    assert any("takes another course" in entry.reason for entry in report.unverified)


def test_a_note_is_silenced_on_its_line() -> None:
    def function(x: Tensor) -> Tensor:
        return x / x.norm().detach()  # gradcheck: ignore[detached-graph]

    report = check_gradients(function, PAIR[0])
    assert report.ok
    assert detached(report) == []
    assert report.counts["suppressed"] == 1


# --------------------------------------------------------------------------------------- inputs without gradients


class Masks(nn.Module):
    """Writes into its input, as wav2vec2 does with its mask."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x[0, 0] = 0.0
        return self.linear(x)


def test_a_model_that_refuses_inputs_that_require_grad_is_checked_without() -> None:
    x = normal(3, 5)
    before = x.clone()
    report = check_gradients(Masks(), x)
    assert report.ok
    assert [g.name for g in report.gradients] == ["linear.weight", "linear.bias"]
    assert any("only parameters were checked" in note and "in-place" in note for note in report.notes)
    assert torch.equal(x, before)


def test_a_model_that_raises_either_way_raises_as_it_first_did() -> None:
    class Broken(Masks):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError(f"tracked: {x.requires_grad}")

    with pytest.raises(Exception, match="tracked: True"):
        check_gradients(Broken(), normal(3, 5))


def test_gradients_asked_for_are_not_given_up() -> None:
    with pytest.raises(Exception, match="in-place"):
        check_gradients(Masks(), normal(3, 5).requires_grad_())
    with pytest.raises(Exception, match="in-place"):
        check_gradients(Masks(), normal(3, 5), wrt="inputs*")

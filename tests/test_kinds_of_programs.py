"""Everything torch lets a model do: right code of each kind is verified, by a check and under a watch, and not accused."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import torch.nn.utils.parametrizations as parametrizations
from torch import nn
from torch.utils.checkpoint import checkpoint

from gradcheck_suite import check_gradients, watch
from gradcheck_suite.evidence import Severity


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.dropout = nn.Dropout(0.5)
        self.reentrant = reentrant

    def forward(self, x):
        return checkpoint(lambda a: self.dropout(torch.tanh(self.linear(a))), x, use_reentrant=self.reentrant)


class Autocast(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.linear(x).float().sin()


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.output = nn.Linear(4, 7, bias=False)
        self.output.weight = self.embedding.weight

    def forward(self, index):
        return self.output(self.embedding(index))


class SparseEmbedding(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 4, sparse=True)

    def forward(self, index):
        return self.embedding(index).sin()


class Penalty(nn.Module):
    """A gradient penalty: differentiates inside its forward."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        y = self.linear(x).tanh().sum()
        (gradient,) = torch.autograd.grad(y, x, create_graph=True)
        return gradient.pow(2).sum() + y


class InnerLeaf(nn.Module):
    """Makes a leaf of its own out of its input, as speech encoders do whose parameters may be frozen."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x):
        rows = x[:, None].detach()
        rows.requires_grad = True
        return self.linear(rows).tanh()


class FakeQuantized(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x):
        return torch.fake_quantize_per_tensor_affine(self.linear(x), 0.1, 0, -128, 127).sin()


PLACES = torch.tensor([[0, 1, 1, 2], [2, 0, 2, 1]])


def of_values(function):
    """A function of a sparse matrix, as one of what it stores."""
    return lambda values, *others: function(torch.sparse_coo_tensor(PLACES, values, (3, 3)), *others)


def csr(values, other):
    return torch.sparse_csr_tensor(torch.tensor([0, 1, 3, 4]), PLACES[1], values, (3, 3)) @ other


def strided_look_at_an_expanded_tensor(x):
    return (x.sin().expand(2, 6).as_strided((1, 3), (2, 1), 1) * torch.arange(3.0)).sum() + x.sum()


def assign_column(x):
    y = x * 1
    y[:, 0] = x[:, 1] * 3
    y.relu_()
    return y.sum()


def small(*layers, dtype):
    return nn.Sequential(*layers).to(dtype)


def programs():
    torch.manual_seed(0)
    index = torch.tensor([[1, 2, 2]])
    half = (nn.Linear(4, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 2))
    return {
        "gradient penalty": (Penalty(), torch.randn(3, 4)),
        "checkpoint": (Checkpointed(False), torch.randn(3, 4)),
        "re-entrant checkpoint": (Checkpointed(True), torch.randn(3, 4)),
        "autocast": (Autocast(), torch.randn(3, 4)),
        "bfloat16": (small(*half, dtype=torch.bfloat16), torch.randn(3, 4).bfloat16()),
        "float16": (small(nn.Linear(4, 8), nn.GELU(), dtype=torch.float16), torch.randn(3, 4).half()),
        "weight tying": (Tied(), index),
        "sparse gradient": (SparseEmbedding(), index),
        "vmap": (torch.func.vmap(lambda r: (r * r).sum()), torch.randn(3, 4)),
        "vmap of grad": (torch.func.vmap(torch.func.grad(lambda r: (r**3).sum())), torch.randn(3, 4)),
        "jacrev": (torch.func.jacrev(torch.sin), torch.randn(3)),
        "spectral norm": (parametrizations.spectral_norm(nn.Linear(4, 4)), torch.randn(3, 4)),
        "weight norm": (parametrizations.weight_norm(nn.Linear(4, 4)), torch.randn(3, 4)),
        "orthogonal": (parametrizations.orthogonal(nn.Linear(4, 4)), torch.randn(3, 4)),
        "where guards log": (lambda x: torch.where(x > 0, x.clamp(min=1e-6).log(), x * 2), torch.randn(6)),
        "decoder layer": (
            nn.TransformerDecoderLayer(8, 2, 16, batch_first=True),
            (torch.randn(2, 3, 8), torch.randn(2, 4, 8)),
        ),
        "empty": (lambda x: (x * 2).sum() + x.exp().sum(), torch.randn(0, 3)),
        "expanded input": (
            lambda x: (x.sin() * torch.arange(12.0).view(4, 3)).sum(),
            torch.randn(3).expand(4, 3),
        ),
        "dict output": (lambda x: {"a": x.sin(), "b": (x.cos(), 3)}, torch.randn(3)),
        "kinks": (
            lambda x: torch.relu(x) + x.abs() + x.clamp(-1, 1) + x.max(),
            torch.tensor([0.0, 1.0, -1.0, 1.0]),
        ),
        "sparse matrix": (lambda x: torch.sparse.mm(torch.eye(3).to_sparse(), x), torch.randn(3, 2)),
        "integer input that is written to": (
            lambda x, i: (i.add_(1), x[i])[1].sum(),
            (torch.randn(5), torch.tensor([0, 1])),
        ),
        "sparse factor": (of_values(torch.sparse.mm), (torch.randn(4), torch.randn(3, 2))),
        "sparse sum": (of_values(lambda m: torch.sparse.sum(m, 0).to_dense()), torch.randn(4)),
        "sparse softmax": (of_values(lambda m: torch.sparse.softmax(m, 1).to_dense()), torch.randn(4)),
        "stored values": (of_values(lambda m: m.coalesce().values().sin()), torch.randn(4)),
        "product of sparse ones": (of_values(lambda m: torch.sparse.mm(m, m).to_dense()), torch.randn(4)),
        "compressed sparse factor": (csr, (torch.randn(4), torch.randn(3, 2))),
        "fake quantisation": (FakeQuantized(), torch.randn(3, 4)),
        "leaf made of an input": (InnerLeaf().double(), torch.randn(3, 4).double()),
        "embedding cut back": (nn.Embedding(7, 4, max_norm=1.0), index),
        "strided look beyond a view": (
            lambda x: (x.sin()[:1].as_strided((3,), (2,), 0) * torch.tensor([2.0, 0.0, 0.0])).sum() + x.sum(),
            torch.randn(6),
        ),
        "strided look at an expanded tensor": (strided_look_at_an_expanded_tensor, torch.randn(6)),
        "confident log-softmax in bfloat16": (
            lambda x: F.cross_entropy(20 * torch.eye(5).bfloat16() + x, torch.arange(5)),
            torch.randn(5, 5).bfloat16(),
        ),
        "confident log-softmax in float64": (
            lambda x: F.cross_entropy(10 * torch.eye(5).double() + x, torch.arange(5)),
            torch.randn(5, 5).double(),
        ),
        "complex layer": (nn.Linear(3, 2).to(torch.complex64), torch.randn(2, 3, dtype=torch.complex64)),
        "lazy conjugate": (
            lambda z: z * z.conj() * (1 + 2j) + z.mH,
            torch.randn(3, 3, dtype=torch.complex128),
        ),
        "column assignment": (assign_column, torch.randn(3, 3)),
        "stft": (
            lambda x: torch.stft(x, 8, window=torch.hann_window(8), return_complex=True).abs(),
            torch.randn(32),
        ),
        "hard gumbel": (lambda x: F.gumbel_softmax(x, hard=True), torch.randn(3, 4)),
        "pooling ties": (nn.MaxPool2d(2), torch.zeros(1, 1, 4, 4)),
        "pseudo inverse": (torch.linalg.pinv, torch.randn(3, 2, dtype=torch.float64)),
    }


NAMES = list(programs())


@pytest.mark.parametrize("name", NAMES)
def test_check_verifies(name):
    model, inputs = programs()[name]
    report = check_gradients(model, inputs)
    assert [f for f in report.findings if f.severity > Severity.NOTE] == [], str(report)
    assert report.ok, str(report)
    assert len(report.verified) == len(report.gradients), str(report)
    if isinstance(model, nn.Module):
        assert {n for n, p in model.named_parameters() if p.requires_grad} <= {
            g.name for g in report.gradients
        }


class WrongInside(torch.autograd.Function):
    """Right for its first argument, twice the gradient for its second."""

    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return x * w

    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        return g * w, 2 * (g * x).sum(0)


class ReentrantWithFunction(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 4)
        self.weight = nn.Parameter(torch.randn(4))

    def forward(self, x):
        return checkpoint(
            lambda y: WrongInside.apply(y, self.weight).tanh(), self.linear(x), use_reentrant=True
        )


def test_a_check_of_re_entrant_checkpoints_never_passes_what_it_did_not_see_and_calls_no_hook():
    model = ReentrantWithFunction()
    called = []
    model.linear.weight.register_post_accumulate_grad_hook(called.append)
    before = model.weight.grad = torch.ones(4)
    report = check_gradients(model, torch.randn(2, 3))
    assert "weight" not in {g.name for g in report.verified}
    assert called == []
    assert model.weight.grad is before
    assert torch.equal(before, torch.ones(4))
    model.linear(torch.randn(2, 3)).sum().backward()
    assert len(called) == 1  # the hook is where it was


def tensors_in(output):
    return [t for t in torch.utils._pytree.tree_leaves(output) if isinstance(t, torch.Tensor)]


@pytest.mark.parametrize("name", NAMES)
def test_watch_is_silent_and_changes_nothing(name):
    model, inputs = programs()[name]
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    results = []
    for watched in (False, True):
        leaves = [t.detach().clone().requires_grad_(t.is_floating_point() or t.is_complex()) for t in inputs]
        session = watch()
        torch.manual_seed(1)
        if watched:
            session.__enter__()
        try:
            outputs = [t for t in tensors_in(model(*leaves)) if t.requires_grad]
            sum(t.abs().double().pow(2).sum() for t in outputs).backward()
        finally:
            if watched:
                session.__exit__(None, None, None)
        results.append([t.detach().clone() for t in outputs] + [t.grad for t in leaves])
        if isinstance(model, nn.Module):
            model.zero_grad()
    for plain, seen in zip(*results):
        same = plain is None and seen is None
        if name != "spectral norm":  # its power iteration moves on at every call
            assert same or torch.equal(plain, seen)
    report = session.report
    assert session.internal_errors == []
    assert [f for f in report.findings if f.severity > Severity.NOTE] == [], str(report)


def test_a_tensor_hook_that_changes_a_gradient_is_said_and_not_accused():
    def model(x):
        y = x.sin()
        y.register_hook(lambda gradient: gradient * 2)
        return y.sum()

    report = check_gradients(model, torch.randn(3))
    assert report.errors == ()
    assert [entry.reason for entry in report.unverified] == ["a tensor hook changes this gradient"]
    assert report.verified == ()


def test_nested_tensors_are_refused_with_a_way_out():
    def model(x):
        return torch.nested.as_nested_tensor([x[0], x[1]]).to_padded_tensor(0.0)

    with pytest.raises(Exception, match=r"nested tensor.*Convert it to padded"):
        check_gradients(model, torch.randn(2, 3))


def test_nan_gradient_names_its_producer():
    report = check_gradients(lambda x: x.pow(2).sum().sqrt(), torch.zeros(3))
    assert [f.code for f in report.errors] == ["GC601"]
    assert not report.ok


def written_where_windows_overlap(x):
    y = x * 1
    windows = y.unfold(0, 4, 2)
    windows.copy_(windows * 0.5)
    return y.sin()


def test_a_write_through_overlapping_windows_is_left_open_and_not_accused():
    report = check_gradients(written_where_windows_overlap, torch.randn(6))
    assert "GC101" not in {f.code for f in report.errors if "backward of" in f.message}
    assert any("share memory" in entry.reason for entry in report.unverified), str(report)


def test_a_window_on_a_leaf_that_nothing_else_has_named_is_replayed():
    report = check_gradients(lambda x: (x.as_strided((2,), (1,)) * 2).sum(), torch.randn(4))
    assert report.ok
    assert not report.unverified

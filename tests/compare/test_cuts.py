"""Cuts read off a recording: each kind on its line, the least deliberate first, and the module that ran it."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor, nn

from gradcheck_suite.compare.cuts import find_cuts, module_at
from gradcheck_suite.evidence import Trace
from gradcheck_suite.witnesses.torch_reverse import record_reverse


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.linear(x)
        a = h.detach() * 2  # detach
        with torch.no_grad():
            b = h * 3  # no_grad
        c = h.norm().item()  # number
        return h * c + a + b


class Clean(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).tanh()


def trace_of(block: nn.Module) -> Trace:
    torch.manual_seed(0)
    model = nn.Sequential(block)
    x = torch.randn(2, 3, requires_grad=True)
    named = {**dict(model.named_parameters()), "x": x}
    return record_reverse(model, (x,), {}, named_leaves=named, modules=[model]).trace


def test_each_kind_on_its_line() -> None:
    lines, start = inspect.getsourcelines(Block)
    cuts = find_cuts(trace_of(Block()))
    for cut in cuts:
        assert cut.location is not None
        assert lines[cut.location.line - start].rstrip().endswith(f"# {cut.kind}")
        assert cut.module == "0"
    assert [cut.kind for cut in cuts] == ["number", "no_grad", "detach"]
    assert [cut.deliberate for cut in cuts] == [False, True, True]


def test_a_clean_recording_has_none() -> None:
    assert find_cuts(trace_of(Clean())) == []


def test_the_module_of_a_line() -> None:
    trace = trace_of(Block())
    for cut in find_cuts(trace):
        assert module_at(trace, cut.location) == "0"
    assert module_at(trace, None) == ""

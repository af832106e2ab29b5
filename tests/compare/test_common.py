"""Which nodes explain that some gradients are wrong and others right."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gradcheck_suite.capture.inputs import prepare, resolve_inputs
from gradcheck_suite.compare.common import suspects
from gradcheck_suite.evidence import Trace
from gradcheck_suite.witnesses.torch_reverse import record_reverse


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).sin()).exp()


def recorded() -> Trace:
    model = Model()
    call = prepare(resolve_inputs(model, torch.randn(2, 3), None, 0), model)
    leaves = {**dict(model.named_parameters()), **call.leaves}
    return record_reverse(model, call.args, call.kwargs, named_leaves=leaves, modules=[model]).trace


def names(wrong: list[str], right: list[str]) -> list[str]:
    return [node.name for node in suspects(recorded(), wrong, right)]


def test_the_node_nearest_to_the_output_comes_first() -> None:
    behind = ["first.weight", "first.bias", "inputs[0]"]
    found = names(behind, ["second.weight", "second.bias"])
    assert found[0] == "SinBackward0"
    assert "ExpBackward0" not in found


def test_where_all_are_wrong_everything_may_be() -> None:
    everything = ["first.weight", "first.bias", "second.weight", "second.bias", "inputs[0]"]
    assert names(everything, [])[0] == "ExpBackward0"


def test_nothing_explains_what_does_not_belong_together() -> None:
    assert names(["first.weight", "second.weight"], ["first.bias"]) == []
    assert names([], ["first.bias"]) == []

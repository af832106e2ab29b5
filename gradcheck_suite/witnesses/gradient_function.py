"""The witness of the whole gradient: finite differences of the function that gives it, in float64.

What goes around autograd inside a backward shows here, whatever it is made of: the gradient is taken as a function of
parameters and inputs, and looked at like any other function. Where it jumps (the slope of a ReLU), differences over many
jumps settle on another slope than autograd's, and both are right: there this witness agrees or is silent.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..capture.outputs import output_tensors, random_projection
from ..compare.padding import padding_elements
from ..evidence import OpRecord, Outcome, TensorRef, Trace
from ..replay.segment import tensors_in
from .case import Case
from .finite_difference import FiniteDifferenceResult, finite_difference

__all__ = ["examine_gradient"]

# Elements of results that have kinks; differences over fewer than that meet at most a jump or two.
_MOST_AT_KINKS = 256
_KINKS = (
    "relu", "threshold", "hardtanh", "hardswish", "hardsigmoid", "hardshrink", "softshrink", "relu6", "prelu",
    "rrelu", "abs", "clamp", "clip", "max", "min", "amax", "amin", "fmax", "fmin", "maximum", "minimum", "aminmax",
    "max_pool1d", "max_pool2d", "max_pool2d_with_indices", "max_pool3d_with_indices", "adaptive_max_pool1d",
    "adaptive_max_pool2d", "adaptive_max_pool3d", "fractional_max_pool2d", "fractional_max_pool3d", "sort", "topk",
    "kthvalue", "median", "nanmedian", "mode", "cummax", "cummin", "where", "masked_fill", "elu", "celu", "selu",
    "l1_loss", "smooth_l1_loss", "huber_loss", "hinge_embedding_loss", "margin_ranking_loss", "multi_margin_loss",
    "multilabel_margin_loss_forward", "sign", "sgn", "floor", "ceil", "round", "trunc", "frac", "fmod", "remainder",
    "gt", "lt", "ge", "le", "grid_sampler_2d", "grid_sampler_3d", "threshold_backward", "leaky_relu", "_cdist_forward",
    "_pdist_forward", "norm", "linalg_vector_norm", "unique", "_unique2", "searchsorted", "bucketize", "argmax", "argmin",
)  # fmt: skip


class _GradientOf(nn.Module):
    """The gradient of a function's projected output as a function of the same leaves.

    A copy finds its own leaves: they are asked of the memory of the copying, which holds every leaf once the call has been
    copied too.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        leaves: Mapping[str, Tensor],
        cotangents: Mapping[str, Tensor],
        loss: Callable[[Any], Any] | None,
    ) -> None:
        super().__init__()
        self.function = function
        self.loss = loss
        # In tuples and dicts, which nn.Module does not look into.
        self.named = dict(leaves)
        self.cotangents = dict(cotangents)
        self.copies: dict[int, Any] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> _GradientOf:
        made = _GradientOf(
            copy.deepcopy(self.function, memo), self.named, self.cotangents, copy.deepcopy(self.loss, memo)
        )
        made.copies = memo
        return made

    def leaves(self) -> dict[str, Tensor]:
        """The tensors that the gradient is taken with respect to."""
        if self.copies is None:
            return self.named
        return {name: self.copies[id(tensor)] for name, tensor in self.named.items()}

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The gradient by leaf name, with its own history."""
        output = self.function(*args, **kwargs)
        if self.loss is not None:
            output = self.loss(output)
        found = dict(output_tensors(output))
        heads, weights = [], []
        for path, cotangent in self.cotangents.items():
            tensor = found[path]
            if tensor.requires_grad:
                heads.append(tensor)
                weights.append(cotangent.to(device=tensor.device, dtype=tensor.dtype))
        leaves = self.leaves()
        gradients = torch.autograd.grad(
            heads, list(leaves.values()), weights, create_graph=True, allow_unused=True
        )
        return {
            name: torch.zeros_like(leaf) if gradient is None else gradient
            for (name, leaf), gradient in zip(leaves.items(), gradients)
        }


def examine_gradient(case: Case, order: int) -> FiniteDifferenceResult:
    """Compare the derivative of the gradient with differences of the gradient, along random directions.

    Args:
        case: what is checked; it is run again.
        order: 2 or 3: how often it is differentiated.
    """
    run = case.run
    leaves = {name: t for name, t in run.leaves.items() if t.requires_grad and t.numel()}
    cotangents = {path: c.detach() for (path, _), c in zip(run.outputs, run.cotangents)}
    function: Callable[..., Any] = _GradientOf(case.model, leaves, cotangents, case.loss)
    given = [(f"output[{name!r}]", leaf) for name, leaf in leaves.items()]
    drawn = random_projection(given, case.seed + 1)
    for _ in range(order - 2):
        paths = {path: c for (path, _), c in zip(given, drawn)}
        function = _GradientOf(function, leaves, paths, None)
        drawn = random_projection(given, case.seed + 2)
    left = case.seconds_left()
    result = finite_difference(
        function,
        case.prepared,
        leaves,
        [(path, c) for (path, _), c in zip(given, drawn)],
        directions=2,
        budget=None if left == float("inf") else max(left, 0.0),
        seed=case.seed,
        still=padding_elements(run.trace),
    )
    kinks = _at_kinks(run.trace)
    said = []
    for testimony in result.testimonies:
        subject = testimony.subject.replace("directional derivative", "d grad")
        reason, outcome = testimony.reason, testimony.outcome
        if outcome is Outcome.DISAGREE and kinks > _MOST_AT_KINKS:
            outcome = Outcome.INCONCLUSIVE
            reason = f"the gradient may jump at {kinks:,} elements (ReLU, max, abs), so differences cannot tell; {reason}"
        said.append(replace(testimony, subject=subject, outcome=outcome, reason=reason))
    return replace(result, testimonies=tuple(said), stops=(), cuts=(), disagreeing=(), notes=())


def _at_kinks(trace: Trace) -> int:
    """How many elements of the recording went through an operation whose slope jumps somewhere."""
    return sum(_elements(op) for op in trace.ops if _has_kinks(op))


def _has_kinks(op: OpRecord) -> bool:
    name = op.name.removeprefix("aten::").split(".")[0]
    return name.removesuffix("_") in _KINKS or name in _KINKS


def _elements(op: OpRecord) -> int:
    sizes = []
    for ref in tensors_in((op.args, op.outputs), TensorRef):
        size = 1
        for extent in ref.shape:
            size *= extent
        sizes.append(size)
    return max(sizes, default=0)

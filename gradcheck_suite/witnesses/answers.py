"""Two answers of one backward: are they the same but for rounding?"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ..capture.outputs import unusual_seed
from ..compare.tolerance import EPS, ULPS, coarsest_eps, is_differentiable_dtype, judge
from ..evidence import Array, Comparison, Outcome, TensorRef
from .backward_call import Answer, BackwardCall

__all__ = ["AnswerJudge", "copies"]

_SAMPLES = 4
# A layout may choose another kernel with another order of summation; what reads the wrong element is off by far more.
_SLACK = 16.0
_HALF_SLACK = 2.0
# Kernels of accelerators may round their inputs as well (TF32).
_SLACK_ELSEWHERE = 32.0
_OF_THE_SCALE = 16.0


class AnswerJudge:
    """Compares answers of one node's backward.

    Args:
        call: the node.
        cotangents: that it is asked with, to measure its noise.
        seed: of the perturbations.
    """

    def __init__(self, call: BackwardCall, cotangents: Mapping[int, Tensor], seed: int) -> None:
        self.call = call
        self.record = call.record
        self.cotangents = cotangents
        self.seed = seed
        self._noise: dict[int, float] | None = None

    def compare(
        self, expected: Answer, actual: Answer, *, measure: bool = True
    ) -> tuple[str, Comparison] | None:
        """The first gradient that differs, and how; ``measure``: the order of summation may be another."""
        for position, edge in self.call.wanted:
            wanted = self.call.gradient(expected, position, edge)
            found = self.one(wanted, self.call.gradient(actual, position, edge), position, measure)
            if found is not None:
                return found
        return None

    def one(
        self,
        expected: Array | None,
        actual: Array | None,
        position: int,
        measure: bool = True,
    ) -> tuple[str, Comparison] | None:
        """How the gradient of one argument differs; None where it does not."""
        if expected is None and actual is None:
            return None
        if expected is None:
            expected = np.zeros_like(actual)
        dtype = self._dtype()
        slack = _SLACK if dtype in ULPS else _HALF_SLACK
        if any(t.device.type != "cpu" for t in self.cotangents.values()):
            slack *= _SLACK_ELSEWHERE
        outcome, numbers = judge(
            expected,
            actual,
            dtype=dtype,
            slack=slack,
            noise=(lambda: self._measured(position, expected)) if measure else None,
            explain=False,
        )
        return (f"argument {position}", numbers) if outcome is Outcome.DISAGREE else None

    def _measured(self, position: int, like: Array) -> Array:
        """How far the answer moves when its cotangent is rounded otherwise; for one that cancels, how far its terms do.

        One number for all elements: what reads the wrong memory is wrong by far more.
        """
        if self._noise is None:
            self._noise = {}
            eps = EPS.get(self._dtype(), EPS["float64"])
            first = self.call.ask(copies(self.cotangents))
            answers = [
                self.call.ask(_perturbed(self.cotangents, eps, self.seed + sample))
                for sample in range(_SAMPLES)
            ]
            for place, number in self.call.wanted:
                one = self.call.gradient(first, place, number)
                if one is None or not one.size:
                    continue
                # A constant cotangent may cancel (behind a batch norm) where a random one does not.
                found = [_OF_THE_SCALE * eps * float(np.abs(one).max())]
                for answer in answers:
                    other = self.call.gradient(answer, place, number)
                    if other is not None and other.shape == one.shape:
                        found.append(float(np.abs(other - one).max()))
                self._noise[place] = float(np.nanmax(found)) if np.isfinite(found).any() else 0.0
        return np.full(like.shape, self._noise.get(position, 0.0))

    def _dtype(self) -> str:
        refs = [r for r in (*self.record.inputs, *self.record.outputs) if r is not None]
        for op in self.record.ops:
            refs.extend(v for v in (*op.args, *op.outputs) if isinstance(v, TensorRef))
        return coarsest_eps(r.dtype for r in refs if is_differentiable_dtype(r.dtype))[1]


def copies(cotangents: Mapping[int, Tensor]) -> dict[int, Tensor | None]:
    """The same values in memory of their own."""
    return {slot: cotangent.clone() for slot, cotangent in cotangents.items()}


def _perturbed(cotangents: Mapping[int, Tensor], eps: float, seed: int) -> dict[int, Tensor | None]:
    moved: dict[int, Tensor | None] = {}
    for slot, cotangent in cotangents.items():
        generator = torch.Generator().manual_seed(unusual_seed(seed + slot))
        signs = torch.randint(0, 2, cotangent.shape, generator=generator).to(cotangent.device) * 2 - 1
        moved[slot] = (cotangent * (1 + eps * signs)).to(cotangent.dtype)
    return moved

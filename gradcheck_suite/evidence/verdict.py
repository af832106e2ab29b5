"""What a witness says about a gradient, element by element, in three values."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar

__all__ = ["Comparison", "Outcome", "Testimony"]


class Outcome(enum.Enum):
    """Agree, disagree, or no answer. The third is counted and said, never taken for the first."""

    AGREE = "agree"
    DISAGREE = "disagree"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Comparison:
    """Every element of an actual gradient against what was expected.

    Attributes:
        elements: how many elements were compared.
        differing: how many lie outside their tolerance.
        index: index of the worst element (largest error over tolerance); () for a 0-d tensor.
        expected: value of the worst element by the witness.
        actual: value of the worst element in torch.
        error: absolute difference there.
        tolerance: what was allowed there.
        scale: largest absolute expected value in the tensor.
        max_error: largest absolute difference in the tensor.
        pattern: what a colleague would say after looking at the numbers ("the ratio is 2/3 everywhere"), or "".
    """

    elements: int
    differing: int
    index: tuple[int, ...]
    expected: complex | float
    actual: complex | float
    error: float
    tolerance: float
    scale: float
    max_error: float
    pattern: str = ""


@dataclass(frozen=True)
class Testimony:
    """One witness's statement about one subject.

    Attributes:
        witness: ``"engine"``, ``"sum"``, ``"replay"``, ``"finite_difference"``, ...
        subject: what it is about, for people: ``"d loss / d input 1 of AddmmBackward0"``.
        outcome: agree, disagree or inconclusive.
        comparison: the numbers, or None when nothing could be compared.
        reason: why the outcome is inconclusive, or a remark; "".
        value: the same gradient by another witness at the worst element, for the report; None if unknown.
    """

    # pytest would otherwise take the class for a test where it is imported into a test file.
    __test__: ClassVar[bool] = False

    witness: str
    subject: str
    outcome: Outcome
    comparison: Comparison | None = None
    reason: str = ""
    value: float | None = None

"""Gradients that torch itself is known to get slightly wrong, so that a user is told whose fault it is.

A finding about one of these stays a finding, with its numbers, but as a warning: the user can do nothing about it. Only an
error of the known size is excused. Each entry has a reproduction in ``docs/known-torch-bugs.md``.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..evidence import Comparison

__all__ = ["KNOWN_DEFECTS", "KnownDefect", "known_defect"]


@dataclass(frozen=True)
class KnownDefect:
    """One operation of torch whose backward is known to be inexact.

    Attributes:
        op: overload name.
        dtype: in which it is.
        relative: largest error relative to the largest gradient, as measured and rounded up.
        cause: one clause for the message.
        small: whether it excuses a custom Function as well whose forward is this operation: not where the error may be as
            large as one of the Function's own.
    """

    op: str
    dtype: str
    relative: float
    cause: str
    small: bool = True


KNOWN_DEFECTS = (
    KnownDefect(
        "aten::hardsigmoid",
        "float64",
        1e-7,
        "its backward multiplies by 1/6 rounded to float32, also in float64",
    ),
    KnownDefect(
        "aten::digamma",
        "float64",
        1e-9,
        "its backward evaluates polygamma(1, x), whose series stops at about ten digits",
    ),
    KnownDefect(
        "aten::celu",
        "float64",
        6e-8,
        "its backward divides by alpha rounded to float32, also in float64",
    ),
    KnownDefect(
        "aten::binary_cross_entropy",
        "float64",
        1e-8,
        "its backward bounds the denominator by 1e-12 rounded to float32, also in float64",
    ),
    *(
        KnownDefect(
            "aten::sinc", dtype, 2.0, "near 0 its backward subtracts two nearly equal numbers", small=False
        )
        for dtype in ("float64", "float32", "bfloat16", "float16")
    ),
    *(
        KnownDefect(
            "aten::native_layer_norm",
            half,
            1.0,
            f"its CPU kernel adds up the gradients of weight and bias in {half}, where long sums stand still",
        )
        for half in ("bfloat16", "float16")
    ),
    *(
        KnownDefect(
            "aten::embedding",
            half,
            1.0,
            f"its CPU kernel adds up the gradients of a row in {half}, where long sums stand still",
            small=False,
        )
        for half in ("bfloat16", "float16")
    ),
)


def known_defect(
    op: str, dtypes: tuple[str, ...], comparison: Comparison | None, *, inside: bool = False
) -> KnownDefect | None:
    """The known defect that explains a disagreement, or None.

    Args:
        op: overload name of the node.
        dtypes: descriptions of its inputs, ``"float64[2, 3]"``.
        comparison: the disagreement.
        inside: the operation ran in the forward of a custom Function, whose backward disagrees.
    """
    if comparison is None:
        return None
    for defect in KNOWN_DEFECTS:
        of_dtype = any(text.startswith(f"{defect.dtype}[") for text in dtypes)
        if inside and not defect.small:
            continue
        # Where terms cancel altogether, nothing is left that an error could be relative to.
        any_size = defect.relative >= 1.0 and comparison.scale == 0.0
        if (
            defect.op == op
            and of_dtype
            and (any_size or comparison.max_error <= defect.relative * comparison.scale)
        ):
            return defect
    return None

"""Why an operation makes NaN or Inf of finite values, in a sentence, for the operations that people meet."""

from __future__ import annotations

import re

__all__ = ["reason_for"]

_LARGEST = {"float16": "65,504", "float32": "3.4e38", "bfloat16": "3.4e38", "float64": "1.8e308"}
_ZERO = "and zero times infinity is NaN, so that hiding the value behind a torch.where does not help"

# By phase: pattern of the operation's or node's name, and what is to be said.
_REASONS = {
    "forward": [
        (r"div", "dividing by 0 gives Inf, and 0 by 0 NaN"),
        (r"log_softmax|softmax", "a row in which everything is masked has nothing to normalise by"),
        (r"log1p", "log1p is -Inf at -1 and NaN below"),
        (r"log", "a logarithm is -Inf at 0 and NaN below"),
        (r"rsqrt|reciprocal", "it is infinite at 0"),
        (r"sqrt", "a square root is NaN below 0"),
        (
            r"pow",
            "a power is NaN for a negative base and a fractional exponent, and Inf for the base 0 and a negative one",
        ),
        (r"acos|asin|atanh", "it is defined between -1 and 1 only"),
        (r"std|var", "the deviation of a single number is 0 by 0"),
        (r"mul|matmul|mm\b|addmm", "infinity times zero is NaN"),
        (r"sub|add", "infinity minus infinity is NaN"),
        (r"exp|cosh|sinh", "the exponential overflows"),
    ],
    "backward": [
        (r"sqrt|norm|cdist|hypot", f"the slope of a root or a length at 0 is infinite, {_ZERO}"),
        (r"std", f"the slope of a deviation at 0 is infinite, {_ZERO}"),
        (r"log", f"the slope of a logarithm at 0 is infinite, {_ZERO}"),
        (r"div|reciprocal", f"the slope of a quotient where the denominator is 0 is infinite, {_ZERO}"),
        (r"pow", f"the slope of a power below 1 at the base 0 is infinite, {_ZERO}"),
        (r"acos|asin", f"its slope at 1 and -1 is infinite, {_ZERO}"),
        (r"atan2", "its slope at (0, 0) is 0 by 0"),
        (
            r"mul",
            "an infinite factor times a cotangent of zero is NaN; a mask of -inf must not be multiplied",
        ),
    ],
}


def reason_for(op: str, phase: str, dtype: str, nans: int, infinities: int) -> str:
    """Why values of ``dtype`` became non-finite, or "".

    Args:
        op: name of the operation or node.
        phase: ``"forward"`` or ``"backward"``.
        dtype: of what it made, or "".
        nans, infinities: how many of each it made.
    """
    name = op.lower().removeprefix("aten::")
    if (
        dtype == "float16"
        and infinities
        and not nans
        and not re.search(r"div|log|rsqrt|reciprocal|sqrt", name)
    ):
        return f"float16 ends at {_LARGEST[dtype]}: scale the loss less, or compute this part in float32"
    for pattern, text in _REASONS[phase]:
        if re.search(pattern, name):
            return text
    if infinities and not nans and dtype in _LARGEST:
        return f"{dtype} ends at {_LARGEST[dtype]}"
    return ""

"""Numbers and names as people read them: the one place that rounds, shared by rules, reports and the shell."""

from __future__ import annotations

import cmath
import difflib
import math
import os
import re
from collections.abc import Iterable, Sequence
from fractions import Fraction

__all__ = [
    "element",
    "fraction",
    "listing",
    "nearest",
    "number",
    "pair",
    "plural",
    "relative_path",
    "seconds",
    "share",
    "small",
]

Scalar = complex | float

# Where packages are installed says nothing about a model; ``torchvision/models/resnet.py`` does.
_OURS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")
_INSTALLED = re.compile(r".*[/\\](?:site|dist)-packages[/\\]")

_MOST_DIGITS = 17  # what a float64 needs to be written without loss


def number(value: Scalar, digits: int = 5) -> str:
    """A number with ``digits`` significant digits; plain notation where that stays short.

    Complex numbers are written as ``1.2+0.3j``; infinities and NaN by name.
    """
    if isinstance(value, complex):
        if value.imag == 0:
            return number(value.real, digits)
        sign = "-" if math.copysign(1.0, value.imag) < 0 else "+"
        return f"{number(value.real, digits)}{sign}{number(abs(value.imag), digits)}j"
    real = float(value)
    if not math.isfinite(real):
        return str(real)
    if real == 0:
        return "0"
    exponent = math.floor(math.log10(abs(real)))
    if -4 <= exponent < max(digits, 6):
        return f"{real:.{max(0, digits - 1 - exponent)}f}"
    return f"{real:.{digits - 1}e}".replace("e+0", "e").replace("e-0", "e-").replace("e+", "e")


def pair(first: Scalar, second: Scalar, digits: int = 5) -> tuple[str, str]:
    """Two numbers with as many digits as it takes to tell them apart (at least ``digits``)."""
    for precision in range(digits, _MOST_DIGITS + 1):
        texts = number(first, precision), number(second, precision)
        if texts[0] != texts[1]:
            # One digit more than the first that differs, so that the size of the difference can be seen too.
            wider = min(precision + 1, _MOST_DIGITS) if precision > digits else precision
            return number(first, wider), number(second, wider)
    return number(first, digits), number(second, digits)


def small(value: float) -> str:
    """An error or tolerance: one or two significant digits, ``3e-6``, ``0.02``."""
    if not math.isfinite(value) or value == 0:
        return number(value)
    if 1e-2 <= abs(value) < 1000:
        return f"{float(f'{value:.1e}'):g}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def fraction(value: float, *, largest: int = 12, rtol: float = 1e-3) -> str:
    """``value`` as a fraction of small integers, ``"2/3"``, or "" when it is none.

    Args:
        value: the ratio; its sign is kept.
        largest: largest numerator or denominator that counts as small.
        rtol: how close the fraction must be, relative to ``value``.
    """
    if not math.isfinite(value) or value == 0:
        return ""
    candidate = Fraction(value).limit_denominator(largest)
    if candidate == 0 or (abs(candidate.numerator) > largest and candidate.denominator != 1):
        return ""
    if abs(float(candidate) - value) > rtol * abs(value):
        return ""
    return str(candidate)


def share(part: float, whole: float) -> str:
    """``part`` relative to ``whole``: a small fraction, a percentage, or a multiple."""
    if whole == 0 or not (math.isfinite(part) and math.isfinite(whole)):
        return number(part)
    ratio = part / whole
    # Only a ratio that is a fraction to four digits is called one; 0.3341 is not a third.
    exact = fraction(ratio, largest=6, rtol=1e-4)
    if exact and exact != "1" and ratio < 1:
        return exact
    if ratio >= 10:
        return f"{ratio:.3g} times"
    if ratio >= 0.9999:
        return f"{ratio * 100:.0f} %"
    if ratio >= 1e-3:
        return f"{ratio * 100:.2g} %"
    return f"{small(ratio)}"


def plural(count: int, noun: str, many: str = "") -> str:
    """``1 gradient``, ``2,000 gradients``."""
    return f"{count:,} {noun if count == 1 else many or noun + 's'}"


def element(index: Sequence[int]) -> str:
    """``[2, 7]``; "" for the only element of a 0-d tensor."""
    return f"[{', '.join(map(str, index))}]" if index else ""


def seconds(value: float) -> str:
    """A duration: ``0.42 s``, ``38 ms``, ``2 min 5 s``."""
    if value >= 60:
        minutes, rest = divmod(round(value), 60)
        return f"{minutes} min {rest} s"
    if value >= 10:
        return f"{value:.0f} s"
    if value >= 0.1:
        return f"{value:.2f} s"
    return f"{value * 1000:.0f} ms"


def listing(names: Sequence[str], most: int = 5) -> str:
    """``a, b and 3 more``: names up to ``most``, the rest counted."""
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most} more"


def nearest(name: str, known: Iterable[str], most: int = 3) -> str:
    """``Did you mean a or b?`` for a misspelt name, or "" when nothing is near."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    matches = difflib.get_close_matches(name.lower(), by_lower, n=most, cutoff=0.55)
    if not matches:
        return ""
    *others, last = [repr(by_lower[m]) for m in matches]
    return f"Did you mean {', '.join(others)} or {last}?" if others else f"Did you mean {last}?"


def relative_path(path: str) -> str:
    """``path`` relative to the working directory or to the installed packages, if it lies below; else unchanged."""
    if not os.path.isabs(path):
        return path
    if path.startswith(_OURS):
        return path[len(_OURS) :].replace(os.sep, "/")
    installed = _INSTALLED.match(path)
    if installed:
        return path[installed.end() :].replace(os.sep, "/")
    try:
        relative = os.path.relpath(path)
    except ValueError:  # Windows: another drive
        return path
    return path if relative.startswith(os.pardir) else relative.replace(os.sep, "/")


def is_finite(value: Scalar) -> bool:
    """Whether a real or complex number is neither NaN nor infinite."""
    return cmath.isfinite(value)

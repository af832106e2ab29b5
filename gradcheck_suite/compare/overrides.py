"""``tolerance=``: what the user grants per rule and dtype, read, checked, applied, and counted where it mattered.

What a value means is said in :mod:`~gradcheck_suite.compare.tolerance`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from math import isfinite
from typing import Any

from ..errors import ConfigurationError
from ..wording import nearest, plural, small
from .tolerance import EPS, granting

__all__ = ["COMPARING", "Tolerances", "judging", "overriding", "read_tolerance"]

COMPARING: Mapping[str, str] = {
    "GC101": "gradient-mismatch",
    "GC102": "double-backward-mismatch",
    "GC103": "forward-mode-mismatch",
    "GC104": "device-mismatch",
    "GC105": "compiled-mismatch",
}
"""The rules that compare a gradient element by element, by code."""

_FIRST = "GC101"
_DTYPES = tuple(name for name in EPS if name != "tfloat32")


@dataclass
class _Tally:
    """How a value was used: the largest derived first term it stood in for, and what it let pass."""

    derived: float = 0.0
    comparisons: int = 0
    forgiven: int = 0


class Tolerances:
    """Values by (rule, dtype), either of which may be "" for any; counts what they were used for.

    Args:
        values: relative to a tensor's largest expected magnitude.
    """

    def __init__(self, values: Mapping[tuple[str, str], float]) -> None:
        self.values = dict(values)
        self._tallies: dict[tuple[str, str], _Tally] = {}
        self._used: set[tuple[str, str]] = set()

    def of(self, rule: str, dtype: str) -> float | None:
        """The value for a rule and a dtype, the most specific one; None where nothing was set."""
        key = self._key(rule, dtype)
        return None if key is None else self.values[key]

    def _key(self, rule: str, dtype: str) -> tuple[str, str] | None:
        """One without a rule is meant for the gradients themselves (GC101)."""
        candidates = (
            [(rule, dtype), ("", dtype), (rule, "")] if rule == _FIRST else [(rule, dtype), (rule, "")]
        )
        return next((key for key in candidates if key in self.values), None)

    def note(self, rule: str, dtype: str, derived: float, forgiven: bool) -> None:
        """One comparison was made."""
        key = self._key(rule, dtype)
        assert key is not None
        self._used.add(key)
        tally = self._tallies.setdefault((rule, dtype), _Tally())
        tally.derived = max(tally.derived, derived)
        tally.comparisons += 1
        tally.forgiven += forgiven

    def let_pass(self, rule: str) -> float:
        """How large an error of a whole may be, relative to its terms, through all that was let pass for a rule."""
        return sum(
            (self.of(*place) or 0.0) * tally.forgiven
            for place, tally in self._tallies.items()
            if place[0] == rule
        )

    def notes(self) -> tuple[str, ...]:
        """One sentence per rule and dtype, for the report."""
        found = []
        for (rule, dtype), tally in sorted(self._tallies.items()):
            value = self.of(rule, dtype)
            assert value is not None
            loosened = value > tally.derived
            text = (
                f"tolerance {'loosened' if loosened else 'tightened'} for {rule} in {dtype}: {small(value)} of the "
                f"largest entry instead of {small(tally.derived)}, in {plural(tally.comparisons, 'comparison')}"
            )
            if loosened:
                passed = plural(tally.forgiven, "of them passes", "of them pass")
                text += f"; {passed} only because of it" if tally.forgiven else "; all would pass without it"
            found.append(text)
        found.extend(
            f"the tolerance for {_shown(key)} applied to nothing"
            for key in sorted(set(self.values) - self._used)
        )
        return tuple(found)

    def counts(self) -> dict[str, int]:
        """``overridden_comparisons``, and ``passed_by_loosening`` among them."""
        return {
            "overridden_comparisons": sum(t.comparisons for t in self._tallies.values()),
            "passed_by_loosening": sum(t.forgiven for t in self._tallies.values()),
        }


@dataclass(frozen=True)
class _Granted:
    """What is granted while one rule is being looked at."""

    tolerances: Tolerances
    rule: str

    def relative(self, dtype: str) -> float | None:
        return self.tolerances.of(self.rule, dtype)

    def noted(self, dtype: str, derived: float, forgiven: bool) -> None:
        self.tolerances.note(self.rule, dtype, derived, forgiven)


_active: ContextVar[Tolerances | None] = ContextVar("gradcheck_tolerances", default=None)


@contextmanager
def overriding(tolerances: Tolerances | None) -> Iterator[None]:
    """Comparisons inside are made with the user's values; as for GC101 until :func:`judging` says otherwise."""
    token = _active.set(tolerances)
    try:
        with judging(_FIRST):
            yield
    finally:
        _active.reset(token)


def judging(rule: str) -> AbstractContextManager[None]:
    """Comparisons inside are made for this rule, by code; "" for none: with the derived tolerances."""
    tolerances = _active.get()
    return granting(None if tolerances is None or not rule else _Granted(tolerances, rule))


def read_tolerance(value: Any, attempt: str = "checking gradients") -> Tolerances | None:
    """Understand what a user set.

    Args:
        value: a number (for GC101 in every dtype), or a mapping from a dtype (``"float32"``, for GC101), a rule
            (``"GC105"``), or a pair of both to a number; a rule may also have a mapping from dtypes of its own. None: nothing
            was set.
        attempt: what failed if it cannot be understood.

    Raises:
        ConfigurationError: an unknown rule or dtype, a value that is no positive finite number, an empty mapping.
    """
    if value is None:
        return None
    if not isinstance(value, Mapping):
        return Tolerances({(_FIRST, ""): _number(value, "tolerance", attempt)})
    values: dict[tuple[str, str], float] = {}
    for key, entry in value.items():
        for place, number in _entries(key, entry, attempt):
            if place in values:
                raise _refused(attempt, f"tolerance names {_shown(place)} twice", "Leave one out.")
            values[place] = number
    if not values:
        raise _refused(attempt, "tolerance is an empty mapping", "Leave it out, or name a rule or a dtype.")
    return Tolerances(values)


def _entries(key: Any, entry: Any, attempt: str) -> Iterator[tuple[tuple[str, str], float]]:
    parts = list(key) if isinstance(key, tuple) else [key]
    rule = dtype = ""
    for part in parts:
        text = str(part).removeprefix("torch.")
        code = _rule(text)
        if code and not rule:
            rule = code
        elif text in _DTYPES and not dtype:
            dtype = text
        else:
            known = [*COMPARING, *COMPARING.values(), *_DTYPES]
            raise _refused(
                attempt,
                f"tolerance[{key!r}] names {text!r}, which is no rule that compares gradients and no dtype",
                nearest(text, known) or f"Known are {', '.join([*COMPARING, *_DTYPES])}.",
            )
    if isinstance(entry, Mapping):
        if dtype or not rule:
            raise _refused(
                attempt,
                f"tolerance[{key!r}] is {entry!r}",
                "Only a rule can have values by dtype of its own.",
            )
        for inner, number in entry.items():
            for (further, name), found in _entries(inner, number, attempt):
                if further:
                    raise _refused(
                        attempt, f"tolerance[{key!r}] holds {inner!r}", "Name only dtypes inside of a rule."
                    )
                yield (rule, name), found
        return
    yield (rule, dtype), _number(entry, f"tolerance[{key!r}]", attempt)


def _rule(text: str) -> str:
    """The code of a rule by code or slug, or ""."""
    if text.upper() in COMPARING:
        return text.upper()
    return next((code for code, slug in COMPARING.items() if slug == text.lower()), "")


def _number(value: Any, name: str, attempt: str) -> float:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not isfinite(value) or not value > 0:
        raise _refused(
            attempt,
            f"{name} is {value!r}",
            "Give a positive number: the share of a tensor's largest entry that an error may be, 1e-4.",
        )
    return float(value)


def _shown(place: tuple[str, str]) -> str:
    return " in ".join(part for part in place if part)


def _refused(attempt: str, fact: str, advice: str) -> ConfigurationError:
    return ConfigurationError(f"{attempt} failed: {fact}. It would be a guess what is meant. {advice}")

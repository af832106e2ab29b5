"""A finding: one thing that is wrong (or worth knowing), with the user's line that is to blame."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["CodeExcerpt", "Finding", "Location", "RelatedLocation", "Severity"]


class Severity(enum.IntEnum):
    """How much a finding weighs; ordered, so that ``finding.severity >= Severity.ERROR`` reads well."""

    NOTE = 1
    WARNING = 2
    ERROR = 3

    @property
    def label(self) -> str:
        """The lower-case word shown to people and written to files: ``"error"``."""
        return self.name.lower()

    @classmethod
    def parse(cls, text: str) -> Severity:
        """The severity with this label; raises ``ValueError`` with the known labels otherwise."""
        try:
            return cls[text.upper()]
        except KeyError:
            known = ", ".join(s.label for s in cls)
            raise ValueError(f"reading a severity failed: {text!r} is none of {known}.") from None


@dataclass(frozen=True)
class Location:
    """A line of somebody's code.

    Attributes:
        file: path as Python reports it (reports show it relative to the working directory).
        line: 1-based line number.
        function: name of the function the line belongs to.
    """

    file: str
    line: int
    function: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class RelatedLocation:
    """Another line that plays a role in a finding: ``"saved by"``, ``"overwritten by"``, ``"backward of"``."""

    role: str
    location: Location


@dataclass(frozen=True)
class CodeExcerpt:
    """Source lines around a location, taken when the finding is made so that a report needs no file later."""

    first_line: int
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Finding:
    """One diagnosed fault or remark.

    Attributes:
        code: stable rule code, ``"GC101"``.
        rule: stable rule slug, ``"gradient-mismatch"``.
        severity: weight of the finding.
        message: one paragraph: what is wrong, with numbers.
        location: the user's line that is to blame, or None when no user line is known.
        related: other lines with a role.
        module: dotted path of the ``nn.Module`` in which the line ran, or "".
        op: the operation (ATen overload or autograd node) the finding speaks of, or "".
        evidence: numbers behind the finding: JSON-compatible values only.
        hint: what to do, in one or two sentences, or "".
        count: how often the same thing was seen.
        reproduction: a self-contained script that shows the fault, or "".
        excerpts: source lines by ``str(location)``.
    """

    code: str
    rule: str
    severity: Severity
    message: str
    location: Location | None = None
    related: tuple[RelatedLocation, ...] = ()
    module: str = ""
    op: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    hint: str = ""
    count: int = 1
    reproduction: str = ""
    excerpts: Mapping[str, CodeExcerpt] = field(default_factory=dict)

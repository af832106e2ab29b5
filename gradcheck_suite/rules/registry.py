"""Which rules there are: filled by ``@rule`` when discovery imports the files of this folder."""

from __future__ import annotations

import importlib
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, TypeVar

from ..evidence import Finding, Location, RelatedLocation, Severity
from .excerpts import excerpts_of
from .page import Page

__all__ = ["Rule", "RuleInfo", "all_rules", "find_rule", "rule"]

T = TypeVar("T", bound=type)

_CODE = re.compile(r"GC\d{3}")
_SLUG = re.compile(r"[a-z]+(-[a-z]+)*")


@dataclass(frozen=True)
class RuleInfo:
    """One registered rule: its names, its weight, its class and its page."""

    code: str
    slug: str
    severity: Severity
    cls: type
    page: Page


_BY_CODE: dict[str, RuleInfo] = {}
_BY_SLUG: dict[str, RuleInfo] = {}


def rule(code: str, slug: str, severity: Severity) -> Callable[[T], T]:
    """Register the decorated class as a rule; its module's docstring becomes the rule's page.

    The class gets the attributes ``code``, ``slug`` and ``severity``.

    Raises:
        ValueError: code or slug is malformed or taken (both parties are named), or the module has no docstring.
    """
    if not _CODE.fullmatch(code) or not _SLUG.fullmatch(slug):
        raise ValueError(
            f"registering the rule {code} {slug} failed: a code is GC and three digits, a slug lower-case words "
            "joined by hyphens. Change the one that differs."
        )

    def register(cls: T) -> T:
        for known in (_BY_CODE.get(code), _BY_SLUG.get(slug)):
            if known is not None and (known.cls.__module__, known.cls.__qualname__) != (
                cls.__module__,
                cls.__qualname__,
            ):
                raise ValueError(
                    f"registering the rule {code} {slug} for {cls.__module__}.{cls.__qualname__} failed: "
                    f"{known.code} {known.slug} belongs to {known.cls.__module__}.{known.cls.__qualname__}. "
                    "Codes and slugs are never reused; choose another."
                )
        docstring = sys.modules[cls.__module__].__doc__
        if not docstring:
            raise ValueError(
                f"registering the rule {code} {slug} failed: {cls.__module__} has no docstring. "
                "The module's docstring is the rule's page; write it."
            )
        info = RuleInfo(code, slug, severity, cls, Page.parse(docstring))
        _BY_CODE[code], _BY_SLUG[slug] = info, info
        cls.code, cls.slug, cls.severity = code, slug, severity  # type: ignore[attr-defined]
        return cls

    return register


@cache
def _discover() -> None:
    package = importlib.import_module(__package__)
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{__package__}.{module.name}")


def all_rules() -> tuple[RuleInfo, ...]:
    """Every rule, ordered by code."""
    _discover()
    return tuple(info for _, info in sorted(_BY_CODE.items()))


def find_rule(name: str) -> RuleInfo | None:
    """The rule with this code or slug, in any case; None when there is none."""
    _discover()
    text = str(name).strip()
    return _BY_CODE.get(text.upper()) or _BY_SLUG.get(text.lower())


class Rule:
    """Base of the rules: what they share is how a finding is put together."""

    code: ClassVar[str]
    slug: ClassVar[str]
    severity: ClassVar[Severity]

    @classmethod
    def finding(
        cls,
        lines: Sequence[str],
        *,
        location: Location | None = None,
        related: Iterable[RelatedLocation] = (),
        module: str = "",
        op: str = "",
        evidence: Mapping[str, Any] | None = None,
        hint: str = "",
        count: int = 1,
        reproduction: str = "",
    ) -> Finding:
        """A finding of this rule, with the source excerpts of every location involved.

        Args:
            lines: the message, one statement per line; the first says what is wrong.
        """
        others = tuple(related)
        return Finding(
            code=cls.code,
            rule=cls.slug,
            severity=cls.severity,
            message="\n".join(line for line in lines if line),
            location=location,
            related=others,
            module=module,
            op=op,
            evidence=dict(evidence or {}),
            hint=hint,
            count=count,
            reproduction=reproduction,
            excerpts=excerpts_of(location, *(other.location for other in others)),
        )

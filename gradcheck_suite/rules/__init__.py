"""The rules: one file each, holding its page (the module's docstring) and what turns evidence into findings.

A new rule is one file in this folder with a class under ``@rule(code, slug, severity)``; it is found by
discovery. Rules read evidence and events; they observe nothing themselves and name no torch.
"""

from __future__ import annotations

from ..errors import ConfigurationError
from ..wording import nearest
from .page import Page
from .registry import Rule, RuleInfo, all_rules, find_rule, rule
from .suppression import resolve_names, suppress

__all__ = [
    "Page",
    "Rule",
    "RuleInfo",
    "all_rules",
    "explain",
    "find_rule",
    "resolve_names",
    "rule",
    "suppress",
]


def explain(rule_or_code: str) -> str:
    """The page of one rule: what it finds, why that bites, bad and good code, and what it misses.

    Args:
        rule_or_code: code (``"GC101"``) or slug (``"gradient-mismatch"``), in any case.

    Raises:
        ConfigurationError: there is no such rule; the nearest names are suggested.
    """
    info = find_rule(rule_or_code)
    if info is None:
        names = [name for known in all_rules() for name in (known.code, known.slug)]
        suggestion = nearest(str(rule_or_code), names) or "Run `gradcheck rules` for the list."
        raise ConfigurationError(
            f"explaining a rule failed: {rule_or_code!r} is no rule's code or name. {suggestion}"
        )
    return f"{info.code} {info.slug} ({info.severity.label})\n\n{info.page.text}\n"

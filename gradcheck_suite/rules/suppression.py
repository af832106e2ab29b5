"""Which findings the user has silenced: by ``ignore=(...)`` everywhere, or by a comment on the blamed line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from ..errors import ConfigurationError
from ..evidence import Finding
from ..wording import nearest
from .excerpts import source_line
from .registry import all_rules, find_rule

__all__ = ["resolve_names", "suppress"]

# A comment that names no rule silences nothing: whoever silences a checker should say what about.
_COMMENT = re.compile(r"#\s*gradcheck:\s*ignore\[([^\]]*)\]")


def resolve_names(names: Iterable[str], setting: str = "ignore") -> frozenset[str]:
    """The codes of the rules that ``names`` (codes or slugs) mean.

    A code may be shortened to its group: ``"GC3"`` means GC301, GC302 and GC303.

    Raises:
        ConfigurationError: a name is no rule's; the nearest ones are suggested.
    """
    if isinstance(names, str):
        raise ConfigurationError(
            f"reading {setting} failed: {names!r} is one text, a sequence of rule names is expected. "
            f"Write ({names!r},)."
        )
    codes: set[str] = set()
    for name in names:
        known = find_rule(name)
        if known is not None:
            codes.add(known.code)
            continue
        group = {info.code for info in all_rules() if re.fullmatch(r"GC\d{1,2}", str(name).strip().upper())}
        group = {code for code in group if code.startswith(str(name).strip().upper())}
        if not group:
            suggestion = nearest(str(name), [n for info in all_rules() for n in (info.code, info.slug)])
            raise ConfigurationError(
                f"reading {setting} failed: {name!r} is no rule's code or name. "
                f"{suggestion or 'Run `gradcheck rules` for the list.'}"
            )
        codes |= group
    return frozenset(codes)


def suppress(findings: Sequence[Finding], ignore: Iterable[str] = ()) -> tuple[list[Finding], list[Finding]]:
    """Split findings into those to report and those the user has silenced.

    Args:
        findings: in any order; the order is kept.
        ignore: codes, groups of codes or slugs that are silenced everywhere.

    Raises:
        ConfigurationError: ``ignore`` names a rule that does not exist.
    """
    codes = resolve_names(ignore)
    kept: list[Finding] = []
    silenced: list[Finding] = []
    for finding in findings:
        (silenced if finding.code in codes or _commented(finding) else kept).append(finding)
    return kept, silenced


def _commented(finding: Finding) -> bool:
    comment = _COMMENT.search(_blamed_text(finding))
    if comment is None:
        return False
    names = {name.strip().lower() for name in comment[1].split(",")}
    return finding.code.lower() in names or finding.rule.lower() in names


def _blamed_text(finding: Finding) -> str:
    """The blamed line: as it was when the finding was made, otherwise as it is now."""
    place = finding.location
    if place is None:
        return ""
    taken = finding.excerpts.get(str(place))
    if taken is not None and 0 <= place.line - taken.first_line < len(taken.lines):
        return taken.lines[place.line - taken.first_line]
    return source_line(place)

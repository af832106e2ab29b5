"""The report as SARIF 2.1.0, which code hosts and editors show at the lines that are to blame.

Source: OASIS, Static Analysis Results Interchange Format (SARIF) Version 2.1.0, sections 3.13 to 3.52.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .._version import __version__
from ..evidence import Finding, Location, Report, Severity
from ..rules import RuleInfo, find_rule
from .fingerprint import fingerprint, path_below

__all__ = ["FORMATS", "write_sarif"]

_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_ROOT = "SRCROOT"
_LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.NOTE: "note"}


def write_sarif(report: Report, root: str | os.PathLike[str] | None = None) -> str:
    """The text of a ``.sarif`` file: one run, its rules with their pages, and one result per finding.

    Args:
        report: what was found.
        root: the folder to which paths are relative (the base ``SRCROOT``); None means the working directory. It is
            not written itself, so that the file is the same on every machine.
    """
    # GC190 says of no line that it is wrong; what was not verified stands in the run's properties.
    findings = [finding for finding in report.findings if finding.code != "GC190"]
    codes = sorted({finding.code for finding in findings})
    index = {code: number for number, code in enumerate(codes)}
    results = [_result(finding, index[finding.code], root) for finding in findings]
    run = {
        "tool": {
            "driver": {
                "name": "gradcheck_suite",
                "semanticVersion": __version__,
                "rules": [_rule(code, findings) for code in codes],
            }
        },
        "originalUriBaseIds": {_ROOT: {"description": {"text": "The root directory of the check."}}},
        "columnKind": "unicodeCodePoints",
        "results": results,
        "properties": {
            "title": report.title,
            "counts": dict(report.counts),
            "unverified": [
                {"subject": u.subject, "reason": u.reason, "count": u.count} for u in report.unverified
            ],
        },
    }
    log = {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}
    return json.dumps(log, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _rule(code: str, findings: Sequence[Finding]) -> dict[str, Any]:
    info = find_rule(code)
    if info is None:  # a saved report may be older or newer than this version
        first = next(finding for finding in findings if finding.code == code)
        return {"id": code, "name": _pascal(first.rule)}
    page = info.page
    return {
        "id": info.code,
        "name": _pascal(info.slug),
        "shortDescription": {"text": _sentence(page.summary)},
        "fullDescription": {"text": " ".join(page.why.split()) or page.summary},
        "help": {"text": page.text, "markdown": _markdown(info)},
        "defaultConfiguration": {"level": _LEVELS[info.severity]},
        "properties": {"tags": ["gradient", "pytorch"]},
    }


def _markdown(info: RuleInfo) -> str:
    page = info.page
    parts = [page.summary, page.why]
    for heading, blocks in (("Bad", page.bad), ("Good", page.good)):
        parts += [f"### {heading}\n\n```python\n{block}\n```" for block in blocks]
    if page.misses:
        parts.append(f"### Misses\n\n{page.misses}")
    return "\n\n".join(part for part in parts if part)


def _result(finding: Finding, rule_index: int, root: str | os.PathLike[str] | None) -> dict[str, Any]:
    text = finding.message + (f"\nhint: {finding.hint}" if finding.hint else "")
    result: dict[str, Any] = {
        "ruleId": finding.code,
        "ruleIndex": rule_index,
        "level": _LEVELS[finding.severity],
        "message": {"text": text or finding.rule},
        "occurrenceCount": max(1, finding.count),
        "partialFingerprints": {"gradcheckFinding/v1": fingerprint(finding, root)},
    }
    if finding.location is not None:
        location = _location(finding, finding.location, root)
        logical = _logical(finding)
        result["locations"] = [{**location, "logicalLocations": logical} if logical else location]
    elif tests := finding.evidence.get("tests"):
        # Code hosts refuse a result without any place; the test that ran into it is the nearest that is known.
        uri = quote(str(tests[0]).split("::")[0])
        result["locations"] = [{"physicalLocation": {"artifactLocation": {"uri": uri, "uriBaseId": _ROOT}}}]
    related = [
        {"id": number, "message": {"text": other.role}, **_location(finding, other.location, root)}
        for number, other in enumerate(finding.related, 1)
    ]
    if related:
        result["relatedLocations"] = related
    properties = {
        "rule": finding.rule,
        "module": finding.module,
        "op": finding.op,
        "evidence": _plain(finding.evidence),
    }
    result["properties"] = {key: value for key, value in properties.items() if value}
    return result


def _location(finding: Finding, place: Location, root: str | os.PathLike[str] | None) -> dict[str, Any]:
    region: dict[str, Any] = {"startLine": max(1, place.line)}
    excerpt = finding.excerpts.get(str(place))
    if excerpt is not None and 0 <= place.line - excerpt.first_line < len(excerpt.lines):
        region["snippet"] = {"text": excerpt.lines[place.line - excerpt.first_line]}
    return {"physicalLocation": {"artifactLocation": _artifact(place.file, root), "region": region}}


def _artifact(file: str, root: str | os.PathLike[str] | None) -> dict[str, str]:
    if file.startswith("<"):  # a notebook cell, an interactive session
        return {"uri": quote(file, safe="")}
    relative = path_below(file, root)
    below = os.path.realpath(os.path.join(os.fspath(root) if root is not None else os.getcwd(), relative))
    if not os.path.isabs(relative) and below == os.path.realpath(file):
        return {"uri": quote(relative), "uriBaseId": _ROOT}
    return {"uri": Path(os.path.realpath(file)).as_uri()}


def _logical(finding: Finding) -> list[dict[str, str]]:
    function = finding.location.function if finding.location is not None else ""
    named = [(finding.module, "module"), (function, "function")]
    return [{"fullyQualifiedName": name, "kind": kind} for name, kind in named if name]


def _plain(evidence: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no NaN and no infinity; evidence about gradients does."""
    return {key: _finite(value) for key, value in evidence.items()}


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if value - value == 0 else str(value)
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return value


def _pascal(slug: str) -> str:
    return "".join(part.capitalize() for part in slug.split("-"))


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."


FORMATS = {".sarif": write_sarif}

"""Findings as the workflow commands of GitHub Actions, which shows them beside the lines of a pull request.

Source: GitHub Docs, "Workflow commands for GitHub Actions" (``::error file=...,line=...,title=...::message``).
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from ..evidence import Finding, Severity
from .fingerprint import path_below

__all__ = ["workflow_commands"]

_COMMANDS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.NOTE: "notice"}


def workflow_commands(findings: Iterable[Finding], root: str | os.PathLike[str] | None = None) -> list[str]:
    """One line per finding, the most severe first: GitHub shows only the first ten of a step and kind.

    Args:
        findings: notes among them become notices.
        root: the folder to which paths are relative: the repository's checkout; None means the working directory.
    """
    return [_command(f, root) for f in sorted(findings, key=lambda f: -f.severity)]


def _command(finding: Finding, root: str | os.PathLike[str] | None) -> str:
    properties = {"title": f"{finding.code} {finding.rule}"}
    if finding.location is not None:
        properties = {
            "file": path_below(finding.location.file, root),
            "line": str(finding.location.line),
            **properties,
        }
    listed = ",".join(f"{name}={_property(value)}" for name, value in properties.items())
    text = finding.message + (f"\nhint: {finding.hint}" if finding.hint else "")
    return f"::{_COMMANDS[finding.severity]} {listed}::{_data(text)}"


def _data(text: str) -> str:
    # The percent sign first: it is what the others are escaped with.
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")

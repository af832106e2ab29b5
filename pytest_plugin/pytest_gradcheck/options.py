"""The command line, merged with ``[tool.gradcheck]``; imports the standard library and pytest alone."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from gradcheck_suite.config import Settings
    from gradcheck_suite.evidence import Finding, Severity

__all__ = ["DEFAULT_HTML", "Options", "add_options", "read_options", "unused_options"]

DEFAULT_HTML = "reports/gradcheck.html"
_FAIL_ON = ("error", "warning", "never")
_FURTHER = ("html", "json", "select", "ignore", "fail_on")


def add_options(parser: pytest.Parser) -> None:
    """Add the ``--gradcheck`` options to pytest's command line."""
    group = parser.getgroup("gradcheck", "gradients, verified while the tests run")
    group.addoption(
        "--gradcheck",
        action="store_true",
        default=False,
        help="Verify every gradient that the tests compute; a wrong one fails its test.",
    )
    group.addoption(
        "--gradcheck-html",
        nargs="?",
        const=DEFAULT_HTML,
        default=None,
        metavar="PATH",
        type=_file("--gradcheck-html", ".html"),
        help=f"Write one HTML page about the whole run (default: {DEFAULT_HTML}).",
    )
    group.addoption(
        "--gradcheck-json",
        default=None,
        metavar="PATH",
        type=_file("--gradcheck-json", ".json"),
        help="Write the same as JSON.",
    )
    group.addoption(
        "--gradcheck-select",
        action="append",
        default=None,
        metavar="RULES",
        help="Look for these rules only: codes, groups or names, comma-separated (GC101,GC3,nan-gradient).",
    )
    group.addoption(
        "--gradcheck-ignore",
        action="append",
        default=None,
        metavar="RULES",
        help="Silence these rules in every test; named like those of --gradcheck-select.",
    )
    group.addoption(
        "--gradcheck-fail-on",
        choices=_FAIL_ON,
        default=None,
        help="The lightest finding that fails a test (default: error).",
    )


def _file(option: str, suffix: str) -> Callable[[str], str]:
    """Refuses a value that is no such file: in ``--gradcheck-html tests/`` the tests were meant, not the page."""

    def check(value: str) -> str:
        if os.path.splitext(value)[1].lower() != suffix:
            raise argparse.ArgumentTypeError(
                f"{value!r} does not end in {suffix}. Write {option}=FILE{suffix}; "
                "what follows the option after a blank is taken for its value."
            )
        return value

    return check


def unused_options(config: pytest.Config) -> list[str]:
    """The options given that do nothing because ``--gradcheck`` is not among them."""
    return [
        f"--gradcheck-{n.replace('_', '-')}"
        for n in _FURTHER
        if config.getoption(f"gradcheck_{n}") is not None
    ]


@dataclass(frozen=True)
class Options:
    """What holds for the whole run.

    Attributes:
        select: codes of the rules that are looked for, or None for all.
        ignore: codes of the rules that are silenced.
        threshold: the lightest severity that fails a test, or None when nothing does.
        html, json: files to write, or None.
    """

    select: frozenset[str] | None
    ignore: frozenset[str]
    threshold: Severity | None
    html: Path | None
    json: Path | None

    def selected(self, finding: Finding) -> bool:
        """Whether the user wants to hear of this rule."""
        return self.select is None or finding.code in self.select

    def fails(self, finding: Finding) -> bool:
        """Whether this finding fails the test in which it was made."""
        return self.threshold is not None and finding.severity >= self.threshold


def read_options(config: pytest.Config) -> Options:
    """The command line over ``[tool.gradcheck]`` over the defaults.

    Raises:
        pytest.UsageError: a setting is unknown or has a value that is not understood.
    """
    from gradcheck_suite.config import find_settings
    from gradcheck_suite.errors import ConfigurationError
    from gradcheck_suite.evidence import Severity

    try:
        settings = find_settings(config.rootpath)
        fail_on = config.getoption("gradcheck_fail_on") or settings.fail_on
        select = _rules(config, "select", settings)
        return Options(
            select=select or None,
            ignore=_rules(config, "ignore", settings),
            threshold=None if fail_on == "never" else Severity.parse(fail_on),
            html=_path(config, "html", settings),
            json=_path(config, "json", settings),
        )
    except ConfigurationError as error:
        raise pytest.UsageError(str(error)) from error


def _rules(config: pytest.Config, name: str, settings: Settings) -> frozenset[str]:
    given: list[str] | None = config.getoption(f"gradcheck_{name}")
    if given is None:
        configured: tuple[str, ...] = getattr(settings, name)
        names, origin = list(configured), f"{name} in [tool.gradcheck]"
    else:
        names = [part.strip() for text in given for part in text.split(",") if part.strip()]
        origin = f"--gradcheck-{name}"
    if not names:
        return frozenset()
    from gradcheck_suite.rules import resolve_names

    return resolve_names(names, origin)


def _path(config: pytest.Config, name: str, settings: Settings) -> Path | None:
    """Relative to where pytest was started if somebody typed it, else to the root directory."""
    given: str | None = config.getoption(f"gradcheck_{name}")
    if given is not None and given != DEFAULT_HTML:
        return Path(config.invocation_params.dir, given)
    configured: str = given or getattr(settings, name)
    if not configured:
        return None
    return Path(config.rootpath, configured)

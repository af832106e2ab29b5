"""The command line, merged with ``[tool.gradcheck]``; imports the standard library and pytest alone."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from gradcheck_suite.config import Settings
    from gradcheck_suite.evidence import Finding, Report, Severity

__all__ = [
    "DEFAULT_BASELINE",
    "DEFAULT_HTML",
    "OPTIONS",
    "Option",
    "Options",
    "add_options",
    "read_options",
    "unused_options",
]

DEFAULT_HTML = "reports/gradcheck.html"
DEFAULT_BASELINE = "gradcheck-baseline.json"
_FAIL_ON = ("error", "warning", "never")
_WEIGHTS = {"note": 1, "warning": 2, "error": 3}  # of Severity, whose module need not be imported for them


@dataclass(frozen=True)
class Option:
    """One option of the command line.

    Attributes:
        flag: as typed.
        value: what stands for its value in the help, or "" if it takes none.
        help: one line.
        setting: its name in ``[tool.gradcheck]``, or "" if it has none there.
        details: further arguments of ``addoption``.
    """

    flag: str
    value: str
    help: str
    setting: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Under which pytest keeps its value."""
        return self.flag.removeprefix("--").replace("-", "_")


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


def _seconds(value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise argparse.ArgumentTypeError(f"{value!r} is no positive number of seconds.")
    return seconds


_MANY = {"action": "append"}

OPTIONS = (
    Option(
        "--gradcheck",
        "",
        "Verify every gradient that the tests compute; a wrong one fails its test.",
        details={"action": "store_true", "default": False},
    ),
    Option(
        "--gradcheck-html",
        "PATH",
        f"Write one HTML page about the whole run (default: {DEFAULT_HTML}).",
        "html",
        {"nargs": "?", "const": DEFAULT_HTML, "type": _file("--gradcheck-html", ".html")},
    ),
    Option(
        "--gradcheck-json",
        "PATH",
        "Write the same as JSON.",
        "json",
        {"type": _file("--gradcheck-json", ".json")},
    ),
    Option(
        "--gradcheck-sarif",
        "PATH",
        "Write the findings as SARIF 2.1.0, for code hosts and editors.",
        "sarif",
        {"type": _file("--gradcheck-sarif", ".sarif")},
    ),
    Option(
        "--gradcheck-select",
        "RULES",
        "Look for these rules only: codes, groups or names, comma-separated (GC101,GC3,nan-gradient).",
        "select",
        _MANY,
    ),
    Option(
        "--gradcheck-ignore",
        "RULES",
        "Silence these rules in every test; named like those of --gradcheck-select.",
        "ignore",
        _MANY,
    ),
    Option(
        "--gradcheck-fail-on",
        "",
        "The lightest finding that fails a test (default: error).",
        "fail-on",
        {"choices": _FAIL_ON},
    ),
    Option(
        "--gradcheck-baseline",
        "FILE",
        "Findings listed in this file fail nothing; only new ones do.",
        "baseline",
        {"type": _file("--gradcheck-baseline", ".json")},
    ),
    Option(
        "--gradcheck-update-baseline",
        "",
        f"Write what is found now to the baseline file (default: {DEFAULT_BASELINE}); no finding fails.",
        details={"action": "store_true", "default": None},
    ),
    Option(
        "--gradcheck-model",
        "TARGET",
        "Check this model as a test of its own: file.py:Model, package.module:Model, torchvision:NAME; repeatable.",
        "models",
        _MANY,
    ),
    Option(
        "--gradcheck-devices",
        "DEVICES",
        "Devices on which the gradcheck fixture and --gradcheck-model check, comma-separated (cpu,cuda).",
        "devices",
        _MANY,
    ),
    Option(
        "--gradcheck-budget",
        "SECONDS",
        "What verifying may cost in each process; later tests are watched for hazards only.",
        "budget",
        {"type": _seconds},
    ),
)


def add_options(parser: pytest.Parser) -> None:
    """Add the ``--gradcheck`` options to pytest's command line."""
    group = parser.getgroup("gradcheck", "gradients, verified while the tests run")
    for option in OPTIONS:
        details: dict[str, Any] = {"default": None, **option.details}
        if option.value:
            details["metavar"] = option.value
        group.addoption(option.flag, help=option.help, **details)


def unused_options(config: pytest.Config) -> list[str]:
    """The options given that do nothing because ``--gradcheck`` is not among them."""
    return [option.flag for option in OPTIONS[1:] if config.getoption(option.name) is not None]


@dataclass(frozen=True)
class Options:
    """What holds for the whole run.

    Attributes:
        select: codes of the rules that are looked for, or None for all.
        ignore: codes of the rules that are silenced.
        fail_on: the lightest severity that fails a test, or "never".
        weights: severities other than the rules' own, by code.
        html, json, sarif: files to write, or None.
        baseline: file of the known findings, or None.
        update_baseline: whether it is to be written.
        models: targets that are tests of their own.
        devices: on which fixture and targets check, or () for the model's own.
        budget: seconds that verifying may take in each process, or None.
        seed: of everything random.
    """

    select: frozenset[str] | None = None
    ignore: frozenset[str] = frozenset()
    fail_on: str = "error"
    weights: Mapping[str, str] = field(default_factory=dict)
    html: Path | None = None
    json: Path | None = None
    sarif: Path | None = None
    baseline: Path | None = None
    update_baseline: bool = False
    models: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    budget: float | None = None
    seed: int = 0

    def fails(self, finding: Finding) -> bool:
        """Whether this finding fails the test in which it was made."""
        if self.fail_on == "never" or self.update_baseline:
            return False
        return int(finding.severity) >= _WEIGHTS[self.fail_on]

    def looks_for(self, code: str) -> bool:
        """Whether a rule can speak at all in this run."""
        return code not in self.ignore and (self.select is None or code in self.select)

    def wanted(self, report: Report) -> Report:
        """The report with the findings the user wants to hear of, as heavy as the user wants them."""
        kept = [f for f in report.findings if self.select is None or f.code in self.select]
        weighed = [self._weighed(finding) for finding in kept]
        return replace(report, findings=tuple(sorted(weighed, key=lambda f: -f.severity)))

    def _weighed(self, finding: Finding) -> Finding:
        weight = self.weights.get(finding.code)
        if weight is None or weight == finding.severity.label:
            return finding
        severity: type[Severity] = type(finding.severity)
        return replace(finding, severity=severity.parse(weight))


def read_options(config: pytest.Config) -> Options:
    """The command line over ``[tool.gradcheck]`` over the defaults.

    Raises:
        pytest.UsageError: a setting is unknown or has a value that is not understood.
    """
    from gradcheck_suite.config import check_devices, find_settings
    from gradcheck_suite.errors import ConfigurationError

    try:
        settings = find_settings(config.rootpath)
        update = bool(config.getoption("gradcheck_update_baseline"))
        baseline = _path(config, "baseline", settings)
        if update and baseline is None:
            baseline = Path(config.rootpath, DEFAULT_BASELINE)
        budget: float | None = config.getoption("gradcheck_budget")
        devices = _list(config.getoption("gradcheck_devices"), settings.devices)
        return Options(
            select=_rules(config, "select", settings) or None,
            ignore=_rules(config, "ignore", settings),
            fail_on=config.getoption("gradcheck_fail_on") or settings.fail_on,
            weights=_weights(settings),
            html=_path(config, "html", settings),
            json=_path(config, "json", settings),
            sarif=_path(config, "sarif", settings),
            baseline=baseline,
            update_baseline=update,
            models=tuple(config.getoption("gradcheck_model") or settings.models),
            devices=check_devices(devices, "--gradcheck-devices"),
            budget=settings.budget if budget is None else budget,
            seed=settings.seed,
        )
    except ConfigurationError as error:
        raise pytest.UsageError(str(error)) from error


def _list(given: Sequence[str] | None, configured: Sequence[str]) -> list[str]:
    if given is None:
        return list(configured)
    return [part.strip() for text in given for part in text.split(",") if part.strip()]


def _rules(config: pytest.Config, name: str, settings: Settings) -> frozenset[str]:
    given: list[str] | None = config.getoption(f"gradcheck_{name}")
    if given is None:
        configured: tuple[str, ...] = getattr(settings, name)
        names, origin = list(configured), f"{name} in [tool.gradcheck]"
    else:
        names = _list(given, ())
        origin = f"--gradcheck-{name}"
    if not names:
        return frozenset()
    from gradcheck_suite.rules import resolve_names

    return resolve_names(names, origin)


def _weights(settings: Settings) -> dict[str, str]:
    if not settings.severity:
        return {}
    from gradcheck_suite.rules import resolve_names

    weights: dict[str, str] = {}
    # A group first, so that a rule named by itself may differ from its group.
    for name, weight in sorted(settings.severity.items(), key=lambda entry: len(entry[0])):
        weights.update(dict.fromkeys(resolve_names((name,), "[tool.gradcheck.severity]"), weight))
    return weights


def _path(config: pytest.Config, name: str, settings: Settings) -> Path | None:
    """Relative to where pytest was started if somebody typed it, else to the root directory."""
    given: str | None = config.getoption(f"gradcheck_{name}")
    if given is not None and given != DEFAULT_HTML:
        return Path(config.invocation_params.dir, given)
    configured: str = given or getattr(settings, name)
    if not configured:
        return None
    return Path(config.rootpath, configured)

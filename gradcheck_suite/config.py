"""Settings from ``[tool.gradcheck]`` in pyproject.toml: read, checked, never guessed."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib import import_module
from pathlib import Path
from typing import Any

from .errors import ConfigurationError
from .wording import nearest

# The same module under two names; only one of them is installed, so neither is imported by a statement.
tomllib = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

__all__ = ["FAIL_ON", "SEVERITIES", "Settings", "check_devices", "find_settings", "read_settings"]

FAIL_ON = ("error", "warning", "never")
SEVERITIES = ("error", "warning", "note")
_DEVICES = ("cpu", "cuda", "mps", "xpu", "hpu", "mtia")


@dataclass(frozen=True)
class Settings:
    """What a project sets once. In the file, ``_`` is written ``-``: ``fail-on = "warning"``.

    Attributes:
        select: rules that are looked for, by code, group (``"GC3"``) or name; () means all.
        ignore: rules that are silenced.
        fail_on: the lightest finding that fails a run: ``"error"``, ``"warning"`` or ``"never"``.
        budget: seconds for the whole check, or None for no limit.
        devices: devices to check on; () means the model's own.
        html, json, sarif: where to write the report; "" for nowhere.
        models: targets that are checked besides the tests.
        baseline: file of the findings that are known and fail nothing; "" for none.
        tolerance: the share of a tensor's largest entry that an error may be: a number, or a table by dtype and rule; see
            ``docs/settings-of-a-check.md``. None: the derived one.
        severity: weights other than a rule's own, by the rule's code or name: ``{"GC402": "error"}``.
        seed: of everything random.
        source: the file that the settings come from, or "".
    """

    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    fail_on: str = "error"
    budget: float | None = None
    devices: tuple[str, ...] = ()
    html: str = ""
    json: str = ""
    sarif: str = ""
    models: tuple[str, ...] = ()
    baseline: str = ""
    tolerance: float | Mapping[str, Any] | None = None
    severity: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    source: str = ""


_LISTS = ("select", "ignore", "devices", "models")
_TEXTS = ("html", "json", "sarif", "baseline", "fail_on")
_DEVICE = re.compile(r"[a-z]+(:\d+)?")


def find_settings(start: str | os.PathLike[str] = ".") -> Settings:
    """The settings of the nearest pyproject.toml at or above ``start`` that has ``[tool.gradcheck]``.

    Returns:
        The settings, or the defaults when there is no such table.

    Raises:
        ConfigurationError: a file cannot be parsed, or a setting is not understood.
    """
    folder = Path(start).resolve()
    for place in (folder, *folder.parents):
        file = place / "pyproject.toml"
        if file.is_file():
            table = _table(file)
            if table is not None:
                return read_settings(table, str(file))
    return Settings()


def _table(file: Path) -> Mapping[str, Any] | None:
    try:
        with file.open("rb") as stream:
            content = tomllib.load(stream)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(
            f"reading the settings failed: {file} is not valid TOML ({error}). Correct it there."
        ) from error
    table = content.get("tool", {}).get("gradcheck")
    if table is not None and not isinstance(table, Mapping):
        raise ConfigurationError(
            f"reading the settings failed: tool.gradcheck in {file} is {table!r}, a table is expected. "
            "Write [tool.gradcheck] and one setting per line."
        )
    return table


def read_settings(table: Mapping[str, Any], source: str = "") -> Settings:
    """Check a ``[tool.gradcheck]`` table.

    Raises:
        ConfigurationError: a key is unknown (the nearest is suggested), or a value is of the wrong kind.
    """
    known = {item.name.replace("_", "-"): item.name for item in fields(Settings) if item.name != "source"}
    values: dict[str, Any] = {"source": source}
    for key, value in table.items():
        name = known.get(key)
        if name is None:
            suggestion = nearest(key, known) or f"Known are {', '.join(sorted(known))}."
            raise _refused(source, f"there is no setting {key!r}", suggestion)
        values[name] = _checked(name, key, value, source)
    return Settings(**values)


def _checked(name: str, key: str, value: Any, source: str) -> Any:
    if name in _LISTS:
        if not isinstance(value, (list, tuple)) or not all(isinstance(entry, str) for entry in value):
            raise _refused(source, f"{key} is {value!r}", f'Write a list of texts: {key} = ["..."].')
        if name == "devices":
            _known_devices(value, lambda fact, advice: _refused(source, fact, advice))
        return tuple(value)
    if name == "severity":
        return _severities(value, source)
    if name == "tolerance":
        return _tolerance(value, key, source)
    if name in _TEXTS:
        if not isinstance(value, str):
            raise _refused(source, f"{key} is {value!r}", f'Write a text: {key} = "...".')
        if name == "fail_on" and value not in FAIL_ON:
            suggestion = nearest(value, FAIL_ON) or f"Use one of {', '.join(FAIL_ON)}."
            raise _refused(source, f"{key} is {value!r}", suggestion)
        return value
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if name == "budget":
        if not number or not value > 0:
            raise _refused(source, f"{key} is {value!r}", "Write a positive number of seconds.")
        return float(value)
    if not number or value != int(value) or value < 0:
        raise _refused(source, f"{key} is {value!r}", "Write a whole number, 0 or larger.")
    return int(value)


def _severities(table: Any, source: str) -> dict[str, str]:
    """Checked as far as it goes without the rules: whether a name is one is seen where they are known."""
    if not isinstance(table, Mapping):
        advice = 'Write [tool.gradcheck.severity] and a line per rule: GC402 = "error".'
        raise _refused(source, f"severity is {table!r}", advice)
    for rule, value in table.items():
        if value not in SEVERITIES:
            words = ", ".join(SEVERITIES)
            near = nearest(value, SEVERITIES) if isinstance(value, str) else ""
            advice = near or f"Use one of {words}; `ignore` silences a rule."
            raise _refused(source, f"severity.{rule} is {value!r}", advice)
    return dict(table)


def _tolerance(value: Any, key: str, source: str) -> float | dict[str, Any]:
    """A positive number, or such numbers by name; which names there are is seen where the rules are known."""
    if isinstance(value, Mapping) and value:
        return {name: _tolerance(entry, f"{key}.{name}", source) for name, entry in value.items()}
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < float("inf"):
        return float(value)
    advice = "Write a positive number, 1e-4, or a table of such by dtype and rule: float32 = 1e-4."
    raise _refused(source, f"{key} is {value!r}", advice)


def check_devices(devices: Sequence[str], origin: str) -> tuple[str, ...]:
    """The devices, if each has the form of one; whether this machine has it is seen when it is used.

    Raises:
        ConfigurationError: one is misspelt; the nearest is suggested.
    """
    _known_devices(
        devices, lambda fact, advice: ConfigurationError(f"reading {origin} failed: {fact}. {advice}")
    )
    return tuple(devices)


def _known_devices(devices: Sequence[str], refused: Callable[[str, str], ConfigurationError]) -> None:
    for device in devices:
        if not _DEVICE.fullmatch(device) or device.split(":")[0] not in _DEVICES:
            advice = nearest(device.split(":")[0], _DEVICES) or f"Known are {', '.join(_DEVICES)}."
            raise refused(f"{device!r} is no device", advice)


def _refused(source: str, fact: str, advice: str) -> ConfigurationError:
    place = f" of {source}" if source else ""
    return ConfigurationError(f"reading [tool.gradcheck]{place} failed: {fact}. {advice}")

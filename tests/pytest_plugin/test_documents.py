"""``docs/pytest.md`` says what the plugin does: its table of options is made from the options themselves."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from pytest_gradcheck.marker import _KNOWN
from pytest_gradcheck.options import OPTIONS

from gradcheck_suite.config import Settings, read_settings, tomllib

PAGE = Path(__file__).parents[2] / "docs" / "pytest.md"
BEGIN, END = "<!-- options -->\n", "<!-- /options -->"


def table() -> str:
    rows = []
    for option in OPTIONS:
        flag = f"{option.flag}={option.value}" if option.value else option.flag
        choices = option.details.get("choices")
        if choices:
            flag = f"{flag}=" + r"\|".join(choices)
        setting = f"`{option.setting}`" if option.setting else ""
        rows.append(f"| `{flag}` | {setting} | {option.help} |\n")
    return "".join(rows)


def test_the_table_has_every_option() -> None:
    text = PAGE.read_text(encoding="utf-8")
    written = text.partition(BEGIN)[2].partition(END)[0]
    assert written == table(), f"put this between the marks in {PAGE.name}:\n{table()}"


def test_every_setting_of_an_option_is_one() -> None:
    known = {field.name.replace("_", "-") for field in fields(Settings)}
    assert {option.setting for option in OPTIONS if option.setting} <= known


def test_the_settings_shown_are_understood() -> None:
    block = PAGE.read_text(encoding="utf-8").partition("```toml\n")[2].partition("```")[0]
    settings = read_settings(tomllib.loads(block)["tool"]["gradcheck"])
    assert settings.severity == {"GC402": "error"}


@pytest.mark.parametrize("argument", _KNOWN)
def test_every_argument_of_the_marker_is_shown(argument: str) -> None:
    assert f"{argument}=" in PAGE.read_text(encoding="utf-8").partition("## In tests")[2].partition("## ")[0]

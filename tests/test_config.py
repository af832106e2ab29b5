"""Settings are read from the nearest pyproject.toml and refused when they are not understood."""

from __future__ import annotations

import pytest

from gradcheck_suite.config import Settings, find_settings, read_settings
from gradcheck_suite.errors import ConfigurationError


def test_nothing_set():
    assert read_settings({}) == Settings()


def test_nearest_file_with_a_table_is_read(tmp_path):
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text(
        '[tool.gradcheck]\nignore = ["GC502"]\nfail-on = "warning"\nbudget = 5\nseed = 3\nhtml = "r.html"\n'
    )
    (tmp_path / "a" / "pyproject.toml").write_text("[tool.other]\nx = 1\n")
    found = find_settings(inner)
    assert found.source == str(tmp_path / "pyproject.toml")
    assert (found.ignore, found.fail_on, found.budget, found.seed) == (("GC502",), "warning", 5.0, 3)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"ignroe": ["GC1"]}, "there is no setting 'ignroe'. Did you mean 'ignore'?"),
        ({"fail_on": "error"}, "Did you mean 'fail-on'?"),
        ({"zzz": 1}, "Known are baseline, budget, devices"),
        ({"source": "x"}, "there is no setting 'source'"),
        ({"ignore": "GC101"}, "ignore is 'GC101'. Write a list"),
        ({"ignore": [1]}, r"ignore is \[1\]"),
        ({"fail-on": "sometimes"}, "Use one of error, warning, never"),
        ({"budget": -1}, "positive number of seconds"),
        ({"budget": True}, "budget is True"),
        ({"seed": 1.5}, "whole number"),
        ({"html": 3}, "html is 3. Write a text"),
        ({"fail-on": "errors"}, "Did you mean 'error'?"),
        ({"devices": ["cudaa"]}, "'cudaa' is no device. Did you mean 'cuda'?"),
        ({"severity": "error"}, "severity is 'error'. Write"),
        ({"severity": {"GC402": "eror"}}, "severity.GC402 is 'eror'. Did you mean 'error'?"),
        ({"severity": {"GC402": 2}}, "severity.GC402 is 2. Use one of error, warning, note"),
    ],
)
def test_what_is_not_understood_is_refused(table, said):
    with pytest.raises(ConfigurationError, match=said):
        read_settings(table, "pyproject.toml")


def test_broken_files_are_named(tmp_path):
    (tmp_path / "pyproject.toml").write_text("[tool.gradcheck\n")
    with pytest.raises(ConfigurationError, match=r"pyproject\.toml is not valid TOML"):
        find_settings(tmp_path)
    (tmp_path / "pyproject.toml").write_text("[tool]\ngradcheck = 3\n")
    with pytest.raises(ConfigurationError, match="a table is expected"):
        find_settings(tmp_path)

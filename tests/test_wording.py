"""Rounding that people read."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradcheck_suite import wording


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (4.12, "4.1200"), (0.0, "0"), (-0.5, "-0.50000"), (1e-7, "1.0000e-7"), (1234567.0, "1.2346e6"),
        (123456.789, "123457"), (math.inf, "inf"), (math.nan, "nan"), (1 - 2j, "1.0000-2.0000j"), (3 + 0j, "3.0000"),
    ],
)  # fmt: skip
def test_number(value, text):
    assert wording.number(value) == text


@given(st.floats(allow_nan=False), st.floats(allow_nan=False))
def test_two_different_numbers_never_look_equal(first, second):
    texts = wording.pair(first, second)
    assert (texts[0] == texts[1]) == (first == second)


@given(st.floats(-1e300, 1e300))
def test_rounding_keeps_the_value(value):
    assert float(wording.number(value, 6)) == pytest.approx(value, rel=1e-5)
    assert float(wording.small(value)) == pytest.approx(value, rel=0.051)


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [
        (1, 3, "1/3"), (0.12, 1, "12 %"), (1, 1, "100 %"), (300, 1, "300 times"), (1e-5, 1, "1e-5"),
        (0.3341, 1, "33 %"), (2, 0, "2.0000"), (1 - 1e-7, 1, "100 %"),
    ],
)  # fmt: skip
def test_share(part, whole, text):
    assert wording.share(part, whole) == text


@pytest.mark.parametrize(
    ("value", "text"), [(2 / 3, "2/3"), (-1.0, "-1"), (0.3341, ""), (0.0, ""), (math.nan, ""), (100.0, "100")]
)
def test_fraction(value, text):
    assert wording.fraction(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.038, "38 ms"), (0.42, "0.42 s"), (12.4, "12 s"), (125.2, "2 min 5 s")]
)
def test_seconds(value, text):
    assert wording.seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(3e-6, "3e-6"), (0.0123, "0.012"), (612.0, "610"), (2e5, "2e5"), (2.5e-4, "2.5e-4"), (0.0, "0")],
)
def test_small(value, text):
    assert wording.small(value) == text


def test_names():
    assert wording.nearest("resnet19", ["resnet18", "vgg"]) == "Did you mean 'resnet18'?"
    assert wording.nearest("zzzz", ["a"]) == ""
    assert wording.listing(list("abcdefg"), 3) == "a, b, c and 4 more"
    assert wording.plural(1, "entry", "entries") == "1 entry"
    assert wording.plural(2000, "entry", "entries") == "2,000 entries"


def test_paths_are_relative_to_where_one_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert wording.relative_path(str(tmp_path / "a" / "m.py")) == "a/m.py"
    assert wording.relative_path("/elsewhere/m.py") == "/elsewhere/m.py"
    assert wording.relative_path("m.py") == "m.py"
    installed = str(tmp_path / "lib" / "site-packages" / "timm" / "m.py")
    assert wording.relative_path(installed) == "timm/m.py"

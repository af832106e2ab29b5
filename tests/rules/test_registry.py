"""Rules are found by discovery, named once, explained by name, and silenced by name."""

from __future__ import annotations

import linecache

import pytest

from gradcheck_suite.errors import ConfigurationError
from gradcheck_suite.evidence import CodeExcerpt, Finding, Location, Severity
from gradcheck_suite.rules import all_rules, explain, find_rule, resolve_names, rule, suppress
from gradcheck_suite.rules.excerpts import definition, excerpt, excerpts_of
from gradcheck_suite.rules.page import Page


def test_codes_and_slugs_are_unique_and_ordered():
    codes = [r.code for r in all_rules()]
    assert codes == sorted(set(codes))
    assert len({r.slug for r in all_rules()}) == len(codes)


@pytest.mark.parametrize(
    ("code", "slug", "said"),
    [
        (
            "GC101",
            "something-new",
            "GC101 gradient-mismatch belongs to gradcheck_suite.rules.gradient_mismatch",
        ),
        ("GC999", "gradient-mismatch", "Codes and slugs are never reused"),
        ("G1", "something-new", "a code is GC and three digits"),
        ("GC999", "Not A Slug", "a slug lower-case words"),
    ],
)
def test_a_second_rule_of_the_same_name_is_refused(code, slug, said):
    with pytest.raises(ValueError, match=said):

        @rule(code, slug, Severity.NOTE)
        class Another:
            pass

    assert find_rule("GC101").cls.__name__ == "GradientMismatch"


def test_a_rule_without_a_page_is_refused(monkeypatch):
    monkeypatch.setattr(__import__("sys").modules[__name__], "__doc__", None)
    with pytest.raises(ValueError, match="has no docstring"):
        rule("GC999", "something-new", Severity.NOTE)(type("Rule", (), {"__module__": __name__}))


def test_explain_takes_code_or_slug_in_any_case():
    assert explain("gc101") == explain("Gradient-Mismatch") == explain(" GC101 ")
    assert explain("GC101").startswith("GC101 gradient-mismatch (error)\n\nA backward disagrees")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gradient-mismach", "Did you mean 'gradient-mismatch'"),
        ("GC110", "'GC110' is no rule's code or name. Did you mean 'GC1"),
        ("zzz", "Run `gradcheck rules`"),
        (101, "101 is no rule's"),
    ],
)
def test_unknown_rules_are_answered_with_the_nearest(name, said):
    with pytest.raises(ConfigurationError, match=said):
        explain(name)


def test_pages_are_split_into_sections():
    page = Page.parse(
        """Finds it.

        Why: because
            it bites.

        Bad::

            a = 1  # <-
            if a:
                b = 2

        Bad::

            c = 3

        Good::

            d = 4

        Misses::

            the rest.
        """
    )
    assert (page.summary, page.why, page.misses) == ("Finds it.", "because\nit bites.", "the rest.")
    assert page.bad == ("a = 1  # <-\nif a:\n    b = 2", "c = 3")
    assert page.good == ("d = 4",)
    assert Page.blamed_line(page.bad[0]) == 1
    assert Page.blamed_line(page.bad[1]) is None


# ------------------------------------------------------------------------------------------------ silencing


def finding(code="GC101", location=None, **changes):
    return Finding(code, find_rule(code).slug, Severity.ERROR, "m", location, **changes)


@pytest.mark.parametrize(
    ("ignore", "silenced"),
    [
        ((), []),
        (("GC101",), ["GC101"]),
        (("gc502",), ["GC502"]),
        (("unused-parameter", "GC101"), ["GC101", "GC502"]),
        (("GC5",), ["GC501", "GC502"]),
    ],
)
def test_ignore_takes_codes_slugs_and_groups(ignore, silenced):
    given = [finding("GC101"), finding("GC501"), finding("GC502")]
    kept, gone = suppress(given, ignore)
    assert [f.code for f in gone] == silenced
    assert kept == [f for f in given if f.code not in silenced]


@pytest.mark.parametrize(
    ("ignore", "said"),
    [
        (("GC999",), "reading ignore failed: 'GC999'"),
        (("unused-paramter",), "Did you mean"),
        ("GC101", r"\('GC101',\)"),
    ],
)
def test_unknown_names_silence_nothing_and_are_refused(ignore, said):
    with pytest.raises(ConfigurationError, match=said):
        suppress([finding()], ignore)
    assert resolve_names(()) == frozenset()


@pytest.mark.parametrize(
    ("comment", "silenced"),
    [
        ("# gradcheck: ignore[GC101]", True),
        ("# gradcheck: ignore[gradient-mismatch]", True),
        ("#gradcheck:ignore[ unused-parameter , gc101 ]  # and why", True),
        ("# noqa  # gradcheck: ignore[GC101]", True),
        ("# gradcheck: ignore[GC102]", False),
        ("# gradcheck: ignore[GC10]", False),
        ("# gradcheck: ignore", False),
        ("# ignore[GC101]", False),
        ("", False),
    ],
)
def test_a_comment_silences_on_its_own_line_only(tmp_path, comment, silenced):
    file = tmp_path / "model.py"
    file.write_text(f"a = 1\nb = Cube.apply(a)  {comment}\nc = 2\n")
    linecache.checkcache(str(file))
    kept, gone = suppress([finding(location=Location(str(file), line)) for line in (1, 2, 3)])
    assert [f.location.line for f in gone] == ([2] if silenced else [])
    assert len(kept) + len(gone) == 3


def test_the_excerpt_decides_when_the_file_is_gone():
    place = Location("gone.py", 2)
    lines = CodeExcerpt(1, ("a", "b  # gradcheck: ignore[GC101]"))
    assert suppress([finding(location=place, excerpts={"gone.py:2": lines})])[0] == []
    assert len(suppress([finding(location=place)])[0]) == 1


# ------------------------------------------------------------------------------------------------ excerpts


def test_excerpts_take_the_lines_around_and_stop_at_the_ends(tmp_path):
    file = tmp_path / "model.py"
    file.write_text("".join(f"\tline{n}\n" for n in range(1, 11)))
    linecache.checkcache(str(file))
    assert excerpt(Location(str(file), 5)) == CodeExcerpt(2, tuple(f"    line{n}" for n in range(2, 9)))
    assert excerpt(Location(str(file), 1)).first_line == 1
    assert len(excerpt(Location(str(file), 10)).lines) == 4
    assert excerpt(Location(str(file), 11)) is None
    assert excerpts_of(None, Location("nowhere.py", 1)) == {}


def test_a_function_is_shown_from_its_def_on(tmp_path):
    file = tmp_path / "model.py"
    file.write_text("@staticmethod\n@other(\n    1)\ndef backward(ctx, g):\n    return g\n")
    linecache.checkcache(str(file))
    assert definition(Location(str(file), 1)).line == 4
    assert definition(Location(str(file), 5)).line == 5
    assert definition(Location("nowhere.py", 3)).line == 3

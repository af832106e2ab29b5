"""A report survives the way to JSON text and back, whatever is in it."""

from __future__ import annotations

import dataclasses
import json
import typing

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gradcheck_suite import evidence
from gradcheck_suite.evidence import (
    SCHEMA_VERSION,
    Comparison,
    Finding,
    GradientVerdict,
    Location,
    Outcome,
    Report,
    Severity,
    serialise,
)

numbers = st.floats(allow_nan=True, allow_infinity=True)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | numbers
    | st.complex_numbers()
    | st.text(max_size=8)
    | st.sampled_from(["nan", "$float", "inf"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(
            st.text(max_size=4) | st.sampled_from(["$float", "$tuple", "$dict"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


def strategy_for(annotation):
    """A strategy for a field, from its annotation alone: new fields are covered by themselves."""
    simple = {
        str: st.text(max_size=6),
        int: st.integers(),
        float: numbers,
        complex: st.complex_numbers(),
        typing.Any: json_values,
        type(None): st.none(),
    }
    if annotation in simple:
        return simple[annotation]
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is tuple:
        return st.lists(strategy_for(arguments[0]), max_size=2).map(tuple)
    if origin is not None and issubclass(origin, typing.Mapping):
        return st.dictionaries(st.text(max_size=4), strategy_for(arguments[1]), max_size=2)
    if arguments:
        return st.one_of([strategy_for(a) for a in arguments])
    if dataclasses.is_dataclass(annotation):
        hints = typing.get_type_hints(annotation)
        return st.builds(
            annotation, **{f.name: strategy_for(hints[f.name]) for f in dataclasses.fields(annotation)}
        )
    return st.sampled_from(list(annotation))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(strategy_for(Report))
def test_round_trip_is_exact(report):
    text = json.dumps(report.to_dict(), allow_nan=False)
    back = Report.from_dict(json.loads(text))
    # repr tells NaN from other NaN-free differences, 1 from 1.0 and -0.0 from 0.0; equality would not.
    assert repr(back) == repr(report)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.text(max_size=5), json_values, max_size=4))
def test_free_evidence_round_trips(evidence):
    finding = Finding("GC1", "r", Severity.NOTE, "m", evidence=evidence)
    data = json.loads(json.dumps(Report("t", findings=(finding,)).to_dict(), allow_nan=False))
    assert repr(Report.from_dict(data).findings[0].evidence) == repr(evidence)


def test_numpy_scalars_become_python_numbers():
    comparison = Comparison(
        np.int64(4), 1, (np.int64(2),), np.float32(0.5), np.complex64(1j), 0.0, 0.0, 0.0, 0.0
    )
    testimony = evidence.Testimony("engine", "s", Outcome.DISAGREE, comparison)
    report = Report("t", testimonies=(testimony,), counts={"nodes": np.int32(3)})
    back = Report.from_dict(json.loads(json.dumps(report.to_dict()))).testimonies[0].comparison
    assert (back.elements, back.index, back.expected, back.actual) == (4, (2,), 0.5, 1j)
    assert type(back.expected) is float


def test_ok_is_written_for_other_readers():
    assert Report("t").to_dict()["ok"] is False
    verified = GradientVerdict("w", "parameter", (1,), "float32", Outcome.AGREE)
    assert Report("t", gradients=(verified,)).to_dict()["ok"] is True


def data(**changes):
    finding = Finding("GC1", "r", Severity.ERROR, "m", location=Location("a.py", 3))
    return {**Report("t", findings=(finding,)).to_dict(), **changes}


@pytest.mark.parametrize(
    ("given_data", "said"),
    [
        ([], "expected a JSON object, got list"),
        ({"title": "t"}, "there is no 'schema_version'"),
        (data(schema_version=99), "schema version is 99, this release reads 1"),
        (data(schema_version=True), "schema version is True"),
        ({"schema_version": SCHEMA_VERSION}, "report lacks the field 'title'"),
        (data(title=3), r"report.title should be str, it is 3 \(int\)"),
        (data(colour="red"), "report has the unknown field 'colour'"),
        (data(counts={"a": 1.5}), r"report.counts\['a'\] should be int"),
        (data(notes="abc"), "report.notes should be a list"),
        (data(findings=[{**data()["findings"][0], "severity": "awful"}]), "one of note, warning, error"),
        (
            data(findings=[{**data()["findings"][0], "location": {"line": 3}}]),
            "location lacks the field 'file'",
        ),
        (
            data(findings=[{**data()["findings"][0], "evidence": {"a": {"$float": 1}}}]),
            r"well-formed \$float",
        ),
        (data(timings={"a": "soon"}), "should be float"),
    ],
)
def test_what_cannot_be_read_is_named(given_data, said):
    with pytest.raises(ValueError, match=said):
        Report.from_dict(given_data)


def test_fields_with_a_default_may_be_missing():
    assert Report.from_dict({"schema_version": SCHEMA_VERSION, "title": "t"}) == Report("t")


@pytest.mark.parametrize(
    ("report", "said"),
    [
        (Report("t", counts={"a": True}), r"report.counts\['a'\] should be int"),
        (Report(3), "report.title should be str"),
        (
            Report("t", findings=(Finding("c", "r", Severity.NOTE, "m", evidence={"a": object()}),)),
            "JSON value",
        ),
        (Report("t", findings=(Finding("c", "r", Severity.NOTE, "m", evidence={"a": {1: 2}}),)), "a key of"),
        (Report("t", gradients=(Location("a", 1),)), "GradientVerdict"),
    ],
)
def test_what_cannot_be_written_is_named(report, said):
    with pytest.raises(ValueError, match=said):
        report.to_dict()


def test_public_names():
    assert serialise.__all__ == ["report_from_dict", "report_to_dict"]

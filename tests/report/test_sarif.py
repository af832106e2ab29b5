"""SARIF files satisfy the format's schema, point at the right lines and stay the same from run to run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from gradcheck_suite.evidence import (
    CodeExcerpt,
    Finding,
    Location,
    RelatedLocation,
    Report,
    Severity,
    Unverified,
)
from gradcheck_suite.report.sarif import write_sarif
from gradcheck_suite.rules import all_rules

SCHEMA = Path(__file__).parent / "schemas" / "sarif-2.1.0-rtm.5.json"


@pytest.fixture
def project(tmp_path):
    """A report about a made-up project: a finding with everything, one with nothing, one of another version."""
    inside = Location(str(tmp_path / "src" / "my model.py"), 12, "forward")
    outside = Location(str(tmp_path.parent / "elsewhere.py"), 3)
    excerpts = {str(inside): CodeExcerpt(11, ("def forward(self, x):", "    return cube(x)"))}
    full = Finding(
        "GC101",
        "gradient-mismatch",
        Severity.ERROR,
        "the backward of Cube disagrees\n<b>100 %</b>",
        location=inside,
        related=(RelatedLocation("backward", outside),),
        module="net.block.3",
        op="CubeBackward",
        evidence={"ratio": float("nan"), "worst": [1.0, float("inf")], "tests": ["tests/test_a.py::test_x"]},
        hint="a factor is missing",
        count=8,
        excerpts=excerpts,
    )
    bare = Finding(
        "GC502",
        "unused-parameter",
        Severity.WARNING,
        "linear.bias never gets a gradient",
        evidence={"tests": ["tests/test_a.py::test_y"]},
    )
    unknown = Finding("GC999", "not-invented-yet", Severity.NOTE, "from a later version")
    note = Finding("GC190", "unverified", Severity.NOTE, "not verified")
    entry = Unverified("aten::mystery", "no meaning is known")
    return Report("net", findings=(full, bare, unknown, note), unverified=(entry,), counts={"nodes": 3})


def validate(text):
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    validator = jsonschema.validators.validator_for(schema)(schema)
    validator.check_schema(schema)
    return [f"{list(error.path)}: {error.message}" for error in validator.iter_errors(json.loads(text))]


def test_it_satisfies_the_schema(project, tmp_path):
    assert not validate(write_sarif(project, tmp_path))
    assert not validate(write_sarif(Report("nothing")))


def test_twin_the_schema_refuses_what_is_wrong(project, tmp_path):
    data = json.loads(write_sarif(project, tmp_path))
    data["runs"][0]["results"][0]["level"] = "catastrophe"
    data["runs"][0]["results"][0]["locations"][0]["physicalLocation"]["region"]["startLine"] = 0
    assert len(validate(json.dumps(data))) == 2


def test_every_rule_has_its_help(tmp_path):
    findings = tuple(Finding(i.code, i.slug, i.severity, i.page.summary) for i in all_rules())
    text = write_sarif(Report("all", findings=findings), tmp_path)
    assert not validate(text)
    rules = json.loads(text)["runs"][0]["tool"]["driver"]["rules"]
    assert {rule["id"] for rule in rules} == {info.code for info in all_rules()} - {"GC190"}
    for rule in rules:
        assert rule["shortDescription"]["text"].endswith(".")
        assert "### Bad" in rule["help"]["markdown"]


def test_places_and_numbers(project, tmp_path):
    run = json.loads(write_sarif(project, tmp_path))["runs"][0]
    full, bare, unknown = run["results"]
    place = full["locations"][0]["physicalLocation"]
    assert place["artifactLocation"] == {"uri": "src/my%20model.py", "uriBaseId": "SRCROOT"}
    assert place["region"] == {"startLine": 12, "snippet": {"text": "    return cube(x)"}}
    names = {n["kind"]: n["fullyQualifiedName"] for n in full["locations"][0]["logicalLocations"]}
    assert names == {"module": "net.block.3", "function": "forward"}
    (related,) = full["relatedLocations"]
    assert related["message"]["text"] == "backward"
    other = related["physicalLocation"]["artifactLocation"]
    assert other["uri"].startswith("file:///")
    assert "uriBaseId" not in other
    assert (full["level"], full["occurrenceCount"]) == ("error", 8)
    assert full["properties"]["evidence"]["ratio"] == "nan"
    assert full["properties"]["evidence"]["worst"] == [1.0, "inf"]
    # Without a line of its own, the file of the test that ran into it.
    assert bare["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "tests/test_a.py"
    assert run["tool"]["driver"]["rules"][unknown["ruleIndex"]]["name"] == "NotInventedYet"
    assert run["properties"]["unverified"][0]["subject"] == "aten::mystery"
    assert str(tmp_path) not in json.dumps(run["results"][0]["locations"])


def test_fingerprints_outlive_inserted_lines_and_other_numbers(project, tmp_path):
    def prints(report):
        results = json.loads(write_sarif(report, tmp_path))["runs"][0]["results"]
        return [result["partialFingerprints"]["gradcheckFinding/v1"] for result in results]

    full = project.findings[0]
    lower = Location(full.location.file, 40, full.location.function)
    moved = replace(
        full,
        location=lower,
        message="other numbers",
        count=1,
        excerpts={str(lower): CodeExcerpt(40, ("  return cube(x)",))},
    )
    changed = replace(full, excerpts={str(full.location): CodeExcerpt(12, ("    return cube(x + 1)",))})
    before = prints(project)
    assert prints(replace(project, findings=(moved,))) == before[:1]
    assert prints(replace(project, findings=(changed,))) != before[:1]
    assert len(set(before)) == 3


def test_saving_by_suffix(project, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    import gradcheck_suite.report  # noqa: F401

    path = project.save(tmp_path / "out" / "x.sarif")
    assert Path(path).read_text(encoding="utf-8") == write_sarif(project, tmp_path)

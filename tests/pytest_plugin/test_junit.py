"""Findings as properties of their test in JUnit XML."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from .conftest import Suite


@pytest.mark.parametrize("workers", [0, 2])
def test_properties_of_each_test(suite: Suite, workers: int) -> None:
    suite.scripted()
    suite.write(
        test_a="""
        from scripted import backward, find, unverified

        def test_wrong():
            backward(nodes=5)
            find()
            find("unused-parameter", "GC502", "warning", "no gradient <ever> arrives\\nat all")

        def test_right():
            backward(nodes=2)

        def test_plain():
            pass
        """
    )
    distributed = ("-n", "2") if workers else ()
    suite.run("--gradcheck", "--junitxml=junit.xml", *distributed).assert_outcomes(passed=2, failed=1)
    cases = ElementTree.parse(suite.path / "junit.xml").getroot().iter("testcase")
    properties = {
        case.get("name"): [(p.get("name"), p.get("value")) for p in case.iter("property")] for case in cases
    }
    assert properties == {
        "test_wrong": [
            ("gradcheck.nodes", "5"),
            (
                "gradcheck.finding",
                "error GC101 gradient-mismatch test_a.py:5: "
                "the backward of Cube disagrees with the derivative of its forward",
            ),
            (
                "gradcheck.finding",
                "warning GC502 unused-parameter test_a.py:6: no gradient <ever> arrives",
            ),
        ],
        "test_right": [("gradcheck.nodes", "2")],
        "test_plain": [],
    }

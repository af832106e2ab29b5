"""Every planted lie is caught by the witness that is responsible for it, and blamed on the line that tells it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lies import LIES, Lie

from gradcheck_suite import Finding, Severity, check_gradients, watch

HERE = Path(__file__).with_name("lies.py")
LINES = {
    text.rsplit("# lie: ", 1)[1].strip(): number
    for number, text in enumerate(HERE.read_text(encoding="utf-8").splitlines(), 1)
    if "# lie: " in text
}
CODES = {"engine": "GC101", "sum": "GC101", "graph": "GC501"}


def guilty(findings: tuple[Finding, ...], lie: Lie) -> list[Finding]:
    """The findings that say what there is to say about this lie."""
    return [f for f in findings if f.code == CODES[lie.witness] and f.severity == lie.severity]


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.name)
def test_is_caught_and_blamed_on_its_line(lie: Lie) -> None:
    report = check_gradients(lie.function, lie.inputs())
    found = guilty(report.findings, lie)
    assert found, str(report)
    assert report.ok is (lie.severity < Severity.ERROR)
    for finding in found:
        assert finding.location is not None
        assert (Path(finding.location.file).name, finding.location.line) == ("lies.py", LINES[lie.name])
        if lie.witness != "graph":
            assert finding.evidence["witness"] == lie.witness
            assert finding.evidence["differing"] >= 1


@pytest.mark.parametrize("lie", [x for x in LIES if x.witness != "graph"], ids=lambda lie: lie.name)
def test_is_caught_by_a_watcher_too(lie: Lie) -> None:
    """``watch`` sees every backward that a program runs; what flows around autograd is not in any backward."""
    inputs = [tensor.requires_grad_() for tensor in lie.inputs()]
    with watch() as session:
        output = lie.function(*inputs)
        generator = torch.Generator().manual_seed(5)
        output.backward(torch.randn(output.shape, dtype=output.dtype, generator=generator))
    assert not session.internal_errors
    found = guilty(session.report.findings, lie)
    assert found, str(session.report)
    assert {f.location.line for f in found if f.location is not None} == {LINES[lie.name]}


def test_only_the_element_that_is_wrong_is_accused() -> None:
    lie = next(x for x in LIES if x.name == "one element of 100,000")
    report = check_gradients(lie.function, lie.inputs())
    (finding,) = guilty(report.findings, lie)
    assert finding.evidence["element"] == [777, 77]
    assert (finding.evidence["differing"], finding.evidence["elements"]) == (1, 100_000)


def test_there_are_lies_enough_and_each_has_its_own_name() -> None:
    assert len(LIES) >= 30
    assert len({lie.name for lie in LIES}) == len(LIES)
    assert {lie.name for lie in LIES} == set(LINES)

"""Every meaning computes what torch computes: on torch's own samples, or on hand-written ones."""

from __future__ import annotations

import numpy as np
import pytest

from gradcheck_suite.aten import Meaning, known_names, lookup
from gradcheck_suite.engine import ops as e

from .calls import Call, disagreements
from .presence import present_overload
from .sweep import all_calls


def wrong(meaning: Meaning, calls: list[Call]) -> list[str]:
    """What is wrong with a meaning; that nothing was compared is wrong as well."""
    if not calls:
        return [f"{meaning.name}: no sample reaches it. Add one to hand_calls.py."]
    return [text for call in calls for text in disagreements(meaning, call)]


@pytest.mark.parametrize("name", known_names())
def test_value(name: str) -> None:
    meaning = lookup(name)
    assert meaning is not None
    present_overload(name)
    assert not wrong(meaning, all_calls().get(name, []))


def test_derived_overloads_compute_what_torch_computes() -> None:
    derived = {
        name: meaning
        for name in all_calls()
        if (meaning := lookup(name)) is not None and meaning.base != name
    }
    assert len(derived) > 25
    assert {meaning.mode for meaning in derived.values()} >= {"inplace", "functional"}
    assert not [text for name, meaning in derived.items() for text in wrong(meaning, all_calls()[name])]


def test_a_wrong_meaning_is_caught() -> None:
    sine = lookup("aten::sin")
    assert sine is not None
    for function in (lambda self: e.sin(self) * (1 + 1e-6), lambda self: e.reshape(self, shape=(1, -1))):
        lie = Meaning("aten::sin", function, "functional", False, "lies", "here:1", "aten::sin")
        assert wrong(lie, all_calls()["aten::sin"])


def test_a_meaning_without_samples_is_caught() -> None:
    sine = lookup("aten::sin")
    assert sine is not None
    assert wrong(sine, [])


def test_samples_are_many() -> None:
    sizes = [len(calls) for name, calls in all_calls().items() if lookup(name) is not None]
    assert np.sum(sizes) > 1500

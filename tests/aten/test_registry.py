"""The table of meanings: declaring, looking up, deriving."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from gradcheck_suite import aten
from gradcheck_suite.aten import (
    RECORDED,
    DuplicateMeaningError,
    Meaning,
    known_names,
    lookup,
    meaning,
    registry,
)
from gradcheck_suite.engine import Tensor, grad


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> dict[str, Meaning]:
    """A copy of the table to write to."""
    known_names()
    copy = dict(registry._MEANINGS)
    monkeypatch.setattr(registry, "_MEANINGS", copy)
    return copy


def test_a_user_declares_a_meaning(table: dict[str, Meaning]) -> None:
    @meaning("mylib::cube")
    def cube(self: Any) -> Any:
        return self * self * self

    found = lookup("mylib::cube")
    assert found is not None
    assert (found.mode, found.uses_outputs, found.family) == ("functional", False, "test_registry")
    assert "mylib::cube" in known_names()
    x = Tensor([2.0], requires_grad=True)
    assert grad(found.function(x), x, Tensor([1.0]))[0].data == pytest.approx(12.0)


def test_a_user_overload_derives_its_in_place_twin(table: dict[str, Meaning]) -> None:
    meaning("mylib::cube.Tensor")(lambda self: self * self * self)
    found = lookup("mylib::cube_.Tensor")
    assert found is not None
    assert (found.mode, found.base) == ("inplace", "mylib::cube.Tensor")


def test_duplicates_are_refused_naming_both_places(table: dict[str, Meaning]) -> None:
    with pytest.raises(DuplicateMeaningError) as caught:
        meaning("aten::addmm")(lambda self: self)
    text = str(caught.value)
    assert "aten::addmm" in text
    assert "matmul.py:" in text
    assert "test_registry.py:" in text


def test_names_are_checked(table: dict[str, Meaning]) -> None:
    with pytest.raises(ValueError, match=r'has no namespace.*Write "aten::add"'):
        meaning("add")(lambda self: self)
    with pytest.raises(ValueError, match="no overload was named"):
        meaning()


def test_unknown_overloads_have_no_meaning() -> None:
    assert lookup("aten::no_such_operation") is None
    assert lookup("mylib::no_such_operation_") is None
    assert lookup("aten::as_strided") is None  # needs memory geometry: the replay's business


@pytest.mark.parametrize(
    ("name", "base", "mode"),
    [
        ("aten::add.Tensor", "aten::add.Tensor", "functional"),
        ("aten::add_.Tensor", "aten::add.Tensor", "inplace"),
        ("aten::add.out", "aten::add.Tensor", "out"),
        ("aten::div.out_mode", "aten::div.Tensor_mode", "out"),
        ("aten::exp.out", "aten::exp", "out"),
        ("aten::relu_", "aten::relu", "inplace"),
        ("aten::zero_", "aten::zero", "inplace"),
        ("aten::fill_.Scalar", "aten::fill.Scalar", "inplace"),
        ("aten::copy_", "aten::copy_", "inplace"),
        ("aten::transpose_", "aten::transpose.int", "inplace"),
        ("aten::squeeze_.dim", "aten::squeeze.dim", "inplace"),
        ("aten::sum.IntList_out", "aten::sum.dim_IntList", "out"),
        ("aten::where.self_out", "aten::where.self", "out"),
        ("aten::max.dim_max", "aten::max.dim", "out"),
        ("aten::view_copy", "aten::view", "functional"),
        ("aten::split_with_sizes_copy", "aten::split_with_sizes", "functional"),
        ("aten::_to_copy", "aten::_to_copy", "functional"),
        ("aten::_unsafe_view", "aten::_unsafe_view", "functional"),
        ("aten::_index_put_impl_", "aten::_index_put_impl_", "inplace"),
        ("aten::bernoulli_.float", "aten::bernoulli_.float", "inplace"),
    ],
)
def test_derivation(name: str, base: str, mode: str) -> None:
    found = lookup(name)
    assert found is not None
    assert (found.name, found.base, found.mode) == (name, base, mode)


def test_recorded_says_its_name() -> None:
    assert repr(RECORDED) == "RECORDED"
    assert lookup("aten::native_dropout").uses_outputs  # type: ignore[union-attr]


def test_recorded_outputs_are_asked_for_by_exactly_those_who_declare_it() -> None:
    for name in known_names():
        found = lookup(name)
        assert found is not None
        assert ("recorded" in inspect.signature(found.function).parameters) == found.uses_outputs, name


def test_meanings_import_no_torch() -> None:
    for name in known_names():
        function = lookup(name).function  # type: ignore[union-attr]
        assert "torch" not in function.__globals__, name


def test_announced_modules_are_loaded(monkeypatch: pytest.MonkeyPatch, table: dict[str, Meaning]) -> None:
    class Announced:
        def load(self) -> Any:
            return lambda: meaning("mylib::announced")(lambda self: self)

    asked = []

    def entry_points(*, group: str) -> list[Announced]:
        asked.append(group)
        return [Announced()]

    monkeypatch.setattr(aten, "entry_points", entry_points)
    monkeypatch.setattr(aten, "_loaded", [])
    assert lookup("mylib::announced") is not None
    assert lookup("mylib::announced") is not None
    assert asked == ["gradcheck_suite.meanings"]

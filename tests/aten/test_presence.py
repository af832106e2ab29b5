"""Only what another package or a newer torch would register may be missing."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from . import presence
from .presence import excuse, exists, present_overload


def test_what_is_there_needs_no_excuse() -> None:
    assert exists("aten::add.Tensor")
    assert excuse("aten::add.Tensor") is None
    assert present_overload("aten::add.Tensor")._schema.name == "aten::add"


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(presence.REGISTERED_BY, "nowhere", "no_such_package.ops")
    assert excuse("nowhere::op") == "nowhere::op needs no_such_package, which is not installed"
    with pytest.raises(pytest.skip.Exception, match="no_such_package"):
        present_overload("nowhere::op")


def test_an_older_torch_is_named() -> None:
    assert (
        excuse("aten::no_such_operation", "2.8.0+cpu") == "aten::no_such_operation is not in torch 2.8.0+cpu"
    )


def test_an_older_form_is_named() -> None:
    assert excuse("aten::_fused_rms_norm", "2.8.1") == "aten::_fused_rms_norm has another form in torch 2.8.1"
    assert excuse("aten::_fused_rms_norm", "2.15.0") is None


@pytest.mark.parametrize("version", ["2.15.0", "2.16.0a0", "3.0.1"])
def test_from_the_newest_torch_on_a_missing_overload_is_a_mistake(version: str) -> None:
    assert excuse("aten::no_such_operation", version) is None
    assert excuse("aten::add.NoSuchOverload", version) is None


def test_an_installed_package_excuses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_spec("numpy") is not None
    monkeypatch.setitem(presence.REGISTERED_BY, "nowhere", "numpy")
    assert excuse("nowhere::op", "2.8.0") is None
    with pytest.raises(AttributeError):
        present_overload("nowhere::op")

"""Waiting for torch to be imported, with a small module in its place."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
from pytest_gradcheck import arrival


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = "stand_in_for_torch"
    (tmp_path / f"{name}.py").write_text("value = 7\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(arrival, "_NAME", name)
    yield name
    sys.modules.pop(name, None)


def test_calls_back_once_when_the_import_is_done(stand_in: str) -> None:
    seen = []
    before = list(sys.meta_path)
    with arrival.TorchArrival(lambda: seen.append(sys.modules[stand_in].value)):
        assert not arrival.torch_is_here()
        importlib.import_module("json.tool")
        assert seen == []
        assert importlib.import_module(stand_in).value == 7
        assert seen == [7]
        assert sys.meta_path == before
        importlib.reload(sys.modules[stand_in])
    assert seen == [7]
    assert arrival.torch_is_here()
    assert sys.meta_path == before


def test_leaves_nothing_behind_when_it_never_comes(stand_in: str) -> None:
    before = list(sys.meta_path)
    with arrival.TorchArrival(lambda: pytest.fail("nothing was imported")):
        assert sys.meta_path != before
    assert sys.meta_path == before
    assert importlib.import_module(stand_in).value == 7

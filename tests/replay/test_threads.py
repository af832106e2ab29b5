"""OpenBLAS gets its threads back, whoever leaves last and however."""

from __future__ import annotations

import threading
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from threadpoolctl import ThreadpoolController

from gradcheck_suite import check_gradients
from gradcheck_suite.errors import ModelError
from gradcheck_suite.replay.threads import few_threads, one_thread

np.ones((2, 2)) @ np.ones((2, 2))


def threads() -> list[int]:
    return [
        entry["num_threads"] for entry in ThreadpoolController().info() if entry["internal_api"] == "openblas"
    ]


def test_one_thread_while_it_lasts() -> None:
    before = threads()
    with one_thread():
        assert set(threads()) <= {1}
        with one_thread():
            assert set(threads()) <= {1}
        assert set(threads()) <= {1}
    assert threads() == before


def test_the_last_thread_to_leave_puts_them_back() -> None:
    before = threads()
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with one_thread():
            inside.set()
            leave.wait(30)

    thread = threading.Thread(target=other)
    thread.start()
    with one_thread():
        assert inside.wait(30)
    assert set(threads()) <= {1}
    leave.set()
    thread.join()
    assert threads() == before


def test_large_models_keep_theirs() -> None:
    assert isinstance(few_threads(10.0), nullcontext)


def test_a_check_leaves_them_as_they_were_also_when_the_model_raises() -> None:
    before = threads()
    x = torch.ones(3, requires_grad=True)
    assert check_gradients(torch.sin, x).ok
    assert threads() == before

    def refusing(x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("not today")

    with pytest.raises(ModelError):
        check_gradients(refusing, x)
    assert threads() == before

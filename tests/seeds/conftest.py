"""The scripts of `examples/seeds` are imported by their own names, as they import each other."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "examples" / "seeds"

if str(SCRIPTS) not in sys.path:
    sys.path.append(str(SCRIPTS))


@pytest.fixture(autouse=True)
def unchanged_modes() -> Iterator[None]:
    """Examples seed generators and switch recording; neither reaches the next test, and a leak is a failure."""
    import torch

    from gradcheck_suite import engine

    with torch.random.fork_rng():
        yield
    left = (torch.is_grad_enabled(), engine.is_grad_enabled())
    torch.set_grad_enabled(True)
    engine.set_grad_enabled(True)
    assert left == (True, True)
